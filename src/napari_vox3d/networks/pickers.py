"""`DensePicker`: any backbone of the family as a picker that scores every place of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_vox3d.networks.mdnc import EncoderNet3d, UNet3d

_ATTENTION = ("UNet", "HRNet", "SOANet")
_CONVOLUTIONAL = ("EncoderNet3d", "UNet3d")
_PROBED = 32  # multiples along the line on which the halo is measured
_MDNC_MAPS = 6  # full maps that the convolutional family holds at a time, about

_halos: dict[str, int] = {}  # by all that they depend on: measuring one takes half a second


class DensePicker(nn.Module):
    """Stem, backbone and head: which particle sits in each cell of a volume.

    The stem halves the resolution with a kernel of 4 voxels, so that cells lie symmetrically on
    their voxels and a flipped volume has flipped cells. `EncoderNet3d`, which goes down by itself,
    has no stem. The head is a convolution over single cells.

    Parameters
    ----------
    num_classes
        Outputs, the background among them.
    backbone
        ``"UNet"``, ``"HRNet"``, ``"SOANet"`` (its stages are brought to one resolution and
        joined), ``"EncoderNet3d"`` (without its pooling) or ``"UNet3d"``.
    channels
        Of the finest level of the backbone.
    levels
        Of the backbone: times that a U-Net is halved, resolutions of an HRNet, stages of the
        others.
    **backbone_arguments
        Further arguments of the backbone.

    Attributes
    ----------
    stride
        Voxels along the edge of a cell. Cell k covers voxels ``stride * k`` to
        ``stride * (k + 1) - 1``, and its logits are for the centre of these.
    multiple
        Sizes of volumes are multiples of this many voxels.
    halo
        Voxels around a cell that its logits may depend on, a multiple of `multiple`.

    Raises
    ------
    ValueError
        If there is no such backbone, or it cannot be built like this. Cells that need to know the
        size of their input (global and ViT attention) cannot be used.

    Notes
    -----
    Logits do not depend on how a volume is cut into tiles, as long as each has its halo and begins
    at a multiple: down-sampling includes the depth, and normalisation is that of the batch while
    training and fixed afterwards, also in the families that normalise each sample by itself.
    Attention along the depth (T) looks at all of a tile and is the exception.
    """

    def __init__(
        self,
        num_classes: int = 6,
        backbone: str = "UNet",
        channels: int = 16,
        levels: int = 2,
        **backbone_arguments: Any,
    ) -> None:
        super().__init__()
        if backbone not in (*_ATTENTION, *_CONVOLUTIONAL):
            raise ValueError(
                f"backbone is one of {', '.join((*_ATTENTION, *_CONVOLUTIONAL))}, not {backbone!r}"
            )
        if "shape" in backbone_arguments:
            raise ValueError("a picker takes tiles of any size; cells that need a shape do not")
        self.num_classes = num_classes
        self.channels = channels
        self._stacks = backbone == "SOANet"
        self.stem: nn.Module = nn.Identity() if backbone == "EncoderNet3d" else _stem(channels)
        build = _attention if backbone in _ATTENTION else _convolutional
        self.backbone, width, stride, multiple = build(
            backbone, channels, levels, backbone_arguments
        )
        _forget_the_tile(self.backbone)
        self.head = nn.Conv3d(width, num_classes, 1)
        before = 1 if backbone == "EncoderNet3d" else 2
        self.stride: int = before * stride
        self.multiple: int = before * multiple
        self._cell = before  # voxels of a cell that the backbone sees
        alike = repr((backbone, levels, sorted(backbone_arguments.items())))
        self.halo: int = _halos.get(alike) or self._measured_halo()
        if self.halo:
            _halos[alike] = self.halo
        for weight in self.parameters():  # half as fast again on processors
            if weight.ndim == 5:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)

    def forward(self, volume: Tensor) -> Tensor:
        """Score every cell of a volume.

        Parameters
        ----------
        volume
            (B, 1, D, H, W) normalised densities; D, H and W multiples of `multiple`.

        Returns
        -------
        Tensor
            (B, num_classes, D / stride, H / stride, W / stride) logits.

        Raises
        ------
        ValueError
            If the sizes are no such multiples.
        """
        if any(n % self.multiple for n in volume.shape[2:]):
            raise ValueError(
                f"volumes need multiples of {self.multiple} voxels along each axis, not "
                f"{tuple(volume.shape[2:])}"
            )
        maps = self.backbone(self.stem(volume))
        if isinstance(maps, list):
            maps = _stacked(maps) if self._stacks else maps[-1]
        return self.head(maps)

    def peak_bytes(self, shape: Sequence[int]) -> int:
        """Memory that a pass without gradients over (D, H, W) voxels takes at its peak, about."""
        cells = [n // self._cell for n in shape]
        maps = 4 * self.channels * prod(cells)
        estimate = getattr(self.backbone, "peak_bytes", None)
        return maps + estimate(cells) if estimate else _MDNC_MAPS * maps

    def _measured_halo(self) -> int:
        """How far a value that is not a number spreads along a line of voxels."""
        if next(self.parameters()).is_meta:  # made for its shapes alone, without numbers
            return 0
        length = _PROBED * self.multiple
        here = length // 2
        line = torch.zeros(1, 1, 2 * self.multiple, 2 * self.multiple, length)
        line[..., here] = torch.nan
        training = self.training
        with torch.no_grad():
            reached = self.eval()(line).isnan().any(dim=(0, 1, 2, 3)).nonzero()
        self.train(training)
        first, last = int(reached.min()), int(reached.max())
        beyond = max(here - self.stride * first, self.stride * (last + 1) - here)
        return -(-beyond // self.multiple) * self.multiple


Built = tuple[nn.Module, int, int, int]  # backbone, channels it gives, voxels of its cell, multiple


def _attention(name: str, channels: int, levels: int, arguments: dict[str, Any]) -> Built:
    from napari_vox3d.networks import backbones

    depth = {"stages" if name == "SOANet" else "levels": levels}
    usual = {"downsample_depth": True, "norm": "batch3d", **depth}
    backbone = getattr(backbones, name)(channels, channels=channels, **(usual | arguments))
    widths = backbone.out_channels
    return backbone, sum(widths) if name == "SOANet" else widths[-1], 1, lcm(*backbone.multiple)


def _convolutional(name: str, channels: int, levels: int, arguments: dict[str, Any]) -> Built:
    if name == "UNet3d":
        usual: dict[str, Any] = {
            "layers": [2] * (levels + 1),
            "in_planes": channels,
            "out_planes": channels,
        }
        unet = UNet3d(channels, **(usual | arguments))
        return unet, channels, 1, 2 ** (len(unet.layers) - 1)
    encoder = EncoderNet3d(channels, **({"layers": [2] * levels} | arguments), out_length=None)
    cell = 2 ** len(encoder.layers)
    return encoder, channels * cell // 2, cell, cell


def _stem(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm3d(channels),
        nn.PReLU(channels),
    )


def _stacked(maps: Sequence[Tensor]) -> Tensor:
    """Maps side by side at the resolution of the first."""
    size = maps[0].shape[2:]
    raised = [F.interpolate(m, size, mode="trilinear", align_corners=False) for m in maps[1:]]
    return torch.cat([maps[0], *raised], 1)


def _forget_the_tile(module: nn.Module) -> None:
    """Replace in place what depends on the size or the mean of the whole map."""
    for name, child in module.named_children():
        if isinstance(child, nn.InstanceNorm3d):
            norm = nn.BatchNorm3d(child.num_features, child.eps, affine=child.affine)
            setattr(module, name, norm)
        elif isinstance(child, nn.Upsample):
            child.align_corners = False  # True moves each voxel by its share of the map
        else:
            _forget_the_tile(child)
