from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import dynamotable
import numpy as np
import pandas as pd
import pytest
import starfile

from napari_vox3d import Picks, Volume, read_pick_collection, read_picks, write_pick_collection
from napari_vox3d.errors import FormatError
from napari_vox3d.formats import PICK_FORMATS

DATA = Path(__file__).parent / "data" / "picks"
OF_SEVERAL = [
    name
    for name, known in PICK_FORMATS.items()
    if known.several_tomograms and (name != "copick-project" or find_spec("copick"))
]
# Tomograms of different sizes and voxel sizes, in the order in which they are written.
FRAMES = {
    "TS_03": ((45, 136, 84), (12.0, 11.0, 10.0)),
    "rec_TS_01.mrc": ((30, 61, 92), (7.0, 7.0, 7.0)),
    "TS_02": ((44, 60, 51), (13.48, 13.48, 13.48)),
}
INDICES = {
    "TS_03": [[0, 0, 0], [43.25, 135, 83]],
    "rec_TS_01.mrc": [[1.25, 10.5, 7.75], [29, 2, 60], [3, 4, 5]],
    "TS_02": [[11, 12, 50]],
}
NAMES = {"TS_03": "TS_03", "rec_TS_01.mrc": "TS_01", "TS_02": "TS_02"}


def collection():
    return [
        Picks.from_indices(
            INDICES[name], "1", voxel_size=voxel_size, shape=shape, tomogram=name, scores=0.5
        )
        for name, (shape, voxel_size) in FRAMES.items()
    ]


def volume(name):
    shape, voxel_size = FRAMES[name]
    return Volume(np.zeros(shape, "f4"), voxel_size, [100, 200, 300], name=name)


def saved(folder, name, parts=None):
    path = folder / f"p{PICK_FORMATS[name].suffix}"
    return write_pick_collection(path, collection() if parts is None else parts, name)[0]


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_each_tomogram_gets_its_own_back(tmp_path, name):
    path = saved(tmp_path, name)
    for tomogram in reversed(FRAMES):
        found = read_picks(path, volume(tomogram))
        np.testing.assert_allclose(found.indices, INDICES[tomogram], atol=1e-3)
        np.testing.assert_array_equal(found.scores, 0.5)
    with pytest.raises(FormatError, match=r"3 (tomograms|runs) \(TS_0.*none of them 'TS_9'"):
        read_picks(path, replace(volume("TS_02"), name="TS_9"))
    with pytest.raises(FormatError, match=r"3 (tomograms|runs) \(.*TS_01.*, TS_0.\)"):
        read_picks(path)


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_a_collection_is_read_without_its_tomograms(tmp_path, name):
    if name != "csv":  # files that state one voxel size a tomogram
        flat = [p for p in collection() if np.ptp(p.voxel_size) == 0]
        again = read_pick_collection(saved(tmp_path, name, flat))
        if name == "copick-project":  # which has no order
            flat.reverse()
            again.sort(key=lambda one: one.tomogram, reverse=True)
        for one, before in zip(again, flat, strict=True):
            assert one.tomogram == NAMES[before.tomogram]
            np.testing.assert_allclose(one.indices, before.indices, atol=1e-3)
            if name == "relion5":
                assert one.shape == before.shape
    else:
        again = read_pick_collection(saved(tmp_path, name))
        for one, before in zip(again, collection(), strict=True):
            assert one.tomogram == before.tomogram
            np.testing.assert_allclose(one.positions, before.positions, atol=1e-9)


def test_what_some_tomograms_lack_stays_unknown(tmp_path):
    first, second, third = collection()
    parts = [replace(first, angles=[[1, 2, 3], [4, 5, 6]], radii=[50, 60]), second,
             replace(third, scores=[np.nan])]  # fmt: skip
    for name in ("relion5", "csv"):
        path = saved(tmp_path, name, parts)
        full = read_picks(path, volume("TS_03"))
        np.testing.assert_allclose(full.radii, [50, 60])
        np.testing.assert_allclose(full.angles, [[1, 2, 3], [4, 5, 6]])
        assert read_picks(path, volume("rec_TS_01.mrc")).radii is None
        assert np.isnan(read_picks(path, volume("TS_02")).scores).all()


