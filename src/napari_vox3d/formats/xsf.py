"""XCrySDen's XSF files (http://www.xcrysden.org/doc/XSF.html): a structure and grids of numbers.

The grids of the format are *general*: N points span the given vectors, end points included, so
that the last plane of a periodic grid repeats the first. ASE reads and writes the structure;
`vasp_numbers` the values.
"""

from __future__ import annotations

import io
import re
import warnings
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from napari_vox3d.formats.vasp_numbers import BadNumberError, format_numbers, read_numbers
from napari_vox3d.provenance import as_text, split_text
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

PATTERNS = [f"*.xsf{packed}" for packed in ("", *COMPRESSED_SUFFIXES)]

_BLOCK = re.compile(rb"BEGIN_BLOCK_DATAGRID_?3D[^\n]*\n([^\n]*)")
_GRID = re.compile(rb"DATAGRID_?3D_?(\S*)[^\n]*\n")  # with BEGIN_ before it or without
_HEAD = re.compile(rb"\s*(?:\S+\s+){14}\S+[^\S\n]*\n?")
_PERIODICITY = {"3": "CRYSTAL", "2": "SLAB", "1": "POLYMER", "0": ""}
_UNITS = {"electron density": "e/Å³", "superposed atomic density": "e/Å³", "spin density": "e/Å³",
          "elf": "", "uncertainty": "", "potential": "eV"}  # fmt: skip
_COLUMNS, _DIGITS = 5, 11
_PIECE = 1 << 16  # bytes of a line read at a time
_LINE = 480  # characters of a comment that other programs have room for


def holds_grid(path: Path) -> bool:
    """True if a three-dimensional grid follows the structure."""
    with open_bytes(path) as file:
        lines = iter(lambda: file.readline(_PIECE), b"")
        return any(b"BEGIN_BLOCK_DATAGRID" in line and b"3D" in line for line in lines)


def read(path: str | Path) -> list[Volume]:
    """Read every three-dimensional grid of an XSF file.

    The format does not say what the values are. Files of this package name quantity and unit in
    the comment of the block (``electron_density_in_e/A^3``); in any other file the quantity is
    ``"density"`` and the values stay as they are.

    Parameters
    ----------
    path
        The file, plain or compressed.

    Returns
    -------
    list of Volume
        (c, b, a) float64, with the atoms if there are any. A grid whose last planes repeat the
        first is periodic and comes without them.

    Raises
    ------
    FormatError
        If the file holds no grid, is damaged, or a grid has less than two points along an axis.

    Warns
    -----
    UserWarning
        If a grid over whole cells of a crystal does not repeat its first planes, as some programs
        write it against the format; it is then taken as one period without end points.
    """
    path = Path(path)
    with open_bytes(path) as file:
        text = read_whole(path, file)
    starts = [*(match.start() for match in _BLOCK.finditer(text)), len(text)]
    if len(starts) == 1:
        raise FormatError(path, "holds a structure without a grid of three dimensions")
    atoms = _structure(path, text[: starts[0]])
    first_line = text[: text.find(b"\n")].decode("ascii", "replace")
    _, run = split_text(first_line)
    volumes = []
    for first, last in pairwise(starts):
        comment = _BLOCK.match(text, first)[1].decode("ascii", "replace").strip()  # type: ignore[index]
        for match in _GRID.finditer(text, first, last):
            if text.endswith((b"BLOCK_", b"END_"), 0, match.start()):
                continue
            label = match[1].decode("ascii", "replace")
            volumes.append(_volume(path, text, match.end(), atoms, comment, label))
            volumes[-1].metadata.update(run)
    if not volumes:
        raise FormatError(path, "announces grids and ends before the first one")
    return volumes


