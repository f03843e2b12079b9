"""Layers for whole unit cells, evaluated piece by piece where memory or patience is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from math import prod
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_vox3d.errors import ModelError


class Slabs(NamedTuple):
    """How the layers of a network are evaluated in a context of `in_slabs`."""

    layers: frozenset[nn.Module]
    voxels: int
    tick: Callable[[], None]


# A context variable belongs to one thread: two predictions may share one network.
_SLABS: ContextVar[Slabs | None] = ContextVar("slabs", default=None)


@contextmanager
def in_slabs(
    network: nn.Module, slab_voxels: int, tick: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Evaluate the convolutions of `network` piece by piece inside this context.

    A `CircularConv3d` runs along its first spatial axis in slabs with a periodic halo, a continuous
    convolution in groups of channels, so that padded copies, spectra and workspace stay small. The
    result is that of the plain pass up to float32 rounding. Gradients are off inside the context,
    which holds for the calling thread only.

    Parameters
    ----------
    network
        Any module; layers with a `ticks` method take part.
    slab_voxels
        Largest number of voxels of one slab (over the batch); at least one plane is taken.
    tick
        Called when a layer that takes part starts and after each of its pieces, `count_ticks`
        times in a pass. An exception it raises leaves the pass.
    """
    token = _SLABS.set(Slabs(frozenset(network.modules()), slab_voxels, tick))
    try:
        with torch.no_grad():
            yield
    finally:
        _SLABS.reset(token)


@runtime_checkable
class Ticking(Protocol):
    """A layer that reports to `in_slabs`."""

    def ticks(self, shape: Sequence[int], slab_voxels: int) -> int:
        """Number of ticks that it makes on a (B, D, H, W) grid."""


def count_ticks(network: nn.Module, shape: Sequence[int], slab_voxels: int) -> int:
    """Number of ticks that one pass over a grid makes inside `in_slabs`.

    Parameters
    ----------
    network
        Any module.
    shape
        (D, H, W) of the grid, or (B, D, H, W).
    slab_voxels
        As given to `in_slabs`.
    """
    *batch, depth, height, width = shape
    full = (prod(batch), depth, height, width)
    return sum(
        layer.ticks(full, slab_voxels) for layer in network.modules() if isinstance(layer, Ticking)
    )


def slabs_of(layer: nn.Module) -> Slabs | None:
    """Report that `layer` starts, and say in which slabs it runs, if in any."""
    if torch.compiler.is_compiling():
        return None
    slabs = _SLABS.get()
    if slabs is None or layer not in slabs.layers:
        return None
    slabs.tick()
    return slabs


