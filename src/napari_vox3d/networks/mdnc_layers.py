"""Convolutions, stages and sizes that `mdnc` puts its networks together from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

Size = int | Sequence[int]

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_INSTANCE_NORMS: dict[int, Any] = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_BATCH_NORMS: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INTERPOLATIONS = {1: "linear", 2: "bilinear", 3: "trilinear"}


class ConvModernNd(nn.Module):
    """One convolution with its normalisation and activation; take one of the subclasses.

    Parameters
    ----------
    in_planes, out_planes
        Channels.
    kernel_size, stride, padding
        Of the convolution, for all axes or one per axis.
    output_size
        With ``scaler="up"``, the size to interpolate to; `stride` then does not matter.
    normalizer
        ``"pinst"``: instance normalisation with learnt scale and shift; ``"inst"``: without;
        ``"batch"``: over the batch; ``"null"``: none, the convolution has a bias instead.
    activator
        ``"prelu"`` (a slope per channel), ``"relu"``; anything else is none.
    layer_order
        ``"new"``: normalise, activate, convolve. ``"old"``: convolve, normalise, activate. Without
        normalisation the convolution always comes first.
    scaler
        ``"down"``: a strided convolution. ``"up"``: linear interpolation by `stride` that keeps the
        centres of the corner voxels in place, then a convolution without stride.

    Raises
    ------
    ValueError
        If an argument has none of these values.
    """

    dim: ClassVar[int]

    def __init__(
        self,
        in_planes: int,
        out_planes: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size = 1,
        output_size: Size | None = None,
        normalizer: str = "pinst",
        activator: str = "prelu",
        layer_order: str = "new",
        scaler: str = "down",
    ) -> None:
        super().__init__()
        _require_choice("normalizer", normalizer, ("batch", "inst", "pinst", "null"))
        _require_choice("layer_order", layer_order, ("new", "old"))
        _require_choice("scaler", scaler, ("down", "up"))
        strides = per_axis(self.dim, "stride", stride)
        scaling: list[nn.Module] = []
        if scaler == "up" and (output_size is not None or max(strides) > 1):
            scaling.append(_upsample(self.dim, strides, output_size))
            strides = (1,) * self.dim
        convolution = CONVOLUTIONS[self.dim](
            in_planes,
            out_planes,
            per_axis(self.dim, "kernel_size", kernel_size),
            strides,
            per_axis(self.dim, "padding", padding),
            bias=normalizer == "null",
        )
        first = layer_order == "new" and normalizer != "null"
        planes = in_planes if first else out_planes
        modern = [*_normalisation(self.dim, normalizer, planes), *_activation(activator, planes)]
        scaling.append(convolution)
        self.mconv = nn.Sequential(*(modern + scaling if first else scaling + modern))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_planes, *spatial) to (B, out_planes, *scaled spatial)."""
        return self.mconv(x)


class ConvModern1d(ConvModernNd):
    """`ConvModernNd` for (B, C, L)."""

    dim = 1


class ConvModern2d(ConvModernNd):
    """`ConvModernNd` for (B, C, H, W)."""

    dim = 2


class ConvModern3d(ConvModernNd):
    """`ConvModernNd` for (B, C, D, H, W)."""

    dim = 3


_LAYERS: dict[int, type[ConvModernNd]] = {1: ConvModern1d, 2: ConvModern2d, 3: ConvModern3d}


