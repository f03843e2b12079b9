"""Which layers are tomograms or picks, the order of their axes, and an unknown voxel size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.errors import Vox3dError
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer


PASSING = "vox3d_passing"  # in the metadata of layers that are taken away by themselves


def is_tomogram(layer: Layer, several: bool = False) -> bool:
    """Whether an image layer shows volumes that particles may be in.

    Parameters
    ----------
    layer
        Any layer.
    several
        Whether it may have several volumes, along channels or time, of which one is shown, or
        axes in another order, which `check_axis_order` then tells of.
    """
    if type(layer).__name__ != "Image" or layer.rgb or layer.ndim < 3:
        return False
    if not several and (max(layer.data.shape[:-3], default=1) > 1 or _in_other_order(layer)):
        return False
    held = layer.metadata.get("vox3d")
    return not (isinstance(held, Volume) and (held.periodic or held.quantity == "score"))


def is_picks(layer: Layer) -> bool:
    """Whether a layer holds points in three dimensions that may be particles: no atoms, say."""
    if layer.metadata.get(PASSING):
        return False
    atoms = hasattr(layer.metadata.get("vox3d"), "get_chemical_symbols")
    return type(layer).__name__ == "Points" and layer.ndim == 3 and not atoms


def check_axis_order(layer: Layer) -> None:
    """Refuse a layer whose axes are labelled x, y, z in another order than ours.

    Raises
    ------
    Vox3dError
        If they are.
    """
    if _in_other_order(layer):
        labels = ", ".join(layer.axis_labels[-3:]).lower()
        raise Vox3dError(
            f"{layer.name!r} has its axes in the order {labels}; transpose it to z, y, x first."
        )


def _in_other_order(layer: Layer) -> bool:
    labels = [label.lower() for label in layer.axis_labels[-3:]]
    return sorted(labels) == ["x", "y", "z"] and labels != ["z", "y", "x"]


def calibrate(viewer: ViewerModel, layer: Image, size: float) -> None:
    """Tell a layer its voxel size; points on the same grid go with it, and the view stays.

    Parameters
    ----------
    viewer
        Viewer that shows the layer.
    layer
        Image layer; its last three axes are z, y and x.
    size
        Å.
    """
    slices = layer.world_to_data(viewer.dims.point)
    scale, units = layer.scale[-3:], layer.units[-3:]
    points = [
        other
        for other in viewer.layers
        if is_picks(other) and np.array_equal(other.scale, scale) and other.units == units
    ]
    for each in (layer, *points):
        each.units = (*each.units[:-3], *("angstrom",) * 3)
        each.scale = (*each.scale[:-3], *(size,) * 3)
    if isinstance(layer.metadata.get("vox3d"), Volume):
        layer.name = layer.metadata["vox3d"].name  # it said that the voxel size is unknown
    viewer.reset_view()
    others = viewer.dims.point[: -layer.ndim]
    viewer.dims.point = (*others, *layer.data_to_world(slices))
