"""`FlatResNet3D` on cells whose activations do not fit in memory: they are kept in files.

Every layer is either a convolution, which needs some planes of its input at a time, or an operation
on single voxels, some with statistics of the whole cell that are gathered while the voxels are
made. So planes are read, changed and written one slab after another, to the same result as that of
the plain pass but for the rounding of float32. What stays in memory are one slab, the input, the
output, and two numbers for each voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_vox3d.networks.flat_resnet import CBAM3D, ELFPredictor, FlatResNet3D, ResidualBlock
from napari_vox3d.networks.slabs import CircularConv3d, periodic_rows

_FILES = 3
_COPIES = 9  # of a slab and its neighbours, at the peak of a convolution
_KEPT = 16  # bytes a voxel: the maps of attention, and up to two outputs

Rows = Callable[[int, int], Tensor]  # planes between two places, which may lie beyond the ends


def stream_bytes(net: FlatResNet3D, shape: Sequence[int], planes: int) -> int:
    """Estimate the memory that `stream` needs beside weights and input.

    Parameters
    ----------
    net
        The network.
    shape
        (D, H, W) of the grid.
    planes
        Of a slab.
    """
    padded = prod(n + net.kernel - 1 for n in (planes, *shape[1:]))
    return 4 * net.base * _COPIES * padded + _KEPT * prod(shape)


def stream_files(net: FlatResNet3D, shape: Sequence[int]) -> int:
    """Bytes that `stream` writes to files."""
    return 4 * net.base * _FILES * prod(shape)


@torch.no_grad()
def stream(
    network: ELFPredictor,
    sad: Tensor,
    planes: int,
    folder: str | Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tensor, Tensor | None]:
    """Predict the ELF of one cell with activations in files, which nobody else sees.

    Parameters
    ----------
    network
        With a `FlatResNet3D`.
    sad
        (1, in_ch, D, H, W) on the device of the network.
    planes
        Of a slab.
    folder
        Where the files are; they go when the pass ends, however it does.
    progress
        Called after each slab of each layer.

    Returns
    -------
    elf : Tensor
        (1, 1, D, H, W) float32 on the CPU.
    error : Tensor or None
        What the error head says, likewise; None without one.

    Raises
    ------
    OSError
        If the disk is full.
    """
    net = network.net
    assert isinstance(net, FlatResNet3D)
    with ExitStack() as files:
        x, first, second = (
            files.enter_context(_Planes(folder, net.base, sad)) for _ in range(_FILES)
        )
        return _Pass(network, net, sad, planes, progress).run(x, first, second)


class _Planes:
    """Activation of a cell in a file, plane after plane."""

    def __init__(self, folder: str | Path, channels: int, like: Tensor) -> None:
        self._depth, height, width = like.shape[2:]
        self._plane = (channels, height, width)
        self._device = like.device
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, start: int, x: Tensor) -> None:
        """Write (1, C, planes, H, W) from a plane on."""
        self._file.seek(4 * start * prod(self._plane))
        self._file.write(x[0].transpose(0, 1).float().cpu().contiguous().numpy().data)

    def rows(self, start: int, stop: int) -> Tensor:
        """Read (1, C, stop - start, H, W), periodically."""
        planes = torch.empty(stop - start, *self._plane)
        done = 0
        while done < len(planes):
            first = (start + done) % self._depth
            count = min(len(planes) - done, self._depth - first)
            self._file.seek(4 * first * prod(self._plane))
            self._file.readinto(planes[done : done + count].numpy().data)
            done += count
        return planes.to(self._device).transpose(0, 1)[None]


class _Moments:
    """Mean, variance and maximum of each channel of a cell, from its slabs."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, torch.zeros(()), torch.zeros(())
        self.maximum = torch.tensor(-torch.inf)

    def add(self, x: Tensor) -> None:
        """Take (1, C, planes, H, W) into account (Chan, Golub and LeVeque 1979)."""
        variance, mean = (part.double() for part in torch.var_mean(x[0], (1, 2, 3), correction=0))
        count = x[0, 0].numel()
        total = self.count + count
        away = mean - self.mean.to(mean)
        squares = self._squares.to(mean) + variance * count
        self._squares = squares + away**2 * self.count * count / total
        self.mean = self.mean.to(mean) + away * count / total
        self.maximum = torch.maximum(self.maximum.to(x), x[0].amax((1, 2, 3)))
        self.count = total

    def normalised_by(self, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
        """Factor and summand, (1, C, 1, 1, 1), with which `norm` changes the channels."""
        means = self.mean.unflatten(0, (norm.num_groups, -1))
        variances = (self._squares / self.count).unflatten(0, (norm.num_groups, -1))
        mean = means.mean(1, keepdim=True)
        variance = (variances + (means - mean) ** 2).mean(1, keepdim=True)
        factor = norm.weight / (variance + norm.eps).sqrt().expand_as(means).flatten()
        summand = norm.bias - mean.expand_as(means).flatten() * factor
        return _as_channels(factor), _as_channels(summand)


def _as_channels(values: Tensor) -> Tensor:
    return values.float()[None, :, None, None, None]


class _Pass:
    """One pass of a network over a cell."""

    def __init__(
        self,
        network: ELFPredictor,
        net: FlatResNet3D,
        sad: Tensor,
        planes: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self._network, self._net, self._sad, self._planes = network, net, sad, planes
        self._progress, self._done = progress, 0
        self._depth = sad.shape[2]
        passes = 4 + sum(3 if isinstance(layer, ResidualBlock) else 2 for layer in net.body)
        self._total = passes * len(range(0, self._depth, planes))

    def run(self, x: _Planes, first: _Planes, second: _Planes) -> tuple[Tensor, Tensor | None]:
        """Main output and that of the error head."""
        layers: Any = self._net.stem
        to_stem, norm, _ = layers
        stem = self._convolve(to_stem, self._inputs, first).normalised_by(norm)
        moments = self._make(x, lambda start, stop: F.gelu(_changed(first, start, stop, stem)))
        for layer in self._net.body:
            if isinstance(layer, ResidualBlock):
                moments = self._block(layer, x, first, second)
            elif isinstance(layer, CBAM3D):
                moments = self._attend(layer, x, moments)
        layers = self._net.post
        to_post, norm = layers
        post = self._convolve(to_post, x.rows, first).normalised_by(norm)
        parts: list[Tensor] = []
        errors: list[Tensor] = []
        for start, stop in self._slabs():  # the stem is cheaper computed again than kept
            made = _convolved(to_stem, self._inputs, start, stop) * stem[0] + stem[1]
            features = F.gelu(F.gelu(made) + _changed(first, start, stop, post))
            answer = self._network.answer(features, self._sad[:, :, start:stop])
            parts.append(answer.float().cpu())
            if self._network.error is not None:
                errors.append(self._network.error(features).float().cpu())
        return torch.cat(parts, 2), torch.cat(errors, 2) if errors else None

    def _inputs(self, start: int, stop: int) -> Tensor:
        return periodic_rows(self._sad, 2, start, stop)

    def _slabs(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self._depth, self._planes):
            yield start, min(start + self._planes, self._depth)
            self._done += 1
            self._progress(self._done, self._total)

    def _make(self, out: _Planes, rows: Rows) -> _Moments:
        moments = _Moments()
        for start, stop in self._slabs():
            part = rows(start, stop)
            moments.add(part)
            out.put(start, part)
        return moments

    def _convolve(self, layer: CircularConv3d, rows: Rows, out: _Planes) -> _Moments:
        return self._make(out, lambda start, stop: _convolved(layer, rows, start, stop))

    def _block(self, block: ResidualBlock, x: _Planes, first: _Planes, second: _Planes) -> _Moments:
        """Refine `x` in its place."""
        layers: Any = block.f
        convolution, norm, _, again, norm_again, squeeze = layers
        change = self._convolve(convolution, x.rows, first).normalised_by(norm)
        moments = self._convolve(
            again, lambda start, stop: F.gelu(_changed(first, start, stop, change)), second
        )
        factor, summand = moments.normalised_by(norm_again)
        means = _as_channels(moments.mean) * factor + summand
        gate = squeeze.excitation(means.flatten(1)).float()[:, :, None, None, None]
        gated = factor * gate, summand * gate
        return self._make(
            x,
            lambda start, stop: F.gelu(x.rows(start, stop) + _changed(second, start, stop, gated)),
        )

    def _attend(self, layer: CBAM3D, x: _Planes, moments: _Moments) -> _Moments:
        """Gate `x` in its place."""
        gate = layer.ca.gate(_as_channels(moments.mean), _as_channels(moments.maximum)).float()
        maps = self._sad.new_empty((1, 2, *self._sad.shape[2:]))
        for start, stop in self._slabs():
            maps[:, :, start:stop] = layer.sa.maps(x.rows(start, stop) * gate)

        def gated(start: int, stop: int) -> Tensor:
            around = _convolved(
                layer.sa.conv, lambda a, b: periodic_rows(maps, 2, a, b), start, stop
            )
            return x.rows(start, stop) * gate * around.sigmoid()

        return self._make(x, gated)


def _convolved(layer: CircularConv3d, rows: Rows, start: int, stop: int) -> Tensor:
    return layer.of_planes(rows(start - layer.halo, stop + layer.halo)).float()


def _changed(x: _Planes, start: int, stop: int, change: tuple[Tensor, Tensor]) -> Tensor:
    factor, summand = change
    return x.rows(start, stop).mul_(factor).add_(summand)
