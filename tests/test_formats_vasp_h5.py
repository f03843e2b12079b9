import gzip
import sys

import h5py
import numpy as np
import pytest
from ase import Atoms
from pymatgen.io.vasp.outputs import Vaspwave

from napari_vox3d.errors import FormatError
from napari_vox3d.formats import kind_of, read_atoms, read_volumes, write_volume
from napari_vox3d.volume import Volume

TRICLINIC = np.array([[3.0, 0.1, 0], [-1.5, 2.6, 0.3], [0.2, 0.1, 5]])
LEFT_HANDED = TRICLINIC * [[1], [1], [-1]]
POSITIONS = np.array([[0, 0, 0], [0.3, 0.4, 0.5], [0.1, 0.9, 0.2]])
GRID = (5, 4, 3)  # z, y, x


def values(*leading):
    return np.random.default_rng(len(leading)).normal(size=(*leading, *GRID))


def put_structure(file, place="results/positions", lattice=TRICLINIC, positions=POSITIONS):
    """Write the lattice in units of `scale`, as VASP does."""
    file[f"{place}/scale"] = 2.0
    file[f"{place}/lattice_vectors"] = lattice / 2
    file[f"{place}/position_ions"] = positions
    file[f"{place}/direct_coordinates"] = 1
    put_elements(file, place)


def put_elements(file, place="results/positions"):
    file[f"{place}/ion_types"] = np.array([b"Mg_pv", b"O "])
    file[f"{place}/number_ion_types"] = np.array([1, 2])


def write_wave(path, components, lattice=TRICLINIC):
    with h5py.File(path, "w") as file:
        file["version/major"] = 6
        file["charge/grid"] = GRID[::-1]
        file["charge/charge"] = values(components)
        put_structure(file, "structure/positions", lattice)


@pytest.fixture
def wave(tmp_path):
    return tmp_path / "vaspwave.h5"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "vaspout.h5"


@pytest.mark.parametrize("lattice", [TRICLINIC, LEFT_HANDED])
@pytest.mark.parametrize(("components", "channels"), [
    (1, [""]), (2, [" total", " difference"]), (4, [" total", " mx", " my", " mz"]),
])  # fmt: skip
def test_charge(wave, components, channels, lattice):
    write_wave(wave, components, lattice)
    volumes = read_volumes(wave)
    assert [volume.name for volume in volumes] == [f"MgO2 charge{name}" for name in channels]
    spins = ["spin density"] * (components - 1)
    assert [volume.quantity for volume in volumes] == ["electron density", *spins]
    for volume, stored in zip(volumes, values(components), strict=True):
        np.testing.assert_allclose(volume.values * abs(np.linalg.det(lattice)), stored)
        np.testing.assert_allclose(volume.lattice, lattice)
        assert volume.unit == "e/Å³"
        assert volume.periodic
        assert volume.atoms.get_chemical_symbols() == ["Mg", "O", "O"]
        np.testing.assert_allclose(volume.atoms.get_scaled_positions(), POSITIONS, atol=1e-12)


def test_equals_pymatgen(wave):
    write_wave(wave, 2)
    with h5py.File(wave, "r+") as file:  # pymatgen wants bare elements
        file["structure/positions/ion_types"][:] = [b"Mg", b"O"]
    total, difference = read_volumes(wave)
    theirs = Vaspwave(wave).get_chgcar()
    size = theirs.structure.volume
    np.testing.assert_allclose(total.values.T * size, theirs.data["total"])
    np.testing.assert_allclose(difference.values.T * size, theirs.data["diff"])
    np.testing.assert_allclose(total.lattice, theirs.structure.lattice.matrix)
    symbols = [site.specie.symbol for site in theirs.structure]
    expected = Atoms(symbols, theirs.structure.cart_coords).positions
    np.testing.assert_allclose(total.atoms.positions, expected, atol=1e-12)


def test_cartesian_positions(wave):
    write_wave(wave, 1)
    with h5py.File(wave, "r+") as file:
        file["structure/positions/position_ions"][:] = POSITIONS @ TRICLINIC / 2
        file["structure/positions/direct_coordinates"][()] = 0
    (volume,) = read_volumes(wave)
    np.testing.assert_allclose(volume.atoms.positions, POSITIONS @ TRICLINIC)


def test_the_structure_is_that_of_the_file_beside_it(wave, out):
    write_wave(wave, 1)
    with h5py.File(wave, "r+") as file:
        del file["structure"]
    with pytest.raises(FormatError, match=r"no structure.*vaspout\.h5 of the same run"):
        read_volumes(wave)
    with h5py.File(out, "w") as file:
        put_structure(file)
    assert read_volumes(wave)[0].atoms.get_chemical_formula() == "MgO2"
    np.testing.assert_allclose(read_atoms(wave).positions, POSITIONS @ TRICLINIC)


def test_the_last_step_of_a_run_counts(out):
    with h5py.File(out, "w") as file:
        put_elements(file)
        file["results/charge/core"] = values(1)
        steps = file.create_group("intermediate/ion_dynamics")
        steps["lattice_vectors"] = np.stack([np.eye(3), TRICLINIC])
        steps["position_ions"] = np.stack([0 * POSITIONS, POSITIONS])
    (core,) = read_volumes(out)
    np.testing.assert_allclose(core.lattice, TRICLINIC)
    np.testing.assert_allclose(core.atoms.get_scaled_positions(), POSITIONS, atol=1e-12)
    assert core.name == "MgO2 core"


