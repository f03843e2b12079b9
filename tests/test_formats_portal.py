import json

import numpy as np
import pytest

from napari_vox3d.errors import FormatError
from napari_vox3d.formats import read_picks, write_picks
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

TURN = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # of the particle by 90° from x to y


def tomogram():
    return Volume(np.zeros((44, 136, 84), "f4"), (12.0, 11.0, 10.0), name="TS_01")


def test_points_as_the_portal_has_them(tmp_path):
    path = tmp_path / "101-cytosolic_ribosome-1.0_orientedpoint.ndjson"
    point = {"type": "orientedPoint", "location": {"x": 1.5, "y": 2.0, "z": 3.0}}
    rows = [point | {"xyz_rotation_matrix": TURN}, point | {"xyz_rotation_matrix": np.eye(3)[:]}]
    path.write_text("\n".join(json.dumps(row, default=np.ndarray.tolist) for row in rows))
    found = read_picks(path, tomogram())
    assert found.classes == ["cytosolic_ribosome"]
    np.testing.assert_allclose(found.indices, [[3, 2, 1.5]] * 2)
    np.testing.assert_allclose(found.angles.sum(axis=1) % 360, [270, 0], atol=1e-9)
    with pytest.raises(FormatError, match="without the voxel size"):
        read_picks(path)


def test_points_are_voxels_x_y_z(tmp_path):
    one = Picks.from_indices([[3, 2, 1.5]], "a", voxel_size=(12, 11, 10))
    (path,) = write_picks(tmp_path / "p.ndjson", one)
    assert json.loads(path.read_text()) == {
        "type": "point",
        "location": {"x": 1.5, "y": 2.0, "z": 3.0},
    }
    two = Picks.concatenate([one, Picks.from_indices([[0, 0, 0]], "b", voxel_size=10)])
    with pytest.warns(UserWarning, match="2 classes apart.*a file of its own"):
        write_picks(path, two)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "3",
        '{"location": {"x": 1, "y": 2}}',
        '{"location": {"x": 1, "y": 2, "z": NaN}}',
        '{"type": "mesh", "location": {"x": 1, "y": 2, "z": 3}}',
        '{"location": {"x": 1, "y": 2, "z": 3}, "xyz_rotation_matrix": [[1]]}',
    ],
)
def test_bad_lines(tmp_path, line):
    path = tmp_path / "p.ndjson"
    path.write_text('{"location": {"x": 1, "y": 2, "z": 3}}\n' + line)
    with pytest.raises(FormatError, match="line 2: is not a point"):
        read_picks(path, tomogram())