def thickness(plane_voxels: int, slab_voxels: int) -> int:
    """Number of planes in a slab."""
    return max(1, slab_voxels // plane_voxels)


def _pad_periodically(x: Tensor, pads: Sequence[int]) -> Tensor:
    """Repeat (B, C, D, H, W) periodically by `pads` voxels at both ends of D, H, W."""
    if not any(pads):
        return x
    if all(pad <= size for pad, size in zip(pads, x.shape[2:], strict=True)):
        return F.pad(x, [pad for pad in reversed(pads) for _ in range(2)], mode="circular")
    for axis, pad in enumerate(pads, start=2):  # a cell smaller than the halo repeats more often
        x = periodic_rows(x, axis, -pad, x.shape[axis] + pad)
    return x


def periodic_rows(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """What a periodic tensor has between two places of an axis, which may lie beyond its ends."""
    size, pieces = x.shape[axis], []
    while start < stop:  # joined slices: index_select is many times slower along an inner axis
        first = start % size
        count = min(stop - start, size - first)
        pieces.append(x.narrow(axis, first, count))
        start += count
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, axis)


def mix_channels(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve (B, in, D, H, W) with (out, in, 1, 1, 1): a product of matrices, so it is fast."""
    rows = weight.flatten(1)[None].expand(len(x), -1, -1)  # matmul would copy the volume instead
    return torch.bmm(rows, x.flatten(2)).unflatten(2, x.shape[2:])


class CircularConv3d(nn.Conv3d):
    """Convolution of one period: (B, in, D, H, W) to (B, out, D, H, W), without bias.

    Any grid works, also one smaller than the kernel. Inside `in_slabs` it is evaluated in slabs.

    Parameters
    ----------
    in_channels, out_channels
        Number of channels.
    kernel_size
        Odd edge length in voxels.
    passing
        Whether nobody else needs the input: inside `in_slabs` the result may then take its place.
    exact
        Whether it is computed in float32 under autocast too.

    Raises
    ------
    ModelError
        If `kernel_size` is even.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        passing: bool = False,
        exact: bool = False,
    ) -> None:
        if kernel_size % 2 == 0:
            raise ModelError(f"A circular convolution needs an odd kernel, not {kernel_size}.")
        super().__init__(in_channels, out_channels, kernel_size, bias=False)
        self.halo = (kernel_size - 1) // 2
        self.passing, self.exact = passing, exact

    def forward(self, x: Tensor) -> Tensor:
        """Convolve one period."""
        slabs = slabs_of(self)
        if slabs is not None:
            return self._forward_in_slabs(x, slabs)
        with self._precision():
            if not self.halo:
                return mix_channels(x, self.weight)
            return super().forward(_pad_periodically(x, [self.halo] * 3))

    def of_planes(self, slab: Tensor) -> Tensor:
        """Convolve planes of a period that bring their neighbours along D, `halo` at both ends."""
        with self._precision():
            return super().forward(_pad_periodically(slab, [0, self.halo, self.halo]))

    def _precision(self) -> AbstractContextManager[object]:
        device = self.weight.device.type
        return torch.autocast(device, enabled=False) if self.exact else nullcontext()

    def ticks(self, shape: Sequence[int], slab_voxels: int) -> int:
        """One at the start and one for each slab."""
        batch, depth, height, width = shape
        return 1 - (-depth // thickness(batch * height * width, slab_voxels))

    def _forward_in_slabs(self, x: Tensor, slabs: Slabs) -> Tensor:
        batch, _, depth, height, width = x.shape
        step = thickness(batch * height * width, slabs.voxels)
        halo, out = self.halo, None
        if self.passing and depth > 2 * halo and works_in_place(self, x):
            out, head, before = x, x[:, :, :halo].clone(), x[:, :, depth - halo :].clone()
        for start in range(0, depth, step):
            stop = min(start + step, depth)
            if out is x:  # what lies before was overwritten, and at the end the beginning too
                after = x[:, :, stop : stop + halo]
                wrapped = head[:, :, : max(0, stop + halo - depth)]
                slab = torch.cat([before, x[:, :, start:stop], after, wrapped], 2)
                before = slab[:, :, slab.shape[2] - 2 * halo : slab.shape[2] - halo].clone()
            else:
                slab = periodic_rows(x, 2, start - halo, stop + halo)
            part = self.of_planes(slab)
            if out is None:  # only the first slab tells the type under autocast
                out = part.new_empty((batch, self.out_channels, depth, height, width))
            out[:, :, start:stop] = part
            slabs.tick()
        assert out is not None
        return out


class PassingNorm(nn.GroupNorm):
    """Normalisation over the whole cell of what nobody else needs.

    Inside `in_slabs` the result takes the place of the input, group by group.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, D, H, W)."""
        if not works_in_place(self, x):
            return super().forward(x)
        count = self.num_groups
        parts = (each.chunk(count, dim) for each, dim in
                 ((x, 1), (self.weight, 0), (self.bias, 0)))  # fmt: skip
        for part, weight, bias in zip(*parts, strict=True):
            part.copy_(F.group_norm(part, 1, weight, bias, self.eps))
        return x


class PassingGELU(nn.GELU):
    """GELU of what nobody else needs; inside `in_slabs` it takes the place of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return gelu_in_place(x) if works_in_place(self, x) else super().forward(x)


def gelu_in_place(x: Tensor) -> Tensor:
    """GELU in the memory of its input."""
    return torch.ops.aten.gelu_(x)


def times(layer: nn.Module, x: Tensor, gate: Tensor) -> Tensor:
    """Gated values, in the place of those if `layer` may."""
    return x.mul_(gate) if works_in_place(layer, x) else x * gate


def gelu_of_sum(layer: nn.Module, x: Tensor, kept: Tensor) -> Tensor:
    """GELU of a sum, in the place of its first part if `layer` may."""
    return gelu_in_place(x.add_(kept)) if works_in_place(layer, x) else F.gelu(kept + x)


def works_in_place(layer: nn.Module, x: Tensor) -> bool:
    """Whether `layer` may overwrite its input: inside `in_slabs`, and with full precision."""
    if torch.compiler.is_compiling():
        return False
    slabs = _SLABS.get()
    return slabs is not None and layer in slabs.layers and x.dtype == torch.float32


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalisation over the whole cell, in eight groups of channels."""
    return nn.GroupNorm(min(8, channels), channels)


def passing_norm(channels: int) -> PassingNorm:
    """`group_norm` of what nobody else needs."""
    return PassingNorm(min(8, channels), channels)
