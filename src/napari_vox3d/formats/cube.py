"""Gaussian cube files (https://h5cube-spec.readthedocs.io/en/latest/cubeformat.html).

They are written by `ase.io.cube`. Its reader is slow, and does not know several orbitals as ORCA
writes them, nor numbers without a blank between them.
"""

from __future__ import annotations

import io
import math
import re
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import write_aside
from napari_vox3d.formats.compression import (
    COMPRESSED_SUFFIXES,
    create_bytes,
    open_bytes,
    plain_name,
    read_whole,
)
from napari_vox3d.formats.vasp_numbers import BadNumberError, read_numbers
from napari_vox3d.provenance import as_text, split_text
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

PATTERNS = [
    f"*.{cube}{packed}" for cube in ("cube", "cub") for packed in ("", *COMPRESSED_SUFFIXES)
]

_DENSITIES = ("superposed atomic density", "spin density", "electron density")
_NOT_PERIODIC = "not periodic"
_LONGEST_LINE = 1 << 20  # bytes
_LINE = 480  # characters of a comment that other programs have room for
_OTHER_DENSITIES = re.compile(r"energy|kinetic|current|gradient|laplacian|states|matrix")


def read(path: str | Path) -> list[Volume]:
    """Read every data set of a cube file.

    A cube file says neither what its values are nor whether they repeat. The rule here: where the
    two comment lines speak of a density (and not of an energy or current density or the like)
    the values are an electron density, or a spin density if they say so, in e/bohr³, and become
    e/Å³; where they name the electron localization function the values are the ELF, and where
    they name a potential in eV a potential; otherwise the quantity is ``"density"`` and the
    values stay as they are. The grid is taken as one period of a crystal unless the comment says
    "not periodic", as `write` does.

    Parameters
    ----------
    path
        The file, plain or compressed.

    Returns
    -------
    list of Volume
        (c, b, a) float64 with atoms and origin in Å; one per value at each point.

    Raises
    ------
    FormatError
        If the file is not a complete cube file.
    """
    from ase.units import Bohr

    path = Path(path)
    with open_bytes(path) as file:
        text = read_whole(path, file)
    lines = io.BytesIO(text)
    comment, run = split_text(" ".join(_line(lines).strip() for _ in range(2)))
    try:
        head = _read_head(lines, castep="castep2cube" in comment)
        total = math.prod(head.shape) * head.values_per_point
        if total > len(text):
            raise ValueError(f"the file ends before its {total} values")
        numbers, end = read_numbers(text, lines.tell(), total)
        if text[end:].strip():
            raise ValueError(f"more than the {total} values that the grid holds")
    except (ValueError, IndexError, KeyError, BadNumberError) as error:
        raise FormatError(path, f"is not a complete cube file ({error})") from error
    if not np.isfinite(numbers).all():
        raise FormatError(path, "holds values that are no numbers (asterisks, NaN or infinite)")
    quantity = _quantity(comment)
    density = quantity in _DENSITIES
    periodic = _NOT_PERIODIC not in comment
    head.atoms.pbc = periodic
    formula = head.atoms.get_chemical_formula()
    labels = [""] if head.values_per_point == 1 else range(1, head.values_per_point + 1)
    if len(head.labels) == head.values_per_point:
        labels = head.labels
    volumes = []
    for number, label in enumerate(labels):
        values = numbers[number :: head.values_per_point].reshape(head.shape)
        values = np.ascontiguousarray(values[head.repeated].T)
        if density:
            values /= Bohr**3
        volumes.append(
            Volume(
                values,
                head.steps[::-1, ::-1],
                head.origin[::-1],
                quantity=quantity,
                unit="e/Å³" if density else "eV" if quantity == "potential" else "",
                periodic=periodic,
                atoms=head.atoms.copy(),
                name=" ".join(filter(None, (formula, plain_name(path), str(label)))),
                source=str(path),
                metadata={"cube": {"comment": comment}, **run},
            )
        )
    return volumes


def read_structure(path: str | Path) -> Atoms:
    """Read the atoms of a cube file, in the cell that its grid spans; values are passed over.

    Raises
    ------
    FormatError
        If the file does not begin as a cube file does.
    """
    path = Path(path)
    with open_bytes(path) as lines:
        comment = _line(lines) + _line(lines)
        try:
            return _read_head(lines, castep="castep2cube" in comment).atoms
        except (ValueError, IndexError, KeyError) as error:
            raise FormatError(path, f"is not a complete cube file ({error})") from error


class _Head(NamedTuple):
    """What stands before the values."""

    atoms: Atoms
    origin: NDArray[np.float64]  # (3,) Å x, y, z
    steps: NDArray[np.float64]  # (3, 3) Å along a, b, c; x, y, z
    shape: tuple[int, int, int]  # a, b, c
    values_per_point: int
    labels: list[str]
    repeated: tuple[slice, ...]  # the part of the grid that does not repeat its beginning


