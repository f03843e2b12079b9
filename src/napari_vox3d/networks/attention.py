"""Attention over the voxels, patches, windows or planes of a map.

After the cells of SNRAware (https://github.com/microsoft/SNRAware, docs/backbone.md). Maps are
(B, C, D, H, W). The relative-position bias is added after the softmax, so that the weights no
longer sum to one: softmax(QKᵀ)V runs as fused attention, and bias·V is added to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import product
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_vox3d.errors import ModelError
from napari_vox3d.networks.cell_options import CellOptions
from napari_vox3d.networks.layers import ReflectConv3d
from napari_vox3d.networks.tokens import (
    Cutting,
    Grid,
    Size,
    from_tokens,
    like_windows,
    same_region,
    smaller,
    to_tokens,
)

_UNFOLDED = 20480  # batch × channels × D × H; PyTorch hands larger 3-D convolutions to oneDNN


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    options: CellOptions,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    training: bool = False,
) -> Tensor:
    """Fused attention with a bias after the softmax: (softmax(scores) + bias) · value.

    Parameters
    ----------
    query, key, value
        (batch, heads, tokens, features).
    options
        How scores are formed; the dropout of the weights.
    bias
        (heads, tokens, tokens).
    mask
        (tokens, tokens), true where a token may look; `bias` must vanish elsewhere.
    causal
        A token looks at itself and those before it.
    training
        Whether weights are dropped.

    Returns
    -------
    Tensor
        (batch, heads, tokens, features).
    """
    dropout = options.attention_dropout if training else 0.0
    scale = None  # one over the square root of the features
    if options.cosine:
        query, key, scale = F.normalize(query, dim=-1), F.normalize(key, dim=-1), 1.0
    elif options.normalise_qk:
        query, key = _standardise(query), _standardise(key)
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale
    )
    if bias is None:
        return out
    return out + torch.einsum("hij,bhjf->bhif", F.dropout(bias, dropout), value)


def _standardise(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, dim=-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + torch.finfo(x.dtype).eps)


class RelativeBias(nn.Module):
    """A learned number per head and displacement between two tokens of a (D, H, W) grid.

    The table counts displacements in the order (H, W, D) with D fastest, and is applied to tokens
    in the order (D, H, W) by their number, as the original does.
    """

    index: Tensor

    def __init__(self, grid: Sequence[int], heads: int) -> None:
        super().__init__()
        depth, height, width = grid
        sizes = (height, width, depth)
        places = torch.cartesian_prod(*[torch.arange(size) for size in sizes])
        apart = places[:, None] - places[None, :] + torch.tensor(sizes) - 1
        spans = [2 * size - 1 for size in sizes]
        index = (apart[..., 0] * spans[1] + apart[..., 1]) * spans[2] + apart[..., 2]
        self.register_buffer("index", index, persistent=False)
        self.table = nn.Parameter(torch.empty(prod(spans), heads))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, tokens: int) -> Tensor:
        """(heads, tokens, tokens)."""
        if tokens > len(self.index):
            raise ModelError(
                f"The position bias was made for {len(self.index)} tokens, not {tokens}."
            )
        return self.table[self.index[:tokens, :tokens]].permute(2, 0, 1)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(batch, tokens, features) to (batch, heads, tokens, features / heads)."""
    _check_heads(tokens.shape[-1], heads)
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def _check_heads(features: int, heads: int) -> None:
    if features % heads:
        raise ModelError(f"{heads} attention heads do not divide {features} features.")


