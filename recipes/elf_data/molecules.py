"""Molecular crystals: small molecules, turned at random and packed until they touch."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.neighborlist import neighbor_list
from recipes.elf_data.elements import contact, van_der_waals_contact
from scipy.spatial.transform import Rotation

# From ASE's G2 set, with equilibrium geometries.
SMALL_MOLECULES = tuple(
    """
    H2 N2 O2 F2 Cl2 P2 S2 Na2 Li2 HF HCl LiH LiF NaCl CO NO CS SiO SO ClO ClF CO2 N2O SO2 O3 OCS
    CS2 H2O SH2 NH3 PH3 CH4 SiH4 HCN HCO HOCl H2CO N2H4 H2O2 C2H2 C2H4 C2H6 CH3OH CH3Cl CH3SH
    BF3 BCl3 AlF3 AlCl3 CF4 CCl4 SiF4 SiCl4 PF3 NF3 ClF3 CH3CN HCOOH SiH3 Si2H6 CH3SiH3 C3H4_C3v
    C3H4_D2d SiH2_s1A1d C2F4
    """.split()  # noqa: SIM905 - a table reads better in rows
)

_TETRAHEDRON = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
_OCTAHEDRON = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
_SHAPES = {
    "pair": ((1, 0, 0),),
    "bent": ((1, 0.8, 0), (-1, 0.8, 0)),
    "line": ((1, 0, 0), (-1, 0, 0)),
    "pyramid": ((1, 0, 0.4), (-0.5, 0.866, 0.4), (-0.5, -0.866, 0.4)),
    "tetrahedron": _TETRAHEDRON,
    "octahedron": _OCTAHEDRON,
}
# Shape, central atom, ligand; bonds are sums of covalent radii.
SIMPLE_MOLECULES = tuple(
    (shape, *bond.split("-"))
    for shape, bonds in {
        "pair": "H-Br H-I Br-Br I-I I-Br K-Cl Cs-F Ga-Cl In-Br Tl-F",
        "bent": "Se-H Te-H S-Cl O-F Sn-Cl Pb-I Ge-F",
        "line": "Xe-F Hg-Cl Hg-I Zn-Br Cd-I Be-Cl Be-H Kr-F",
        "pyramid": "As-H Sb-H P-Cl As-F Sb-Cl Bi-Br P-I N-Cl",
        "tetrahedron": "Ge-H Sn-H Ge-Cl Sn-Cl Ti-Cl Sn-I Zr-Cl Os-O Ru-O Pb-H V-Cl Ge-I C-Br",
        "octahedron": "S-F Se-F Te-F W-F Mo-F W-Cl Re-F Xe-F Pt-F",
    }.items()
    for bond in bonds.split()
)
_LATTICES = {
    "cubic": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "fcc": ((0, 1, 1), (1, 0, 1), (1, 1, 0)),
    "bcc": ((-1, 1, 1), (1, -1, 1), (1, 1, -1)),
    "hexagonal": ((1, 0, 0), (-0.5, 0.866025, 0), (0, 0, 1.2)),
}


def simple_molecule(shape: str, centre: str, ligand: str) -> Atoms:
    """One atom with equal ligands around it."""
    directions = np.array(_SHAPES[shape], float)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    positions = np.vstack([np.zeros((1, 3)), directions * contact(centre, ligand)])
    return Atoms([centre] + [ligand] * len(directions), positions)


def random_molecule(rng: np.random.Generator) -> Atoms:
    """One of the molecules of this module."""
    number = rng.integers(len(SMALL_MOLECULES) + len(SIMPLE_MOLECULES))
    if number < len(SMALL_MOLECULES):
        return molecule(SMALL_MOLECULES[number])
    return simple_molecule(*SIMPLE_MOLECULES[number - len(SMALL_MOLECULES)])


def pack(unit: Atoms, rng: np.random.Generator, closeness: float) -> Atoms:
    """A crystal of one molecule per cell, at random orientation on a random simple lattice.

    Parameters
    ----------
    unit
        The molecule.
    rng
        What chooses lattice and orientation.
    closeness
        Smallest distance between molecules over the sum of van der Waals radii.
    """
    lattice = np.array(_LATTICES[rng.choice(sorted(_LATTICES))])
    turn = Rotation.random(rng=rng).as_matrix()
    positions = (unit.positions - unit.positions.mean(axis=0)) @ turn.T

    def crystal(size: float) -> Atoms:
        return Atoms(unit.numbers, positions, cell=lattice * size, pbc=True)

    low, high = 2.0, 14.0
    while high - low > 0.02:
        size = (low + high) / 2
        low, high = (low, size) if _looseness(crystal(size)) > closeness else (size, high)
    return crystal(high)


def _looseness(atoms: Atoms) -> float:
    """Smallest distance between atoms of different molecules over their van der Waals contact."""
    symbols = atoms.get_chemical_symbols()
    i, j, distance, image = neighbor_list("ijdS", atoms, 4.5)
    other = image.any(axis=1)
    usual = np.array([[van_der_waals_contact(a, b) for b in symbols] for a in symbols])
    return float(min(distance[other] / usual[i, j][other], default=np.inf))
