from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io.cube import read_cube
from ase.units import Bohr
from pymatgen.io.common import VolumetricData

from napari_vox3d import Volume
from napari_vox3d.errors import FormatError
from napari_vox3d.formats import cube, read_atoms

DATA = Path(__file__).parent / "data" / "vasp"


def volume(quantity="electron density", unit="e/Å³", **fields):
    lattice = [[3.0, 0, 0], [-1.5, 2.6, 0], [0.2, 0.1, 5]]
    atoms = Atoms("FeO", scaled_positions=[[0, 0, 0], [0.3, 0.4, 0.5]], cell=lattice, pbc=True)
    values = np.random.default_rng(0).normal(size=(5, 4, 3))
    fields = {"atoms": atoms, "origin": np.array([1.0, 2.0, 3.0]), **fields}
    return Volume.on_lattice(values, lattice, quantity=quantity, unit=unit, **fields)


def test_equals_pymatgen():
    (mine,) = cube.read(DATA / "elec.cube.gz")
    theirs = VolumetricData.from_cube(str(DATA / "elec.cube.gz"))
    assert mine.shape == (24, 23, 23)
    assert mine.quantity == "electron density"
    assert mine.unit == "e/Å³"
    np.testing.assert_allclose(mine.values * Bohr**3, theirs.data["total"].T, rtol=1e-12)
    np.testing.assert_allclose(mine.lattice, theirs.structure.lattice.matrix, rtol=1e-6)
    np.testing.assert_allclose(mine.atoms.positions, theirs.structure.cart_coords, rtol=1e-6)
    # 4 Cr of 14 and 5 O of 6 valence electrons, as well as so coarse a grid can sum them
    assert mine.values.mean() * mine.volume == pytest.approx(86, rel=0.05)


@pytest.mark.parametrize("name", ["a.cube", "a.cub.gz"])
@pytest.mark.parametrize(
    ("quantity", "unit"),
    [
        ("electron density", "e/Å³"),
        ("superposed atomic density", "e/Å³"),
        ("spin density", "e/Å³"),
        ("elf", ""),
        ("potential", "eV"),
        ("density", ""),
    ],
)
def test_round_trip(tmp_path, name, quantity, unit):
    mine = volume(quantity, unit)
    cube.write(tmp_path / name, mine)
    (again,) = cube.read(tmp_path / name)
    np.testing.assert_allclose(again.values, mine.values, rtol=1e-6)
    np.testing.assert_allclose(again.step, mine.step, atol=1e-6)
    np.testing.assert_allclose(again.origin, mine.origin, atol=1e-6)
    np.testing.assert_allclose(again.atoms.positions, mine.atoms.positions, atol=1e-6)
    assert (again.quantity, again.unit, again.periodic) == (quantity, unit, True)


def test_ase_reads_what_is_written(tmp_path):
    mine = volume(origin=np.zeros(3))
    cube.write(tmp_path / "a.cube", mine)
    with (tmp_path / "a.cube").open() as file:
        theirs = read_cube(file)
    np.testing.assert_allclose(theirs["data"].T, mine.values * Bohr**3, rtol=1e-6)
    np.testing.assert_allclose(theirs["spacing"], mine.step[::-1, ::-1], atol=1e-6)
    np.testing.assert_allclose(theirs["atoms"].positions, mine.atoms.positions, atol=1e-6)


def test_file_is_in_bohr(tmp_path):
    mine = volume()
    cube.write(tmp_path / "a.cube", mine)
    lines = (tmp_path / "a.cube").read_text().splitlines()
    np.testing.assert_allclose(
        [float(x) for x in lines[2].split()[1:]], np.array([3, 2, 1]) / Bohr, 1e-6
    )
    assert float(lines[8]) == pytest.approx(mine.values[0, 0, 0] * Bohr**3, rel=1e-6)
    assert float(lines[9]) == pytest.approx(mine.values[1, 0, 0] * Bohr**3, rel=1e-6)


