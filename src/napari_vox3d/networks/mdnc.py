"""`EncoderNet3d`, `UNet3d`, `AE3d`, `DecoderNet3d`: plain convolutional networks, also 1-D and 2-D.

All are stacks of pre-activated convolutions, `ConvModern3d`. The architecture and the names of the
parameters are those of MDNC 0.1.6 (Y. Jin, https://github.com/cainmagi/MDNC), whose weights load
as they are. Tensors are (B, C, *spatial), for volumes (B, C, D, H, W).

A kernel of k > 1 voxels along an axis halves that axis at each scaling; k = 1 leaves it alone.
Odd kernels halve n to ceil(n / 2). Even kernels are padded by k // 2 as well, so every convolution
without a stride makes the map one voxel longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, ClassVar

from torch import Tensor, nn

from napari_vox3d.networks.mdnc_layers import (
    CONVOLUTIONS,
    ConvModern1d,
    ConvModern2d,
    ConvModern3d,
    Kernel,
    Size,
    Stage,
    convolved,
    cropped,
    halvings,
    per_axis,
    times,
)

__all__ = [
    "AE1d",
    "AE2d",
    "AE3d",
    "ConvModern1d",
    "ConvModern2d",
    "ConvModern3d",
    "DecoderNet1d",
    "DecoderNet2d",
    "DecoderNet3d",
    "EncoderNet1d",
    "EncoderNet2d",
    "EncoderNet3d",
    "UNet1d",
    "UNet2d",
    "UNet3d",
]


class _Network(nn.Module):
    """What the networks share: their layers are counted and their inputs checked alike."""

    dim: ClassVar[int]

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        if len(layers) < 2 or min(layers) < 1:
            raise ValueError(f"layers needs at least two numbers from 1 up, not {list(layers)}")
        self.layers = tuple(layers)

    def _require(self, x: Tensor, first: nn.Module, stages: Iterable[nn.Module]) -> None:
        """Refuse an input that `first` cannot take, or that is one voxel before any of `stages`.

        The first layer of a stage normalises each map, of which nothing is left if it is one voxel.
        """
        planes = first.in_channels
        if x.ndim != self.dim + 2 or x.shape[1] != planes:
            axes = ("L", "H, W", "D, H, W")[self.dim - 1]
            raise ValueError(
                f"{type(self).__name__} takes tensors of shape (B, {planes}, {axes}), "
                f"not {tuple(x.shape)}"
            )
        shape = convolved(x.shape[2:], [first])
        for number, stage in enumerate(stages, 1):
            if prod(shape) == 1:
                raise ValueError(
                    f"an input of {times(x.shape[2:])} voxels is too small for "
                    f"{type(self).__name__} with layers={list(self.layers)}: it shrinks to one "
                    f"voxel before stage {number}, whose normalisation needs at least two"
                )
            shape = convolved(shape, stage.modules())


class EncoderNetNd(_Network):
    """Encoder to a vector or to a coarse map; take one of the subclasses.

    A wide convolution, a stage of `ConvModernNd` layers for each entry of `layers`, and a last
    convolution. Each stage ends with a halving and each but the first doubles the channels.

    Parameters
    ----------
    channel
        Channels of the first stage.
    layers
        Layers of each stage, at least two stages.
    kernel_size
        Of the convolutions, for all axes or one per axis; the first convolution is 2 wider.
    in_planes
        Channels of the input.
    out_length
        Length of the vector, a linear function of the last map's mean. None, 0 or less: give the
        map itself, with ``channel * 2**(len(layers) - 1)`` channels.

    Raises
    ------
    ValueError
        If `layers` or `kernel_size` has the wrong length or `layers` an entry below 1.
    """

    def __init__(
        self,
        channel: int,
        layers: Sequence[int],
        kernel_size: Size = 3,
        in_planes: int = 1,
        out_length: int | None = 2,
    ) -> None:
        super().__init__(layers)
        kernel = Kernel(self.dim, kernel_size)
        widths = [channel, *(channel * 2**n for n in range(len(layers)))]
        self.netbody = nn.ModuleList(
            [
                kernel.edge_convolution(in_planes, channel, bias=False),
                *(Stage(kernel, *io, n) for io, n in zip(pairwise(widths), layers, strict=True)),
                kernel.convolution(widths[-1], widths[-1], bias=True),
            ]
        )
        self.fc = None
        if out_length is not None and out_length > 0:
            self.fc = nn.Linear(widths[-1], out_length)

    @property
    def nlayers(self) -> int:
        """Convolutions one after another."""
        return sum(self.layers) + 2

    def forward(self, x: Tensor) -> Tensor:
        """Encode (B, in_planes, *spatial).

        Returns
        -------
        Tensor
            (B, out_length), or without `out_length` the map (B, C, *spatial / 2**len(layers)).

        Raises
        ------
        ValueError
            If the input has another shape, or is so small that a map of a single voxel would have
            to be normalised.
        """
        first, *stages, _ = self.netbody
        self._require(x, first, stages)
        for layer in self.netbody:
            x = layer(x)
        return x if self.fc is None else self.fc(x.flatten(2).mean(2))


class EncoderNet1d(EncoderNetNd):
    """`EncoderNetNd` for (B, C, L)."""

    dim = 1


class EncoderNet2d(EncoderNetNd):
    """`EncoderNetNd` for (B, C, H, W)."""

    dim = 2


class EncoderNet3d(EncoderNetNd):
    """`EncoderNetNd` for (B, C, D, H, W)."""

    dim = 3


class UNetNd(_Network):
    """U-Net; take one of the subclasses.

    Parameters
    ----------
    channel
        Channels of the first stage; each further one doubles them.
    layers
        Layers of each stage on the way down and, mirrored, up; the last entry is the middle.
    kernel_size
        Of the convolutions, for all axes or one per axis; the first and last are 2 wider.
    in_planes, out_planes
        Channels of the input and the output.

    Raises
    ------
    ValueError
        If `layers` or `kernel_size` has the wrong length or `layers` an entry below 1.
    """

    skips: ClassVar = True

    def __init__(
        self,
        channel: int,
        layers: Sequence[int],
        kernel_size: Size = 3,
        in_planes: int = 1,
        out_planes: int = 1,
    ) -> None:
        super().__init__(layers)
        kernel = Kernel(self.dim, kernel_size)
        *outer, middle = layers
        widths = [channel, *(channel * 2**n for n in range(len(outer)))]
        self.conv_first = kernel.edge_convolution(in_planes, channel, bias=False)
        down = [Stage(kernel, *io, n) for io, n in zip(pairwise(widths), outer, strict=True)]
        self.conv_down_list = nn.ModuleList(down)
        deepest = widths[-1]
        self.conv_middle_up = Stage(
            kernel, deepest, deepest, middle, hidden=2 * deepest, scaler="up"
        )
        self.conv_up_list = nn.ModuleList(
            Stage(
                kernel,
                # A stage of one layer hands over what it was given, at its narrower width.
                wide + (partner.hidden_planes if self.skips else 0),
                narrow,
                n,
                hidden=wide,
                scaler="none" if partner is down[0] else "up",
            )
            for partner, narrow, wide, n in reversed(
                list(zip(down, widths[:-1], widths[1:], outer, strict=True))
            )
        )
        self.conv_final = kernel.edge_convolution(channel, out_planes, bias=True)

    @property
    def nlayers(self) -> int:
        """Convolutions one after another."""
        return 2 * sum(self.layers[:-1]) + self.layers[-1] + 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_planes, *spatial) to (B, out_planes, *spatial).

        The output has the size of the input unless a kernel is even.

        Raises
        ------
        ValueError
            If the input has another shape, or is so small that a map of a single voxel would have
            to be normalised.
        """
        self._require(x, self.conv_first, [*self.conv_down_list, self.conv_middle_up])
        return self.conv_final(self._down_and_up(self.conv_first(x)))

    def _down_and_up(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        stage: Any  # a Stage
        for stage in self.conv_down_list:
            skips.append(stage.before_scaling(x))
            x = stage.conv_scale(skips[-1])
        x = self.conv_middle_up(x)
        for stage in self.conv_up_list:
            x = stage(x, skips.pop())
        return x


class UNet1d(UNetNd):
    """`UNetNd` for (B, C, L)."""

    dim = 1


class UNet2d(UNetNd):
    """`UNetNd` for (B, C, H, W)."""

    dim = 2


class UNet3d(UNetNd):
    """`UNetNd` for (B, C, D, H, W)."""

    dim = 3


class AENd(UNetNd):
    """Auto-encoder, a `UNetNd` without skip connections; take one of the subclasses.

    Parameters and errors are those of `UNetNd`.
    """

    skips = False

    def _down_and_up(self, x: Tensor) -> Tensor:
        shapes = []
        for stage in self.conv_down_list:
            shapes.append(x.shape[2:])
            x = stage(x)
        x = self.conv_middle_up(x)
        for stage in self.conv_up_list:
            x = stage(cropped(x, shapes.pop()))
        return x


class AE1d(AENd):
    """`AENd` for (B, C, L)."""

    dim = 1


class AE2d(AENd):
    """`AENd` for (B, C, H, W)."""

    dim = 2


class AE3d(AENd):
    """`AENd` for (B, C, D, H, W)."""

    dim = 3


class DecoderNetNd(_Network):
    """Decoder from a vector or a coarse map; take one of the subclasses.

    Parameters
    ----------
    channel
        Channels of the last stage; each stage before has twice as many.
    layers
        Layers of each stage, at least two stages; each stage ends with a doubling of the size.
    out_size
        Spatial size of the output, for all axes or one per axis.
    kernel_size
        Of the convolutions, for all axes or one per axis; the last convolution is 2 wider.
    in_length
        Length of the vector. None, 0 or less: take a map of `input_size`.
    out_planes
        Channels of the output.

    Raises
    ------
    ValueError
        If `layers`, `kernel_size` or `out_size` has the wrong length, `layers` an entry below 1, or
        `out_size` is too small to be halved so often.
    """

    def __init__(
        self,
        channel: int,
        layers: Sequence[int],
        out_size: Size,
        kernel_size: Size = 3,
        in_length: int | None = 2,
        out_planes: int = 1,
    ) -> None:
        super().__init__(layers)
        kernel = Kernel(self.dim, kernel_size)
        sizes = halvings(per_axis(self.dim, "out_size", out_size), kernel.stride, len(layers))
        *self._sizes, smallest = sizes
        widths = [*(channel * 2**n for n in reversed(range(len(layers)))), channel]
        self.conv_in = None
        self.input_size: tuple[int, ...] = (widths[0], *smallest)
        if in_length is not None and in_length > 0:
            padding = [n - 1 for n in smallest]
            self.conv_in = CONVOLUTIONS[self.dim](in_length, widths[0], smallest, padding=padding)
            self.input_size = (in_length,)
        self.conv_first = kernel.convolution(widths[0], widths[0], bias=False)
        if prod(convolved(smallest, [self.conv_first])) == 1:
            raise ValueError(
                f"out_size of {times(sizes[0])} is too small for layers={list(layers)}: decoding "
                "would start at a single voxel, whose normalisation leaves nothing"
            )
        self.netbody = nn.ModuleList(
            Stage(kernel, *io, n, scaler="up")
            for io, n in zip(pairwise(widths), layers, strict=True)
        )
        self.conv_last = kernel.edge_convolution(channel, out_planes, bias=True)

    @property
    def nlayers(self) -> int:
        """Convolutions one after another."""
        return sum(self.layers) + (2 if self.conv_in is None else 3)

    def forward(self, x: Tensor) -> Tensor:
        """Decode (B, *input_size) to (B, out_planes, *out_size).

        The output has that size unless a kernel is even.

        Raises
        ------
        ValueError
            If the input has another shape.
        """
        if x.shape[1:] != self.input_size:
            raise ValueError(
                f"{type(self).__name__} takes tensors of shape "
                f"{('B', *self.input_size)}, not {tuple(x.shape)}".replace("'", "")
            )
        if self.conv_in is not None:
            x = self.conv_in(x.reshape(*x.shape, *[1] * self.dim))
        x = self.conv_first(x)
        for stage, shape in zip(self.netbody, reversed(self._sizes), strict=True):
            x = cropped(stage(x), shape)
        return self.conv_last(x)


class DecoderNet1d(DecoderNetNd):
    """`DecoderNetNd` for (B, C, L)."""

    dim = 1


class DecoderNet2d(DecoderNetNd):
    """`DecoderNetNd` for (B, C, H, W)."""

    dim = 2


class DecoderNet3d(DecoderNetNd):
    """`DecoderNetNd` for (B, C, D, H, W)."""

    dim = 3
