"""Picks as CSV: one row per particle, with columns that say axis and unit.

Columns written: ``tomogram, class, score, z_px, y_px, x_px, z_angstrom, y_angstrom, x_angstrom``,
and, where known, ``rot, tilt, psi`` (ZYZ Euler angles in degrees), ``radius_angstrom`` and
``review`` (accepted, rejected or undecided). The
voxel columns are left out when the voxel size is unknown. The tables that napari saves for points
(``axis-0, axis-1, axis-2``, in voxels) can be read too, and those of copick and of the CZII
challenge, whose ``x, y, z`` are Å, be they separated by commas, semicolons or tabs.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import write_csv
from napari_vox3d.formats.decisions import decisions_from, decisions_in_words
from napari_vox3d.formats.frame import (
    UNNAMED_CLASS,
    frame_of,
    rows_of_tomogram,
    voxel_size_for_reading,
)
from napari_vox3d.picks import Picks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.volume import Volume

_ANGSTROM = ("z_angstrom", "y_angstrom", "x_angstrom")
_VOXELS = ("z_px", "y_px", "x_px")
_NAPARI = ("axis-0", "axis-1", "axis-2")
_ANGLES = ("rot", "tilt", "psi")
# Columns of copick (``copick export``) and of the CZII challenge: they come with x, y, z in Å.
_RUN = ("run_name", "experiment")
_OF_COPICK = {
    **dict(zip("zyx", _ANGSTROM, strict=True)),
    **dict.fromkeys(_RUN, "tomogram"),
    "particle_type": "class",
    "pickable_object_name": "class",
}
_RADIUS = "radius_angstrom"
_REVIEW = "review"
_LINE = "line of the file"  # beside the columns

_Row = dict[str, str]


def read(path: str | Path, volume: Volume | None = None, part: str = "") -> Picks:
    """Read a table of picks.

    Parameters
    ----------
    path
        CSV file with a header line.
    volume
        The tomogram; needed if the table has no positions in Å.
    part
        Name of the tomogram, if the one of `volume` does not tell which of several is wanted.

    Raises
    ------
    FormatError
        If the columns for a position are missing, a value is no number, the table is in voxels
        and `volume` is None, or it holds several tomograms and none bears the name of `volume`.
    """
    path = Path(path)
    rows, columns = _read_rows(path)
    if "tomogram" in columns:
        own = rows_of_tomogram(path, [row["tomogram"] or "" for row in rows], volume, part)
        rows = [row for row, is_own in zip(rows, own, strict=True) if is_own]
    return _picks(path, rows, columns, volume)


def read_collection(path: str | Path) -> list[Picks]:
    """Read the picks of every tomogram that the column ``tomogram`` names.

    Raises
    ------
    FormatError
        As `read` without a tomogram.
    """
    path = Path(path)
    rows, columns = _read_rows(path)
    tomograms: dict[str, list[_Row]] = {}
    for row in rows:
        tomograms.setdefault(row.get("tomogram") or "", []).append(row)
    return [_picks(path, rows, columns, None) for rows in tomograms.values()]


def _read_rows(path: Path) -> tuple[list[_Row], list[str]]:
    """Fields of each line by the name of their column, and the names."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        head = file.readline()
        file.seek(0)
        separator = max(",;\t", key=head.count)
        reader = csv.DictReader(file, skipinitialspace=True, delimiter=separator)
        columns = [name.strip() for name in reader.fieldnames or []]
        if {*"xyz"} < set(columns) and any(name in columns for name in _RUN):
            columns = [_OF_COPICK.get(name, name) for name in columns]
        reader.fieldnames = columns
        rows: list[_Row] = [{**row, _LINE: str(reader.line_num)} for row in reader]
        return rows, columns


