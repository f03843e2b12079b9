"""Cells and blocks: attention or convolution, then a mixer, chained by a string such as T1L1G1.

After the backbones of SNRAware (https://github.com/microsoft/SNRAware, docs/backbone.md). Tensors
are (B, C, D, H, W); a cell never changes D, H or W.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import Any, NamedTuple

from torch import Tensor, nn

from napari_vox3d.errors import ModelError
from napari_vox3d.networks.attention import (
    Attention,
    GridAttention,
    SwinAttention,
    TemporalAttention,
)
from napari_vox3d.networks.cell_options import CellOptions
from napari_vox3d.networks.layers import (
    DropPath,
    ReflectConv3d,
    activation,
    added,
    normalisation,
)
from napari_vox3d.networks.tokens import Cutting

__all__ = ["Block", "Cell", "CellKind", "CellOptions", "kept_window", "parse_cells"]


class BlockLengthError(ModelError, AssertionError):
    """A block string is empty or has a character left over."""


class UnknownCellError(ModelError, ValueError):
    """A block string names a cell that does not exist."""


class CellKind(NamedTuple):
    """What one pair of characters of a block string says.

    Parameters
    ----------
    attention
        ``"temporal"``, ``"local"``, ``"global"``, ``"vit"``, ``"swin"`` or ``"conv"``.
    depth
        Whether it looks along D as well as within planes.
    shifted
        Whether Swin windows are shifted by half a window.
    mixer
        Whether a mixer follows.
    """

    attention: str
    depth: bool = False
    shifted: bool = False
    mixer: bool = True


_EXACT = {
    "V2": CellKind("vit"),
    "V3": CellKind("vit", depth=True),
    "S3": CellKind("swin", depth=True),
    "sh": CellKind("swin", depth=True),
    "Sh": CellKind("swin", depth=True, shifted=True),
    "C2": CellKind("conv"),
    "C3": CellKind("conv", depth=True),
}
_FREE = {"T": "temporal", "L": "local", "G": "global"}


def parse_cells(cells: str) -> list[CellKind]:
    """Read a block string, two characters a cell.

    =========  =====================================================================
    ``T1``     attention between planes (any second character)
    ``L1 L3``  attention between the patches of a window, in planes or in volumes
    ``G1 G3``  attention between windows, patch by patch, in planes or in volumes
    ``V2 V3``  attention between whole windows, in planes or in volumes
    ``S3 Sh``  attention between the voxels of a window; of windows shifted by half
    ``C2 C3``  convolution in planes or in volumes
    =========  =====================================================================

    ``T0``, ``L0`` and ``G0`` have no mixer.

    Raises
    ------
    ModelError
        (also an `AssertionError`) if the string is empty or of odd length, (also a `ValueError`) if
        a pair names no cell.
    """
    if not isinstance(cells, str):
        raise ModelError(f"A block is a string such as 'T1L1G1', not {cells!r}.")
    if not cells or len(cells) % 2:
        raise BlockLengthError(
            f"The block {cells!r} must be pairs of a letter and a digit, such as 'T1L1G1'."
        )
    return [_parse_cell(cells[at : at + 2], cells) for at in range(0, len(cells), 2)]


def _parse_cell(pair: str, cells: str) -> CellKind:
    if pair in _EXACT:
        return _EXACT[pair]
    letter, digit = pair[0], pair[1]
    if letter not in _FREE:
        raise UnknownCellError(
            f"Unknown cell {pair!r} in block {cells!r}; choose T1, L1, L3, G1, G3, "
            f"{', '.join(sorted(set(_EXACT) - {'sh'}))}, or T0, L0, G0 without a mixer."
        )
    return CellKind(_FREE[letter], depth=letter != "T" and digit == "3", mixer=digit != "0")


def kept_window(
    window: Sequence[int], patch: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Window and patch to use on maps of `shape` so that a plane has two windows a side.

    Parameters
    ----------
    window, patch
        (D, H, W) in voxels, as used on larger maps.
    shape
        (D, H, W) of the maps. Only H and W of window and patch change.

    Returns
    -------
    window, patch
        Half the map where it holds fewer than two windows, and half the window where that holds
        fewer than two patches; unchanged otherwise.
    """
    sizes = [(window[0], patch[0])]
    for axis in (1, 2):
        w = window[axis] if shape[axis] // window[axis] >= 2 else max(shape[axis] // 2, 1)
        p = patch[axis] if w // patch[axis] >= 2 else max(w // 2, 1)
        sizes.append((w, p))
    (wd, pd), (wh, ph), (ww, pw) = sizes
    return (wd, wh, ww), (pd, ph, pw)


