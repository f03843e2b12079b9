"""EMAN2's ``info/NAME_info.json``: boxes of the sets that ``e2spt_boxer`` shows.

``boxes_3d`` holds ``[x, y, z, method, score, set]``, and ``class_list`` the names of the sets.
Where the file states ``apix_unbin``, coordinates are unbinned pixels from the centre of the
tomogram, voxel ``size // 2``; in older files they are voxels of the tomogram counted from 0
(``cryoem/eman2: programs/e2spt_boxer.py``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import write_aside
from napari_vox3d.formats.frame import (
    frame_of,
    voxel_size_for_reading,
    voxel_size_for_writing,
)
from napari_vox3d.formats.opening import parse_json
from napari_vox3d.picks import Picks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.volume import Volume

_MANUAL = "manual"  # how e2spt_boxer marks boxes of the mouse, whose score says nothing
_BOX = 64  # unbinned pixels, e2spt_boxer's own default


def read(path: str | Path, volume: Volume | None = None) -> Picks:
    """Read the boxes of all sets in an info file.

    Parameters
    ----------
    path
        Info file of one tomogram.
    volume
        The tomogram, for its voxel size and, in files with ``apix_unbin``, its shape.

    Raises
    ------
    FormatError
        If this is no info file, it has no boxes, or `volume` is None.
    """
    path = Path(path)
    content = _read_json(path)
    if "boxes_3d" not in content:
        raise FormatError(path, "is not an EMAN2 info file with boxes (no 'boxes_3d')")
    voxel_size = voxel_size_for_reading(path, volume)
    frame = frame_of(volume)
    try:
        boxes = [[*box, *[_MANUAL, 0.0, 0][len(box) - 3 :]] for box in content["boxes_3d"]]
        indices = np.array([box[2::-1] for box in boxes], float).reshape(-1, 3)
        scores = [np.nan if box[3] == _MANUAL else float(box[4]) for box in boxes]
        labels = [_name_of(int(box[5]), content) for box in boxes]
        unbinned = float(content.get("apix_unbin") or 0)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FormatError(path, f"holds a box that is not one of EMAN2's ({error!r})") from None
    if not np.isfinite(indices).all():
        raise FormatError(path, "holds a box without coordinates")
    if unbinned:
        indices = indices * unbinned / voxel_size + _centre(frame["shape"])
    metadata = {"tilt_series_pixel_size": unbinned} if unbinned else {}
    return Picks(
        indices * voxel_size, np.array(labels, str), np.array(scores), metadata=metadata, **frame
    )


def write(path: str | Path, picks: Picks) -> None:
    """Write picks into an info file, each class as a set.

    An info file that is there already keeps all else that EMAN2 has stored in it, boxes of other
    sets included.

    Raises
    ------
    FormatError
        If the picks carry no voxel size or no shape, the file is there and is no info file, or it
        cannot be written.
    """
    path = Path(path)
    voxel_size = voxel_size_for_writing(path, picks)
    if picks.shape is None:
        raise FormatError(
            path,
            "counts from the centre of the tomogram, whose size these picks lack",
            hint="Read the picks together with their tomogram.",
        )
    content = _read_json(path) if path.exists() and path.stat().st_size else {}
    unbinned = float(
        content.get("apix_unbin")
        or picks.metadata.get("tilt_series_pixel_size")
        or voxel_size[-1]
    )  # fmt: skip
    indices = picks.positions / voxel_size
    coordinates = (indices - _centre(picks.shape)) * voxel_size / unbinned
    sets = {int(number): name for number, name in content.get("class_list", {}).items()}
    numbers = _numbers_of(picks.classes, sets)
    kept = [box for box in content.get("boxes_3d", []) if _set_of(box) not in numbers.values()]
    boxes = [
        [*xyz, *([_MANUAL, 0.0] if np.isnan(score) else ["vox3d", score]), numbers[label]]
        for xyz, score, label in zip(
            coordinates[:, ::-1].tolist(),
            np.asarray(picks.scores).tolist(),
            picks.labels.tolist(),
            strict=True,
        )
    ]
    for label, number in numbers.items():
        sets.setdefault(number, {"name": label, "boxsize": _box_size(picks, label, unbinned)})
    content |= {
        "apix_unbin": unbinned,
        "boxes_3d": kept + boxes,
        "class_list": {str(number): sets[number] for number in sorted(sets)},
    }
    with write_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    content = parse_json(path, path.read_text(encoding="utf-8-sig"))
    if not isinstance(content, dict) or not isinstance(content.get("class_list", {}), dict):
        raise FormatError(path, "is not an EMAN2 info file")
    return content


def _centre(shape: tuple[int, int, int]) -> NDArray[np.int64]:
    return np.asarray(shape) // 2


def _set_of(box: list[Any]) -> int:
    return int(box[5]) if len(box) > 5 else 0


def _name_of(number: int, content: dict[str, Any]) -> str:
    """Name of a set; e2spt_boxer's own for one that has none."""
    known = content.get("class_list", {}).get(str(number))
    return str(known["name"]) if isinstance(known, dict) else f"particles_{number:02d}"


def _numbers_of(labels: list[str], sets: dict[int, Any]) -> dict[str, int]:
    """Numbers of classes: those of the sets of these names, new ones for the others."""
    known = {entry["name"]: number for number, entry in sets.items() if isinstance(entry, dict)}
    numbers: dict[str, int] = {}
    free = max(sets, default=-1) + 1
    for label in labels:
        numbers[label] = known.get(label, free)
        free += label not in known
    return numbers


def _box_size(picks: Picks, label: str, unbinned: float) -> int:
    """Side of a box in unbinned pixels, half as wide again as the particles; even."""
    if picks.radii is None:
        return _BOX
    return 2 * int(np.ceil(1.5 * np.max(picks.radii[picks.labels == label]) / unbinned))
