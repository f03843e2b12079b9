"""`CKConvNet`: a periodic network whose kernels are functions of the distance in Å.

Nothing in it knows the grid: continuous convolutions reach as far in every cell, everything else
acts on single voxels or on the whole cell. So the prediction at a point is that of the crystal, in
whichever cell, orientation and grid it is written down, up to the error of sums over grid points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import ceil, pi, prod

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from napari_vox3d.errors import ModelError
from napari_vox3d.networks.ckconv import CartesianCKConv3d, _Cell, _Shape, _taper
from napari_vox3d.networks.fourier import PeriodicFilter, add_shortcut, apply_spectrum
from napari_vox3d.networks.slabs import (
    CircularConv3d,
    group_norm,
    mix_channels,
    slabs_of,
    thickness,
)

_WIDER = 2  # channels between the two mixes of a block, over those of the body
_TRANSFORMS = 8  # a Fourier transform of one channel takes as long as mixing 1/8 of the channels
_WAVES_AT_ONCE = 2**16  # that a spectrum is computed for
_KEPT_SINES = 2**20  # of one crystal
_LEAST_POINTS, _POINTS = 40, 8  # of a radial integral: for the kernel itself, and their steps
_MOVING = 128  # multiply-adds in the time that one value is read and written


class PeriodicCKConv3d(CartesianCKConv3d):
    """`CartesianCKConv3d` of an isotropic kernel, whose spectrum is computed without a grid.

    The spectrum of a function of the distance is one of the wave number,

        K(q) = 4π ∫ r² k(r) sin(qr)/(qr) dr,

    so the kernel is evaluated at some sixty distances instead of every grid point within reach,
    and the convolution of band-limited values is exact on every grid. Waves at the Nyquist limit
    are left out. Inside `in_slabs` it runs in groups of channels.

    Parameters
    ----------
    channels, reach
        As for `CartesianCKConv3d`.
    """

    def __init__(self, channels: int, reach: float) -> None:
        super().__init__(channels, reach)

    def forward(self, x: Tensor, lattice: Tensor) -> Tensor:
        """Convolve one period: (B, C, D, H, W) and (B, 3, 3) Å to (B, C, D, H, W)."""
        shape = (x.shape[2], x.shape[3], x.shape[4])
        slabs = slabs_of(self)
        spectrum = self._spectrum(lattice, shape)
        if slabs is None:
            y = PeriodicFilter.apply(x.float(), spectrum)
            return add_shortcut(y.to(x.dtype), x, self.shortcut)
        out = torch.empty_like(x)
        group = _group(len(x) * prod(shape), self.channels, slabs.voxels)
        for start in range(0, self.channels, group):
            some = slice(start, start + group)
            y = apply_spectrum(x[:, some], spectrum[:, some], shape)
            out[:, some] = add_shortcut(y, x[:, some], self.shortcut[some])
            slabs.tick()
        return out

    def ticks(self, shape: Sequence[int], slab_voxels: int) -> int:
        """One at the start and one for each group of channels."""
        return 1 - (-self.channels // _group(prod(shape), self.channels, slab_voxels))

    def _fresh_spectrum(self, cells: list[_Cell], shape: _Shape) -> Tensor:
        """(cells, C, D, H, W // 2 + 1), real."""
        return torch.stack([self._radial_spectrum(cell, shape) for cell in cells])

    def _radial_spectrum(self, cell: _Cell, shape: _Shape) -> Tensor:
        waves = _wave_numbers(cell, shape)
        nodes, weights = _quadrature(float(waves.max()) * self.reach)
        device = self.shortcut.device
        with torch.autocast(device.type, enabled=False):
            u = nodes[:, None].to(device)
            values = self.kernel(u).float() * _taper(u)
            shells = 4 * pi * self.reach**3 * (weights * nodes**2).to(device)
            values = shells[:, None] * self.mask(u, values) / self._window_volume()
            parts = [part.to(device) @ values for part in _sines(cell, shape, self.reach)]
        return torch.cat(parts).T.unflatten(1, waves.shape)


def _sines(cell: _Cell, shape: _Shape, reach: float) -> Iterable[Tensor]:
    """sin(qr)/(qr) of all waves, piece by piece, at the points of the quadrature; 0 at Nyquist."""
    waves = _wave_numbers(cell, shape)
    nodes, _ = _quadrature(float(waves.max()) * reach)
    if waves.numel() * len(nodes) <= _KEPT_SINES:
        return [_kept_sines(cell, shape, reach)]
    return (_sines_of(part, nodes, reach) for part in waves.flatten().split(_WAVES_AT_ONCE))


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _kept_sines(cell: _Cell, shape: _Shape, reach: float) -> Tensor:
    waves = _wave_numbers(cell, shape)
    return _sines_of(waves.flatten(), _quadrature(float(waves.max()) * reach)[0], reach)


def _sines_of(waves: Tensor, nodes: Tensor, reach: float) -> Tensor:
    """(waves, nodes)."""
    sines = torch.sinc(waves[:, None] * (nodes * (reach / pi)))  # torch's sinc is of π x
    return sines * (waves >= 0)[:, None]


@lru_cache(maxsize=32)  # the layers of a network ask for the same one
@torch.inference_mode(False)  # what inference computed must serve training too
def _wave_numbers(cell: _Cell, shape: _Shape) -> Tensor:
    """(D, H, W // 2 + 1) lengths of the waves of a grid in 1/Å; -1 at the Nyquist limit."""
    lattice = torch.tensor(cell, dtype=torch.float64)
    volume = float(torch.linalg.det(lattice).abs())
    if not volume > 1e-6 * float(lattice.norm(dim=1).prod()):
        raise ValueError(f"A lattice is three vectors that span a volume, not {cell}.")
    axes = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in shape[:2]]
    axes.append(torch.fft.rfftfreq(shape[2], 1 / shape[2], dtype=torch.float64))
    numbers = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    lengths = (2 * pi * numbers @ torch.linalg.inv(lattice).T).norm(dim=-1)
    ambiguous = (2 * numbers.abs() == torch.tensor(shape, dtype=torch.float64)).any(-1)
    return torch.where(ambiguous, -1.0, lengths).float()


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _quadrature_of(count: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((nodes + 1) / 2).float(), torch.from_numpy(weights / 2).float()


def _quadrature(largest: float) -> tuple[Tensor, Tensor]:
    """Points in (0, 1) and weights for integrals of sin(largest u) times a smooth function."""
    return _quadrature_of(_POINTS * ceil((_LEAST_POINTS + largest / 2) / _POINTS))


def _group(voxels: int, channels: int, slab_voxels: int) -> int:
    """Channels that are transformed at a time, in about the time of mixing one slab."""
    return min(channels, max(1, slab_voxels * channels // (_TRANSFORMS * voxels)))


class ChannelMix(nn.Module):
    """Mix the channels of each voxel twice, with GELU between; in slabs inside `in_slabs`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen = nn.Conv3d(channels, _WIDER * channels, 1, bias=False)
        self.narrow = nn.Conv3d(_WIDER * channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) to the same."""
        slabs = slabs_of(self)
        if slabs is None:
            return self._mixed(x)
        out = torch.empty_like(x)
        step = thickness(len(x) * x.shape[3] * x.shape[4], slabs.voxels)
        for start in range(0, x.shape[2], step):
            some = slice(start, start + step)
            out[:, :, some] = self._mixed(x[:, :, some])
            slabs.tick()
        return out

    def ticks(self, shape: Sequence[int], slab_voxels: int) -> int:
        """One at the start and one for each slab."""
        batch, depth, height, width = shape
        return 1 - (-depth // thickness(batch * height * width, slab_voxels))

    def _mixed(self, x: Tensor) -> Tensor:
        return mix_channels(F.gelu(mix_channels(x, self.widen.weight)), self.narrow.weight)


class ContinuousBlock(nn.Module):
    """Normalise, look around, mix channels twice; added to the input."""

    def __init__(self, channels: int, reach: float, use_checkpoint: bool = False) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.norm = group_norm(channels)
        self.around = PeriodicCKConv3d(channels, reach)
        nn.init.ones_(self.around.shortcut)  # a point itself counts as much as its surroundings
        self.mix = ChannelMix(channels)

    def forward(self, x: Tensor, lattice: Tensor) -> Tensor:
        """Refine (B, C, D, H, W)."""
        if self.use_checkpoint and self.training and torch.is_grad_enabled():
            return x + checkpoint(self._correction, x, lattice, use_reentrant=False)
        return x + self._correction(x, lattice)

    def _correction(self, x: Tensor, lattice: Tensor) -> Tensor:
        return self.mix(self.around(self.norm(x), lattice))


class CKConvNet(nn.Module):
    """Residual network of continuous convolutions in Å with a sigmoid head.

    Parameters
    ----------
    in_ch
        Input channels.
    base
        Channels of the body; a multiple of 8, or below 8.
    blocks
        Residual blocks.
    reach
        Radius of the kernels in Å.
    use_checkpoint
        Recompute the blocks in the backward pass instead of keeping their activations.

    Attributes
    ----------
    knows_one_spacing
        False: it works on any grid that resolves its input.
    learning_rate
        Highest rate of AdamW that it was found to train well with.
    """

    knows_one_spacing = False
    learning_rate = 1e-2

    def __init__(
        self,
        in_ch: int = 1,
        base: int = 32,
        blocks: int = 4,
        reach: float = 3.0,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.base = base
        self.stem = nn.Sequential(
            CircularConv3d(in_ch, base, 1, exact=True), group_norm(base), nn.GELU()
        )
        self.body = nn.ModuleList(
            ContinuousBlock(base, reach, use_checkpoint) for _ in range(blocks)
        )
        self.post = nn.Sequential(group_norm(base), nn.GELU())
        self.head = nn.Sequential(nn.Conv3d(base, 1, 1), nn.Sigmoid())

    def forward(self, sad: Tensor, lattice: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Predict from whole cells.

        Parameters
        ----------
        sad
            (B, in_ch, D, H, W), axes along lattice vectors, any positive sizes.
        lattice
            (B, 3, 3) Å: edges of the cells along D, H, W.

        Returns
        -------
        main
            (B, 1, D, H, W) in [0, 1].
        aux
            Empty list.

        Raises
        ------
        ModelError
            If there is no lattice.
        """
        return self.head(self.features(sad, lattice)), []

    def features(self, sad: Tensor, lattice: Tensor | None = None) -> Tensor:
        """What the head sees: (B, base, D, H, W)."""
        if lattice is None:
            raise ModelError("A CKConv network needs the lattice of each crystal.")
        x = self.stem(sad)
        for block in self.body:
            x = block(x, lattice)
        return self.post(x)

    def work_per_voxel(self) -> int:
        """Multiply-adds per voxel of the costliest convolution, or what moving its values costs."""
        return _WIDER * self.base * (self.base + _MOVING)

    def peak_bytes(self, shape: Sequence[int], slab_voxels: int | None = None) -> int:
        """Estimate the memory that a float32 pass without gradients needs beside the weights.

        Parameters
        ----------
        shape
            (D, H, W) of the grid, or (B, D, H, W).
        slab_voxels
            As for `in_slabs`; None for the plain pass.

        Returns
        -------
        int
            Bytes at the peak: five activations, and for the voxels of one slab five more. Within
            about 15 % of what was measured on a CPU for grids of 64³ and 80³.
        """
        voxels = prod(shape)
        slab = voxels if slab_voxels is None else min(slab_voxels, voxels)
        return 4 * self.base * 5 * (voxels + slab)