@pytest.mark.parametrize(
    ("comment", "quantity"),
    [
        ("SUM OF ALPHA AND BETA DENSITY", "electron density"),
        ("Electron density from Total SCF Density", "electron density"),
        ("SPIN DENSITY", "spin density"),
        ("alpha minus beta density, spin", "spin density"),
        ("kinetic energy density", "density"),
        ("ELF", "elf"),
        ("self-consistent potential", "density"),
        ("Title", "density"),
    ],
)
def test_quantity_is_told_by_the_comment(tmp_path, comment, quantity):
    cube.write(tmp_path / "a.cube", volume("density", ""))
    text = (tmp_path / "a.cube").read_text().split("\n", 1)[1]
    (tmp_path / "a.cube").write_text(f"{comment}\n{text}")
    (again,) = cube.read(tmp_path / "a.cube")
    assert again.quantity == quantity
    factor = Bohr**3 if "density" in quantity and quantity != "density" else 1
    np.testing.assert_allclose(again.values * factor, volume().values, rtol=1e-6)


def test_several_values_at_each_point(tmp_path):
    head = "two orbitals\n\n -1 0 0 0 2\n 1 2 0 0\n 1 0 2 0\n 3 0 0 2\n 1 1 0 0 0\n 2 4 5\n"
    path = tmp_path / "mo.cube"
    path.write_text(head + " 1 2 3 4 5 6\n")
    first, second = cube.read(path)
    assert first.values.ravel().tolist() == [1, 3, 5]
    assert second.values.ravel().tolist() == [2, 4, 6]
    assert (first.name, second.name) == ("H mo.cube 4", "H mo.cube 5")


def test_a_box_stays_a_box(tmp_path):
    step = np.array([[0.5, 0, 0.1], [0, 0.4, 0], [0, 0, 0.3]])
    box = Volume(np.random.default_rng(1).normal(size=(4, 3, 2)), step, [1.0, 2, 3])
    cube.write(tmp_path / "a.cube", box)
    (again,) = cube.read(tmp_path / "a.cube")
    assert not again.periodic
    np.testing.assert_allclose(again.step, step, atol=1e-6)
    np.testing.assert_allclose(again.values, box.values, rtol=1e-6)


def test_a_left_handed_cell_equals_pymatgen(tmp_path):
    lattice = np.array([[3.0, 0, 0], [0.4, 2.6, 0], [0.2, 0.1, -5]])
    values = np.random.default_rng(2).random((5, 4, 3))
    atoms = Atoms("FeO", scaled_positions=[[0, 0, 0], [0.3, 0.4, 0.5]], cell=lattice, pbc=True)
    mine = Volume.on_lattice(
        values, lattice, quantity="electron density", unit="e/Å³", atoms=atoms
    )  # fmt: skip
    cube.write(tmp_path / "a.cube", mine)
    theirs = VolumetricData.from_cube(str(tmp_path / "a.cube"))
    np.testing.assert_allclose(theirs.data["total"].T / Bohr**3, values, rtol=1e-6)
    np.testing.assert_allclose(theirs.structure.lattice.matrix, lattice, atol=1e-5)
    np.testing.assert_allclose(theirs.structure.cart_coords, atoms.positions, atol=1e-5)
    np.testing.assert_allclose(cube.read(tmp_path / "a.cube")[0].lattice, lattice, atol=1e-5)


@pytest.mark.parametrize("cut", [10, 200, 900])
def test_truncated(tmp_path, cut):
    cube.write(tmp_path / "a.cube", volume())
    path = tmp_path / "short.cube"
    path.write_bytes((tmp_path / "a.cube").read_bytes()[:cut])
    with pytest.raises(FormatError, match="not a complete cube"):
        cube.read(path)


def test_without_atoms(tmp_path):
    cube.write(tmp_path / "a.cube", volume(atoms=None))
    (again,) = cube.read(tmp_path / "a.cube")
    assert len(again.atoms) == 0


def test_complex_values_are_refused(tmp_path):
    mine = volume()
    with pytest.raises(FormatError, match="complex"):
        cube.write(tmp_path / "a.cube", mine.with_values(mine.values * 1j))


HEAD = "two orbitals\n\n{} 0 0 0\n 1 2 0 0\n 1 0 2 0\n 3 0 0 2\n 1 1 0 0 0\n"


