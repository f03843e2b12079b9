"""What a file holds when its name does not say."""

from __future__ import annotations

from itertools import islice
from math import prod
from pathlib import Path
from typing import IO

from napari_vox3d.formats.compression import open_bytes

_LONGEST_LINE = 10_000
_HDF5 = b"\x89HDF\r\n\x1a\n"
_XSF_KEYWORDS = {
    *("CRYSTAL", "SLAB", "POLYMER", "MOLECULE", "ATOMS", "DIM-GROUP", "ANIMSTEPS"),
    "BEGIN_BLOCK_DATAGRID_3D",
}


def language_of(path: Path) -> str | None:
    """Name the way a file is written from its first lines, whether it holds a grid or not.

    Returns
    -------
    str or None
        ``"mrc"``, ``"vasp_h5"`` (any HDF5 file), ``"cube"``, ``"xsf"``, ``"poscar"`` (which all
        text files of VASP begin with), or None.
    """
    from napari_vox3d.formats import mrc

    with open_bytes(path) as file:
        head = file.read(1024)
        if mrc.is_header(head):
            return "mrc"
        if head.startswith(_HDF5):
            return "vasp_h5"
        if b"\0" in head:
            return None
        file.seek(0)
        lines = [_line(file) for _ in range(7)]
    if _is_cube(lines):
        return "cube"
    if _is_xsf(lines):
        return "xsf"
    return None if _atom_count(lines) is None else "poscar"


def format_by_content(path: Path) -> str | None:
    """Name the format of a file from its content.

    Returns
    -------
    str or None
        ``"mrc"``, ``"cube"``; ``"vasp"``, ``"xsf"``, ``"vasp_h5"`` (a structure with a grid);
        ``"structures"`` (without one); or None.
    """
    from napari_vox3d.formats import vasp_h5, xsf

    language = language_of(path)
    if language == "poscar":
        return "vasp" if _has_grid(path) else "structures"
    if language == "xsf":
        return "xsf" if xsf.holds_grid(path) else "structures"
    if language == "vasp_h5":
        return "structures" if vasp_h5.holds_only_structure(path) else "vasp_h5"
    return language


def _line(file: IO[bytes]) -> list[str]:
    return file.readline(_LONGEST_LINE).decode("ascii", "replace").split()


def _numbers(words: list[str], kind: type = float) -> list[float]:
    """Leading numbers of a line."""
    numbers = []
    for word in words:
        try:
            numbers.append(kind(word))
        except ValueError:
            break
    return numbers


def _is_cube(lines: list[list[str]]) -> bool:
    """Lines 3 to 6 of a cube file are an integer and three numbers each."""
    return all(
        len(_numbers(words)) in (4, 5) and bool(_numbers(words[:1], int)) for words in lines[2:6]
    )


def _is_xsf(lines: list[list[str]]) -> bool:
    """The first line that is no comment is one of XCrySDen's keywords."""
    said = [words[0] for words in lines if words and not words[0].startswith("#")]
    return bool(said) and said[0] in _XSF_KEYWORDS


def _atom_count(lines: list[list[str]]) -> int | None:
    """Atoms that the head of a POSCAR announces, or None if it is none."""
    if len(_numbers(lines[1])) not in (1, 3) or any(len(_numbers(w)) < 3 for w in lines[2:5]):
        return None
    counts = _numbers(lines[5], int) or _numbers(lines[6], int)
    return int(sum(counts)) or None


def _has_grid(path: Path) -> bool:
    """True if soon after the positions of a POSCAR come a blank line, grid sizes and values."""
    with open_bytes(path) as file:
        atoms = _atom_count([_line(file) for _ in range(7)]) or 0
        for _ in range(atoms):
            if not file.readline(_LONGEST_LINE):  # it announces more atoms than it has
                return False
        rest = islice(iter(lambda: file.readline(_LONGEST_LINE), b""), 8)
        lines = [line.decode("ascii", "replace").split() for line in rest]
    return any(
        not blank and _begins_grid(sizes, _numbers(values))
        for blank, sizes, values in zip(lines, lines[1:], lines[2:], strict=False)
    )


def _begins_grid(words: list[str], values: list[float]) -> bool:
    """Three numbers a line are velocities after the positions, even if the first are whole."""
    sizes = _numbers(words, int)
    if len(words) != 3 or len(sizes) != 3 or min(sizes) < 1 or not values:
        return False
    return len(values) != 3 or prod(sizes) == 3
