"""Maxima of a periodic field, and how far each stands out from the ground about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, product
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.density.grids import interpolate
from napari_vox3d.progress import Progress
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

Cell = tuple[int, int, int]

_FLAT = 0.03  # of the height above the uniform gas: maxima are one if the ELF falls by less
_SPACING = 0.13  # Å: on coarser grids a ring breaks up into maxima of their own
_MOST_VOXELS = 256**3  # a larger grid is searched as it is
_UNIFORM = 0.5  # ELF of the uniform electron gas
_AS_HIGH = 0.01  # ELF: maxima that differ by less are as high as each other
_EQUAL = 1e-5  # ELF: the last digit that VASP writes
_CELLS = 15  # cells along an axis in which a neighbour may lie, its own in the middle


@dataclass(frozen=True)
class Peak:
    """A maximum in Å (z, y, x) from the centre of voxel (0, 0, 0)."""

    centre: NDArray[np.float64]
    value: float
    parts: NDArray[np.float64]  # (M, 3) Å: where the value is (nearly) reached
    prominence: float = 0.0  # fall of the ELF on the best way to a peak as high


@dataclass(frozen=True)
class _Pass:
    """The highest way from one grid maximum to another, or to an image of one."""

    start: int
    end: int
    cell: Cell  # that the end lies in, as seen from the start
    height: float


@dataclass(frozen=True)
class Search:
    """A fine periodic grid with its nearest neighbours."""

    values: NDArray[np.floating]
    step: NDArray[np.float64]  # (3, 3) Å
    offsets: NDArray[np.int_]  # (26, 3): to the neighbours, the opposite ones from both ends

    @classmethod
    def on(cls, elf: Volume, values: NDArray[np.float64]) -> Search:
        """Refine the grid of an ELF with these values if need be."""
        from ase.geometry import minkowski_reduce

        # in a skewed cell index neighbours are far, and near points are no index neighbours
        short, near = minkowski_reduce(elf.step)
        factor = int(np.ceil(np.linalg.norm(short, axis=1).max() / _SPACING - 1e-6))
        if values.size * factor**3 > _MOST_VOXELS:
            factor = 1
        c, b, a = (n * factor for n in elf.shape)
        around = [offset for offset in product((-1, 0, 1), repeat=3) if any(offset)]
        return cls(
            interpolate(values, (c, b, a)),
            elf.step / factor,
            np.array(around) @ np.rint(near).astype(int),
        )

    def peaks(self, least: float, progress: Progress | None) -> list[Peak]:
        """Every maximum not (much) below `least`."""
        ticks = count(1)
        total = len(self.offsets) * 3 // 2 + 1  # directions to climb, and half of them to pass

        def tick() -> None:
            if progress is not None:
                progress(next(ticks), total)

        tops, cells = self._ascents(tick)
        passes = self._passes(tops, cells, tick)
        heights = {int(top): float(self.values.flat[top]) for top in np.unique(tops)}
        high = {top: heights[top] for top in np.unique(tops[self.values >= least]).tolist()}
        tick()
        found = list(self._resolved(tops, high, passes, _FLAT))
        prominences = _prominences([group for group, _ in found], heights, passes)
        return [
            replace(peak, prominence=prominence)
            for (_, peak), prominence in zip(found, prominences, strict=True)
        ]

    def _resolved(
        self,
        tops: NDArray[np.intp],
        heights: dict[int, float],
        passes: Sequence[_Pass],
        flat: float,
    ) -> Iterator[tuple[list[int], Peak]]:
        """Groups with their peaks; one that runs through the whole crystal is taken apart."""
        for group in _joined(heights, passes, flat):
            peak = self._peak(tops, group, flat)
            if peak is not None:
                yield group, peak
            elif flat > _EQUAL:
                own = {top: heights[top] for top in group}
                yield from self._resolved(tops, own, passes, flat / 2)
            else:
                yield from (([top], self._summit([top])) for top in group)

    def _ascents(self, tick: Callable[[], None]) -> tuple[NDArray[np.intp], NDArray[np.int16]]:
        """The grid maximum to which each point ascends.

        Its flat index, (c, b, a), and the cell it lies in as seen from the point, (c, b, a, 3).
        Ties go to later points.
        """
        shape = self.values.shape
        indices = np.arange(self.values.size).reshape(shape)
        best, goal = self.values.copy(), indices.copy()
        cells = np.zeros((*shape, 3), np.int16)
        for offset in self.offsets:
            value, index = self._moved(self.values, offset), self._moved(indices, offset)
            higher = (value > best) | ((value == best) & (index > goal))
            best[higher], goal[higher] = value[higher], index[higher]
            cells[higher] = self._beyond(offset)[higher]
            tick()
        tops, whence = goal.ravel(), cells.reshape(-1, 3)
        while True:
            further = tops[tops]
            if np.array_equal(further, tops):
                return tops.reshape(shape), whence.reshape(*shape, 3)
            whence = whence + whence[tops]
            tops = further

    def _beyond(self, offset: NDArray[np.int_]) -> NDArray[np.int16]:
        """Cell in which the neighbour of each point lies, (c, b, a, 3)."""
        steps = [(np.arange(n) + o) // n for n, o in zip(self.values.shape, offset, strict=True)]
        return np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).astype(np.int16)

    def _passes(
        self, tops: NDArray[np.intp], cells: NDArray[np.int16], tick: Callable[[], None]
    ) -> list[_Pass]:
        """Highest passes between neighbouring maxima, images told apart, by falling height."""
        names, own = np.unique(tops, return_inverse=True)
        own = own.reshape(tops.shape)
        keys, heights = np.zeros(0, np.int64), np.zeros(0)
        for offset in self.offsets[len(self.offsets) // 2 :]:
            other = self._moved(own, offset)
            away = self._moved(cells, offset) + self._beyond(offset) - cells
            border = (own != other) | away.any(axis=-1)
            key = (own[border] * len(names) + other[border]) * _CELLS**3
            key += (away[border] + _CELLS // 2) @ np.array([_CELLS**2, _CELLS, 1])
            height = np.minimum(self.values, self._moved(self.values, offset))[border]
            keys, heights = _highest(np.append(keys, key), np.append(heights, height))
            tick()
        pair, away = np.divmod(keys, _CELLS**3)
        i, j = np.divmod(pair, len(names))
        cell = np.stack(np.unravel_index(away, (_CELLS,) * 3), axis=-1) - _CELLS // 2
        falling = np.argsort(-heights, kind="stable")
        return [
            _Pass(start, end, (c, b, a), height)
            for (start, end), (c, b, a), height in zip(
                np.stack([names[i], names[j]], axis=-1)[falling].tolist(),
                cell[falling].tolist(),
                heights[falling].tolist(),
                strict=True,
            )
        ]

    def _moved(self, array: NDArray, offset: NDArray[np.int_]) -> NDArray:
        """At each point what its neighbour has."""
        return np.roll(array, tuple(-offset), axis=(0, 1, 2))

    def _peak(self, tops: NDArray[np.intp], group: Sequence[int], flat: float) -> Peak | None:
        """Peak of a group of maxima; None if its ground runs through the whole crystal."""
        summit = self._summit(group)
        height = float(self.values.flat[group[0]])
        index = np.array(np.unravel_index(group[0], self.values.shape))
        around = self.values[tuple(((index + self.offsets) % self.values.shape).T)]
        if len(group) == 1 and np.count_nonzero(around >= height - _EQUAL) < 8:
            return summit
        inside = np.isin(tops, group)
        for depth in (4, 1):  # more ground than the grid hits by chance, if it is still compact
            level = height - depth * _fall(height, flat)
            ground = np.flatnonzero(inside & (self.values >= level))
            unwrapped = self._unwrapped(ground, group[0])
            if unwrapped is not None:
                places, joined = unwrapped
                parts = places @ self.step
                weights = self.values.flat[ground[joined]] - level + _EQUAL
                return Peak(np.average(parts, axis=0, weights=weights), summit.value, parts)
        return None

    def _unwrapped(
        self, ground: NDArray[np.intp], start: int
    ) -> tuple[NDArray[np.int_], NDArray[np.bool_]] | None:
        """Indices beyond the cell's borders of the points joined to `start`, and which they are.

        `ground` holds sorted flat indices. None if they meet their own images.
        """
        shape = self.values.shape
        places = np.zeros((len(ground), 3), int)
        seen = np.zeros(len(ground), bool)
        frontier = np.searchsorted(ground, [start])
        places[frontier] = np.unravel_index(start, shape)
        seen[frontier] = True
        while len(frontier):
            reached = (places[frontier][:, None] + self.offsets).reshape(-1, 3)
            flat = np.ravel_multi_index(tuple(reached.T % np.array(shape)[:, None]), shape)
            member = np.searchsorted(ground, flat).clip(max=len(ground) - 1)
            inside = ground[member] == flat
            member, reached = member[inside], reached[inside]
            if (places[member] != reached).any(axis=1)[seen[member]].any():
                return None
            frontier, first = np.unique(member[~seen[member]], return_index=True)
            places[frontier] = reached[~seen[member]][first]
            seen[frontier] = True
        return places[seen], seen

    def _summit(self, group: Sequence[int]) -> Peak:
        """Highest point of a group, by a quadratic through it and its neighbours."""
        index = np.array(np.unravel_index(group[0], self.values.shape))
        value = float(self.values.flat[group[0]])
        moves = self.offsets @ self.step
        rise = self.values[tuple(((index + self.offsets) % self.values.shape).T)] - value
        i, j = np.triu_indices(3)
        terms = np.hstack([moves, moves[:, i] * moves[:, j]])
        fit = np.linalg.lstsq(terms, rise, rcond=None)[0]
        hessian = np.zeros((3, 3))
        hessian[i, j] = fit[3:]
        hessian += hessian.T
        # a direction that does not curve down has no place of its own for the maximum
        curvatures, axes = np.linalg.eigh(hessian)
        slopes = fit[:3] @ axes
        falling = curvatures < -1e-6
        move = axes[:, falling] @ (-slopes[falling] / curvatures[falling])
        longest = np.linalg.norm(moves, axis=1).min()
        move *= min(1.0, longest / max(np.linalg.norm(move), 1e-12))
        value += float(fit[:3] @ move + move @ hessian @ move / 2)
        centre = index @ self.step + move
        return Peak(centre, min(value, 1.0), centre[None])


def _highest(
    keys: NDArray[np.int64], heights: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each key once, with the largest of its heights."""
    order = np.argsort(keys, kind="stable")
    unique, first = np.unique(keys[order], return_index=True)
    return unique, np.maximum.reduceat(heights[order], first) if len(first) else heights


