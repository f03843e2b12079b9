from collections import Counter
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from napari_vox3d import Volume, Vox3dError, read_picks, read_volume, write_picks
from napari_vox3d.density import find_maxima, supercell
from napari_vox3d.density.splines import PeriodicSpline
from napari_vox3d.errors import Cancelled

DATA = Path(__file__).parent / "data" / "elf"
TRICLINIC = [[6, 0.5, -0.3], [1.2, 5.5, 0.6], [-1.0, 1.1, 7.0]]
HEXAGONAL = [[5.0, 0, 0], [-2.5, 2.5 * 3**0.5, 0], [0, 0, 7]]
CUBIC = np.eye(3) * 6
CELLS = [CUBIC, HEXAGONAL, TRICLINIC]


def displacements(elf, point):
    """(..., 3) Å (z, y, x) from a point to every voxel's nearest image."""
    from ase.geometry import find_mic

    places = elf.to_world(np.moveaxis(np.indices(elf.shape), 0, -1)).reshape(-1, 3)
    moves = find_mic((places - point)[:, ::-1], elf.lattice)[0][:, ::-1]
    return moves.reshape(*elf.shape, 3)


def hills(lattice, points, values, atoms, width=0.45, origin=(0, 0, 0), spacing=0.17):
    """ELF of Gaussian hills at points (x, y, z), the highest of them at each place."""
    cell = np.asarray(lattice, float)
    shape = np.ceil(np.linalg.norm(cell, axis=1)[::-1] / spacing).astype(int)
    elf = Volume.on_lattice(
        np.zeros(shape), cell, quantity="elf", atoms=atoms, origin=origin, name="hills"
    )
    squares = [(displacements(elf, np.array(point)[::-1]) ** 2).sum(-1) for point in points]
    each = [v * np.exp(-s / (2 * width**2)) for s, v in zip(squares, values, strict=True)]
    return elf.with_values(np.max(each, axis=0))


def ring(lattice, centre, axis, radius, value, atoms, width=0.3):
    """ELF of a ring, or of a shell if there is no axis."""
    elf = hills(lattice, [centre], [0.0], atoms)
    moves = displacements(elf, np.array(centre)[::-1])
    if axis is None:
        away = np.linalg.norm(moves, axis=-1) - radius
        return elf.with_values(value * np.exp(-(away**2) / (2 * width**2)))
    along = moves @ np.array(axis)[::-1]
    out = np.linalg.norm(moves - along[..., None] * np.array(axis)[::-1], axis=-1) - radius
    return elf.with_values(value * np.exp(-(along**2 + out**2) / (2 * width**2)))


def same_places(cell, found, expected, tolerance=0.03):
    """Every found place has its own expected one within so many Å, up to lattice vectors."""
    fractions = (np.asarray(found)[:, None] - np.asarray(expected)) @ np.linalg.inv(cell)
    distances = np.linalg.norm((fractions - np.rint(fractions)) @ cell, axis=-1)
    near = distances.argmin(axis=1)
    return len(set(near)) == len(expected) == len(found) and distances.min(axis=1).max() < tolerance


@pytest.fixture(scope="module")
def silicon():
    return read_volume(DATA / "Si_ELFCAR.gz")


@pytest.fixture(scope="module")
def graphite():
    with as_file(files("napari_vox3d.gui") / "sample_data" / "graphite_ELFCAR.gz") as path:
        return read_volume(path)


def bond_middles(elf, length):
    """(z, y, x) Å of the middles of all bonds up to a length."""
    from ase.neighborlist import neighbor_list

    i, _, vectors = neighbor_list("ijD", elf.atoms, length)
    middles = (elf.atoms.positions[i] + vectors / 2) @ np.linalg.inv(elf.lattice)
    unique = np.unique((middles % 1).round(3) % 1, axis=0)
    return (unique @ elf.lattice)[:, ::-1]