def _picks(path: Path, rows: list[_Row], columns: list[str], volume: Volume | None) -> Picks:
    """Picks of rows that are all of one tomogram."""

    def numbers(names: tuple[str, ...]) -> NDArray[np.float64] | None:
        return _numbers(path, rows, names) if set(names) <= set(columns) else None

    def words(*names: str) -> list[str] | None:
        name = next((name for name in names if name in columns), None)
        return None if name is None else [row[name] or "" for row in rows]

    frame = frame_of(volume)
    positions, indices = numbers(_ANGSTROM), numbers(_VOXELS)
    if indices is None and "axis-3" not in columns:
        indices = numbers(_NAPARI)
    if positions is None and indices is not None:
        positions = indices * voxel_size_for_reading(path, volume)
    elif positions is not None and indices is not None:
        own = _ratio(positions, indices)
        frame = frame if own is None else {"voxel_size": own}
    if positions is None:
        raise FormatError(
            path,
            "has no columns for a position in three dimensions",
            where="line 1",
            hint=f"Wanted: {', '.join(_ANGSTROM)}, or {', '.join(_VOXELS)}, or napari's "
            f"{', '.join(_NAPARI)}.",
        )
    if not np.isfinite(positions).all():
        row = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise FormatError(path, "lacks a coordinate", where=f"line {rows[row][_LINE]}")
    frame.setdefault("tomogram", next(iter(words("tomogram") or []), ""))
    scores, radii, angles = numbers(("score",)), numbers((_RADIUS,)), numbers(_ANGLES)
    return Picks(
        positions,
        np.array(words("class", "label") or UNNAMED_CLASS),
        None if scores is None else scores[:, 0],
        None if angles is None or np.isnan(angles).all() else np.where(np.isnan(angles), 0, angles),
        None if radii is None or np.isnan(radii).any() else radii[:, 0],
        decisions=decisions_from(words(_REVIEW)),
        **frame,
    )


def write(path: str | Path, picks: Picks) -> None:
    """Write a table of picks; floats keep all their digits.

    Raises
    ------
    FormatError
        If the file cannot be written.
    """
    write_collection(path, [picks])


def write_collection(path: str | Path, collection: Sequence[Picks]) -> None:
    """Write a table of picks of several tomograms; what one of them lacks stays empty.

    Raises
    ------
    FormatError
        If the file cannot be written.
    """
    tables = [_columns_of(picks) for picks in collection]
    order = ["tomogram", "class", "score", *_VOXELS, *_ANGSTROM, *_ANGLES, _RADIUS, _REVIEW]
    columns = [name for name in order if any(name in table for table in tables)]
    rows: list[Sequence[object]] = [columns or order[:3]]
    for table, picks in zip(tables, collection, strict=True):
        empty = [""] * len(picks)
        rows += zip(*(table.get(name, empty) for name in columns), strict=True)
    write_csv(path, rows)


def _columns_of(picks: Picks) -> dict[str, Sequence[object]]:
    columns: dict[str, Sequence[object]] = {
        "tomogram": [picks.tomogram] * len(picks),
        "class": picks.labels.tolist(),
        "score": ["" if np.isnan(score) else score for score in np.asarray(picks.scores).tolist()],
    }
    if picks.voxel_size is not None:
        columns |= _columns(_VOXELS, picks.indices)
    columns |= _columns(_ANGSTROM, picks.positions)
    if picks.angles is not None:
        columns |= _columns(_ANGLES, picks.angles)
    if picks.radii is not None:
        columns[_RADIUS] = picks.radii.tolist()
    if picks.decisions is not None:
        columns[_REVIEW] = decisions_in_words(picks.decisions)
    return columns


def _columns(names: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, Sequence[object]]:
    return dict(zip(names, values.T.tolist(), strict=True))


def _numbers(path: Path, rows: list[_Row], names: tuple[str, ...]) -> NDArray[np.float64]:
    """(rows, names) values; an empty field is NaN."""
    values = np.full((len(rows), len(names)), np.nan)
    for number, row in enumerate(rows):
        for column, name in enumerate(names):
            try:
                values[number, column] = float(row[name]) if row[name] else np.nan
            except ValueError:
                raise FormatError(
                    path, f"{row[name]!r} is no number ({name})", where=f"line {row[_LINE]}"
                ) from None
    return values


def _ratio(
    positions: NDArray[np.float64], indices: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Voxel size that makes Å of indices, or None if the points do not determine it."""
    row = np.abs(indices).argmax(axis=0) if len(indices) else None
    if row is None or not np.take_along_axis(indices, row[None], 0).all():
        return None
    ratio = np.take_along_axis(positions, row[None], 0) / np.take_along_axis(indices, row[None], 0)
    return ratio[0]
