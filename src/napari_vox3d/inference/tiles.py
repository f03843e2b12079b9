"""`NetworkView`: a tomogram as a picking network sees it, read box by box.

The view has the model's voxel size and normalisation and goes on beyond the tomogram's edges as in
a mirror. Only the boxes asked for are read and converted, so that memory-mapped and dask tomograms
of any size stay where they are. Training and inference read through the same view.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_vox3d.errors import InferenceError
from napari_vox3d.volume import Volume

Box = tuple[slice, slice, slice]
Contrast = Literal["dark", "bright"]

_FARTHEST = 32.0  # times the voxel size: beyond, it is an error of a header
_SAME_SIZE = 0.02  # voxel sizes that differ by less are taken as equal
_SAMPLES = 500_000  # voxels that the statistics are taken from
_AT_A_TIME = 2**25  # voxels of the tomogram that are read at a time
_CLIP = 5.0  # normalised values beyond are cut off: gold, carbon


class Normalisation(NamedTuple):
    """Values become ``(value − centre) / width``, cut off at ±`clip`."""

    centre: float
    width: float
    clip: float

    @classmethod
    def of(cls, volume: Volume, scheme: Literal["robust", "zscore", "none"]) -> Normalisation:
        """Measure a tomogram on half a million voxels spread evenly over it.

        Parameters
        ----------
        volume
            Tomogram.
        scheme
            ``"robust"``: median, and 1.4826 times the median absolute deviation, cut off at ±5;
            ``"zscore"``: mean and standard deviation; ``"none"``: values as they are.

        Raises
        ------
        InferenceError
            If the tomogram has no finite values, or they are all the same.
        """
        if scheme == "none":
            return cls(0.0, 1.0, np.inf)
        stride = max(1, int(np.ceil((np.prod(volume.shape) / _SAMPLES) ** (1 / 3))))
        sample = np.concatenate(list(_thinned(volume, stride))).astype(np.float64)
        sample = sample[np.abs(sample) <= np.finfo(np.float32).max]
        if not sample.size:
            raise InferenceError(f"Tomogram {volume.name!r} has no finite values.")
        if scheme == "robust":
            centre = float(np.median(sample))
            width, clip = 1.4826 * float(np.median(np.abs(sample - centre))), _CLIP
        else:
            centre, width, clip = float(sample.mean()), float(sample.std()), np.inf
        if not width:
            raise InferenceError(
                f"Most values of tomogram {volume.name!r} are {centre:g}; there is nothing to see."
            )
        return cls(centre, width, clip)


def _thinned(volume: Volume, stride: int) -> Iterator[NDArray[Any]]:
    """Voxels whose indices are multiples of `stride`; along z half a stride further.

    Planes or chunks are read whole, each once: a strided view of compressed or remote data would
    read all of them again for each plane.
    """
    offsets = (min(stride // 2, volume.shape[0] - 1), 0, 0)
    for box in volume.pieces():
        first = [(offset - part.start) % stride
                 for part, offset in zip(box, offsets, strict=True)]  # fmt: skip
        if all(part.start + n < part.stop for part, n in zip(box, first, strict=True)):
            z, y, x = (slice(n, None, stride) for n in first)
            yield np.asarray(volume.values[box])[z, y, x].ravel()


@dataclass(frozen=True)
class NetworkView:
    """A tomogram rescaled, normalised and mirrored.

    Parameters
    ----------
    values
        (z, y, x) real array: numpy, memory-mapped, dask or zarr.
    spacing
        (3,) voxels of `values` per voxel of the view.
    normalisation
        What is done to values; a negative width turns the contrast round.
    binning
        (3,) voxels of the tomogram per voxel of `values`, which may be a coarser level of it.
    whole
        (3,) voxels of the tomogram; a coarser level may lack the last, incomplete one. Default:
        those of `values`.
    """

    values: Any
    spacing: tuple[float, float, float]
    normalisation: Normalisation
    binning: tuple[float, float, float] = (1.0, 1.0, 1.0)
    whole: tuple[int, int, int] | None = None

    @classmethod
    def of(
        cls,
        volume: Volume,
        voxel_size: float,
        scheme: Literal["robust", "zscore", "none"],
        inverted: bool = False,
    ) -> NetworkView:
        """View a tomogram with voxels of `voxel_size` Å.

        A tomogram whose voxels are within 2 % of that size keeps them. One that is not calibrated
        is taken to have just that size. Of a tomogram with coarser levels the finest that is not
        wastefully fine is read. `inverted` swaps dark and bright.

        Raises
        ------
        InferenceError
            If the tomogram is complex, its axes do not run along z, y and x, its voxels are of
            quite another size, or its values have no spread.
        """
        if not volume.is_orthogonal:
            raise InferenceError(
                f"Tomogram {volume.name!r} is rotated, mirrored or sheared; networks need array "
                "axes along z, y and x."
            )
        if np.issubdtype(volume.values.dtype, np.complexfloating):
            raise InferenceError(f"Tomogram {volume.name!r} has complex values.")
        level = volume.level_for(voxel_size)
        spacing = voxel_size / level.voxel_size if volume.calibrated else np.ones(3)
        if not (spacing.max() < _FARTHEST and spacing.min() > 1 / _FARTHEST):
            sizes = " × ".join(f"{size:g}" for size in level.voxel_size)
            raise InferenceError(
                f"Tomogram {volume.name!r} has voxels of {sizes} Å, which is far from the "
                f"{voxel_size:g} Å of the model. Set their true size."
            )
        spacing = np.where(np.abs(spacing - 1) < _SAME_SIZE, 1.0, spacing)
        centre, width, clip = Normalisation.of(level, scheme)
        width = -width if inverted else width
        return cls(
            level.values,
            _three(spacing),
            Normalisation(centre, width, clip),
            _three(level.voxel_size / volume.voxel_size),
            volume.shape,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the view that cover the tomogram."""
        sizes = zip(self.values.shape, self.spacing, strict=True)
        z, y, x = (max(1, round(n / s)) for n, s in sizes)
        return z, y, x

    @property
    def end(self) -> NDArray[np.intp]:
        """(3,) voxel of the view from which on nothing of the tomogram is left."""
        voxels = np.array(self.whole or self.values.shape)
        return np.ceil(voxels / self.scale - 1e-6).astype(int)

    @property
    def scale(self) -> tuple[float, float, float]:
        """(3,) voxels of the tomogram per voxel of the view."""
        return _three(np.array(self.spacing) * self.binning)

    def to_index(self, positions: NDArray[np.floating]) -> NDArray[np.floating]:
        """Voxels (..., 3) of the tomogram for voxels of the view."""
        return (positions + 0.5) * self.scale - 0.5

    def from_index(self, indices: NDArray[np.floating]) -> NDArray[np.floating]:
        """Voxels (..., 3) of the view for voxels of the tomogram."""
        return (indices + 0.5) / self.scale - 0.5

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.float32]:
        """Box from `start` to `stop` (excluded) in voxels of the view, which may lie outside it.

        Values that are not finite become the centre of the distribution.
        """
        lengths = zip(start, stop, self.values.shape, self.spacing, strict=True)
        across, *along = (_Axis.of(*each) for each in lengths)
        thick = stop[0] - start[0]
        if isinstance(self.values, np.ndarray):  # chunks would be unpacked again for each slab
            voxels = prod(axis.high - axis.low for axis in (across, *along))
            thick = max(1, thick * _AT_A_TIME // max(1, voxels))
        slabs = [
            self._slab([across.part(first, first + thick), *along])
            for first in range(0, stop[0] - start[0], thick)
        ]
        return slabs[0] if len(slabs) == 1 else np.concatenate(slabs)

    def _slab(self, axes: Sequence[_Axis]) -> NDArray[np.float32]:
        stored = np.asarray(self.values[tuple(slice(axis.low, axis.high) for axis in axes)])
        with np.errstate(over="ignore"):  # what float32 cannot hold is not finite then
            box: NDArray[np.float32] = stored.astype(np.float32)
        centre, width, clip = self.normalisation
        box -= np.float32(centre)
        box *= np.float32(1 / width)
        if not (finite := np.isfinite(box)).all():
            box[~finite] = 0
        np.clip(box, -clip, clip, out=box)
        for n, axis in enumerate(axes):
            box = axis.apply(box, n)
        return box


@dataclass(frozen=True)
class MirrorImage:
    """A view whose voxels come in the opposite order along some axes; nothing is copied.

    Parameters
    ----------
    view
        What is mirrored.
    axes
        Along which; none for the view itself.
    length
        (3,) voxels that the view counts as: voxel k of the image along a mirrored axis is voxel
        ``length - 1 - k`` of the view. It may go beyond the view's end.
    """

    view: NetworkView
    axes: tuple[int, ...]
    length: NDArray[np.intp]

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.float32]:
        """Box from `start` to `stop` (excluded) in voxels of the image; see `NetworkView.read`."""
        low, high = np.array(start), np.array(stop)
        for axis in self.axes:
            n = self.length[axis]
            low[axis], high[axis] = n - stop[axis], n - start[axis]
        box = self.view.read(low.tolist(), high.tolist())
        return np.ascontiguousarray(np.flip(box, self.axes))