@pytest.mark.parametrize("lattice", CELLS, ids=["cubic", "hexagonal", "triclinic"])
def test_hills_are_found_between_grid_points_and_named(lattice):
    water = np.array([[2.0, 2.0, 2.0], [2.76, 2.59, 2.0], [1.24, 2.59, 2.0]])
    atoms = Atoms("OH2", water, cell=lattice, pbc=True)
    pairs = water[0] + np.array([[0.0, -0.35, 0.5], [0.0, -0.35, -0.5]])
    void = np.array([2.0, 2.2, 5.1])
    points = [*pairs, water[1], water[2], void]
    found = find_maxima(hills(lattice, points, [0.9, 0.88, 0.97, 0.95, 0.7], atoms, width=0.25))
    assert found.labels.tolist() == ["bond", "bond", "lone pair", "lone pair", "interstitial"]
    np.testing.assert_allclose(found.scores, [0.97, 0.95, 0.9, 0.88, 0.7], atol=0.01)
    order = [water[1], water[2], pairs[0], pairs[1], void]
    for position, point in zip(found.positions, order, strict=True):
        assert same_places(np.array(lattice)[::-1, ::-1], [position], [point[::-1]])


def test_a_maximum_within_half_a_covalent_radius_is_a_core_save_for_hydrogen():
    atoms = Atoms("TiH", [[1, 1, 1], [4, 4, 4]], cell=CUBIC, pbc=True)
    points = [[1, 1, 1.5], [4, 4, 4.1]]
    found = find_maxima(hills(CUBIC, points, [0.9, 0.8], atoms))
    assert found.labels.tolist() == ["core", "lone pair"]


def test_atoms_too_far_apart_have_no_bond():
    kinds = []
    for length in (1.5, 2.1):
        atoms = Atoms("C2", [[1, 1, 1], [1 + length, 1, 1]], cell=CUBIC, pbc=True)
        found = find_maxima(hills(CUBIC, [[1 + length / 2, 1, 1]], [0.9], atoms))
        kinds.append(found.labels.tolist())
    assert kinds == [["bond"], ["interstitial"]]


def test_a_bond_across_the_border_of_the_cell():
    atoms = Atoms("C2", [[0.3, 3, 3], [5.2, 3, 3]], cell=CUBIC, pbc=True)
    found = find_maxima(hills(CUBIC, [[5.75, 3, 3]], [0.9], atoms))
    assert found.labels.tolist() == ["bond"]
    np.testing.assert_allclose(found.positions, [[3, 3, 5.75]], atol=0.02)


@pytest.mark.parametrize("lattice", CELLS, ids=["cubic", "hexagonal", "triclinic"])
def test_a_ring_is_one_maximum_at_its_centre(lattice):
    axis = np.array([1, 2, 2]) / 3
    centre = np.array([0.2, 0.3, 0.1])  # the ring goes round a corner of the cell
    ends = centre + np.array([-0.6, 0.6])[:, None] * axis
    atoms = Atoms("C2", ends, cell=lattice, pbc=True)
    found = find_maxima(ring(lattice, centre, axis, 0.6, 0.9, atoms))
    assert found.labels.tolist() == ["bond"]
    assert same_places(np.array(lattice)[::-1, ::-1], found.positions, [centre[::-1]], 0.05)
    assert found.scores[0] == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(("radius", "kind"), [(0.75, "lone pair"), (0.35, "core")])
def test_a_shell_is_one_maximum_at_its_atom(radius, kind):
    centre = np.array([2.9, 3.05, 3.1])
    atoms = Atoms("Cl", [centre], cell=CUBIC, pbc=True)
    found = find_maxima(ring(CUBIC, centre, None, radius, 0.9, atoms, width=0.2))
    assert found.labels.tolist() == [kind]
    assert same_places(CUBIC, found.positions, [centre[::-1]], 0.05)


def test_a_plateau_is_one_maximum_in_its_middle():
    atoms = Atoms("C2", [[2.3, 3, 3], [3.7, 3, 3]], cell=CUBIC, pbc=True)
    elf = hills(CUBIC, [[3, 3, 3]], [1.6], atoms, width=0.5)
    found = find_maxima(elf.with_values(np.minimum(elf.values, 1.0)))
    assert found.labels.tolist() == ["bond"]
    assert same_places(CUBIC, found.positions, [[3, 3, 3]])
    assert found.scores.max() <= 1


