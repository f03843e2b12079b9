"""Superposition of neutral atomic densities (SAD) on a periodic grid."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.density.grids import from_waves, grid_shape, half_frequencies
from napari_vox3d.errors import Vox3dError
from napari_vox3d.progress import Progress, part_of
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray
    from scipy.interpolate import CubicSpline

_TABLE = Path(__file__).parent / "tables" / "form_factors.npz"
_MOST_POINTS = 1 << 31
_FLAT = 1e-3  # Å³: cells of less volume are degenerate
_PLANES = 16  # c* planes worked on at once, at most: bounds the memory beside the result
_STEP = 1.5e8  # waves times atoms between two reports: about 0.3 s


@cache
def _form_factors() -> dict[str, CubicSpline]:
    """Splines of the form factors (electrons) over q (1/Å), by element."""
    from scipy.interpolate import CubicSpline

    with np.load(_TABLE) as table:
        return {
            str(element): CubicSpline(table["q"], row, bc_type=((1, 0.0), "not-a-knot"))
            for element, row in zip(table["elements"], table["form_factors"], strict=True)
        }


def supported_elements() -> list[str]:
    """Symbols of the elements that atomic densities exist for, by atomic number."""
    return list(_form_factors())


def valence_electrons(atoms: Atoms) -> float:
    """Sum of the valence electrons of the neutral atoms, as the tables count them."""
    factors = _form_factors()
    return float(sum(factors[symbol](0.0) for symbol in atoms.get_chemical_symbols()))


def superpose_atoms(
    atoms: Atoms | str | Path,
    shape: tuple[int, int, int] | None = None,
    spacing: float = 0.2,
    progress: Progress | None = None,
) -> Volume:
    """Superpose neutral atomic valence densities periodically.

    Form factor times structure factor, summed over the atoms and transformed to the grid: an
    exact sum over all periodic images in any cell. The electron count is exact. The density is
    band-limited by the grid, so on coarse grids it rings around hard atoms (O, F, 3d metals) and
    may dip below zero there, by about 1 % of the maximum around oxygen at 0.2 Å. Values are not
    clipped, since that would spoil the count and the derivatives; `metadata["provenance"]` says
    the minimum.

    Parameters
    ----------
    atoms
        Crystal, repeated along all three cell vectors whatever its boundary conditions say, or the
        path of a file that holds one.
    shape
        Points along (c, b, a). Default: from `spacing`.
    spacing
        Å: upper limit of the distance between points along each edge; used without `shape`.
    progress
        Called as ``progress(done, total)``; what it raises ends the superposition.

    Returns
    -------
    Volume
        Quantity ``"superposed atomic density"`` in e/Å³, periodic, float64, with the atoms.

    Raises
    ------
    Vox3dError
        If an element has no table, the cell has no volume, or the grid makes no sense.
    """
    if isinstance(atoms, (str, Path)):
        from napari_vox3d.formats import read_atoms

        source, crystal = str(atoms), read_atoms(atoms)
    else:
        source, crystal = "", atoms
    _check(crystal)
    if shape is None:
        if not (np.isfinite(spacing) and spacing > 0):
            raise Vox3dError(f"The grid spacing must be a positive length in Å, not {spacing}.")
        shape = grid_shape(crystal.cell.array, spacing)
    elif len(shape) != 3 or min(shape) < 1:
        raise Vox3dError(f"A grid has three axes (c, b, a) of at least one point, not {shape}.")
    if np.prod(shape, dtype=float) > _MOST_POINTS:
        raise Vox3dError(
            f"A grid of {'×'.join(map(str, shape))} points is more than can be computed here; take "
            "a larger spacing."
        )
    c, b, a = (int(n) for n in shape)
    grid = (c, b, a)

    coefficients = _fourier_coefficients(crystal, grid, part_of(progress, 0, 0.9))
    values = from_waves(coefficients, grid)
    values *= values.size / crystal.get_volume()
    part_of(progress, 0.9, 1)(1, 1)
    provenance = {
        "method": "superposition of neutral atomic valence densities (GTH-PBE pseudo-atoms)",
        "electrons": valence_electrons(crystal),
        "minimum": float(values.min()),
    }
    return Volume.on_lattice(
        values,
        crystal.cell.array,
        quantity="superposed atomic density",
        unit="e/Å³",
        atoms=crystal,
        name=f"{crystal.get_chemical_formula(empirical=False)} SAD",
        source=source,
        metadata={"provenance": provenance},
    )


def _check(atoms: Atoms) -> None:
    """Raise Vox3dError unless `atoms` is a crystal of known elements."""
    if len(atoms) == 0:
        raise Vox3dError("There are no atoms to superpose.")
    if not np.isfinite(atoms.positions).all():
        raise Vox3dError("Some atoms have positions that are no finite numbers.")
    if abs(atoms.cell.volume) < _FLAT:
        raise Vox3dError(
            f"{atoms.get_chemical_formula()} has no cell: a superposed density needs three "
            "independent cell vectors. Put a molecule into a box."
        )
    known = _form_factors()
    unknown = sorted(set(atoms.get_chemical_symbols()) - set(known))
    if unknown == ["X"]:
        raise Vox3dError(
            "The file does not name its elements: write their symbols in a line before the counts, "
            "as VASP 5 does."
        )
    if unknown:
        raise Vox3dError(
            f"No atomic density for {', '.join(unknown)}. Elements with one: {' '.join(known)}."
        )


def _fourier_coefficients(
    atoms: Atoms, shape: tuple[int, ...], report: Progress
) -> NDArray[np.complex128]:
    """Σ f(|G|) exp(−iG·r) over the atoms, in electrons, on the half grid of `numpy.fft.rfftn`."""
    frequencies = half_frequencies(shape)
    fractions = atoms.get_scaled_positions(wrap=False)[:, ::-1]
    wave_vectors = 2 * np.pi * np.linalg.inv(atoms.cell.array)[:, ::-1]
    symbols = np.array(atoms.get_chemical_symbols())
    phases = [
        np.exp(-2j * np.pi * np.outer(k, x)) for k, x in zip(frequencies, fractions.T, strict=True)
    ]  # (points, atoms) along each axis

    result = np.zeros([len(k) for k in frequencies], complex)
    c, b, a = frequencies
    elements = sorted(set(symbols))
    step = max(1, min(_PLANES, int(_STEP / (len(b) * len(a) * len(atoms)))))
    for first in range(0, len(c), step):
        planes = slice(first, first + step)
        q = np.sqrt(
            sum(
                (c[planes, None, None] * axis[0] + b[:, None] * axis[1] + a * axis[2]) ** 2
                for axis in wave_vectors
            )
        )
        for n, element in enumerate(elements):
            report(first * len(elements) + n * step, len(c) * len(elements))
            chosen = symbols == element
            slab, rows, columns = (
                phases[0][planes, chosen],
                phases[1][:, chosen],
                phases[2][:, chosen],
            )
            structure = (slab[:, None] * rows) @ columns.T
            result[planes] += _evaluate(element, q) * structure
    for axis, points in enumerate(shape):
        if points % 2 == 0:
            # the Nyquist plane stands for +n/2 and -n/2 at once; leaving it out keeps symmetry
            result[(slice(None),) * axis + (points // 2,)] = 0
    return result


def _evaluate(element: str, q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Form factor of `element` at `q`; zero beyond the table, where nothing is left."""
    spline = _form_factors()[element]
    return np.where(q <= spline.x[-1], spline(np.minimum(q, spline.x[-1])), 0.0)
