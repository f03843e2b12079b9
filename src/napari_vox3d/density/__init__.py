"""From atoms to densities on periodic grids; no torch here."""

from __future__ import annotations

from napari_vox3d.density.grids import grid_shape
from napari_vox3d.density.promolecule import tsirelson_stash_elf
from napari_vox3d.density.superposition import (
    superpose_atoms,
    supported_elements,
    valence_electrons,
)

__all__ = [
    "grid_shape",
    "superpose_atoms",
    "supported_elements",
    "tsirelson_stash_elf",
    "valence_electrons",
]
