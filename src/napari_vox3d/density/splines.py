"""Values between the points of a periodic grid, and what a volume must hold to have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.errors import Vox3dError
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PeriodicSpline:
    """Cubic spline through the values of a periodic volume, without end."""

    def __init__(self, volume: Volume):
        from scipy.ndimage import spline_filter

        self._volume = volume
        values, self._exponent = of_order_one(periodic_numbers(volume))
        self._coefficients = spline_filter(values, order=3, mode="grid-wrap")

    def at(self, world: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values at (..., 3) points in Å (z, y, x)."""
        return self.at_indices(self._volume.to_index(world))

    def at_indices(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values at (..., 3) fractional voxel indices."""
        from scipy.ndimage import map_coordinates

        values = map_coordinates(
            self._coefficients,
            np.moveaxis(indices, -1, 0),
            order=3,
            mode="grid-wrap",
            prefilter=False,
        )
        with np.errstate(over="ignore"):
            return saturated(np.ldexp(values, self._exponent))


def periodic_numbers(volume: Volume) -> NDArray[np.float64]:
    """Values of a periodic volume, all of them real numbers."""
    require_periodic(volume)
    values = real_numbers(volume)
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise Vox3dError(f"{title(volume)} holds {bad} values that are no numbers.")
    return values


def real_numbers(volume: Volume) -> NDArray[np.float64]:
    """Values of a volume, none of them complex; NaN may be among them."""
    if np.iscomplexobj(volume.values):
        raise Vox3dError(f"{title(volume)} holds complex values; real ones are needed.")
    return np.asarray(volume.values, np.float64)


def of_order_one(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Finite numbers over a power of two that leaves none above 1, and its exponent.

    Neither their squares nor their sums are infinite, and no digit is lost.
    """
    exponent = int(np.frexp(np.abs(values).max(initial=0.0))[1])
    return np.ldexp(values, -exponent), exponent


def saturated(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers, the largest there are in place of infinity."""
    limit = np.finfo(np.float64).max
    return np.clip(values, -limit, limit, out=values)


def require_periodic(volume: Volume) -> None:
    """Raise Vox3dError unless the volume is periodic."""
    if not volume.periodic:
        raise Vox3dError(f"{title(volume)} is not a periodic volume of a crystal.")


def title(volume: Volume) -> str:
    """Name of the volume at the beginning of a message."""
    return volume.name or "The volume"
