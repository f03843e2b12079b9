"""Periodic grids: their points, their waves, and values moved from one to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def grid_shape(lattice: ArrayLike, spacing: float) -> tuple[int, int, int]:
    """Even FFT-friendly number of points along c, b, a that is at least as fine as `spacing`.

    Parameters
    ----------
    lattice
        (3, 3) Å: rows a, b, c.
    spacing
        Å: largest distance of neighbouring points along each edge.

    Returns
    -------
    tuple
        Points along (c, b, a), each 2 times a product of 2, 3 and 5.
    """
    lengths = np.linalg.norm(np.asarray(lattice, float), axis=1)[::-1]
    c, b, a = (smooth_even(length / spacing) for length in lengths)
    return c, b, a


def smooth_even(least: float) -> int:
    """Smallest even product of 2, 3 and 5 that is not below `least` (to 1e-6 of a point)."""
    n = max(1, int(np.ceil(least / 2 - 1e-6)))
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return 2 * n
        n += 1


def nearest_shape(lattice: ArrayLike, spacing: float) -> tuple[int, int, int]:
    """Number of points along c, b, a whose distance comes nearest to `spacing` (Å)."""
    lengths = np.linalg.norm(np.asarray(lattice, float), axis=1)[::-1]
    c, b, a = (max(1, round(length / spacing)) for length in lengths)
    return c, b, a


def half_frequencies(shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Integer frequencies along c, b and the half axis a, ordered as in `numpy.fft.rfftn`."""
    c, b, a = shape
    return np.fft.fftfreq(c, 1 / c), np.fft.fftfreq(b, 1 / b), np.fft.rfftfreq(a, 1 / a)


def to_waves(values: NDArray[np.floating]) -> NDArray[np.complex128]:
    """Half-grid coefficients of (c, b, a) values; SciPy's take a third of NumPy's time."""
    from scipy.fft import rfftn

    return rfftn(values)


def from_waves(waves: NDArray[np.complex128], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Values on grid `shape` of half-grid coefficients."""
    from scipy.fft import irfftn

    return irfftn(waves, shape)


def band(
    waves: NDArray[np.complex128], old: tuple[int, ...], new: tuple[int, ...]
) -> NDArray[np.complex128]:
    """Half-grid coefficients of grid `old` on grid `new`, cut or padded, without Nyquist waves."""
    reach = [(min(m, n) - 1) // 2 for m, n in zip(old, new, strict=True)]
    common = np.ix_(
        np.arange(-reach[0], reach[0] + 1),
        np.arange(-reach[1], reach[1] + 1),
        np.arange(reach[2] + 1),
    )
    result = np.zeros((*new[:2], new[2] // 2 + 1), complex)
    result[common] = waves[common]
    return result


def resample_waves(
    values: NDArray[np.floating], shape: tuple[int, int, int]
) -> NDArray[np.float64]:
    """Bring periodic (c, b, a) values to another grid by their waves; the mean is kept exactly."""
    waves = to_waves(np.asarray(values, np.float64)) / values.size
    return from_waves(band(waves, values.shape, shape), shape) * np.prod(shape)


def interpolate(values: NDArray[np.floating], shape: tuple[int, int, int]) -> NDArray[np.floating]:
    """Bring periodic (c, b, a) values to another grid by cubic splines.

    Every point of the new grid that is a point of the old one keeps its value. Unlike waves,
    splines do not ring at the sharp edges of an ELF.
    """
    from scipy.ndimage import map_coordinates

    if all(old % new == 0 for old, new in zip(values.shape, shape, strict=True)):
        c, b, a = (old // new for old, new in zip(values.shape, shape, strict=True))
        return values[::c, ::b, ::a]
    axes = [np.arange(new) * (old / new) for old, new in zip(values.shape, shape, strict=True)]
    points = np.meshgrid(*axes, indexing="ij")
    return map_coordinates(values, points, order=3, mode="grid-wrap")
