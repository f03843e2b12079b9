import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from napari_vox3d.density import superpose_atoms, tsirelson_stash_elf
from napari_vox3d.errors import Vox3dError
from napari_vox3d.volume import Volume

BOHR = 0.529177210903
SKEWED = [[3.1, 0.2, -0.4], [0.9, 4.2, 0.3], [-0.7, 0.5, 5.3]]


def wave_density(shape, lattice, vector):
    """1 + cos(G·r)/2 in e/bohr³ for the integer wave `vector` along (a, b, c)."""
    c, b, a = np.meshgrid(*[np.arange(n) / n for n in shape], indexing="ij")
    phase = 2 * np.pi * (vector[0] * a + vector[1] * b + vector[2] * c)
    values = (1 + 0.5 * np.cos(phase)) / BOHR**3
    return Volume.on_lattice(values, lattice, quantity="electron density", unit="e/Å³"), phase


@pytest.mark.parametrize("shape", [(12, 10, 14), (11, 9, 15)])
def test_a_single_wave_in_a_skewed_cell_agrees_with_its_formula(shape):
    vector = np.array([1, -2, 3])
    volume, phase = wave_density(shape, SKEWED, vector)
    wave = 2 * np.pi * np.linalg.inv(np.array(SKEWED) / BOHR) @ vector
    density = 1 + 0.5 * np.cos(phase)
    gradient_squared = wave @ wave * 0.25 * np.sin(phase) ** 2
    laplacian = -wave @ wave * 0.5 * np.cos(phase)
    homogeneous = 0.3 * (3 * np.pi**2) ** (2 / 3) * density ** (5 / 3)
    kinetic = homogeneous + gradient_squared / 72 / density + laplacian / 6
    chi = (kinetic - gradient_squared / 8 / density) / homogeneous
    np.testing.assert_allclose(tsirelson_stash_elf(volume).values, 1 / (1 + chi**2), atol=1e-9)


def test_uniform_density_gives_one_half():
    volume = Volume.on_lattice(np.full((6, 6, 6), 0.3), np.eye(3) * 3, unit="e/Å³")
    np.testing.assert_allclose(tsirelson_stash_elf(volume).values, 0.5)


def test_vacuum_is_zero_and_the_range_is_kept():
    sad = superpose_atoms(Atoms("Si", cell=[4, 4, 20], positions=[[0, 0, 10]], pbc=True))
    elf = tsirelson_stash_elf(sad).values
    assert elf[0].max() < 0.05
    assert elf.min() >= 0
    assert elf.max() <= 1


def test_geometry_atoms_and_name_are_kept():
    sad = superpose_atoms(bulk("NaCl", "rocksalt", a=5.64))
    elf = tsirelson_stash_elf(sad)
    assert (elf.quantity, elf.unit, elf.name) == ("elf", "", "ClNa ELF")
    assert elf.atoms is sad.atoms
    np.testing.assert_array_equal(elf.step, sad.step)


def test_a_density_without_periodicity_or_unit_is_refused():
    with pytest.raises(Vox3dError, match="periodic"):
        tsirelson_stash_elf(Volume(np.ones((4, 4, 4)), 1.0, unit="e/Å³"))
    with pytest.raises(Vox3dError, match="e/Å³"):
        tsirelson_stash_elf(Volume(np.ones((4, 4, 4)), 1.0, periodic=True))
