"""Rotation-invariant descriptors of a density, measured in Å whatever the cell and the grid."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.density.grids import band, from_waves, half_frequencies, to_waves
from napari_vox3d.density.promolecule import homogeneous_kinetic_energy
from napari_vox3d.progress import Progress, part_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.volume import Volume

WIDTHS = (0.15, 0.4, 0.8, 1.6)  # Å: Gaussians that the density is smoothed with
PER_WIDTH = 6
CHANNELS = PER_WIDTH * len(WIDTHS)
_TRANSFORMS = 10  # of the density, its gradient and the matrix of its second derivatives
_VACUUM = 1e-3  # e/Å³: densities are floored here before they divide anything


def density_invariants(
    density: Volume, shape: tuple[int, int, int], progress: Progress | None = None
) -> NDArray[np.float32]:
    """Describe a periodic density around each point of a grid, independent of orientation.

    The density is smoothed with Gaussians of four widths. For each smoothed ρ the channels are
    log ρ, and asinh of |∇ρ|/ρ, ∇²ρ/ρ, |H|/ρ, the second derivative along the gradient over ρ, and
    the kinetic-energy ratio χ of the Tsirelson–Stash ELF, H being the matrix of second
    derivatives. All derivatives are taken in reciprocal space in the true cell, in 1/Å; so a
    rotated, sheared or repeated description of one crystal has the same values at one point.

    Parameters
    ----------
    density
        Periodic valence density in e/Å³.
    shape
        (c, b, a) grid of the result over the same cell.
    progress
        Called as ``progress(done, total)``; what it raises ends the description.

    Returns
    -------
    ndarray
        (24, c, b, a) float32, width by width.
    """
    values = np.asarray(density.values, np.float64)
    waves = to_waves(values) / values.size
    lattice = density.lattice
    channels = np.empty((CHANNELS, *shape), np.float32)
    factors = [_oversampling(lattice, shape, width) for width in WIDTHS]
    ends = np.cumsum([0, *(factor**3 for factor in factors)]) / sum(f**3 for f in factors)
    for number, (width, factor) in enumerate(zip(WIDTHS, factors, strict=True)):
        fine = (factor * shape[0], factor * shape[1], factor * shape[2])
        first = PER_WIDTH * number
        channels[first : first + PER_WIDTH] = _smoothed_invariants(
            band(waves, values.shape, fine),
            fine,
            lattice,
            width,
            factor,
            part_of(progress, ends[number], ends[number + 1]),
        )
    return channels


def _oversampling(lattice: NDArray[np.float64], shape: tuple[int, ...], width: float) -> int:
    """How many times finer than `shape` a density smoothed by `width` must be differentiated."""
    spacing = (np.linalg.norm(lattice, axis=1)[::-1] / shape).max()
    return max(1, int(np.ceil(spacing / width - 1e-9)))


def _smoothed_invariants(
    waves: NDArray[np.complex128],
    shape: tuple[int, int, int],
    lattice: NDArray[np.float64],
    width: float,
    stride: int,
    report: Progress,
) -> NDArray[np.float64]:
    """The six channels of one width on every `stride`-th point of grid `shape`."""
    c, b, a = half_frequencies(shape)
    vectors = [
        c[:, None, None] * along_c + b[:, None] * along_b + a * along_a
        for along_a, along_b, along_c in 2 * np.pi * np.linalg.inv(lattice)
    ]
    waves = waves * np.exp(-0.5 * width**2 * sum(k**2 for k in vectors)) * np.prod(shape)

    transforms = count()

    def on_grid(coefficients: NDArray[np.complex128]) -> NDArray[np.float64]:
        report(next(transforms), _TRANSFORMS)
        full = from_waves(coefficients, shape)
        return full[::stride, ::stride, ::stride]

    density = np.maximum(on_grid(waves), _VACUUM)
    gradient = [on_grid(1j * k * waves) for k in vectors]
    hessian = {
        (i, j): on_grid(-vectors[i] * vectors[j] * waves) for i in range(3) for j in range(i + 1)
    }
    square = sum(g**2 for g in gradient)
    laplacian = sum(hessian[i, i] for i in range(3))
    norm = np.sqrt(sum((1 + (i != j)) * h**2 for (i, j), h in hessian.items()))
    along = sum((1 + (i != j)) * gradient[i] * h * gradient[j] for (i, j), h in hessian.items())
    along = along / np.maximum(square, 1e-12)
    homogeneous = homogeneous_kinetic_energy(density)
    excess = homogeneous - square / (9 * density) + laplacian / 6
    return np.stack(
        [
            np.log(density),
            np.arcsinh(np.sqrt(square) / density),
            np.arcsinh(laplacian / density),
            np.arcsinh(norm / density),
            np.arcsinh(along / density),
            np.arcsinh(excess / homogeneous),
        ]
    )
