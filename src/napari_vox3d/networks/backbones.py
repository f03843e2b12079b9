"""U-Net, HRNet and stack of attention, made of blocks of attention or convolution cells.

All take and return maps of (B, C, D, H, W). Going down one level halves H and W, and D too if asked
to, and doubles the channels. A backbone has a *place* for every block: ``"D0"`` … ``"bridge"`` …
``"U0"`` in a U-Net, ``"B00"`` … (level, stage) and ``"output_B0"`` … in an HRNet, ``"Stage0"`` … in
a stack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from napari_vox3d.errors import ModelError
from napari_vox3d.networks.cell_options import CellOptions
from napari_vox3d.networks.cells import Block, Cell, kept_window
from napari_vox3d.networks.memory import require_memory
from napari_vox3d.networks.resampling import DownSample2x, UpSample2x

Windows = Mapping[str, Sequence[Sequence[int]]]


class _Place(NamedTuple):
    level: int
    in_channels: int
    out_channels: int


class _Backbone(nn.Module):
    """Blocks at their places, samplers between them, and what a pass through them takes."""

    def __init__(
        self,
        levels: int,
        allowed: range,
        blocks: Sequence[str],
        strings: int,
        *,
        shape: Sequence[int] | None,
        channels: int,
        downsampler: str,
        upsampler: str,
        downsample_depth: bool,
        windows: Windows | None,
        cell_options: dict[str, Any],
        pyramid: bool = True,
    ) -> None:
        super().__init__()
        if levels not in allowed:
            raise ValueError(
                f"{type(self).__name__} has {allowed.start} to {allowed.stop - 1} levels, "
                f"not {levels}"
            )
        self.levels = levels
        self.channels = channels
        self.cells = _one_per_place(blocks, strings)
        self.out_channels: list[int] = []
        self.blocks = nn.ModuleDict()
        self.samplers = nn.ModuleDict()
        self._places: dict[str, _Place] = {}
        self._joined = 0  # channels of maps that are raised to full resolution and joined
        self._steps = tuple(2 if pyramid and halved else 1 for halved in (downsample_depth, 1, 1))
        self._shape = None if shape is None else tuple(shape)
        self._depth = downsample_depth
        self._methods = downsampler, upsampler
        self._windows = dict(windows or {})
        self._cell_options = dict(cell_options)

    def _refuse_unknown_windows(self) -> None:
        for place in self._windows:
            if place not in self.blocks:
                raise ValueError(f"there is no place {place!r}; there is {', '.join(self.blocks)}")

    def width(self, level: int) -> int:
        """Channels at a level."""
        return self.channels * 2**level

    def _add_block(self, place: str, level: int, in_channels: int, out: int, cells: str) -> None:
        window, patch = self._windows.get(place) or self._kept_window(level)
        options = {**self._cell_options, "window": tuple(window), "patch": tuple(patch)}
        shape = None if self._shape is None else self._size_at(level, self._shape)
        self.blocks[place] = Block(in_channels, out, cells, shape, **options)
        self._places[place] = _Place(level, in_channels, out)

    def _add_down(self, name: str, in_channels: int, out: int, steps: int = 1) -> None:
        method = self._methods[0]
        self.samplers[name] = DownSample2x(in_channels, out, steps, method, self._depth)

    def _add_up(self, name: str, in_channels: int, out: int, steps: int = 1) -> None:
        method = self._methods[1]
        self.samplers[name] = UpSample2x(in_channels, out, steps, method, self._depth)

    def _kept_window(self, level: int) -> tuple[Sequence[int], Sequence[int]]:
        """Window and patch at a level: those asked for, halved where the map has become small."""
        defaults = CellOptions()
        window = self._cell_options.get("window", defaults.window)
        patch = self._cell_options.get("patch", defaults.patch)
        if self._shape is not None:
            for above in range(level + 1):
                window, patch = kept_window(window, patch, self._size_at(above, self._shape))
        return window, patch

    def _size_at(self, level: int, size: Sequence[int]) -> tuple[int, ...]:
        return tuple(n // step**level for n, step in zip(size, self._steps, strict=True))

    @property
    def multiple(self) -> tuple[int, int, int]:
        """Volumes of which D, H and W are multiples of these are taken, however large.

        Windows of attention count; maps smaller than a window are taken as well.
        """
        fitting = [self._halvings()]
        for name, place in self._places.items():
            needed = zip(self._block(name).multiple, self._steps, strict=True)
            fitting.append(tuple(size * step**place.level for size, step in needed))
        depth, height, width = (lcm(*axis) for axis in zip(*fitting, strict=True))
        return depth, height, width

    def peak_bytes(self, shape: Sequence[int]) -> int:
        """Memory that a pass without gradients takes at its peak, input and weights not counted.

        Parameters
        ----------
        shape
            (D, H, W) or (B, D, H, W) of the input, in float32.
        """
        batch, *size = (1, *shape)[-4:]
        ratio = self._cell_options.get("mixer_ratio", CellOptions.mixer_ratio)
        kept, passing = 0, 3 * 4 * batch * prod(size) * self._joined
        for name, place in self._places.items():
            here = (batch, *self._size_at(place.level, size))
            if self._is_kept(name):
                kept += 4 * prod(here) * place.out_channels
            passing = max(passing, _block_bytes(self._block(name), place, ratio, here))
        return kept + passing

    def _is_kept(self, place: str) -> bool:
        """Whether more than the next block need what comes out of a place."""
        return True

    def _block(self, name: str) -> Block:
        block = self.blocks[name]
        assert isinstance(block, Block)
        return block

    def _halvings(self) -> tuple[int, ...]:
        deepest = max(place.level for place in self._places.values())
        return tuple(step**deepest for step in self._steps)

    def _check(self, x: Tensor) -> None:
        """Refuse, before anything is computed, what cannot work."""
        size = tuple(x.shape[2:])
        name = type(self).__name__
        halved = self._halvings()
        if any(n % m for n, m in zip(size, halved, strict=True)):
            raise ModelError(
                f"This {name} takes sizes (D, H, W) that are multiples of {_times(halved)}, "
                f"not {_times(size)}; pad the volume."
            )
        coarsest = [n // m for n, m in zip(size, halved, strict=True)]
        if min(coarsest[1:]) < 2:
            raise ModelError(
                f"{_times(size)} voxels become {_times(coarsest)} on the coarsest level of this "
                f"{name}, which needs 2 along H and W; pad the volume or take fewer levels."
            )
        if torch.compiler.is_compiling():
            return
        require_memory(
            self.peak_bytes((x.shape[0], *size)),
            x.device,
            f"{name} on {_times(size)} voxels",
            "Take smaller tiles, fewer channels, or blocks of convolutions (C3).",
        )


class _Gate(nn.Module):
    """How much of each voxel of a skip connection is let through, asked by the coarser level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv3d(channels, channels, 1, bias=False)
        self.skip = nn.Conv3d(channels, channels, 1, bias=False)
        self.gate = nn.Conv3d(channels, 1, 1, bias=False)

    def forward(self, query: Tensor, skip: Tensor) -> Tensor:
        opened = self.gate(torch.relu(self.query(query) + self.skip(skip)))
        return skip * torch.sigmoid(opened)


