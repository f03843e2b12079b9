"""Resampling of sheared periodic grids, for viewers that slice along x, y and z."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np

from napari_vox3d.volume import Volume

_MOST_VOXELS = 400**3


def orthogonal_box(volume: Volume, spacing: float | None = None) -> Volume:
    """Resample a volume on the axis-parallel box around its cell.

    napari shows a sheared or rotated layer rightly in 3-D, but a 2-D slice of it drops the part
    of the shear that leads out of the slice (napari#2616), so that atoms lie beside their maxima.
    The box shows the same field in the same place, by linear interpolation, and continues it
    periodically into the corners that the cell leaves empty. World coordinates do not change,
    and the origin of the native grid falls on a voxel centre.

    Parameters
    ----------
    volume
        Any volume. One whose axes already run along +z, +y and +x is returned as it is.
    spacing
        Å, edge of the cubic voxels. Default: the smallest native voxel size, but not so small
        that a piece of space holds more than twice its native voxels or the box more than 400³.

    Returns
    -------
    Volume
        float32, orthogonal, not periodic; its box contains all corners of the cell. Outside a
        native grid that is not periodic it has the smallest native value.
    """
    if volume.is_orthogonal:
        return volume
    from scipy.ndimage import affine_transform

    corners = np.array(list(product((0, 1), repeat=3))) @ volume.cell
    low, high = corners.min(axis=0), corners.max(axis=0)
    if spacing is None:
        native = abs(np.linalg.det(volume.step))
        spacing = max(volume.voxel_size.min(), np.cbrt(native / 2))
        spacing = max(spacing, _spacing_of_largest(high - low))
    first = np.floor(low / spacing - 1e-9)
    last = np.ceil(high / spacing - 1e-9)
    shape = tuple((last - first).astype(int) + 1)
    to_native = np.linalg.inv(volume.step).T * spacing
    native_values = np.asarray(volume.values)
    if native_values.dtype.kind != "f" or native_values.dtype.itemsize < 4:
        native_values = native_values.astype(np.float32)
    if native_values.dtype == np.float64:
        limit = np.finfo(np.float32).max
        native_values = np.clip(native_values, -limit, limit)
    values = affine_transform(
        native_values,
        to_native,
        offset=to_native @ first,
        output_shape=shape,
        output=np.float32,
        order=1,
        mode="grid-wrap" if volume.periodic else "constant",
        cval=0.0 if volume.periodic else float(native_values.min()),
    )
    return replace(
        volume,
        values=values,
        step=np.eye(3) * spacing,
        origin=volume.origin + first * spacing,
        periodic=False,
        metadata={**volume.metadata, "resampled from": {"shape": volume.shape}},
    )


def _spacing_of_largest(edges: np.ndarray) -> float:
    """Å, spacing at which a box of these edges, end points included, has the most voxels."""
    spacing = float(np.cbrt(edges.prod() / _MOST_VOXELS))
    while (np.ceil(edges / spacing) + 2).prod() > _MOST_VOXELS:
        spacing *= 1.01
    return spacing
