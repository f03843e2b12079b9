"""`SpectralConv3d`: convolution with a large kernel from many channels to few, on processors."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

_EDGE = 24  # voxels of a transform: for a kernel of 8, 17³ of its 24³ results are whole


class SpectralConv3d(nn.Module):
    """The same as a `torch.nn.Conv3d` without padding and bias, by fast Fourier transforms.

    Tile by tile, what overlaps is cut off (overlap and save). A kernel of 8³ takes 512
    multiplications for a result and pair of channels, its spectrum about 10; so this is for large
    kernels, and for few outputs, because the spectra of all pairs are kept: 7.7 MB for 128
    channels and one output.

    Parameters
    ----------
    convolution
        Layer of stride 1 to take the weights of, with kernels of the same size along all axes.
    edge
        Voxels along each edge of a transform.
    """

    def __init__(self, convolution: nn.Conv3d, edge: int = _EDGE) -> None:
        super().__init__()
        self.outputs, self._edge = convolution.out_channels, edge
        self.spectrum: Tensor
        self._whole = edge - convolution.kernel_size[0] + 1
        weight = convolution.weight.detach()
        spectrum = weight.new_empty(
            (edge**2 * (edge // 2 + 1), weight.shape[1], len(weight)), dtype=torch.complex64
        )
        for output, kernel in enumerate(weight.float()):  # one by one, to take no memory twice
            waves = torch.fft.rfftn(kernel, s=[edge] * 3)
            spectrum[..., output] = waves.conj().flatten(1).T
        self.register_buffer("spectrum", spectrum, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, D, H, W), in float32."""
        edge, whole = self._edge, self._whole
        sizes = [n - edge + whole for n in x.shape[2:]]
        y = x.new_empty((len(x), self.outputs, *sizes), dtype=torch.float32)
        every = slice(None), slice(None)
        for corner in product(*(range(0, n, whole) for n in sizes)):
            read = [slice(begin, begin + edge) for begin in corner]
            kept = [slice(0, min(whole, n - a)) for a, n in zip(corner, sizes, strict=True)]
            place = [slice(a, a + part.stop) for a, part in zip(corner, kept, strict=True)]
            y[(*every, *place)] = self._filtered(x[(*every, *read)].float())[(*every, *kept)]
        return y

    def _filtered(self, tile: Tensor) -> Tensor:
        """Circular correlation of a tile, with zeros beyond it."""
        sizes = [self._edge] * 3
        waves = torch.fft.rfftn(tile, s=sizes)
        by_wave = waves.flatten(2).permute(2, 0, 1).contiguous()  # else bmm copies one by one
        mixed = torch.bmm(by_wave, self.spectrum)
        mixed = mixed.permute(1, 2, 0).reshape(len(tile), self.outputs, *waves.shape[2:])
        return torch.fft.irfftn(mixed, s=sizes)