class UNet(_Backbone):
    """U-Net of blocks with attention gates on its skip connections.

    Parameters
    ----------
    in_channels
        Channels of the input.
    shape
        (D, H, W) of the inputs to come, for cells that need it (global and ViT attention).
    channels
        Channels of the highest resolution; twice as many on each level below.
    levels
        Number of times that H and W are halved, 1 to 5.
    blocks
        Cells of each level and of the bridge, such as ``"T1L1G1"`` or ``"C3C3"``; the last one
        serves for those that are missing.
    attention_gates
        Whether the coarser level gates the skip connection.
    downsampler
        ``"interpolate"`` (linear, then a 1×1 convolution) or ``"patch_merge"``.
    upsampler
        ``"linear"`` or ``"nearest"``.
    downsample_depth
        Halve D as well, for isotropic tomograms.
    windows
        [window, patch] for each place that is not to follow the rule: windows keep their size in
        voxels until a map holds fewer than two of them.
    **cell_options
        Options of every `Block`.

    Raises
    ------
    ValueError
        If there are too few or too many levels, or more blocks than places for them.
    ModelError
        By a forward pass: if a size is not a multiple of `multiple`, or too small.
    NotEnoughMemory
        By a forward pass that would not fit.
    """

    def __init__(
        self,
        in_channels: int,
        shape: Sequence[int] | None = None,
        *,
        channels: int = 32,
        levels: int = 2,
        blocks: Sequence[str] = ("T1L1G1",),
        attention_gates: bool = True,
        downsampler: str = "interpolate",
        upsampler: str = "linear",
        downsample_depth: bool = False,
        windows: Windows | None = None,
        **cell_options: Any,
    ) -> None:
        super().__init__(
            levels,
            range(1, 6),
            blocks,
            levels + 1,
            shape=shape,
            channels=channels,
            downsampler=downsampler,
            upsampler=upsampler,
            downsample_depth=downsample_depth,
            windows=windows,
            cell_options=cell_options,
        )
        width = self.width
        self.out_channels = [channels]
        self.gates = nn.ModuleDict()
        above = in_channels
        for level, cells in enumerate(self.cells[:-1]):
            self._add_block(f"D{level}", level, above, width(level), cells)
            self._add_down(f"down_{level}", width(level), width(level))
            above = width(level)
        self._add_block("bridge", levels, above, above, self.cells[-1])
        for level in reversed(range(levels)):
            self._add_up(f"up_{level}", width(level), width(level))
            if attention_gates:
                self.gates[f"attention_{level}"] = _Gate(width(level))
            out = width(max(level - 1, 0))
            self._add_block(f"U{level}", level, 2 * width(level), out, self.cells[level])
        self._refuse_unknown_windows()

    def _is_kept(self, place: str) -> bool:
        return place.startswith("D")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, in_channels, D, H, W) to [(B, channels, D, H, W)]."""
        self._check(x)
        skips = []
        for level in range(self.levels):
            x = self.blocks[f"D{level}"](x)
            skips.append(x)
            x = self.samplers[f"down_{level}"](x)
        x = self.blocks["bridge"](x)
        for level in reversed(range(self.levels)):
            x = self.samplers[f"up_{level}"](x)
            skip = skips.pop()
            if self.gates:
                skip = self.gates[f"attention_{level}"](x, skip)
            x = torch.cat((skip, x), 1)
            del skip  # a fifth of what a block takes
            x = self.blocks[f"U{level}"](x)
        return [x]


class HRNet(_Backbone):
    """Network that keeps its highest resolution beside the coarser levels.

    Stage after stage adds a level. The block of a level and stage receives the sum of everything
    computed so far on that level, and of the last stage of all finer levels, down-sampled. In the
    end each level receives all others.

    Parameters are those of `UNet` without gates; there are 2 to 5 levels, the finest one included,
    and a block string for each.
    """

    def __init__(
        self,
        in_channels: int,
        shape: Sequence[int] | None = None,
        *,
        channels: int = 32,
        levels: int = 2,
        blocks: Sequence[str] = ("T1L1G1",),
        downsampler: str = "interpolate",
        upsampler: str = "linear",
        downsample_depth: bool = False,
        windows: Windows | None = None,
        **cell_options: Any,
    ) -> None:
        super().__init__(
            levels,
            range(2, 6),
            blocks,
            levels,
            shape=shape,
            channels=channels,
            downsampler=downsampler,
            upsampler=upsampler,
            downsample_depth=downsample_depth,
            windows=windows,
            cell_options=cell_options,
        )
        widths = [self.width(level) for level in range(levels)]
        self.out_channels = [*widths, sum(widths)]
        self._joined = sum(widths)
        for stage in range(levels):
            for level in range(stage + 1):
                first = in_channels if stage == 0 else widths[level]
                self._add_block(f"B{level}{stage}", level, first, widths[level], self.cells[level])
                for finer in range(level):
                    name = f"down_{finer}{stage - 1}_{level}{stage}"
                    self._add_down(name, widths[finer], widths[level], level - finer)
        for level in range(levels):
            for finer in range(level):
                self._add_down(f"down_{finer}_{level}", widths[finer], widths[level], level - finer)
                self._add_up(f"up_{level}_{finer}", widths[level], widths[finer], level - finer)
            self._add_block(
                f"output_B{level}", level, widths[level], widths[level], self.cells[level]
            )
            if level:
                self._add_up(f"up_{level}", widths[level], widths[level], level)
        self._refuse_unknown_windows()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, in_channels, D, H, W) to the map of each level, and all at full resolution."""
        self._check(x)
        history = [[self.blocks["B00"](x)]]
        for stage in range(1, self.levels):
            latest = [maps[-1] for maps in history]
            history.append([])
            for level in range(stage + 1):
                arriving = [
                    self.samplers[f"down_{finer}{stage - 1}_{level}{stage}"](latest[finer])
                    for finer in range(level)
                ]
                x = sum(history[level] + arriving)
                history[level].append(self.blocks[f"B{level}{stage}"](x))
        latest = [maps[-1] for maps in history]
        outputs = []
        for level in range(self.levels):
            x = latest[level]
            for other in range(self.levels):
                if other != level:
                    direction = "down" if other < level else "up"
                    x = x + self.samplers[f"{direction}_{other}_{level}"](latest[other])
            outputs.append(self.blocks[f"output_B{level}"](x))
        raised = [self.samplers[f"up_{level}"](outputs[level]) for level in range(1, self.levels)]
        return [*outputs, torch.cat((outputs[0], *raised), 1)]


