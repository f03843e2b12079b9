"""Continuous convolution kernels: networks from coordinates to values, and their windows."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def coordinate_grid(
    half_sizes: Sequence[int], samples: Sequence[int], device: torch.device | None = None
) -> Tensor:
    """Coordinates of kernel samples around the centre.

    Parameters
    ----------
    half_sizes
        Samples from the centre outwards along each axis, the centre included.
    samples
        How many of them lie in [0, 1] along each axis, at least 2. The spacing 1 / (samples - 1)
        does not depend on `half_sizes`: larger grids go beyond [-1, 1].

    Returns
    -------
    Tensor
        (1, 2 s_1 - 1, 2 s_2 - 1, ..., dims), float32.
    """
    counts = zip(half_sizes, samples, strict=True)
    axes = [_coordinates(size, count, device) for size, count in counts]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)[None]


def _coordinates(half_size: int, samples: int, device: torch.device | None) -> Tensor:
    if torch.compiler.is_compiling():  # sizes may be open, and linspace needs numbers
        steps = torch.arange(1 - half_size, half_size, device=device, dtype=torch.float32)
        return steps / (samples - 1)
    # The middle of a linspace over the whole range, as in the original: sines of high frequency
    # tell its rounding from that of other sums.
    longest = max(half_size, samples)
    limit = (longest - 1) / (samples - 1)
    axis = torch.linspace(-limit, limit, 2 * longest - 1, device=device, dtype=torch.float32)
    return axis[longest - half_size : longest + half_size - 1]


class ExponentialModulationND(nn.Module):
    """Window a kernel with exp(-sum_d |coordinate_d| * weight[d, channel]).

    The decay rates rise linearly over the channels, from `slow_decay_pct` to `fast_decay_pct`,
    shared among the axes: with rate w the window is 1 at the centre, exp(-w / dims) at coordinate
    1 of one axis and exp(-w) at the corner. Coordinates beyond 1 decay further.

    Parameters
    ----------
    data_dim
        Number of axes, at least 1.
    num_channels
        Number of channels.
    fast_decay_pct, slow_decay_pct
        Rates of the last and the first channel: 13.81 leaves a millionth at the corner, 2.3 a
        tenth.
    learnable
        Whether the rates are trained. They are never meant to be decayed (`_no_weight_decay`).

    Attributes
    ----------
    weight
        (data_dim, num_channels) float32.
    """

    def __init__(
        self,
        data_dim: int,
        num_channels: int,
        fast_decay_pct: float = 13.81,
        slow_decay_pct: float = 2.3,
        learnable: bool = False,
    ) -> None:
        super().__init__()
        if data_dim < 1 or num_channels < 1:
            raise ValueError(f"A window needs axes and channels, not {data_dim}, {num_channels}.")
        self.data_dim, self.num_channels = data_dim, num_channels
        self.fast_decay_pct, self.slow_decay_pct = fast_decay_pct, slow_decay_pct
        rates = torch.linspace(slow_decay_pct, fast_decay_pct, num_channels) / data_dim
        self.weight = nn.Parameter(rates.repeat(data_dim, 1), requires_grad=learnable)
        _never_decay(self)

    def forward(self, grid: Tensor, x: Tensor) -> Tensor:
        """Window values at coordinates.

        Parameters
        ----------
        grid
            (1, *spatial, data_dim), float32.
        x
            (B, *spatial, num_channels), any floating type.

        Returns
        -------
        Tensor
            Shape and type of `x`.

        Raises
        ------
        AssertionError
            If `grid` is not float32: in lower precision neighbouring coordinates coincide.
        ValueError
            If `grid` or `x` have another last axis.
        """
        if grid.dtype != torch.float32:
            raise AssertionError(f"Coordinates must be float32, not {grid.dtype}.")
        if grid.shape[-1] != self.data_dim or x.shape[-1] != self.num_channels:
            raise ValueError(
                f"A window of {self.data_dim} axes and {self.num_channels} channels does not fit "
                f"coordinates {tuple(grid.shape)} and values {tuple(x.shape)}."
            )
        decay = torch.ones((), device=grid.device)
        for axis, rates in enumerate(self.weight.float()):
            decay = decay * torch.exp(-grid[..., axis, None].abs() * rates.abs())
        return decay.to(x.dtype) * x

    def extra_repr(self) -> str:
        """Arguments, for printing."""
        return (
            f"data_dim={self.data_dim}, num_channels={self.num_channels}, "
            f"fast_decay_pct={self.fast_decay_pct}, slow_decay_pct={self.slow_decay_pct}"
        )


class SirenKernel(nn.Module):
    """Network of sines from coordinates to kernel values (Sitzmann et al. 2020, arXiv:2006.09661).

    Parameters
    ----------
    data_dim
        Number of coordinates.
    out_dim
        Channels of the kernel.
    mlp_hidden_dim, embedding_dim
        Width of the hidden layers, and of the first.
    num_layers
        Number of layers before the last, at least 2.
    omega_0
        Bandwidth at the start: the first layer has up to `omega_0 / data_dim` periods per unit.
    use_bias
        Whether the layers have a bias; it starts at 0.
    gain
        The weights of the last layer are multiplied by this; with 1 the values start with about
        unit variance.
    """

    def __init__(
        self,
        data_dim: int,
        out_dim: int,
        mlp_hidden_dim: int = 32,
        num_layers: int = 3,
        embedding_dim: int = 32,
        omega_0: float = 10.0,
        use_bias: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.positional_embedding = _Embedding(data_dim, embedding_dim, use_bias)
        widths = _layer_widths(embedding_dim, mlp_hidden_dim, num_layers)
        self.hidden_linears = nn.ModuleList(nn.Linear(*width, bias=use_bias) for width in widths)
        self.out_linear = nn.Linear(mlp_hidden_dim, out_dim, bias=use_bias)
        bound = 2 * pi * omega_0 / data_dim
        nn.init.uniform_(self.positional_embedding.linear.weight, -bound, bound)
        for linear in (*self.hidden_linears, self.out_linear):
            bound = sqrt(6 / linear.in_features)
            nn.init.uniform_(linear.weight, -bound, bound)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        _scale(self.out_linear, gain)
        # Decayed weights would lower the frequencies.
        _never_decay(self.positional_embedding, self.hidden_linears)

    def forward(self, grid: Tensor) -> Tensor:
        """Coordinates (..., data_dim) float32 to kernel values (..., out_dim)."""
        h = torch.sin(self.positional_embedding(grid)).to(self.out_linear.weight.dtype)
        for linear in self.hidden_linears:
            h = torch.sin(linear(h))
        return self.out_linear(h)


class FourierKernel(nn.Module):
    """Random Fourier features of coordinates, then a small network (arXiv:2006.10739).

    Parameters
    ----------
    data_dim, out_dim, mlp_hidden_dim, num_layers, use_bias, gain
        As for `SirenKernel`.
    embedding_dim
        Number of features, half of them cosines and half sines; even.
    omega_0
        Standard deviation of the frequencies in periods per unit.
    nonlinear
        Name of an activation in `torch.nn`.

    Raises
    ------
    ValueError
        If `embedding_dim` is odd or there is no such activation.
    """

    def __init__(
        self,
        data_dim: int,
        out_dim: int,
        mlp_hidden_dim: int = 32,
        num_layers: int = 3,
        embedding_dim: int = 32,
        omega_0: float = 1.0,
        use_bias: bool = True,
        nonlinear: str = "GELU",
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if embedding_dim % 2:
            raise ValueError(f"Cosines and sines need an even embedding_dim, not {embedding_dim}.")
        activation: Any = getattr(nn, nonlinear, None)
        if activation is None:
            raise ValueError(f"torch.nn has no activation {nonlinear!r}.")
        self.positional_embedding = _Embedding(data_dim, embedding_dim // 2, use_bias)
        nn.init.normal_(self.positional_embedding.linear.weight, std=2 * pi * omega_0)
        widths = _layer_widths(embedding_dim, mlp_hidden_dim, num_layers)
        self.kernel_network = nn.Sequential(
            *(part for w in widths for part in (nn.Linear(*w, bias=use_bias), activation()))
        )
        self.out_linear = nn.Linear(mlp_hidden_dim, out_dim, bias=use_bias)
        _scale(self.out_linear, gain)
        _never_decay(self.positional_embedding)

    def forward(self, grid: Tensor) -> Tensor:
        """Coordinates (..., data_dim) float32 to kernel values (..., out_dim)."""
        phase = self.positional_embedding(grid)
        features = torch.cat([torch.cos(phase), torch.sin(phase)], -1)
        return self.out_linear(self.kernel_network(features.to(self.out_linear.weight.dtype)))


KERNELS: dict[str, type[SirenKernel] | type[FourierKernel]] = {
    "siren": SirenKernel,
    "fourier": FourierKernel,
}


def make_kernel(name: str, **arguments: Any) -> nn.Module:
    """Kernel network by name, ``"siren"`` or ``"fourier"``.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in KERNELS:
        raise ValueError(f"There is no kernel network {name!r}; choose {' or '.join(KERNELS)}.")
    return KERNELS[name](**arguments)


class _Embedding(nn.Module):
    """Phases of coordinates, in float32 whatever the type of the weights."""

    def __init__(self, data_dim: int, width: int, use_bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(data_dim, width, bias=use_bias)
        if use_bias:
            nn.init.zeros_(self.linear.bias)

    def forward(self, grid: Tensor) -> Tensor:
        bias = self.linear.bias
        return F.linear(grid, self.linear.weight.float(), None if bias is None else bias.float())


def _layer_widths(first: int, hidden: int, num_layers: int) -> list[tuple[int, int]]:
    if num_layers < 2:
        raise ValueError(f"A kernel network has at least 2 layers, not {num_layers}.")
    return [(first, hidden)] + [(hidden, hidden)] * (num_layers - 2)


@torch.no_grad()
def _scale(linear: nn.Linear, gain: float) -> None:
    linear.weight.mul_(gain)


def _never_decay(*modules: nn.Module) -> None:
    for module in modules:
        for parameter in module.parameters():
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
