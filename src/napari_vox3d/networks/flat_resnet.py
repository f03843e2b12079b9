"""`FlatResNet3D` and `ELFPredictor`: from a superposition of atomic densities to the ELF.

The flat network works on the whole unit cell at full resolution. Every spatial convolution is
circular, so that a shifted cell gives the shifted prediction and a supercell the repeated one. The
pooled statistics (group normalisation, squeeze-excitation, channel attention) run over the whole
cell, which is why a cell must not be cut into tiles; `in_slabs` bounds memory without cutting it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from napari_vox3d.errors import ModelError
from napari_vox3d.networks.slabs import (
    CircularConv3d,
    PassingGELU,
    count_ticks,
    gelu_of_sum,
    passing_norm,
    slabs_of,
    thickness,
    times,
    works_in_place,
)

if TYPE_CHECKING:
    from napari_vox3d.networks.ckconv_net import CKConvNet

_REDUCTION = 16
_SMALLEST_SQUARE = 1e-3  # of χ: where it vanishes the logit is 7
_FLAT_NAMES = ("flat_resnet", "flat", "flatresnet", "resnet", "flat_resnet3d")


class SqueezeExcitation(nn.Module):
    """Scale channels by a gate computed from their means over the cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // _REDUCTION)
        self.excitation = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.GELU(),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Gate (B, C, D, H, W)."""
        slabs_of(self)
        return times(self, x, self.excitation(x.mean((2, 3, 4)))[:, :, None, None, None])

    def ticks(self, shape: Sequence[int], slab_voxels: int) -> int:
        """One at the start."""
        return 1


class ResidualBlock(nn.Module):
    """Two circular convolutions with squeeze-excitation around an identity."""

    def __init__(self, channels: int, kernel: int, use_checkpoint: bool = False) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.f = nn.Sequential(
            CircularConv3d(channels, channels, kernel),
            passing_norm(channels),
            PassingGELU(),
            CircularConv3d(channels, channels, kernel, passing=True),
            passing_norm(channels),
            SqueezeExcitation(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Refine (B, C, D, H, W)."""
        if self.use_checkpoint and self.training and torch.is_grad_enabled():
            return F.gelu(x + checkpoint(self.f, x, use_reentrant=False))
        return gelu_of_sum(self, self.f(x), x)


class ChannelAttention(nn.Module):
    """Gate per channel from its mean and maximum over the cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // _REDUCTION)
        self.mlp = nn.Sequential(
            nn.Conv3d(channels, hidden, 1, bias=False),
            nn.GELU(),
            nn.Conv3d(hidden, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) to (B, C, 1, 1, 1) in [0, 1]."""
        cell = (2, 3, 4)
        return self.gate(x.mean(cell, keepdim=True), x.amax(cell, keepdim=True))

    def gate(self, mean: Tensor, maximum: Tensor) -> Tensor:
        """Gate from what it looks at, all of them (B, C, 1, 1, 1)."""
        return (self.mlp(mean) + self.mlp(maximum)).sigmoid()


class SpatialAttention(nn.Module):
    """Gate per voxel from the mean and maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = CircularConv3d(2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) to (B, 1, D, H, W) in [0, 1]."""
        return self.conv(self.maps(x)).sigmoid()

    def maps(self, x: Tensor) -> Tensor:
        """What it looks at: (B, 2, D, H, W)."""
        return torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)


