"""Depthwise convolution with kernels as large as the volume, by fast Fourier transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Padding = Literal["zero", "circular", "causal"] | Sequence[str]


def axis_paddings(padding: Padding, dims: int) -> tuple[str, ...]:
    """Padding of each of `dims` axes, each ``"zero"``, ``"circular"`` or ``"causal"``.

    Raises
    ------
    ValueError
        If `padding` is not a known word or a sequence of one such word per axis; words may be in
        capitals and have spaces around them. ``"causal"`` is for one axis, and not in a sequence.
    """
    known: tuple[str, ...] = ("zero", "circular")
    if isinstance(padding, str):
        if dims == 1:
            known += ("causal",)
        words: list[str] = [padding] * dims
    elif isinstance(padding, Sequence) and all(isinstance(word, str) for word in padding):
        words = list(padding)
    else:
        raise ValueError(f"Padding is a word or one word per axis, not {padding!r}.")
    words = [word.strip().lower() for word in words]
    if len(words) != dims or not set(words) <= set(known):
        raise ValueError(
            f"Padding is {' or '.join(known)}, or a sequence of 'zero' and 'circular' of length "
            f"{dims}, not {padding!r}."
        )
    return tuple(words)


def fft_conv(
    x: Tensor,
    kernel: Tensor,
    padding: Padding = "zero",
    shortcut: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Convolve each channel with its own kernel; the output has the size of the input.

    Along an axis with N samples and K kernel samples (the kernel is flipped, as in mathematics)::

        zero      y[i] = sum_j k[j] x[i - j + K // 2],              x = 0 outside,  K <= 2 N
        circular  y[i] = sum_j k[j] x[(i - j + (K - 1) // 2) % N],                  K <= N
        causal    y[i] = sum_{j <= i} k[j] x[i - j],                                K <= 2 N

    Computed in float32 (float64 for float64 input).

    Parameters
    ----------
    x
        (B, C, *spatial), floating point.
    kernel
        (1 or B, C, *kernel sizes).
    padding
        One word for all axes, or ``"zero"``/``"circular"`` per axis; ``"causal"`` for one axis.
    shortcut
        (C,): `shortcut * x` is added.
    chunk
        Number of channels that are transformed at a time, to save memory; None for all.

    Returns
    -------
    Tensor
        (B, C, *spatial) in the type of `x`.

    Raises
    ------
    ValueError
        If `padding` is not one of those, or `chunk` is not positive.
    AssertionError
        If the kernel does not fit the input, in channels, batch or size.
    """
    paddings = axis_paddings(padding, x.ndim - 2)
    _check_kernel(x, kernel, paddings)
    if "causal" in paddings:
        kernel = kernel[..., : x.shape[-1]]  # what comes later never meets the input
    sizes = [
        _transform_size(word, n, k)
        for word, n, k in zip(paddings, x.shape[2:], kernel.shape[2:], strict=True)
    ]
    centres = [
        {"zero": k // 2, "circular": (k - 1) // 2, "causal": 0}[word]
        for word, k in zip(paddings, kernel.shape[2:], strict=True)
    ]

    def convolve(part: Tensor, kernel_part: Tensor) -> Tensor:
        return apply_spectrum(part, centred_spectrum(kernel_part, sizes, centres), sizes)

    y = in_chunks(convolve, x, kernel, chunk)
    return y if shortcut is None else add_shortcut(y, x, shortcut)


def centred_spectrum(kernel: Tensor, sizes: Sequence[int], centres: Sequence[int]) -> Tensor:
    """Half spectrum of a kernel that is padded to `sizes` and moved so that `centres` become 0."""
    gaps = [n - k for n, k in zip(sizes, kernel.shape[2:], strict=True)]
    room = [pad for gap in reversed(gaps) for pad in (0, gap)]
    padded = F.pad(_at_least_float32(kernel), room)
    axes = _spatial(kernel)
    return torch.fft.rfftn(padded.roll([-centre for centre in centres], axes), dim=axes)


def apply_spectrum(x: Tensor, spectrum: Tensor, sizes: Sequence[int]) -> Tensor:
    """Filter (B, C, *spatial), padded by zeros to `sizes`; cut to its own size, in its own type."""
    axes = _spatial(x)
    waves = torch.fft.rfftn(_at_least_float32(x), s=list(sizes), dim=axes)
    y = torch.fft.irfftn(waves * spectrum, s=list(sizes), dim=axes)
    return y[(..., *(slice(n) for n in x.shape[2:]))].to(x.dtype)


class PeriodicFilter(torch.autograd.Function):
    """Filter periodic volumes by a real spectrum, with a backward pass of two real transforms.

    PyTorch's own would make a complex one of the whole grid for each real one of the forward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, spectrum: Tensor) -> Tensor:
        """Filter float32 (B, C, *spatial) by real (1 or B, C, *half spatial)."""
        axes = _spatial(x)
        waves = torch.fft.rfftn(x, dim=axes)
        ctx.save_for_backward(waves, spectrum)
        ctx.sizes = x.shape[2:]
        return torch.fft.irfftn(waves * spectrum, s=ctx.sizes, dim=axes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the volume and of the spectrum."""
        waves, spectrum = ctx.saved_tensors
        axes = _spatial(waves)
        back = torch.fft.rfftn(gradients[0], dim=axes)
        along_x = along_spectrum = None
        if ctx.needs_input_grad[0]:
            along_x = torch.fft.irfftn(back * spectrum, s=ctx.sizes, dim=axes)
        if ctx.needs_input_grad[1]:
            along_spectrum = waves.real * back.real + waves.imag * back.imag
            along_spectrum *= 2 / prod(ctx.sizes)  # each wave stands for its mirror image too,
            along_spectrum[..., 0] /= 2  # but for those of the first plane
            if ctx.sizes[-1] % 2 == 0:
                along_spectrum[..., -1] /= 2  # and of the last
            if len(spectrum) == 1:
                along_spectrum = along_spectrum.sum(0, keepdim=True)
        return along_x, along_spectrum


def in_chunks(
    convolve: Callable[[Tensor, Tensor], Tensor], x: Tensor, kernel: Tensor, chunk: int | None
) -> Tensor:
    """Apply `convolve(x, kernel)` to `chunk` channels at a time."""
    if chunk is None:
        return convolve(x, kernel)
    if chunk < 1:
        raise ValueError(f"Channels are taken at least one at a time, not {chunk}.")
    pieces = zip(x.split(chunk, 1), kernel.split(chunk, 1), strict=True)
    return torch.cat([convolve(*piece) for piece in pieces], 1)


def add_shortcut(y: Tensor, x: Tensor, shortcut: Tensor) -> Tensor:
    """`y` plus each channel of `x` times its entry of `shortcut` (C,)."""
    return y + (shortcut.reshape(-1, *[1] * (x.ndim - 2)) * x).to(y.dtype)


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _transform_size(padding: str, n: int, k: int) -> int:
    """Smallest specified transform in which nothing wraps into what is kept."""
    room = {"zero": (k + 1) // 2, "circular": 0, "causal": k}[padding]
    return min(n + room, 2 * n)


def _check_kernel(x: Tensor, kernel: Tensor, paddings: Sequence[str]) -> None:
    if kernel.ndim != x.ndim or kernel.shape[1] != x.shape[1] or kernel.shape[0] not in (1, len(x)):
        raise AssertionError(
            f"A kernel of shape {tuple(kernel.shape)} does not fit an input {tuple(x.shape)}: "
            "it needs the same channels and axes, and a batch of 1 or the same."
        )
    for word, n, k in zip(paddings, x.shape[2:], kernel.shape[2:], strict=True):
        limit = n if word == "circular" else 2 * n
        if k > limit:
            raise AssertionError(
                f"A kernel of {k} samples is too large for {word} padding of an axis of {n}; "
                f"it may have {limit}."
            )