def _fall(height: float, flat: float) -> float:
    """Fall of the ELF that makes two maxima of one, where the lower is so high."""
    return max(flat * (height - _UNIFORM), _EQUAL)


def _joined(heights: dict[int, float], passes: Sequence[_Pass], flat: float) -> list[list[int]]:
    """Groups of maxima, the highest first, between which the ELF falls by less than `flat`."""
    groups = {top: [top] for top in heights}
    for way in passes:
        if way.start not in groups or way.end not in groups:
            continue
        ends = groups[way.start], groups[way.end]
        if ends[0] is ends[1]:
            continue
        high, low = sorted(ends, key=lambda group: -heights[group[0]])
        if heights[low[0]] - way.height < _fall(heights[low[0]], flat):
            high.extend(low)
            groups.update(dict.fromkeys(low, high))
    return list({id(group): group for group in groups.values()}.values())


def _prominences(
    groups: Sequence[Sequence[int]], heights: dict[int, float], passes: Sequence[_Pass]
) -> list[float]:
    """Fall of the ELF from the top of each group to the best pass to another as high, or an image.

    The crystal is flooded from above: land grows together at the passes, the lower part of it
    loses its name there, and both do if they are as high. So does land that meets its image.
    """
    number = {top: n for n, group in enumerate(groups) for top in group}
    lands = _Lands(heights)
    for way in passes:  # what was joined has one name from the start
        if way.start in number and number[way.start] == number.get(way.end):
            lands.unite(way)
    falls: dict[int, float] = {}
    named = {lands.root(group[0]): [n] for n, group in enumerate(groups)}
    for way in passes:
        first, second = lands.root(way.start), lands.root(way.end)
        ends = sorted((first, second), key=lambda land: -lands.heights[land])
        high, low = (named.pop(land, []) for land in ends)
        if first == second and lands.consistent(way):
            named[first] = high
            continue
        as_high = lands.heights[ends[0]] - lands.heights[ends[1]] < _AS_HIGH
        lost = [*low, *(high if as_high else [])]
        falls.update((n, max(0.0, heights[groups[n][0]] - way.height)) for n in lost)
        lands.unite(way)
        named[lands.root(way.start)] = [] if as_high else high
    return [falls[n] for n in range(len(groups))]


