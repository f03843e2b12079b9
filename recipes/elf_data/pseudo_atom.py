"""The spherical pseudo-atom: PBE, Gaussian basis, shells filled evenly. Hartree atomic units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from recipes.elf_data.gth import Pseudopotential
from scipy.linalg import eigh
from scipy.special import gamma

Array = NDArray[np.float64]
EXPONENTS = 0.009 * 1.75 ** np.arange(17)
RADII = np.geomspace(1e-4, 45, 1600)
WEIGHTS = np.gradient(np.log(RADII)) * RADII  # ∫ f dr = Σ WEIGHTS f
SHELL = RADII**2 * WEIGHTS


@dataclass(frozen=True)
class Orbital:
    """A radial function on `RADII` (∫ u² r² dr = 1), and how many electrons are in it."""

    angular_momentum: int
    order: int
    electrons: int
    values: Array


@dataclass(frozen=True)
class PseudoAtom:
    """Valence density (e/bohr³) on `RADII`, and the orbitals it is made of."""

    density: Array
    orbitals: tuple[Orbital, ...]


class _Basis:
    """Gaussians r^l exp(-a r²) with their derivatives, overlaps and bare Hamiltonian."""

    def __init__(self, potential: Pseudopotential, momentum: int) -> None:
        a, r = EXPONENTS[:, None], RADII
        norm = np.sqrt(2 * (2 * a) ** (momentum + 1.5) / gamma(momentum + 1.5))
        envelope = norm * np.exp(-a * r**2)
        self.momentum = momentum
        self.functions = envelope * r**momentum
        rise = momentum * r ** (momentum - 1) if momentum else 0.0
        self.derivatives = envelope * (rise - 2 * a * r ** (momentum + 1))
        self.overlap = (self.functions * SHELL) @ self.functions.T
        kinetic = (self.derivatives * SHELL) @ self.derivatives.T
        kinetic += momentum * (momentum + 1) * (self.functions * WEIGHTS) @ self.functions.T
        self.hamiltonian = kinetic / 2 + self.matrix(potential.local(r))
        if momentum < len(potential.channels):
            coupled = (self.functions * SHELL) @ potential.projectors(momentum, r).T
            self.hamiltonian += coupled @ potential.channels[momentum].couplings @ coupled.T

    def matrix(self, potential: Array) -> Array:
        """Matrix of a local potential."""
        return (self.functions * SHELL * potential) @ self.functions.T

    def gradient_matrix(self, potential: Array) -> Array:
        """Matrix of a potential that acts on the gradient of the density."""
        half = (self.functions * SHELL * potential) @ self.derivatives.T
        return half + half.T

    def fill(self, effective: Array, electrons: int) -> list[tuple[Orbital, Array]]:
        """Lowest orbitals with `electrons` in them, and their derivatives."""
        _, vectors = eigh(self.hamiltonian + effective, self.overlap)
        filled = []
        capacity = 4 * self.momentum + 2
        for order in range(-(-electrons // capacity)):
            inside = min(capacity, electrons - order * capacity)
            vector = vectors[:, order]
            orbital = Orbital(self.momentum, order, inside, vector @ self.functions)
            filled.append((orbital, vector @ self.derivatives))
        return filled


def solve_atom(potential: Pseudopotential) -> PseudoAtom:
    """Solve the neutral spherical atom self-consistently.

    Raises
    ------
    RuntimeError
        If the density still moves after 200 steps.
    """
    occupied = [(momentum, n) for momentum, n in enumerate(potential.occupations) if n]
    bases = [_Basis(potential, momentum) for momentum, _ in occupied]
    effective = [np.zeros_like(basis.overlap) for basis in bases]
    density = slope = np.zeros(len(RADII))
    for step in range(200):
        orbitals = [
            pair
            for basis, matrix, (_, n) in zip(bases, effective, occupied, strict=True)
            for pair in basis.fill(matrix, n)
        ]
        new = sum(o.electrons * o.values**2 for o, _ in orbitals) / (4 * np.pi)
        new_slope = sum(o.electrons * 2 * o.values * d for o, d in orbitals) / (4 * np.pi)
        if step and 4 * np.pi * np.abs(new - density) @ SHELL < 1e-6:
            return PseudoAtom(density, tuple(orbital for orbital, _ in orbitals))
        mixing = 0.35 if step else 1.0
        density = density + mixing * (new - density)
        slope = slope + mixing * (new_slope - slope)
        local, gradient = _pbe_potentials(density, slope**2)
        local = local + _hartree(density)
        effective = [
            basis.matrix(local) + basis.gradient_matrix(2 * gradient * slope) for basis in bases
        ]
    raise RuntimeError(f"the atom of {potential.element} does not converge")


def _hartree(density: Array) -> Array:
    """Electrostatic potential of a spherical density."""
    charge, shells = 4 * np.pi * density * SHELL, 4 * np.pi * density * RADII * WEIGHTS
    inside = np.cumsum(charge) - charge / 2
    outside = np.cumsum(shells[::-1])[::-1] - shells / 2
    return inside / RADII + outside


def _pbe_potentials(density: Array, squared_slope: Array) -> tuple[Array, Array]:
    """Derivatives of the PBE energy density by the density and by the squared gradient.

    They are taken by a complex step, which is exact to rounding. Where there is next to no
    density they are zero.
    """
    floor = np.maximum(density, 1e-10)
    step = floor * 1e-18
    by_density = np.imag(_pbe(floor + 1j * step, squared_slope + 0j)) / step
    by_slope = np.imag(_pbe(floor + 0j, squared_slope + 1e-25j)) / 1e-25
    there = density > 1e-9
    return np.where(there, by_density, 0), np.where(there, by_slope, 0)


def _pbe(n: NDArray[np.complex128], s: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Exchange-correlation energy per volume of density `n` with squared gradient `s`.

    Perdew, Burke and Ernzerhof, Phys. Rev. Lett. 77, 3865 (1996), without spin.
    """
    fermi = (3 * np.pi**2 * n) ** (1 / 3)
    reduced = s / (4 * fermi**2 * n**2)
    kappa, mu = 0.804, 0.2195149727645171
    exchange = -3 / (4 * np.pi) * fermi * (1 + kappa - kappa / (1 + mu * reduced / kappa))
    rs = (3 / (4 * np.pi * n)) ** (1 / 3)
    series = 7.5957 * rs**0.5 + 3.5876 * rs + 1.6382 * rs**1.5 + 0.49294 * rs**2
    local = -2 * 0.0310907 * (1 + 0.21370 * rs) * np.log(1 + 1 / (2 * 0.0310907 * series))
    g, beta = (1 - np.log(2)) / np.pi**2, 0.06672455060314922
    t = s * np.pi / (16 * fermi * n**2)
    a = beta / g / (np.exp(-local / g) - 1)
    ratio = (1 + a * t) / (1 + a * t + a**2 * t**2)
    return n * (exchange + local + g * np.log(1 + beta / g * t * ratio))
