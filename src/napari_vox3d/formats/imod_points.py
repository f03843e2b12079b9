"""Point lists of IMOD, as ``model2point`` writes and ``point2model`` reads them.

Lines hold x y z, or contour x y z, or object contour x y z, in the coordinates of models: x and y
count from the edge of the first voxel, z from the centre of the first slice (see `imod`).
https://bio3d.colorado.edu/imod/doc/man/point2model.html
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import write_aside
from napari_vox3d.formats.frame import (
    UNNAMED_CLASS,
    frame_of,
    voxel_size_for_reading,
    voxel_size_for_writing,
)
from napari_vox3d.formats.imod import CENTRE
from napari_vox3d.picks import Picks

if TYPE_CHECKING:
    from napari_vox3d.volume import Volume


def read(path: str | Path, volume: Volume | None = None) -> Picks:
    """Read a point list; numbers of objects become classes, and `volume` gives the voxel size.

    Raises
    ------
    FormatError
        If lines do not hold three, four or five finite numbers, all alike, or `volume` is None.
    """
    path = Path(path)
    rows: list[list[float]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        row = _numbers(line)
        if row == []:
            continue
        if row is None or len(row) != len(rows[0] if rows else row):
            raise FormatError(
                path,
                f"wants x y z, contour x y z or object contour x y z, not {line!r}",
                where=f"line {number}",
            )
        rows.append(row)
    voxel_size = voxel_size_for_reading(path, volume)
    table = np.array(rows, float).reshape(len(rows), -1 if rows else 3)
    labels = [f"{n:.0f}" for n in table[:, 0]] if table.shape[1] == 5 else UNNAMED_CLASS
    positions = (table[:, :-4:-1] - CENTRE) * voxel_size
    return Picks(positions, np.array(labels, str), **frame_of(volume))


def write(path: str | Path, picks: Picks) -> None:
    """Write the positions of all classes; several classes become objects 1, 2 and so on.

    Raises
    ------
    FormatError
        If the picks carry no voxel size, or the file cannot be written.
    """
    table = (picks.positions / voxel_size_for_writing(Path(path), picks) + CENTRE)[:, ::-1]
    form = ["%.4f"] * 3
    if len(picks.classes) > 1:
        objects = [picks.classes.index(label) + 1 for label in picks.labels]
        table = np.column_stack([objects, np.ones(len(picks)), table])
        form = ["%d", "%d", *form]
    with write_aside(path) as aside:
        np.savetxt(aside, table, fmt=form)


def is_point_list(path: Path) -> bool:
    """Whether the first line that is not blank holds three to five numbers."""
    with path.open("rb") as file:
        head = file.read(1024)
    line = next((line for line in head.splitlines() if line.strip()), b"")
    return bool(_numbers(line.decode("ascii", "replace")))


def _numbers(line: str) -> list[float] | None:
    """Numbers of a line: none if it is blank; None if they are not three to five finite ones."""
    words = line.split()
    try:
        row = [float(word) for word in words]
    except ValueError:
        return None
    return row if not row or (len(row) in (3, 4, 5) and np.isfinite(row).all()) else None
