"""Write the table of free atoms that ELF networks are told about.

Usage: ``python recipes/elf/make_elements.py [-o FILE.csv]``

Electronegativity (Pauling's, as pymatgen has it; Allen's, J. Am. Chem. Soc. 111, 9003 (1989), for
noble gases, which have none), first ionization energy and electron affinity in eV (NIST's, as
pymatgen has them), covalent radius in Å (Cordero et al. 2008, as ASE has it), row of the periodic
table, and electrons in the outer s and p shells and in an open d shell.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from ase.data import covalent_radii
from pymatgen.core import Element

from napari_vox3d.density import supported_elements

ALLEN = {"He": 4.16, "Ne": 4.79, "Ar": 3.24, "Kr": 2.97, "Xe": 2.58}
COLUMNS = (
    "element", "electronegativity", "ionization_energy", "electron_affinity", "covalent_radius",
    "row", "s", "p", "d",
)  # fmt: skip


def describe(symbol: str) -> list[str | float]:
    """One row of the table."""
    element = Element(symbol)
    shells = {(n, momentum): count for n, momentum, count in element.full_electronic_structure}
    outer = element.row  # palladium has no electron there
    s, p = shells.get((outer, "s"), 0), shells.get((outer, "p"), 0)
    d = shells.get((outer - 1, "d"), 0)
    if p and d == 10:  # closed below a p shell that is being filled
        d = 0
    return [
        symbol,
        ALLEN[symbol] if symbol in ALLEN else float(element.X),
        round(float(element.ionization_energies[0]), 3),
        round(float(element.electron_affinity or 0), 3),
        float(covalent_radii[element.Z]),
        element.row,
        s,
        p,
        d,
    ]


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("elements.csv"))
    output = parser.parse_args().output
    with output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(describe(symbol) for symbol in supported_elements())


if __name__ == "__main__":
    main()