def test_other_programs_read_the_collection(tmp_path):
    table = starfile.read(saved(tmp_path, "relion5"))
    assert table["rlnTomoName"].tolist() == ["TS_03"] * 2 + ["TS_01"] * 3 + ["TS_02"]
    own = table[table["rlnTomoName"] == "TS_01"]
    columns = [f"rlnCenteredCoordinate{axis}Angst" for axis in "ZYX"]
    expected = np.array(INDICES["rec_TS_01.mrc"]) * 7 - (np.array([30, 61, 92]) / 2 - 1) * 7
    np.testing.assert_allclose(own[columns], expected, atol=1e-5)
    tbl, table_map = write_pick_collection(tmp_path / "p.tbl", collection())
    table = dynamotable.read(tbl, table_map)
    assert table["tag"].tolist() == [1, 2, 3, 4, 5, 6]
    assert table["tomo_file"].tolist() == ["TS_03"] * 2 + ["rec_TS_01.mrc"] * 3 + ["TS_02"]
    np.testing.assert_allclose(table[["z", "y", "x"]].iloc[-1], np.array([11, 12, 50]) + 1)


def test_classes_of_a_collection_are_numbered_together(tmp_path):
    labels = (["apo", "apo"], ["ribosome"] * 3, ["apo"])
    parts = [replace(p, labels=names) for p, names in zip(collection(), labels, strict=True)]
    with pytest.warns(UserWarning, match="1 is apo, 2 is ribosome"):
        path = saved(tmp_path, "dynamo", parts)
    assert dynamotable.read(path)["class"].tolist() == [1, 1, 2, 2, 2, 1]


def test_pixel_sizes_come_from_each_group_of_optics(tmp_path):
    path = tmp_path / "p.star"
    optics = pd.DataFrame({"rlnOpticsGroup": [1, 2], "rlnTomoTiltSeriesPixelSize": [2.0, 3.0]})
    particles = pd.DataFrame(
        {
            "rlnTomoName": ["a", "b"],
            "rlnOpticsGroup": [1, 2],
            **{f"rlnCoordinate{axis}": [10.0, 20.0] for axis in "XYZ"},
        }
    )
    starfile.write({"optics": optics, "particles": particles}, path)
    first, second = read_pick_collection(path)
    np.testing.assert_array_equal(first.positions, [[20, 20, 20]])
    np.testing.assert_array_equal(second.positions, [[60, 60, 60]])


def test_a_format_of_one_tomogram_says_which_hold_several(tmp_path):
    with pytest.raises(FormatError, match=r"one tomogram, and there are 3.*relion5.*dynamo.*csv"):
        write_pick_collection(tmp_path / "p.mod", collection())
    one = collection()[:1]
    (path,) = write_pick_collection(tmp_path / "p.mod", one)
    (again,) = read_pick_collection(path)
    np.testing.assert_allclose(again.indices, INDICES["TS_03"], atol=1e-3)
    with pytest.raises(FormatError, match="not all have a name"):
        write_pick_collection(tmp_path / "p.csv", [*one, replace(one[0], tomogram="")])


def test_real_collections():
    first, second = read_pick_collection(DATA / "relion5_project/Picks/job_picks/particles.star")
    assert (first.tomogram, len(first), second.tomogram, len(second)) == ("TS_01", 3, "TS_02", 2)
    assert second.shape == (44, 136, 84)
    with pytest.raises(FormatError, match="centre of a tomogram whose size is unknown"):
        read_pick_collection(DATA / "relion5_particles.star")


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_an_empty_collection_is_a_file_of_none(tmp_path, name):
    path = saved(tmp_path, name, [p.select([]) for p in collection()])
    if path.stat().st_size:
        assert sum(len(picks) for picks in read_pick_collection(path)) == 0
