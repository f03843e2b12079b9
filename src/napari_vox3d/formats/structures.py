"""Crystal structures: POSCAR, CONTCAR and VASP volumes here, everything else through ASE."""

from __future__ import annotations

import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats import cube, vasp, vasp_h5, xsf
from napari_vox3d.formats.compression import (
    COMPRESSED_SUFFIXES,
    is_compressed,
    open_bytes,
    read_whole,
)
from napari_vox3d.formats.poscar import Lines, parse_poscar
from napari_vox3d.formats.sniffing import language_of

if TYPE_CHECKING:
    from ase import Atoms

_POSCARS = ["*POSCAR*", "*CONTCAR*", "*.poscar"]
_OF_ASE = ["cif", "mcif", "xyz", "extxyz", "xsf", "cell", "res", "pdb", "gen", "cube", "cub"]
PATTERNS = [
    *_POSCARS,
    *(f"*.{suffix}{packed}" for suffix in _OF_ASE for packed in ("", *COMPRESSED_SUFFIXES)),
]


def read_atoms(path: str | Path) -> Atoms:
    """Read a periodic structure.

    Parameters
    ----------
    path
        POSCAR, CONTCAR, any VASP, cube or XSF volume (its grid is not read), or any file that ASE
        reads, such as CIF; the last structure of several. Plain or compressed.

    Returns
    -------
    ase.Atoms
        Periodic along all three lattice vectors.

    Raises
    ------
    FormatError
        If the file cannot be understood, holds no atoms, or has no cell or one without volume.

    Warns
    -----
    UserWarning
        If sites of a CIF are partly occupied: each is taken to be full.
    """
    path = Path(path)
    language = _language(path)
    if language == "poscar":
        with open_bytes(path) as file:
            atoms = parse_poscar(Lines(path, file))
    elif language == "xsf":
        atoms = xsf.read_structure(path)
    elif language == "cube":
        atoms = cube.read_structure(path)
    elif language == "vasp_h5":
        atoms = vasp_h5.read_structure(path)
    else:
        atoms = _read_with_ase(path)
    if not len(atoms):
        raise FormatError(path, "holds no atoms")
    if not (np.isfinite(atoms.cell.array).all() and np.isfinite(atoms.positions).all()):
        raise FormatError(path, "has a cell or positions that are no finite numbers")
    if abs(np.linalg.det(atoms.cell.array)) < 1e-9:
        raise FormatError(
            path,
            "has no unit cell, or one without volume",
            hint="Densities and the ELF are computed in a periodic cell: add one to the file.",
        )
    atoms.pbc = True
    return atoms


def _language(path: Path) -> str | None:
    """By the name, as far as that says anything; otherwise by the content. None is for ASE."""
    name = path.name.lower()
    if name.endswith(".poscar"):
        return "poscar"
    if any(fnmatchcase(name, pattern) for pattern in xsf.PATTERNS):
        return "xsf"
    if any(fnmatchcase(name, pattern) for pattern in cube.PATTERNS):
        return "cube"
    if any(fnmatchcase(name, pattern) for pattern in PATTERNS if "." in pattern):
        return None
    if any(fnmatchcase(path.name, pattern) for pattern in (*_POSCARS, *vasp.PATTERNS)):
        return "poscar"
    return language_of(path)


def _read_with_ase(path: Path) -> Atoms:
    from ase.io import read

    if is_compressed(path):  # ASE unpacks whatever there is
        with open_bytes(path) as file:
            read_whole(path, file)
    try:
        found = read(path)
    except OSError:
        raise
    except Exception as error:  # ASE's parsers raise whatever goes wrong in them
        what = ": ".join(filter(None, (type(error).__name__, str(error))))
        raise FormatError(path, f"cannot be read as a structure ({what})") from error
    atoms = found[-1] if isinstance(found, list) else found
    _warn_of_mixed_sites(path, atoms)
    return atoms


def _warn_of_mixed_sites(path: Path, atoms: Atoms) -> None:
    """Say that ASE takes the most frequent element of a site for the whole of it."""
    sites = atoms.info.get("occupancy", {}).values()
    mixed = {" + ".join(sorted(site)) for site in sites if len(site) > 1 or min(site.values()) < 1}
    if mixed:
        warnings.warn(
            f"{path.name} has sites that are partly occupied ({', '.join(sorted(mixed))}); each is "
            "taken to be full, of its most frequent element. Write an ordered cell for a true one.",
            stacklevel=3,
        )
