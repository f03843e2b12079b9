"""GTH pseudopotentials: reading CP2K's files, and the potentials as functions of the radius.

Goedecker, Teter and Hutter, Phys. Rev. B 54, 1703 (1996); Hartwigsen, Goedecker and Hutter, Phys.
Rev. B 58, 3641 (1998). Hartree atomic units throughout. The files are part of CP2K (Debian:
``cp2k-data``) and are read from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, gamma

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Channel:
    """Projectors of one angular momentum: their common radius (bohr) and couplings (hartree)."""

    radius: float
    couplings: Array  # (n, n)


@dataclass(frozen=True)
class Pseudopotential:
    """One entry of a GTH file.

    `occupations` counts the valence electrons of s, p, d, ...; `channels` holds the projectors of
    s, p, d, ... in the same order.
    """

    element: str
    name: str
    occupations: tuple[int, ...]
    local_radius: float
    local_coefficients: tuple[float, ...]
    channels: tuple[Channel, ...]

    @property
    def charge(self) -> int:
        """Valence electrons."""
        return sum(self.occupations)

    def local(self, r: Array) -> Array:
        """Local potential (hartree) at radii `r` > 0 (bohr)."""
        x = r / self.local_radius
        polynomial = sum(c * x ** (2 * k) for k, c in enumerate(self.local_coefficients))
        return -self.charge / r * erf(x / np.sqrt(2)) + np.exp(-(x**2) / 2) * polynomial

    def projectors(self, angular_momentum: int, r: Array) -> Array:
        """Projectors p_i(r) of one angular momentum, (n, len(r)), ∫ p² r² dr = 1."""
        channel = self.channels[angular_momentum]
        functions = np.empty((len(channel.couplings), len(r)))
        for i in range(len(functions)):
            power = angular_momentum + 2 * i
            norm = channel.radius ** (power + 1.5) * np.sqrt(gamma(power + 1.5))
            functions[i] = np.sqrt(2) / norm * r**power * np.exp(-(r**2) / 2 / channel.radius**2)
        return functions


def read_gth(text: str, element: str, name: str) -> Pseudopotential:
    """Find one pseudopotential in the text of a CP2K potential file.

    Parameters
    ----------
    text
        A file such as ``POTENTIAL_UZH``.
    element, name
        For example ``"Si"``, ``"GTH-PBE-q4"``; any of an entry's names will do.

    Raises
    ------
    KeyError
        If there is no such entry.
    """
    lines = [line.split() for line in text.splitlines() if not line.lstrip().startswith("#")]
    heads = [number for number, line in enumerate(lines) if line[:1] == [element] and name in line]
    if not heads:
        raise KeyError(f"no {name} for {element}")
    head = heads[0]
    occupations = tuple(int(word) for word in lines[head + 1])
    words = (word for line in lines[head + 2 :] for word in line)
    radius, count = float(next(words)), int(next(words))
    coefficients = tuple(float(next(words)) for _ in range(count))
    channels = tuple(_read_channel(words) for _ in range(int(next(words))))
    return Pseudopotential(element, name, occupations, radius, coefficients, channels)


def _read_channel(words: Iterator[str]) -> Channel:
    """Radius, number of projectors, and the upper triangle of the couplings row by row."""
    radius, count = float(next(words)), int(next(words))
    couplings = np.zeros((count, count))
    for row, column in zip(*np.triu_indices(count), strict=True):
        couplings[row, column] = couplings[column, row] = float(next(words))
    return Channel(radius, couplings)
