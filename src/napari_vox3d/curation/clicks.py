"""Clicks to train from, kept in the user's data folder so that none is lost with the program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_vox3d.formats.aside import make_folder, write_aside
from napari_vox3d.models.preferences import data_folder

_FOLDER = "trainings"


@dataclass(frozen=True)
class ClickedTomogram:
    """A tomogram and one layer of points on its particles.

    Parameters
    ----------
    tomogram
        Its name.
    source
        File that it was read from; empty if it came from elsewhere.
    shape
        Voxels (z, y, x).
    voxel_size
        Å (z, y, x).
    points
        Name of the layer.
    positions
        Å (z, y, x) from the centre of the first voxel.
    labels
        Class of each; None if the layer has no classes.
    diameters
        Å, as the points are shown.
    """

    tomogram: str
    source: str
    shape: Sequence[int]
    voxel_size: Sequence[float]
    points: str
    positions: Sequence[Sequence[float]]
    labels: Sequence[str] | None
    diameters: Sequence[float]


@dataclass(frozen=True)
class Clicks:
    """What a training starts from.

    Parameters
    ----------
    name
        Of the model to be.
    examples
        Tomograms with points.
    settings
        Of the window, of JSON types.
    """

    name: str
    examples: Sequence[ClickedTomogram]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of points."""
        return sum(len(example.positions) for example in self.examples)

    def keep(self) -> None:
        """Write the clicks; the file is there whole at any moment.

        Raises
        ------
        FormatError
            If the file cannot be written.
        """
        path = _file(self.name)
        make_folder(path.parent)
        with write_aside(path) as aside:
            aside.write_text(json.dumps({"version": 1, **asdict(self)}), encoding="utf-8")


def kept_clicks() -> list[Clicks]:
    """Clicks that were kept, the last ones first; damaged files are left out."""
    files = sorted(_file("*").parent.glob("*.json"), key=_when, reverse=True)
    return [clicks for file in files if (clicks := _read(file)) is not None]


def forget_clicks(name: str) -> None:
    """Remove the clicks of a training, if there are some."""
    _file(name).unlink(missing_ok=True)


def _file(name: str) -> Path:
    return data_folder() / _FOLDER / f"{name}.json"


def _when(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # forgotten meanwhile
        return 0.0


def _read(file: Path) -> Clicks | None:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        del held["version"]
        clicks = Clicks(**held)
        if not isinstance(clicks.settings, dict):
            return None
        examples = [ClickedTomogram(**example) for example in held["examples"]]
        for example in examples:
            count = len(np.asarray(example.positions, float).reshape(-1, 3))
            columns = [example.diameters] if example.labels is None else [
                example.diameters, example.labels
            ]  # fmt: skip
            if any(len(column) != count for column in columns):
                return None
        return replace(clicks, examples=examples)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