def test_two_hills_with_a_clear_saddle_stay_two():
    atoms = Atoms("C2", [[2.3, 3, 3], [3.7, 3, 3]], cell=CUBIC, pbc=True)
    found = find_maxima(hills(CUBIC, [[3, 2.6, 3], [3, 3.4, 3]], [0.9, 0.9], atoms, width=0.25))
    assert found.labels.tolist() == ["bond", "bond"]


def test_silicon_has_four_bonds_with_their_maxima_in_the_middle(silicon):
    found = find_maxima(silicon)
    assert found.counts() == {"bond": 4}
    assert same_places(silicon.cell, found.positions, bond_middles(silicon, 2.5))
    np.testing.assert_allclose(found.scores, 0.956, atol=0.002)


def test_graphite_has_six_bonds(graphite):
    found = find_maxima(graphite)
    assert found.counts() == {"bond": 6}
    assert same_places(graphite.cell, found.positions, bond_middles(graphite, 1.6))


def test_nitrogen_has_a_ring_and_two_lone_pairs_each():
    elf = read_volume(DATA / "N2_ELFCAR.gz")
    found = find_maxima(elf)
    assert found.counts() == {"lone pair": 8, "bond": 4}
    bonds = found.positions[found.labels == "bond"]
    assert same_places(elf.cell, bonds, bond_middles(elf, 1.3))


def test_ions_have_one_shell_and_electrides_an_interstitial_maximum():
    assert find_maxima(read_volume(DATA / "NaCl_ELFCAR.gz")).counts() == {"lone pair": 1}
    elf = read_volume(DATA / "Y2C_ELFCAR.gz")
    found = find_maxima(elf)
    assert found.counts()["interstitial"] == 1
    void = found.positions[found.labels == "interstitial"]
    assert same_places(elf.cell, void, [elf.cell.sum(axis=0) / 2])


def test_shifting_the_crystal_shifts_the_maxima(silicon):
    shift = (5, 11, 20)
    atoms = silicon.atoms.copy()
    atoms.positions += (shift @ silicon.step)[::-1]
    moved = replace(silicon, values=np.roll(silicon.values, shift, axis=(0, 1, 2)), atoms=atoms)
    before, after = find_maxima(silicon), find_maxima(moved)
    assert same_places(silicon.cell, after.positions, before.positions + shift @ silicon.step)


def test_positions_do_not_depend_on_the_origin(silicon):
    atoms = silicon.atoms.copy()
    atoms.positions += [3.0, 2.0, 1.0]
    moved = replace(silicon, origin=np.array([1.0, 2.0, 3.0]), atoms=atoms)
    found = find_maxima(moved)
    np.testing.assert_allclose(found.positions, find_maxima(silicon).positions, atol=1e-9)
    assert found.counts() == {"bond": 4}


def test_a_supercell_has_as_many_maxima_as_cells(silicon):
    found = find_maxima(supercell(silicon, (2, 1, 1)))
    assert found.counts() == {"bond": 8}
    one = find_maxima(silicon).positions
    both = np.concatenate([one, one + silicon.cell[2]])
    assert same_places(silicon.cell * [[1], [1], [2]], found.positions, both)


def test_another_choice_of_axes_gives_the_same_maxima(silicon):
    lattice = np.array([[1, 2, 0], [0, 1, 0], [0, -1, 1]]) @ silicon.lattice
    atoms = silicon.atoms.copy()
    atoms.set_cell(lattice)
    skewed = Volume.on_lattice(np.zeros((42, 24, 60)), lattice, quantity="elf", atoms=atoms)
    places = skewed.to_world(np.moveaxis(np.indices(skewed.shape), 0, -1))
    skewed = skewed.with_values(PeriodicSpline(silicon).at(places))
    found, before = find_maxima(skewed), find_maxima(silicon)
    assert found.counts() == {"bond": 4}
    assert same_places(silicon.cell, found.positions, before.positions)


