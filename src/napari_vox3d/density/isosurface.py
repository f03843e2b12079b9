"""Surfaces of equal value in the true cell of a crystal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.density.splines import PeriodicSpline, real_numbers, title
from napari_vox3d.errors import Vox3dError
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FAR = 1e30  # times the usual distance from the level: the surface is at the other end of an edge


@dataclass(frozen=True, eq=False)
class Isosurface:
    """Triangles on which a volume has one value.

    Parameters
    ----------
    vertices
        (V, 3) Å (z, y, x).
    faces
        (F, 3) numbers of the corners.
    level
        The value, in the unit of the volume.
    colours
        (V,) values of another volume at the vertices, or None.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int_]
    level: float
    colours: NDArray[np.float64] | None = None


def isosurface(volume: Volume, level: float, colour_by: Volume | None = None) -> Isosurface:
    """Find the surface on which a volume has one value, by marching cubes.

    The surface lies in the true, possibly skewed cell. In a crystal it is continued over the
    border of the grid to the next cell's first plane, so that surfaces of tiled cells meet.

    Parameters
    ----------
    volume
        Volume of real numbers, all of them finite.
    level
        Value on the surface.
    colour_by
        Periodic volume whose values at the vertices are wanted, as the ELF on a surface of the
        density.

    Returns
    -------
    Isosurface
        Vertices in Å, triangles, and the values of `colour_by`.

    Raises
    ------
    Vox3dError
        If no value lies above or none below the level, values are complex or no numbers, or
        `colour_by` is not periodic.
    """
    from skimage.measure import marching_cubes

    values = real_numbers(volume)
    if not np.isfinite(values).all():
        raise Vox3dError(f"{title(volume)} holds values that are no numbers.")
    low, high = float(values.min()), float(values.max())
    if not low < level < high:
        raise Vox3dError(
            f"{title(volume)} has values from {low:.4g} to {high:.4g}: no surface at {level:.4g}."
        )
    above = _above(values, level)
    if volume.periodic:
        above = np.pad(above, (0, 1), mode="wrap")
    indices, faces, _, _ = marching_cubes(above, 0.0)
    if np.linalg.det(volume.step) < 0:
        faces = faces[:, ::-1]  # a mirrored grid turns the triangles inside out
    vertices = volume.to_world(indices)
    colours = None if colour_by is None else PeriodicSpline(colour_by).at(vertices)
    return Isosurface(vertices, faces.astype(int), level, colours)


def _above(values: NDArray[np.float64], level: float) -> NDArray[np.float32]:
    """How far values lie above a level, in a unit in which single precision holds them."""
    above = values / 2 - level / 2  # the difference of the largest numbers would be infinite
    unit = np.median(np.abs(above[above != 0]))
    with np.errstate(over="ignore"):
        return np.clip(above / unit, -_FAR, _FAR).astype(np.float32)
