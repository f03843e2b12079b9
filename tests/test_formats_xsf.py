import gzip
import io
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.io import read as ase_read
from ase.io.xsf import read_xsf, write_xsf
from pymatgen.io.xcrysden import XSF

from napari_vox3d import Volume
from napari_vox3d.errors import FormatError
from napari_vox3d.formats import kind_of, read_atoms, read_volume, read_volumes, write_volume, xsf

TRICLINIC = [[3.0, 0.1, 0], [-1.5, 2.6, 0.3], [0.2, 0.1, 5]]
LEFT_HANDED = [[3.0, 0, 0], [0.4, 2.6, 0], [0.2, 0.1, -5]]


def crystal(lattice=TRICLINIC, quantity="electron density", unit="e/Å³", **fields):
    atoms = Atoms("FeO", scaled_positions=[[0, 0, 0], [0.3, 0.4, 0.5]], cell=lattice, pbc=True)
    values = np.random.default_rng(0).normal(size=(5, 4, 3))
    fields = {"atoms": atoms, **fields}
    return Volume.on_lattice(values, lattice, quantity=quantity, unit=unit, **fields)


def box(**fields):
    """Part of a molecule's surroundings: a grid that does not repeat."""
    step = np.array([[0.5, 0, 0.1], [0, 0.4, 0], [0, 0, 0.3]])
    values = np.random.default_rng(1).normal(size=(4, 3, 2))
    return Volume(values, step, [1.0, 2, 3], **fields)


@pytest.mark.parametrize("lattice", [TRICLINIC, LEFT_HANDED])
@pytest.mark.parametrize("name", ["a.xsf", "a.XSF", "a.xsf.gz"])
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
def test_round_trip(tmp_path, name, lattice, quantity, unit):
    mine = crystal(lattice, quantity, unit, origin=np.array([0.5, -1, 2]))
    write_volume(tmp_path / name, mine)
    (again,) = read_volumes(tmp_path / name)
    np.testing.assert_allclose(again.values, mine.values, rtol=1e-10)
    np.testing.assert_allclose(again.step, mine.step, atol=1e-10)
    np.testing.assert_allclose(again.origin, mine.origin, atol=1e-10)
    np.testing.assert_allclose(again.atoms.positions, mine.atoms.positions, atol=1e-10)
    np.testing.assert_allclose(again.atoms.cell, lattice)
    assert (again.quantity, again.unit, again.periodic) == (quantity, unit, True)


def test_a_grid_that_does_not_repeat(tmp_path):
    for atoms in (Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]), None):
        mine = box(atoms=atoms)
        write_volume(tmp_path / "a.xsf", mine)
        again = read_volume(tmp_path / "a.xsf")
        np.testing.assert_allclose(again.values, mine.values, rtol=1e-10)
        np.testing.assert_allclose(again.step, mine.step)
        np.testing.assert_allclose(again.origin, mine.origin)
        assert not again.periodic
        assert (again.atoms is None) == (atoms is None)


@pytest.mark.parametrize("lattice", [TRICLINIC, LEFT_HANDED])
def test_ase_reads_what_is_written(tmp_path, lattice):
    mine = crystal(lattice)
    write_volume(tmp_path / "a.xsf", mine)
    with (tmp_path / "a.xsf").open() as file:
        data, origin, span, atoms = read_xsf(file, read_data=True)
    assert data.shape == (4, 5, 6)
    np.testing.assert_allclose(data[:-1, :-1, :-1], mine.values.T, rtol=1e-10)
    for axis in range(3):
        np.testing.assert_array_equal(data.take(0, axis), data.take(-1, axis))
    np.testing.assert_allclose(span, lattice, atol=1e-10)
    np.testing.assert_allclose(origin, 0)
    np.testing.assert_allclose(atoms.positions, mine.atoms.positions)


def test_pymatgen_reads_the_structure(tmp_path):
    write_volume(tmp_path / "a.xsf", crystal())
    structure = XSF.from_str((tmp_path / "a.xsf").read_text()).structure
    np.testing.assert_allclose(structure.lattice.matrix, TRICLINIC)
    np.testing.assert_allclose(structure.cart_coords, crystal().atoms.positions)


