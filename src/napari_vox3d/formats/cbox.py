"""Boxes of crYOLO and its boxmanager (``.cbox``), a STAR file with a block ``cryolo``.

``CoordinateX`` and ``CoordinateY`` are the lower corner of a box, in voxels counted from 0;
``CoordinateZ`` is its centre (``MPI-Dortmund/napari-boxmanager: src/box_manager/io/cbox.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import write_aside
from napari_vox3d.formats.comments import read_run, write_runs
from napari_vox3d.formats.frame import (
    UNNAMED_CLASS,
    frame_of,
    voxel_size_for_reading,
    voxel_size_for_writing,
)
from napari_vox3d.formats.relion_project import read_blocks
from napari_vox3d.picks import Picks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas import DataFrame

    from napari_vox3d.volume import Volume

_CORNER = [f"Coordinate{axis}" for axis in "ZYX"]
_BOX = ["Width", "Height"]
_BOX_WITHOUT_RADIUS = 10.0  # voxels
_MISSING = "<NA>"


def read(path: str | Path, volume: Volume | None = None) -> Picks:
    """Read boxes; their estimated width, where there is one, is the diameter of the particle.

    Parameters
    ----------
    path
        File of boxes in a tomogram.
    volume
        The tomogram; needed for the voxel size.

    Raises
    ------
    FormatError
        If this is no such file, its boxes are of a flat image, or `volume` is None.
    """
    path = Path(path)
    boxes = _read_boxes(path)
    voxel_size = voxel_size_for_reading(path, volume)
    corners, sides = _columns(path, boxes, _CORNER), _columns(path, boxes, _BOX)
    if np.isnan(corners[:, 0]).any():
        raise FormatError(path, "holds boxes of a flat image (no CoordinateZ)")
    if not (np.isfinite(corners).all() and np.isfinite(sides).all()):
        raise FormatError(path, "holds a box without corner or width")
    indices = corners + np.column_stack([np.zeros(len(sides)), sides[:, 1] / 2, sides[:, 0] / 2])
    widths = _columns(path, boxes, ["EstWidth"])[:, 0]
    return Picks(
        indices * voxel_size,
        np.array(UNNAMED_CLASS),
        _columns(path, boxes, ["Confidence"])[:, 0],
        radii=widths / 2 * voxel_size[-1] if len(widths) and np.isfinite(widths).all() else None,
        metadata=read_run(path, ""),
        **frame_of(volume),
    )


def write(path: str | Path, picks: Picks) -> None:
    """Write picks of all classes as boxes as wide as the particles.

    Raises
    ------
    FormatError
        If the picks carry no voxel size, or the file cannot be written.
    """
    import pandas as pd
    import starfile

    voxel_size = voxel_size_for_writing(Path(path), picks)
    indices = picks.positions / voxel_size
    missing = np.full(len(picks), np.nan)
    widths = missing if picks.radii is None else 2 * picks.radii / voxel_size[-1]
    sides = np.where(np.isnan(widths), _BOX_WITHOUT_RADIUS, widths)
    cryolo = {
        "CoordinateX": indices[:, 2] - sides / 2,
        "CoordinateY": indices[:, 1] - sides / 2,
        "CoordinateZ": indices[:, 0],
        **dict.fromkeys(("Width", "Height", "Depth"), sides),
        **dict.fromkeys(("EstWidth", "EstHeight"), widths),
        "Confidence": np.asarray(picks.scores),
        **dict.fromkeys(("NumBoxes", "Angle"), missing),
    }
    blocks: dict[str, Any] = {
        "global": {"cbox_format_version": "1.0"},
        "cryolo": pd.DataFrame(cryolo),
        "cryolo_include": pd.DataFrame({"slice_index": np.unique(np.rint(indices[:, 0]))}),
    }
    with write_aside(path) as aside:
        starfile.write(blocks, aside, float_format="%.6f", na_rep=_MISSING, overwrite=True)
        write_runs(aside, {"": picks.metadata})


def _read_boxes(path: Path) -> DataFrame:
    boxes = read_blocks(path).get("cryolo")
    if boxes is None:
        raise FormatError(path, "is not a .cbox file of crYOLO (no block 'cryolo')")
    return boxes


def _columns(path: Path, boxes: Any, names: list[str]) -> NDArray[np.float64]:
    """(N, names) values; NaN where the file has none."""
    try:
        return (
            boxes.reindex(columns=names).replace({_MISSING: np.nan, "None": np.nan}).to_numpy(float)
        )
    except ValueError as error:
        raise FormatError(path, f"has unreadable values ({error})", where=names[0]) from None
