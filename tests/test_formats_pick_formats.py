from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from napari_vox3d.errors import FormatError
from napari_vox3d.formats import PICK_FORMATS, kind_of, read_picks, write_picks
from napari_vox3d.formats.pick_formats import pick_format_by_name
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

# Three different edges, odd and even; a wrong axis, centre or index base moves a pick.
VOLUME = Volume(np.zeros((45, 136, 84), "f4"), (12.0, 11.0, 10.0), [100, 200, 300], name="TS_01")
INDICES = np.array([[0, 0, 0], [43.25, 135, 83], [1.25, 100.5, 7.75], [30, 2, 60]])
ANGLES = np.array([[10, 20, 30], [200, 170, -40], [0, 0, 0], [5, 0, 0]])
FORMATS = [n for n in PICK_FORMATS if n != "copick-project" or find_spec("copick")]
OF_SEVERAL_CLASSES = pytest.mark.filterwarnings("ignore:.*classes")


def picks(**fields):
    columns = {"scores": [0.5, 0.25, np.nan, 1.0], "angles": ANGLES, "radii": [50, 60, 70, 80]}
    frame = {"voxel_size": VOLUME.voxel_size, "shape": VOLUME.shape, "tomogram": VOLUME.name}
    return Picks.from_indices(INDICES, ["1", "1", "2", "2"], **frame, **(columns | fields))


def saved(folder, one, name):
    folder.mkdir(exist_ok=True)
    return write_picks(folder / f"p{PICK_FORMATS[name].suffix}", one, name)[0]


@OF_SEVERAL_CLASSES
@pytest.mark.parametrize(("first", "second"), list(product(FORMATS, repeat=2)))
def test_every_pair_of_formats_keeps_positions(tmp_path, first, second):
    there = read_picks(saved(tmp_path / "a", picks(), first), VOLUME, first)
    back = read_picks(saved(tmp_path / "b", there, second), VOLUME, second)
    np.testing.assert_allclose(back.indices, INDICES, atol=1e-3)
    np.testing.assert_allclose(back.positions, INDICES * [12, 11, 10], atol=1e-2)
    assert back.shape == VOLUME.shape
    assert back.tomogram == "TS_01"


@OF_SEVERAL_CLASSES
@pytest.mark.parametrize("name", FORMATS)
def test_formats_hold_what_the_table_says(tmp_path, name):
    known = PICK_FORMATS[name]
    path = saved(tmp_path, picks(), name)
    assert kind_of(path) == "picks"
    again = read_picks(path, VOLUME, name)
    assert np.array_equal(again.scores, picks().scores, equal_nan=True) == (
        known.scores and name != "dynamo"  # which has no sign for a score that is unknown
    )
    assert (again.radii is not None) == known.radii
    if known.radii:
        each = [55, 55, 75, 75] if name == "copick-project" else [50, 60, 70, 80]  # one an object
        np.testing.assert_allclose(again.radii, each, rtol=1e-5)
    assert (again.angles is not None) == known.angles
    if known.angles:
        turns = Rotation.from_euler("ZYZ", again.angles, degrees=True)
        wanted = Rotation.from_euler("ZYZ", ANGLES, degrees=True)
        np.testing.assert_allclose((turns * wanted.inv()).magnitude(), 0, atol=1e-5)
    if known.classes in ("names", "numbers"):
        assert again.labels.tolist() == picks().labels.tolist()
    named = replace(picks(), labels=["apo ferritin", "apo ferritin", "ß-gal", "ß-gal"])
    again = read_picks(saved(tmp_path / "named", named, name), VOLUME, name)
    written = ["apo ferritin", "ß-gal"]
    if name == "copick-project":  # where names have no blanks
        written = ["apo-ferritin", "ß-gal"]
    assert (again.classes == written) == (known.classes == "names")
    lonely = replace(named.select([0, 0]), labels=np.array("ribosome"))
    if known.classes == "one" and name != "portal":  # which keeps it in the name of the file
        again = read_picks(saved(tmp_path / "one", lonely, name), VOLUME, name)
        assert again.classes == ["ribosome"]


@pytest.mark.parametrize("name", FORMATS)
def test_formats_need_what_the_table_says(tmp_path, name):
    of_one_class = replace(picks(), labels=np.array("1"))
    for need, field in (("voxel size", "voxel_size"), ("shape", "shape")):
        lacking = replace(of_one_class, **{field: None})
        if need in PICK_FORMATS[name].needs:
            with pytest.raises(FormatError, match=f"(voxel )?size|{need}"):
                saved(tmp_path, lacking, name)
            assert not list(tmp_path.iterdir())
    for need, field in (("voxel size", "voxel_size"), ("shape", "shape")):
        if need not in PICK_FORMATS[name].needs:
            assert saved(tmp_path, replace(of_one_class, **{field: None}), name).is_file()


@pytest.mark.parametrize("name", FORMATS)
def test_no_picks_are_a_file_of_none(tmp_path, name):
    path = saved(tmp_path, picks().select([]), name)
    if path.stat().st_size:
        assert len(read_picks(path, VOLUME, name)) == 0
    else:
        with pytest.raises(FormatError, match="is empty"):
            read_picks(path, VOLUME, name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("content", [b"not of any format \n", b"\xff\xfe\x00\x81", b"{}", b"[1]"])
def test_what_is_no_pick_file_is_one_sentence(tmp_path, name, content):
    path = tmp_path / f"p{PICK_FORMATS[name].suffix}"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        read_picks(path, VOLUME, name)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@OF_SEVERAL_CLASSES
@pytest.mark.parametrize("name", FORMATS)
def test_a_part_of_a_file_is_no_crash(tmp_path, name):
    path = saved(tmp_path, picks(), name)
    whole = path.read_bytes()
    for end in range(1, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:end])
        with suppress(FormatError):
            assert len(read_picks(path, VOLUME, name)) <= 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.STAR", "relion5"), ("TS_01_info.json", "eman2"), ("info.json", "copick"),
        ("config.json", "copick-project"), ("czii_config.json", "copick-project"),
        ("a.b.tbl", "dynamo"), ("a.txt", "imod-points"), ("a.mrc", None), ("info", None),
    ],
)  # fmt: skip
def test_the_longest_suffix_says_the_format(name, expected):
    assert pick_format_by_name(Path(name)) == expected


def test_a_text_is_looked_into(tmp_path):
    path = tmp_path / "POSCAR.txt"
    path.write_text("Si\n1\n5 0 0\n0 5 0\n0 0 5\nSi\n1\ndirect\n0 0 0\n")
    assert kind_of(path) == "structure"
    path = tmp_path / "points.txt"
    path.write_text("\n1 1 10.5 20.5 3\n" * 8)  # which might be the head of a cube file
    assert kind_of(path) == "picks"
