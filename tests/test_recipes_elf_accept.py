import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

import napari_vox3d as vox
from napari_vox3d.models import load_model

sys.path.insert(0, str(Path(__file__).parents[1]))

from recipes.elf.accept import distances, electrides, landmark, landmarks
from recipes.elf_data.shards import Crystal
from recipes.elf_data.structures import Structure


def crystal(structure, elf):
    volume = vox.Volume.on_lattice(
        elf, structure.atoms.cell.array, quantity="elf", atoms=structure.atoms
    )
    return Crystal(structure, volume, volume.with_values(np.zeros_like(elf)))


def test_distances_are_to_the_nearest_image():
    cell = np.array([[4.0, 0, 0], [1.9, 4, 0], [1.9, 1.9, 4]])  # (z, y, x), skewed
    place = np.array([0.1, 0.1, 0.1])
    near = place + np.array([0.0, 0.3, -0.4])
    points = np.array([near, near + cell[0] - 2 * cell[2], place])
    assert distances(points, place, cell) == pytest.approx([0.5, 0.5, 0])


def test_values_at_well_known_places():
    model = load_model("promolecule", "elf")
    silicon = Structure("Si-1", "covalent", "diamond", "known", "plain", bulk("Si"))
    elf = vox.predict_elf(silicon.atoms, model, shape=(24, 24, 24))
    strained = Structure("Si-2", "covalent", "diamond", "known", "strain", bulk("Si"))
    table = landmarks(model, [crystal(silicon, elf.values), crystal(strained, elf.values)])
    (row,) = table.rows
    assert row["crystal"] == "Si, middle of the bond"
    assert row["DFT"] == row["model"]
    assert row["MAE"] == 0
    assert landmark(elf, "middle of the bond") == pytest.approx(elf.values[3, 3, 3])
    assert landmark(elf, "maximum") == elf.values.max()


def test_a_maximum_between_atoms_is_looked_for_near_that_of_the_calculation():
    model = load_model("promolecule", "elf")
    atoms = bulk("Na", "sc", a=5.0)
    sodium = Structure("Na-1", "electride", "void", "known", "plain", atoms)
    z, y, x = np.indices((24, 24, 24)) / 24 - 0.5  # the void's middle is that of the cell
    elf = 0.2 + 0.7 * np.exp(-(x**2 + y**2 + z**2) / 0.02)
    row = electrides(model, [crystal(sodium, elf)]).rows[0]
    assert row["crystal"] == "Na, void"
    assert row["DFT"] == pytest.approx(0.9)
    found = vox.find_maxima(vox.predict_elf(atoms, model, shape=elf.shape), least=0.3)
    away = distances(found.positions, np.full(3, 2.5), atoms.cell.array[::-1, ::-1])
    assert row["Å apart"] == round(away.min(), 2)
    assert row["model"] == round(found.scores[away.argmin()], 3)
