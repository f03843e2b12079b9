"""What each pick file can hold: the table that menus, commands and `write_picks` go by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class PickFormat:
    """What one format of pick files is called and what it can hold.

    Parameters
    ----------
    title
        Name for people: the program it belongs to.
    suffix
        How names of its files end, in lower case.
    module
        The module of `napari_vox3d.formats` that reads and writes it.
    classes
        ``"names"``, ``"numbers"``, ``"one"`` (a file holds one class), or ``"none"``.
    counts_in
        Unit of positions: ``"angstrom"`` or ``"voxels"``.
    scores, angles, radii, decisions
        Whether it holds them; what cannot hold decisions is given no rejected picks.
    several_tomograms
        Whether a file may hold picks of several tomograms, of which one is read.
    needs
        What picks must know of their tomogram to be written: ``"voxel size"``, ``"shape"``.
    options
        What its `write` is told.
    """

    title: str
    suffix: str
    module: str
    classes: Literal["names", "numbers", "one", "none"]
    counts_in: Literal["angstrom", "voxels"] = "voxels"
    scores: bool = False
    angles: bool = False
    radii: bool = False
    decisions: bool = False
    several_tomograms: bool = False
    needs: tuple[str, ...] = ("voxel size",)
    options: Mapping[str, bool] = field(default_factory=dict)


# The first format of a suffix is its default.
PICK_FORMATS: dict[str, PickFormat] = {
    "relion5": PickFormat(
        "RELION 5", ".star", "star", "names", "angstrom", scores=True, angles=True, radii=True,
        decisions=True,
        several_tomograms=True, needs=("voxel size", "shape"), options={"centred": True},
    ),
    "relion4": PickFormat(
        "RELION 4, Warp", ".star", "star", "names", scores=True, angles=True, radii=True,
        decisions=True,
        several_tomograms=True, options={"centred": False},
    ),
    "copick": PickFormat(
        "copick", ".json", "copick", "one", "angstrom", scores=True, angles=True, needs=(),
    ),
    "copick-project": PickFormat(
        "copick project", "_config.json", "copick_project", "names", "angstrom", scores=True,
        angles=True, radii=True, several_tomograms=True, needs=(),
    ),
    "dynamo": PickFormat(
        "Dynamo", ".tbl", "dynamo", "numbers", scores=True, angles=True, several_tomograms=True,
    ),
    "imod": PickFormat("IMOD model", ".mod", "imod", "names", scores=True, radii=True),
    "imod-points": PickFormat("IMOD points", ".txt", "imod_points", "numbers"),
    "eman2": PickFormat(
        "EMAN2", "_info.json", "eman", "names", scores=True, needs=("voxel size", "shape"),
    ),
    "cbox": PickFormat("crYOLO", ".cbox", "cbox", "none", scores=True, radii=True),
    "coords": PickFormat("TomoTwin, boxmanager", ".coords", "coords", "none"),
    "portal": PickFormat("CryoET Data Portal", ".ndjson", "portal", "one", angles=True),
    "csv": PickFormat(
        "Table", ".csv", "table", "names", "angstrom", scores=True, angles=True, radii=True,
        decisions=True,
        several_tomograms=True, needs=(),
    ),
}  # fmt: skip
"""Formats of `write_picks` by the name it knows them by."""


def pick_format_by_name(path: Path) -> str | None:
    """Name of the format that the file's name says, or None; the longest suffix decides."""
    name = path.name.lower()
    if name == "config.json":  # what the documents of copick call it
        return "copick-project"
    fitting = [key for key, known in PICK_FORMATS.items() if name.endswith(known.suffix)]
    return max(fitting, key=lambda key: len(PICK_FORMATS[key].suffix), default=None)


def names_of_pick_files() -> str:
    """Suffixes and formats in one line, for messages."""
    suffixes = dict.fromkeys(known.suffix for known in PICK_FORMATS.values())
    return ", ".join(
        f"{suffix} ({', '.join(key for key, f in PICK_FORMATS.items() if f.suffix == suffix)})"
        for suffix in suffixes
    )
