"""Scores of all cells of a tomogram, in bounded memory, whatever the tiles.

They may be averaged over mirror images, which are never made: each pass reads its boxes the other
way round.

`DensePicker` makes one pass over tiles, see `napari_vox3d.inference.tiled`, which says how little
scores beside a seam may differ. For `CryoET3DCNN`, features are computed once for every place, in
tiles with a halo that keeps the zero padding of the convolutions out, and kept for a slab as thick
as the classifier needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_vox3d.errors import InferenceError
from napari_vox3d.inference.device import autocast
from napari_vox3d.inference.tiled import Count, DensePass, Heartbeat, Tiling, add_by_class
from napari_vox3d.inference.tiles import Box, MirrorImage, NetworkView, tiles
from napari_vox3d.networks.cryoet_cnn import (
    HALO,
    WINDOW,
    CryoET3DCNN,
    DenseCryoET3DCNN,
    Stride,
    factor,
)
from napari_vox3d.networks.folding import folded
from napari_vox3d.networks.pickers import DensePicker
from napari_vox3d.progress import Progress, part_of

_TILE, _TILE_ON_GPU = 160, 192  # voxels along an edge: about a second on two cores
_SLAB = 34  # cells of a slab: twice the 17 that a transform of a `SpectralConv3d` gives
_FLIPS: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (1, 2))  # axes of each mirror image
_HIGHEST_RANK = 64  # beyond, the factored classifier is not much cheaper than the whole one

# Faster forms of networks, as long as these live.
_dense_forms: WeakKeyDictionary[nn.Module, tuple[DenseCryoET3DCNN, Stride]] = WeakKeyDictionary()
_folded_forms: WeakKeyDictionary[nn.Module, DensePicker] = WeakKeyDictionary()


def score_cells(
    network: nn.Module,
    classes: Sequence[Sequence[int]],
    view: NetworkView,
    box: Box,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
    flips: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """Probabilities of classes at the cells that cover a box.

    Cells are cubes of `stride` voxels of the view; the first begins at voxel (0, 0, 0).

    Parameters
    ----------
    network
        A `DensePicker`, or a `CryoET3DCNN`, which scores a cell by the window about its centre;
        on `device`.
    classes
        Outputs of the network that make up each class.
    view
        What it is shown.
    box
        Voxels of the tomogram (not of the view).
    device, dtype
        Where, and in which precision.
    progress
        Called after each tile, and once a second at least.
    flips
        Average over the view and its mirror images along y, x, and both, in four passes.

    Returns
    -------
    tuple
        (classes, d, h, w) probabilities; (3,) index of the first cell;
        the stride: that of the `DensePicker`; of a `CryoET3DCNN` 4, or 8 if its classifier has no
        low-rank form.

    Raises
    ------
    InferenceError
        If the network is of another kind, or not even small tiles fit in memory.
    """
    if not isinstance(network, DensePicker | CryoET3DCNN):
        raise InferenceError(
            f"Particles are scored by DensePicker or CryoET3DCNN, not by {type(network).__name__}."
        )
    work: DensePass | _WindowPass
    if isinstance(network, DensePicker):
        work = DensePass(_folded_form(network), classes, view, device)
    else:
        work = _WindowPass(network, classes, device)
    stride = work.stride
    low = view.from_index(np.array([part.start - 0.5 for part in box])) + 0.5
    high = view.from_index(np.array([part.stop - 0.5 for part in box])) + 0.5
    first = np.floor(low / stride + 1e-6).astype(int)
    last = np.maximum(np.ceil(high / stride - 1e-6).astype(int), first + 1)
    scores = np.zeros((len(classes), *(last - first)), np.float32)
    cells = -(-view.end // stride)  # a mirrored cell is again a cell if the view has whole ones
    images = [MirrorImage(view, axes, cells * stride) for axes in (_FLIPS if flips else _FLIPS[:1])]
    with torch.inference_mode(), autocast(device, dtype):
        for n, image in enumerate(images):
            begin = first.copy()
            for axis in image.axes:
                begin[axis] = cells[axis] - last[axis]
            mirrored = np.flip(scores, tuple(axis + 1 for axis in image.axes))
            part = part_of(progress, n / len(images), (n + 1) / len(images))
            work.add(mirrored, image, begin, part)
    scores /= len(images)
    return scores, first, stride


def _dense_form(network: CryoET3DCNN, device: torch.device) -> tuple[DenseCryoET3DCNN, Stride]:
    """Cheapest equivalent dense network; kept as long as the network lives."""
    if network not in _dense_forms:
        factored = factor(network, _HIGHEST_RANK, exact=True)
        if factored is not None and device.type == "cpu":
            factored.use_transforms()
        _dense_forms[network] = (network.dense(), 8) if factored is None else (factored, 4)
    return _dense_forms[network]


def _folded_form(network: DensePicker) -> DensePicker:
    """Equivalent network of fewer passes; kept as long as the network lives."""
    if network not in _folded_forms:
        _folded_forms[network] = folded(network)
    return _folded_forms[network]


class _WindowPass:
    """Passes of windows over a tomogram and its mirror images, with the tile size that fits."""

    def __init__(
        self, network: CryoET3DCNN, classes: Sequence[Sequence[int]], device: torch.device
    ) -> None:
        self._network, self.stride = _dense_form(network, device)
        self._classes = classes
        self._device = device
        edge = _TILE if device.type == "cpu" else _TILE_ON_GPU
        self._tiling = Tiling(3 * (edge // self.stride,), self.stride, device)
        self._reach = (WINDOW - 8) // self.stride  # feature cells of a window beyond its first
        self._corner = (self.stride - WINDOW) // 2  # voxel where the window of cell 0 begins

    def add(
        self,
        scores: NDArray[np.float32],
        image: MirrorImage,
        first: NDArray[np.int64],
        progress: Progress | None,
    ) -> None:
        """Add the probabilities of all cells from `first` on to `scores` (classes, d, h, w)."""
        shape = np.array(scores.shape[1:])
        axis = int(shape.argmax())  # slabs across the longest axis are the smallest
        advance = Count(int(np.prod(shape + self._reach) + np.prod(shape)), progress)
        kept: Tensor | None = None
        with Heartbeat(lambda: advance(0)):
            for begin in range(0, shape[axis], _SLAB):
                end = min(begin + _SLAB, int(shape[axis]))
                low, high = np.zeros_like(shape), shape + self._reach
                low[axis] = begin if kept is None else begin + self._reach
                high[axis] = end + self._reach
                slab = self._features(image, first + low, first + high, advance)
                if kept is not None:
                    slab = torch.cat([kept, slab], dim=axis + 1)
                place: list[slice] = [slice(None)] * 4
                place[axis + 1] = slice(begin, end)
                self._classify(slab, scores[tuple(place)], advance)
                kept = slab.narrow(axis + 1, end - begin, self._reach).clone()

    def _features(
        self,
        image: MirrorImage,
        low: NDArray[np.int64],
        high: NDArray[np.int64],
        advance: Count,
    ) -> Tensor:
        """Feature cells (128, ...) from `low` to `high`."""
        edge = HALO // self.stride

        def extract(tile: Box) -> Tensor:
            begin = (low + [p.start for p in tile]) * self.stride + self._corner - HALO
            end = (low + [p.stop - 1 for p in tile]) * self.stride + self._corner + 8 + HALO
            values = torch.from_numpy(image.read(begin, end))[None, None].to(self._device)
            found = self._network.extract(values, self.stride)[0]
            return found[:, edge:-edge, edge:-edge, edge:-edge]

        whole: Tensor | None = None
        shape = (high - low).tolist()
        for tile, values in self._tiling.over(shape, extract):
            if whole is None:
                whole = values.new_empty((len(values), *shape))
            whole[(slice(None), *tile)] = values
            advance(values[0].numel())
        assert whole is not None
        return whole

    def _classify(self, features: Tensor, scores: NDArray[np.float32], advance: Count) -> None:
        """Add the probabilities of all windows that lie on the features to `scores`."""
        for tile in tiles(scores.shape[1:], 3 * (_SLAB,)):
            below = [slice(part.start, part.stop + self._reach) for part in tile]
            logits = self._network.classify(features[(slice(None), *below)][None], self.stride)[0]
            add_by_class(scores[(slice(None), *tile)], logits.float().softmax(0), self._classes)
            advance(logits[0].numel())
