"""Files in and out: one module per format behind one front door.

Volumes, picks and structures are found by the file's name, and by its content where the name
says nothing. Format modules are imported when they are first needed.
"""

from __future__ import annotations

import lzma
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import write_aside
from napari_vox3d.formats.pick_formats import (
    PICK_FORMATS,
    PickFormat,
    names_of_pick_files,
    pick_format_by_name,
)

if TYPE_CHECKING:
    from ase import Atoms

    from napari_vox3d.picks import Picks
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
    "write_aside",
    "write_pick_collection",
    "write_picks",
    "write_volume",
]

# Order matters: CHGCAR.cube is a cube file, and CHGCAR.mrc is an MRC file.
_GRID_FORMATS = ("mrc", "tiff", "ome_zarr", "cube", "xsf", "vasp_h5", "vasp")
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
    file_format = _format_of(_readable(path))
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
    path = _readable(path)
    file_format = _format_of(path)
    if file_format == "copick-project":
        return _module("copick_project").read_volumes(path, part)
    if file_format == "structures":
        raise FormatError(
            path,
            "holds a structure and no grid",
            hint="Predict its ELF with `vox3d elf` or the Predict ELF window.",
        )
    if file_format in PICK_FORMATS:
        raise FormatError(path, "holds picks and no grid", hint="Open it with read_picks.")
    with _clear_errors(path):
        volumes = _module(file_format).read(path)
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
        If the name says no volume format, the format cannot hold this volume, or the file cannot
        be written.

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
    if isinstance(volume, Sequence) and file_format != "vasp":
        volume, *others = volume
        if others:
            left = ", ".join(other.name or other.quantity for other in others)
            warnings.warn(f"{path}: holds one grid; left out: {left}.", stacklevel=2)
    _module(file_format).write(path, volume)


def read_picks(
    path: str | Path,
    volume: Volume | None = None,
    format: str | None = None,
    by: Literal["angstrom", "voxels"] | None = None,
) -> Picks:
    """Read particle picks.

    Parameters
    ----------
    path
        .star (RELION 5, RELION 4 and others), .json (copick), .tbl (Dynamo), .mod and .txt
        (IMOD), _info.json (EMAN2), .cbox, .coords, .ndjson (CryoET Data Portal), .csv, or the
        configuration of a copick project. ``FILE::TOMOGRAM`` names one of several tomograms, and
        ``config.json::RUN::OBJECT:USER/SESSION`` some of the picks of a project.
    volume
        The tomogram the picks belong to. It gives voxel size and shape where the file lacks
        them, and the name by which a file of several tomograms is searched.
    format
        One of `PICK_FORMATS`, for a file whose name says another or none.
    by
        What stays of picks that were made on another grid than that of `volume`, as in
        `Picks.moved_to`. Default: voxel indices where the grids are of one shape or their voxels
        of nearly one size, or the size of the tomogram's voxels is unknown; else Å.

    Raises
    ------
    FormatError
        If the file is missing, damaged or of another kind, or if it can only be understood with
        its tomogram and `volume` is None.

    Warns
    -----
    UserWarning
        If the picks were made on another grid, or lie outside the tomogram.
    """
    path, part = split_address(path)
    path = _readable(path)
    with _clear_errors(path):
        name = format or _pick_format_of(path)
        known = _known_pick_format(path, name, "is not a known pick file")
        if part and not known.several_tomograms:
            raise FormatError(path, f"holds picks of one tomogram, so there is no {part!r} in it")
        picks = _module(known.module).read(path, volume, *([part] if part else []))
    if volume is None:
        return picks
    return _module("frame").fitted(path, picks, volume, counts_in=known.counts_in, by=by)


def write_picks(path: str | Path, picks: Picks, format: str | None = None) -> list[Path]:
    """Write particle picks in the format that the file's name, or `format`, says.

    Parameters
    ----------
    path
        File to write.
    picks
        Picks of one tomogram.
    format
        One of `PICK_FORMATS`, which also tells what each can hold: ``"relion5"`` (default for
        .star), ``"relion4"``, ``"copick"``, ``"dynamo"``, ``"imod"``, ``"imod-points"``,
        ``"eman2"``, ``"cbox"``, ``"coords"``, ``"portal"``, ``"csv"``.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    FormatError
        If the format is unknown, lacks something that the picks do not carry, or the file cannot
        be written.
    """
    path = Path(path)
    known = _pick_format_to_write(path, format)
    more = _module(known.module).write(path, picks, **known.options)
    return [path, *(more or [])]


def read_pick_collection(path: str | Path, format: str | None = None) -> list[Picks]:
    """Read the picks of every tomogram that a file holds.

    Parameters
    ----------
    path, format
        As for `read_picks`. A file of a format that holds one tomogram is a collection of one.

    Returns
    -------
    list of Picks
        One for each tomogram, in the order of the file, with its name in `Picks.tomogram`; none
        if the file holds no picks.

    Raises
    ------
    FormatError
        If the file is missing, damaged or of another kind, or gives positions in voxels and does
        not tell the voxel size.
    """
    file, part = split_address(path)
    file = _readable(file)
    with _clear_errors(file):
        name = format or _pick_format_of(file)
        known = _known_pick_format(file, name, "is not a known pick file")
        if known.several_tomograms and not part:
            return _module(known.module).read_collection(file)
    return [read_picks(path, format=format)]


