"""VASP volumes: CHGCAR, CHG, AECCAR, PARCHG, ELFCAR and LOCPOT (VASP wiki, CHGCAR).

A file is a structure, the grid's shape, and one block of numbers per spin channel, x fastest.
Densities are stored as density times cell volume and held here in e/Å³; the ELF and potentials
are stored as they are. `vasp_numbers` reads and writes the numbers.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import write_aside
from napari_vox3d.formats.compression import create_bytes, open_bytes, plain_name
from napari_vox3d.formats.poscar import Lines, format_poscar, is_count, parse_poscar
from napari_vox3d.formats.vasp_numbers import BadNumberError, format_numbers
from napari_vox3d.formats.vasp_text import Unread
from napari_vox3d.provenance import as_text, split_text
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

PATTERNS = [
    *("*CHGCAR*", "CHG", "CHG.*", "CHG_*", "*AECCAR*", "*PARCHG*", "*ELFCAR*", "*LOCPOT*"),
    *("*.vasp", "*.vasp.gz", "*.vasp.bz2", "*.vasp.xz"),
]


@dataclass(frozen=True)
class Kind:
    """What a file of some name holds, how VASP writes it, and what its channels are called."""

    label: str
    quantity: str
    unit: str
    times_volume: bool
    columns: int
    digits: int
    two: tuple[str, str]  # names of two channels

    def quantities(self, channels: int) -> list[str]:
        """Quantity of each of 1, 2 or 4 channels."""
        if self.times_volume:
            return [self.quantity, *["spin density"] * (channels - 1)]
        return [self.quantity] * channels

    def channel_names(self, channels: int) -> tuple[str, ...]:
        """Name of each of 1, 2 or 4 channels."""
        if channels == 4 and not self.times_volume:
            return ("total", "x", "y", "z")
        return {1: ("",), 2: self.two, 4: ("total", "mx", "my", "mz")}[channels]


_LINE = 480  # characters of a comment that other programs have room for
_TOTAL, _SPINS = ("total", "difference"), ("up", "down")
_ELF = Kind("ELFCAR", "elf", "", False, 10, 5, _SPINS)
_BAND = Kind("uncertainty", "uncertainty", "", False, 10, 5, _SPINS)
POTENTIAL = Kind("LOCPOT", "potential", "eV", False, 5, 11, _SPINS)
CHARGE = Kind("CHGCAR", "electron density", "e/Å³", True, 5, 11, _TOTAL)
_SAD = Kind("SAD", "superposed atomic density", "e/Å³", True, 5, 11, _TOTAL)


def _kind_of(path: Path) -> Kind:
    """Tell by the name; anything that does not say otherwise is a density times volume."""
    name = plain_name(path).upper()
    kinds = {"UNCERTAINTY": _BAND, "ELFCAR": _ELF, "LOCPOT": POTENTIAL, "AECCAR1": _SAD}
    for word, kind in kinds.items():
        if word in name:
            return kind
    return _SAD if re.match(r"SAD(?![A-Z])", name) else CHARGE


def read(path: str | Path) -> list[Volume]:
    """Read every spin channel of a VASP volume.

    Parameters
    ----------
    path
        The file, plain or compressed (gzip, bzip2, xz). Its name decides what it holds: a name
        with ELFCAR or LOCPOT the ELF or the potential, with "uncertainty" that of an ELF; AECCAR1
        or one that begins with SAD a superposition of atomic densities; any other, ``*.vasp``
        included, an electron density.

    Returns
    -------
    list of Volume
        (c, b, a) float64 on the lattice of the file, with its atoms. Densities: total, then
        total and difference, or total and three components of the magnetisation; ELF and
        potential: total, or up and down. ``metadata["vasp"]`` keeps the text after each block
        (augmentation occupancies, moments) for writing. Of several images in one file, the first.

    Raises
    ------
    FormatError
        If the file is no VASP volume, is truncated, or holds other than 1, 2 or 4 blocks.

    Warns
    -----
    UserWarning
        If values are no numbers (asterisks) and became NaN, or there are further images.
    """
    path = Path(path)
    kind = _kind_of(path)
    with open_bytes(path) as file:
        lines = Lines(path, file)
        atoms = parse_poscar(lines)
        shape = _grid(lines)
        blocks, between, images = _blocks(Unread(path, file), shape, len(atoms))
    if len(blocks) not in (1, 2, 4):
        raise FormatError(path, f"holds {len(blocks)} blocks of numbers; 1, 2 or 4 are known")
    return _volumes(path, kind, atoms, blocks, between, images)


def _grid(lines: Lines) -> tuple[int, int, int]:
    """Read up to the line with the number of grid points along a, b and c."""
    missing = "a line with three grid sizes; it holds a structure without a grid"
    line = lines.next(missing)
    while not line.strip():
        line = lines.next(missing)
    tokens = line.split()
    if len(tokens) != 3 or not all(is_count(token) and int(token) for token in tokens):
        raise lines.error(f"expected three grid sizes, found {line[:60]!r}")
    a, b, c = map(int, tokens)
    return a, b, c


def _blocks(
    unread: Unread, shape: tuple[int, int, int], atoms: int
) -> tuple[list[NDArray[np.float64]], list[bytes], bool]:
    """Blocks of numbers, the text after each, and whether further images follow."""
    # "++": blanks without end are passed over once
    again = re.compile(rb"^[ \t]*+%d[ \t]++%d[ \t]++%d[ \t]*+\r?$" % shape, re.MULTILINE)
    size = " × ".join(map(str, shape))
    blocks, between = [], []
    while True:
        try:
            values = unread.numbers(shape[0] * shape[1] * shape[2])
        except BadNumberError as error:
            raise unread.error(f"{error} (grid {size})", error.offset) from None
        blocks.append(values.reshape(shape[::-1]))
        end = unread.place
        rest, more = unread.until(again)
        if more and _is_header(rest):
            unread.finish()
            between.append(b"")
            return blocks, between, True
        if _leading_numbers(rest) not in (0, atoms, 3 * atoms, 4 * atoms):  # moments of the atoms
            raise unread.error(f"more values than the grid holds (grid {size})", end)
        between.append(rest)
        if not more:
            return blocks, between, False


def _is_header(text: bytes) -> bool:
    """True if a structure stands here: the head of the next image."""
    for candidate in (text, text.lstrip(b" \r\n")):
        try:
            parse_poscar(Lines("", io.BytesIO(candidate)))
        except FormatError:
            continue
        return True
    return False


def _leading_numbers(text: bytes) -> int:
    """How many numbers stand before the first word."""
    count = 0
    for token in text.split():
        try:
            float(token)
        except ValueError:
            break
        count += 1
    return count


def _volumes(
    path: Path,
    kind: Kind,
    atoms: Atoms,
    blocks: list[NDArray[np.float64]],
    between: list[bytes],
    images: bool,
) -> list[Volume]:
    bad = sum(int(np.count_nonzero(np.isnan(block))) for block in blocks)
    if bad:
        warnings.warn(
            f"{path}: {bad} values are no numbers (asterisks or NaN); they are NaN here.",
            stacklevel=4,
        )
    if images:
        warnings.warn(f"{path}: holds several images; the first one was read.", stacklevel=4)
    comment, run = split_text(atoms.info.pop("comment"))
    lattice = atoms.cell.array
    cell_volume = abs(np.linalg.det(lattice))
    formula = atoms.get_chemical_formula()
    quantities = kind.quantities(len(blocks))
    names = kind.channel_names(len(blocks))
    volumes = []
    for values, after, quantity, channel in zip(blocks, between, quantities, names, strict=True):
        if kind.times_volume:
            values /= cell_volume
        kept: dict[str, Any] = {"comment": comment, "channel": channel}
        kept["after"] = {"quantity": quantity, "text": after}
        kept["stored as"] = "value × cell volume" if kind.times_volume else "value"
        volumes.append(
            Volume.on_lattice(
                values,
                lattice,
                quantity=quantity,
                unit=kind.unit,
                atoms=atoms.copy(),
                name=" ".join(filter(None, (formula, _label(path, kind), channel))),
                source=str(path),
                metadata={"vasp": kept, **({"not numbers": bad} if bad else {}), **run},
            )
        )
    return volumes


def _label(path: Path, kind: Kind) -> str:
    """Return the name that VASP gives such a file, if it is in the file's name."""
    if kind is _BAND:  # POSCAR.uncertainty.ELFCAR
        return kind.label
    found = re.search(r"AECCAR\d|PARCHG|CHGCAR|CHG|ELFCAR|LOCPOT", plain_name(path).upper())
    return found[0] if found else kind.label


