"""Which atoms a point belongs to, in numbers that say what kind of atoms these are."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.density.grids import from_waves, half_frequencies, to_waves
from napari_vox3d.density.superposition import superpose_atoms
from napari_vox3d.progress import Progress, part_of

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

_TABLE = Path(__file__).parent / "tables" / "elements.csv"
WIDTHS = (0.4, 1.2)  # Å: Gaussians that the atomic densities are smoothed with
_SPREAD = 2  # of electronegativity and ionization energy, the first columns of the table
_FLOOR = 1e-7  # e/Å³ of each element: what lies far from all atoms belongs to all alike
CHANNELS = 20  # of each width, eight means and two spreads


@cache
def _descriptors() -> dict[str, NDArray[np.float64]]:
    """Properties of each free atom, less their mean, over their deviation among the elements."""
    with _TABLE.open() as file:
        _, *rows = csv.reader(file)
    values = np.array([row[1:] for row in rows], float)
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    return dict(zip((row[0] for row in rows), values, strict=True))


def describe_owners(
    atoms: Atoms, shape: tuple[int, int, int], progress: Progress | None = None
) -> NDArray[np.float32]:
    """Mean properties of the atoms that the density at each point belongs to.

    Each atom counts by its share of the superposed neutral densities (Hirshfeld, Theor. Chim. Acta
    44, 129 (1977)), these being smoothed with Gaussians of two widths. Properties are those of the
    free atoms: electronegativity, ionization energy, electron affinity, covalent radius, row of the
    periodic table, outer s and p and open d electrons. A superposed density alone hardly tells
    sulphur from chlorine, which bind so differently.

    Parameters
    ----------
    atoms
        Crystal.
    shape
        (c, b, a) grid over its cell.
    progress
        Called as ``progress(done, total)``; what it raises ends the description.

    Returns
    -------
    ndarray
        (20, c, b, a) float32: for each width the means of the eight properties, in deviations from
        the mean of all elements, and the deviations of the first two between the owners.

    Raises
    ------
    Vox3dError
        If an element has no atomic density.
    """
    symbols = np.array(atoms.get_chemical_symbols())
    elements = np.unique(symbols)
    waves = []
    for n, element in enumerate(elements):
        part = part_of(progress, 0.5 * n / len(elements), 0.5 * (n + 1) / len(elements))
        density = superpose_atoms(atoms[symbols == element], shape, progress=part)
        waves.append(to_waves(density.values))
    square = _square_wave_numbers(atoms.cell.array, shape)
    properties = np.array([_descriptors()[element] for element in elements])
    channels = []
    report = part_of(progress, 0.5, 1)
    for n, width in enumerate(WIDTHS):
        damping = np.exp(-0.5 * width**2 * square)
        shares = np.empty((len(elements), *shape))
        for m, (share, wave) in enumerate(zip(shares, waves, strict=True)):
            report(n * len(waves) + m, len(WIDTHS) * len(waves))
            np.maximum(from_waves(wave * damping, shape), _FLOOR, out=share)
        shares /= shares.sum(axis=0)
        means = np.einsum("ep,ecba->pcba", properties, shares)
        squares = np.einsum("ep,ecba->pcba", properties[:, :_SPREAD] ** 2, shares)
        spreads = np.sqrt(np.maximum(squares - means[:_SPREAD] ** 2, 0))
        channels += [means, spreads]
    return np.concatenate(channels).astype(np.float32)


def _square_wave_numbers(
    lattice: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.float64]:
    """|G|² (1/Å²) on the half grid of `numpy.fft.rfftn`."""
    c, b, a = half_frequencies(shape)
    return sum(
        (c[:, None, None] * along_c + b[:, None] * along_b + a * along_a) ** 2
        for along_a, along_b, along_c in 2 * np.pi * np.linalg.inv(lattice)
    )