class Stage(nn.Module):
    """`count` layers, the last of which scales; an optional skip connection joins before them."""

    def __init__(
        self,
        kernel: Kernel,
        in_planes: int,
        out_planes: int,
        count: int,
        *,
        hidden: int | None = None,
        scaler: Literal["down", "up", "none"] = "down",
    ) -> None:
        super().__init__()
        hidden = out_planes if hidden is None else hidden
        widths = [in_planes, *[hidden] * (count - 1)]
        layer = _LAYERS[kernel.dim]
        same: dict[str, Any] = {"kernel_size": kernel.size, "padding": kernel.padding}
        self.conv_list = nn.ModuleList(layer(a, b, **same) for a, b in pairwise(widths))
        if scaler != "none":
            same |= {"stride": kernel.stride, "scaler": scaler}
        self.conv_scale = layer(widths[-1], out_planes, **same)
        self.hidden_planes = widths[-1]

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """The scaled map of `x`, and of `skip` if it was built for both."""
        return self.conv_scale(self.before_scaling(x, skip))

    def before_scaling(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """What the scaling layer is given: `hidden_planes` channels at the size of the input."""
        if skip is not None:
            common = [min(sizes) for sizes in zip(x.shape[2:], skip.shape[2:], strict=True)]
            x = torch.cat([cropped(x, common), cropped(skip, common)], 1)
        for layer in self.conv_list:
            x = layer(x)
        return x


class Kernel:
    """Kernels, paddings and strides that a network uses throughout, one number per axis."""

    def __init__(self, dim: int, kernel_size: Size) -> None:
        given = per_axis(dim, "kernel_size", kernel_size)
        self.dim = dim
        self.size = tuple(max(k, 1) for k in given)
        self.padding = tuple(k // 2 for k in self.size)
        self.stride = tuple(2 if k > 1 else 1 for k in self.size)

    def convolution(self, in_planes: int, out_planes: int, *, bias: bool) -> nn.Module:
        """A convolution with this kernel, without stride."""
        return CONVOLUTIONS[self.dim](
            in_planes, out_planes, self.size, padding=self.padding, bias=bias
        )

    def edge_convolution(self, in_planes: int, out_planes: int, *, bias: bool) -> nn.Module:
        """First or last convolution: two voxels wider than the others."""
        wide = Kernel(self.dim, [k + 2 if k > 1 else 1 for k in self.size])
        return wide.convolution(in_planes, out_planes, bias=bias)


def _normalisation(dim: int, name: str, planes: int) -> list[nn.Module]:
    if name == "null":
        return []
    if name == "batch":
        return [_BATCH_NORMS[dim](planes)]
    return [_INSTANCE_NORMS[dim](planes, affine=name == "pinst")]


def _activation(name: str, planes: int) -> list[nn.Module]:
    if name == "prelu":
        return [nn.PReLU(planes)]
    return [nn.ReLU()] if name == "relu" else []


def _upsample(dim: int, factors: tuple[int, ...], size: Size | None) -> nn.Module:
    how: dict[str, Any] = {"mode": _INTERPOLATIONS[dim], "align_corners": True}
    if size is None:
        return nn.Upsample(scale_factor=factors, **how)
    return nn.Upsample(per_axis(dim, "output_size", size), **how)


def per_axis(dim: int, name: str, value: Size) -> tuple[int, ...]:
    """A size given for all axes or one per axis, as one per axis."""
    values = (value,) * dim if isinstance(value, int) else tuple(value)
    if len(values) != dim:
        raise ValueError(f"{name} needs one number or {dim}, not {list(values)}")
    return values


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def convolved(shape: Iterable[int], modules: Iterable[nn.Module]) -> tuple[int, ...]:
    """Spatial size of a map after the convolutions among some modules."""
    sizes = tuple(shape)
    for layer in modules:
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            padding: Any = layer.padding  # numbers, never the names that PyTorch also takes
            steps = zip(sizes, padding, layer.kernel_size, layer.stride, strict=True)
            sizes = tuple((n + 2 * p - k) // stride + 1 for n, p, k, stride in steps)
    return sizes


def halvings(size: tuple[int, ...], strides: tuple[int, ...], count: int) -> list[tuple[int, ...]]:
    """The size and `count` sizes below it, each the last one over the strides, rounded up."""
    sizes = [size]
    for _ in range(count):
        if any(n < stride for n, stride in zip(sizes[-1], strides, strict=True)):
            raise ValueError(f"out_size of {times(size)} is too small to be halved {count} times")
        sizes.append(tuple(-(-n // s) for n, s in zip(sizes[-1], strides, strict=True)))
    return sizes


def cropped(x: Tensor, shape: Iterable[int]) -> Tensor:
    """The middle of a map; axes that are already shorter than `shape` stay whole."""
    for axis, size in enumerate(shape, 2):
        kept = min(size, x.shape[axis])
        x = x.narrow(axis, (x.shape[axis] - kept) // 2, kept)
    return x


def times(shape: Iterable[int]) -> str:
    """A spatial size in words, ``"31×32×30"``."""
    return "×".join(map(str, shape))
