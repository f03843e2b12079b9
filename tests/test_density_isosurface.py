import numpy as np
import pytest

from napari_vox3d import Volume, Vox3dError, isosurface, supercell

CUBIC = np.eye(3) * 6
TRICLINIC = [[6, 0.5, -0.3], [1.2, 5.5, 0.6], [-1.0, 1.1, 7.0]]
LEFT_HANDED = [[0, 6, 0], [6, 0, 0], [0, 0, 6]]


def waves(lattice, shape=(30, 28, 32), **fields):
    """A cosine along each axis; the surface at 0 is Schwarz' P."""
    empty = Volume.on_lattice(np.zeros(shape), lattice, name="waves", **fields)
    phases = np.indices(shape) / np.reshape(shape, (3, 1, 1, 1)) * 2 * np.pi
    return empty.with_values(np.cos(phases).sum(axis=0))


def wave_at(volume, points):
    return np.cos(2 * np.pi * volume.to_index(points) / volume.shape).sum(axis=-1)


@pytest.mark.parametrize("lattice", [CUBIC, TRICLINIC, LEFT_HANDED])
@pytest.mark.parametrize("level", [-0.7, 0.0, 1.2])
def test_vertices_lie_where_the_value_is_the_level_in_the_true_cell(lattice, level):
    volume = waves(lattice, origin=(1.0, -2.0, 0.5))
    surface = isosurface(volume, level)
    np.testing.assert_allclose(wave_at(volume, surface.vertices), level, atol=0.02)
    indices = volume.to_index(surface.vertices)
    assert indices.min() >= -1e-6
    np.testing.assert_allclose(indices.max(axis=0), volume.shape, atol=1e-4)  # to the next cell


@pytest.mark.parametrize("lattice", [CUBIC, TRICLINIC, LEFT_HANDED])
def test_faces_look_towards_lower_values(lattice):
    volume = waves(lattice)
    surface = isosurface(volume, 1.5)
    first, second, third = np.moveaxis(surface.vertices[surface.faces], 1, 0)
    normals = np.cross((second - first)[:, ::-1], (third - first)[:, ::-1])[:, ::-1]  # in x, y, z
    middle = (first + second + third) / 3
    length = np.linalg.norm(normals, axis=1)
    big = length > np.median(length)
    step = normals[big] / length[big][:, None] * 0.05
    sides = wave_at(volume, middle[big] + step) - wave_at(volume, middle[big] - step)
    assert np.all(sides < 0)


def test_surfaces_of_tiled_cells_meet():
    volume = waves(TRICLINIC)
    once, twice = isosurface(volume, 0.3), isosurface(supercell(volume, (2, 1, 1)), 0.3)
    assert len(twice.faces) == 2 * len(once.faces)


def test_a_volume_that_is_not_periodic_ends_at_its_last_voxel():
    volume = waves(CUBIC)
    cut = Volume(volume.values, volume.step)
    last = cut.to_index(isosurface(cut, 0.0).vertices).max(axis=0)
    np.testing.assert_allclose(last, [29, 27, 31])


def test_colours_are_the_values_of_another_volume_there():
    volume = waves(TRICLINIC)
    other = waves(TRICLINIC, shape=(40, 40, 40))
    surface = isosurface(volume, 0.3, colour_by=other)
    np.testing.assert_allclose(surface.colours, wave_at(other, surface.vertices), atol=1e-3)
    np.testing.assert_allclose(surface.colours, 0.3, atol=0.02)


@pytest.mark.parametrize("level", [-3.5, 3.0, np.nan])
def test_a_level_without_surface_says_what_levels_there_are(level):
    with pytest.raises(Vox3dError, match="values from -3 to 3: no surface at"):
        isosurface(waves(CUBIC), level)


def test_values_must_be_numbers():
    volume = waves(CUBIC)
    with pytest.raises(Vox3dError, match="no numbers"):
        isosurface(volume.with_values(np.full(volume.shape, np.nan)), 0.5)
