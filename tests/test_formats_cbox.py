import numpy as np
import pytest
import starfile

from napari_vox3d.errors import FormatError
from napari_vox3d.formats import read_picks, write_picks
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

INDICES = np.array([[0, 0, 0], [43.25, 135, 83], [1.25, 100.5, 7.75]])
HEAD = "data_global\n\n_cbox_format_version   1.0 \n\ndata_cryolo\n\nloop_\n"
COLUMNS = "CoordinateX CoordinateY CoordinateZ Width Height Depth EstWidth EstHeight Confidence"


def tomogram():
    return Volume(np.zeros((44, 136, 84), "f4"), 10.0, name="TS_01")


def text(*rows, columns=COLUMNS):
    names = "".join(f"_{name} #{n}\n" for n, name in enumerate(columns.split(), 1))
    return HEAD + names + "\n".join(rows) + "\n\ndata_cryolo_include\n\nloop_\n_slice_index #1\n"


def test_boxes_as_boxmanager_writes_them(tmp_path):
    path = tmp_path / "p.cbox"
    rows = ("12.25 27.5 50.0 25.0 20.0 25.0 <NA> <NA> <NA>", "65 39 60 25 20 25 <NA> <NA> 0.5")
    path.write_text(text(*rows))
    found = read_picks(path, tomogram())
    np.testing.assert_allclose(found.indices, [[50, 37.5, 24.75], [60, 49, 77.5]])
    np.testing.assert_array_equal(found.scores, [np.nan, 0.5])
    assert found.radii is None


def test_boxmanager_finds_what_is_written(tmp_path):
    one = Picks.from_indices(
        INDICES, "a", voxel_size=10, radii=[50, 60, 70], scores=[0.5, np.nan, 1]
    )
    (path,) = write_picks(tmp_path / "p.cbox", one)
    blocks = starfile.read(path, always_dict=True)
    assert list(blocks) == ["global", "cryolo", "cryolo_include"]
    table = blocks["cryolo"]
    centres = np.column_stack([
        table["CoordinateX"] + table["Width"] / 2,
        table["CoordinateY"] + table["Height"] / 2,
        table["CoordinateZ"],
    ])  # fmt: skip
    np.testing.assert_allclose(centres, INDICES[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(table["Width"], [10, 12, 14])
    assert blocks["cryolo_include"]["slice_index"].tolist() == [0, 1, 43]
    assert path.read_text().count("<NA>") == 1 + 2 * 3
    found = read_picks(path, tomogram())
    np.testing.assert_allclose(found.radii, [50, 60, 70])
    np.testing.assert_array_equal(found.scores, [0.5, np.nan, 1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("10 20 30 40 0.5\n", "is not a STAR file"),
        ("data_other\n\n_a 1\n", "no block 'cryolo'"),
        (text("1 2 <NA> 10 10 10 <NA> <NA> 1"), "boxes of a flat image"),
        (text("1 2 3 10 wide 10 <NA> <NA> 1"), "unreadable values"),
        (text("1 2 3", columns="CoordinateX CoordinateY CoordinateZ"), "without corner or width"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "p.cbox"
    path.write_text(content)
    with pytest.raises(FormatError, match=message):
        read_picks(path, tomogram())
    with pytest.raises(FormatError):
        read_picks(path)
