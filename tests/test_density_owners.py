from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from napari_vox3d.density import superpose_atoms, supported_elements
from napari_vox3d.density.owners import CHANNELS, _descriptors, describe_owners
from napari_vox3d.errors import InferenceError, Vox3dError
from napari_vox3d.inference.elf_inputs import network_inputs


@pytest.fixture
def salt():
    return bulk("KCl", "rocksalt", a=6.29, cubic=True)


def test_every_element_with_a_density_is_described():
    assert list(_descriptors()) == supported_elements()
    table = np.array(list(_descriptors().values()))
    np.testing.assert_allclose(table.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(table.std(axis=0), 1)


def test_at_a_nucleus_the_owner_is_its_atom(salt):
    channels = describe_owners(salt, (24, 24, 24))
    assert channels.shape == (CHANNELS, 24, 24, 24)
    for atom in salt:
        c, b, a = np.rint(atom.position[::-1] / 6.29 * 24).astype(int) % 24
        distance = {
            element: np.abs(channels[:8, c, b, a] - properties).sum()
            for element, properties in _descriptors().items()
        }
        assert min(distance, key=distance.get) == atom.symbol


def test_one_element_owns_everything():
    channels = describe_owners(bulk("Si"), (8, 8, 8))
    for first in (0, 10):
        expected = np.broadcast_to(_descriptors()["Si"][:, None, None, None], (8, 8, 8, 8))
        np.testing.assert_allclose(channels[first : first + 8], expected, atol=1e-6)
        np.testing.assert_allclose(channels[first + 8 : first + 10], 0, atol=1e-3)


def test_shares_follow_a_shift_and_a_supercell(salt):
    channels = describe_owners(salt, (12, 12, 12))
    moved = salt.copy()
    moved.positions += salt.cell.array.T @ [2 / 12, 0, 5 / 12]
    np.testing.assert_allclose(
        describe_owners(moved, (12, 12, 12)), np.roll(channels, (5, 2), (1, 3)), atol=1e-5
    )
    np.testing.assert_allclose(
        describe_owners(salt * (1, 2, 1), (12, 24, 12)), np.tile(channels, (1, 1, 2, 1)), atol=1e-5
    )


def test_a_turned_crystal_has_the_same_owners(salt):
    turned = salt.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    np.testing.assert_allclose(
        describe_owners(turned, (10, 10, 10)), describe_owners(salt, (10, 10, 10)), atol=1e-5
    )


def test_far_from_all_atoms_every_element_counts_alike():
    molecule = Atoms("LiF", [[0, 0, 0], [1.6, 0, 0]], cell=[14, 14, 14], pbc=True)
    middle = describe_owners(molecule, (28, 28, 28))[:8, 14, 14, 14]
    expected = (_descriptors()["Li"] + _descriptors()["F"]) / 2
    np.testing.assert_allclose(middle, expected, atol=0.2)


def test_unknown_elements_are_refused():
    with pytest.raises(Vox3dError, match="No atomic density for U"):
        describe_owners(bulk("U", "fcc", a=4.0), (4, 4, 4))


def test_networks_may_ask_for_them(salt):
    sad = superpose_atoms(salt, (12, 12, 12))
    channels = network_inputs(sad, (12, 12, 12), ["log_sad", "owners"])
    assert channels.shape == (1 + CHANNELS, 12, 12, 12)
    np.testing.assert_array_equal(channels[1:], describe_owners(salt, (12, 12, 12)))
    with pytest.raises(InferenceError, match="carries no atoms"):
        network_inputs(replace(sad, atoms=None), (12, 12, 12), ["owners"])