class _Axis(NamedTuple):
    """How a stretch of the view comes from the voxels `low` to `high` of one axis."""

    low: int
    high: int
    taps: NDArray[np.intp]  # (n, taps) voxels, counted from `low`
    weights: NDArray[np.float32]  # (n, taps)

    @classmethod
    def of(cls, start: int, stop: int, length: int, scale: float) -> _Axis:
        indices = np.arange(start, stop)
        if scale == 1:
            taps, weights = indices[:, None], np.ones((len(indices), 1), np.float32)
        else:
            reach = max(1.0, scale)  # linear between voxels; a tent over all of them when coarser
            centres = (indices[:, None] + 0.5) * scale - 0.5
            taps = np.floor(centres - reach).astype(int) + np.arange(int(np.ceil(2 * reach)) + 2)
            tents = np.clip(1 - np.abs(taps - centres) / reach, 0, None)
            weights = (tents / tents.sum(axis=1, keepdims=True)).astype(np.float32)
        folded = taps % (2 * length)
        folded = np.minimum(folded, 2 * length - 1 - folded)
        low = int(folded.min())
        return cls(low, int(folded.max()) + 1, folded - low, weights)

    def part(self, first: int, last: int) -> _Axis:
        """Some of the stretch, counted from its beginning."""
        taps = self.taps[first:last]
        low = int(taps.min())
        return _Axis(self.low + low, self.low + int(taps.max()) + 1, taps - low,
                     self.weights[first:last])  # fmt: skip

    def apply(self, box: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        if self.taps.shape[1] == 1:
            straight = np.array_equal(self.taps[:, 0], np.arange(box.shape[axis]))
            return box if straight else np.take(box, self.taps[:, 0], axis)
        matrix = np.zeros((len(self.taps), box.shape[axis]), np.float32)
        np.add.at(matrix, (np.arange(len(self.taps))[:, None], self.taps), self.weights)
        return np.moveaxis(np.tensordot(matrix, box, (1, axis)), 0, axis)


def _three(numbers: NDArray[np.floating]) -> tuple[float, float, float]:
    z, y, x = numbers.tolist()
    return z, y, x


def tiles(shape: Sequence[int], edges: Sequence[int], unit: int = 1) -> Iterator[Box]:
    """Boxes of about the same size that cover a grid once, last axis fastest.

    Parameters
    ----------
    shape
        Of the grid.
    edges
        Most places that a box may have along each axis.
    unit
        Boxes begin at multiples of this, where `edges` are multiples of it.
    """
    steps = []
    for n, edge in zip(shape, edges, strict=True):
        step = -(-n // -(-n // edge))
        steps.append(min(-(-step // unit) * unit, edge))
    corners = product(*(range(0, n, step) for n, step in zip(shape, steps, strict=True)))
    for corner in corners:
        z, y, x = (slice(c, min(c + s, n)) for c, s, n in zip(corner, steps, shape, strict=True))
        yield z, y, x
