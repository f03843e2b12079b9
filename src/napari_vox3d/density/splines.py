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
        self._coefficients = spline_filter(periodic_numbers(volume), order=3, mode="grid-wrap")

    def at(self, world: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values at (..., 3) points in Å (z, y, x)."""
        return self.at_indices(self._volume.to_index(world))

    def at_indices(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values at (..., 3) fractional voxel indices."""
        from scipy.ndimage import map_coordinates

        return map_coordinates(
            self._coefficients,
            np.moveaxis(indices, -1, 0),
            order=3,
            mode="grid-wrap",
            prefilter=False,
        )


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


def require_periodic(volume: Volume) -> None:
    """Raise Vox3dError unless the volume is periodic."""
    if not volume.periodic:
        raise Vox3dError(f"{title(volume)} is not a periodic volume of a crystal.")


def title(volume: Volume) -> str:
    """Name of the volume at the beginning of a message."""
    return volume.name or "The volume"