def _read_head(lines: IO[bytes], castep: bool) -> _Head:
    """Read up to the values, in bohr, or in Å where the number of points is negative."""
    from ase import Atoms
    from ase.data import chemical_symbols
    from ase.units import Bohr

    count, *origin = _line(lines).split()
    rows = [_line(lines).split() for _ in range(3)]
    counts = [int(row[0]) for row in rows]
    if not all(counts):
        raise ValueError("a grid without points")
    unit = 1.0 if counts[0] < 0 else Bohr
    a, b, c = map(abs, counts)
    steps = np.array([row[1:4] for row in rows], float) * unit
    # castep2cube repeats the first plane of each direction at its end.
    repeated = (slice(0, -1 if castep else None),) * 3
    atoms: list[list[str]] = []
    while len(atoms) < abs(int(count)):
        if not (line := _line(lines)):
            raise ValueError(f"the file ends before its {abs(int(count))} atoms")
        atoms.append(line.split())
    numbers = [int(atom[0]) for atom in atoms]
    if any(not 0 <= number < len(chemical_symbols) for number in numbers):
        raise ValueError("an element that there is not")
    labels = _read_labels(lines, expected=int(count) < 0)
    return _Head(
        Atoms(
            numbers,
            np.array([atom[2:5] for atom in atoms], float).reshape(-1, 3) * unit,
            cell=steps * (np.array([[a], [b], [c]]) - castep),
        ),
        np.array(origin[:3], float) * unit,
        steps,
        (a, b, c),
        int(origin[3]) if len(origin) > 3 else max(1, len(labels)),
        labels,
        repeated,
    )


def _read_labels(lines: IO[bytes], expected: bool) -> list[str]:
    """Numbers of the orbitals, after their count; a negative count of atoms announces them.

    Molden writes them unannounced. Then they are known by being whole numbers before others.
    """
    start = lines.tell()
    words = _line(lines).split()
    counted = words[:1] == [str(len(words) - 1)] and all(word.isdigit() for word in words)
    after = lines.tell()
    if not expected and not (counted and "." in _line(lines)):
        lines.seek(start)
        return []
    lines.seek(after)
    while len(words) <= int(words[0]):
        more = _line(lines).split()
        if not more:
            raise ValueError("the file ends within the numbers of its orbitals")
        words += more
    return words[1:]


def _line(lines: IO[bytes]) -> str:
    return lines.readline(_LONGEST_LINE).decode("utf-8", "replace")


def _quantity(comment: str) -> str:
    comment = comment.lower()
    for quantity in _DENSITIES[:2]:
        if quantity in comment:
            return quantity
    if "potential in ev" in comment:
        return "potential"
    if comment.strip().startswith("uncertainty"):
        return "uncertainty"
    if "electron localization function" in comment or re.search(r"\belf\b", comment):
        return "elf"
    if "density" in comment and not _OTHER_DENSITIES.search(comment):
        return "spin density" if "spin" in comment else "electron density"
    return "density"


def write(path: str | Path, volume: Volume) -> None:
    """Write a volume as a cube file; the values have seven digits.

    Densities in e/Å³ are written in e/bohr³; everything else as it is. The comment names the
    quantity, so that `read` knows it again, and the run that made the values.

    Raises
    ------
    FormatError
        If the values are complex or no finite numbers, or the file cannot be written.
    """
    from ase import Atoms
    from ase.io.cube import write_cube
    from ase.units import Bohr

    path = Path(path)
    if np.iscomplexobj(volume.values):
        raise FormatError(path, "a cube file holds real values, and these are complex")
    atoms: Atoms = Atoms() if volume.atoms is None else volume.atoms.copy()
    atoms.set_cell(volume.lattice)
    values = np.asarray(volume.values, np.float64).T
    if not np.isfinite(values).all():
        raise FormatError(path, "a cube file holds numbers, and some of these are NaN or infinite")
    comment = "electron localization function" if volume.quantity == "elf" else volume.quantity
    if volume.quantity in _DENSITIES:
        values = values * Bohr**3
        comment += " in e/bohr^3"
    elif volume.quantity == "density":
        comment = "values of a volume"
    elif volume.unit:
        comment += f" in {volume.unit}"
    if not volume.periodic:
        comment += f", {_NOT_PERIODIC}"
    comment = f"{comment} {as_text(volume.metadata, most=_LINE)}"
    # ASE writes the numbers with numpy.tofile, which wants a real, uncompressed file.
    with write_aside(path) as aside, tempfile.TemporaryFile("w+", encoding="utf-8") as plain:
        write_cube(plain, atoms, values, volume.origin[::-1], comment)
        plain.seek(0)
        with create_bytes(aside, path.name) as file:
            for block in iter(lambda: plain.read(1 << 20), ""):
                file.write(block.encode())
            file.write(b"\n")
