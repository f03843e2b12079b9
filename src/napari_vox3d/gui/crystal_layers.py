"""What is read off a crystal as napari layers: surfaces, maxima, lattice planes and lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.gui.appearance import volume_look
from napari_vox3d.gui.layers import FRAME, SPHERES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.density.isosurface import Isosurface
    from napari_vox3d.gui.layers import LayerData
    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume

KIND_COLOURS = {
    "core": "#999999",
    "bond": "#e69f00",
    "lone pair": "#56b4e9",
    "interstitial": "#e377c2",
}
MAXIMUM = 0.35  # Å, diameter of the spheres
ONE_COLOUR = {"name": "one colour", "colors": [(0.95, 0.8, 0.3), (0.95, 0.8, 0.3)]}


def surface_layer(surface: Isosurface, volume: Volume, colour_by: Volume | None) -> LayerData:
    """Show an isosurface in its true place, in one colour or by the values of another volume."""
    # napari keeps the vertices up to half a data unit away from a 2D slice
    unit = float(volume.voxel_size.min())
    vertices = surface.vertices / unit
    options = {
        **FRAME,
        "name": f"{volume.name or volume.quantity} surface",
        "scale": (unit,) * 3,
        "shading": "smooth",
        "opacity": 0.8,
        "metadata": {"provenance": {"source": volume.source, "level": surface.level}},
    }
    if surface.colours is None or colour_by is None:
        colours = np.ones(len(vertices))
        options |= {"colormap": ONE_COLOUR, "contrast_limits": (0, 1)}
    else:
        colours = surface.colours
        look = volume_look(colour_by, colour_by.values)
        options |= {"colormap": look["colormap"], "contrast_limits": look["contrast_limits"]}
        options["name"] += f" by {colour_by.name or colour_by.quantity}"
    return (vertices, surface.faces, colours), options, "surface"


def maxima_layer(found: Picks, volume: Volume) -> LayerData:
    """Show maxima of an ELF as spheres coloured by kind, in the cell that is shown."""
    index = volume.to_index(found.positions + volume.origin)
    index = (index + 0.5) % volume.shape - 0.5
    options = {
        **FRAME,
        "name": f"{volume.name or volume.quantity} maxima",
        "scale": (MAXIMUM,) * 3,
        "features": {
            "class": found.labels.astype(object),
            "score": found.scores,
            "prominence": np.array(found.metadata["prominence"], float),
        },
        "text": {"string": "{score:.2f}", "color": "white", "visible": False},
        "size": 1,
        "border_color": "black",
        "border_width": 0.03,
        **SPHERES,
        "metadata": {"vox3d": found, "provenance": dict(found.metadata)},
    }
    if len(found):
        options |= {"face_color": "class", "face_color_cycle": KIND_COLOURS}
    return volume.to_world(index) / MAXIMUM, options, "points"


def plane_layer(cut: Volume, volume: Volume) -> LayerData:
    """Show a plane cut out of a volume where it lies, in the colours of the volume.

    An image layer cannot: napari draws a turned plane of one voxel only where rays meet it.
    """
    rows, columns = cut.shape[1:]
    j, i = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    places = cut.to_world(np.stack([np.zeros_like(j), j, i], axis=-1).reshape(-1, 3))
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    near, far = [0, 1, columns], [1, columns + 1, columns]
    faces = np.concatenate([corner[:, None] + near, corner[:, None] + far])
    look = volume_look(volume, volume.values)
    unit = float(cut.voxel_size.min())
    options = {
        **FRAME,
        "name": cut.name,
        "scale": (unit,) * 3,
        "shading": "none",
        "colormap": look["colormap"],
        "contrast_limits": look["contrast_limits"],
        "metadata": {"provenance": {"source": cut.source, **cut.metadata["provenance"]}},
    }
    return (places / unit, faces, np.asarray(cut.values[0], float).ravel()), options, "surface"


def line_layer(ends: NDArray[np.float64], name: str) -> LayerData:
    """Show a line between (2, 3) points in Å (z, y, x)."""
    options = {
        **FRAME,
        "name": name,
        "shape_type": "line",
        "edge_color": "#ff4040",
        "edge_width": 0.08,
    }
    return [ends], options, "shapes"
