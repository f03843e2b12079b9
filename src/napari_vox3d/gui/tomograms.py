"""Which layers are tomograms or picks, which level of them fits, and an unknown voxel size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer


def is_tomogram(layer: Layer) -> bool:
    """Whether an image layer shows one volume that particles may be in."""
    if type(layer).__name__ != "Image" or layer.rgb or layer.ndim != 3:
        return False
    held = layer.metadata.get("vox3d")
    return not (isinstance(held, Volume) and (held.periodic or held.quantity == "score"))


def is_picks(layer: Layer) -> bool:
    """Whether a layer holds points in three dimensions that are not the atoms of a structure."""
    atoms = hasattr(layer.metadata.get("vox3d"), "get_chemical_symbols")
    return type(layer).__name__ == "Points" and layer.ndim == 3 and not atoms


def level_for(sizes: Sequence[float], voxel_size: float | None) -> int:
    """Which level of a multiscale image to compute on: the finest that is not wastefully fine.

    Parameters
    ----------
    sizes
        Å, the voxel size of each level.
    voxel_size
        Å, the voxel size of the model; None for the finest level of all.

    Returns
    -------
    int
        The finest level with voxels of at least 0.8 of that size; the coarsest if all are finer.
    """
    fine_first = sorted(range(len(sizes)), key=lambda level: sizes[level])
    least = 0.0 if voxel_size is None else 0.8 * voxel_size
    return next((level for level in fine_first if sizes[level] >= least), fine_first[-1])


def calibrate(viewer: ViewerModel, layer: Image, size: float) -> None:
    """Tell a layer its voxel size; points on the same grid go with it, and the view stays.

    Parameters
    ----------
    viewer
        Viewer that shows the layer.
    layer
        Three-dimensional image layer.
    size
        Å.
    """
    slices = layer.world_to_data(viewer.dims.point)
    scale, units = layer.scale, layer.units
    points = [
        other
        for other in viewer.layers
        if is_picks(other) and np.array_equal(other.scale, scale) and other.units == units
    ]
    for each in (layer, *points):
        each.units = ("angstrom",) * 3
        each.scale = (size,) * 3
    if isinstance(layer.metadata.get("vox3d"), Volume):
        layer.name = layer.metadata["vox3d"].name  # it said that the voxel size is unknown
    viewer.reset_view()
    viewer.dims.point = layer.data_to_world(slices)
