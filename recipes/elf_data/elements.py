"""What the recipe knows of each element: valence, cut-off, radius, character."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
from ase.data import atomic_numbers, covalent_radii, reference_states
from ase.data.vdw import vdw_radii
from pymatgen.core import Element

# Valence electrons of the pseudopotentials: semicore where chemistry needs it. The form factors
# that the package superposes count the same electrons.
_VALENCE = """
H1 He2 Li3 Be2 B3 C4 N5 O6 F7 Ne8 Na1 Mg2 Al3 Si4 P5 S6 Cl7 Ar8 K9 Ca10 Sc11 Ti12 V13 Cr14 Mn15
Fe16 Co17 Ni18 Cu11 Zn12 Ga3 Ge4 As5 Se6 Br7 Kr8 Rb9 Sr10 Y11 Zr12 Nb13 Mo14 Tc15 Ru16 Rh17 Pd18
Ag11 Cd12 In3 Sn4 Sb5 Te6 I7 Xe8 Cs9 Ba10 La11 Hf12 Ta13 W14 Re15 Os16 Ir17 Pt18 Au11 Hg12 Tl3 Pb4
Bi5"""

# Ry, for an ELF within about 0.01 rather than for energies: Cu between 80 and 120 Ry still changes
# its ELF by 0.05.
_CUTOFF = """
H60 He60 Li80 Be35 B45 C55 N70 O80 F85 Ne80 Na25 Mg30 Al25 Si25 P30 S40 Cl40 Ar40 K50 Ca55 Sc80
Ti90 V100 Cr110 Mn110 Fe120 Co120 Ni120 Cu110 Zn110 Ga30 Ge30 As35 Se35 Br40 Kr40 Rb40 Sr45 Y50
Zr55 Nb60 Mo65 Tc70 Ru75 Rh75 Pd75 Ag70 Cd70 In30 Sn30 Sb30 Te30 I30 Xe30 Cs30 Ba35 La45 Hf55 Ta55
W55 Re60 Os60 Ir60 Pt60 Au60 Hg60 Tl30 Pb30 Bi30"""


def _numbers(table: str) -> dict[str, int]:
    """Read words such as ``Fe16``."""
    return {symbol: int(number) for symbol, number in re.findall(r"([A-Z][a-z]?)(\d+)", table)}


VALENCE = _numbers(_VALENCE)
CUTOFF = _numbers(_CUTOFF)

NOBLE = ("He", "Ne", "Ar", "Kr", "Xe")
TRANSITION_3D = ("Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu")
_HYDRIDIC_RADIUS = 0.5  # Å, hydrogen next to a metal


def is_metal(symbol: str) -> bool:
    """True for metals; Si, Ge, As, Sb, Te and lighter neighbours count as non-metals."""
    element = Element(symbol)
    return not (element.is_metalloid or symbol in NOBLE) and element.is_metal


def electronegativity(symbol: str) -> float:
    """Pauling's number."""
    return float(Element(symbol).X)


@lru_cache
def contact(first: str, second: str) -> float:
    """Å: usual distance of two touching atoms.

    Two metals touch as in their elements, other pairs at the sum of their covalent radii.
    """
    if is_metal(first) and is_metal(second):
        return _metallic_radius(first) + _metallic_radius(second)
    total = 0.0
    for symbol, other in ((first, second), (second, first)):
        hydridic = symbol == "H" and is_metal(other)
        total += _HYDRIDIC_RADIUS if hydridic else covalent_radii[atomic_numbers[symbol]]
    return total


def van_der_waals_contact(first: str, second: str) -> float:
    """Å: distance of two atoms of different molecules."""
    total = 0.0
    for symbol in (first, second):
        number = atomic_numbers[symbol]
        radius = vdw_radii[number]
        total += radius if np.isfinite(radius) else covalent_radii[number] + 0.8
    return total


def _metallic_radius(symbol: str) -> float:
    """Half the nearest distance in the element where it is close-packed or bcc."""
    state = reference_states[atomic_numbers[symbol]] or {}
    nearest = {"fcc": np.sqrt(1 / 2), "hcp": 1.0, "bcc": np.sqrt(3 / 4)}
    if state.get("symmetry") in nearest:
        return float(nearest[state["symmetry"]] * state["a"] / 2)
    return float(covalent_radii[atomic_numbers[symbol]]) + 0.1
