from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from napari_vox3d import Volume, Vox3dError
from napari_vox3d.density import compare_volumes, supercell, volume_statistics

HEXAGONAL = np.array([[3.0, 0, 0], [-1.5, 1.5 * 3**0.5, 0], [0, 0, 5]])
TRICLINIC = np.array([[4, 0.3, -0.2], [1.1, 3.5, 0.4], [-0.9, 0.8, 4.6]])
CELLS = pytest.mark.parametrize("lattice", [HEXAGONAL, TRICLINIC], ids=["hexagonal", "triclinic"])


def waves(lattice, shape, origin=(0, 0, 0), cell=None, **fields):
    """Smooth function of the place, periodic in `cell`, on a grid over `lattice`."""
    cell = lattice if cell is None else cell
    atoms = Atoms("Si", [[0.1, 0.2, 0.3]], cell=lattice, pbc=True)
    fields = {"quantity": "elf", "atoms": atoms, "origin": origin, "name": "waves", **fields}
    volume = Volume.on_lattice(np.zeros(shape), lattice, **fields)
    places = volume.to_world(np.moveaxis(np.indices(shape), 0, -1))
    a, b, c = np.moveaxis(places[..., ::-1] @ np.linalg.inv(cell), -1, 0) * 2 * np.pi
    values = 0.5 + 0.2 * np.cos(a + 1) + 0.1 * np.sin(b - c) + 0.1 * np.cos(c + 2 * a)
    return volume.with_values(values)


def test_one_grid_is_subtracted_exactly():
    volume = waves(TRICLINIC, (6, 7, 8))
    other = volume.with_values(volume.values + np.arange(8) / 10)
    result = compare_volumes(volume, other)
    np.testing.assert_allclose(result.difference.values, volume.values - other.values)
    assert result.mae == pytest.approx(0.35)
    assert result.rmse == pytest.approx(np.sqrt(np.mean((np.arange(8) / 10) ** 2)))
    assert result.largest == pytest.approx(0.7)
    assert result.difference.quantity == "difference"
    assert result.difference.atoms is volume.atoms
    np.testing.assert_allclose(result.difference.step, volume.step)


def test_a_volume_is_itself():
    assert compare_volumes(waves(HEXAGONAL, (8, 8, 8)), waves(HEXAGONAL, (8, 8, 8))).largest == 0


@CELLS
def test_other_grids_are_interpolated_periodically(lattice):
    result = compare_volumes(waves(lattice, (18, 20, 16)), waves(lattice, (24, 25, 27)))
    assert result.difference.shape == (18, 20, 16)
    assert result.largest < 1e-3


@CELLS
def test_origins_are_respected(lattice):
    volume = waves(lattice, (24, 25, 27))
    assert (
        compare_volumes(volume, waves(lattice, (24, 25, 27), origin=(0.3, -1.2, 7.0))).largest
        < 1e-3
    )
    whole = waves(lattice, (24, 25, 27), origin=5 * volume.step[0] - 30 * volume.step[2])
    assert compare_volumes(volume, whole).largest < 1e-12


@CELLS
def test_the_reference_may_be_in_another_cell_of_the_same_crystal(lattice):
    reference = waves(lattice, (24, 25, 27))
    double = waves(lattice * [[2], [1], [1]], (18, 20, 32), cell=lattice)
    assert compare_volumes(double, reference).largest < 1e-3
    other = np.array([[1, 2, 0], [0, 1, 0], [1, 0, -1]]) @ lattice
    assert compare_volumes(waves(other, (17, 18, 19), cell=lattice), reference).largest < 1e-3
    with pytest.raises(Vox3dError, match="not of one crystal"):
        compare_volumes(reference, double)


def test_slightly_strained_cells_are_compared_by_fractions_and_others_refused():
    volume = waves(HEXAGONAL, (18, 20, 16))
    assert compare_volumes(volume, waves(HEXAGONAL * 1.005, (18, 20, 16))).largest < 1e-12
    with pytest.raises(Vox3dError, match="not of one crystal in one orientation"):
        compare_volumes(volume, waves(HEXAGONAL * 1.03, (18, 20, 16)))
    with pytest.raises(Vox3dError, match="not of one crystal"):
        compare_volumes(volume, waves(TRICLINIC, (18, 20, 16)))


