"""Reviews that are kept in the user's data folder, one file for a set of picks of a tomogram."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.curation import ACCEPTED, DELETED, REJECTED, UNDECIDED
from napari_vox3d.formats.aside import make_folder, write_aside
from napari_vox3d.models.preferences import data_folder
from napari_vox3d.provenance import Run

if TYPE_CHECKING:
    from napari_vox3d.curation import Review, Row
    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume


def review_file(picks: Picks, volume: Volume | None = None) -> Path:
    """File of the review of these picks; it need not exist.

    Picks that a model found have one file for all thresholds; others are known by their places
    and classes.

    Parameters
    ----------
    picks
        Picks as they were found or read, before any edit.
    volume
        Their tomogram.
    """
    name = picks.tomogram if volume is None else volume.name
    source = name if volume is None or not volume.source else str(Path(volume.source).resolve())
    run = Run.from_metadata(picks.metadata)
    known = sha256(f"{source}|{picks.shape if volume is None else volume.shape}".encode())
    if run is not None and run.sha256:
        known.update(f"{run.model}|{run.sha256}".encode())
    else:
        order = np.lexsort(picks.positions.round(1).T)
        known.update(picks.positions.round(1)[order].tobytes())
        known.update("|".join(picks.labels[order].tolist()).encode())
    plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in Path(name).stem)[:40]
    return data_folder() / "reviews" / f"{plain or 'picks'}-{known.hexdigest()[:16]}.json"


def keep(path: Path, review: Review) -> None:
    """Write what was decided; the file is there whole at any moment.

    Raises
    ------
    FormatError
        If the file cannot be written.
    """
    make_folder(path.parent)
    with write_aside(path) as aside:
        aside.write_text(json.dumps({"version": 1, "picks": review.rows()}), encoding="utf-8")


def kept_rows(path: Path) -> list[Row]:
    """Rows of a review that was kept; none if the file is missing or damaged."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["picks"]
        return [row for row in rows if _is_row(row)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []


def _is_row(row: Row) -> bool:
    """Whether a row is what `Review.rows` writes, which a damaged file may not be."""
    types = {"class": str, "found_as": str | None, "score": float | int | None,
             "radius": float | int | None, "seen": bool}  # fmt: skip
    return (
        all(isinstance(row[name], type) for name, type in types.items())
        and _is_place(row["at"])
        and (row["found"] is None or _is_place(row["found"]))
        and row["state"] in (UNDECIDED, ACCEPTED, REJECTED, DELETED)
    )


def _is_place(place: object) -> bool:
    return (
        isinstance(place, list)
        and len(place) == 3
        and all(isinstance(x, float | int) and np.isfinite(x) for x in place)
    )
