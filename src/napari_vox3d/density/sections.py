"""Lines and planes through a crystal's volume, in any direction of any cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.density.splines import PeriodicSpline, title
from napari_vox3d.errors import Vox3dError
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_MOST_POINTS = 10_000**2  # of a plane
_LARGEST_INDEX = 50  # of Miller's: what a plane repeats is searched for in all cells up to there
_FARTHEST = 1e9  # Å from the origin: beyond, a double does not say where in a cell a point is


@dataclass(frozen=True, eq=False)
class Profile:
    """Values along a straight line.

    Parameters
    ----------
    distances
        (N,) Å from the start.
    positions
        (N, 3) Å (z, y, x); not wrapped into the cell.
    values
        (N,) in the unit of the volume.
    """

    distances: NDArray[np.float64]
    positions: NDArray[np.float64]
    values: NDArray[np.float64]


def line_profile(
    volume: Volume, start: ArrayLike | int, stop: ArrayLike | int, samples: int = 200
) -> Profile:
    """Values of a crystal's volume between two points or two atoms.

    Parameters
    ----------
    volume
        Periodic volume.
    start, stop
        Points in Å (z, y, x), which may lie outside the cell, or the numbers of atoms, from 0.
        For two atoms the line goes to the nearest image of the second.
    samples
        Number of points, both ends included.

    Returns
    -------
    Profile
        Distances, positions and values of the points.

    Raises
    ------
    Vox3dError
        If there is no such atom, a point is not three numbers, both ends are one place, there are
        fewer than two samples, or the volume is not a periodic one of real numbers.
    """
    if samples < 2:
        raise Vox3dError(f"A profile needs at least two samples, not {samples}.")
    ends = [_place(volume, end) for end in (start, stop)]
    move = ends[1] - ends[0]
    if isinstance(start, (int, np.integer)) and isinstance(stop, (int, np.integer)):
        from ase.geometry import find_mic

        move = find_mic(move[::-1], volume.lattice)[0][::-1]
    length = float(np.linalg.norm(move))
    if not length:
        raise Vox3dError("A profile needs two different ends.")
    way = np.linspace(0, 1, samples)
    positions = ends[0] + way[:, None] * move
    return Profile(way * length, positions, PeriodicSpline(volume).at(positions))


def _place(volume: Volume, end: ArrayLike | int) -> NDArray[np.float64]:
    """Å (z, y, x) of a point, or of the atom of that number."""
    if isinstance(end, (int, np.integer)):
        count = 0 if volume.atoms is None else len(volume.atoms)
        if volume.atoms is None or not 0 <= end < count:
            raise Vox3dError(f"There is no atom {end}: {title(volume)} has {count}, from 0.")
        return volume.atoms.positions[end, ::-1]
    return _three(end, "A point")


def lattice_plane(
    volume: Volume,
    hkl: ArrayLike,
    *,
    origin: ArrayLike | None = None,
    extent: float | tuple[float, float] | None = None,
    spacing: float | None = None,
) -> Volume:
    """Cut a crystal's volume along a lattice plane, in any cell.

    Parameters
    ----------
    volume
        Periodic volume.
    hkl
        Miller indices (h, k, l) with respect to the cell of the volume.
    origin
        Å (z, y, x): a point of the plane, shown in the middle. Default: the first voxel.
    extent
        Å, height and width; one number for a square. Default: the square that holds one period
        of the plane.
    spacing
        Å between points. Default: the least voxel size.

    Returns
    -------
    Volume
        (1, rows, columns), not periodic. Its axes are orthonormal directions of the given spacing:
        the normal of the plane, and two in it, columns along its shortest lattice vector.

    Raises
    ------
    Vox3dError
        If the indices are not three integers up to 50 or all zero, lengths are not positive, the
        plane has too many points, or the volume is not a periodic one of real numbers.
    """
    indices = np.asarray(hkl)
    if indices.shape != (3,) or (indices != np.rint(indices)).any() or not indices.any():
        raise Vox3dError(f"Miller indices are three integers that are not all zero, not {hkl!r}.")
    if np.abs(indices).max() > _LARGEST_INDEX:
        raise Vox3dError(f"Miller indices go up to {_LARGEST_INDEX} here, not to {hkl!r}.")
    first, second = _lattice_vectors_in_plane(volume.lattice, np.rint(indices).astype(int))
    across = first / np.linalg.norm(first)
    normal = np.cross(first, second)
    normal /= np.linalg.norm(normal)
    up = np.cross(normal, across)
    if extent is None:
        extent = float(np.linalg.norm(first) + np.linalg.norm(second))
    size = np.broadcast_to(np.asarray(extent, float), 2)
    spacing = float(volume.voxel_size.min() if spacing is None else spacing)
    if not ((size > 0) & (size < _FARTHEST)).all() or not 0 < spacing < _FARTHEST:
        raise Vox3dError(f"Extent and spacing are positive lengths in Å, not {extent}, {spacing}.")
    rows, columns = (2 * round(float(edge) / spacing / 2) + 1 for edge in size)
    if rows * columns > _MOST_POINTS:
        raise Vox3dError(f"A plane of {rows} × {columns} points is too large: widen the spacing.")
    step = spacing * np.array([normal, up, across])[:, ::-1]
    middle = volume.origin if origin is None else _three(origin, "The origin of a plane")
    corner = middle - rows // 2 * step[1] - columns // 2 * step[2]
    j, i = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    values = PeriodicSpline(volume).at(corner + j[..., None] * step[1] + i[..., None] * step[2])
    label = " ".join(str(int(index)) for index in indices)
    return replace(
        volume,
        values=values[None],
        step=step,
        origin=corner,
        periodic=False,
        name=f"{title(volume)} ({label})",
        metadata={"provenance": {"method": "lattice plane", "hkl": label}},
    )


def _lattice_vectors_in_plane(
    lattice: NDArray[np.float64], hkl: NDArray[np.int_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two short lattice vectors (x, y, z) in the plane; seen along −hkl they turn to the left."""
    reach = range(-int(np.abs(hkl).max()), int(np.abs(hkl).max()) + 1)
    inside = np.array([uvw for uvw in product(reach, repeat=3) if any(uvw) and not uvw @ hkl])
    vectors = inside @ lattice
    vectors = vectors[np.argsort(np.linalg.norm(vectors, axis=1).round(6), kind="stable")]
    first = vectors[0]
    areas = np.cross(first, vectors) @ (np.linalg.inv(lattice) @ hkl)
    return first, vectors[np.flatnonzero(areas > 1e-6 * areas.max())[0]]


def _three(point: Any, what: str) -> NDArray[np.float64]:
    numbers = np.asarray(point, float)
    if numbers.shape != (3,) or not (np.abs(numbers) < _FARTHEST).all():
        raise Vox3dError(f"{what} is three numbers in Å (z, y, x), not {point}.")
    return numbers
