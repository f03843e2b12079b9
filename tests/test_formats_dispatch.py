import bz2
import gzip
import lzma
import os
from pathlib import Path

import numpy as np
import pytest

from napari_vox3d.errors import Cancelled, FormatError
from napari_vox3d.formats import (
    kind_of,
    read_atoms,
    read_picks,
    read_volume,
    read_volumes,
    write_aside,
    write_picks,
    write_volume,
)
from napari_vox3d.formats.compression import create_bytes, open_bytes, plain_name
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

POSCAR = """NaCl
1.0
5 0 0
0 5 0
0 0 5
Na Cl
1 1
Direct
0 0 0
0.5 0.5 0.5
"""
GRID = "\n 2 2 2\n" + " 1.0 2.0 3.0 4.0 5.0\n 6.0 7.0 8.0\n"
READERS = [read_volumes, read_volume, read_picks, read_atoms, kind_of]


def volume():
    return Volume(np.arange(24, dtype="f4").reshape(2, 3, 4), 10.0)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_one_clear_error(tmp_path, reader):
    with pytest.raises(FormatError, match="does not exist"):
        reader(tmp_path / "missing.mrc")
    with pytest.raises(FormatError, match="is a folder"):
        reader(tmp_path)
    empty = tmp_path / "empty.mrc"
    empty.touch()
    with pytest.raises(FormatError, match="is empty"):
        reader(empty)


def test_no_permission_is_one_clear_error(tmp_path, monkeypatch):
    path = tmp_path / "secret.mrc"
    write_volume(path, volume())
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may read everything
    with pytest.raises(FormatError, match="permission denied"):
        read_volume(path)


def test_unknown_kinds_name_the_known_ones(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary,\n")
    for reader in (read_volume, kind_of, read_atoms):
        with pytest.raises(FormatError, match=r"of no known kind.*\.mrc.*CHGCAR.*\.star"):
            reader(path)
    with pytest.raises(FormatError, match=r"not a known pick file.*\.star"):
        read_picks(path)
    with pytest.raises(FormatError, match=r"not have the name of a volume file.*\.mrc.*\.cube"):
        write_volume(path, volume())


def test_content_is_asked_where_the_name_says_nothing(tmp_path):
    write_volume(tmp_path / "a.mrc", volume())
    for name in ("a.dat", "noname", "a.vasp"):
        path = tmp_path / name
        path.write_bytes((tmp_path / "a.mrc").read_bytes())
        assert kind_of(path) == "volume"
        np.testing.assert_array_equal(read_volume(path).values, volume().values)


@pytest.mark.parametrize("name", ["NaCl.vasp", "POSCAR", "CONTCAR", "data"])
def test_a_structure_is_no_volume(tmp_path, name):
    path = tmp_path / name
    path.write_text(POSCAR)
    assert kind_of(path) == "structure"
    with pytest.raises(FormatError, match=r"holds a structure and no grid.*vox3d elf"):
        read_volumes(path)


@pytest.mark.parametrize(
    "after",
    [
        "",
        "\n 0 0 0\n 0 0 0\n",
        "\n  0.1E-02  0.2E-02  0.3E-02\n  0.1  0.2  0.3\n",
        "\n 1 2 1\n 3 4 5\n",
    ],
)
def test_whole_positions_and_velocities_are_no_grid(tmp_path, after):
    path = tmp_path / "NaCl.vasp"
    path.write_text(POSCAR.replace("0.5 0.5 0.5", "1 1 1") + after)
    assert kind_of(path) == "structure"
    assert len(read_atoms(path)) == 2


def test_a_vasp_file_with_a_grid_is_a_volume(tmp_path):
    for name in ("SAD.vasp", "CHGCAR.spin", "Fe_CHGCAR", "CHGCAR_slash", "ELFCAR", "data"):
        path = tmp_path / name
        path.write_text(POSCAR + GRID)
        assert kind_of(path) == "volume", name
        assert read_volume(path).shape == (2, 2, 2), name
        assert len(read_atoms(path)) == 2, name


def test_suffixes_match_in_any_case(tmp_path):
    for name in ("a.MRC", "b.Rec", "c.map.GZ"):
        write_volume(tmp_path / name, volume())
        np.testing.assert_array_equal(read_volume(tmp_path / name).values, volume().values)


def test_kinds_are_not_mixed_up(tmp_path):
    frame = {"voxel_size": 1.0, "shape": (2, 3, 4)}
    write_picks(tmp_path / "p.star", Picks([[0, 0, 0]], "a", **frame))
    write_volume(tmp_path / "v.mrc", volume())
    assert kind_of(tmp_path / "p.star") == "picks"
    with pytest.raises(FormatError, match="picks and no grid"):
        read_volumes(tmp_path / "p.star")
    for name in ("p.star", "v.mrc"):
        with pytest.raises(FormatError, match="holds no atoms"):
            read_atoms(tmp_path / name)


def test_a_binary_file_with_the_name_of_a_text(tmp_path):
    for name in ("p.csv", "p.star", "p.json", "p.coords"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00\x81" * 30)
        with pytest.raises(FormatError):
            read_picks(tmp_path / name, volume())


@pytest.mark.parametrize("module", [gzip, bz2, lzma])
def test_compression_is_told_by_content(tmp_path, module):
    path = tmp_path / "name_says_nothing"
    path.write_bytes(module.compress(b"content"))
    with open_bytes(path) as file:
        assert file.read() == b"content"


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz"])
def test_compression_is_written_by_name(tmp_path, suffix):
    path = tmp_path / "aside"
    with create_bytes(path, f"x.mrc{suffix}") as file:
        file.write(b"content" * 100)
    assert (path.read_bytes() == b"content" * 100) == (suffix == "")
    with open_bytes(path) as file:
        assert file.read() == b"content" * 100
    assert plain_name(Path("folder", f"x.mrc{suffix}")) == "x.mrc"


def test_write_aside_is_all_or_nothing(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")

    def write(error):
        with write_aside(target) as aside:
            aside.write_text("new")
            assert target.read_text() == "old"
            if error is not None:
                raise error

    for error in (ValueError("x"), Cancelled("stop")):
        with pytest.raises(type(error)):
            write(error)
        assert target.read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]
    with pytest.raises(FormatError, match=r"cannot be written \(No space left"):
        write(OSError(28, "No space left on device"))
    write(None)
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


def test_write_aside_follows_a_link(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.touch()
    link.symlink_to(real)
    with write_aside(link) as aside:
        aside.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_places_that_cannot_be_written_to(tmp_path):
    with pytest.raises(FormatError, match="folder does not exist"):
        write_volume(tmp_path / "missing" / "a.mrc", volume())
    (tmp_path / "b.mrc").mkdir()
    with pytest.raises(FormatError, match="is a folder"):
        write_volume(tmp_path / "b.mrc", volume())