class CBAM3D(nn.Module):
    """Channel attention, then periodic spatial attention (Woo et al. 2018, arXiv:1807.06521)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ca = ChannelAttention(channels)
        self.sa = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        """Gate (B, C, D, H, W)."""
        slabs_of(self)
        x = times(self, x, self.ca(x))
        return times(self, x, self.sa(x))

    def ticks(self, shape: Sequence[int], slab_voxels: int) -> int:
        """One at the start; its convolution makes its own."""
        return 1


class FlatResNet3D(nn.Module):
    """Same-resolution periodic residual network with a sigmoid head.

    The stem has no bias and is normalised: the prediction does not depend on the scale of the
    input, but on its shape and on a constant added to it.

    Parameters
    ----------
    in_ch
        Input channels.
    base
        Channels of the body; a multiple of 8, or below 8.
    blocks
        Residual blocks.
    kernel
        Odd edge length of the convolutions in voxels.
    attention_every
        A `CBAM3D` follows each such number of blocks; 0 for none.
    use_checkpoint
        Recompute the blocks in the backward pass instead of keeping their activations.

    Attributes
    ----------
    knows_one_spacing
        Whether its kernels reach over voxels, so that it works only at the grid spacing that it
        was trained at.
    learning_rate
        Highest rate of AdamW that it was found to train well with.
    """

    learning_rate = 3e-3

    def __init__(
        self,
        in_ch: int = 1,
        base: int = 32,
        blocks: int = 16,
        kernel: int = 5,
        attention_every: int = 4,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.base, self.kernel = base, kernel
        self.knows_one_spacing = kernel > 1 or attention_every > 0
        # Rounding the density itself moves an ELF most, and few channels take little time.
        self.stem = nn.Sequential(
            CircularConv3d(in_ch, base, kernel, exact=True), passing_norm(base), PassingGELU()
        )
        body: list[nn.Module] = []
        for number in range(1, blocks + 1):
            body.append(ResidualBlock(base, kernel, use_checkpoint))
            if attention_every and number % attention_every == 0:
                body.append(CBAM3D(base))
        self.body = nn.Sequential(*body)
        self.post = nn.Sequential(
            CircularConv3d(base, base, kernel, passing=blocks > 0), passing_norm(base)
        )
        self.head = nn.Sequential(nn.Conv3d(base, 1, 1), nn.Sigmoid())
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, sad: Tensor, lattice: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Predict from whole cells.

        Parameters
        ----------
        sad
            (B, in_ch, D, H, W), axes along lattice vectors, any positive sizes.
        lattice
            Not looked at: kernels are measured in voxels.

        Returns
        -------
        main
            (B, 1, D, H, W) in [0, 1].
        aux
            Empty list: this network has no auxiliary heads.
        """
        return self.head(self.features(sad, lattice)), []

    def features(self, sad: Tensor, lattice: Tensor | None = None) -> Tensor:
        """What the head sees: (B, base, D, H, W)."""
        x = self.stem(sad)
        kept = None if works_in_place(self, x) else x  # computed again: cheaper than kept
        for layer in self.body:  # one after another, so that each input can go
            x = layer(x)
        x = self.post(x)
        return gelu_of_sum(self, x, self.stem(sad) if kept is None else kept)

    def ticks(self, shape: Sequence[int], slab_voxels: int) -> int:
        """Those of the stem, which is computed twice."""
        return count_ticks(self.stem, shape, slab_voxels)

    def work_per_voxel(self) -> int:
        """Multiply-adds per voxel of the costliest convolution."""
        return self.base**2 * self.kernel**3

    def peak_bytes(self, shape: Sequence[int], slab_voxels: int | None = None) -> int:
        """Estimate the memory that a float32 pass without gradients needs beside the weights.

        Autocast needs about the same, because normalised activations stay float32.

        Parameters
        ----------
        shape
            (D, H, W) of the grid, or (B, D, H, W).
        slab_voxels
            As for `in_slabs`; None for the plain pass.

        Returns
        -------
        int
            Bytes at the peak: four activations are alive at once, in slabs two and what one group
            of channels takes; a convolution adds copies of its padded input or slab in the layout
            of the backend.
        """
        *batch, depth, height, width = shape
        plane = prod(batch) * height * width
        planes = depth if slab_voxels is None else min(depth, thickness(plane, slab_voxels))
        padded = prod(batch) * prod(n + self.kernel - 1 for n in (planes, height, width))
        alive, copies = (4, 2) if slab_voxels is None else (2 + 1 / 8, 5)
        return int(4 * self.base * (alive * plane * depth + copies * padded))


class ErrorHead(nn.Module):
    """How far off an ELF may be at each point, from what its head sees there."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(channels, channels, 1), nn.GELU(), nn.Conv3d(channels, 1, 1), nn.Softplus()
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, D, H, W) to (B, 1, D, H, W), positive."""
        return self.layers(features)


