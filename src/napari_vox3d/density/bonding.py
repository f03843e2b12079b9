"""Maxima of the electron localization function, and what they mean: bonds, lone pairs and others.

The ELF rises to a maximum where a pair of electrons is at home (A. Savin, R. Nesper, S. Wengert
and T. F. Fässler, Angew. Chem. Int. Ed. 36 (1997) 1808). By symmetry or by rounding a maximum may
be a plateau, a ring around a triple bond or a shell around an ion; each of them is one maximum.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.density.grids import interpolate
from napari_vox3d.density.splines import periodic_numbers
from napari_vox3d.errors import Vox3dError
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

KINDS = ("core", "bond", "lone pair", "interstitial")
"""What a maximum may be; see `maxima`."""

_SPACING = 0.13  # Å: on coarser grids a ring breaks up into maxima of their own
_MOST_VOXELS = 256**3  # a larger grid is searched as it is
_UNIFORM = 0.5  # ELF of the uniform electron gas
_FLAT = 0.03  # of the height above it: maxima are one if the ELF falls by less between them
_EQUAL = 1e-5  # ELF: the last digit that VASP writes

_CORE = 0.5  # covalent radii: cores end here
_BONDED = 1.25  # sums of covalent radii: longer distances are no bonds
_DETOUR = 1.2  # lengths of a bond: the longest way by a maximum between the atoms
_REACH = 1.25  # covalent radii: a maximum farther from an atom is not of that atom


def maxima(elf: Volume, least: float = 0.5) -> Picks:
    """Find the maxima of an ELF and say of what kind each is.

    Maxima are found on the grid (refined by cubic splines if it is coarser than 0.13 Å) among
    the 26 nearest neighbours in the true metric, and placed by a quadratic through them. Maxima
    between which the ELF falls by less than 3 % of what the lower one has above 0.5, the uniform
    electron gas, are one: a plateau, a ring or a shell, placed at its centre with the highest
    value on it. (Where such ground runs through the whole
    crystal, as in metals, it has no centre: the fall that joins is halved until it has.)

    The kind follows from the atoms alone, with covalent radii r as `ase.data` has them:

    * core: within r/2 of an atom (hydrogen and helium have none);
    * bond: between atoms A and B no farther apart than 1.25 (r_A + r_B), the way from A over the
      maximum to B being no longer than 1.2 A–B (ion pairs are not told from polar bonds);
    * interstitial: farther than 1.25 r from every atom;
    * lone pair: on one atom and not in its bonds; shells around an ion are here too.

    Parameters
    ----------
    elf
        Periodic volume of quantity ``"elf"`` with its atoms.
    least
        Lower maxima are left out. Default: 0.5, the value of the uniform electron gas.

    Returns
    -------
    Picks
        By falling value: positions in the cell, kinds as labels, values as scores. Voxel size and
        shape are those of the grid if its axes run along z, y and x.

    Raises
    ------
    Vox3dError
        If the volume is no periodic ELF with atoms, or holds values that are no numbers.
    """
    values = _checked(elf)
    search = _Search.on(elf, values)
    peaks = [peak for peak in search.peaks(least) if peak.value >= least]
    peaks.sort(key=lambda peak: -peak.value)
    surroundings = _Surroundings(elf)
    labels = [surroundings.kind(peak) for peak in peaks]
    fractions = np.array([peak.centre for peak in peaks]).reshape(-1, 3) @ np.linalg.inv(elf.cell)
    fractions -= np.floor(fractions + 1e-6)
    frame = {"shape": elf.shape, "voxel_size": elf.voxel_size} if elf.is_orthogonal else {}
    return Picks(
        fractions @ elf.cell,
        np.array(labels, str),
        np.array([peak.value for peak in peaks]),
        tomogram=elf.name,
        metadata={"method": "maxima of the ELF", "least": least, "source": elf.source},
        **frame,  # type: ignore[arg-type]
    )


def _checked(elf: Volume) -> NDArray[np.float64]:
    if elf.quantity != "elf" or not elf.periodic:
        what = elf.quantity if elf.periodic else f"{elf.quantity} that is not periodic"
        raise Vox3dError(f"Maxima are found in the ELF of a crystal, and this is {what}.")
    if elf.atoms is None or not len(elf.atoms):
        raise Vox3dError("What the maxima of an ELF are depends on its atoms; it has none.")
    return periodic_numbers(elf)


@dataclass(frozen=True)
class _Peak:
    """A maximum in Å (z, y, x) from the centre of voxel (0, 0, 0)."""

    centre: NDArray[np.float64]
    value: float
    parts: NDArray[np.float64]  # (M, 3) Å: where the value is (nearly) reached


@dataclass(frozen=True)
class _Search:
    """A fine periodic grid with its nearest neighbours."""

    values: NDArray[np.floating]
    step: NDArray[np.float64]  # (3, 3) Å
    offsets: NDArray[np.int_]  # (26, 3): to the neighbours, the opposite ones from both ends

    @classmethod
    def on(cls, elf: Volume, values: NDArray[np.float64]) -> _Search:
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

    def peaks(self, least: float) -> list[_Peak]:
        """Every maximum not (much) below `least`."""
        tops = self._tops()
        saddles = self._saddles(tops, least - _FLAT * (1 - _UNIFORM))
        heights = {int(top): self.values.flat[top] for top in np.unique(tops[self.values >= least])}
        return list(self._resolved(tops, heights, saddles, _FLAT))

    def _resolved(
        self,
        tops: NDArray[np.intp],
        heights: dict[int, float],
        saddles: dict[tuple[int, int], float],
        flat: float,
    ) -> Iterator[_Peak]:
        """Peaks of the groups; one that runs through the whole crystal is taken apart."""
        for group in _joined(heights, saddles, flat):
            peak = self._peak(tops, group, flat)
            if peak is not None:
                yield peak
            elif flat > _EQUAL / _FLAT:
                own = {top: heights[top] for top in group}
                yield from self._resolved(tops, own, saddles, flat / 2)
            else:
                yield from (self._summit([top]) for top in group)

    def _tops(self) -> NDArray[np.intp]:
        """Flat index of the grid maximum to which each point ascends; ties go to later points."""
        indices = np.arange(self.values.size).reshape(self.values.shape)
        best, goal = self.values.copy(), indices.copy()
        for offset in self.offsets:
            value, index = self._moved(self.values, offset), self._moved(indices, offset)
            higher = (value > best) | ((value == best) & (index > goal))
            best[higher], goal[higher] = value[higher], index[higher]
        while True:
            further = goal.ravel()[goal]
            if np.array_equal(further, goal):
                return goal
            goal = further

    def _saddles(self, tops: NDArray[np.intp], least: float) -> dict[tuple[int, int], float]:
        """Highest pass between each two neighbouring maxima, by falling height."""
        pairs, passes = [np.zeros((0, 2), int)], [np.zeros(0)]
        for offset in self.offsets[len(self.offsets) // 2 :]:
            others, height = self._moved(tops, offset), self._moved(self.values, offset)
            height = np.minimum(self.values, height)
            border = (tops != others) & (height >= least)
            pairs.append(np.sort(np.stack([tops[border], others[border]], axis=1), axis=1))
            passes.append(height[border])
        order = np.argsort(-np.concatenate(passes), kind="stable")
        ordered, first = np.unique(np.concatenate(pairs)[order], axis=0, return_index=True)
        heights = np.concatenate(passes)[order][first]
        falling = np.argsort(-heights, kind="stable")
        return {
            (int(i), int(j)): h
            for (i, j), h in zip(ordered[falling], heights[falling], strict=True)
        }

    def _moved(self, array: NDArray, offset: NDArray[np.int_]) -> NDArray:
        """At each point the value of its neighbour."""
        return np.roll(array, tuple(-offset), axis=(0, 1, 2))

    def _peak(self, tops: NDArray[np.intp], group: Sequence[int], flat: float) -> _Peak | None:
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
                return _Peak(np.average(parts, axis=0, weights=weights), summit.value, parts)
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

    def _summit(self, group: Sequence[int]) -> _Peak:
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
        return _Peak(centre, min(value, 1.0), centre[None])


def _fall(height: float, flat: float) -> float:
    """Fall of the ELF that makes two maxima of one, where the lower is so high."""
    return max(flat * (height - _UNIFORM), _EQUAL)


def _joined(
    heights: dict[int, float], saddles: dict[tuple[int, int], float], flat: float
) -> list[list[int]]:
    """Groups of maxima, the highest first, between which the ELF falls by less than `flat`."""
    groups = {top: [top] for top in heights}
    for (i, j), height in saddles.items():
        if i not in groups or j not in groups or groups[i] is groups[j]:
            continue
        high, low = sorted((groups[i], groups[j]), key=lambda group: -heights[group[0]])
        if heights[low[0]] - height < _fall(heights[low[0]], flat):
            high.extend(low)
            groups.update(dict.fromkeys(low, high))
    return list({id(group): group for group in groups.values()}.values())


class _Surroundings:
    """The atoms and bonds about any point of a crystal."""

    def __init__(self, elf: Volume):
        from ase.data import covalent_radii
        from scipy.spatial import cKDTree

        atoms: Atoms = elf.atoms  # type: ignore[assignment]
        radii = covalent_radii[atoms.numbers]
        self._cell = elf.cell
        # every atom that may matter to a point in the cell: bond partners of those within reach
        margin = _REACH * radii.max() + 2 * _BONDED * radii.max()
        heights = 1 / np.linalg.norm(np.linalg.inv(elf.cell), axis=0)
        images = [np.arange(-np.ceil(margin / h), np.ceil(margin / h) + 2) for h in heights]
        shifts = np.array(list(product(*images)))
        fractions = (atoms.positions[:, ::-1] - elf.origin) @ np.linalg.inv(elf.cell)
        fractions -= np.floor(fractions)
        self._places = ((fractions + shifts[:, None]) @ elf.cell).reshape(-1, 3)
        numbers = np.tile(atoms.numbers, len(shifts))
        self._radii = np.tile(radii, len(shifts))
        self._cores = np.where(numbers > 2, _CORE * self._radii, 0.0)
        self._tree = cKDTree(self._places)
        self._margin = margin

    def kind(self, peak: _Peak) -> str:
        """One of `KINDS`, by the rules of `maxima`."""
        whole = np.floor(peak.centre @ np.linalg.inv(self._cell) + 1e-6) @ self._cell
        centre, parts = peak.centre - whole, peak.parts - whole
        near = self._tree.query_ball_point(centre, self._margin)
        if not near:
            return "interstitial"
        places, radii, cores = self._places[near], self._radii[near], self._cores[near]
        distances = np.linalg.norm(places - centre, axis=1)
        first = (distances / radii).argmin()
        if np.linalg.norm(parts - places[first], axis=1).mean() < cores[first]:
            return "core"
        if distances[first] < cores[first]:  # the centre of a shell
            return "lone pair"
        if _bonded(places, radii, distances):
            return "bond"
        return "lone pair" if distances[first] <= _REACH * radii[first] else "interstitial"


def _bonded(
    places: NDArray[np.float64], radii: NDArray[np.float64], distances: NDArray[np.float64]
) -> bool:
    """True if the point that is so far from each of these atoms lies between two bonded ones."""
    i, j = np.triu_indices(len(places), 1)
    lengths = np.linalg.norm(places[i] - places[j], axis=1)
    bonds = lengths <= _BONDED * (radii[i] + radii[j])
    return bool((bonds & (distances[i] + distances[j] <= _DETOUR * lengths)).any())
