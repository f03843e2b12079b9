"""A write that is killed, or has no room, leaves the old file or the new one, and never a half."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from nursery import die_after, lines_of
from samples import MOLECULE, TOMOGRAM, elf_model

from napari_vox3d.formats import (
    PICK_FORMATS,
    read_pick_collection,
    read_picks,
    read_volumes,
    write_pick_collection,
    write_picks,
    write_volume,
)
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
SHAPE = (20, 30, 40)
NOBODY = 65534
# Several files, each of which is old or new.
SEVERAL = ("copick-project",)
WITHOUT = () if find_spec("copick") else SEVERAL


def values(version):
    return np.random.default_rng(version).random(SHAPE).astype("f4")


def volume(name):
    def write(folder, version):
        write_volume(folder / name, Volume(values(version), 10.0))

    return write, lambda folder: _sums(folder / name)


def crystal(name, quantity="electron density", unit="e/Å³"):
    def write(folder, version):
        about = {"quantity": quantity, "unit": unit, "atoms": MOLECULE}
        write_volume(
            folder / name, Volume.on_lattice(values(version), MOLECULE.cell.array, **about)
        )

    return write, lambda folder: _sums(folder / name)


def _sums(path):
    return [round(float(np.asarray(one.values, float).sum()), 2) for one in read_volumes(path)]


def some_picks(version, classes=("a", "b"), tomogram="TS_01"):
    rng = np.random.default_rng(version)
    count = 40 + 5 * version
    return Picks.from_indices(
        rng.uniform(5, 40, (count, 3)), rng.choice(classes, count), scores=rng.random(count),
        radii=np.full(count, 60.0), angles=rng.uniform(0, 90, (count, 3)), voxel_size=10,
        shape=TOMOGRAM.shape, tomogram=tomogram,
    )  # fmt: skip


def picks(format):
    known = PICK_FORMATS[format]
    classes = ("a", "b") if known.classes in ("names", "numbers") else ("a",)

    def path(folder):
        return folder / f"TS_01{known.suffix}"

    def write(folder, version):
        write_picks(path(folder), some_picks(version, classes), format)

    def look(folder):
        found = read_picks(path(folder), TOMOGRAM, format)
        return [len(found), round(float(found.positions.sum()), -1)]

    return write, look


def collection(format):
    def path(folder):
        return folder / f"all{PICK_FORMATS[format].suffix}"

    def write(folder, version):
        several = [some_picks(version, tomogram=f"TS_0{n}") for n in (1, 2)]
        write_pick_collection(path(folder), several, format)

    return write, lambda folder: [len(one) for one in read_pick_collection(path(folder))]


def model():
    def write(folder, version):
        elf_model(version).save(folder / "model")

    def look(folder):
        from napari_vox3d.models import load_model

        network = load_model(folder / "model").network()
        return round(sum(float(value.sum()) for value in network.state_dict().values()), 2)

    return write, look


def checkpoint():
    def parts(version):
        import torch

        torch.manual_seed(version)
        network = torch.nn.Linear(50, 50)
        return network, torch.optim.Adam(network.parameters())

    def write(folder, version):
        from napari_vox3d.training.checkpoints import save_checkpoint

        save_checkpoint(folder / "state.safetensors", *parts(version), 0, 10 + version, 1.0)

    def look(folder):
        from napari_vox3d.training.checkpoints import resume_checkpoint

        network, optimizer = parts(9)
        done, _ = resume_checkpoint(folder / "state.safetensors", network, optimizer, 0)
        return [done, round(float(network.weight.sum()), 3)]

    return write, look


def review():
    def write(folder, version):
        from napari_vox3d.curation import Review
        from napari_vox3d.curation.saved import keep

        one = Review(some_picks(0))
        for number in range(10 + version):
            one.decide(number, "rejected")
        keep(folder / "reviews" / "review.json", one)

    def look(folder):
        from napari_vox3d.curation.saved import kept_rows

        rows = kept_rows(folder / "reviews" / "review.json")
        return [len(rows), sum(row["state"] == "rejected" for row in rows)]

    return write, look


FAMILIES = {
    "MRC": volume("a.mrc"),
    "MRC, gzip": volume("a.mrc.gz"),
    "TIFF": volume("a.tif"),
    "OME-TIFF": volume("a.ome.tif"),
    "CHGCAR": crystal("CHGCAR"),
    "CHGCAR, xz": crystal("CHGCAR.xz"),
    "ELFCAR": crystal("ELFCAR", "elf", ""),
    "cube": crystal("a.cube"),
    "XSF": crystal("a.xsf"),
    **{format: picks(format) for format in PICK_FORMATS if format not in WITHOUT},
    "relion5, several tomograms": collection("relion5"),
    "dynamo, several tomograms": collection("dynamo"),
    "model": model(),
    "training checkpoint": checkpoint(),
    "review": review(),
}


def warm():
    """Import all that writing and reading need, so that no child imports."""
    with tempfile.TemporaryDirectory() as place:
        for family in FAMILIES:
            folder = Path(place, family)
            folder.mkdir()
            write(family, folder, 0)
            look(family, folder)


def write(family, folder, version):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FAMILIES[family][0](Path(folder), version)


def look(family, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FAMILIES[family][1](Path(folder))


def learn(family, folder):
    """Write both versions; gives what each looks like, and how many lines the second takes."""
    write(family, folder, 1)
    new = look(family, folder)
    write(family, folder, 0)
    old = look(family, folder)
    return {"old": old, "new": new, "lines": lines_of(write, family, folder, 1)}


def write_and_die(family, folder, lines):
    die_after(lines)
    write(family, folder, 1)


def write_and_be_killed(family, folder, seconds):
    signal.setitimer(signal.ITIMER_REAL, seconds)  # whose signal ends a process that ignores none
    for version in range(1, 1 << 20):
        write(family, folder, 1 + version % 2)


def write_little(family, folder, most):
    """Write where a file may be so long; beyond, writing fails as on a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    write(family, folder, 1)


