from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from scipy.ndimage import map_coordinates

from napari_vox3d import Volume
from napari_vox3d.density.resampling import orthogonal_box
from napari_vox3d.formats import vasp

DATA = Path(__file__).parent / "data" / "vasp"
CELLS = {
    "hexagonal": [[3.0, 0, 0], [-1.5, 1.5 * 3**0.5, 0], [0, 0, 5]],
    "rhombohedral": [[3.537, 0.051, 5.741], [1.665, 3.121, 5.741], [0.084, 0.051, 6.742]],
    "triclinic": [[4, 0.3, -0.2], [1.1, 3.5, 0.4], [-0.9, 0.8, 4.6]],
    "left-handed": [[-1.233862, -2.137111, 0], [-1.233862, 2.137111, 0], [0, 0, 8.685]],
    "negative c": [[4, 0, 0], [0, 4, 0], [0, 0, -5]],
}
FRACTIONS = np.array([[0.0, 0.0, 0.0], [0.35, 0.6, 0.7]])


def gaussians(lattice, shape=(28, 26, 24), origin=(0, 0, 0)):
    """Periodic Gaussians, 0.35 Å wide, at two atoms."""
    atoms = Atoms("C2", scaled_positions=FRACTIONS, cell=lattice, pbc=True)
    volume = Volume.on_lattice(np.zeros(shape), lattice, atoms=atoms, origin=origin)
    points = volume.to_world(np.moveaxis(np.indices(shape), 0, -1)) - volume.origin
    images = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3), -1).reshape(-1, 3) @ volume.cell
    values = np.zeros(shape)
    for atom in atoms.positions[:, ::-1]:
        for image in images:
            values += np.exp(-((points - atom - image) ** 2).sum(-1) / (2 * 0.35**2))
    atoms.positions += np.array(origin)[::-1]
    return volume.with_values(values)


@pytest.mark.parametrize("name", CELLS)
def test_atoms_sit_on_the_maxima(name):
    volume = gaussians(CELLS[name], origin=(0.3, -1.0, 2.0))
    box = orthogonal_box(volume)
    assert box.is_orthogonal
    corners = np.stack(np.meshgrid(*[[0, 1]] * 3), -1).reshape(-1, 3) @ volume.cell
    indices = box.to_index(corners + volume.origin)
    assert (indices > -1e-6).all()
    assert (indices < np.array(box.shape) - 1 + 1e-6).all()
    for atom in box.atoms.positions[:, ::-1]:
        index = np.rint(box.to_index(atom)).astype(int)
        around = tuple(slice(max(i - 4, 0), i + 5) for i in index)
        peak = np.unravel_index(box.values[around].argmax(), box.values[around].shape)
        found = box.to_world(np.array(peak) + [s.start for s in around])
        assert np.linalg.norm(found - atom) < 1.01 * np.linalg.norm(box.voxel_size)


@pytest.mark.parametrize("name", CELLS)
def test_every_value_is_the_periodic_interpolation_of_the_native_grid(name):
    volume = gaussians(CELLS[name], shape=(9, 8, 7), origin=(1.0, 2.0, 3.0))
    box = orthogonal_box(volume)
    world = box.to_world(np.moveaxis(np.indices(box.shape), 0, -1)).reshape(-1, 3)
    index = volume.to_index(world)
    low = np.floor(index + 1e-9).astype(int)
    rest = index - low
    expected = 0.0
    for step in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(step, rest, 1 - rest), axis=1)
        corner = np.mod(low + step, volume.shape)
        expected = expected + weight * volume.values[tuple(corner.T)]
    np.testing.assert_allclose(box.values.ravel(), expected, atol=1e-6)


def test_origin_falls_on_a_voxel_centre_and_keeps_its_value():
    volume = gaussians(CELLS["triclinic"], origin=(0.5, 0.25, 4.0))
    box = orthogonal_box(volume)
    index = box.to_index(volume.origin)
    np.testing.assert_allclose(index, np.rint(index), atol=1e-9)
    assert box.values[tuple(np.rint(index).astype(int))] == pytest.approx(volume.values[0, 0, 0])


def test_orthogonal_volumes_are_returned_as_they_are():
    volume = Volume(np.zeros((2, 3, 4)), 1.5, periodic=True)
    assert orthogonal_box(volume) is volume


def test_size_is_bounded():
    volume = gaussians(CELLS["rhombohedral"])
    box = orthogonal_box(volume)
    ratio = np.prod(box.shape) / np.prod(volume.shape)
    assert ratio < 2 * np.prod(box.voxel_size * np.array(box.shape)) / volume.volume
    flat = Volume.on_lattice(np.zeros((2, 2, 200)), CELLS["triclinic"])
    assert np.prod(orthogonal_box(flat).shape) < 40 * flat.values.size


def test_no_box_has_more_voxels_than_the_cap(monkeypatch):
    monkeypatch.setattr("napari_vox3d.density.resampling._MOST_VOXELS", 5000)
    box = orthogonal_box(gaussians(CELLS["rhombohedral"]))
    assert 2000 < box.values.size <= 5000


def test_given_spacing_and_what_is_kept():
    volume = gaussians(CELLS["hexagonal"])
    box = orthogonal_box(volume, spacing=0.25)
    np.testing.assert_allclose(box.voxel_size, 0.25)
    assert box.atoms is volume.atoms
    assert not box.periodic
    assert box.values.dtype == np.float32


def test_a_sheared_grid_that_does_not_repeat_is_not_continued():
    step = [[1, 0, 0], [0, 1, 0.5], [0, 0, 1]]
    box = orthogonal_box(Volume(np.full((3, 8, 8), 5) + np.arange(8), step))
    assert box.values.min() == 5
    assert box.values[0, 0, -1] == 5


def test_elfcar_with_a_negative_c_axis():
    up, _ = vasp.read(DATA / "ELFCAR.gz")
    box = orthogonal_box(up)
    random = np.random.default_rng(0)
    inside = random.uniform(size=(200, 3)) @ up.cell + up.origin
    there = map_coordinates(box.values, box.to_index(inside).T, order=1)
    here = map_coordinates(up.values, up.to_index(inside).T, order=1, mode="grid-wrap")
    assert np.corrcoef(there, here)[0, 1] > 0.995