def write_pick_collection(
    path: str | Path, collection: Sequence[Picks], format: str | None = None
) -> list[Path]:
    """Write picks of several tomograms into one file.

    Parameters
    ----------
    path
        File to write.
    collection
        Picks of one tomogram each, which bear its name. Parts of one name go together.
    format
        As for `write_picks`; one whose `PickFormat.several_tomograms` holds, unless there is one
        tomogram only.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    FormatError
        If the format holds one tomogram only, the tomograms have no names, or as `write_picks`.
    """
    path = Path(path)
    if len(collection) == 1:
        return write_picks(path, collection[0], format)
    known = _pick_format_to_write(path, format)
    if not known.several_tomograms:
        able = ", ".join(key for key, other in PICK_FORMATS.items() if other.several_tomograms)
        raise FormatError(
            path,
            f"holds picks of one tomogram, and there are {len(collection)}",
            hint=f"Formats for several: {able}.",
        )
    if not all(picks.tomogram for picks in collection):
        raise FormatError(path, "cannot tell the tomograms apart, because not all have a name")
    more = _module(known.module).write_collection(path, collection, **known.options)
    return [path, *(more or [])]


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
    path = _readable(path)
    file_format = _format_of(path)
    if file_format in ("mrc", "tiff", "ome_zarr") or file_format in PICK_FORMATS:
        raise FormatError(path, "holds no atoms", hint="Give a POSCAR, a CIF or a VASP volume.")
    with _clear_errors(path):
        return _module("structures").read_atoms(path)


def split_address(path: str | Path) -> tuple[Path, str]:
    """Split ``FILE::PART`` into the file and what is meant of it, often nothing."""
    if "::" not in str(path) or Path(path).exists():
        return Path(path), ""
    file, _, part = str(path).partition("::")
    return Path(file), part


def _known_pick_format(path: Path, name: str | None, reason: str) -> PickFormat:
    if name not in PICK_FORMATS:
        hint = f"Pick files: {names_of_pick_files()}."
        raise FormatError(path, reason if name is None else f"no format {name!r}", hint=hint)
    return PICK_FORMATS[name]


def _pick_format_to_write(path: Path, name: str | None) -> PickFormat:
    name = name or pick_format_by_name(path)
    # A project is written into, whatever its name is, and never overwritten by one of its files.
    if name == "copick" and path.is_file() and _module("copick_project").is_project(path):
        name = "copick-project"
    return _known_pick_format(path, name, "is not the name of a pick file")


def _pick_format_of(path: Path) -> str | None:
    """Format of an existing file of picks; None if it is none."""
    name = pick_format_by_name(path)
    # Any text may be called .txt and any JSON config.json, so such files are looked into.
    if name == "imod-points" and not _module("imod_points").is_point_list(path):
        return None
    if name in ("copick", "copick-project"):
        return "copick-project" if _module("copick_project").is_project(path) else "copick"
    return name


def _module(name: str) -> Any:
    return import_module(f"{__name__}.{name}")


def _format_of(path: Path) -> str:
    """Format of an existing file: a grid format, ``"structures"``, or a pick format."""
    if path.is_dir():
        return "ome_zarr"
    picks = _pick_format_of(path)
    if picks is not None:
        return picks
    by_name = _grid_format_by_name(path)
    if by_name is not None and not _matches(path, _OF_TWO_KINDS):
        return by_name
    if by_name is None and _matches(path, _module("structures").PATTERNS):
        return "structures"
    with _clear_errors(path):
        found = _module("sniffing").format_by_content(path) or by_name
    if found is None:
        raise FormatError(
            path,
            "is of no known kind",
            hint=f"Known: {_VOLUME_NAMES}; .zarr; vaspwave.h5, vaspout.h5; picks "
            f"{names_of_pick_files()}; POSCAR, CONTCAR and .cif.",
        )
    return found


def _grid_format_by_name(path: Path) -> str | None:
    return next((name for name in _GRID_FORMATS if _matches(path, _module(name).PATTERNS)), None)


def _matches(path: Path, patterns: list[str]) -> bool:
    """Suffixes match in any case, VASP's names only as VASP writes them."""
    return any(
        fnmatchcase(path.name.lower() if pattern.startswith("*.") else path.name, pattern)
        for pattern in patterns
    )


def _readable(path: str | Path) -> Path:
    """Return the path if there is a file, or a zarr folder, with content that may be read."""
    path = Path(path)
    try:
        if path.is_dir():
            if _module("ome_zarr").is_zarr(path):
                return path
            raise FormatError(path, "is a folder", hint="Give a file or an OME-Zarr folder.")
        if not path.exists():
            raise FormatError(path, "does not exist")
        empty = path.stat().st_size == 0
    except OSError as error:
        raise FormatError(path, f"cannot be opened ({error.strerror})") from error
    if empty:
        raise FormatError(path, "is empty")
    if not os.access(path, os.R_OK):
        raise FormatError(path, "may not be read (permission denied)")
    return path


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Turn what damaged compressed data and the file system raise into a `FormatError`."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise FormatError(path, f"holds damaged compressed data ({error})") from error
    except UnicodeDecodeError as error:
        raise FormatError(path, "is not the text file that its name promises") from error
    except OSError as error:
        raise FormatError(path, f"cannot be read ({error.strerror or error})") from error
