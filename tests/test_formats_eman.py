import json
from dataclasses import replace

import numpy as np
import pytest

from napari_vox3d.errors import FormatError
from napari_vox3d.formats import read_picks, write_picks
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

SHAPE = (45, 136, 83)
INDICES = np.array([[0, 0, 0], [43.25, 135, 82], [1.25, 100.5, 7.75]])


def tomogram():
    return Volume(np.zeros(SHAPE, "f4"), 10.0, name="TS_01")


def picks(**fields):
    frame = {"voxel_size": 10, "shape": SHAPE}
    columns = {"labels": ["ribosome", "apo", "apo"], "scores": [0.5, np.nan, 0.25]}
    return Picks.from_indices(INDICES, **(frame | columns | fields))


def boxes_as_e2spt_boxer_shows_them(content, volume):
    """Voxels (x, y, z) by the rule of e2spt_boxer."""
    size = np.array(volume.shape)[::-1] // 2
    scale = content["apix_unbin"] / volume.voxel_size[-1]
    return np.array([box[:3] for box in content["boxes_3d"]]) * scale + size


def test_eman_shows_what_is_written(tmp_path):
    unbinned = picks(metadata={"tilt_series_pixel_size": 2.5}, radii=[100, 50, 60])
    (path,) = write_picks(tmp_path / "TS_01_info.json", unbinned)
    content = json.loads(path.read_text())
    assert content["apix_unbin"] == 2.5
    shown = boxes_as_e2spt_boxer_shows_them(content, tomogram())
    np.testing.assert_allclose(shown, INDICES[:, ::-1], atol=1e-6)
    assert [box[3:] for box in content["boxes_3d"]] == [
        ["vox3d", 0.5, 0], ["manual", 0.0, 1], ["vox3d", 0.25, 1],
    ]  # fmt: skip
    assert content["class_list"]["0"] == {"name": "ribosome", "boxsize": 120}
    found = read_picks(path, tomogram())
    np.testing.assert_allclose(found.indices, INDICES, atol=1e-6)
    assert found.labels.tolist() == ["ribosome", "apo", "apo"]
    np.testing.assert_array_equal(found.scores, [0.5, np.nan, 0.25])
    assert found.metadata == {"tilt_series_pixel_size": 2.5}


def test_old_files_count_voxels(tmp_path):
    path = tmp_path / "a_info.json"
    boxes = [[10, 20, 30], [1, 2, 3, "manual"], [4.5, 5, 6, "tm", 0.75, 2]]
    path.write_text(json.dumps({"boxes_3d": boxes, "class_list": {"2": {"name": "apo"}}}))
    found = read_picks(path, tomogram())
    np.testing.assert_array_equal(found.indices, [[30, 20, 10], [3, 2, 1], [6, 5, 4.5]])
    assert found.labels.tolist() == ["particles_00", "particles_00", "apo"]
    np.testing.assert_array_equal(found.scores, [np.nan, np.nan, 0.75])


def test_all_else_in_an_info_file_stays(tmp_path):
    path = tmp_path / "TS_01_info.json"
    before = {
        "apix_unbin": 5.0,
        "tlt_params": [[1, 2, 3]],
        "boxes_3d": [[1, 2, 3, "manual", 0, 4], [4, 5, 6, "tm", 0.5, 1]],
        "class_list": {"1": {"name": "apo", "boxsize": 32}, "4": {"name": "membrane"}},
    }
    path.write_text(json.dumps(before))
    write_picks(path, picks())
    content = json.loads(path.read_text())
    assert content["tlt_params"] == [[1, 2, 3]]
    assert content["apix_unbin"] == 5.0
    assert content["boxes_3d"][0] == [1, 2, 3, "manual", 0, 4]
    assert [box[5] for box in content["boxes_3d"]] == [4, 5, 1, 1]
    assert content["class_list"]["1"] == {"name": "apo", "boxsize": 32}
    assert content["class_list"]["5"] == {"name": "ribosome", "boxsize": 64}
    assert len(read_picks(path, tomogram())) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not an EMAN2 info file"),
        ("{}", "no 'boxes_3d'"),
        ('{"boxes_3d": [[1, 2]]}', "not one of EMAN2's|without coordinates"),
        ('{"boxes_3d": [["a", 2, 3]]}', "not one of EMAN2's"),
        ('{"boxes_3d": [[NaN, 2, 3]]}', "without coordinates"),
        ('{"boxes_3d": 3}', "not one of EMAN2's"),
        ('{"boxes_3d": [[1, 2, 3]], "class_list": 3}', "not an EMAN2 info file"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "a_info.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        read_picks(path, tomogram())


def test_a_tomogram_is_needed(tmp_path):
    path = tmp_path / "a_info.json"
    with pytest.raises(FormatError, match="centre of the tomogram, whose size these picks lack"):
        write_picks(path, replace(picks(), shape=None))
    write_picks(path, picks())
    with pytest.raises(FormatError, match="name its tomogram"):
        read_picks(path)
    path.write_text("notes")
    with pytest.raises(FormatError, match="not valid JSON"):
        write_picks(path, picks())
    assert path.read_text() == "notes"
