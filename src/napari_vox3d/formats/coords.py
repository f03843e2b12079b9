"""Coordinate lists of crYOLO's boxmanager and TomoTwin: ``x y z`` a line, in voxels.

Positions are voxel indices, counted from 0. The format holds neither classes nor scores.
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
from napari_vox3d.picks import Picks

if TYPE_CHECKING:
    from napari_vox3d.volume import Volume


def read(path: str | Path, volume: Volume | None = None) -> Picks:
    """Read a coordinate list; `volume` is needed for the voxel size.

    Raises
    ------
    FormatError
        If a line does not hold three finite numbers, or `volume` is None.
    """
    path = Path(path)
    voxel_size = voxel_size_for_reading(path, volume)
    points = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            point = [float(word) for word in words]
        except ValueError:
            point = []
        if len(point) != 3 or not np.isfinite(point).all():
            hint = "Name a list of IMOD's model2point .txt." if len(point) in (4, 5) else ""
            raise FormatError(
                path, f"wants x, y and z, not {line!r}", where=f"line {number}", hint=hint
            )
        points.append(point)
    indices = np.array(points, float).reshape(-1, 3)[:, ::-1]
    return Picks(indices * voxel_size, np.array(UNNAMED_CLASS), **frame_of(volume))


def write(path: str | Path, picks: Picks) -> None:
    """Write the positions of all classes as voxel indices x, y, z.

    Raises
    ------
    FormatError
        If the picks carry no voxel size, or the file cannot be written.
    """
    indices = picks.positions / voxel_size_for_writing(Path(path), picks)
    with write_aside(path) as aside:
        np.savetxt(aside, indices[:, ::-1], fmt="%.6f")