class _Lands:
    """Sets of grid maxima that are connected, with the cell in which each is, as a forest."""

    def __init__(self, heights: dict[int, float]):
        self._parent: dict[int, tuple[int, Cell]] = {top: (top, (0, 0, 0)) for top in heights}
        self.heights = dict(heights)  # of a root: the highest point of its land

    def root(self, top: int) -> int:
        """Name of the land."""
        return self._found(top)[0]

    def consistent(self, way: _Pass) -> bool:
        """Whether a pass within a land leads to the known image of its end."""
        (_, start), (_, end) = self._found(way.start), self._found(way.end)
        return _plus(way.cell, end) == start

    def unite(self, way: _Pass) -> None:
        """Let the lands on both sides of a pass be one; nothing happens if they are."""
        (first, start), (second, end) = self._found(way.start), self._found(way.end)
        if first != second:
            to_end = _plus(way.cell, end)
            self._parent[second] = first, _minus(start, to_end)
            self.heights[first] = max(self.heights[first], self.heights[second])

    def _found(self, top: int) -> tuple[int, Cell]:
        """Root, and the cell of it as seen from `top`; the way is short the next time."""
        trail = []
        while (above := self._parent[top])[0] != top:
            trail.append(top)
            top = above[0]
        root, cell = top, (0, 0, 0)
        for passed in reversed(trail):
            cell = _plus(self._parent[passed][1], cell)
            self._parent[passed] = root, cell
        return root, cell


def _plus(first: Cell, second: Cell) -> Cell:
    return first[0] + second[0], first[1] + second[1], first[2] + second[2]


def _minus(first: Cell, second: Cell) -> Cell:
    return first[0] - second[0], first[1] - second[1], first[2] - second[2]