@pytest.mark.parametrize(("components", "channels"), [
    (1, [""]), (2, [" up", " down"]), (4, [" total", " x", " y", " z"]),
])  # fmt: skip
def test_potentials(out, components, channels):
    stored = values(components)
    with h5py.File(out, "w") as file:
        put_structure(file)
        file["results/potential/total"] = stored
        file["results/potential/hartree"] = values(1)
    *total, hartree = read_volumes(out)
    assert [v.name for v in total] == [f"MgO2 total potential{name}" for name in channels]
    assert {(v.quantity, v.unit) for v in (*total, hartree)} == {("potential", "eV")}
    if components == 2:  # stored are the mean and half the difference
        stored = np.stack([stored[0] + stored[1], stored[0] - stored[1]])
    for volume, expected in zip(total, stored, strict=True):
        np.testing.assert_allclose(volume.values, expected)
    np.testing.assert_allclose(hartree.values, values(1)[0])


def test_partial_charges(out):
    stored = values(2, 3, 2)
    with h5py.File(out, "w") as file:
        put_structure(file)
        file["results/partial_charges/parchg"] = stored
        file["results/partial_charges/kpoints"] = [4, 7]
        file["results/partial_charges/bands"] = [10, 11, 12]
        file["results/partial_charges/grid"] = GRID[::-1]
    volumes = read_volumes(out)
    assert len(volumes) == 12
    assert volumes[2].name == "MgO2 partial charge band 11 k point 4 total"
    per_point = stored.reshape(12, *GRID)[7] / np.prod(GRID) / np.linalg.det(TRICLINIC)
    np.testing.assert_allclose(volumes[7].values, per_point)
    with h5py.File(out, "r+") as file:
        del file["results/partial_charges/parchg"]
        file["results/partial_charges/parchg"] = values(1, 1, 1)
        file["results/partial_charges/kpoints"][:] = 0
        file["results/partial_charges/bands"][:] = 0
    assert [volume.name for volume in read_volumes(out)] == ["MgO2 partial charge"]


def test_a_run_without_grids_is_a_structure(out):
    with h5py.File(out, "w") as file:
        put_structure(file)
    assert kind_of(out) == "structure"
    np.testing.assert_allclose(read_atoms(out).positions, POSITIONS @ TRICLINIC)
    with pytest.raises(FormatError, match="structure and no grid"):
        read_volumes(out)


def test_other_names_and_compression(wave):
    write_wave(wave, 1)
    for name, content in (("MgO.h5", bytes), ("MgO_vaspwave.h5.gz", gzip.compress)):
        path = wave.with_name(name)
        path.write_bytes(content(wave.read_bytes()))
        assert kind_of(path) == "volume"
        assert read_volumes(path)[0].shape == GRID


def test_an_hdf5_file_of_another_program(wave):
    with h5py.File(wave, "w") as file:
        file["data"] = [1, 2]
    with pytest.raises(FormatError, match=r"no charge density or potential.*LCHARGH5"):
        read_volumes(wave)
    with pytest.raises(FormatError, match="holds no structure"):
        read_atoms(wave)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("charge/charge", np.ones(GRID), "charge/charge: has a grid of impossible shape 5 × 4 × 3"),
        ("charge/charge", np.ones((3, *GRID)), "impossible shape 3 × 5 × 4 × 3"),
        ("charge/charge", np.ones((1, 0, 4, 3)), "impossible shape 1 × 0"),
        ("charge/charge", b"text", "damaged HDF5|impossible shape"),
        ("structure/positions/number_ion_types", [1, 1], "do not fit together"),
        ("structure/positions/lattice_vectors", np.zeros((3, 3)), "do not fit together"),
        ("structure/positions/lattice_vectors", np.zeros(5), "damaged HDF5"),
        ("results/partial_charges/parchg", np.ones(GRID), "impossible shape"),
        ("results/partial_charges/bands", [1], "damaged HDF5"),
    ],
)
def test_damaged_content_is_one_clear_error(wave, name, value, message):
    write_wave(wave, 1)
    with h5py.File(wave, "r+") as file:
        if name in file:
            del file[name]
        file[name] = value
    with pytest.raises(FormatError, match=message):
        read_volumes(wave)


def test_a_truncated_file_is_one_clear_error(wave):
    write_wave(wave, 1)
    whole = wave.read_bytes()
    for size in (20, len(whole) // 2):
        wave.write_bytes(whole[:size])
        with pytest.raises(FormatError, match="damaged HDF5 file"):
            read_volumes(wave)


def test_without_h5py_the_package_is_named(wave, monkeypatch):
    write_wave(wave, 1)
    monkeypatch.setitem(sys.modules, "h5py", None)
    for reader in (read_volumes, read_atoms):
        with pytest.raises(FormatError, match=r"h5py is not installed.*pip install h5py"):
            reader(wave)


def test_it_is_not_written(wave):
    with pytest.raises(FormatError, match=r"read here and not written.*\.vasp"):
        write_volume(wave, Volume(np.ones(GRID), 1))
