"""Convolution with continuous kernels: over the whole volume, and in Å over a crystal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import pi, prod, sqrt
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from napari_vox3d.networks.fourier import (
    Padding,
    add_shortcut,
    apply_spectrum,
    axis_paddings,
    fft_conv,
    in_chunks,
)
from napari_vox3d.networks.kernels import (
    ExponentialModulationND,
    FourierKernel,
    SirenKernel,
    coordinate_grid,
    make_kernel,
)

_Cell = tuple[tuple[float, ...], ...]
_Shape = tuple[int, int, int]
_KEPT_BYTES = 2**26  # of a spectrum per layer

__all__ = [
    "CKConvND",
    "CartesianCKConv3d",
    "ExponentialModulationND",
    "FourierKernel",
    "SirenKernel",
    "coordinate_grid",
    "fft_conv",
]


class CKConvND(nn.Module):
    """Depthwise convolution whose kernel is a windowed function of fractional coordinates.

    The kernel reaches over the whole input (Romero et al. 2021, arXiv:2102.02611). Channels are
    not mixed. On a circular axis of even length N the kernel is N - 1 wide. `torch.export` and
    `torch.compile` trace it; the transforms themselves stay those of plain PyTorch.

    Parameters
    ----------
    data_dim
        Number of spatial axes.
    hidden_dim
        Number of channels.
    kernel, kernel_arguments
        ``"siren"`` or ``"fourier"``, and what `SirenKernel` or `FourierKernel` take beside
        `data_dim`, `out_dim` and `gain`.
    mask, mask_arguments
        ``"exponential"`` and what `ExponentialModulationND` takes beside dimensions and channels,
        or None for no window.
    padding
        ``"zero"``, ``"circular"``, or one of them per axis.
    causal
        Only the past counts: for one axis with zero padding.
    grid
        Width of the kernel: ``"single"`` is that of the input, ``"double"`` twice that. None takes
        single on circular and double on other axes; the only choice for padding per axis.
    samples
        Length of the input, one for all axes or one per axis, for which the kernel just covers
        coordinates from -1 to 1. Coordinates keep this spacing for every other length.
    chunk
        Channels that are convolved at a time, to save memory; None for all.
    channels_last
        Whether input and output are (B, *spatial, C).

    Raises
    ------
    ValueError
        If an argument is not one of those, or they contradict each other.
    AssertionError
        If the grid does not fit a padding of one word, or a causal kernel has several axes.
    TypeError
        If `samples` are not integers.
    """

    def __init__(
        self,
        data_dim: int,
        hidden_dim: int,
        kernel: str = "siren",
        kernel_arguments: dict[str, Any] | None = None,
        mask: str | None = "exponential",
        mask_arguments: dict[str, Any] | None = None,
        padding: Padding = "zero",
        causal: bool = False,
        grid: Literal["single", "double"] | None = None,
        samples: int | Sequence[int] = 32,
        chunk: int | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        paddings = axis_paddings(padding, data_dim)
        _check_grid(padding, paddings, grid, causal)
        self.padding: Padding = "causal" if causal else paddings
        self.causal, self.chunk, self.channels_last = causal, chunk, channels_last
        self.single = tuple((grid or _natural_grid(word)) == "single" for word in paddings)
        self.samples = tuple(
            (count + 1) // 2 if single else count
            for count, single in zip(_per_axis(samples, data_dim), self.single, strict=True)
        )
        if min(self.samples) < 2:
            raise ValueError(f"Too few samples for a single grid: {samples}; take 3 or more.")
        self.kernel = make_kernel(
            kernel,
            data_dim=data_dim,
            out_dim=hidden_dim,
            gain=1 / sqrt(prod(self.samples)),
            **(kernel_arguments or {}),
        )
        self.mask = _make_mask(mask, data_dim, hidden_dim, mask_arguments or {})
        bound = 1 / sqrt(hidden_dim)
        self.shortcut = nn.Parameter(torch.empty(hidden_dim).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, *spatial), or (B, *spatial, C) with `channels_last`."""
        if self.channels_last:
            x = x.movedim(-1, 1)
        y = fft_conv(x, self.kernel_for(x.shape[2:]), self.padding, self.shortcut, self.chunk)
        return y.movedim(1, -1) if self.channels_last else y

    def kernel_for(self, sizes: Sequence[int]) -> Tensor:
        """Windowed kernel (1, C, *kernel sizes) for an input of spatial `sizes`."""
        half = [(n + 1) // 2 if s else n for n, s in zip(sizes, self.single, strict=True)]
        grid = coordinate_grid(half, self.samples, self.shortcut.device)
        with torch.autocast(grid.device.type, enabled=False):
            values = self.kernel(grid)
            if self.mask is not None:
                values = self.mask(grid, values)
        values = values.movedim(-1, 1)
        return values[:, :, values.shape[-1] // 2 :] if self.causal else values


class CartesianCKConv3d(nn.Module):
    """Depthwise convolution of a crystal with a continuous kernel of the displacement in Å.

    The output at a point is the integral of input times kernel over all space, the crystal being
    repeated for ever. The kernel is a network's value, times an exponential window whose width
    differs between channels, times (1 - (distance / reach)²)², over the volume of the window. So

    * a shifted, reordered, reversed or repeated cell gives the shifted, reordered, reversed or
      repeated result, and an isotropic kernel the same result in every orientation;
    * with a finer grid the result converges.

    The lattice takes no gradient. Evaluated in float32 under autocast too. Which points are within
    reach depends on the values of the lattice, so `torch.export` cannot trace it; `torch.compile`
    leaves the spectrum of the kernel to plain PyTorch.

    Parameters
    ----------
    channels
        Number of channels; they are not mixed.
    reach
        Radius of the kernel in Å.
    isotropic
        Whether the kernel is a function of the distance only, or else of the direction too.
    kernel, kernel_arguments
        As for `CKConvND`; coordinates are displacements over `reach`. `omega_0` is 2 by default:
        up to two periods within the reach at the start.
    mask_arguments
        What `ExponentialModulationND` takes beside dimensions and channels; the window is a
        function of the distance, with coordinate 1 at the reach.
    chunk
        Channels that are convolved at a time, to save memory; None for all.

    Raises
    ------
    ValueError
        If `reach` is not positive or `kernel` unknown.
    """

    def __init__(
        self,
        channels: int,
        reach: float = 3.0,
        isotropic: bool = True,
        kernel: str = "siren",
        kernel_arguments: dict[str, Any] | None = None,
        mask_arguments: dict[str, Any] | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        if not reach > 0:
            raise ValueError(f"The reach of a kernel is a positive number of Å, not {reach}.")
        self._kept: tuple[Any, Tensor] | None = None
        self.channels, self.reach, self.isotropic, self.chunk = channels, reach, isotropic, chunk
        self.kernel = make_kernel(
            kernel,
            data_dim=1 if isotropic else 3,
            out_dim=channels,
            **{"omega_0": 2.0, **(kernel_arguments or {})},
        )
        self.mask = ExponentialModulationND(1, channels, **(mask_arguments or {}))
        bound = 1 / sqrt(channels)
        self.shortcut = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def forward(self, x: Tensor, lattice: Tensor) -> Tensor:
        """Convolve whole cells.

        Parameters
        ----------
        x
            (B, C, D, H, W), one period.
        lattice
            (B, 3, 3) or (1, 3, 3) Å: rows are the displacements of one period along D, H, W.

        Returns
        -------
        Tensor
            (B, C, D, H, W) in the type of `x`.

        Raises
        ------
        ValueError
            If the shapes do not fit or a cell has no volume.
        """
        if x.ndim != 5 or x.shape[1] != self.channels:
            raise ValueError(f"Expected (B, {self.channels}, D, H, W), not {tuple(x.shape)}.")
        if lattice.shape[1:] != (3, 3) or len(lattice) not in (1, len(x)):
            raise ValueError(
                f"A lattice of shape {tuple(lattice.shape)} does not fit {len(x)} cells; give "
                f"(1, 3, 3) or ({len(x)}, 3, 3)."
            )
        shape = (x.shape[2], x.shape[3], x.shape[4])

        def convolve(part: Tensor, spectrum: Tensor) -> Tensor:
            return apply_spectrum(part, spectrum, shape)

        spectrum_of = self._spectrum
        if torch.compiler.is_compiling():  # as a decorator it would import the compiler: seconds
            spectrum_of = torch.compiler.disable(spectrum_of)
        y = in_chunks(convolve, x, spectrum_of(lattice, shape), self.chunk)
        return add_shortcut(y, x, self.shortcut)

    def train(self, mode: bool = True) -> CartesianCKConv3d:
        """Set the mode and forget the kept spectrum."""
        self._kept = None
        return super().train(mode)

    def _spectrum(self, lattice: Tensor, shape: _Shape) -> Tensor:
        """Half spectrum of the kernel; the last small one is kept while nothing is trained."""
        cells = [tuple(map(tuple, cell)) for cell in lattice.detach().double().tolist()]
        if len(set(cells)) == 1:
            cells = cells[:1]
        if self.training or torch.is_grad_enabled() or self.shortcut.is_inference():
            return self._fresh_spectrum(cells, shape)
        key = (cells, shape, [(p.data_ptr(), p._version) for p in self.parameters()])
        kept = self._kept  # read once: two threads may share a network
        if kept is not None and kept[0] == key:
            return kept[1]
        spectrum = self._fresh_spectrum(cells, shape)
        if spectrum.nbytes <= _KEPT_BYTES:
            self._kept = (key, spectrum)
        return spectrum

    def _fresh_spectrum(self, cells: list[_Cell], shape: _Shape) -> Tensor:
        kernels = [self._kernel(cell, shape) for cell in cells]
        kernel = torch.stack(kernels) if len(kernels) > 1 else kernels[0][None]
        return torch.fft.rfftn(kernel, dim=(2, 3, 4))

    def _kernel(self, cell: _Cell, shape: _Shape) -> Tensor:
        """(C, D, H, W): sum over all periods, centred on voxel 0, times the voxel volume."""
        near = _neighbourhood(cell, shape, self.reach, self.isotropic).to(self.shortcut.device)
        with torch.autocast(near.coordinates.device.type, enabled=False):
            values = self._values(near)
        voxels = values.new_zeros(self.channels, prod(shape))
        return voxels.index_add_(1, near.voxel, values.T[:, near.which]).unflatten(1, shape)

    def _values(self, near: _Neighbourhood) -> Tensor:
        """(P, C): kernel at each distinct displacement, times the voxel volume."""
        distance = near.coordinates.norm(dim=-1, keepdim=True)
        values = self.kernel(near.coordinates).float() * _taper(distance)
        return self.mask(distance, values) * (near.voxel_volume / self._window_volume())

    def _window_volume(self) -> Tensor:
        """(C,) Å³: integral of window and taper over the sphere."""
        u = (torch.arange(512, device=self.shortcut.device)[:, None] + 0.5) / 512
        shells = (4 * pi * self.reach**3 / 512) * u**2 * _taper(u)
        return self.mask(u, shells.expand(-1, self.channels)).sum(0)


class _Neighbourhood(NamedTuple):
    """Grid points within reach of a point: which voxel each is, and at which displacement.

    `coordinates` (P, 1 or 3) are the distinct displacements over the reach; point number n is at
    `coordinates[which[n]]` and is a copy of voxel `voxel[n]`.
    """

    coordinates: Tensor
    which: Tensor
    voxel: Tensor
    voxel_volume: float

    def to(self, device: torch.device) -> _Neighbourhood:
        return _Neighbourhood(
            self.coordinates.to(device),
            self.which.to(device),
            self.voxel.to(device),
            self.voxel_volume,
        )


@lru_cache(maxsize=16)  # the layers of a network ask for the same one
@torch.inference_mode(False)  # what inference computed must serve training too
def _neighbourhood(cell: _Cell, shape: _Shape, reach: float, isotropic: bool) -> _Neighbourhood:
    lattice = torch.tensor(cell, dtype=torch.float64)
    volume = float(torch.linalg.det(lattice).abs())
    if not volume > 1e-6 * float(lattice.norm(dim=1).prod()):
        raise ValueError(f"A lattice is three vectors that span a volume, not {cell}.")
    sizes = torch.tensor(shape)
    # |fraction along an axis| of a point in the sphere is at most reach * |reciprocal vector|
    most = (reach * torch.linalg.inv(lattice).norm(dim=0) * sizes).floor().long().tolist()
    steps = torch.cartesian_prod(*(torch.arange(-n, n + 1) for n in most))
    displacement = (steps.double() / sizes) @ lattice
    within = displacement.norm(dim=1) < reach
    steps, displacement = steps[within], displacement[within]
    strides = torch.tensor([shape[1] * shape[2], shape[2], 1])
    voxel = ((steps % sizes) * strides).sum(1)
    coordinates, which = displacement / reach, torch.arange(len(steps))
    if isotropic:  # equal distances but for rounding are one
        keys, which = (coordinates.norm(dim=1) * 1e7).round().unique(return_inverse=True)
        coordinates = keys[:, None] / 1e7
    return _Neighbourhood(coordinates.float(), which, voxel, volume / prod(shape))


def _taper(distance: Tensor) -> Tensor:
    """1 at distance 0 and, with its slope, 0 at 1."""
    return (1 - distance**2).clamp(min=0) ** 2


def _check_grid(padding: Padding, paddings: Sequence[str], grid: str | None, causal: bool) -> None:
    if causal:
        if len(paddings) != 1:
            raise AssertionError(f"A causal kernel has one axis, not {len(paddings)}.")
        if not isinstance(padding, str) or paddings[0] == "circular":
            raise ValueError(f"A causal kernel has padding 'zero', not {padding!r}.")
    elif "causal" in paddings:
        raise ValueError("Ask for causal=True with padding 'zero'.")
    if grid is None:
        return
    if not isinstance(padding, str):
        raise ValueError(f"Padding per axis chooses the grid itself; grid must not be {grid!r}.")
    if grid not in ("single", "double"):
        raise AssertionError(f"The grid is 'single' or 'double', not {grid!r}.")
    if grid == "double" and "circular" in paddings:
        raise AssertionError("Circular padding takes a single grid, as wide as the input.")


def _natural_grid(padding: str) -> str:
    return "single" if padding == "circular" else "double"


def _per_axis(samples: int | Sequence[int], dims: int) -> tuple[int, ...]:
    values = samples if isinstance(samples, (list, tuple)) else (samples,) * dims
    if any(isinstance(value, bool) or not isinstance(value, int) for value in values):
        raise TypeError(f"Samples are one integer, or one per axis, not {samples!r}.")
    if len(values) != dims or min(values) < 2:
        raise ValueError(f"Samples are {dims} integers from 2 upwards, not {samples!r}.")
    return tuple(values)


def _make_mask(
    name: str | None, data_dim: int, channels: int, arguments: dict[str, Any]
) -> ExponentialModulationND | None:
    if name is None:
        return None
    if name != "exponential":
        raise ValueError(f"The window is 'exponential' or None, not {name!r}.")
    return ExponentialModulationND(data_dim, channels, **arguments)
