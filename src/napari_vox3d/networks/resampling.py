"""Halve and double the resolution of a map: `DownSample2x` and `UpSample2x`."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_vox3d.errors import ModelError
from napari_vox3d.networks.layers import ReflectConv3d


class DownSample2x(nn.Module):
    """Halve H and W (and D): (B, in, D, H, W) to (B, out, ...).

    Parameters
    ----------
    in_channels, out_channels
        Number of channels; the first step goes from one to the other.
    steps
        How often to halve.
    method
        ``"interpolate"``: linear interpolation, then a 1×1×1 convolution. ``"patch_merge"``: the
        voxels of each 2×2(×2) patch become channels, then a 1×1×1 convolution (Swin).
    depth
        Halve D too.

    Raises
    ------
    ModelError
        If `method` is unknown, or (from `forward`) an axis to be halved has an odd size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        steps: int = 1,
        method: str = "interpolate",
        depth: bool = False,
    ) -> None:
        super().__init__()
        if method not in ("interpolate", "patch_merge"):
            raise ModelError(
                f"Unknown down-sampling {method!r}; choose 'interpolate' or 'patch_merge'."
            )
        self.method = method
        self.factor = (2 if depth else 1, 2, 2)
        merged = 1 if method == "interpolate" else 8 if depth else 4
        widths = [in_channels] + [out_channels] * (steps - 1)
        self.convs = nn.ModuleList(
            nn.Conv3d(width * merged, out_channels, 1, bias=False) for width in widths
        )

    def forward(self, x: Tensor) -> Tensor:
        """Halve (B, in, D, H, W) `steps` times."""
        for conv in self.convs:
            if any(size % factor for size, factor in zip(x.shape[2:], self.factor, strict=True)):
                raise ModelError(
                    f"A map of {tuple(x.shape[2:])} voxels (D, H, W) cannot be halved."
                )
            x = conv(self._halve(x))
        return x

    def _halve(self, x: Tensor) -> Tensor:
        if self.method == "interpolate":
            return F.avg_pool3d(x, self.factor)  # linear interpolation, half-way between voxels
        depth, height, width = self.factor
        phases = product(range(depth), range(width), range(height))  # H varies fastest
        return torch.cat([x[:, :, d::depth, h::height, w::width] for d, w, h in phases], 1)


class UpSample2x(nn.Module):
    """Double H and W (and D), then convolve: (B, in, D, H, W) to (B, out, ...).

    Parameters
    ----------
    in_channels, out_channels
        Number of channels; the first step goes from one to the other.
    steps
        How often to double.
    method
        ``"linear"`` or ``"nearest"`` interpolation; a 3×3 convolution follows, 3×3×3 with `depth`.
    depth
        Double D too.

    Raises
    ------
    ModelError
        If `method` is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        steps: int = 1,
        method: str = "linear",
        depth: bool = False,
    ) -> None:
        super().__init__()
        if method not in ("linear", "nearest"):
            raise ModelError(f"Unknown up-sampling {method!r}; choose 'linear' or 'nearest'.")
        self.mode = "trilinear" if method == "linear" else "nearest"
        self.factor = (2.0 if depth else 1.0, 2.0, 2.0)
        self.convs = nn.ModuleList(
            ReflectConv3d(
                out_channels if step else in_channels, out_channels, depth=depth, bias=False
            )
            for step in range(steps)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Double (B, in, D, H, W) `steps` times."""
        for conv in self.convs:
            x = conv(F.interpolate(x, scale_factor=self.factor, mode=self.mode))
        return x
