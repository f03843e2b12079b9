"""Points of the CryoET Data Portal (``.ndjson``): a JSON object a line, of one kind of object.

``location`` is x, y, z in voxels of the annotated tomogram, counted from 0;
``xyz_rotation_matrix`` turns the particle's frame into the tomogram's. The name of the object is in
the name of the file, ``101-cytosolic_ribosome-1.0_orientedpoint.ndjson``. See
https://chanzuckerberg.github.io/cryoet-data-portal/.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import write_aside
from napari_vox3d.formats.frame import (
    UNNAMED_CLASS,
    frame_of,
    voxel_size_for_reading,
    voxel_size_for_writing,
)
from napari_vox3d.formats.orientations import from_matrices, to_matrices
from napari_vox3d.picks import Picks

if TYPE_CHECKING:
    from napari_vox3d.volume import Volume

_NAME = re.compile(r"(?:\d+-)?(?P<object>.+)-\d+(?:\.\d+)+_(?:oriented|instance)?point", re.I)
_MATRIX = "xyz_rotation_matrix"
_KINDS = ("point", "orientedPoint", "instancePoint")


def read(path: str | Path, volume: Volume | None = None) -> Picks:
    """Read the points of an annotation file.

    Parameters
    ----------
    path
        File of points, oriented points or instance points.
    volume
        The tomogram; needed for the voxel size.

    Raises
    ------
    FormatError
        If a line is no JSON or no such point, or `volume` is None.
    """
    path = Path(path)
    indices, matrices = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            point = json.loads(line)
            indices.append([float(point["location"][axis]) for axis in "zyx"])
            matrix = np.array(point.get(_MATRIX) or np.eye(3), float).reshape(3, 3)
            known = point.get("type", "point") in _KINDS
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            known = False
        if not known or not np.isfinite([*indices[-1], *matrix.flat]).all():
            raise FormatError(
                path, "is not a point of the CryoET Data Portal", where=f"line {number}"
            )
        matrices.append(matrix)
    voxel_size = voxel_size_for_reading(path, volume)
    named = _NAME.fullmatch(path.stem)
    return Picks(
        np.array(indices, float).reshape(-1, 3) * voxel_size,
        np.array(named["object"] if named else UNNAMED_CLASS),
        angles=from_matrices(np.array(matrices).reshape(-1, 3, 3)),
        **frame_of(volume),
    )


def write(path: str | Path, picks: Picks) -> None:
    """Write the positions, and the orientations if they are known, of all classes.

    Raises
    ------
    FormatError
        If the picks carry no voxel size, or the file cannot be written.

    Warns
    -----
    UserWarning
        If there are several classes, which the file does not tell apart.
    """
    path = Path(path)
    indices = picks.positions / voxel_size_for_writing(path, picks)
    if len(picks.classes) > 1:
        warnings.warn(
            f"{path.name} does not tell its {len(picks.classes)} classes apart. For the portal, "
            "write each class to a file of its own.",
            stacklevel=3,
        )
    lines = []
    for index, matrix in zip(indices.tolist(), to_matrices(picks).tolist(), strict=True):
        point: dict[str, Any] = {"type": "point", "location": dict(zip("zyx", index, strict=True))}
        if picks.angles is not None:
            point |= {"type": "orientedPoint", _MATRIX: matrix}
        lines.append(json.dumps(point))
    with write_aside(path) as aside:
        aside.write_text("\n".join(lines), encoding="utf-8")
