import struct
from dataclasses import replace
from pathlib import Path

import imodmodel
import numpy as np
import pandas as pd
import pytest

from napari_vox3d.errors import FormatError
from napari_vox3d.formats import read_picks, write_picks
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

DATA = Path(__file__).parent / "data" / "picks" / "imod"
INDICES = np.array([[0, 0, 0], [43.25, 135, 83], [1.25, 100.5, 7.75]])
LABELS = ["ribosome", "ribosome", "apo"]


def tomogram(voxel_size=10.0):
    return Volume(np.zeros((44, 136, 84), "f4"), voxel_size, name="TS_01")


def picks(**fields):
    frame = {"voxel_size": 10, "shape": (44, 136, 84)}
    return Picks.from_indices(INDICES, LABELS, **(frame | fields))


@pytest.mark.filterwarnings("ignore:.*made on")
@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("*.mod")))
def test_real_models(name):
    theirs = imodmodel.read(DATA / name)[["z", "y", "x"]].to_numpy()
    found = read_picks(DATA / name)
    np.testing.assert_allclose(found.indices, theirs - [0, 0.5, 0.5], atol=1e-4)
    again = read_picks(DATA / name, Volume(np.zeros((1, 1, 1)), found.voxel_size))
    np.testing.assert_allclose(again.positions, found.positions)


def test_a_real_model_tells_its_image():
    found = read_picks(DATA / "point_sizes_example.mod")
    np.testing.assert_allclose(found.voxel_size, 12.39899993)
    assert found.shape == (100, 1298, 1314)
    assert found.classes == ["SCATTERED_POINT_SIZE", "OPEN_NO_POINTSIZE", "particle"]
    assert found.radii is None  # not every point has a size


def test_imodmodel_reads_what_is_written(tmp_path):
    (path,) = write_picks(tmp_path / "p.mod", picks(radii=[50, 60, 70], scores=[0.5, np.nan, 1]))
    table = imodmodel.read(path)
    np.testing.assert_allclose(table[["z", "y", "x"]], np.add(INDICES, [0, 0.5, 0.5]), atol=1e-5)
    assert table["object_id"].tolist() == [0, 0, 1]
    model = imodmodel.ImodModel.from_file(path)
    assert [str(one.header.name) for one in model.objects] == ["ribosome", "apo"]
    assert (model.header.xmax, model.header.ymax, model.header.zmax) == (84, 136, 44)
    assert (model.header.pixelsize, model.header.units) == (1, -9)
    assert model.header.flags.z_coordinates_start_from_negative_half
    contour = model.objects[0].contours[0]
    np.testing.assert_allclose(contour.point_sizes, [5, 6])
    assert [(value.type, value.index, value.value) for value in contour.extra] == [(10, 0, 0.5)]
    assert model.objects[0].header.flags.scattered


def test_imodmodel_writes_what_is_read(tmp_path):
    path = tmp_path / "p.mod"
    table = pd.DataFrame(INDICES[:, ::-1] + [0.5, 0.5, 0], columns=["x", "y", "z"])
    imodmodel.write(table, path)
    np.testing.assert_allclose(read_picks(path, tomogram()).indices, INDICES, atol=1e-5)
    with pytest.raises(FormatError, match="without the voxel size"):
        read_picks(path)


@pytest.mark.parametrize("voxel_size", [10.0, (12.0, 11.0, 10.0)])
def test_models_carry_their_frame(tmp_path, voxel_size):
    wanted = picks(voxel_size=voxel_size)
    (path,) = write_picks(tmp_path / "p.mod", wanted)
    alone = read_picks(path)
    np.testing.assert_allclose(alone.voxel_size, wanted.voxel_size, rtol=1e-6)
    np.testing.assert_allclose(alone.positions, wanted.positions, atol=1e-3)
    assert alone.shape == wanted.shape
    assert alone.labels.tolist() == LABELS


def test_models_of_a_part_of_an_image_count_from_the_whole(tmp_path):
    (path,) = write_picks(tmp_path / "p.mod", picks())
    data = bytearray(path.read_bytes())
    flags = struct.unpack_from(">I", data, 8 + 128 + 16)[0]
    struct.pack_into(">I", data, 8 + 128 + 16, flags | 1 << 14)
    reference = [0] * 3 + [300, 200, 100] + [0] * 3 + [10] * 3 + [0] * 6
    path.write_bytes(data[:-4] + b"MINX" + struct.pack(">i18f", 72, *reference) + b"IEOF")
    np.testing.assert_allclose(read_picks(path).indices, np.add(INDICES, [10, 20, 30]), atol=1e-5)


def test_damaged_models(tmp_path):
    path = tmp_path / "p.mod"
    path.write_bytes(b"M.K. is a song\n" * 30)
    with pytest.raises(FormatError, match="is not an IMOD model"):
        read_picks(path)
    whole = (DATA / "point_sizes_example.mod").read_bytes()
    for end in (300, 600, 1000, len(whole) - 4, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(FormatError, match="damaged IMOD model"):
            read_picks(path)
    at = whole.index(b"CONT") + 4
    path.write_bytes(whole[:at] + b"\xff\xff\xff\xff" + whole[at + 4 :])
    with pytest.raises(FormatError, match="damaged IMOD model"):
        read_picks(path)
    at = whole.index(b"CONT") + 20
    path.write_bytes(whole[:at] + struct.pack(">f", np.nan) + whole[at + 4 :])
    with pytest.raises(FormatError, match="lacks coordinates"):
        read_picks(path)


def test_point_lists_count_as_models_do(tmp_path):
    path = tmp_path / "p.txt"
    for prefix, labels in (("", "particle"), ("1 ", "particle"), ("3 1 ", "3")):
        path.write_text(f"{prefix}10.5 20.5 30\n\n{prefix}1 2 3\n")
        found = read_picks(path, tomogram())
        np.testing.assert_allclose(found.indices, [[30, 20, 10], [3, 1.5, 0.5]])
        assert found.classes == [labels]
    with pytest.raises(FormatError, match="without the voxel size"):
        read_picks(path)
    for text in ("1 2", "1 2 z", "1 2 3 4 5 6", "1 2 inf", "1 2 3 4"):
        path.write_text(f"1 2 3\n{text}\n")
        with pytest.raises(FormatError, match="line 2: wants x y z"):
            read_picks(path, tomogram())


def test_point_lists_are_written_by_object(tmp_path):
    (path,) = write_picks(tmp_path / "p.txt", picks())
    np.testing.assert_allclose(
        np.loadtxt(path),
        np.column_stack([[1, 1, 2], [1, 1, 1], INDICES[:, ::-1] + [0.5, 0.5, 0]]),
        atol=1e-4,
    )
    (path,) = write_picks(path, replace(picks(), labels=np.array("a")))
    np.testing.assert_allclose(np.loadtxt(path), INDICES[:, ::-1] + [0.5, 0.5, 0], atol=1e-4)