def write(path: str | Path, volume: Volume | Sequence[Volume]) -> None:
    """Write one volume, or the spin channels of one crystal, as VASP does.

    Values are written with the digits of the format: 11 for densities and potentials, 5 for the
    ELF. Augmentation occupancies and moments that came with the volumes follow their blocks. The
    first line names the run that made the first volume.

    Parameters
    ----------
    path
        The name decides what is written, as in `read`; .gz, .bz2 and .xz compress.
    volume
        Periodic volume with atoms, or 2 or 4 of them on one grid in the order of `read`.

    Raises
    ------
    FormatError
        If the name promises another quantity, there are no atoms, the volumes do not fit
        together, or a value has no room in the format. Nothing is written then.
    """
    path = Path(path)
    volumes = [volume] if isinstance(volume, Volume) else list(volume)
    kind = _kind_of(path)
    _check(path, kind, volumes)
    first = volumes[0]
    lattice = first.lattice
    atoms = first.atoms.copy()  # type: ignore[union-attr]
    atoms.positions -= first.origin[::-1]
    comment = first.metadata.get("vasp", {}).get("comment", "")
    about = as_text(first.metadata, most=_LINE)
    factor = first.volume if kind.times_volume else 1.0
    grid = "".join(f"{n:5d}" for n in first.shape[::-1]).encode() + b"\n"
    with write_aside(path) as aside, create_bytes(aside, path.name) as file:
        file.write(format_poscar(atoms, lattice, comment, about).encode() + b" \n")
        for part in volumes:
            values = np.asarray(part.values).ravel()
            file.write(grid)
            try:
                file.writelines(format_numbers(values, kind.columns, kind.digits, factor))
            except ValueError as error:
                raise FormatError(path, str(error)) from None
            after = part.metadata.get("vasp", {}).get("after")
            if after and after["quantity"] == part.quantity:  # not what a density once carried
                file.write(after["text"])


