"""Scores of all cells of a tomogram, in bounded memory; the result does not depend on the tiles.

`DensePicker` makes one pass over tiles, see `napari_vox3d.inference.tiled`. For `CryoET3DCNN`,
features are computed once for every place, in tiles with a halo that keeps the zero padding of
the convolutions out, and kept for a slab as thick as the classifier needs.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_vox3d.errors import InferenceError
from napari_vox3d.inference.device import autocast
from napari_vox3d.inference.tiled import DensePass, Tiling
from napari_vox3d.inference.tiles import Box, NetworkView, tiles
from napari_vox3d.networks.cryoet_cnn import (
    HALO,
    WINDOW,
    CryoET3DCNN,
    DenseCryoET3DCNN,
    Stride,
    factor,
)
from napari_vox3d.networks.pickers import DensePicker
from napari_vox3d.progress import Progress

_TILE, _TILE_ON_GPU = 96, 192  # voxels along an edge: well under a second on two cores
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
) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """Probabilities of all classes at the cells that cover a box.

    Cells are cubes of `stride` voxels of the view; the first begins at voxel (0, 0, 0).

    Parameters
    ----------
    network
        A `DensePicker`, or a `CryoET3DCNN`, which scores a cell by the window about its centre;
        on `device`.
    view
        What it is shown.
    box
        Voxels of the tomogram (not of the view).
    device, dtype
        Where, and in which precision.
    progress
        Called after each tile, and once a second at least.

    Returns
    -------
    tuple
        (outputs, d, h, w) probabilities, the background among them; (3,) index of the first cell;
        the stride: that of the `DensePicker`; of a `CryoET3DCNN` 4, or 8 if its classifier has no
        low-rank form.

    Raises
    ------
    InferenceError
        If the network is of another kind, or not even small tiles fit in memory.
    """
    work: DensePass | _WindowPass
    if isinstance(network, DensePicker):
        work = DensePass(network, view, device, progress)
    else:
        work = _WindowPass(network, view, device, progress)
    stride = work.stride
    low = view.from_index(np.array([part.start - 0.5 for part in box])) + 0.5
    high = view.from_index(np.array([part.stop - 0.5 for part in box])) + 0.5
    first = np.floor(low / stride + 1e-6).astype(int)
    last = np.maximum(np.ceil(high / stride - 1e-6).astype(int), first + 1)
    with torch.inference_mode(), autocast(device, dtype):
        return work.score(first, last), first, stride


def _dense_form(network: nn.Module) -> tuple[DenseCryoET3DCNN, Stride]:
    """Cheapest equivalent dense network; kept as long as the network lives."""
    if not isinstance(network, CryoET3DCNN):
        raise InferenceError(
            f"Particles are scored by DensePicker or CryoET3DCNN, not by {type(network).__name__}."
        )
    if network not in _dense_forms:
        factored = factor(network, _HIGHEST_RANK, exact=True)
        _dense_forms[network] = (network.dense(), 8) if factored is None else (factored, 4)
    return _dense_forms[network]


class _WindowPass:
    """State of one pass of windows: the tile size that fits, and how much is done."""

    def __init__(
        self,
        network: nn.Module,
        view: NetworkView,
        device: torch.device,
        progress: Progress | None,
    ) -> None:
        self._network, self.stride = _dense_form(network)
        self._view, self._device, self._progress = view, device, progress
        edge = _TILE if device.type == "cpu" else _TILE_ON_GPU
        self._tiling = Tiling(edge // self.stride, self.stride, device)
        self._reach = (WINDOW - 8) // self.stride  # feature cells of a window beyond its first
        self._corner = (self.stride - WINDOW) // 2  # voxel where the window of cell 0 begins
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
        edge = HALO // self.stride

        def extract(tile: Box) -> Tensor:
            begin = (low + [p.start for p in tile]) * self.stride + self._corner - HALO
            end = (low + [p.stop - 1 for p in tile]) * self.stride + self._corner + 8 + HALO
            values = torch.from_numpy(self._view.read(begin, end))[None, None].to(self._device)
            found = self._network.extract(values, self.stride)[0]
            return found[:, edge:-edge, edge:-edge, edge:-edge]

        return self._tiling.fill((high - low).tolist(), extract, self._advance)

    def _classify(self, features: Tensor) -> NDArray[np.float32]:
        """Probabilities (outputs, ...) of all windows that lie on the features."""
        shape = np.array(features.shape[1:]) - self._reach
        outputs = self._network.classifier[3].out_channels
        scores = np.empty((outputs, *shape), np.float32)
        for tile in tiles(shape.tolist(), _SLAB):
            below = [slice(part.start, part.stop + self._reach) for part in tile]
            logits = self._network.classify(features[(slice(None), *below)][None], self.stride)[0]
            part = logits.float().softmax(0).cpu().numpy()
            scores[(slice(None), *tile)] = part
            self._advance(part[0].size)
        return scores

    def _advance(self, cells: int) -> None:
        self._done += cells
        if self._progress is not None:
            self._progress(self._done, self._total)
