import gzip
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
from ase import Atoms

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.poscar import format_poscar
from napari_vox3d.formats.structures import read_atoms

DATA = Path(__file__).parent / "data" / "vasp"
LATTICE = np.array([[2.0, 0, 0], [0.5, 3.0, 0], [0, 0, 4.0]])


def poscar(scale="1.0", species="Fe O\n", counts="1 2", mode="Direct", rows=None):
    rows = rows or "0 0 0\n.5 .5 .5\n.25 .5 .75"
    lattice = "\n".join(" ".join(map(str, row)) for row in LATTICE)
    return f"Fe O\n{scale}\n{lattice}\n{species}{counts}\n{mode}\n{rows}\n"


def read(folder, text, name="POSCAR"):
    path = folder / name
    path.write_text(text)
    return read_atoms(path)


@pytest.mark.parametrize(
    "text",
    [
        poscar(),
        poscar("1.7"),
        poscar("-48.0"),
        poscar(species=""),
        poscar(mode="Cartesian", scale="2.0"),
        poscar(mode="kartesisch"),
        poscar(mode="Selective dynamics\nDirect", rows="0 0 0 T T F\n.5 .5 .5 F F F\n0 .5 0 T T T"),
        poscar(mode="direct", rows="0 0 0 Fe\n.5 .5 .5 O\n.1 .2 .3 O"),
        poscar(rows="0 0 0\n.5 .5 .5\n.1 .2 .3\n\n 0 0 0\n 0 0 0\n 0 0 0"),
    ],
)
def test_equals_ase(tmp_path, text):
    mine = read(tmp_path, text)
    theirs = ase.io.read(tmp_path / "POSCAR", format="vasp")
    np.testing.assert_allclose(mine.cell.array, theirs.cell.array, atol=1e-12)
    np.testing.assert_allclose(mine.positions, theirs.positions, atol=1e-12)
    assert mine.get_chemical_symbols() == theirs.get_chemical_symbols() == ["Fe", "O", "O"]
    assert mine.pbc.all()


def test_negative_scale_is_the_volume(tmp_path):
    assert read(tmp_path, poscar("-100.0")).get_volume() == pytest.approx(100)


def test_three_factors_scale_x_y_and_z_of_lattice_and_positions(tmp_path):
    cartesian = read(tmp_path, poscar("2.0 3.0 0.5", mode="Cartesian", rows="1 1 1\n0 0 0\n1 0 2"))
    np.testing.assert_allclose(cartesian.cell.array, LATTICE * [2, 3, 0.5])
    np.testing.assert_allclose(cartesian.positions[0], [2, 3, 0.5])
    direct = read(tmp_path, poscar("2.0 3.0 0.5"))
    np.testing.assert_allclose(direct.get_scaled_positions()[2], [0.25, 0.5, 0.75])


@pytest.mark.parametrize(
    ("species", "expected"),
    [
        ("Fe/ O\n", ["Fe", "O"]),
        ("Mg_pv/f474ac0d Si/79d9987ad87\n", ["Mg", "Si"]),
        ("Fe\nO\n", ["Fe", "O"]),
        ("H.75 Qq\n", ["H", "X"]),
    ],
)
def test_names_of_elements(tmp_path, species, expected):
    assert read(tmp_path, poscar(species=species)).get_chemical_symbols()[:2] == expected


def test_counts_over_several_lines(tmp_path):
    atoms = read(tmp_path, poscar(counts="1\n2"))
    assert atoms.get_chemical_formula() == "FeO2"


def test_vasp_4_without_elements_in_the_comment(tmp_path):
    text = poscar(species="").replace("Fe O\n", "some system\n", 1)
    assert read(tmp_path, text).get_chemical_symbols() == ["X"] * 3


