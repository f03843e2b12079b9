"""What damaged and hostile files may do: nothing but be refused, or read, in little memory."""

import hashlib
import io
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from hostile import HOSTILE
from samples import SAMPLES

from napari_vox3d import models
from napari_vox3d.density.elfnet_tables import superpose_elfnet_tables
from napari_vox3d.errors import FormatError, Vox3dError
from napari_vox3d.formats import read_picks, read_volumes, write_volume
from napari_vox3d.training.checkpoints import resume_checkpoint
from napari_vox3d.training.elf_shards import read_shard
from napari_vox3d.volume import Volume

EACH = 6  # damaged files of a format; `make soak` reads 10,000 in all
MEGABYTE = 1 << 20


@pytest.mark.parametrize("format", sorted(SAMPLES))
def test_damaged_files_are_read_or_refused_in_a_sentence(reader, format):
    results = [reader(format, seed) for seed in range(EACH)]
    wrong = [f"{format} {one['seed']}: {one['said']}" for one in results
             if one["outcome"] == "wrong"]  # fmt: skip
    assert not wrong, "\n".join(wrong)
    assert max(one["memory"] for one in results) < 300 * MEGABYTE
    assert max(one["seconds"] for one in results) < 5


# What is passed over, not kept, may be as long as it likes.
HARMLESS = ["mrc_with_half_a_gigabyte_of_extended_header map.mrc.gz"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_before_they_take_memory(reader, name):
    result = reader("hostile", name)
    wanted = "read" if name in HARMLESS else "refused"
    assert result["outcome"].startswith(wanted), result["said"]
    assert result["memory"] < 700 * MEGABYTE


class Runs:
    """Pickles as a call that makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return path


def array_file(array, **options):
    stored = io.BytesIO()
    np.save(stored, array, **options)
    return stored.getvalue()


def test_a_pickle_runs_nowhere(tmp_path):
    """Each file would make the marker if it were unpickled as usual; the last line proves it."""
    marker = tmp_path / "marker"
    evil = pickle.dumps({"state_dict": Runs(marker), "r_grid_bohr": Runs(marker)})
    zipped(tmp_path / "x.pt", x__data_pkl=evil)
    for name in ("old.pt", "x.ckpt", "x.pth"):
        (tmp_path / name).write_bytes(evil)
    for name in ("x.pt", "old.pt", "x.ckpt", "x.pth"):
        with pytest.raises(Vox3dError):
            models.load_model(tmp_path / name)
    (tmp_path / "H.pkl").write_bytes(evil)
    with pytest.raises(Vox3dError):
        superpose_elfnet_tables(Atoms("H", cell=[2, 2, 2]), (2, 2, 2), tmp_path)
    array = array_file(np.array([Runs(marker)], object), allow_pickle=True)
    zipped(tmp_path / "x.zip", crystals_json="[]", elf_npy=array, change_npy=array)
    with pytest.raises(FormatError):
        list(read_shard(tmp_path / "x.zip"))
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(evil)) + evil)
    with pytest.raises(Vox3dError):
        resume_checkpoint(tmp_path / "x.safetensors", None, None, 0)
    for name in ("x.npy", "x.tloc", "x.pkl", "map.mrc", "x.json", "p.star", "POSCAR", "x.tif"):
        (tmp_path / name).write_bytes(array if name == "x.npy" else evil)
        for read in (read_volumes, read_picks):
            with pytest.raises(Vox3dError):
                read(tmp_path / name)
    assert not marker.exists()
    pickle.loads(evil)
    assert marker.exists()


def test_shipped_weights_are_those_of_their_cards():
    shipped = [model for model in models.installed_models() if model.shipped]
    assert shipped
    for model in shipped:
        if model.card.network is None:
            continue
        (weights,) = (file for file in model.files if file.suffix == ".safetensors")
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == model.card.sha256


def test_one_changed_bit_of_the_weights_is_noticed(tmp_path):
    from samples import elf_model

    elf_model().save(tmp_path / "model")
    weights = tmp_path / "model" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(Vox3dError, match=r"model.weights.safetensors: .*not the ones of the card"):
        models.load_model(tmp_path / "model").network()


def test_a_damaged_chunk_is_told_of_when_it_is_read(tmp_path):
    name = SAMPLES["OME-Zarr"][0](tmp_path)
    (volume,) = read_volumes(tmp_path / name)
    (tmp_path / name / "1" / "0" / "0" / "0").write_bytes(b"x") if (
        tmp_path / name / "1" / "0" / "0"
    ).is_dir() else (tmp_path / name / "1" / "0.0.0").write_bytes(b"x")
    with pytest.raises(FormatError, match=r"TS_01\.zarr"):
        np.asarray(volume.values[0])
    assert np.asarray(volume.values[4:]).shape == (4, 8, 8)


def test_what_an_error_quotes_stays_one_line(tmp_path):
    (tmp_path / "p.coords").write_text("1 2 " + "x\x07" * 50_000 + "\n")
    with pytest.raises(FormatError) as caught:
        read_picks(tmp_path / "p.coords", Volume(np.zeros((2, 2, 2)), 1))
    text = str(caught.value)
    assert len(text) < 500 + len(str(tmp_path))
    assert text.isprintable()
    assert "p.coords, line 1" in text


def test_a_file_of_a_common_kind_may_be_large_and_empty(tmp_path):
    """Masks are mostly zeros, and shrink to a thousandth."""
    mask = Volume(np.zeros((64, 512, 512), "i1"), 10)
    write_volume(tmp_path / "mask.mrc.gz", mask)
    (found,) = read_volumes(tmp_path / "mask.mrc.gz")
    assert found.shape == mask.shape


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_project_may_be_laid_together_with_links(tmp_path):
    project = tmp_path / "project"
    (tmp_path / "disk").mkdir()
    (project / "Extract").mkdir(parents=True)
    (project / "Extract" / "job001").symlink_to(tmp_path / "disk")
    SAMPLES["STAR"][0](tmp_path / "disk")
    (project / "optimisation_set.star").write_text(
        "data_\n\n_rlnTomoParticlesFile Extract/job001/p.star\n"
    )
    assert len(read_picks(project / "optimisation_set.star")) == 3
