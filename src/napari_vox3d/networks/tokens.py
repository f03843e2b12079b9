"""Maps cut into windows, patches and tokens for attention."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from napari_vox3d.errors import ModelError

Size = tuple[int, int, int]


class Grid(NamedTuple):
    """How a map is cut, in (D, H, W): windows a map, patches a window, voxels a patch."""

    windows: Size
    patches: Size
    patch: Size


def to_tokens(x: Tensor, grid: Grid, across: bool) -> Tensor:
    """Cut (B, C, D, H, W) into (batch, tokens, patch voxels × C), channels fastest.

    Tokens are the patches of one window, or with `across` the patches at one place of all windows.
    """
    cut = [size for axis in zip(*grid, strict=True) for size in axis]
    pieces = x.reshape(*x.shape[:2], *cut).permute(_order(across))
    batch = x.shape[0] * prod(grid.patches if across else grid.windows)
    return pieces.reshape(batch, -1, prod(grid.patch) * x.shape[1])


def from_tokens(tokens: Tensor, grid: Grid, across: bool) -> Tensor:
    """Undo `to_tokens`."""
    outer, inner = (grid.patches, grid.windows) if across else (grid.windows, grid.patches)
    pieces = tokens.reshape(-1, *outer, *inner, *grid.patch, tokens.shape[-1] // prod(grid.patch))
    order = _order(across)
    x = pieces.permute([order.index(axis) for axis in range(len(order))])
    return x.reshape(*x.shape[:2], *(prod(axis) for axis in zip(*grid, strict=True)))


def _order(across: bool) -> list[int]:
    windows, patches, voxels = [2, 5, 8], [3, 6, 9], [4, 7, 10]
    outer, inner = (patches, windows) if across else (windows, patches)
    return [0, *outer, *inner, *voxels, 1]


@dataclass(frozen=True)
class Cutting:
    """How maps are cut by L, G and V cells.

    Parameters
    ----------
    reach
        ``"local"``: tokens are the patches of one window. ``"global"``: tokens are the patches at
        one place of all windows. ``"vit"``: tokens are whole windows.
    depth
        Whether windows and patches extend along D; else each plane is for itself.
    window, patch
        (D, H, W) in voxels.
    windows
        Number of windows along (D, H, W), but for ``"local"``: that keeps the size of its windows
        on a map of any size, the others keep their number.
    """

    reach: str
    depth: bool
    window: Size
    patch: Size
    windows: Size | None

    @classmethod
    def of(
        cls, reach: str, depth: bool, window: Size, patch: Size, shape: Sequence[int] | None
    ) -> Cutting:
        """Fit windows and patches to maps of `shape`, keeping about their sizes.

        As many whole windows as a map holds are stretched over it, and so are the patches over a
        window. ``"global"`` windows in planes have half the size.

        Raises
        ------
        ModelError
            If `shape` is missing where the number of windows is fixed.
        """
        if shape is None:
            if reach == "local":
                return cls(reach, depth, window, patch, None)
            raise ModelError("G and V cells have a fixed number of windows: give shape=(D, H, W).")
        parts = 2 if reach == "global" and not depth else 1
        counts, windows, patches = [], [], []
        for size, width, piece in zip(shape, window, patch, strict=True):
            windows.append(max(size // (max(size // width, 1) * parts), 1))
            patches.append(max(windows[-1] // max(width // piece // parts, 1), 1))
            counts.append(size // windows[-1])
        if not depth:
            counts[0] = 1
        fixed = None if reach == "local" else _size(counts)
        return cls(reach, depth, _size(windows), _size(patches), fixed)

    @property
    def across(self) -> bool:
        """Whether tokens are spread over all windows."""
        return self.reach != "local"

    @property
    def multiple(self) -> Size:
        """Maps whose sizes are multiples of these can be cut, however large they are."""
        if self.windows is None:
            whole = self.window
        elif self.reach == "vit":
            whole = self.windows
        else:
            whole = _size(a * b for a, b in zip(self.windows, self.patch, strict=True))
        return whole if self.depth else (1, *whole[1:])

    def grid(self, size: Sequence[int]) -> Grid:
        """Cut a map of (D, H, W) voxels.

        Raises
        ------
        ModelError
            If the map cannot be cut into equal windows or these into equal patches.
        """
        what = f"A map of {tuple(size)} voxels (D, H, W)"
        if self.windows is None:
            window = smaller(self.window, size if self.depth else (1, *size[1:]))
            windows = _parts(size, window, what, "windows of")
        else:
            windows = self.windows
            window = _parts(size, windows, what, "as many windows as declared:")
        patch = window if self.reach == "vit" else smaller(self.patch, window)
        if not self.depth:
            patch = (1, *patch[1:])
        patches = _parts(window, patch, f"A window of {window} voxels", "patches of")
        return Grid(windows, patches, patch)


def smaller(one: Sequence[int], other: Sequence[int]) -> Size:
    """The smaller of two sizes, axis by axis."""
    return _size(map(min, one, other))


def _size(numbers: Iterable[int]) -> Size:
    d, h, w = numbers
    return d, h, w


def _parts(whole: Sequence[int], part: Sequence[int], what: str, parts: str) -> Size:
    if any(a % b for a, b in zip(whole, part, strict=True)):
        raise ModelError(f"{what} cannot be cut into {parts} {tuple(part)}.")
    return _size(a // b for a, b in zip(whole, part, strict=True))


class LikeWindows(NamedTuple):
    """Neighbouring windows along one axis, and the region of each of the voxels in them."""

    windows: slice
    regions: tuple[int, ...]


def like_windows(size: int, window: int, shift: int) -> list[LikeWindows]:
    """Runs of windows along one axis that are cut alike by the border of the map.

    Regions: 0 unshifted, 1 wrapped around, 2 padding.
    """
    padded = -(-size // window) * window
    regions = [
        2 if (place + shift) % padded >= size else int(place >= padded - shift)
        for place in range(padded)
    ]
    cut = [tuple(regions[at : at + window]) for at in range(0, padded, window)]
    runs, start = [], 0
    for pattern, members in groupby(cut):
        stop = start + len(list(members))
        runs.append(LikeWindows(slice(start, stop), pattern))
        start = stop
    return runs


def same_region(regions: Sequence[Sequence[int]], device: torch.device) -> Tensor | None:
    """(tokens, tokens), true where two voxels of a window are in one region; None if all are."""
    if all(len(set(axis)) == 1 for axis in regions):
        return None
    place = torch.cartesian_prod(*[torch.tensor(axis, device=device) for axis in regions])
    return (place[:, None] == place[None, :]).all(-1)
