"""Maxima of the electron localization function, and what they mean: bonds, lone pairs and others.

The ELF rises to a maximum where a pair of electrons is at home (A. Savin, R. Nesper, S. Wengert
and T. F. Fässler, Angew. Chem. Int. Ed. 36 (1997) 1808). By symmetry or by rounding a maximum may
be a plateau, a ring around a triple bond or a shell around an ion; each of them is one maximum.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.density.attractors import Peak, Search
from napari_vox3d.density.splines import periodic_numbers, title
from napari_vox3d.errors import Vox3dError
from napari_vox3d.picks import Picks
from napari_vox3d.progress import Progress
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

KINDS = ("core", "bond", "lone pair", "interstitial")
"""What a maximum may be; see `find_maxima`."""

_CORE = 0.5  # covalent radii: cores end here
_BONDED = 1.25  # sums of covalent radii: longer distances are no bonds
_SLACK = 0.4  # Å beyond the covalent radii: what small atoms, hydrogen above all, reach as well
_IMPOSSIBLE = 1e12  # no ELF, in whatever way it is scaled
_DETOUR = 1.2  # lengths of a bond: the longest way by a maximum between the atoms
_REACH = 1.25  # covalent radii: a maximum farther from an atom is not of that atom
_AS_NEAR = 1.2  # times as far, in covalent radii: atoms that share a void
_VOID = 4  # atoms about a void; three may have a bond in common
_MOST_IMAGES = 100_000  # of a cell about itself: that of a cell of half an Å
_IN_HYDRIDE = 3  # neighbours of hydrogen that is an ion; two may have a bridge in common


def find_maxima(
    elf: Volume,
    least: float = 0.5,
    prominence: float = 0.01,
    progress: Progress | None = None,
) -> Picks:
    """Find the maxima of an ELF and say of what kind each is.

    Maxima are found on the grid (refined by cubic splines if it is coarser than 0.13 Å) among
    the 26 nearest neighbours in the true metric, and placed by a quadratic through them. Maxima
    between which the ELF falls by less than 3 % of what the lower one has above 0.5, the uniform
    electron gas, are one: a plateau, a ring or a shell, placed at its centre with the highest
    value on it. (Where such ground runs through the whole crystal, as in metals, it has no
    centre: the fall that joins is halved until it has.)

    How far each stands out is its prominence: by how much the ELF falls on the best way to one as
    high, which may be its own image in the next cell. It does not depend on the choice of the
    cell and, but for the grid, is the same for maxima that a symmetry relates. Metals have
    many maxima that hardly stand out and mean little.

    The kind follows from the atoms alone, with covalent radii r as `ase.data` has them:

    * core: within r/2 of an atom (hydrogen and helium have none);
    * bond: between atoms A and B no farther apart than 1.25 (r_A + r_B), or r_A + r_B + 0.4 Å for
      small ones, the way from A over the maximum to B being no longer than 1.2 A–B (ion pairs
      are not told from polar bonds). The maximum of hydrogen, up to 0.4 Å beyond its radius, is
      one too, unless it has three or more such neighbours and is an ion. A maximum with four or
      more atoms about equally near, up to 20 % in units of r, lies in a void between them and in
      no bond;
    * interstitial: in such a void, or farther than 1.25 r from every atom;
    * lone pair: on one atom and not in its bonds; shells around an ion are here too.

    Parameters
    ----------
    elf
        Periodic volume of quantity ``"elf"`` with its atoms.
    least
        Lower maxima are left out. Default: 0.5, the value of the uniform electron gas.
    prominence
        Maxima that stand out by less are left out. Default: 0.01, of which neither calculations
        nor models are sure; with 0 all are there.

    progress
        Called as ``progress(done, total)``; what it raises ends the search.

    Returns
    -------
    Picks
        By falling value: positions in the cell, kinds as labels, values as scores.
        ``metadata["prominence"]`` holds one number for each, ``metadata["hardly prominent"]`` how
        many were left out for that. Voxel size and shape are those of
        the grid if its axes run along z, y and x.

    Raises
    ------
    Vox3dError
        If the volume is no periodic ELF with atoms, holds values that are no numbers, or its cell
        is smaller than atoms are.
    """
    values = _checked(elf)
    surroundings = _Surroundings(elf)
    peaks = []
    if np.ptp(values):  # else it stands out nowhere
        search = Search.on(elf, values)
        peaks = [peak for peak in search.peaks(least, progress) if peak.value >= least]
    found = len(peaks)
    peaks = [peak for peak in peaks if peak.prominence >= prominence]
    peaks.sort(key=lambda peak: -peak.value)
    labels = [surroundings.kind(peak) for peak in peaks]
    fractions = np.array([peak.centre for peak in peaks]).reshape(-1, 3) @ np.linalg.inv(elf.cell)
    fractions -= np.floor(fractions + 1e-6)
    frame = {"shape": elf.shape, "voxel_size": elf.voxel_size} if elf.is_orthogonal else {}
    return Picks(
        fractions @ elf.cell,
        np.array(labels, str),
        np.array([peak.value for peak in peaks]),
        tomogram=elf.name,
        metadata={
            "method": "maxima of the ELF",
            "least": least,
            "hardly prominent": found - len(peaks),
            "prominence": [peak.prominence for peak in peaks],
            "source": elf.source,
        },
        **frame,  # type: ignore[arg-type]
    )


def _checked(elf: Volume) -> NDArray[np.float64]:
    if elf.quantity != "elf" or not elf.periodic:
        what = elf.quantity if elf.periodic else f"{elf.quantity} that is not periodic"
        raise Vox3dError(f"Maxima are found in the ELF of a crystal, and this is {what}.")
    if elf.atoms is None or not len(elf.atoms):
        raise Vox3dError("What the maxima of an ELF are depends on its atoms; it has none.")
    values = periodic_numbers(elf)
    if np.abs(values).max() > _IMPOSSIBLE:
        raise Vox3dError(f"{title(elf)} holds values that no ELF has.")
    return values


class _Surroundings:
    """The atoms and bonds about any point of a crystal."""

    def __init__(self, elf: Volume):
        from ase.data import covalent_radii
        from scipy.spatial import cKDTree

        atoms: Atoms = elf.atoms  # type: ignore[assignment]
        radii = covalent_radii[atoms.numbers]
        self._cell = elf.cell
        # every atom that may matter to a point in the cell: bond partners of those within reach
        margin = _REACH * radii.max() + max(2 * _BONDED * radii.max(), 2 * radii.max() + _SLACK)
        heights = 1 / np.linalg.norm(np.linalg.inv(elf.cell), axis=0)
        around = np.ceil(margin / heights)
        if np.prod(2 * around + 2) > _MOST_IMAGES:
            raise Vox3dError(
                f"The cell of {title(elf)} is {heights.min():.2g} Å wide, less than any atom; is "
                "its unit of length right?"
            )
        images = [np.arange(-count, count + 2) for count in around]
        shifts = np.array(list(product(*images)))
        fractions = (atoms.positions[:, ::-1] - elf.origin) @ np.linalg.inv(elf.cell)
        fractions -= np.floor(fractions)
        self._places = ((fractions + shifts[:, None]) @ elf.cell).reshape(-1, 3)
        numbers = np.tile(atoms.numbers, len(shifts))
        self._radii = np.tile(radii, len(shifts))
        self._cores = np.where(numbers > 2, _CORE * self._radii, 0.0)
        self._tree = cKDTree(self._places)
        self._margin = margin

    def kind(self, peak: Peak) -> str:
        """One of `KINDS`, by the rules of `find_maxima`."""
        whole = np.floor(peak.centre @ np.linalg.inv(self._cell) + 1e-6) @ self._cell
        centre, parts = peak.centre - whole, peak.parts - whole
        near = self._tree.query_ball_point(centre, self._margin)
        if not near:
            return "interstitial"
        places, radii, cores = self._places[near], self._radii[near], self._cores[near]
        distances = np.linalg.norm(places - centre, axis=1)
        nearness = distances / radii
        first = nearness.argmin()
        if np.linalg.norm(parts - places[first], axis=1).mean() < cores[first]:
            return "core"
        if distances[first] < cores[first]:  # the centre of a shell
            return "lone pair"
        if np.count_nonzero(nearness <= _AS_NEAR * nearness[first]) >= _VOID:
            return "interstitial"
        if not cores[first] and distances[first] < radii[first] + _SLACK:  # hydrogen
            partners = _bonded(places, radii)[first].sum()
            return "bond" if 0 < partners < _IN_HYDRIDE else "lone pair"
        between = distances[:, None] + distances <= _DETOUR * _lengths(places)
        if (_bonded(places, radii) & between).any():
            return "bond"
        return "lone pair" if nearness[first] <= _REACH else "interstitial"


def _bonded(places: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each two atoms are near enough for a bond, (N, N)."""
    sums = radii[:, None] + radii
    bonded = _lengths(places) <= np.maximum(_BONDED * sums, sums + _SLACK)
    np.fill_diagonal(bonded, False)
    return bonded


def _lengths(places: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.norm(places[:, None] - places, axis=-1)