class Attention(nn.Module, ABC):
    """What all attention layers have: queries, keys, values, and a projection of the result.

    Parameters
    ----------
    in_channels, out_channels
        Number of channels.
    options
        How attention is built.
    convolve_depth
        Use 3×3×3 kernels instead of 3×3 ones.
    patch_voxels
        Voxels of a patch; heads share out its features.
    linear
        Make queries, keys and values from flattened patches instead of by convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: CellOptions,
        *,
        convolve_depth: bool,
        patch_voxels: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        _check_heads(out_channels * patch_voxels, options.heads)
        self.options, self.heads = options, options.heads
        self.in_channels, self.out_channels = in_channels, out_channels
        self.patch_voxels, self.linear = patch_voxels, linear
        self.kernel_voxels = 27 if convolve_depth else 9

        def projection() -> nn.Module:
            if linear:
                return nn.Linear(in_channels * patch_voxels, out_channels * patch_voxels)
            return ReflectConv3d(in_channels, out_channels, depth=convolve_depth)

        self.query, self.key, self.value = projection(), projection(), projection()
        self.output = (
            ReflectConv3d(out_channels, out_channels, depth=convolve_depth)
            if options.output_projection
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, D, H, W) to (B, out, D, H, W)."""
        return self.output(self.mix(x))

    @abstractmethod
    def mix(self, x: Tensor) -> Tensor:
        """The attention itself, before the output projection."""

    def by_patch(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Apply `layer` to every flattened patch of (B, C, D, H, W)."""
        return layer(x.movedim(1, -1)).movedim(-1, 1)

    def peak_bytes(self, shape: Sequence[int]) -> int:
        """Peak memory for (B, D, H, W) in float32, forward without gradients, input included."""
        batch, *size = shape
        depth, height, width = size
        bias = 8 * self.heads * self._tokens((depth, height, width)) ** 2
        into, out = self.in_channels, self.out_channels
        channels = max(
            into + 3 * out + self._workspace(into, shape),  # the last of queries, keys and values
            into + 8 * out,  # these, scaled queries and keys, the result, the part of the bias
            into + 2 * out + self._workspace(out, shape),  # the projection of the result
        )
        return 4 * batch * prod(size) * channels + (bias if self.options.position_bias else 0)

    def _workspace(self, channels: int, shape: Sequence[int]) -> int:
        # A padded copy; on the CPU small convolutions are unfolded to one channel per weight.
        batch, depth, height, _ = shape
        unfolded = batch * channels * depth * height <= _UNFOLDED
        return channels * (1 + self.kernel_voxels) if unfolded else channels

    @abstractmethod
    def _tokens(self, size: Size) -> int:
        """Tokens that look at each other, on a map of this size."""


class TemporalAttention(Attention):
    """Attention between planes; heads share out the channels."""

    def __init__(self, in_channels: int, out_channels: int, options: CellOptions) -> None:
        super().__init__(in_channels, out_channels, options, convolve_depth=False)

    def mix(self, x: Tensor) -> Tensor:
        """The attention itself, before the output projection."""
        query, key, value = (self._planes(made(x)) for made in (self.query, self.key, self.value))
        out = attend(
            query, key, value, self.options, causal=self.options.causal, training=self.training
        )
        out = out.unflatten(-1, (-1, *x.shape[3:]))  # (B, heads, D, channels, H, W)
        return out.transpose(2, 3).flatten(1, 2)

    def _tokens(self, size: Size) -> int:
        return size[0]

    def _planes(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.heads, -1)).transpose(2, 3).flatten(3)


class GridAttention(Attention):
    """The L, G and V cells: attention between pieces of a `Cutting`.

    Parameters
    ----------
    in_channels, out_channels
        Number of channels.
    options
        How attention is built.
    cutting
        What the tokens are.
    shape
        (D, H, W) of the maps, which `cutting` was made for.
    convolve_depth
        Use 3×3×3 kernels instead of 3×3 ones.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: CellOptions,
        cutting: Cutting,
        shape: Sequence[int] | None,
        *,
        convolve_depth: bool,
    ) -> None:
        declared = cutting.grid(shape or cutting.window)
        super().__init__(
            in_channels,
            out_channels,
            options,
            convolve_depth=convolve_depth,
            patch_voxels=prod(declared.patch),
            linear=options.attention == "lin" and cutting.reach != "vit",
        )
        self.cutting = cutting
        grid = declared.windows if cutting.across else declared.patches
        self.bias = RelativeBias(grid, self.heads) if options.position_bias else None

    def mix(self, x: Tensor) -> Tensor:
        """The attention itself, before the output projection."""
        grid = self.cutting.grid(x.shape[2:])
        query, key, value = (
            self._heads(made, x, grid) for made in (self.query, self.key, self.value)
        )
        bias = None if self.bias is None else self.bias(value.shape[2])
        out = attend(query, key, value, self.options, bias=bias, training=self.training)
        return from_tokens(out.transpose(1, 2).flatten(2), grid, self.cutting.across)

    def by_patch(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Apply `layer` to every flattened patch of (B, C, D, H, W)."""
        grid = self._same_patches(x)
        return from_tokens(layer(to_tokens(x, grid, False)), grid, False)

    def _heads(self, made: nn.Module, x: Tensor, grid: Grid) -> Tensor:
        if self.linear:
            tokens = made(to_tokens(x, self._same_patches(x), self.cutting.across))
        else:
            tokens = to_tokens(made(x), grid, self.cutting.across)
        return split_heads(tokens, self.heads)

    def _same_patches(self, x: Tensor) -> Grid:
        grid = self.cutting.grid(x.shape[2:])
        if prod(grid.patch) != self.patch_voxels:
            raise ModelError(
                f"Linear layers on patches of {self.patch_voxels} voxels do not fit a map of "
                f"{tuple(x.shape[2:])} voxels, whose patches are {grid.patch}."
            )
        return grid

    def _tokens(self, size: Size) -> int:
        grid = self.cutting.grid(size)
        return prod(grid.windows if self.cutting.across else grid.patches)


class SwinAttention(Attention):
    """The S3 and Sh cells: attention between the voxels of a window (arXiv:2103.14030).

    A map is padded to whole windows; padding is not looked at. Windows shifted by half a window
    wrap around the map, but voxels look only at those on their own side of its border.

    Parameters
    ----------
    in_channels, out_channels
        Number of channels.
    options
        How attention is built.
    shifted
        Shift the windows by half a window, along the axes that hold more than one.
    convolve_depth
        Use 3×3×3 kernels instead of 3×3 ones.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: CellOptions,
        *,
        shifted: bool,
        convolve_depth: bool,
    ) -> None:
        super().__init__(in_channels, out_channels, options, convolve_depth=convolve_depth)
        self.shifted = shifted
        self.bias = RelativeBias(options.window, self.heads) if options.position_bias else None

    def mix(self, x: Tensor) -> Tensor:
        """The attention itself, before the output projection."""
        size = x.shape[2:]
        window = smaller(self.options.window, size)
        shift = [
            max(w // 2, 1) if self.shifted and n > w else 0
            for n, w in zip(size, window, strict=True)
        ]
        count = [-(-n // w) for n, w in zip(size, window, strict=True)]
        grid = Grid((count[0], count[1], count[2]), window, (1, 1, 1))
        bias = None if self.bias is None else self.bias(prod(window))
        query, key, value = (
            self._windows(made(x), grid, shift) for made in (self.query, self.key, self.value)
        )
        out = torch.empty_like(value)
        axes = [like_windows(n, w, s) for n, w, s in zip(size, window, shift, strict=True)]
        for group in product(*axes):
            here = (slice(None), *(axis.windows for axis in group))
            mask = same_region([axis.regions for axis in group], x.device)
            q, k, v = (split_heads(t[here].flatten(0, 3), self.heads) for t in (query, key, value))
            seen = bias if bias is None or mask is None else bias.masked_fill(~mask, 0)
            part = attend(q, k, v, self.options, bias=seen, mask=mask, training=self.training)
            out[here] = part.transpose(1, 2).reshape(out[here].shape)
        whole = from_tokens(out.flatten(0, 3), grid, False).roll(shift, (2, 3, 4))
        return whole[:, :, : size[0], : size[1], : size[2]]

    def _windows(self, x: Tensor, grid: Grid, shift: Sequence[int]) -> Tensor:
        """(B, C, D, H, W) to (B, windows along D, H, W, tokens, C)."""
        pads = [
            count * width - size
            for count, width, size in zip(grid.windows, grid.patches, x.shape[2:], strict=True)
        ]
        x = F.pad(x, [0, pads[2], 0, pads[1], 0, pads[0]]).roll([-s for s in shift], (2, 3, 4))
        return to_tokens(x, grid, False).unflatten(0, (-1, *grid.windows))

    def _tokens(self, size: Size) -> int:
        return prod(smaller(self.options.window, size))
