"""Picks of one object in one run as copick keeps them (JSON).

Positions are Å (x, y, z) from the centre of the first voxel; see
https://github.com/copick/copick, ``CopickPicksFile``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import write_aside
from napari_vox3d.formats.frame import UNNAMED_CLASS, frame_of
from napari_vox3d.picks import Picks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.volume import Volume


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
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise FormatError(path, f"is not valid JSON ({error.msg})", where=f"line {error.lineno}") \
            from None  # fmt: skip
    if not isinstance(content, dict) or "points" not in content:
        raise FormatError(path, "is not a copick picks file (no 'points')")
    unit = content.get("unit") or "angstrom"
    if unit != "angstrom":
        raise FormatError(path, f"gives positions in {unit!r}; copick means 'angstrom'")
    points = content["points"] or []
    try:
        positions = [[float(point["location"][axis]) for axis in "zyx"] for point in points]
        scores = [np.nan if (s := point.get("score")) is None else float(s) for point in points]
        poses = np.array([point.get("transformation_") or np.eye(4) for point in points], float)
        poses = poses.reshape(-1, 4, 4)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(path, f"holds a point that is not one of copick's ({error!r})") from None
    frame = {"tomogram": content.get("run_name") or "", "voxel_size": content.get("voxel_spacing")}
    return Picks(
        np.array(positions, float).reshape(-1, 3),
        np.array(content.get("pickable_object_name") or UNNAMED_CLASS),
        np.array(scores),
        _angles(poses[:, :3, :3]),
        metadata={key: content[key] for key in ("user_id", "session_id") if key in content},
        **{**frame, **frame_of(volume)},
    )


def write(path: str | Path, picks: Picks) -> list[Path]:
    """Write picks as copick files, one per class.

    A copick file holds one object. Picks of one class go to `path`; of several, to
    ``NAME_CLASS.json`` beside it.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    FormatError
        If a file cannot be written.
    """
    path = Path(path)
    if len(picks.classes) < 2:
        _write_object(path, picks)
        return [path]
    paths = []
    for label in picks.classes:
        target = path.with_name(f"{path.stem}_{_object_name(label)}{path.suffix}")
        _write_object(target, picks.select(picks.labels == label))
        paths.append(target)
    return paths


def _write_object(path: Path, picks: Picks) -> None:
    poses = _transformations(picks)
    points = [
        {
            "location": dict(zip("zyx", position, strict=True)),
            "transformation_": pose,
            "instance_id": 0,
            "score": None if np.isnan(score) else score,
        }
        for position, pose, score in zip(
            picks.positions.tolist(), poses.tolist(), np.asarray(picks.scores).tolist(), strict=True
        )
    ]
    content: dict[str, Any] = {
        "pickable_object_name": _object_name(picks.classes[0] if len(picks) else UNNAMED_CLASS),
        "user_id": picks.metadata.get("user_id", "vox3d"),
        "session_id": picks.metadata.get("session_id", "0"),
        "run_name": picks.tomogram,
        "voxel_spacing": None if picks.voxel_size is None else float(picks.voxel_size[-1]),
        "unit": "angstrom",
        "trust_orientation": picks.angles is not None,
        "points": points,
    }
    with write_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _object_name(label: str) -> str:
    """Copick forbids underscores and blanks in names, as it builds file names with them."""
    return re.sub(r"[^\w.()-]|_", "-", label)


def _transformations(picks: Picks) -> NDArray[np.float64]:
    """(N, 4, 4) rotations from the particle's to the tomogram's frame, x, y, z."""
    poses = np.tile(np.eye(4), (len(picks), 1, 1))
    if picks.angles is not None and len(picks):
        from scipy.spatial.transform import Rotation

        # RELION's matrix turns the tomogram's frame into the particle's: copick's is its inverse.
        poses[:, :3, :3] = Rotation.from_euler("ZYZ", picks.angles, degrees=True).inv().as_matrix()
    return poses


def _angles(rotations: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(N, 3) Euler angles, or None if no particle is turned."""
    if np.allclose(rotations, np.eye(3)):
        return None
    from scipy.spatial.transform import Rotation

    return (
        Rotation.from_matrix(rotations).inv().as_euler("ZYZ", degrees=True, suppress_warnings=True)
    )