def test_densities_may_be_compared_with_their_superposition():
    density = waves(HEXAGONAL, (8, 8, 8), quantity="electron density", unit="e/Å³")
    sad = replace(density, quantity="superposed atomic density")
    assert compare_volumes(density, sad).mae == 0
    assert compare_volumes(density, sad).difference.unit == "e/Å³"
    with pytest.raises(Vox3dError, match="cannot be compared"):
        compare_volumes(density, waves(HEXAGONAL, (8, 8, 8)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"periodic": False}, "not a periodic volume"),
        ({"values": np.full((8, 8, 8), 1j)}, "complex"),
        ({"values": np.where(np.arange(8) < 2, np.nan, 1.0) * np.ones((8, 8, 8))}, "128 values"),
    ],
)
def test_what_cannot_be_compared_says_why(change, reason):
    volume = waves(HEXAGONAL, (8, 8, 8))
    for pair in ((volume, replace(volume, **change)), (replace(volume, **change), volume)):
        with pytest.raises(Vox3dError, match=reason):
            compare_volumes(*pair)


def test_supercell_tiles_along_a_b_and_c():
    volume = waves(TRICLINIC, (5, 6, 7), origin=(1, 2, 3), metadata={"vasp": {"after": {}}})
    large = supercell(volume, (2, 1, 3))
    assert large.shape == (15, 6, 14)
    np.testing.assert_allclose(large.step, volume.step)
    np.testing.assert_allclose(large.origin, volume.origin)
    np.testing.assert_allclose(large.lattice, TRICLINIC * [[2], [1], [3]])
    np.testing.assert_allclose(
        large.values, waves(large.lattice, large.shape, (1, 2, 3), TRICLINIC).values
    )
    np.testing.assert_allclose(large.atoms.cell.array, large.lattice)
    assert len(large.atoms) == 6
    for position in large.atoms.positions:  # each is an image of the one atom
        fraction = (position - volume.atoms.positions[0]) @ np.linalg.inv(TRICLINIC)
        np.testing.assert_allclose(fraction, np.rint(fraction), atol=1e-9)
    assert "vasp" not in large.metadata  # augmentation of one cell is not that of six


def test_supercell_without_atoms_and_by_one_number():
    large = supercell(waves(HEXAGONAL, (4, 4, 4), atoms=None), 2)
    assert large.shape == (8, 8, 8)
    assert large.atoms is None


@pytest.mark.parametrize("repeats", [0, 1.5, (1, 2), (1, 1, -1), (1, 2, 2.5)])
def test_repeats_are_positive_integers(repeats):
    with pytest.raises(Vox3dError, match="positive integers"):
        supercell(waves(HEXAGONAL, (4, 4, 4)), repeats)


def test_supercells_beyond_memory_and_of_no_crystal_are_refused():
    volume = waves(HEXAGONAL, (4, 4, 4))
    with pytest.raises(Vox3dError, match="take fewer"):
        supercell(volume, 1000)
    with pytest.raises(Vox3dError, match="not a periodic volume"):
        supercell(replace(volume, periodic=False), 2)


def test_statistics_of_a_density_count_its_electrons():
    values = np.arange(1000.0).reshape(10, 10, 10)
    volume = Volume.on_lattice(values, TRICLINIC, quantity="electron density", unit="e/Å³")
    found = volume_statistics(volume, bins=10)
    assert (found.least, found.mean, found.largest) == (0, 499.5, 999)
    assert found.deviation == pytest.approx(np.std(values))
    assert found.quantiles[0.5] == 499.5
    assert found.counts.tolist() == [100] * 10
    assert len(found.edges) == 11
    assert found.electrons == pytest.approx(499.5 * abs(np.linalg.det(TRICLINIC)))
    large = supercell(volume, 2)
    assert volume_statistics(large).electrons == pytest.approx(8 * found.electrons)


def test_statistics_leave_out_what_is_no_number():
    values = np.ones((4, 4, 4))
    values[0, 0, :2] = np.nan, np.inf
    found = volume_statistics(Volume(values, 1.0))
    assert (found.not_numbers, found.mean, found.counts.sum()) == (2, 1, 62)
    assert found.electrons is None


@pytest.mark.parametrize(
    ("values", "bins", "reason"),
    [
        (np.full((2, 2, 2), np.nan), 10, "holds no numbers"),
        (np.ones((2, 2, 2), complex), 10, "complex"),
        (np.ones((2, 2, 2)), 0, "at least one bin"),
    ],
)
def test_what_has_no_statistics_says_why(values, bins, reason):
    with pytest.raises(Vox3dError, match=reason):
        volume_statistics(Volume(values, 1.0), bins)
