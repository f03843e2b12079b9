import json
from importlib.resources import files

import numpy as np
import pytest
from typer.testing import CliRunner

import napari_vox3d as vox
from napari_vox3d.cli import app
from napari_vox3d.formats import read_atoms

SILICON = """Si2
 1.0
 0.000 2.715 2.715
 2.715 0.000 2.715
 2.715 2.715 0.000
 Si
 2
Direct
 0.00 0.00 0.00
 0.25 0.25 0.25
"""


@pytest.fixture
def run():
    def invoke(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    return invoke


@pytest.fixture
def poscar(tmp_path):
    path = tmp_path / "POSCAR"
    path.write_text(SILICON)
    return path


@pytest.fixture
def tomogram(tmp_path):
    path = tmp_path / "tomo.mrc"
    values = np.random.default_rng(0).normal(size=(40, 48, 56)).astype(np.float32)
    vox.write_volume(path, vox.Volume(values, 10.0))
    return path


def test_info_of_every_kind_of_file(run, poscar, tomogram, tmp_path):
    vox.write_volume(tmp_path / "CHGCAR", vox.superpose_atoms(poscar, spacing=0.4))
    picks = vox.Picks([[10, 20, 30]], "ribosome", 0.5, voxel_size=10, shape=(40, 48, 56))
    vox.write_picks(tmp_path / "picks.csv", picks)
    result = run("info", poscar, tomogram, tmp_path / "CHGCAR", tmp_path / "picks.csv")
    assert result.exit_code == 0, result.output
    for words in ("Si2", "40×48×56", "10, 10, 10 Å", "8.0000", "ribosome"):
        assert words in result.output


def test_bad_file_is_one_line_the_others_go_on_and_the_status_is_2(run, tomogram, tmp_path):
    bad = tmp_path / "bad.mrc"
    bad.write_bytes(b"not a map")
    result = run("info", bad, tomogram)
    assert result.exit_code == 2
    assert "bad.mrc" in result.stderr
    assert "Traceback" not in result.output + result.stderr
    assert "40×48×56" in result.stdout


def test_elf_writes_an_elfcar_on_the_structure(run, poscar, tmp_path):
    target = tmp_path / "ELFCAR"
    result = run("elf", poscar, "-o", target, "--spacing", "0.4", "--model", "promolecule")
    assert result.exit_code == 0, result.output + result.stderr
    elf = vox.read_volume(target)
    assert elf.quantity == "elf"
    assert 0 <= elf.values.min() < elf.values.max() <= 1
    np.testing.assert_allclose(elf.lattice, read_atoms(poscar).cell.array, atol=1e-5)


def test_sad_of_several_structures_goes_to_a_folder(run, poscar, tmp_path):
    other = tmp_path / "POSCAR.second"
    other.write_text(SILICON)
    folder = tmp_path / "out"
    result = run("sad", poscar, other, "-o", folder, "--spacing", "0.4")
    assert result.exit_code == 0, result.output + result.stderr
    assert len(list(folder.iterdir())) == 2
    for path in folder.iterdir():
        density = vox.read_volume(path)
        assert density.values.mean() * density.volume == pytest.approx(8, abs=1e-4)


def test_several_inputs_do_not_overwrite_one_file(run, poscar, tmp_path):
    target = tmp_path / "ELFCAR"
    target.write_text("precious")
    result = run("sad", poscar, poscar, "-o", target)
    assert result.exit_code == 2
    assert target.read_text() == "precious"


@pytest.mark.parametrize("suffix", [".star", ".json", ".csv", ".coords"])
def test_pick_writes_each_format(run, tomogram, tmp_path, suffix):
    target = tmp_path / f"picks{suffix}"
    result = run("pick", tomogram, "-o", target, "--threshold", "0.0")
    assert result.exit_code == 0, result.output + result.stderr
    assert target.exists()


def test_pick_into_a_folder_names_files_after_format_and_tomogram(run, tomogram, tmp_path):
    folder = tmp_path / "picks"
    result = run("pick", tomogram, "-o", folder, "--format", "csv", "--contrast", "bright")
    assert result.exit_code == 0, result.output + result.stderr
    assert [path.name for path in folder.iterdir()] == ["tomo.csv"]


def test_unknown_format_is_refused_before_anything_runs(run, tomogram, tmp_path):
    result = run("pick", tomogram, "-o", tmp_path / "a.star", "--format", "nonsense")
    assert result.exit_code == 2
    assert "relion4" in result.stderr


def test_convert_between_pick_formats_keeps_positions(run, tomogram, tmp_path):
    picks = vox.Picks([[105, 203, 307], [11, 22, 33]], "ribosome", [0.5, 0.25], voxel_size=10,
                      shape=(40, 48, 56), tomogram="tomo")  # fmt: skip
    vox.write_picks(tmp_path / "a.csv", picks)
    result = run("convert", tmp_path / "a.csv", tmp_path / "b.star", "--volume", tomogram)
    assert result.exit_code == 0, result.output + result.stderr
    again = vox.read_picks(tmp_path / "b.star", vox.read_volume(tomogram))
    np.testing.assert_allclose(again.positions, picks.positions, atol=1e-2)


def test_convert_volume(run, tomogram, tmp_path):
    result = run("convert", tomogram, tmp_path / "copy.rec")
    assert result.exit_code == 0, result.output + result.stderr
    np.testing.assert_array_equal(
        vox.read_volume(tmp_path / "copy.rec").values, vox.read_volume(tomogram).values
    )


def test_models_are_listed_and_shown(run):
    result = run("models")
    assert result.exit_code == 0
    assert "promolecule" in result.output
    card = json.loads(run("models", "promolecule").output)
    assert card["name"] == "promolecule"


@pytest.mark.parametrize("model", ["no-such-model", "/no/such/folder"])
def test_unknown_model_is_one_line(run, poscar, model):
    result = run("elf", poscar, "--model", model)
    assert result.exit_code == 2
    assert model in result.stderr.replace("\n", "")


def test_unreadable_threshold_says_how(run, tomogram):
    result = run("pick", tomogram, "--threshold", "ribosome:0.5")
    assert result.exit_code == 2
    assert "CLASS=NUMBER" in result.stderr


def test_sample_tomogram_from_shell_to_picks(run, tmp_path):
    sample = files("napari_vox3d.gui") / "sample_data" / "simulated_tomogram.mrc"
    result = run("pick", sample, "-o", tmp_path / "picks.star")
    assert result.exit_code == 0, result.output + result.stderr
    assert len(vox.read_picks(tmp_path / "picks.star", vox.read_volume(str(sample)))) > 5
