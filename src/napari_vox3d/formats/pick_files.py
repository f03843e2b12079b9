"""Picks in and out: the format by the name of the file, of one tomogram or of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.opening import clear_errors, format_module, readable, split_address
from napari_vox3d.formats.pick_formats import (
    PICK_FORMATS,
    PickFormat,
    names_of_pick_files,
    pick_format_by_name,
)

if TYPE_CHECKING:
    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume


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
    path = readable(path)
    with clear_errors(path):
        name = format or pick_format_of(path)
        known = _known_pick_format(path, name, "is not a known pick file")
        if part and not known.several_tomograms:
            raise FormatError(path, f"holds picks of one tomogram, so there is no {part!r} in it")
        picks = format_module(known.module).read(path, volume, *([part] if part else []))
        _require_numbers(path, picks)
    if volume is None:
        return picks
    return format_module("frame").fitted(path, picks, volume, counts_in=known.counts_in, by=by)


def write_picks(path: str | Path, picks: Picks, format: str | None = None) -> list[Path]:
    """Write particle picks in the format that the file's name, or `format`, says.

    Parameters
    ----------
    path
        File to write.
    picks
        Picks of one tomogram; rejected ones too, if the format can say that they are.
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
    known = _known_format_to_write(path, format)
    picks = picks if known.decisions else picks.kept
    more = format_module(known.module).write(path, picks, **known.options)
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
    file = readable(file)
    with clear_errors(file):
        name = format or pick_format_of(file)
        known = _known_pick_format(file, name, "is not a known pick file")
        if known.several_tomograms and not part:
            collection = format_module(known.module).read_collection(file)
            for picks in collection:
                _require_numbers(file, picks)
            return collection
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
    known = _known_format_to_write(path, format)
    if not known.several_tomograms:
        able = ", ".join(key for key, other in PICK_FORMATS.items() if other.several_tomograms)
        raise FormatError(
            path,
            f"holds picks of one tomogram, and there are {len(collection)}",
            hint=f"Formats for several: {able}.",
        )
    if not all(picks.tomogram for picks in collection):
        raise FormatError(path, "cannot tell the tomograms apart, because not all have a name")
    if not known.decisions:
        collection = [picks.kept for picks in collection]
    more = format_module(known.module).write_collection(path, collection, **known.options)
    return [path, *(more or [])]


def _require_numbers(path: Path, picks: Picks) -> None:
    """Raise `FormatError` if lengths or angles are not finite, as after damage or in odd units."""
    size = picks.voxel_size
    if size is not None and not ((size > 0).all() and np.isfinite(size).all()):
        raise FormatError(path, f"tells an impossible voxel size, {size.tolist()} Å (z, y, x)")
    for name in ("positions", "angles", "radii"):
        column = getattr(picks, name)
        if column is not None and not np.isfinite(column).all():
            raise FormatError(path, f"holds {name} that are no finite numbers")


def _known_pick_format(path: Path, name: str | None, reason: str) -> PickFormat:
    if name not in PICK_FORMATS:
        hint = f"Pick files: {names_of_pick_files()}."
        raise FormatError(path, reason if name is None else f"no format {name!r}", hint=hint)
    return PICK_FORMATS[name]


def _known_format_to_write(path: Path, name: str | None) -> PickFormat:
    name = pick_format_to_write(path, name)
    return _known_pick_format(path, name, "is not the name of a pick file")


def pick_format_to_write(path: Path, name: str | None = None) -> str | None:
    """Format that picks get in a file: the one of that name, or what the file's name says."""
    name = name or pick_format_by_name(path)
    # A project is written into, whatever its name is, and never overwritten by one of its files.
    if name == "copick" and path.is_file() and format_module("copick_project").is_project(path):
        return "copick-project"
    return name


def pick_format_of(path: Path) -> str | None:
    """Format of an existing file of picks; None if it is none."""
    name = pick_format_by_name(path)
    # Any text may be called .txt and any JSON config.json, so such files are looked into.
    if name == "imod-points" and not format_module("imod_points").is_point_list(path):
        return None
    if name in ("copick", "copick-project"):
        return "copick-project" if format_module("copick_project").is_project(path) else "copick"
    return name
