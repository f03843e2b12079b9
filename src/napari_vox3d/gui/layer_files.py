"""The files that open layers show."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from napari.layers import Layer

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.layers import volume_from_layer
from napari_vox3d.gui.reproduce import reading_arguments


def files_of(layers: Iterable[Layer]) -> tuple[list[Path], str]:
    """Files of tomograms and crystals, and a sentence on layers that are not what their file is."""
    found, left_out = [], []
    for layer in layers:
        held = layer.metadata.get("vox3d")
        if isinstance(held, vox.Volume) and held.quantity != "score":
            path = _file_of(layer)
            (left_out if path is None else found).append(layer.name if path is None else path)
        elif hasattr(held, "get_chemical_symbols"):
            source = Path(layer.metadata["provenance"]["source"])
            found += [source] if source.is_file() else []
    if not left_out:
        return found, "" if found else "Nothing is open that is a file on the disk."
    names = ", ".join(left_out)
    return found, f"Save these layers first, for no file holds what they show: {names}."


def _file_of(layer: Layer) -> Path | None:
    """File that holds just what an image layer shows, if there is one."""
    try:
        volume = volume_from_layer(layer)
        same = volume is layer.metadata["vox3d"] and not reading_arguments(layer, volume)
    except Vox3dError:
        return None
    path = Path(volume.source)
    return path if same and path.is_file() else None