class Convolution(nn.Module):
    """The C2 and C3 cells: convolution, norm, activation, around an identity where it fits."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shape: Sequence[int] | None,
        options: CellOptions,
        depth: bool,
    ) -> None:
        super().__init__()
        self.conv = ReflectConv3d(in_channels, out_channels, depth=depth, bias=False)
        self.norm = normalisation(options.norm, out_channels, shape)
        self.activation = activation(options.activation)
        self.residual = in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, D, H, W) to (B, out, D, H, W)."""
        y = self.activation(self.norm(self.conv(x)))
        return added(y, x) if self.residual else y


def _first_half(
    kind: CellKind,
    in_channels: int,
    out_channels: int,
    shape: Sequence[int] | None,
    options: CellOptions,
) -> Attention | Convolution:
    # A volume that is declared to be one plane deep has nothing to convolve along its depth.
    depth = kind.depth and not (shape is not None and shape[0] == 1)
    if kind.attention == "conv":
        return Convolution(in_channels, out_channels, shape, options, depth)
    if kind.attention == "temporal":
        return TemporalAttention(in_channels, out_channels, options)
    if kind.attention == "swin":
        return SwinAttention(
            in_channels, out_channels, options, shifted=kind.shifted, convolve_depth=depth
        )
    cutting = Cutting.of(kind.attention, kind.depth, options.window, options.patch, shape)
    return GridAttention(in_channels, out_channels, options, cutting, shape, convolve_depth=depth)


class _ConvMixer(nn.Sequential):
    def __init__(self, in_channels: int, out_channels: int, options: CellOptions) -> None:
        hidden = int(options.mixer_ratio * out_channels)
        super().__init__(
            ReflectConv3d(in_channels, hidden),
            activation(options.activation),
            ReflectConv3d(hidden, out_channels),
        )


class _PatchMixer(nn.Sequential):
    """The same two layers for every flattened patch of the attention's grid."""

    def __init__(
        self, in_channels: int, out_channels: int, voxels: int, options: CellOptions
    ) -> None:
        hidden = int(options.mixer_ratio * out_channels * voxels)
        super().__init__(
            nn.Linear(in_channels * voxels, hidden),
            activation(options.activation),
            nn.Linear(hidden, out_channels * voxels),
        )


