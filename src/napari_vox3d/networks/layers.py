"""Small layers that the cells, the samplers and the backbones share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_vox3d.errors import ModelError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "prelu": nn.PReLU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leakyrelu": lambda: nn.LeakyReLU(0.1),
    "gelu": lambda: nn.GELU(approximate="tanh"),
    "elu": nn.ELU,
    "celu": nn.CELU,
    "selu": nn.SELU,
}
NORMS = ("instance2d", "instance3d", "batch2d", "batch3d", "layer", "layer3d")


class ReflectConv3d(nn.Conv3d):
    """Convolution mirrored at the borders: (B, in, D, H, W) to (B, out, D, H, W).

    The kernel is 3×3 within each plane, or 3×3×3. An axis of a single voxel, which has no mirror
    image, is repeated.

    Parameters
    ----------
    in_channels, out_channels
        Number of channels.
    depth
        Convolve along D too.
    bias
        Add a bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, depth: bool = False, bias: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, (3 if depth else 1, 3, 3), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, in, D, H, W)."""
        sizes = x.shape[2:]
        reach = [width // 2 for width in self.kernel_size]
        alone = [pad if size == 1 else 0 for pad, size in zip(reach, sizes, strict=True)]
        if any(alone):
            x = F.pad(x, _both_ends(alone), mode="replicate")
        mirrored = [pad - done for pad, done in zip(reach, alone, strict=True)]
        return super().forward(F.pad(x, _both_ends(mirrored), mode="reflect"))


def _both_ends(pads: Sequence[int]) -> list[int]:
    return [pad for pad in reversed(pads) for _ in range(2)]


def added(fresh: Tensor, other: Tensor) -> Tensor:
    """Sum; without gradients it takes the place of `fresh`, which nobody else may hold."""
    return fresh + other if torch.is_grad_enabled() else fresh.add_(other)


class DropPath(nn.Module):
    """Stochastic depth: in training a sample's branch is left out with probability `p`.

    Huang et al. 2016, arXiv:1603.09382. Branches that stay are scaled by 1 / (1 - p).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Keep or leave out each sample of (B, ...)."""
        if not self.training or self.p == 0:
            return x
        keep = torch.rand((x.shape[0], *[1] * (x.ndim - 1)), device=x.device) >= self.p
        return x * keep.to(x.dtype) / max(1 - self.p, 1e-12)

    def extra_repr(self) -> str:
        """Show the probability."""
        return f"p={self.p}"


class InstanceNorm(nn.Module):
    """Standardise each channel of each sample (3-D) or of each plane (2-D); no parameters."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, D, H, W)."""
        return F.layer_norm(x, x.shape[-self.axes :])


class PlaneLayerNorm(nn.LayerNorm):
    """Layer normalisation of each plane over (C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, D, H, W)."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def normalisation(name: str, channels: int, shape: Sequence[int] | None) -> nn.Module:
    """Make a normalisation layer.

    Parameters
    ----------
    name
        ``"instance2d"`` and ``"instance3d"`` (without parameters), ``"batch2d"`` and ``"batch3d"``
        (the same thing: statistics over batch and voxels), ``"layer"`` (over C, H, W of a plane)
        or ``"layer3d"`` (over C, D, H, W).
    channels
        Number of channels.
    shape
        (D, H, W) of the maps, needed by ``"layer"`` and ``"layer3d"`` only.

    Raises
    ------
    ModelError
        If there is no such norm, or it needs `shape` and there is none.
    """
    if name in ("instance2d", "instance3d"):
        return InstanceNorm(2 if name == "instance2d" else 3)
    if name in ("batch2d", "batch3d"):
        return nn.BatchNorm3d(channels)
    if name not in NORMS:
        raise ModelError(f"Unknown norm {name!r}; choose one of {', '.join(NORMS)}.")
    if shape is None:
        raise ModelError(f"The norm {name!r} has parameters per voxel: give shape=(D, H, W).")
    if name == "layer":
        return PlaneLayerNorm([channels, *shape[1:]])
    return nn.LayerNorm([channels, *shape])


def activation(name: str) -> nn.Module:
    """Make an activation layer.

    Raises
    ------
    ModelError
        If `name` is not in `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise ModelError(f"Unknown activation {name!r}; choose one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()
