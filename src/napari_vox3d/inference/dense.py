"""One dense pass of `CryoET3DCNN` over a tomogram, tile by tile, in bounded memory.

Features are computed once for every place, in tiles with a halo that keeps the zero padding of
the convolutions out, and kept for a slab as thick as the classifier needs. The result does not
depend on the tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_vox3d.errors import InferenceError
from napari_vox3d.inference.device import autocast, free_memory, is_out_of_memory
from napari_vox3d.inference.tiles import Box, NetworkView, tiles
from napari_vox3d.networks.cryoet_cnn import (
    HALO,
    WINDOW,
    CryoET3DCNN,
    DenseCryoET3DCNN,
    Stride,
    factor,
)

Progress = Callable[[int, int], None]

_TILE, _TILE_ON_GPU = 96, 192  # voxels along an edge: well under a second on two cores
_SMALLEST_TILE = 24
_SLAB = 16  # cells of a slab
_HIGHEST_RANK = 64  # beyond, the factored classifier is not much cheaper than the whole one

_dense_forms: WeakKeyDictionary[nn.Module, tuple[DenseCryoET3DCNN, Stride]] = WeakKeyDictionary()


def score_cells(
    network: nn.Module,
    view: NetworkView,
    box: Box,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64], Stride]:
    """Probabilities of all classes at the cells that cover a box.

    Cells are cubes of `stride` voxels of the view; the first begins at voxel (0, 0, 0). Each is
    scored by the window about its centre.

    Parameters
    ----------
    network
        A `CryoET3DCNN` on `device`.
    view
        What it is shown.
    box
        Voxels of the tomogram (not of the view).
    device, dtype
        Where, and in which precision.
    progress
        Called after each tile.

    Returns
    -------
    tuple
        (outputs, d, h, w) probabilities, the background among them; (3,) index of the first cell;
        the stride: 4, or 8 if the classifier has no low-rank form.

    Raises
    ------
    InferenceError
        If the network is of another kind, or not even small tiles fit in memory.
    """
    dense, stride = _dense_form(network)
    low = view.from_index(np.array([part.start - 0.5 for part in box])) + 0.5
    high = view.from_index(np.array([part.stop - 0.5 for part in box])) + 0.5
    first = np.floor(low / stride + 1e-6).astype(int)
    last = np.maximum(np.ceil(high / stride - 1e-6).astype(int), first + 1)
    with torch.inference_mode(), autocast(device, dtype):
        work = _DensePass(dense, stride, view, device, progress)
        return work.score(first, last), first, stride


def _dense_form(network: nn.Module) -> tuple[DenseCryoET3DCNN, Stride]:
    """Cheapest equivalent dense network; kept as long as the network lives."""
    if not isinstance(network, CryoET3DCNN):
        raise InferenceError(
            f"Particles are scored by CryoET3DCNN, not by {type(network).__name__}."
        )
    if network not in _dense_forms:
        factored = factor(network, _HIGHEST_RANK, exact=True)
        _dense_forms[network] = (network.dense(), 8) if factored is None else (factored, 4)
    return _dense_forms[network]


class _DensePass:
    """State of one pass: the tile size that fits, and how much is done."""

    def __init__(
        self,
        network: DenseCryoET3DCNN,
        stride: Stride,
        view: NetworkView,
        device: torch.device,
        progress: Progress | None,
    ) -> None:
        self._network, self._stride, self._view = network, stride, view
        self._device, self._progress = device, progress
        self._tile = (_TILE if device.type == "cpu" else _TILE_ON_GPU) // stride
        self._reach = (WINDOW - 8) // stride  # feature cells of a window beyond its first
        self._corner = (stride - WINDOW) // 2  # voxel where the window of cell 0 begins
        self._done, self._total = 0, 0

    def score(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.float32]:
        """Probabilities of the cells from `first` to `last` (excluded)."""
        shape = last - first
        axis = int(shape.argmax())  # slabs across the longest axis are the smallest
        self._total = int(np.prod(shape + self._reach) + np.prod(shape))
        self._advance(0)  # loading the network took a while; a cancel may be waiting
        scores: NDArray[np.float32] | None = None
        kept: Tensor | None = None
        for begin in range(first[axis], last[axis], _SLAB):
            end = min(begin + _SLAB, int(last[axis]))
            low, high = first.copy(), last + self._reach
            low[axis] = begin if kept is None else begin + self._reach
            high[axis] = end + self._reach
            slab = self._features(low, high)
            if kept is not None:
                slab = torch.cat([kept, slab], dim=axis + 1)
            part = self._classify(slab)
            if scores is None:
                scores = np.empty((len(part), *shape), np.float32)
            place: list[slice] = [slice(None)] * 4
            place[axis + 1] = slice(begin - int(first[axis]), end - int(first[axis]))
            scores[tuple(place)] = part
            kept = slab.narrow(axis + 1, end - begin, self._reach).clone()
        assert scores is not None
        return scores

    def _features(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> Tensor:
        """Feature cells (128, ...) from `low` to `high`."""
        cells: Tensor | None = None
        for tile in tiles((high - low).tolist(), self._tile):
            found = self._feature_tile(low, tile)
            if cells is None:
                cells = found.new_empty((len(found), *(high - low).tolist()))
            cells[(slice(None), *tile)] = found
            self._advance(found[0].numel())
        assert cells is not None
        return cells

    def _feature_tile(self, low: NDArray[np.int64], tile: Box) -> Tensor:
        start = np.array([part.start for part in tile])
        stop = np.array([part.stop for part in tile])
        edge = HALO // self._stride
        begin = (low + start) * self._stride + self._corner - HALO
        end = (low + stop - 1) * self._stride + self._corner + 8 + HALO
        try:
            values = torch.from_numpy(self._view.read(begin, end))[None, None].to(self._device)
            found = self._network.extract(values, self._stride)[0]
            return found[:, edge:-edge, edge:-edge, edge:-edge]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        free_memory(self._device)
        longest = int((stop - start).max())
        if longest * self._stride // 2 < _SMALLEST_TILE:
            raise InferenceError(
                f"{self._device} has too little memory left even for tiles of "
                f"{longest * self._stride}³ voxels. Close other programs, or compute on the cpu."
            )
        self._tile = min(self._tile, (longest + 1) // 2)
        cells: Tensor | None = None
        for smaller in tiles((stop - start).tolist(), self._tile):
            found = self._feature_tile(low + start, smaller)
            if cells is None:
                cells = found.new_empty((len(found), *(stop - start).tolist()))
            cells[(slice(None), *smaller)] = found
        assert cells is not None
        return cells

    def _classify(self, features: Tensor) -> NDArray[np.float32]:
        """Probabilities (outputs, ...) of all windows that lie on the features."""
        shape = np.array(features.shape[1:]) - self._reach
        outputs = self._network.classifier[3].out_channels
        scores = np.empty((outputs, *shape), np.float32)
        for tile in tiles(shape.tolist(), _SLAB):
            below = [slice(part.start, part.stop + self._reach) for part in tile]
            logits = self._network.classify(features[(slice(None), *below)][None], self._stride)[0]
            part = logits.float().softmax(0).cpu().numpy()
            scores[(slice(None), *tile)] = part
            self._advance(part[0].size)
        return scores

    def _advance(self, cells: int) -> None:
        self._done += cells
        if self._progress is not None:
            self._progress(self._done, self._total)
