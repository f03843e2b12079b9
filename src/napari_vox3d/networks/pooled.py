"""`pooled_convolution`: a convolution of one channel and the pooling after it, to learn fast."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_PHASES = list(product((0, 1), repeat=3))  # places in a cell of 2³ voxels
_EDGE = 4  # voxels that a cell's eight kernels of 3³ cover together
_CELLS = 1024  # at a time: about what a processor's cache holds
_BELOW = -1e-38  # the largest number that is not taken for 0


def pooled_convolution(volume: Tensor, weight: Tensor) -> Tensor:
    """Largest value of a convolution in each cell of 2³ voxels, on a processor.

    Like ``max_pool3d(conv3d(volume, weight, padding=1), 2)`` and its gradient, in half the time and
    without a map of full size: a cell's eight values are products of one matrix with the 4³ voxels
    around it, and which of them was largest is found again when it is asked for. Where several are
    equally large all of them learn.

    Parameters
    ----------
    volume
        (B, 1, D, H, W), even along D, H and W. It gets no gradient.
    weight
        (channels, 1, 3, 3, 3).

    Returns
    -------
    Tensor
        (B, channels, D / 2, H / 2, W / 2); channels lie last in memory.
    """
    with torch.autocast("cpu", enabled=False):  # its sums are written into float32
        return _PooledConvolution.apply(volume, weight)


class _PooledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, volume: Tensor, weight: Tensor) -> Tensor:
        cells = [n // 2 for n in volume.shape[2:]]
        around = F.pad(volume[:, 0], (1,) * 6)
        for axis in (1, 2, 3):
            around = around.unfold(axis, _EDGE, 2)
        around = around.reshape(-1, _EDGE**3)
        kernels = _kernels(weight)
        largest = around.new_empty(len(around), len(weight))
        for voxels, found in zip(around.split(_CELLS), largest.split(_CELLS), strict=True):
            torch.amax(_values(voxels, kernels), 1, out=found)
        ctx.save_for_backward(around, largest, kernels)
        return largest.view(len(volume), *cells, -1).movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        around, largest, kernels = ctx.saved_tensors
        gradient = gradient.movedim(1, -1).reshape(largest.shape)
        learnt = torch.zeros_like(kernels)
        parts = (each.split(_CELLS) for each in (around, largest, gradient))
        for voxels, found, asked in zip(*parts, strict=True):
            lacking = _values(voxels, kernels).sub_(found[:, None])
            asked = asked[:, None].expand_as(lacking)
            told = torch.ops.aten.threshold_backward(asked, lacking, _BELOW)
            learnt.addmm_(voxels.T, told.flatten(1))
        by_phase = learnt.view(_EDGE, _EDGE, _EDGE, len(_PHASES), -1)
        kernels = [
            by_phase[z : z + 3, y : y + 3, x : x + 3, phase]
            for phase, (z, y, x) in enumerate(_PHASES)
        ]
        return None, torch.stack(kernels).sum(0).permute(3, 0, 1, 2)[:, None]


def _kernels(weight: Tensor) -> Tensor:
    """The kernel at each place in the cell: (4³, 8 * channels)."""
    placed = [F.pad(weight[:, 0], (x, 1 - x, y, 1 - y, z, 1 - z)) for z, y, x in _PHASES]
    return torch.stack([each.flatten(1).T for each in placed], 1).flatten(1)


def _values(around: Tensor, kernels: Tensor) -> Tensor:
    """Of all places in cells: (cells, 8, channels)."""
    return (around @ kernels).unflatten(1, (len(_PHASES), -1))