def read_structure(path: str | Path) -> Atoms:
    """Read the structure that begins an XSF file; its grids are not looked at.

    Raises
    ------
    FormatError
        If there is none, or it cannot be understood.
    """
    path = Path(path)
    with open_bytes(path) as file:
        text = read_whole(path, file)
    block = _BLOCK.search(text)
    atoms = _structure(path, text[: block.start()] if block else text)
    if atoms is None:
        raise FormatError(path, "holds no atoms")
    return atoms


def write(path: str | Path, volume: Volume) -> None:
    """Write a volume as an XSF file; the values have eleven digits.

    A periodic volume becomes a crystal and its first planes are repeated at the end, as the
    format wants it. The comment of the block names quantity and unit; one in the first line the
    run that made the values.

    Parameters
    ----------
    path
        File name; .gz, .bz2 or .xz at its end compresses.
    volume
        Real values; a periodic volume needs atoms.

    Raises
    ------
    FormatError
        If the values are complex or too large, a crystal has no atoms, a grid that does not
        repeat has one point along an axis, or the file cannot be written.
    """
    path = Path(path)
    if np.iscomplexobj(volume.values):
        raise FormatError(path, "an XSF file holds real values, and these are complex")
    if volume.periodic and not volume.atoms:
        raise FormatError(
            path,
            "an XSF file of a crystal needs atoms, and this volume has none",
            hint="Write it as .cube.",
        )
    if not volume.periodic and min(volume.shape) < 2:
        size = " × ".join(map(str, volume.shape))
        raise FormatError(path, f"XSF wants two points along each axis, and this grid is {size}")
    values = np.asarray(volume.values, np.float64)
    if volume.periodic:
        values = np.pad(values, (0, 1), mode="wrap")
    span = volume.step * (np.array(values.shape) - 1.0)[:, None]
    unit = volume.unit.replace("Å³", "A^3")
    comment = f"{volume.quantity}_in_{unit}" if unit else volume.quantity
    grid = [
        "BEGIN_BLOCK_DATAGRID_3D",
        re.sub(r"\s+", "_", comment),
        "BEGIN_DATAGRID_3D_" + (re.sub(r"\W+", "_", volume.quantity)),
        " ".join(map(str, values.shape[::-1])),
        *(" ".join(f"{x:.12f}" for x in row) for row in (volume.origin[::-1], *span[::-1, ::-1])),
    ]
    about = as_text(volume.metadata, most=_LINE)
    with write_aside(path) as aside, create_bytes(aside, path.name) as file:
        if about:
            file.write(f"# {about}\n".encode())
        file.write(_format_structure(volume).encode())
        file.write(("\n".join(grid) + "\n").encode())
        try:
            file.writelines(format_numbers(values.ravel(), _COLUMNS, _DIGITS))
        except ValueError as error:
            raise FormatError(path, str(error)) from None
        file.write(b"END_DATAGRID_3D\nEND_BLOCK_DATAGRID_3D\n")


