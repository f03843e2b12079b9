"""Passes over a grid tile by tile, with smaller tiles once memory has run out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from napari_vox3d.errors import InferenceError, is_out_of_memory
from napari_vox3d.inference.device import free_memory
from napari_vox3d.inference.tiles import Box, MirrorImage, NetworkView, tiles
from napari_vox3d.networks.memory import available_memory
from napari_vox3d.networks.pickers import DensePicker
from napari_vox3d.progress import Progress

_SMALLEST = 24  # voxels along an edge of a tile
_USEFUL = 64  # smaller tiles are nearly all halo: taken only once memory has run out
_LARGEST = 512
_SEEN = 32  # voxels around a tile: what lies farther off moves hardly a score by 0.01
_MEMORY = 0.4e9  # bytes that a tile may take on the processor: half as much again is a fifth faster
_GPU_SHARE = 0.4  # of the memory that is free on a GPU
_BEAT = 0.25  # seconds


class Count:
    """Tells how many cells are done.

    Parameters
    ----------
    total
        Cells in all.
    progress
        Told at once, and at each call; may raise `Cancelled`.
    """

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress
        self(0)

    def __call__(self, cells: int) -> None:
        """Count that many more."""
        self._done += cells
        if self._progress is not None:
            self._progress(self._done, self._total)


class Tiling:
    """Goes over grids tile by tile; remembers how large tiles may be.

    Parameters
    ----------
    edges
        Cells along the edges of the first tiles.
    stride
        Voxels of a cell.
    device
        Whose memory counts.
    unit
        Cells of which the first cells of tiles are multiples.
    """

    def __init__(
        self, edges: Sequence[int], stride: int, device: torch.device, unit: int = 1
    ) -> None:
        self._edges, self._unit = tuple(edges), unit
        self._stride, self._device = stride, device

    def over(
        self, shape: Sequence[int], compute: Callable[[Box], Tensor]
    ) -> Iterator[tuple[Box, Tensor]]:
        """Tiles that cover a grid once, each with its values.

        Parameters
        ----------
        shape
            Cells (d, h, w) of the grid.
        compute
            Gives the values (C, ...) of a box of cells.

        Raises
        ------
        InferenceError
            If not even small tiles fit in memory.
        """
        waiting = list(tiles(shape, self._edges, self._unit))[::-1]
        while waiting:
            tile = waiting.pop()
            values = self._attempt(tile, compute)
            if values is None:
                waiting += _divided(tile, self._edges, self._unit)[::-1]
            else:
                yield tile, values

    def _attempt(self, tile: Box, compute: Callable[[Box], Tensor]) -> Tensor | None:
        """Values of a tile; None if it must be divided first."""
        lengths = [part.stop - part.start for part in tile]
        if any(n > edge for n, edge in zip(lengths, self._edges, strict=True)):
            return None  # memory ran out since it was planned
        try:
            return compute(tile)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        free_memory(self._device)
        longest = max(lengths)
        if longest * self._stride // 2 < _SMALLEST:
            raise InferenceError(
                f"{self._device} has too little memory left even for tiles of "
                f"{longest * self._stride}³ voxels. Close other programs, or compute on the cpu."
            )
        self._edges = tuple(min(edge, (longest + 1) // 2) for edge in self._edges)
        return None


def _divided(tile: Box, edges: Sequence[int], unit: int) -> list[Box]:
    parts = tiles([part.stop - part.start for part in tile], edges, unit)
    z, y, x = (part.start for part in tile)
    return [(_moved(d, z), _moved(h, y), _moved(w, x)) for d, h, w in parts]


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


class Heartbeat(TorchFunctionMode):
    """Calls back several times a second while a network computes; a cancel leaves it at once.

    Parameters
    ----------
    beat
        Called between two operations of this thread; may raise.
    """

    def __init__(self, beat: Callable[[], None]) -> None:
        super().__init__()
        self._beat, self._last = beat, time.monotonic()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if time.monotonic() - self._last > _BEAT:
            self._last = time.monotonic()
            self._beat()
        return func(*args, **(kwargs or {}))


class DensePass:
    """Passes of a `DensePicker` over a tomogram and its mirror images.

    Tiles see their halo, up to 32 voxels of it, but nothing beyond the edges of the tomogram, where
    the network pads as it did while training. The halo of a deep network is far wider than what it
    heeds: in simulated tomograms, scores of the default picker beside a cut at 32 voxels differ by
    0.065 at most from those of the whole, and hardly anywhere by 0.004.

    Parameters
    ----------
    network
        On `device`.
    classes
        Outputs that make up each class.
    view
        What it is shown.
    device
        Where it computes.
    """

    def __init__(
        self,
        network: DensePicker,
        classes: Sequence[Sequence[int]],
        view: NetworkView,
        device: torch.device,
    ) -> None:
        self.stride = network.stride
        self._network, self._classes, self._device = network, classes, device
        self._halo = min(network.halo, -(-_SEEN // network.multiple) * network.multiple)
        self._end = np.maximum(self._up(view.end), 2 * network.multiple)
        edges = self._edges() // self.stride
        unit = network.multiple // self.stride
        self._tiling = Tiling(edges.tolist(), self.stride, device, unit)

    def add(
        self,
        scores: NDArray[np.float32],
        image: MirrorImage,
        first: NDArray[np.int64],
        progress: Progress | None,
    ) -> None:
        """Add the probabilities of all cells from `first` on to `scores` (classes, d, h, w).

        `progress` is called after each tile and several times a second meanwhile.
        """
        shape = scores.shape[1:]
        advance = Count(int(np.prod(shape)), progress)

        def compute(tile: Box) -> Tensor:
            low = first + [part.start for part in tile]
            return self._probabilities(image, low, first + [part.stop for part in tile])

        with Heartbeat(lambda: advance(0)):
            for tile, values in self._tiling.over(shape, compute):
                add_by_class(scores[(slice(None), *tile)], values, self._classes)
                advance(values[0].numel())

    def _probabilities(
        self, image: MirrorImage, first: NDArray[np.int64], last: NDArray[np.int64]
    ) -> Tensor:
        halo, multiple = self._halo, self._network.multiple
        low = np.maximum((first * self.stride - halo) // multiple * multiple, 0)
        high = np.minimum(self._up(last * self.stride + halo), self._end)
        values = torch.from_numpy(image.read(low.tolist(), high.tolist()))
        logits = self._network(values[None, None].to(self._device))[0]
        begin, end = first - low // self.stride, last - low // self.stride
        cells = tuple(slice(a, b) for a, b in zip(begin.tolist(), end.tolist(), strict=True))
        return logits[(slice(None), *cells)].float().softmax(0)

    def _edges(self) -> NDArray[np.int64]:
        """Voxels along the edges of tiles that fit in memory and see the fewest voxels in all."""
        memory = _MEMORY
        if self._device.type != "cpu":
            memory = _GPU_SHARE * available_memory(self._device)
        most = np.maximum(self._end // _USEFUL, -(-self._end // _LARGEST))
        parts = np.indices(np.maximum(most, 1)).reshape(3, -1).T + 1
        edges = self._up(-(-self._end // parts))
        seen = np.minimum(edges + np.minimum(parts - 1, 2) * self._halo, self._end).prod(1)
        cube = self._up(np.full(3, _USEFUL))
        fits = seen / cube.prod() * self._network.peak_bytes(cube.tolist()) <= memory
        fits &= (edges <= _LARGEST).all(1)
        in_all = (self._end + 2 * self._halo * (parts - 1)).prod(1, dtype=float)
        return edges[np.where(fits, in_all, in_all.max() * seen).argmin()]

    def _up(self, voxels: NDArray[np.int64]) -> NDArray[np.int64]:
        return -(-voxels // self._network.multiple) * self._network.multiple


def add_by_class(
    scores: NDArray[np.float32], probabilities: Tensor, classes: Sequence[Sequence[int]]
) -> None:
    """Add to `scores` (classes, ...) the sums of the probabilities (outputs, ...) of each class."""
    for score, outputs in zip(scores, classes, strict=True):
        score += probabilities[list(outputs)].sum(0).cpu().numpy()
