"""What speaks against a pick: the border of the tomogram, gold or carbon, another pick."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.picks import Picks
    from napari_vox3d.progress import Progress
    from napari_vox3d.volume import Volume

BORDER, EXTREME, OVERLAP = (
    "near the border",
    "very dark or bright, as gold and carbon are",
    "overlaps",
)

_BEAD = 50.0  # Å, the grain looked for: half a gold bead
_VOXEL = 12.0  # Å, as fine as boxes are read
_SIGMAS = 8.0  # from what the tomogram is elsewhere
_TIMES = 2.5  # what the picks of this set deviate by: particles are dark themselves
_REFERENCES = 48  # boxes anywhere in the tomogram
_ENOUGH = 8  # picks for a comparison among them


def near_border(picks: Picks, volume: Volume) -> NDArray[np.bool_]:
    """(N,) which picks reach over the border of the tomogram."""
    size = volume.voxel_size
    beyond = (np.array(volume.shape) - 0.5) * size
    room = np.minimum(picks.positions + 0.5 * size, beyond - picks.positions).min(
        axis=1, initial=np.inf
    )
    return room < _radii(picks)


def overlapping(picks: Picks) -> NDArray[np.bool_]:
    """(N,) which picks have the centre of another one within them, or lie within another one."""
    from scipy.spatial import cKDTree

    marked = np.zeros(len(picks), bool)
    if len(picks) < 2:
        return marked
    radii = _radii(picks)
    pairs = cKDTree(picks.positions).query_pairs(float(radii.max()), output_type="ndarray")
    apart = np.linalg.norm(picks.positions[pairs[:, 0]] - picks.positions[pairs[:, 1]], axis=1)
    marked[pairs[apart < radii[pairs].max(axis=1)]] = True
    return marked


def on_extremes(
    picks: Picks,
    volume: Volume,
    *,
    progress: Progress | None = None,
) -> NDArray[np.bool_]:
    """(N,) which picks lie on something far darker or brighter than all else, as gold and carbon.

    Two things are measured: the darkest and the brightest grain of 50 Å within the pick, and the
    mean of a box twice as wide as the pick, for carbon is as dark as protein but much larger. A
    pick is marked if one of them is far out among boxes anywhere in the tomogram, and also among
    the picks.
    """
    if not len(picks):
        return np.zeros(0, bool)
    level = volume.level_for(_VOXEL)
    radius = float(np.median(_radii(picks)))
    here = np.random.default_rng(0)  # the same boxes each time
    anywhere = here.uniform(0, np.array(level.shape), (_REFERENCES, 3))
    places = level.to_index(volume.origin + picks.positions)
    total = _REFERENCES + len(picks)
    measures = []
    for n, index in enumerate(np.concatenate([anywhere, places])):
        measures.append(_measure(level, index, radius))
        if progress is not None:
            progress(n + 1, total)
    values = np.array(measures)
    middle = np.median(values[:_REFERENCES], axis=0)
    spread = 1.4826 * np.median(np.abs(values[:_REFERENCES] - middle), axis=0)
    off = np.abs(values[_REFERENCES:] - middle)
    far = off > _SIGMAS * spread
    if len(picks) >= _ENOUGH:
        far &= off > _TIMES * np.median(off, axis=0)
    return far.any(axis=1)


def _measure(volume: Volume, index: NDArray[np.float64], radius: float) -> tuple[float, ...]:
    """Darkest and brightest grain in a box of a pick, and the mean of one twice as wide."""
    from scipy.ndimage import uniform_filter

    stride = np.maximum(1, _VOXEL // volume.voxel_size).astype(int)
    half = 2 * radius / volume.voxel_size
    shape = np.array(volume.shape)
    low = np.clip(np.round(index - half), 0, shape - 1).astype(int)
    high = np.clip(np.round(index + half) + 1, low + 1, shape).astype(int)
    box = np.asarray(volume.values[tuple(map(slice, low, high, stride))], np.float32)
    grain = np.maximum(1, np.round(_BEAD / (volume.voxel_size * stride))).astype(int)
    place, reach = (index - low) / stride, half / 2 / stride
    first = np.clip(np.round(place - reach), 0, np.array(box.shape) - 1).astype(int)
    last = np.clip(np.round(place + reach) + 1, first + 1, box.shape).astype(int)
    core = uniform_filter(box, grain, mode="nearest")[tuple(map(slice, first, last))]
    return float(core.min()), float(core.max()), float(box.mean())


def _radii(picks: Picks) -> NDArray[np.float64]:
    return np.zeros(len(picks)) if picks.radii is None else picks.radii
