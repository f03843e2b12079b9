"""Picks of one object in one tomogram as copick keeps them (JSON).

Positions are Å (x, y, z) from the centre of the first voxel; see
https://github.com/copick/copick, ``CopickPicksFile``.
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
from napari_vox3d.formats.frame import UNNAMED_CLASS, frame_of
from napari_vox3d.formats.opening import parse_json
from napari_vox3d.formats.orientations import from_matrices, to_matrices
from napari_vox3d.picks import Picks
from napari_vox3d.provenance import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.volume import Volume

_OBJECT = "pickable_object_name"
_RUN = "vox3d_run"  # a key that copick passes over


def read(path: str | Path, volume: Volume | None = None) -> Picks:
    """Read a copick picks file.

    Parameters
    ----------
    path
        JSON file.
    volume
        The tomogram, for its shape and voxel size; the file may give the latter itself.

    Raises
    ------
    FormatError
        If this is no JSON, no copick file, or not in Å.
    """
    path = Path(path)
    content = parse_json(path, path.read_text(encoding="utf-8-sig"))
    if not isinstance(content, dict) or "points" not in content:
        raise FormatError(path, "is not a copick picks file (no 'points')")
    unit = content.get("unit") or "angstrom"
    if unit != "angstrom":
        raise FormatError(path, f"gives positions in {unit!r}; copick means 'angstrom'")
    points = content["points"] or []
    try:
        locations = [[float(point["location"][axis]) for axis in "xyz"] for point in points]
        scores = [np.nan if (s := point.get("score")) is None else float(s) for point in points]
        common = content.get(_OBJECT) or UNNAMED_CLASS
        labels = np.array([point.get(_OBJECT, common) for point in points], str)
        poses = np.array([point.get("transformation_") or np.eye(4) for point in points], float)
        poses = poses.reshape(-1, 4, 4)
        trusted = content.get("trust_orientation") is not False
        angles = from_matrices(poses[:, :3, :3]) if trusted else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(path, f"holds a point that is not one of copick's ({error!r})") from None
    run = Run.from_metadata({"run": content.get(_RUN)})
    frame = frame_of(volume)
    if content.get("voxel_spacing"):
        frame = {"voxel_size": _voxel_size(path, content["voxel_spacing"])}
    frame["tomogram"] = str(content.get("run_name") or (volume.name if volume else ""))
    # A pose may hold a shift, found by refinement, that adds to the location.
    positions = np.array(locations, float).reshape(-1, 3) + poses[:, :3, 3]
    return Picks(
        positions[:, ::-1],
        labels,
        np.array(scores),
        angles,
        metadata={
            **{key: content[key] for key in ("user_id", "session_id") if key in content},
            **({} if run is None else run.as_metadata()),
        },
        **frame,
    )


def _voxel_size(path: Path, stated: Any) -> float:
    if not isinstance(stated, float | int) or not 0 < stated < np.inf:
        raise FormatError(path, f"gives {stated!r} as voxel size", where="voxel_spacing")
    return float(stated)


def write(path: str | Path, picks: Picks) -> None:
    """Write picks as a copick file.

    A copick file holds one object. Picks of several classes are written all the same, each point
    with its own ``pickable_object_name``, which this module reads back and copick does not.

    Raises
    ------
    FormatError
        If the file cannot be written.

    Warns
    -----
    UserWarning
        If there are several classes.
    """
    names = [object_name(label) for label in picks.labels]
    mixed = len(set(names)) > 1
    if mixed:
        warnings.warn(
            f"{Path(path).name} holds {len(set(names))} classes, which copick would take for one "
            "object. For copick, write each class to a file of its own.",
            stacklevel=3,
        )
    poses = transformations(picks)
    points = [
        {
            "location": dict(zip("zyx", position, strict=True)),
            "transformation_": pose,
            "instance_id": 0,
            "score": None if np.isnan(score) else score,
            **({_OBJECT: name} if mixed else {}),
        }
        for position, pose, score, name in zip(
            picks.positions.tolist(),
            poses.tolist(),
            np.asarray(picks.scores).tolist(),
            names,
            strict=True,
        )
    ]
    content: dict[str, Any] = {
        _OBJECT: names[0] if len(set(names)) == 1 else UNNAMED_CLASS,
        "user_id": picks.metadata.get("user_id", "vox3d"),
        "session_id": picks.metadata.get("session_id", "0"),
        "run_name": picks.tomogram,
        "voxel_spacing": None if picks.voxel_size is None else float(picks.voxel_size[-1]),
        "unit": "angstrom",
        "trust_orientation": picks.angles is not None,
        "points": points,
    }
    if (run := Run.from_metadata(picks.metadata)) is not None:
        content[_RUN] = run.as_metadata()["run"]
    with write_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=1), encoding="utf-8")


def object_name(label: str) -> str:
    """Copick forbids underscores and blanks in names, as it builds file names with them."""
    return re.sub(r"[^\w.()-]|_", "-", label).strip("-") or UNNAMED_CLASS


def transformations(picks: Picks) -> NDArray[np.float64]:
    """(N, 4, 4) rotations from the particle's to the tomogram's frame, x, y, z."""
    poses = np.tile(np.eye(4), (len(picks), 1, 1))
    poses[:, :3, :3] = to_matrices(picks)
    return poses
