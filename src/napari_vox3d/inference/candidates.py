"""Places of a tomogram that are worth a closer look: they answer to the mean of some particles."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_vox3d.inference.embedding import Array, cut_out, window
from napari_vox3d.inference.tiles import NetworkView, Normalisation

if TYPE_CHECKING:
    from napari_vox3d.progress import Progress

_SLAB = 32  # planes that are read at a time
_BATCH = 64  # cubes in memory at a time


class MeanParticle:
    """The mean of some particles, as a filter for more of them.

    It is the mean of the particles and of their mirror images along each axis, which is nearly the
    same however they are turned, without what is the same all over the cube.

    Parameters
    ----------
    view
        The tomogram.
    known
        (N, 3) voxels of the view where the particles are.
    edge
        Voxels of the view along an edge of the cube around each.

    Attributes
    ----------
    own_answers
        (N,) answer of the mean of the other particles at each.
    """

    def __init__(self, view: NetworkView, known: NDArray[np.floating], edge: int) -> None:
        cubes = cut_out(view, known, edge)
        self._view, self._known = view, known
        self._filter = _even(cubes.mean(axis=0))
        total, others = len(cubes), max(len(cubes) - 1, 1)
        self.own_answers = np.array(
            [
                np.vdot(cube, self._filter * (total / others) - (total > 1) * _even(cube) / others)
                for cube in cubes
            ]
        )

    def answers(self, places: NDArray[np.floating]) -> NDArray[np.floating]:
        """(M,) answers at places (M, 3) of the view."""
        edge = len(self._filter)
        parts = [
            np.tensordot(cut_out(self._view, places[n : n + _BATCH], edge), self._filter, 3)
            for n in range(0, len(places), _BATCH)
        ]
        return np.concatenate(parts)

    def peaks(self, least: float, most: int) -> NDArray[np.floating]:
        """Where the answer is highest.

        Parameters
        ----------
        least
            Voxels from a place to the next one, and to the known particles.
        most
            Number of places, the best ones.

        Returns
        -------
        ndarray
            (M, 3) voxels of the view, the best place first.
        """
        from scipy.ndimage import maximum_filter
        from scipy.signal import oaconvolve
        from scipy.spatial import cKDTree

        values, edge = self._view.values, len(self._filter)
        answer = oaconvolve(values, self._filter[::-1, ::-1, ::-1], mode="same")
        peaks = np.argwhere((maximum_filter(answer, 3) == answer) & (answer > 0))
        peaks = peaks[np.argsort(-answer[tuple(peaks.T)], kind="stable")]
        middle = (edge - 1) // 2 - (edge - 1) / 2  # that of an even cube lies between voxels
        places = peaks + _tops(answer, peaks) + middle
        if len(places):
            places = places[cKDTree(self._known).query(places)[0] >= least]
        return places[apart(places, least, most)] if len(places) else places


def in_memory(view: NetworkView, progress: Progress) -> NetworkView:
    """The same view of values that have been read, once."""
    depth = view.shape[0]
    slabs = []
    for begin in range(0, depth, _SLAB):
        progress(begin, depth)
        end = min(begin + _SLAB, depth)
        slabs.append(view.read((begin, 0, 0), (end, *view.shape[1:])))
    return replace(
        view,
        values=np.concatenate(slabs),
        spacing=(1.0, 1.0, 1.0),
        normalisation=Normalisation(0.0, 1.0, np.inf),
        binning=view.scale,
        whole=None,
    )


def _tops(values: Array, peaks: NDArray[np.intp]) -> NDArray[np.floating]:
    """Where the parabolas through peaks (N, 3) and their neighbours have their tops, from there."""
    inner = np.pad(values, 1, mode="edge")
    here = values[tuple(peaks.T)]
    shifts = np.zeros(peaks.shape)
    for axis, step in enumerate(np.eye(3, dtype=int)):
        before, after = (inner[tuple((peaks + 1 + sign * step).T)] for sign in (-1, 1))
        bend = np.maximum(2 * here - before - after, 1e-12)
        shifts[:, axis] = np.clip((after - before) / (2 * bend), -0.5, 0.5)
    return shifts


def _even(cube: Array) -> Array:
    """Mean of a cube and its mirror images, faded out, about its mean."""
    soft = window(len(cube))
    even = np.mean([cube[::z, ::y, ::x] for z, y, x in product((1, -1), repeat=3)], axis=0)
    faded: Array = (even - np.average(even, weights=soft)) * soft
    return faded


def apart(places: NDArray[np.floating], least: float, most: int) -> list[int]:
    """Numbers of the first places (N, 3) that are `least` from those before them."""
    from scipy.spatial import cKDTree

    taken = np.zeros(len(places), bool)
    kept: list[int] = []
    for n, others in enumerate(cKDTree(places).query_ball_point(places, least)):
        if len(kept) == most:
            break
        if not taken[n]:
            kept.append(n)
            taken[others] = True
    return kept
