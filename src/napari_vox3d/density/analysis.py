"""What is read off a crystal's volume: differences, supercells, statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.density.splines import (
    PeriodicSpline,
    of_order_one,
    periodic_numbers,
    real_numbers,
    require_periodic,
    saturated,
    title,
)
from napari_vox3d.errors import Vox3dError
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CELL_TOLERANCE = 0.01  # of an edge: cells that differ by more are not one crystal
_MOST_VOXELS = 600**3  # of a supercell
_DECIMALS = 1e-6  # of a voxel: what is not a shift


@dataclass(frozen=True, eq=False)
class Comparison:
    """How far one volume is from another.

    Parameters
    ----------
    difference
        The first volume minus the second, on the grid of the first, of quantity ``"difference"``.
    mae, rmse, largest
        Mean, root mean square and largest absolute difference, in the unit of the volumes.
    """

    difference: Volume
    mae: float
    rmse: float
    largest: float


def compare_volumes(volume: Volume, reference: Volume) -> Comparison:
    """Subtract a reference from a volume of the same crystal.

    The reference is brought to the grid of the volume by periodic cubic splines unless it is
    on it already; origins are respected. It may be given in another cell, provided that
    the cell of the volume is made of whole vectors of it, as for a supercell or another choice
    of axes. Edges that differ by up to 1 % are taken as the same.

    Parameters
    ----------
    volume, reference
        Periodic volumes of one quantity, or two densities in e/Å³.

    Returns
    -------
    Comparison
        Difference and its mean, root mean square and largest absolute value.

    Raises
    ------
    Vox3dError
        If the cells or the quantities differ, a volume is not periodic, or values are complex or
        no numbers.
    """
    values, _ = periodic_numbers(volume), periodic_numbers(reference)
    if volume.quantity != reference.quantity and not volume.unit == reference.unit == "e/Å³":
        raise Vox3dError(
            f"{title(volume)} holds {volume.quantity!r} and {title(reference)} "
            f"{reference.quantity!r}: these cannot be compared."
        )
    with np.errstate(over="ignore"):
        difference = saturated(values - _on_grid_of(volume, reference))
    absolute, exponent = of_order_one(np.abs(difference))
    return Comparison(
        volume.with_values(
            difference,
            quantity="difference",
            name=f"{title(volume)} − {title(reference)}",
            source="",
            metadata={
                "provenance": {
                    "method": "difference",
                    "volume": volume.source or volume.name,
                    "reference": reference.source or reference.name,
                }
            },
        ),
        mae=float(np.ldexp(absolute.mean(), exponent)),
        rmse=float(np.ldexp(np.sqrt((absolute**2).mean()), exponent)),
        largest=float(np.ldexp(absolute.max(), exponent)),
    )


def _on_grid_of(volume: Volume, reference: Volume) -> NDArray[np.float64]:
    """Return the values of `reference` at the points of `volume`."""
    relation = volume.cell @ np.linalg.inv(reference.cell)
    whole = np.rint(relation)
    misfit = np.linalg.norm(volume.cell - whole @ reference.cell, axis=1)
    edges = np.linalg.norm(volume.cell, axis=1)
    if not np.linalg.det(whole) or (misfit > _CELL_TOLERANCE * edges).any():
        raise Vox3dError(
            f"{title(volume)} has the cell {_cell(volume)} and {title(reference)} "
            f"{_cell(reference)}: they are not of one crystal in one orientation."
        )
    size = np.array(reference.shape)
    shift = volume.origin @ np.linalg.inv(volume.cell) @ whole
    shift -= reference.origin @ np.linalg.inv(reference.cell)
    start = shift * size
    step = whole / np.array(volume.shape)[:, None] * size
    near = np.rint(start)
    if np.abs(start - near).max() < _DECIMALS and np.allclose(step, np.eye(3), atol=1e-9):
        return np.roll(periodic_numbers(reference), tuple(-near.astype(int)), axis=(0, 1, 2))
    spline = PeriodicSpline(reference)
    j, i = np.meshgrid(*(np.arange(n) for n in volume.shape[1:]), indexing="ij")
    plane = start + j[..., None] * step[1] + i[..., None] * step[2]
    return np.stack([spline.at_indices(plane + k * step[0]) for k in range(volume.shape[0])])


def supercell(volume: Volume, repeats: int | Sequence[int]) -> Volume:
    """Tile a crystal's volume, atoms included.

    Parameters
    ----------
    volume
        Periodic volume.
    repeats
        Cells along a, b and c; one number for all.

    Returns
    -------
    Volume
        (c, b, a) values of the larger cell, periodic, with the same voxels and origin.

    Raises
    ------
    Vox3dError
        If the volume is not periodic, the repeats are not positive integers, or the result would
        have more than 600³ voxels.
    """
    require_periodic(volume)
    numbers = np.asarray(repeats)
    if (
        numbers.shape not in ((), (3,))
        or (numbers != np.rint(numbers)).any()
        or (numbers < 1).any()
    ):
        raise Vox3dError(f"Repeats are positive integers, one or three, not {repeats}.")
    a, b, c = (int(n) for n in np.broadcast_to(numbers, 3))
    voxels = np.prod(volume.shape, dtype=float) * a * b * c
    if voxels > _MOST_VOXELS:
        raise Vox3dError(
            f"{a} × {b} × {c} cells have {voxels:.3g} voxels, more than {_MOST_VOXELS:.3g}: "
            "take fewer."
        )
    atoms = volume.atoms
    if atoms is not None:
        atoms = atoms.copy()
        atoms.set_cell(volume.lattice)  # a file's atoms may come without one
        atoms = atoms.repeat((a, b, c))
    return replace(
        volume,
        values=np.tile(np.asarray(volume.values), (c, b, a)),
        atoms=atoms,
        name=f"{title(volume)} {a}×{b}×{c}",
        # what a file kept about one cell does not hold for several
        metadata={"provenance": {"method": "supercell", "repeats": (a, b, c)}},
    )


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the values of a volume are like.

    Parameters
    ----------
    least, mean, largest, deviation
        Extremes, mean and standard deviation, in the unit of the volume.
    quantiles
        Value below which a given fraction of the volume lies.
    counts, edges
        Histogram: (B,) voxels between each two of (B + 1,) values.
    electrons
        Integral of a density in e/Å³ (of a spin density: electrons up less down); else None.
    not_numbers
        Voxels that hold no number; they are left out of everything else.
    """

    least: float
    mean: float
    largest: float
    deviation: float
    quantiles: dict[float, float]
    counts: NDArray[np.int_]
    edges: NDArray[np.float64]
    electrons: float | None
    not_numbers: int


