"""Particle picking in cryo-electron tomograms and ELF prediction for crystals.

The names below are the public interface; each is imported when it is first used, so that
``import napari_vox3d`` costs nothing.

>>> import napari_vox3d as vox
>>> vox.read_volume("CHGCAR")  # doctest: +SKIP
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# PyTorch reads this when it first takes memory. In large pages, which Linux hands out faster than
# small ones, picking takes a fifth less time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_HOMES = {
    "Volume": "volume",
    "Picks": "picks",
    "Run": "provenance",
    "Vox3dError": "errors",
    "read_volume": "formats",
    "read_volumes": "formats",
    "write_volume": "formats",
    "read_picks": "formats",
    "read_pick_collection": "formats",
    "write_picks": "formats",
    "write_pick_collection": "formats",
    "superpose_atoms": "density",
    "compare_volumes": "density",
    "find_maxima": "density",
    "isosurface": "density",
    "lattice_plane": "density",
    "line_profile": "density",
    "supercell": "density",
    "volume_statistics": "density",
    "predict_elf": "inference.elf",
    "score_particles": "inference.picking",
    "find_particles": "inference.picking",
    "pick_particles": "inference.picking",
    "embed_picks": "inference.embedding",
    "find_similar": "inference.similarity",
    "likeness": "inference.similarity",
    "cluster_picks": "inference.similarity",
    "pick_files": "batch",
    "predict_elf_files": "batch",
    "train_picker": "training.picking",
    "train_elf": "training.elf",
    "evaluate_picks": "training.evaluation",
    "list_models": "models",
    "load_model": "models",
    "Model": "models",
}
_ROOMS = ("batch", "density", "formats", "inference", "models", "networks", "training")

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from napari_vox3d.batch import pick_files, predict_elf_files
    from napari_vox3d.density import (
        compare_volumes,
        find_maxima,
        isosurface,
        lattice_plane,
        line_profile,
        supercell,
        superpose_atoms,
        volume_statistics,
    )
    from napari_vox3d.errors import Vox3dError
    from napari_vox3d.formats import (
        read_pick_collection,
        read_picks,
        read_volume,
        read_volumes,
        write_pick_collection,
        write_picks,
        write_volume,
    )
    from napari_vox3d.inference.elf import predict_elf
    from napari_vox3d.inference.embedding import embed_picks
    from napari_vox3d.inference.picking import find_particles, pick_particles, score_particles
    from napari_vox3d.inference.similarity import cluster_picks, find_similar, likeness
    from napari_vox3d.models import Model, list_models, load_model
    from napari_vox3d.picks import Picks
    from napari_vox3d.provenance import Run
    from napari_vox3d.training.elf import train_elf
    from napari_vox3d.training.evaluation import evaluate_picks
    from napari_vox3d.training.picking import train_picker
    from napari_vox3d.volume import Volume


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in _ROOMS:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_ROOMS})