def test_what_ase_writes_is_read(tmp_path):
    mine = crystal()
    whole = np.pad(mine.values, (0, 1), mode="wrap").T
    write_xsf(tmp_path / "a.xsf", [mine.atoms], whole, np.zeros(3), np.array(TRICLINIC))
    again = read_volume(tmp_path / "a.xsf")
    np.testing.assert_allclose(again.values, mine.values, atol=1e-6)
    np.testing.assert_allclose(again.step, mine.step, atol=1e-6)
    assert again.periodic
    assert (again.quantity, again.unit) == ("density", "")  # ASE says nothing of them


ESPRESSO = """ CRYSTAL
 PRIMVEC
    2.0 0.0 0.0
    0.0 3.0 0.0
    0.5 0.0 4.0
 PRIMCOORD
    1   1
 Si  0.0 0.0 0.0
BEGIN_BLOCK_DATAGRID_3D
3D_PWSCF
DATAGRID_3D_UNKNOWN
    3 2 2
  0.0 0.0 0.0
  2.0 0.0 0.0
  0.0 3.0 0.0
  0.5 0.0 4.0
   1.0D0 2.0 1.0 1.0 2.0
   1.0 1 2 1 1 2 1
END_DATAGRID_3D
END_BLOCK_DATAGRID_3D
"""


def test_quantum_espresso(tmp_path):
    path = tmp_path / "rho.xsf"
    path.write_text(ESPRESSO)
    volume = read_volume(path)
    assert volume.values.tolist() == [[[1, 2]]]
    np.testing.assert_allclose(volume.step, [[4, 0, 0.5], [0, 3, 0], [0, 0, 1]])
    assert volume.periodic
    assert volume.name == "Si rho.xsf UNKNOWN"


def test_several_grids_and_comments(tmp_path):
    one = "BEGIN_DATAGRID_3D_{0}\n 2 2 2 0 0 0 1 0 0 0 1 0\n 0 0 1\n {0} 1 2 3\n4 5 6 7\n"
    path = tmp_path / "orbitals.xsf"
    path.write_text(
        "# made by hand\nMOLECULE\nATOMS\n 6 0 0 0 0.1 0.2 0.3\nBEGIN_BLOCK_DATAGRID_3D\n"
        f" orbitals\n{one.format(8)}END_DATAGRID_3D\n{one.format(9)}END_DATAGRID_3D\n"
        f"END_BLOCK_DATAGRID_3D\nBEGIN_BLOCK_DATAGRID_3D\nelf\n{one.format(0)}END_DATAGRID_3D\n"
    )
    volumes = read_volumes(path)
    assert [volume.values.flat[0] for volume in volumes] == [8, 9, 0]
    assert [volume.quantity for volume in volumes] == ["density", "density", "elf"]
    assert volumes[1].values[1, 0, 0] == 4
    assert volumes[0].name == "C orbitals.xsf 8"
    assert volumes[0].atoms.calc is None


@pytest.mark.parametrize("group", ["DIM-GROUP\n 3 1", "SLAB", "CRYSTAL"])
def test_a_grid_without_its_end_points_is_taken_as_a_period(tmp_path, group):
    text = ESPRESSO.replace(" CRYSTAL", group).replace("1.0D0 2.0 1.0", "1.0 2.0 3.0")
    (tmp_path / "a.xsf").write_text(text)
    with pytest.warns(UserWarning, match="does not repeat its first planes"):
        volume = read_volume(tmp_path / "a.xsf")
    assert volume.shape == (2, 2, 3)
    np.testing.assert_allclose(volume.step[2], [0, 0, 2 / 3])
    assert volume.periodic


def test_a_part_of_a_crystal_is_no_period(tmp_path):
    text = ESPRESSO.replace("0 0.0 0.0\n  0.0 3.0 0.0\n  0.5", "0 0.0 0.0\n  0.0 2.0 0.0\n  0.5")
    (tmp_path / "a.xsf").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume = read_volume(tmp_path / "a.xsf")
    assert not volume.periodic
    assert volume.shape == (2, 2, 3)
    np.testing.assert_allclose(volume.voxel_size[1], 2)