def write_as_nobody(family, folder):
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    write(family, folder, 1)


def leftovers(folder):
    return [path.name for path in folder.rglob("*.part")]


def done(life):
    assert life.ended_well, life.error or f"signal {life.signal}"
    assert not life.refused, life.refused
    return life.answer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_write_leaves_the_old_file_or_the_new(nursery, long, cases, tmp_path, family):
    known = done(nursery.do(learn, family, tmp_path))
    assert known["old"] != known["new"]
    lines, rng = known["lines"], random.Random(family)
    # Around the end files take each other's place.
    late = [max(0, lines - n) for n in (range(40) if long else (3, 9))]
    for moment in late + [rng.randrange(lines) for _ in range(40 if long else 2)]:
        done(nursery.do(write, family, tmp_path, 0))
        life = nursery.do(write_and_die, family, tmp_path, moment)
        assert not life.error
        found = done(nursery.do(look, family, tmp_path))
        ends = (known["old"], known["new"]) if life.signal else (known["new"],)
        assert found in ends or family in SEVERAL, moment
        cases(life)
    done(nursery.do(write, family, tmp_path, 1))
    assert done(nursery.do(look, family, tmp_path)) == known["new"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_write_without_room_leaves_the_old_file(nursery, long, cases, tmp_path, family):
    known = done(nursery.do(learn, family, tmp_path))
    largest = max(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    done(nursery.do(write, family, tmp_path, 0))
    for room in (0, largest // 2, *(range(1, largest, largest // 20) if long else ())):
        life = nursery.do(write_little, family, tmp_path, room)
        assert life.ended_well, life.error
        if life.refused:
            assert any(path.name in life.refused for path in tmp_path.rglob("*")), life.refused
            assert len(life.refused.splitlines()) == 1
            assert done(nursery.do(look, family, tmp_path)) == known["old"] or family in SEVERAL
        else:  # smaller than the old one
            assert done(nursery.do(look, family, tmp_path)) == known["new"]
            done(nursery.do(write, family, tmp_path, 0))
        assert life.refused or room
        assert not leftovers(tmp_path)
        cases(life)


@pytest.fixture
def open_folder():
    """A folder that everybody may enter."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield Path(place)
        for path in Path(place).rglob("*"):
            if path.is_dir():
                path.chmod(0o755)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_that_may_not_be_written_to_is_named(nursery, cases, open_folder, family):
    folder = open_folder / "data"
    folder.mkdir()
    done(nursery.do(write, family, folder, 0))
    old = done(nursery.do(look, family, folder))
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o555)
    life = nursery.do(write_as_nobody, family, folder)
    assert life.ended_well, life.error
    assert "ermission" in life.refused
    assert str(folder) in life.refused
    assert done(nursery.do(look, family, folder)) == old
    cases(life)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_can_be_written_into_an_empty_folder_that_is_closed(
    nursery, cases, open_folder, family
):
    folder = open_folder / "data"
    folder.mkdir(mode=0o555)
    life = nursery.do(write_as_nobody, family, folder)
    assert life.ended_well, life.error
    assert str(folder) in life.refused, life.refused
    cases(life)


@pytest.mark.parametrize("family", ["MRC", "MRC, gzip", "CHGCAR", "TIFF", "relion5", "model"])
def test_whoever_is_killed_at_any_moment_leaves_a_whole_file(
    nursery, long, cases, tmp_path, family
):
    """Also in the midst of a call to the system, which the other test cannot."""
    if not long:
        pytest.skip("only in the long form")
    done(nursery.do(write, family, tmp_path, 1))
    known = [done(nursery.do(look, family, tmp_path))]
    done(nursery.do(write, family, tmp_path, 2))
    known.append(done(nursery.do(look, family, tmp_path)))
    rng = random.Random(family)
    for _ in range(100):
        life = nursery.do(write_and_be_killed, family, tmp_path, rng.uniform(1e-4, 0.1))
        assert life.signal == signal.SIGALRM, life.error
        assert done(nursery.do(look, family, tmp_path)) in known
        cases(life)


@pytest.fixture
def small_disk(tmp_path, long):
    if not long or sys.platform != "linux" or os.getuid():
        pytest.skip("only in the long form, and where disks may be mounted")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "none", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("disks may not be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def tells_of_a_full_disk(life):
    return "No space" in life.refused or "is the disk full?" in life.refused


@pytest.mark.parametrize("family", FAMILIES)
def test_a_full_disk_leaves_the_old_file(nursery, cases, small_disk, family):
    (small_disk / "other").write_bytes(bytes(64 << 10))
    first = nursery.do(write, family, small_disk, 0)
    assert first.ended_well, first.error
    if first.refused:
        assert tells_of_a_full_disk(first)
        (small_disk / "other").unlink()
        assert not leftovers(small_disk)
        return
    old = done(nursery.do(look, family, small_disk))
    with (small_disk / "other").open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 10))
    life = nursery.do(write, family, small_disk, 1)
    assert life.ended_well, life.error
    assert tells_of_a_full_disk(life)
    assert done(nursery.do(look, family, small_disk)) == old
    assert not leftovers(small_disk)
    cases(life)