def volume_statistics(volume: Volume, bins: int = 100) -> Statistics:
    """Describe the values of a volume.

    Parameters
    ----------
    volume
        Any volume of real numbers.
    bins
        Of the histogram, between the least and the largest value.

    Returns
    -------
    Statistics
        With the quantiles at 1, 5, 25, 50, 75, 95 and 99 %.

    Raises
    ------
    Vox3dError
        If values are complex, none is a number, or there are no bins.
    """
    if bins < 1:
        raise Vox3dError(f"A histogram has at least one bin, not {bins}.")
    values = real_numbers(volume).ravel()
    numbers = values[np.isfinite(values)]
    if not numbers.size:
        raise Vox3dError(f"{title(volume)} holds no numbers.")
    fractions = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    numbers, exponent = of_order_one(numbers)
    least, largest = numbers.min(), numbers.max()
    narrow = largest - least < bins * np.finfo(float).eps  # too much so for that many bins
    counts, edges = np.histogram(numbers, bins, (least - 0.5, largest + 0.5) if narrow else None)
    with np.errstate(over="ignore"):
        edges = saturated(np.ldexp(edges, exponent))
    mean = float(np.ldexp(numbers.mean(), exponent))
    quantiles = np.ldexp(np.quantile(numbers, fractions), exponent)
    return Statistics(
        least=float(np.ldexp(least, exponent)),
        mean=mean,
        largest=float(np.ldexp(largest, exponent)),
        deviation=float(np.ldexp(numbers.std(), exponent)),
        quantiles=dict(zip(fractions, quantiles.tolist(), strict=True)),
        counts=counts,
        edges=edges,
        electrons=mean * volume.volume if volume.unit == "e/Å³" else None,
        not_numbers=values.size - numbers.size,
    )


def _cell(volume: Volume) -> str:
    rows = [" ".join(f"{x:.3f}" for x in row) for row in volume.lattice]
    return f"[{'; '.join(rows)}] Å"
