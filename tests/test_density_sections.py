from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from test_density_analysis import CELLS, HEXAGONAL, TRICLINIC, waves

from napari_vox3d import Vox3dError
from napari_vox3d.density import lattice_plane, line_profile


def exact(volume, places):
    """The function of `waves` at (..., 3) places in Å (z, y, x)."""
    a, b, c = np.moveaxis(places[..., ::-1] @ np.linalg.inv(volume.lattice), -1, 0) * 2 * np.pi
    return 0.5 + 0.2 * np.cos(a + 1) + 0.1 * np.sin(b - c) + 0.1 * np.cos(c + 2 * a)


@CELLS
def test_profile_between_points_follows_the_field_beyond_the_cell(lattice):
    volume = waves(lattice, (26, 25, 27), origin=(0.4, 0.1, -2.0))
    start, stop = np.array([0.1, 0.2, 0.3]), np.array([9.0, -7.0, 4.0])
    profile = line_profile(volume, start, stop, samples=101)
    np.testing.assert_allclose(profile.values, exact(volume, profile.positions), atol=1e-3)
    np.testing.assert_allclose(profile.positions[[0, -1]], [start, stop])
    np.testing.assert_allclose(profile.distances, np.linspace(0, np.linalg.norm(stop - start), 101))


def test_profile_between_atoms_goes_the_short_way():
    atoms = Atoms("CO", scaled_positions=[[0.05, 0, 0], [0.95, 0, 0]], cell=HEXAGONAL, pbc=True)
    volume = waves(HEXAGONAL, (26, 25, 27), atoms=atoms)
    profile = line_profile(volume, 0, 1, samples=11)
    assert profile.distances[-1] == pytest.approx(0.3)
    np.testing.assert_allclose(profile.positions[0], atoms.positions[0, ::-1])
    np.testing.assert_allclose(profile.values, exact(volume, profile.positions), atol=1e-3)
    to_point = line_profile(volume, 0, [0.0, 0.0, 1.0], samples=2)
    np.testing.assert_allclose(to_point.positions[1], [0, 0, 1])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((0, 1), "There is no atom 1"),
        ((-1, 0), "There is no atom -1"),
        (([0, 0, 0], [0, 0, 0]), "two different ends"),
        (([0, 0], [0, 0, 1]), "three numbers"),
        (([0, 0, np.nan], [0, 0, 1]), "three numbers"),
        (([0, 0, 0], [0, 0, 1], 1), "at least two samples"),
    ],
)
def test_profiles_that_make_no_sense(words, reason):
    with pytest.raises(Vox3dError, match=reason):
        line_profile(waves(HEXAGONAL, (8, 8, 8)), *words)


def test_sections_need_a_periodic_volume_and_atoms_where_they_are_named():
    volume = waves(HEXAGONAL, (8, 8, 8))
    with pytest.raises(Vox3dError, match="not a periodic"):
        line_profile(replace(volume, periodic=False), [0, 0, 0], [0, 0, 1])
    with pytest.raises(Vox3dError, match="not a periodic"):
        lattice_plane(replace(volume, periodic=False), (0, 0, 1))
    with pytest.raises(Vox3dError, match="has 0"):
        line_profile(replace(volume, atoms=None), 0, 1)


@CELLS
@pytest.mark.parametrize("hkl", [(0, 0, 1), (1, 0, 0), (1, 1, 0), (1, -2, 1), (2, 1, 3)])
def test_plane_is_orthonormal_on_its_lattice_plane_and_shows_the_field(lattice, hkl):
    volume = waves(lattice, (26, 25, 27), origin=(0.4, 0.1, -2.0))
    middle = np.array([0.5, 1.0, 0.2])
    cut = lattice_plane(volume, hkl, origin=middle, extent=(4.0, 6.0), spacing=0.2)
    assert cut.shape == (1, 21, 31)
    assert not cut.periodic
    np.testing.assert_allclose(cut.step @ cut.step.T, 0.04 * np.eye(3), atol=1e-12)
    np.testing.assert_allclose(cut.to_world([0, 10, 15]), middle, atol=1e-12)
    normal = (np.linalg.inv(lattice) @ hkl)[::-1]
    np.testing.assert_allclose(cut.step[1:] @ normal, 0, atol=1e-12)
    assert cut.step[0] @ normal > 0
    assert np.linalg.det(cut.step) == pytest.approx(
        np.linalg.det(volume.step) / abs(np.linalg.det(volume.step)) * 0.008
    )
    places = cut.to_world(np.moveaxis(np.indices(cut.shape), 0, -1))
    np.testing.assert_allclose(cut.values, exact(volume, places), atol=1e-3)


def test_columns_run_along_the_shortest_lattice_vector():
    volume = waves(HEXAGONAL, (26, 25, 27))
    cut = lattice_plane(volume, (0, 0, 1))
    vector = 3 * cut.step[2][::-1] / np.linalg.norm(cut.step[2]) @ np.linalg.inv(HEXAGONAL)
    np.testing.assert_allclose(vector, np.rint(vector), atol=1e-12)
    # the square holds a whole period
    assert min(cut.shape[1:]) * np.linalg.norm(cut.step[1]) >= 6
    np.testing.assert_allclose(np.linalg.norm(cut.step, axis=1), volume.voxel_size.min())


@pytest.mark.parametrize(
    ("hkl", "options", "reason"),
    [
        ((0, 0, 0), {}, "not all zero"),
        ((1, 0), {}, "three integers"),
        ((1, 0.5, 0), {}, "three integers"),
        ((1, 0, 0), {"extent": 0}, "positive lengths"),
        ((1, 0, 0), {"spacing": -0.1}, "positive lengths"),
        ((1, 0, 0), {"extent": 1e4, "spacing": 0.1}, "too large"),
        ((1, 0, 0), {"origin": [0, 0]}, "three numbers"),
    ],
)
def test_planes_that_make_no_sense(hkl, options, reason):
    with pytest.raises(Vox3dError, match=reason):
        lattice_plane(waves(TRICLINIC, (8, 8, 8)), hkl, **options)
