"""Files in and out: one module per format behind one front door.

Volumes, picks and structures are found by the file's name, and by its content where the name
says nothing. Format modules are imported when they are first needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import write_aside
from napari_vox3d.formats.opening import clear_errors, format_module, readable, split_address
from napari_vox3d.formats.pick_files import (
    pick_format_of,
    read_pick_collection,
    read_picks,
    write_pick_collection,
    write_picks,
)
from napari_vox3d.formats.pick_formats import PICK_FORMATS, PickFormat, names_of_pick_files

if TYPE_CHECKING:
    from ase import Atoms

    from napari_vox3d.volume import Volume

__all__ = [
    "PICK_FORMATS",
    "PickFormat",
    "kind_of",
    "read_atoms",
    "read_pick_collection",
    "read_picks",
    "read_volume",
    "read_volumes",
    "split_address",
    "write_aside",
    "write_pick_collection",
    "write_picks",
    "write_volume",
]

# Order matters: CHGCAR.cube is a cube file, and CHGCAR.mrc is an MRC file.
_GRID_FORMATS = ("mrc", "tiff", "ome_zarr", "cube", "xsf", "vasp_h5", "vasp")
# Instead of those that are only read.
_TO_WRITE = {"ome_zarr": ".mrc or .ome.tif", "vasp_h5": ".vasp, .cube or .xsf"}
# Names that both structures and grids bear.
_OF_TWO_KINDS = ["*.vasp", "*.vasp.*", "*.xsf", "*.xsf.*", "*.h5", "*.h5.*"]
_VOLUME_NAMES = (
    ".mrc .mrcs .map .rec .st .ali .ccp4; .tif .ome.tif; "
    "CHGCAR* CHG* AECCAR* PARCHG* ELFCAR* LOCPOT* *.vasp; .cube; .xsf"
)


def kind_of(path: str | Path) -> Literal["volume", "picks", "structure"]:
    """Say what a file holds, from its name and, where that says nothing, its content.

    Raises
    ------
    FormatError
        If the file is missing, unreadable, empty, or of no known kind.
    """
    path, part = split_address(path)
    file_format = _format_of(readable(path))
    if file_format in PICK_FORMATS:
        return "volume" if "@" in part else "picks"  # by the rule of copick
    return "structure" if file_format == "structures" else "volume"


def read_volumes(path: str | Path) -> list[Volume]:
    """Read every grid of a volume file.

    Parameters
    ----------
    path
        MRC (.mrc .mrcs .map .rec .st .ali .ccp4), VASP (CHGCAR, CHG, AECCAR, PARCHG, ELFCAR,
        LOCPOT, .vasp, vaspwave.h5, vaspout.h5), Gaussian cube or XCrySDen .xsf, plain or
        compressed; TIFF (.tif), the folder of an OME-Zarr image, or a tomogram of a copick
        project, ``config.json::RUN`` or ``config.json::RUN::TYPE@SPACING``.

    Returns
    -------
    list of Volume
        One per grid: the members of a volume stack, the spin channels of a VASP file, the
        channels of a TIFF or OME-Zarr; ``metadata["member"]`` counts several from 0.
        Uncompressed MRC and TIFF files are memory-mapped and OME-Zarr is
        read chunk by chunk; neither is loaded.

    Raises
    ------
    FormatError
        If the file is missing, unreadable, empty, damaged, or holds no grid.
    """
    path, part = split_address(path)
    path = readable(path)
    file_format = _format_of(path)
    if file_format == "copick-project":
        return format_module("copick_project").read_volumes(path, part)
    if file_format == "structures":
        raise FormatError(
            path,
            "holds a structure and no grid",
            hint="Predict its ELF with `vox3d elf` or the Predict ELF window.",
        )
    if file_format in PICK_FORMATS:
        raise FormatError(path, "holds picks and no grid", hint="Open it with read_picks.")
    with clear_errors(path):
        volumes = format_module(file_format).read(path)
    if len(volumes) == 1:
        return volumes
    return [replace(v, metadata={**v.metadata, "member": n}) for n, v in enumerate(volumes)]


def read_volume(path: str | Path) -> Volume:
    """Read the first grid of a volume file; see `read_volumes`."""
    return read_volumes(path)[0]


def write_volume(path: str | Path, volume: Volume | Sequence[Volume]) -> None:
    """Write a volume in the format that the file's name says.

    Parameters
    ----------
    path
        File to write.
    volume
        A volume, or those of one file as `read_volumes` gives them: a VASP file takes all spin
        channels, with the augmentation occupancies and moments that came with them; others the
        first.

    Raises
    ------
    FormatError
        If the name says no volume format, the format cannot hold this volume, it has no voxels,
        or the file cannot be written.

    Warns
    -----
    UserWarning
        If volumes are left out.
    """
    path = Path(path)
    file_format = _grid_format_by_name(path)
    if file_format is None:
        raise FormatError(
            path,
            "does not have the name of a volume file",
            hint=f"Names that can be written: {_VOLUME_NAMES}.",
        )
    if file_format in _TO_WRITE:
        hint = f"Write it as {_TO_WRITE[file_format]}."
        raise FormatError(path, "is of a format that is read here and not written", hint=hint)
    if isinstance(volume, Sequence) and file_format != "vasp":
        volume, *others = volume
        if others:
            left = ", ".join(other.name or other.quantity for other in others)
            warnings.warn(f"{path}: holds one grid; left out: {left}.", stacklevel=2)
    shapes = [one.shape for one in (volume if isinstance(volume, Sequence) else [volume])]
    if not all(map(min, shapes)):
        raise FormatError(path, "cannot be written, because the volume has no voxels")
    format_module(file_format).write(path, volume)


def read_atoms(path: str | Path) -> Atoms:
    """Read a crystal or molecule from a structure file or from a volume file that carries one.

    Parameters
    ----------
    path
        POSCAR, CONTCAR, CIF, or any VASP, cube or XSF volume.

    Returns
    -------
    ase.Atoms
        Positions and cell in Å, Cartesian x, y, z.

    Raises
    ------
    FormatError
        If the file is missing, unreadable, or holds no atoms.
    """
    path = readable(path)
    file_format = _format_of(path)
    if file_format in ("mrc", "tiff", "ome_zarr") or file_format in PICK_FORMATS:
        raise FormatError(path, "holds no atoms", hint="Give a POSCAR, a CIF or a VASP volume.")
    with clear_errors(path):
        return format_module("structures").read_atoms(path)


def _format_of(path: Path) -> str:
    """Format of an existing file: a grid format, ``"structures"``, or a pick format."""
    if path.is_dir():
        return "ome_zarr"
    picks = pick_format_of(path)
    if picks is not None:
        return picks
    by_name = _grid_format_by_name(path)
    if by_name is not None and not _matches(path, _OF_TWO_KINDS):
        return by_name
    if by_name is None and _matches(path, format_module("structures").PATTERNS):
        return "structures"
    with clear_errors(path):
        found = format_module("sniffing").format_by_content(path) or by_name
    if found is None:
        raise FormatError(
            path,
            "is of no known kind",
            hint=f"Known: {_VOLUME_NAMES}; .zarr; vaspwave.h5, vaspout.h5; picks "
            f"{names_of_pick_files()}; POSCAR, CONTCAR and .cif.",
        )
    return found


def _grid_format_by_name(path: Path) -> str | None:
    return next(
        (name for name in _GRID_FORMATS if _matches(path, format_module(name).PATTERNS)), None
    )


def _matches(path: Path, patterns: list[str]) -> bool:
    """Suffixes match in any case, VASP's names only as VASP writes them."""
    return any(
        fnmatchcase(path.name.lower() if pattern.startswith("*.") else path.name, pattern)
        for pattern in patterns
    )
