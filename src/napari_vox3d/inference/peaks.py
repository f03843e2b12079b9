"""Peaks of score maps: local maxima, refined between the cells, of which the likeliest stay."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from napari_vox3d.volume import Volume

_CORE = 0.4  # radius of a peak over the particle's
_BROAD = 3  # cells: radius of peaks from which on their tops are flat
_FEW = 0.01  # share of cells that are faster compared one by one
_TOGETHER = 300_000  # cells around peaks that are looked at together
_CERTAIN = 1e-6  # probabilities nearer to 0 or 1 say no more about where a peak is
_DOUBT = np.log(2)  # between the claims of two classes


def find_peaks(score: Volume, threshold: float) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Refined cells (N, 3) and heights (N,) of the local maxima."""
    values = score.values
    cells = local_maxima(values, threshold)
    core = round(_CORE * score.metadata["radius"] / float(score.voxel_size.mean()))
    refine = _by_parabolas if core < _BROAD else partial(_by_mass, reach=core)
    return refine(values, cells), values[tuple(cells.T)]


def _by_parabolas(values: NDArray[np.float32], cells: NDArray[np.intp]) -> NDArray[np.float64]:
    """Tops of the parabolas through the logits of peaks and their neighbours along each axis."""
    last = np.array(values.shape) - 1  # at an edge the slope outwards counts as none
    places = cells.astype(float)
    here = _logit(values[tuple(cells.T)])
    for axis in range(3):
        step = np.eye(3, dtype=int)[axis]
        before = _logit(values[tuple(np.maximum(cells - step, 0).T)])
        after = _logit(values[tuple(np.minimum(cells + step, last).T)])
        bend = 2 * here - before - after
        places[:, axis] += np.clip((after - before) / (2 * np.maximum(bend, 1e-9)), -0.5, 0.5)
    return places


def _by_mass(
    values: NDArray[np.float32], cells: NDArray[np.intp], reach: int
) -> NDArray[np.float64]:
    """Centres of mass of the scores at most `reach` cells from a peak along each axis."""
    offsets = np.argwhere(np.ones([2 * reach + 1] * 3)) - reach
    places = cells.astype(float)
    count = max(1, _TOGETHER // len(offsets))
    for begin in range(0, len(cells), count):
        near = cells[begin : begin + count, None] + offsets
        held = np.clip(near, 0, np.array(values.shape) - 1)
        mass = np.all(near == held, axis=2) * values[tuple(np.moveaxis(held, 2, 0))]
        moment = mass.astype(float) @ offsets
        places[begin : begin + count] += moment / (mass.sum(axis=1, keepdims=True) + 1e-9)
    return places


def local_maxima(values: NDArray[np.float32], threshold: float) -> NDArray[np.intp]:
    """Cells (N, 3) that are at least as high as `threshold` and their 26 neighbours."""
    high = values >= threshold
    if np.count_nonzero(high) > _FEW * high.size:
        return np.argwhere(high & (values == _highest_around(values)))
    # of a flat array it is several times faster
    cells = np.stack(np.unravel_index(np.flatnonzero(high), high.shape), axis=1)
    last = np.array(values.shape) - 1
    for offset in sorted(product((-1, 0, 1), repeat=3), key=np.count_nonzero):  # nearest first
        near = np.clip(cells + offset, 0, last)  # beyond an edge: another neighbour, or itself
        cells = cells[values[tuple(cells.T)] >= values[tuple(near.T)]]
    return cells


def _highest_around(score: NDArray[np.float32]) -> NDArray[np.float32]:
    """Highest of each cell and its 26 neighbours."""
    for axis in range(3):
        along = np.moveaxis(score, axis, 0)
        highest = along.copy()
        np.maximum(highest[1:], along[:-1], out=highest[1:])
        np.maximum(highest[:-1], along[1:], out=highest[:-1])
        score = np.moveaxis(highest, 0, axis)
    return score


def _logit(probability: NDArray[np.float32]) -> NDArray[np.float64]:
    held = np.clip(probability.astype(float), _CERTAIN, 1 - _CERTAIN)
    return np.log(held / (1 - held))


def claims(scores: NDArray[np.float32], radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """How strongly peaks of different classes claim a place: log odds over the squared radius.

    Networks learn from voxels, of which large particles have more: where they cannot tell two
    classes, they say the larger one. On simulated tomograms exponents from 1 to 3 did alike, and
    better than none.
    """
    return _logit(scores) - 2 * np.log(radii)


def keep_likeliest(
    positions: NDArray[np.float64],
    kinds: NDArray[np.intp],
    claimed: NDArray[np.float64],
    limits: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Which of the points, given by falling claim, stay (greedy); `limits` in Å by classes.

    A point of another class stays beside a likelier one if its odds are half as high or more.
    """
    from scipy.spatial import cKDTree

    keep = np.ones(len(positions), bool)
    pairs = cKDTree(positions).query_pairs(limits.max(), output_type="ndarray")
    pairs.sort(axis=1)
    likelier, other = pairs.T
    distances = np.linalg.norm(positions[likelier] - positions[other], axis=1)
    near = distances < limits[kinds[likelier], kinds[other]]
    doubtful = (kinds[likelier] != kinds[other]) & (claimed[likelier] - claimed[other] <= _DOUBT)
    pairs = pairs[near & ~doubtful]
    for first, second in pairs[np.argsort(pairs[:, 0], kind="stable")].tolist():
        if keep[first]:
            keep[second] = False
    return keep