def test_lower_maxima_are_left_out(silicon):
    assert len(find_maxima(silicon, least=0.96)) == 0
    atoms = Atoms("C2", [[1, 1, 1], [4, 4, 4]], cell=CUBIC, pbc=True)
    elf = hills(CUBIC, [[1, 1, 1.7], [4, 4, 4.7]], [0.9, 0.3], atoms)
    assert len(find_maxima(elf)) == 1
    assert len(find_maxima(elf, least=0.2)) == 2


def test_flat_ground_through_the_whole_crystal_hides_no_maximum():
    # joined by ridges along x that fall by 1 % only, as in a metal
    atoms = Atoms("Na", [[3, 3, 3]], cell=CUBIC, pbc=True)
    elf = hills(CUBIC, [[0, 0, 0]], [0.0], atoms)
    z, y, x = np.moveaxis(displacements(elf, np.zeros(3)), -1, 0)
    values = (0.6 + 0.001 * np.cos(4 * np.pi * x / 6)) * np.exp(-(y**2 + z**2))
    elf = elf.with_values(values)
    found = find_maxima(elf, prominence=0)
    assert Counter(found.positions.round(1)[:, 2].tolist()) == {0.0: 1, 3.0: 1}
    np.testing.assert_allclose(found.metadata["prominence"], 0.002, atol=1e-4)
    prominent = find_maxima(elf)
    assert len(prominent) == 0
    assert prominent.metadata["hardly prominent"] == 2


def test_prominence_is_the_fall_on_the_best_way_to_one_as_high():
    # two equal hills and a lower one between them, on a line along x
    atoms = Atoms("C2", [[1, 3, 3], [4, 3, 3]], cell=[9, 6, 6], pbc=True)
    points = [[1.5, 3, 3], [2.5, 3, 3], [3.5, 3, 3]]
    elf = hills(np.diag([9.0, 6, 6]), points, [0.9, 0.7, 0.9], atoms, width=0.35)
    found = find_maxima(elf)
    np.testing.assert_allclose(found.scores, [0.9, 0.9, 0.7], atol=0.01)
    # from 0.9 to the pass at 0.29, but from 0.7 to the pass towards the nearer grid points
    np.testing.assert_allclose(found.metadata["prominence"], [0.6, 0.6, 0.36], atol=0.03)


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 2)])
def test_prominence_does_not_depend_on_the_cell(repeats):
    # one hill in a cell: the one as high is its own image, nearest along c
    atoms = Atoms("C", [[1, 1, 1]], cell=[4, 4, 2], pbc=True)
    elf = hills(np.diag([4.0, 4, 2]), [[2, 2, 1]], [0.9], atoms, width=0.7)
    (alone,) = find_maxima(elf).metadata["prominence"]
    edge = elf.values[0, 12, 12]
    assert alone == pytest.approx(0.9 - edge, abs=0.01)
    several = find_maxima(supercell(elf, repeats)).metadata["prominence"]
    np.testing.assert_allclose(several, alone, atol=1e-6)


def test_equivalent_maxima_are_equally_prominent(silicon, graphite):
    for elf in (silicon, graphite):
        prominence = find_maxima(elf).metadata["prominence"]
        np.testing.assert_allclose(prominence, prominence[0], atol=0.005)
        assert min(prominence) > 0.2


@pytest.mark.parametrize(
    ("metal", "places", "kind"),
    [
        ("O", [[3, 3, 2.05]], "bond"),
        ("B", [[3, 3, 1.7], [3, 3, 4.3]], "bond"),
        ("K", [[3, 3, 0.3], [3, 3, 5.7], [0.3, 3, 3], [5.7, 3, 3]], "lone pair"),
    ],
    ids=["hydroxide", "bridge", "hydride"],
)
def test_hydrogen_with_many_neighbours_is_an_ion(metal, places, kind):
    atoms = Atoms(f"H{metal}{len(places)}", [[3, 3, 3], *places], cell=CUBIC, pbc=True)
    found = find_maxima(hills(CUBIC, [[3, 3, 3]], [0.95], atoms))
    assert found.labels.tolist() == [kind]