class ELFPredictor(nn.Module):
    """SAD-to-ELF model: a network and the logarithmic variances of its training losses.

    With the flat network the names of its parameters are those of ELFNet
    (https://github.com/Austin243/ELFNet, MIT), so that published checkpoints fit.

    Parameters
    ----------
    in_ch
        Input channels.
    backbone
        ``"flat_resnet"`` or ``"ckconv"``.
    base, blocks, use_checkpoint
        As for `FlatResNet3D` and `CKConvNet`.
    kernel, attention_every
        As for `FlatResNet3D`; the other network has none.
    reach
        Å that the kernels of a `CKConvNet` reach.
    error_head
        Whether it also says how far off it may be; the head is trained after everything else.
    residual
        Number of an input channel that holds asinh χ, where 1 / (1 + χ²) is the Tsirelson–Stash
        ELF, such as 5 of `density_invariants`: the network then learns what is to be added to the
        logit of that ELF. None: it learns the ELF itself.

    Attributes
    ----------
    eta_vox, eta_grad, eta_hist, eta_peak
        Scalars that weigh the training losses (Kendall et al. 2018, arXiv:1705.07115).

    Raises
    ------
    ModelError
        If `backbone` is another one, or there is no channel `residual`.
    ValueError
        If `reach` is not positive.
    """

    def __init__(
        self,
        in_ch: int = 1,
        backbone: str = "flat_resnet",
        base: int = 32,
        blocks: int = 16,
        kernel: int = 5,
        attention_every: int = 4,
        use_checkpoint: bool = False,
        reach: float = 3.0,
        error_head: bool = False,
        residual: int | None = None,
    ) -> None:
        super().__init__()
        if residual is not None and not 0 <= residual < in_ch:
            raise ModelError(f"There is no input channel {residual}; there are {in_ch}.")
        self.residual = residual
        self.eta_vox = nn.Parameter(torch.zeros(()))
        self.eta_grad = nn.Parameter(torch.zeros(()))
        self.eta_hist = nn.Parameter(torch.zeros(()))
        self.eta_peak = nn.Parameter(torch.zeros(()))
        name = backbone.lower().replace("-", "_")
        if name in _FLAT_NAMES:
            self.net: FlatResNet3D | CKConvNet = FlatResNet3D(
                in_ch, base, blocks, kernel, attention_every, use_checkpoint
            )
        elif name == "ckconv":
            from napari_vox3d.networks.ckconv_net import CKConvNet

            self.net = CKConvNet(in_ch, base, blocks, reach, use_checkpoint)
        else:
            raise ModelError(
                f"Unknown backbone {backbone!r} of ELFPredictor; use 'flat_resnet' or 'ckconv'."
            )
        self.error = ErrorHead(base) if error_head else None

    def forward(self, sad: Tensor, lattice: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Predict from whole cells.

        Parameters
        ----------
        sad
            (B, in_ch, D, H, W).
        lattice
            (B, 3, 3) Å: edges of the cells along D, H, W. The flat network does not look at it.

        Returns
        -------
        main
            (B, 1, D, H, W) in [0, 1].
        aux
            Empty list; with an error head, its output (B, 1, D, H, W).

        Raises
        ------
        ModelError
            If a `CKConvNet` is given no lattice.
        """
        features = self.net.features(sad, lattice)
        aux = [] if self.error is None else [self.error(features)]
        return self.answer(features, sad), aux

    def answer(self, features: Tensor, sad: Tensor) -> Tensor:
        """ELF (B, 1, D, H, W) from what the head sees, and from the input in residual form."""
        if self.residual is None:
            return self.net.head(features)
        to_logits, to_elf = self.net.head
        square = torch.sinh(sad[:, self.residual : self.residual + 1].float()) ** 2
        return to_elf(to_logits(features) - torch.log(square + _SMALLEST_SQUARE))

    @torch.no_grad()
    def predict_elf(self, sad: Tensor, lattice: Tensor | None = None) -> Tensor:
        """Predict without gradients: (B, in_ch, D, H, W) to (B, 1, D, H, W) in [0, 1].

        No layer behaves differently in training, so the mode of the module does not matter.
        """
        main, _ = self(sad, lattice)
        return main.clamp(0, 1)
