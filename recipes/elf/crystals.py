"""The crystals of the data set, and which of them are trained on.

Everything about a crystal follows from its composition, never from its place in a list: strained
and rattled copies of a crystal stay together, and a data set that has grown keeps its parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from recipes.elf_data.shards import Crystal, read_shards

from napari_vox3d import Volume
from napari_vox3d.density.grids import nearest_shape
from napari_vox3d.models import Source
from napari_vox3d.training.elf_examples import ExampleStore, StoredExample

Part = Literal["training", "errors", "calibration", "test", "pairs"]

DATA = "valence-only GTH-PBE pseudopotentials, not spin-polarised, Quantum ESPRESSO 6.7"
# Crystals with both elements of a pair are never trained on: a saline hydride, and a covalent
# semiconductor, layers and frameworks. Both have many crystals and neither is in daily use.
PAIRS = ("Sr-H", "Si-S")
# Per cent of the compositions that test, that train the error head, and that calibrate it.
SHARES: dict[Part, int] = {"test": 10, "errors": 4, "calibration": 4}
SPACING = 0.25  # Å of the grids that networks are trained on
DENSITY_SPACING = 0.08  # Å: derivatives of densities need it


def formula(crystal: Crystal) -> str:
    """Reduced formula, the elements in one order."""
    reduced, _ = crystal.structure.atoms.symbols.formula.reduce()
    return str(reduced.convert("hill"))


def part_of(crystal: Crystal, pairs: Sequence[str] = PAIRS) -> Part:
    """Which part of the data a crystal belongs to.

    Parameters
    ----------
    crystal
        Its composition decides, by a digest.
    pairs
        Elements that never meet in training, such as ``"Sr-H"``; ``"Sr"`` alone keeps every
        crystal of it away.
    """
    elements = set(crystal.structure.atoms.get_chemical_symbols())
    if any(set(pair.split("-")) <= elements for pair in pairs):
        return "pairs"
    place = int(hashlib.sha256(formula(crystal).encode()).hexdigest(), 16) % 100
    for part, share in SHARES.items():
        if place < share:
            return part
        place -= share
    return "training"


def read_parts(
    shards: Path, parts: Sequence[Part], pairs: Sequence[str] = PAIRS
) -> Iterator[Crystal]:
    """Read the crystals of some parts, one after another.

    Parameters
    ----------
    shards
        Folder that ``python -m recipes.elf_data OUTPUT --pack`` wrote.
    parts, pairs
        As for `part_of`.
    """
    for crystal in read_shards(sorted(shards.glob("*.zip"))):
        if part_of(crystal, pairs) in parts:
            yield crystal


def electron_density(crystal: Crystal) -> Volume:
    """Density of a crystal on a grid that can be differentiated."""
    return crystal.density(nearest_shape(crystal.elf.lattice, DENSITY_SPACING))


def source_of(crystal: Crystal, source: Source) -> Volume:
    """What a model is given to predict the ELF of a crystal on the grid of the shards."""
    return crystal.elf if source == "superposed atoms" else electron_density(crystal)


def prepare(store: ExampleStore, crystal: Crystal, source: Source) -> StoredExample:
    """Find what a network is trained on in the store, or make it."""
    density = None if source == "superposed atoms" else lambda: electron_density(crystal)
    return store.prepare(crystal.elf, density, name=crystal.structure.name)