def test_a_maximum_beyond_hydrogen_is_its_bond():
    atoms = Atoms("CH", [[3, 3, 3], [4.1, 3, 3]], cell=CUBIC, pbc=True)
    assert find_maxima(hills(CUBIC, [[4.6, 3, 3]], [0.9], atoms)).labels.tolist() == ["bond"]


def test_stretched_hydrogen_is_bonded():
    atoms = Atoms("H2", [[2.6, 3, 3], [3.4, 3, 3]], cell=CUBIC, pbc=True)
    assert find_maxima(hills(CUBIC, [[3, 3, 3]], [0.99], atoms)).labels.tolist() == ["bond"]


def test_a_void_between_near_atoms_is_interstitial():
    # body-centred cubic: a tetrahedral void has pairs of atoms on both sides of it
    atoms = Atoms("Mg2", [[0, 0, 0], [1.7, 1.7, 1.7]], cell=np.eye(3) * 3.4, pbc=True)
    voids = hills(np.eye(3) * 3.4, [[1.7, 0.85, 0]], [0.8], atoms, width=0.3)
    assert find_maxima(voids).labels.tolist() == ["interstitial"]
    bonds = hills(np.eye(3) * 3.4, [[0.85, 0.85, 0.85]], [0.8], atoms, width=0.3)
    assert find_maxima(bonds).labels.tolist() == ["bond"]


def test_maxima_are_picks_that_go_into_a_table(silicon, tmp_path):
    found = find_maxima(silicon)
    write_picks(tmp_path / "maxima.csv", found)
    again = read_picks(tmp_path / "maxima.csv")
    np.testing.assert_allclose(again.positions, found.positions)
    np.testing.assert_allclose(again.scores, found.scores)
    assert again.labels.tolist() == found.labels.tolist()
    assert (found.scores[:-1] >= found.scores[1:]).all()
    fractions = found.positions @ np.linalg.inv(silicon.cell)
    assert (fractions > -1e-5).all()
    assert (fractions < 1).all()


def test_orthogonal_grids_give_their_voxel_size():
    atoms = Atoms("C", [[1, 1, 1]], cell=CUBIC, pbc=True)
    elf = hills(CUBIC, [[1, 1, 1.7]], [0.9], atoms)
    found = find_maxima(elf)
    assert found.shape == elf.shape
    np.testing.assert_allclose(found.indices * elf.voxel_size, found.positions)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quantity": "electron density"}, "Maxima are found in the ELF"),
        ({"periodic": False}, "not periodic"),
        ({"atoms": None}, "has none"),
        ({"atoms": Atoms(cell=[1, 1, 1])}, "has none"),
        ({"values": np.full((24, 24, 24), np.nan)}, "no numbers"),
        ({"step": 1e-5 * np.eye(3)}, "unit of length"),
    ],
)
def test_what_has_no_maxima_says_why(silicon, change, reason):
    with pytest.raises(Vox3dError, match=reason):
        find_maxima(replace(silicon, **change))


def test_progress_is_reported_and_may_cancel(silicon):
    reports = []
    find_maxima(silicon, progress=lambda *report: reports.append(report))
    assert reports[0][0] == 1
    assert [done for done, _ in reports] == list(range(1, len(reports) + 1))
    assert reports[-1][0] == reports[-1][1]

    def cancel(_done, _total):
        raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        find_maxima(silicon, progress=cancel)


def test_the_voids_of_hp4_sodium_are_no_bonds():
    lattice = [[2.78, 0, 0], [-1.39, 2.4076, 0], [0, 0, 3.87]]
    places = [(0, 0, 0), (0, 0, 0.5), (1 / 3, 2 / 3, 0.25), (2 / 3, 1 / 3, 0.75)]
    atoms = Atoms("Na4", scaled_positions=places, cell=lattice, pbc=True)
    voids = np.array([(2 / 3, 1 / 3, 0.25), (1 / 3, 2 / 3, 0.75)]) @ lattice
    maxima = find_maxima(hills(lattice, voids, [0.95, 0.95], atoms))
    assert list(maxima.labels) == ["interstitial"] * 2
