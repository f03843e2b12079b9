"""`FlatResNet3D` as its specification is most plainly put in PyTorch: the peer of ours."""

from __future__ import annotations

from torch import Tensor, cat, nn


def convolution(inputs: int, outputs: int, kernel: int = 5) -> nn.Conv3d:
    """Periodic convolution without bias."""
    padding = (kernel - 1) // 2
    return nn.Conv3d(
        inputs, outputs, kernel, padding=padding, padding_mode="circular", bias=False
    )  # fmt: skip


class SE(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.excitation = nn.Sequential(
            nn.Linear(channels, channels // 16, bias=False), nn.GELU(),
            nn.Linear(channels // 16, channels, bias=False), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Gate channels."""
        return x * self.excitation(x.mean((2, 3, 4)))[..., None, None, None]


class Block(nn.Module):
    """Two convolutions around an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.f = nn.Sequential(
            convolution(channels, channels), nn.GroupNorm(8, channels), nn.GELU(),
            convolution(channels, channels), nn.GroupNorm(8, channels), SE(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Refine."""
        return nn.functional.gelu(x + self.f(x))


class CBAM(nn.Module):
    """Channel attention, then spatial attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 16
        self.ca, self.sa = nn.Module(), nn.Module()
        self.ca.mlp = nn.Sequential(
            nn.Conv3d(channels, hidden, 1, bias=False), nn.GELU(),
            nn.Conv3d(hidden, channels, 1, bias=False),
        )  # fmt: skip
        self.sa.conv = convolution(2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Gate channels and voxels."""
        cell = (2, 3, 4)
        gate = self.ca.mlp(x.mean(cell, keepdim=True)) + self.ca.mlp(x.amax(cell, keepdim=True))
        x = x * gate.sigmoid()
        maps = cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * self.sa.conv(maps).sigmoid()


class FlatResNet3D(nn.Module):
    """Stem, blocks with attention after every so many, a convolution, a head."""

    def __init__(self, blocks: int = 16, every: int = 4, channels: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            convolution(1, channels), nn.GroupNorm(8, channels), nn.GELU()
        )  # fmt: skip
        body: list[nn.Module] = []
        for n in range(1, blocks + 1):
            body += [Block(channels), *([CBAM(channels)] if n % every == 0 else [])]
        self.body = nn.Sequential(*body)
        self.post = nn.Sequential(convolution(channels, channels), nn.GroupNorm(8, channels))
        self.head = nn.Sequential(nn.Conv3d(channels, 1, 1), nn.Sigmoid())

    def forward(self, sad: Tensor) -> Tensor:
        """Predict the ELF."""
        x = self.stem(sad)
        return self.head(nn.functional.gelu(x + self.post(self.body(x))))
