from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from scipy.interpolate import CubicSpline

from napari_vox3d.density import grid_shape, superpose_atoms, supported_elements, valence_electrons
from napari_vox3d.errors import Vox3dError

TRICLINIC = Atoms(
    "MgOSi",
    cell=[[3.1, 0.2, -0.4], [0.9, 4.2, 0.3], [-0.7, 0.5, 5.3]],
    scaled_positions=[[0.1, 0.2, 0.3], [0.6, 0.7, 0.15], [0.45, 0.05, 0.8]],
    pbc=True,
)
LEFT_HANDED = Atoms(TRICLINIC)
LEFT_HANDED.set_cell(TRICLINIC.cell.array[[1, 0, 2]])
LEFT_HANDED.positions = TRICLINIC.positions
CRYSTALS = [TRICLINIC, LEFT_HANDED, bulk("Cu"), bulk("Mg"), bulk("NaCl", "rocksalt", a=5.64)]


@pytest.mark.parametrize("atoms", CRYSTALS, ids=lambda a: a.get_chemical_formula())
@pytest.mark.parametrize("shape", [None, (15, 12, 9), (1, 2, 3)])
def test_electron_count_is_exact(atoms, shape):
    sad = superpose_atoms(atoms, shape)
    assert sad.values.mean() * sad.volume == pytest.approx(valence_electrons(atoms), abs=1e-6)
    assert sad.metadata["provenance"]["electrons"] == valence_electrons(atoms)


def test_valence_electrons_are_those_of_the_pseudopotentials():
    assert valence_electrons(bulk("Si")) == 8
    assert valence_electrons(bulk("Cu")) == 11


def test_fields_of_the_volume():
    sad = superpose_atoms(TRICLINIC, (20, 18, 16))
    assert sad.shape == (20, 18, 16)
    assert (sad.quantity, sad.unit, sad.periodic) == ("superposed atomic density", "e/Å³", True)
    np.testing.assert_allclose(sad.lattice, TRICLINIC.cell.array)
    assert sad.atoms is TRICLINIC


def test_density_sits_on_the_atoms_in_a_skewed_cell():
    sad = superpose_atoms(
        Atoms("Si", cell=TRICLINIC.cell, scaled_positions=[[0.1, 0.25, 0.75]], pbc=True),
        (40, 32, 30),
    )
    # a valence pseudo-atom is hollow, so compare its centre of mass: the phase of the first waves
    waves = np.fft.fftn(sad.values)
    first = [waves[1, 0, 0], waves[0, 1, 0], waves[0, 0, 1]]
    assert [-np.angle(wave) / 2 / np.pi % 1 for wave in first] == pytest.approx([0.75, 0.25, 0.1])


def test_axes_run_along_c_b_a():
    lopsided = Atoms("H", cell=[3, 5, 8], scaled_positions=[[0.0, 0.5, 0.25]], pbc=True)
    sad = superpose_atoms(lopsided, (40, 20, 12))
    assert np.unravel_index(sad.values.argmax(), sad.shape) == (10, 10, 0)
    np.testing.assert_allclose(sad.voxel_size, [0.2, 0.25, 0.25])


@pytest.mark.parametrize("shape", [(16, 15, 12), (9, 10, 14)])
def test_moving_atoms_by_a_voxel_rolls_the_values(shape):
    moved = Atoms(TRICLINIC)
    moved.set_scaled_positions(
        TRICLINIC.get_scaled_positions() + np.array([1 / shape[2], -2 / shape[1], 3 / shape[0]])
    )
    expected = np.roll(superpose_atoms(TRICLINIC, shape).values, (3, -2, 1), (0, 1, 2))
    np.testing.assert_allclose(superpose_atoms(moved, shape).values, expected, atol=1e-12)


def test_supercell_tiles_the_values():
    primitive = superpose_atoms(TRICLINIC, (18, 16, 12)).values
    tiled = superpose_atoms(TRICLINIC.repeat((2, 1, 3)), (54, 16, 24)).values
    np.testing.assert_allclose(tiled, np.tile(primitive, (3, 1, 2)), atol=1e-12)


