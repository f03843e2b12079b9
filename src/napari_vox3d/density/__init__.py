"""From atoms to densities on periodic grids, and what is read off them; no torch here."""

from __future__ import annotations

from napari_vox3d.density.analysis import compare, statistics, supercell
from napari_vox3d.density.bonding import maxima
from napari_vox3d.density.grids import grid_shape
from napari_vox3d.density.promolecule import tsirelson_stash_elf
from napari_vox3d.density.sections import line_profile, plane
from napari_vox3d.density.superposition import (
    superpose_atoms,
    supported_elements,
    valence_electrons,
)

__all__ = [
    "compare",
    "grid_shape",
    "line_profile",
    "maxima",
    "plane",
    "statistics",
    "supercell",
    "superpose_atoms",
    "supported_elements",
    "tsirelson_stash_elf",
    "valence_electrons",
]