class Cell(nn.Module):
    """Attention (or convolution) and a mixer: (B, in, D, H, W) to (B, out, D, H, W).

    Sequential: ``y = project(x) + attention(norm1(x))``, then ``y + mixer(norm2(y))`` (a linear
    mixer stands alone, without ``y``). Parallel: ``project(x) + attention(norm1(x)) +
    mixer(norm1(x))``.

    Parameters
    ----------
    in_channels, out_channels
        Number of channels.
    kind
        Which cell.
    shape
        (D, H, W) of the maps, where the cell needs it (see `Block`).
    options
        Its options.
    parallel
        Whether the mixer stands beside the attention.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kind: CellKind,
        shape: Sequence[int] | None = None,
        options: CellOptions | None = None,
        *,
        parallel: bool = False,
    ) -> None:
        super().__init__()
        options = options or CellOptions()
        self.kind, self.parallel = kind, parallel
        self.project = (
            nn.Identity()
            if in_channels == out_channels
            else ReflectConv3d(in_channels, out_channels)
        )
        self.norm1 = normalisation(options.norm, in_channels, shape)
        self.attention = _first_half(kind, in_channels, out_channels, shape, options)
        self.drop_path = DropPath(options.drop_path)
        if not kind.mixer:
            return
        mixed = in_channels if parallel else out_channels
        if not parallel:
            self.norm2 = normalisation(options.norm, out_channels, shape)
        if options.mixer == "lin" and kind.attention not in ("temporal", "conv"):
            assert isinstance(self.attention, Attention)
            voxels = self.attention.patch_voxels
            self.mixer: nn.Module = _PatchMixer(mixed, out_channels, voxels, options)
        else:
            self.mixer = _ConvMixer(mixed, out_channels, options)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, D, H, W) to (B, out, D, H, W)."""
        normed = self.norm1(x)
        y = added(self.drop_path(self.attention(normed)), self.project(x))
        if not self.kind.mixer:
            return y
        if self.parallel:
            return added(self.drop_path(self._mix(normed)), y)
        mixed = self.drop_path(self._mix(self.norm2(y)))
        return mixed if isinstance(self.mixer, _PatchMixer) else added(mixed, y)

    def _mix(self, x: Tensor) -> Tensor:
        if isinstance(self.mixer, _PatchMixer) and isinstance(self.attention, Attention):
            return self.attention.by_patch(self.mixer, x)
        return self.mixer(x)


class Block(nn.Module):
    """A chain of cells: (B, in, D, H, W) to (B, out, D, H, W).

    Parameters
    ----------
    in_channels, out_channels
        Number of channels; the first cell goes from one to the other.
    cells
        Pairs of characters, see `parse_cells`.
    shape
        (D, H, W) of the maps. Needed for G and V cells, whose number of windows is fixed by it, and
        for the norms ``"layer"`` and ``"layer3d"``. With D of 1 every kernel is flat.
    cell
        ``"sequential"`` or ``"parallel"`` cells, see `Cell`.
    dense
        Each cell takes the sum of the outputs of all cells before it.
    options
        Options of all its cells; or give them one by one:
    **cell_options
        Fields of `CellOptions`.

    Raises
    ------
    ModelError
        If the string, a size or an option is not possible.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        cells: str,
        shape: Sequence[int] | None = None,
        *,
        cell: str = "sequential",
        dense: bool = False,
        options: CellOptions | None = None,
        **cell_options: Any,
    ) -> None:
        super().__init__()
        if cell not in ("sequential", "parallel"):
            raise ModelError(f"Cells are 'sequential' or 'parallel', not {cell!r}.")
        if shape is not None and len(shape) != 3:
            raise ModelError(f"A shape is (D, H, W), not {tuple(shape)}.")
        if options is None:
            options = CellOptions.of(**cell_options)
        elif cell_options:
            raise ModelError("Give options=CellOptions(...) or single options, not both.")
        self.dense = dense
        self.cells = nn.ModuleList(
            Cell(
                out_channels if place else in_channels,
                out_channels,
                kind,
                shape,
                options,
                parallel=cell == "parallel",
            )
            for place, kind in enumerate(parse_cells(cells))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, D, H, W) to (B, out, D, H, W)."""
        outputs = 0
        for cell in self.cells:
            y = cell(x)
            x = outputs = outputs + y if self.dense else y
        return y

    @property
    def multiple(self) -> tuple[int, int, int]:
        """Maps whose (D, H, W) are multiples of these can be cut into windows and patches."""
        needed = [
            cell.attention.cutting.multiple
            for cell in self.cells
            if isinstance(cell.attention, GridAttention)
        ]
        depth, height, width = (lcm(*axis) for axis in zip((1, 1, 1), *needed, strict=True))
        return depth, height, width

    def attention_bytes(self, shape: Sequence[int]) -> int:
        """Peak memory of its largest attention step.

        Parameters
        ----------
        shape
            (B, D, H, W) of the input.

        Returns
        -------
        int
            Bytes in float32, forward without gradients; 0 where all cells are convolutions.
        """
        steps = [cell.attention for cell in self.cells]
        return max(
            (step.peak_bytes(shape) for step in steps if isinstance(step, Attention)), default=0
        )