def test_rigid_rotation_changes_nothing():
    turned = Atoms(TRICLINIC)
    turned.rotate(73, (1, 2, 3), rotate_cell=True)
    shape = (18, 16, 12)
    np.testing.assert_allclose(
        superpose_atoms(turned, shape).values, superpose_atoms(TRICLINIC, shape).values, atol=1e-12
    )


def test_a_plain_sum_over_neighbours_agrees():
    # the radial density of a lone atom, read off in a large box, summed over 5×5×5 cells
    silicon = bulk("Si", cubic=True)
    lone = superpose_atoms(Atoms("Si", cell=[16] * 3, pbc=True), (128,) * 3).values[0, 0, :64]
    density = CubicSpline(np.arange(64) * 0.125, lone)
    shifts = np.array(list(product(range(-2, 3), repeat=3))) @ silicon.cell.array
    images = (silicon.positions[:, None] + shifts).reshape(-1, 3)
    sad = superpose_atoms(silicon, (50, 50, 50))
    point = sad.to_world((2, 6, 10))[::-1]
    distances = np.linalg.norm(images - point, axis=1)
    expected = density(distances[distances < 7.8]).sum()
    assert sad.values[2, 6, 10] == pytest.approx(expected, rel=1e-3)


def test_grid_shape_is_smooth_even_and_fine_enough():
    lattice = np.diag([3.0, 7.7, 11.9])
    c, b, a = grid_shape(lattice, 0.2)
    assert (c, b, a) == (60, 40, 16)
    assert grid_shape(np.eye(3) * 4.8, 0.2) == (24, 24, 24)  # no rounding up by a hair


def test_spacing_chooses_the_grid():
    assert (superpose_atoms(bulk("Al"), spacing=0.1).voxel_size <= 0.1).all()


def test_ringing_below_zero_shrinks_with_the_grid_and_is_reported():
    oxygen = Atoms("O", cell=[6, 6, 6], pbc=True)
    coarse, fine = (superpose_atoms(oxygen, spacing=spacing) for spacing in (0.2, 0.1))
    assert coarse.metadata["provenance"]["minimum"] == coarse.values.min() < 0
    assert coarse.values.min() > -0.02 * coarse.values.max()
    assert fine.values.min() > -2e-3 * fine.values.max()


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms("U", cell=[4, 4, 4], pbc=True), "No atomic density for U"),
        (Atoms("X", cell=[4, 4, 4], pbc=True), "does not name its elements"),
        (Atoms("H", pbc=True), "no cell"),
        (Atoms("H", cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]], pbc=True), "independent"),
        (Atoms(cell=[4, 4, 4], pbc=True), "no atoms"),
    ],
)
def test_atoms_that_cannot_be_superposed(atoms, message):
    with pytest.raises(Vox3dError, match=message):
        superpose_atoms(atoms)


def test_unknown_element_lists_the_known_ones():
    with pytest.raises(Vox3dError, match=r"Elements with one: H He Li .* Bi"):
        superpose_atoms(Atoms("U", cell=[4, 4, 4], pbc=True))
    assert len(supported_elements()) == 69


@pytest.mark.parametrize("spacing", [0, -0.1, float("nan")])
def test_senseless_spacing(spacing):
    with pytest.raises(Vox3dError, match="spacing must be a positive length"):
        superpose_atoms(bulk("Al"), spacing=spacing)


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 4)])
def test_senseless_shape(shape):
    with pytest.raises(Vox3dError, match="three axes"):
        superpose_atoms(bulk("Al"), shape)


def test_boundary_conditions_of_the_atoms_do_not_matter():
    boxed = Atoms("H", cell=[4, 4, 4], positions=[[1, 2, 3]])
    periodic = boxed.copy()
    periodic.pbc = True
    np.testing.assert_array_equal(superpose_atoms(boxed).values, superpose_atoms(periodic).values)
