import dask.array as da
import numpy as np
import pytest
import zarr

from napari_vox3d import Volume, Vox3dError
from napari_vox3d.volume import level_for

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


@pytest.mark.parametrize(
    ("sizes", "wanted", "level"),
    [
        ((2.5, 5, 10, 20), 10, 2),
        ((2.5, 5, 10, 20), 12, 2),
        ((2.5, 5, 10, 20), 13, 3),
        ((2.5, 5, 10, 20), 6.2, 1),
        ((2.5, 5, 10, 20), 1, 0),
        ((2.5, 5, 10, 20), 100, 3),
        ((2.5, 5, 10, 20), None, 0),
        ((4.0,), 10, 0),
    ],
)
def test_the_level_fits_the_model(sizes, wanted, level):
    assert level_for(sizes, wanted) == level


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
def test_pieces_and_slabs_cover_a_volume_once(kind):
    values = np.zeros((10, 12, 14), np.int16)
    lazy = {
        "numpy": lambda: values,
        "dask": lambda: da.from_array(values, chunks=(4, 12, 5)),
        "zarr": lambda: zarr.array(values, chunks=(4, 12, 5)),
    }[kind]()
    volume = Volume(lazy, 10)
    for box in volume.pieces():
        values[box] += 1
    for slab in volume.slabs():
        values[slab] += 1
    assert (values == 2).all()
    edges = {box[0].stop - box[0].start for box in volume.pieces()}
    assert edges == ({1} if kind == "numpy" else {4, 2})


def test_slabs_are_whole_layers_of_chunks_as_far_as_memory_goes():
    def thickness(shape, chunk):
        lazy = da.zeros(shape, dtype=np.float32, chunks=(chunk, -1, -1))
        return next(Volume(lazy, 10).slabs()).stop

    assert thickness((640, 512, 512), 128) == 128  # of 1 MB each
    assert thickness((640, 512, 512), 3) == 15
    assert thickness((640, 1024, 1024), 128) == 64
    mapped = Volume(np.broadcast_to(np.float32(0), (640, 1024, 1024)), 10)
    assert next(mapped.slabs()).stop == 4


def test_other_values_have_no_coarser_levels():
    coarse = Volume(np.zeros((2, 2, 2)), 20)
    whole = Volume(np.zeros((4, 4, 4)), 10, coarser=(coarse,))
    assert whole.level_for(20) is coarse
    assert whole.level_for(10) is whole
    assert whole.with_values(np.ones((4, 4, 4))).level_for(20).values.all()
