import numpy as np
import pytest

from napari_vox3d import Volume, Vox3dError

HEXAGONAL = np.array([[3.0, 0, 0], [-1.5, 2.598, 0], [0, 0, 5.0]])


def test_scalar_voxel_size_makes_an_orthogonal_grid():
    volume = Volume(np.zeros((2, 3, 4)), 10.0, origin=[1, 2, 3])
    assert volume.is_orthogonal
    np.testing.assert_allclose(volume.voxel_size, 10)
    np.testing.assert_allclose(volume.to_world([1, 1, 1]), [11, 12, 13])
    assert volume.volume == pytest.approx(2 * 3 * 4 * 1000)


def test_lattice_rows_meet_array_axes_in_reverse():
    volume = Volume.on_lattice(np.zeros((10, 6, 4)), HEXAGONAL)
    assert volume.periodic
    np.testing.assert_allclose(volume.lattice, HEXAGONAL)
    # One step along the last array axis is a/4: x = 0.75, written (z, y, x).
    np.testing.assert_allclose(volume.to_world([0, 0, 1]), [0, 0, 0.75])
    # One step along the middle axis is b/6: x = -0.25, y = 0.433.
    np.testing.assert_allclose(volume.to_world([0, 1, 0]), [0, 0.433, -0.25])
    assert volume.volume == pytest.approx(abs(np.linalg.det(HEXAGONAL)))
    assert not volume.is_orthogonal


def test_index_and_world_are_inverse_and_agree_with_the_affine():
    volume = Volume.on_lattice(np.zeros((10, 6, 4)), HEXAGONAL, origin=[5, -3, 2])
    indices = np.random.default_rng(0).uniform(-5, 15, (20, 3))
    world = volume.to_world(indices)
    np.testing.assert_allclose(volume.to_index(world), indices, atol=1e-12)
    homogeneous = np.column_stack([indices, np.ones(20)]) @ volume.affine.T
    np.testing.assert_allclose(homogeneous[:, :3], world)


def test_negative_direction_is_not_called_orthogonal():
    assert not Volume.on_lattice(np.zeros((2, 2, 2)), np.diag([1, 1, -1.0])).is_orthogonal


def test_with_values_keeps_geometry_and_refuses_another_shape():
    volume = Volume.on_lattice(np.zeros((10, 6, 4)), HEXAGONAL, name="a")
    other = volume.with_values(np.ones((10, 6, 4)), quantity="elf")
    assert (other.name, other.quantity) == ("a", "elf")
    np.testing.assert_array_equal(other.step, volume.step)
    with pytest.raises(Vox3dError, match=r"\(10, 6, 4\)"):
        volume.with_values(np.ones((4, 6, 10)))


@pytest.mark.parametrize(
    ("values", "step", "message"),
    [
        (np.zeros((3, 3)), 1.0, "three axes"),
        (np.zeros((3, 3, 3)), 0.0, "independent"),
        (np.zeros((3, 3, 3)), np.nan, "finite"),
        (np.zeros((3, 3, 3)), np.ones((3, 3)), "independent"),
        (np.zeros((3, 3, 3)), np.ones((2, 2)), "step"),
    ],
)
def test_impossible_volumes_are_refused(values, step, message):
    with pytest.raises(Vox3dError, match=message):
        Volume(values, step)