def _structure(path: Path, text: bytes) -> Atoms | None:
    from ase.io.xsf import read_xsf

    lines = [line.strip() for line in text.decode("ascii", "replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if lines and lines[0].startswith("DIM-GROUP"):  # dimensions and space group, in place of a name
        lines[:2] = [_PERIODICITY.get(" ".join(lines[1:2])[:1], "")]
    if lines and lines[0] in ("", "MOLECULE"):
        del lines[0]
    if not lines:
        return None
    try:
        atoms = read_xsf(io.StringIO("\n".join(lines) + "\n"))
    except Exception as error:  # ASE's parser raises whatever goes wrong in it
        reason = f"has a structure that cannot be read ({type(error).__name__}: {error})"
        raise FormatError(path, reason) from error
    return atoms.copy()  # without the forces


def _format_structure(volume: Volume) -> str:
    from ase.io.xsf import write_xsf

    if not volume.atoms:
        return ""
    atoms = volume.atoms.copy()
    atoms.pbc = volume.periodic
    if volume.periodic:
        atoms.set_cell(volume.lattice)
    text = io.StringIO()
    write_xsf(text, [atoms])
    return text.getvalue()


def _volume(
    path: Path, text: bytes, start: int, atoms: Atoms | None, comment: str, label: str
) -> Volume:
    """Volume of the grid whose head begins at byte `start`."""

    def wrong(reason: str, offset: int) -> FormatError:
        line = text.count(b"\n", 0, offset) + 1
        return FormatError(path, reason, where=f"line {line}")

    head = _HEAD.match(text, start)
    try:
        if head is None:
            raise ValueError
        words = head[0].decode("ascii").split()
        counts = [int(word) for word in words[:3]]
        origin, *span = np.array(words[3:], float).reshape(4, 3)
        if min(counts) < 1 or not np.isfinite([origin, *span]).all():
            raise ValueError
    except ValueError:
        reason = "a grid does not begin with three sizes, an origin and three vectors"
        raise wrong(reason, start) from None
    size = " × ".join(map(str, counts))
    if min(counts) < 2:
        raise wrong(f"a general grid has at least two points along each axis, not {size}", start)
    total = counts[0] * counts[1] * counts[2]
    end = text.find(b"END_DATAGRID", head.end())
    if end < 0 or end - head.end() < 2 * total - 1:
        raise wrong(f"is truncated: the grid of {size} values is not complete", len(text))
    try:
        values, after = read_numbers(text[:end], head.end(), total)
    except BadNumberError as error:
        reason = str(error).replace("the file ends", "the grid ends")
        raise wrong(f"{reason} ({size})", error.offset) from None
    if text[after:end].strip():
        raise wrong(f"more values than the grid of {size} holds", after)
    return _on_grid(path, values.reshape(counts[::-1]), origin, np.array(span), atoms, comment,
                    label)  # fmt: skip


def _on_grid(
    path: Path,
    values: NDArray[np.float64],
    origin: NDArray[np.float64],
    span: NDArray[np.float64],
    atoms: Atoms | None,
    comment: str,
    label: str,
) -> Volume:
    if abs(np.linalg.det(span)) < 1e-9:
        raise FormatError(path, "has a grid whose vectors are not independent")
    periodic, steps = False, np.array(values.shape) - 1.0
    if atoms is not None and atoms.cell.rank == 3:
        cells = span @ np.linalg.inv(atoms.cell.array)
        periodic = np.allclose(cells, np.rint(cells), atol=1e-3)
        if periodic and _repeats(values):
            values = np.ascontiguousarray(values[:-1, :-1, :-1])
        elif periodic:
            steps += 1
            warnings.warn(
                f"{path}: the grid covers whole cells and does not repeat its first planes at the "
                "end, as the format wants it; it was taken as one period without end points.",
                stacklevel=4,
            )
    quantity, unit = _quantity(comment)
    formula = "" if atoms is None else atoms.get_chemical_formula()
    return Volume(
        values,
        span[::-1, ::-1] / steps[:, None],
        origin[::-1],
        quantity=quantity,
        unit=unit,
        periodic=periodic,
        atoms=None if atoms is None else atoms.copy(),
        name=" ".join(filter(None, (formula, plain_name(path), label.strip("_")))),
        source=str(path),
        metadata={"xsf": {"comment": comment, "label": label}},
    )


def _repeats(values: NDArray[Any]) -> bool:
    """True if the last plane along every axis is the first one again."""
    pairs = ((values.take(0, axis), values.take(-1, axis)) for axis in range(3))
    small = 1e-6 * float(np.nanmax(np.abs(values), initial=0))
    return all(np.allclose(a, b, rtol=1e-4, atol=small, equal_nan=True) for a, b in pairs)


def _quantity(comment: str) -> tuple[str, str]:
    """Quantity and unit that `write` named in the comment of a block."""
    quantity, _, unit = comment.replace("_", " ").partition(" in ")
    unit = unit.replace("A^3", "Å³")
    return (quantity, unit) if _UNITS.get(quantity) == unit else ("density", "")