def _check(path: Path, kind: Kind, volumes: list[Volume]) -> None:
    if len(volumes) not in (1, 2, 4):
        raise FormatError(path, f"a VASP file holds 1, 2 or 4 channels, not {len(volumes)}")
    first = volumes[0]
    if first.atoms is None or not len(first.atoms):
        raise FormatError(path, "a VASP file needs atoms, and this volume has none")
    if not first.periodic:
        raise FormatError(
            path,
            "a VASP file holds a whole periodic cell, and this volume is none",
            hint="Write the volume on its native grid, not a resampled or cropped one.",
        )
    if np.iscomplexobj(first.values):
        raise FormatError(path, "a VASP file holds real values, and these are complex")
    for part in volumes:
        if part.shape != first.shape or not np.allclose(part.step, first.step):
            raise FormatError(path, "the channels lie on different grids")
    found = [part.quantity for part in volumes]
    if kind.times_volume and found[1:] == ["spin density"] * (len(found) - 1):
        fits = found[0] in (CHARGE.quantity, _SAD.quantity)
    else:
        fits = set(found) == {kind.quantity}
    if not fits:
        names = {"elf": "ELFCAR", "potential": "LOCPOT", "electron density": "CHGCAR"}
        better = f" with {names[found[0]]}" if found[0] in names else " that ends in .cube"
        raise FormatError(
            path,
            f"a file of this name holds {kind.quantity!r}, not {', '.join(map(repr, found))}",
            hint=f"Give it a name{better}.",
        )
