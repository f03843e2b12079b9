"""From atoms to densities on periodic grids, and what is read off them; no torch here."""

from __future__ import annotations

from napari_vox3d.density.analysis import compare_volumes, supercell, volume_statistics
from napari_vox3d.density.bonding import find_maxima
from napari_vox3d.density.grids import grid_shape
from napari_vox3d.density.isosurface import isosurface
from napari_vox3d.density.promolecule import tsirelson_stash_elf
from napari_vox3d.density.sections import lattice_plane, line_profile
from napari_vox3d.density.superposition import (
    superpose_atoms,
    supported_elements,
    valence_electrons,
)

__all__ = [
    "compare_volumes",
    "find_maxima",
    "grid_shape",
    "isosurface",
    "lattice_plane",
    "line_profile",
    "supercell",
    "superpose_atoms",
    "supported_elements",
    "tsirelson_stash_elf",
    "valence_electrons",
    "volume_statistics",
]
