"""The structure that begins every VASP file: POSCAR, CONTCAR and the head of each volume."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from napari_vox3d.errors import FormatError

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray


class Lines:
    """Lines of a text file, read one by one, and the place reached.

    Parameters
    ----------
    path
        The file's name, for errors.
    file
        Binary file at its beginning.
    """

    def __init__(self, path: str | Path, file: IO[bytes]) -> None:
        self.path, self._file, self.number = path, file, 0

    def next(self, what: str) -> str:
        """Return the next line without its end; `FormatError` naming `what` if there is none."""
        line = self._file.readline(4096)
        if not line:
            raise FormatError(self.path, f"ends before {what}", where=f"line {self.number}")
        self.number += 1
        return line.decode("utf-8", "replace").rstrip()

    def error(self, reason: str) -> FormatError:
        """Make the error for something wrong in the line just read."""
        return FormatError(self.path, reason, where=f"line {self.number}")

    def floats(self, what: str, count: int) -> NDArray[np.float64]:
        """Read the first `count` numbers of the next line."""
        line = self.next(what)
        try:
            values = np.array(line.split()[:count], float)
        except ValueError:
            values = np.empty(0)
        if len(values) < count or not np.isfinite(values).all():
            raise self.error(f"expected {what} ({count} numbers), found {line[:60]!r}")
        return values


def parse_poscar(lines: Lines) -> Atoms:
    """Read the structure block of a VASP file; `lines` stands behind it afterwards.

    VASP 4 (no line of elements), 5 and 6 (``Mg_pv/f474ac0d``); one scale factor, a negative one
    that is the volume of the cell, or three for x, y and z; counts over several lines; selective
    dynamics; direct or Cartesian positions (VASP wiki, POSCAR). Elements that cannot be told are
    ``X``.

    Returns
    -------
    ase.Atoms
        Periodic, in the order of the file; ``info["comment"]`` is its first line.

    Raises
    ------
    FormatError
        With the line that is not what the format asks for.
    """
    from ase import Atoms

    comment = lines.next("the comment")
    scale = _scale(lines)
    lattice = np.array([lines.floats("a lattice vector", 3) for _ in range(3)])
    if len(scale) == 1 and scale[0] < 0:
        determinant = abs(np.linalg.det(lattice))
        scale = (-scale / determinant) ** (1 / 3) if determinant else scale
    lattice = lattice * scale
    if abs(np.linalg.det(lattice)) < 1e-9:
        raise lines.error("the lattice vectors span no volume")
    species, counts = _species(lines, comment)
    mode = lines.next("Direct or Cartesian")
    if mode.lstrip()[:1].upper() == "S":
        mode = lines.next("Direct or Cartesian")
    total = sum(counts)
    positions = np.array([lines.floats("a position", 3) for _ in range(total)]).reshape(-1, 3)
    if mode.lstrip()[:1].upper() in ("C", "K"):
        positions = positions * scale
    else:
        positions = positions @ lattice
    symbols = np.repeat(species, counts).tolist()
    return Atoms(symbols, positions=positions, cell=lattice, pbc=True, info={"comment": comment})


def is_count(token: str) -> bool:
    """True if a word of a file is a whole number as atoms and points are counted."""
    return token.isascii() and token.isdigit() and len(token) < 16


def _scale(lines: Lines) -> NDArray[np.float64]:
    line = lines.next("the scale factor")
    values = []
    for token in line.split()[:3]:
        try:
            values.append(float(token))
        except ValueError:
            break
    scale = np.array(values if len(values) == 3 else values[:1])
    if not len(scale) or not np.isfinite(scale).all() or not scale.all():
        raise lines.error(f"expected a scale factor, found {line[:60]!r}")
    if len(scale) == 3 and (scale < 0).any():
        raise lines.error("three scale factors must be positive")
    return scale


def _species(lines: Lines, comment: str) -> tuple[list[str], list[int]]:
    """Elements and how many atoms of each; either may run over several lines."""
    names: list[str] = []
    tokens = lines.next("the elements").split()
    while tokens and not all(map(is_count, tokens)):
        if not all(token[0].isalpha() for token in tokens):
            raise lines.error(f"expected elements or their counts, found {' '.join(tokens)[:60]!r}")
        names += tokens
        tokens = lines.next("the number of atoms").split()
    counts = [int(token) for token in tokens]
    while len(counts) < len(names):
        tokens = lines.next("the number of atoms").split()
        if not tokens or not all(map(is_count, tokens)):
            raise lines.error(f"{len(names)} elements but {len(counts)} counts")
        counts += [int(token) for token in tokens]
    if not sum(counts) or (names and len(counts) != len(names)):
        raise lines.error(f"{len(names)} elements but counts {counts[:9]}")
    if not names:  # VASP 4: often the comment tells
        named = [element_symbol(token) for token in comment.split()]
        known = len(named) == len(counts) and "X" not in named
        return (named if known else ["X"] * len(counts)), counts
    return [element_symbol(name) for name in names], counts


def element_symbol(name: str) -> str:
    """Element of ``Fe``, ``Fe/``, ``Mg_pv/f474ac0d`` or ``H.75``; X if there is none."""
    from ase.data import atomic_numbers

    letters = re.match(r"[A-Za-z]*", name)
    symbol = letters[0].capitalize() if letters else ""
    return symbol if symbol in atomic_numbers else "X"


def format_poscar(
    atoms: Atoms, lattice: NDArray[np.float64], comment: str = "", about: str = ""
) -> str:
    """Write a structure block: scale 1, direct positions, all digits of a double.

    Parameters
    ----------
    atoms
        Atoms in the frame of `lattice`; runs of one element become one column.
    lattice
        (3, 3) Å: rows a, b, c in Cartesian x, y, z.
    comment
        First line, of which 40 characters are kept; the formula if empty.
    about
        More to say in the first line, kept whole.
    """
    runs: list[tuple[str, int]] = []
    for symbol in atoms.get_chemical_symbols():
        if runs and runs[-1][0] == symbol:
            runs[-1] = (symbol, runs[-1][1] + 1)
        else:
            runs.append((symbol, 1))
    direct = atoms.get_positions() @ np.linalg.inv(lattice)
    rows = [
        f"{(comment or atoms.get_chemical_formula())[:40]} {about}".replace("\n", " ").rstrip(),
        "   1.00000000000000",
        *("".join(f"{x:22.16f}" for x in row) for row in lattice),
        "".join(f" {symbol:>5}" for symbol, _ in runs),
        "".join(f" {count:5d}" for _, count in runs),
        "Direct",
        *("".join(f"{x:20.16f}" for x in row) for row in direct),
    ]
    return "\n".join(rows) + "\n"