def test_a_structure_alone_is_a_structure(tmp_path):
    head = ESPRESSO.partition("BEGIN_BLOCK")[0]
    for name, text in (("a.xsf", head), ("b.xsf", head.replace(" CRYSTAL", "DIM-GROUP\n3 1"))):
        (tmp_path / name).write_text(text)
        assert kind_of(tmp_path / name) == "structure"
        assert read_atoms(tmp_path / name).get_chemical_formula() == "Si"
        with pytest.raises(FormatError, match="structure and no grid"):
            read_volumes(tmp_path / name)
    with pytest.raises(FormatError, match="without a grid"):
        xsf.read(tmp_path / "a.xsf")


def test_atoms_of_a_file_with_a_grid(tmp_path):
    write_volume(tmp_path / "a.xsf.gz", crystal())
    assert kind_of(tmp_path / "a.xsf.gz") == "volume"
    atoms = read_atoms(tmp_path / "a.xsf.gz")
    plain = io.StringIO(gzip.decompress((tmp_path / "a.xsf.gz").read_bytes()).decode())
    np.testing.assert_allclose(atoms.positions, ase_read(plain, format="xsf").positions)
    write_volume(tmp_path / "b.xsf", box())
    with pytest.raises(FormatError, match="holds no atoms"):
        read_atoms(tmp_path / "b.xsf")


def test_content_tells_an_xsf_file(tmp_path):
    (tmp_path / "rho.dat").write_text(ESPRESSO)
    assert read_volume(tmp_path / "rho.dat").shape == (1, 1, 2)
    (tmp_path / "Si.dat").write_text(ESPRESSO.partition("BEGIN_BLOCK")[0])
    assert kind_of(tmp_path / "Si.dat") == "structure"
    assert len(read_atoms(tmp_path / "Si.dat")) == 1


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (ESPRESSO[ESPRESSO.index("1 1 2 1\n") :], "", "is truncated"),
        ("1 1 2 1\n", "1\n", "line 18: the grid ends after 9 of 12 values"),
        ("1 1 2 1\n", "1 1 2 1 5\n", "more"),
        ("1 1 2 1\n", "1 1 2 1\n 5\n", "line 19: more values than the grid of 3 × 2 × 2"),
        ("1 1 2 1\n", "1 a 2 1\n", "'?a'?"),
        ("3 2 2\n", "3 2 1\n", "at least two points"),
        ("3 2 2\n", "3 2\n", "does not begin with three sizes"),
        ("3 2 2\n", "30000 20000 20000\n", "is truncated"),
        ("  0.5 0.0 4.0\n   1", "  0.0 3.0 0.0\n   1", "not independent"),
        (ESPRESSO[ESPRESSO.index("DATAGRID_3D_U") :], "", "ends before the first one"),
        ("Si  0.0 0.0 0.0", "Q7  0.0 0.0 0.0", "structure that cannot be read"),
        ("    1   1\n", "    7   1\n", "structure that cannot be read"),
    ],
)
def test_damaged_files_are_one_clear_error(tmp_path, before, after, message):
    assert before in ESPRESSO
    (tmp_path / "a.xsf").write_text(ESPRESSO.replace(before, after, 1))
    with pytest.raises(FormatError, match=message):
        read_volumes(tmp_path / "a.xsf")


def test_what_cannot_be_written_is_told(tmp_path):
    mine, path = crystal(), tmp_path / "a.xsf"
    with pytest.raises(FormatError, match="complex"):
        write_volume(path, mine.with_values(mine.values * 1j))
    with pytest.raises(FormatError, match=r"needs atoms.*\.cube"):
        write_volume(path, crystal(atoms=None))
    with pytest.raises(FormatError, match="1e99"):
        write_volume(path, mine.with_values(mine.values * 1e120))
    with pytest.raises(FormatError, match=r"two points along each axis.*1 × 3 × 2"):
        write_volume(path, Volume(box().values[:1], 1.0))
    assert not path.exists()
