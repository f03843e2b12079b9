"""Electron localization function of a density alone, after Tsirelson and Stash."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.density.grids import from_waves, half_frequencies, to_waves
from napari_vox3d.density.splines import periodic_numbers, title
from napari_vox3d.errors import Vox3dError
from napari_vox3d.progress import Progress, part_of
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TRANSFORMS = 5  # forth, three components of the gradient, the Laplacian
_VACUUM = 1e-5  # e/Å³: below it, ringing of the density is as large as the density
_IMPOSSIBLE = 1e12  # e/Å³: more than at any nucleus


def tsirelson_stash_elf(volume: Volume, progress: Progress | None = None) -> Volume:
    """Approximate the electron localization function from the density and its derivatives.

    The kinetic energy density of the ELF is replaced by its gradient expansion (Kirzhnits),

        t(r) = 3/10 (3π²)^⅔ ρ^(5/3) + |∇ρ|²/(72 ρ) + ∇²ρ/6,

    so that no orbitals are needed: V. G. Tsirelson and A. Stash, Chem. Phys. Lett. 351 (2002)
    142. Derivatives are taken in reciprocal space in the true cell. Where the density is below
    1e-5 e/Å³ (vacuum) the result is 0.

    Parameters
    ----------
    volume
        Periodic valence density in e/Å³, (c, b, a).
    progress
        Called as ``progress(done, total)``; what it raises ends the calculation.

    Returns
    -------
    Volume
        Quantity ``"elf"``, values in [0, 1], float64, on the same grid with the same atoms.

    Raises
    ------
    Vox3dError
        If the volume is not periodic or not an electron density in e/Å³, or holds values that are
        no numbers.
    """
    if not volume.periodic:
        raise Vox3dError("The Tsirelson–Stash ELF needs a periodic density.")
    if volume.unit != "e/Å³":
        raise Vox3dError(
            f"The Tsirelson–Stash ELF needs a density in e/Å³, not {volume.quantity} in "
            f"{volume.unit or 'no unit'}."
        )
    density = periodic_numbers(volume)
    if np.abs(density).max() > _IMPOSSIBLE:
        raise Vox3dError(f"{title(volume)} holds values that no electron density has.")
    gradient_squared, laplacian = _derivatives(density, volume.lattice, part_of(progress, 0, 1))
    floored = np.maximum(density, _VACUUM)
    homogeneous = homogeneous_kinetic_energy(floored)
    # kinetic energy density less the bosonic part |∇ρ|²/8ρ
    excess = homogeneous - gradient_squared / (9 * floored) + laplacian / 6
    elf = 1 / (1 + (excess / homogeneous) ** 2)
    elf[density < _VACUUM] = 0
    formula = volume.atoms.get_chemical_formula() if volume.atoms is not None else volume.name
    return volume.with_values(
        elf,
        quantity="elf",
        unit="",
        name=f"{formula} ELF".strip(),
        metadata={"provenance": {"method": "Tsirelson–Stash ELF", "input": volume.quantity}},
    )


def homogeneous_kinetic_energy(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thomas–Fermi kinetic energy density of `density` (in ħ²/m, any unit of length)."""
    return 0.3 * (3 * np.pi**2) ** (2 / 3) * density ** (5 / 3)


def _derivatives(
    values: NDArray[np.float64], lattice: NDArray[np.float64], report: Progress
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """|∇ρ|² and ∇²ρ of periodic (c, b, a) `values`; rows of `lattice` are a, b, c."""
    coefficients = to_waves(values)
    axes = [
        np.where(np.abs(k) * 2 == n, 0, k)  # the Nyquist wave has no derivative of its own
        for k, n in zip(half_frequencies(values.shape), values.shape, strict=True)
    ]
    c, b, a = axes[0][:, None, None], axes[1][:, None], axes[2]
    gradient_squared = np.zeros(values.shape)
    square = np.zeros(coefficients.shape)
    for n, (along_a, along_b, along_c) in enumerate(2 * np.pi * np.linalg.inv(lattice), start=1):
        report(n, _TRANSFORMS)
        wave = c * along_c + b * along_b + a * along_a
        gradient_squared += from_waves(1j * wave * coefficients, values.shape) ** 2
        square += wave**2
    report(4, _TRANSFORMS)
    laplacian = from_waves(-square * coefficients, values.shape)
    return gradient_squared, laplacian