def test_orbitals_of_orca_state_their_count_with_their_numbers_only(tmp_path):
    path = tmp_path / "mo.cube"
    path.write_text(HEAD.format(-1) + " 2 6\n 7\n 1. 2. 3. 4.\n 5. 6.\n")
    sixth, seventh = cube.read(path)
    assert sixth.values.ravel().tolist() == [1, 3, 5]
    assert seventh.values.ravel().tolist() == [2, 4, 6]
    assert (sixth.name, seventh.name) == ("H mo.cube 6", "H mo.cube 7")
    path.write_text(HEAD.format(-1) + " 2 6\n")
    with pytest.raises(FormatError, match="within the numbers of its orbitals"):
        cube.read(path)


def test_orbitals_of_molden_are_not_announced(tmp_path):
    path = tmp_path / "mo.cube"
    path.write_text(HEAD.format(1) + "1   4\n 1.0 2.0 3.0\n")
    (orbital,) = cube.read(path)
    assert orbital.values.ravel().tolist() == [1, 2, 3]
    assert orbital.name == "H mo.cube 4"
    path.write_text(HEAD.format(1) + "2   4 7\n")  # three values and no label
    assert cube.read(path)[0].values.ravel().tolist() == [2, 4, 7]


def test_numbers_without_a_blank_between_them(tmp_path):
    path = tmp_path / "a.cube"
    path.write_text(HEAD.format(1) + "-5.19709E-018-5.2E+001 1.5D-01\n")
    assert cube.read(path)[0].values.ravel().tolist() == [-5.19709e-18, -52, 0.15]


def test_a_negative_number_of_points_means_angstrom(tmp_path):
    path = tmp_path / "a.cube"
    path.write_text("a\n\n 1 1 0 0\n -1 2 0 0\n 1 0 2 0\n 3 0 0 2\n 1 1 0 0 3\n 1. 2. 3.\n")
    (volume,) = cube.read(path)
    np.testing.assert_array_equal(volume.voxel_size, [2, 2, 2])
    np.testing.assert_array_equal(volume.origin, [0, 0, 1])
    np.testing.assert_array_equal(volume.atoms.positions, [[0, 0, 3]])


def test_castep_repeats_the_first_planes(tmp_path):
    path = tmp_path / "a.cube"
    values = np.arange(27.0).reshape(3, 3, 3)
    rows = "\n".join(" ".join(f"{v:.1f}" for v in row) for row in values.reshape(9, 3))
    head = "density\ncastep2cube\n 0 0 0 0\n 3 2 0 0\n 3 0 2 0\n 3 0 0 2\n"
    path.write_text(f"{head}{rows}\n")
    (volume,) = cube.read(path)
    assert volume.shape == (2, 2, 2)
    np.testing.assert_allclose(volume.values.T * Bohr**3, values[:-1, :-1, :-1])
    np.testing.assert_allclose(volume.atoms.cell.lengths(), 4 * Bohr)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("1. 2. 3.\n4. 5. 6. 7.\n", "more than the 3 values"),
        ("1. 2. ***\n", "no numbers"),
        ("1. 2.\n", "ends after 2 of 3 values"),
        ("1. 2. oops\n", "oops"),
    ],
)
def test_values_that_do_not_fit(tmp_path, values, message):
    path = tmp_path / "a.cube"
    path.write_text(HEAD.format(1) + values)
    with pytest.raises(FormatError, match=message):
        cube.read(path)


def test_a_grid_beyond_measure(tmp_path):
    path = tmp_path / "a.cube"
    path.write_text("a\n\n 0 0 0 0\n 9999999 2 0 0\n 9999999 0 2 0\n 9999999 0 0 2\n 1. 2.\n")
    with pytest.raises(FormatError, match="ends before its"):
        cube.read(path)


def test_atoms_without_the_values(tmp_path):
    path = tmp_path / "mo.cub"
    path.write_text(HEAD.format(-1) + " 2 6\n 7\n 1. 2. 3. 4.\n 5. 6.\n")
    atoms = read_atoms(path)
    assert atoms.get_chemical_formula() == "H"
    np.testing.assert_allclose(atoms.cell.lengths(), np.array([2, 2, 6]) * Bohr)
    path.write_text("a\n\n 1 0 0 0\n 1 2 0 0\n")
    with pytest.raises(FormatError, match="not a complete cube"):
        read_atoms(path)