class SOANet(_Backbone):
    """Stack of attention: one block after the other, as in Swin and ViT.

    Parameters are those of `UNet` without gates and up-sampling, and:

    Parameters
    ----------
    stages
        Number of blocks, each twice as wide as the one before.
    downsample
        Whether H and W are halved between stages.
    """

    def __init__(
        self,
        in_channels: int,
        shape: Sequence[int] | None = None,
        *,
        channels: int = 32,
        stages: int = 2,
        blocks: Sequence[str] = ("T1L1G1",),
        downsample: bool = True,
        downsampler: str = "interpolate",
        downsample_depth: bool = False,
        windows: Windows | None = None,
        **cell_options: Any,
    ) -> None:
        super().__init__(
            stages,
            range(1, 6),
            blocks,
            stages,
            shape=shape,
            channels=channels,
            downsampler=downsampler,
            upsampler="linear",
            downsample_depth=downsample_depth,
            windows=windows,
            cell_options=cell_options,
            pyramid=downsample,
        )
        self.out_channels = [self.width(stage) for stage in range(stages)]
        before = in_channels
        for stage, cells in enumerate(self.cells):
            here = self.out_channels[stage]
            if stage and downsample:
                self._add_down(f"down_{stage - 1}", before, here)
                before = here
            self._add_block(f"Stage{stage}", stage, before, here, cells)
            before = here
        self._refuse_unknown_windows()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, in_channels, D, H, W) to the map of each stage, the finest first."""
        self._check(x)
        outputs: list[Tensor] = []
        for stage in range(self.levels):
            if f"down_{stage - 1}" in self.samplers:
                x = self.samplers[f"down_{stage - 1}"](x)
            x = self.blocks[f"Stage{stage}"](x)
            outputs.append(x)
        return outputs


def _block_bytes(block: Block, place: _Place, mixer_ratio: float, shape: Sequence[int]) -> int:
    """Memory that a block takes at its peak for (B, D, H, W), its input counted."""
    # A convolution has a mirrored copy of its input, and one in the layout of its library.
    maps = 4 * place.in_channels + place.out_channels
    if any(isinstance(cell, Cell) and cell.kind.mixer for cell in block.cells):
        hidden = int(mixer_ratio * place.out_channels)
        maps = max(maps, 4 * place.out_channels + hidden, 2 * place.out_channels + 3 * hidden)
    around = place.in_channels + place.out_channels
    voxels = 4 * prod(shape)
    return max(voxels * maps, block.attention_bytes(shape) + voxels * around)


def _one_per_place(blocks: Sequence[str], places: int) -> list[str]:
    if isinstance(blocks, str) or not blocks:
        raise ValueError(f"blocks is a list of strings such as ['C3'], not {blocks!r}")
    if len(blocks) > places:
        raise ValueError(f"there are {len(blocks)} block strings for {places} places")
    return [*blocks, *[blocks[-1]] * (places - len(blocks))]


def _times(numbers: Sequence[int]) -> str:
    return "×".join(str(n) for n in numbers)