def test_left_handed_cell_stays_as_it_is(tmp_path):
    text = poscar().replace("0.0 0.0 4.0", "0.0 0.0 -4.0")
    atoms = read(tmp_path, text)
    assert np.linalg.det(atoms.cell.array) < 0
    assert atoms.positions[1, 2] == -2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (poscar("zero"), "line 2.*scale factor"),
        (poscar("0.0"), "line 2.*scale factor"),
        (poscar("1.0 -1.0 1.0"), "line 2.*positive"),
        (poscar().replace("0.5 3.0 0.0", "0.5 3.0"), "line 4.*lattice vector"),
        (poscar().replace("0.5 3.0 0.0", "4.0 0.0 0.0"), "no volume"),
        (poscar(species="", counts="one 2"), "line 6.*elements"),
        (poscar(counts="1"), "2 elements"),
        (poscar(counts="1 2 3"), "2 elements"),
        (poscar(counts="0 0"), "2 elements"),
        (poscar(counts="2 2"), "ends before a position"),
        (poscar(rows="0 0 0\n.5 .5\n0 0 0"), "line 10.*position"),
        (poscar(rows="0 0 0\n.5 nan 0\n0 0 0"), "line 10.*position"),
    ],
)
def test_damaged_poscar(tmp_path, text, reason):
    with pytest.raises(FormatError, match=reason):
        read(tmp_path, text)


@pytest.mark.parametrize("name", ["CHGCAR_water", "ELFCAR.gz", "LOCPOT.vasp642.gz"])
def test_atoms_of_a_volume(name):
    from napari_vox3d.formats import vasp

    atoms = read_atoms(DATA / name)
    (volume, *_) = vasp.read(DATA / name)
    np.testing.assert_array_equal(atoms.positions, volume.atoms.positions)


def test_atoms_of_a_cube():
    assert read_atoms(DATA / "elec.cube.gz").get_chemical_formula() == "Cr4O5"


@pytest.mark.parametrize("name", ["Si.cif", "NaCl.extxyz", "NaCl.xsf"])
def test_through_ase(tmp_path, name):
    crystal = ase.build.bulk("NaCl", "rocksalt", a=5.64)
    ase.io.write(tmp_path / name, crystal)
    atoms = read_atoms(tmp_path / name)
    assert atoms.get_volume() == pytest.approx(crystal.get_volume())
    assert sorted(atoms.symbols) == ["Cl", "Na"]


def test_compressed_cif(tmp_path):
    ase.io.write(tmp_path / "Si.cif", ase.build.bulk("Si"))
    packed = tmp_path / "Si.cif.gz"
    packed.write_bytes(gzip.compress((tmp_path / "Si.cif").read_bytes()))
    assert len(read_atoms(packed)) == 2


@pytest.mark.parametrize("name", ["structure_1", "POSCAR-distorted", "my.POSCAR", "Fe.vasp"])
def test_a_poscar_of_any_name(tmp_path, name):
    assert len(read(tmp_path, poscar(), name)) == 3


def test_no_cell(tmp_path):
    ase.io.write(tmp_path / "water.xyz", ase.build.molecule("H2O"), plain=True)
    with pytest.raises(FormatError, match="no unit cell"):
        read_atoms(tmp_path / "water.xyz")


def test_what_ase_cannot_read(tmp_path):
    with pytest.raises(FormatError, match="cannot be read as a structure"):
        read(tmp_path, "data_\nnonsense\n", "broken.cif")


def test_written_structure_block_is_exact(tmp_path):
    random = np.random.default_rng(0)
    atoms = Atoms("OFe2O", positions=random.normal(size=(4, 3)), cell=LATTICE, pbc=True)
    again = read(tmp_path, format_poscar(atoms, atoms.cell.array))
    np.testing.assert_array_equal(again.cell.array, LATTICE)
    np.testing.assert_allclose(again.positions, atoms.positions, atol=1e-14)
    assert again.get_chemical_symbols() == ["O", "Fe", "Fe", "O"]


def test_partly_occupied_sites_are_warned_of(tmp_path):
    sites = "Cu1 Cu 0 0 0 0.5\nAu1 Au 0 0 0 0.5\nO1 O 0.5 0.5 0.5 1\n"
    lengths = "".join(f"_cell_length_{axis} 4\n" for axis in "abc")
    angles = "".join(f"_cell_angle_{name} 90\n" for name in ("alpha", "beta", "gamma"))
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")
    loop = "loop_\n" + "".join(f"_atom_site_{column}\n" for column in columns)
    (tmp_path / "a.cif").write_text(f"data_a\n{lengths}{angles}{loop}{sites}")
    with pytest.warns(UserWarning, match="Au \\+ Cu"):
        atoms = read_atoms(tmp_path / "a.cif")
    assert len(atoms) == 2
