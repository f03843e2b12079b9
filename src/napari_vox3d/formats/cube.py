"""Gaussian cube files, through `ase.io.cube` (https://paulbourke.net/dataformats/cube/)."""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import write_aside
from napari_vox3d.formats.compression import (
    COMPRESSED_SUFFIXES,
    create_bytes,
    open_bytes,
    plain_name,
)
from napari_vox3d.provenance import as_text, split_text
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from ase import Atoms

PATTERNS = [
    f"*.{cube}{packed}" for cube in ("cube", "cub") for packed in ("", *COMPRESSED_SUFFIXES)
]

_DENSITIES = ("superposed atomic density", "spin density", "electron density")
_NOT_PERIODIC = "not periodic"
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
    from ase.io.cube import read_cube
    from ase.units import Bohr

    path = Path(path)
    with open_bytes(path) as file:
        text = io.StringIO(file.read().decode("ascii", "replace"))
    comment, run = split_text(" ".join(text.readline().strip() for _ in range(2)))
    text.seek(0)
    try:
        cube = read_cube(text)
    except (ValueError, IndexError, KeyError) as error:
        raise FormatError(path, f"is not a complete cube file ({error})") from error
    quantity = _quantity(comment)
    density = quantity in _DENSITIES
    periodic = _NOT_PERIODIC not in comment
    atoms = cube["atoms"]
    atoms.pbc = periodic
    formula = atoms.get_chemical_formula()
    labels = cube["labels"] if len(cube["labels"]) == len(cube["datas"]) else [""]
    volumes = []
    for number, data in enumerate(cube["datas"]):
        values = np.ascontiguousarray(data.T)
        if density:
            values /= Bohr**3
        label = str(labels[number]) if len(labels) > number else str(number + 1)
        volumes.append(
            Volume(
                values,
                cube["spacing"][::-1, ::-1],
                cube["origin"][::-1],
                quantity=quantity,
                unit="e/Å³" if density else "eV" if quantity == "potential" else "",
                periodic=periodic,
                atoms=atoms.copy(),
                name=" ".join(filter(None, (formula, plain_name(path), label))),
                source=str(path),
                metadata={"cube": {"comment": comment}, **run},
            )
        )
    return volumes


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
        If the values are complex, or the file cannot be written.
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
    with tempfile.TemporaryFile("w+", encoding="utf-8") as plain:
        write_cube(plain, atoms, values, volume.origin[::-1], comment)
        plain.seek(0)
        with write_aside(path) as aside, create_bytes(aside, path.name) as file:
            for block in iter(lambda: plain.read(1 << 20), ""):
                file.write(block.encode())
            file.write(b"\n")
