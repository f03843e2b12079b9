"""`Run`: what a result says about where it comes from, and how to get it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from napari_vox3d import __version__
from napari_vox3d.provenance import scripts

KEY = "run"  # in the metadata of volumes, picks, and layers
_MARK = "napari-vox3d run "  # before the JSON where a format holds free text


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Run:
    """One call of a public function.

    Parameters
    ----------
    function
        Public name in `napari_vox3d`: ``"predict_elf"``, ``"score_particles"``,
        ``"pick_particles"``, ``"find_similar"``, ``"train_picker"``, ``"train_elf"``,
        ``"pick_files"`` or ``"predict_elf_files"``.
    source
        Path of the file that it worked on, or the name of a layer that has none. What works on
        several has them among its arguments.
    arguments
        Keyword arguments that differ from the defaults, of JSON types. Some are written simpler
        than the functions take them: ``"examples"`` is a list of [tomogram, [pick files]],
        ``"classes"`` of `train_picker` are radii in Å by name, ``"elfs"`` are paths; and
        ``"member"`` counts from 0 which volume of its file a tomogram is.
    model
        Name of the model, or the path it was loaded from; empty if there is none.
    sha256
        Of its weights; empty if it has none.
    version
        Of this package.
    voxel_size
        Å (z, y, x) of the tomogram, or of the grid of the result; six digits; or None.
    when
        Time of the call in ISO form.
    edited
        Whether somebody changed the result by hand since; the run gives it as it was before.
    """

    function: str
    source: str
    arguments: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    sha256: str = ""
    version: str = __version__
    voxel_size: tuple[float, float, float] | None = None
    when: str = field(default_factory=_now)
    edited: bool = False

    def __post_init__(self) -> None:
        if self.voxel_size is not None:
            z, y, x = (round(float(edge), 6) for edge in self.voxel_size)
            object.__setattr__(self, "voxel_size", (z, y, x))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Run | None:
        """Run in the metadata of a volume, of picks or of a layer; None if there is none."""
        stored = metadata.get(KEY)
        if not isinstance(stored, Mapping) or not {"function", "source"} <= stored.keys():
            return None
        known = {each.name: stored[each.name] for each in fields(cls) if each.name in stored}
        return cls(**known)

    def as_metadata(self) -> dict[str, Any]:
        """Give ``{"run": {…}}`` of JSON types, to be merged into metadata."""
        stored = asdict(self)
        if self.voxel_size is not None:
            stored["voxel_size"] = list(self.voxel_size)
        return {KEY: stored}

    @property
    def missing(self) -> list[str]:
        """Sources that are no file here; scripts and commands ask for their paths."""
        return scripts.missing(self)

    def as_script(self, *, save_as: str = "") -> str:
        """Write Python that makes the same result and saves it.

        Parameters
        ----------
        save_as
            File of the result, or folder of a trained model. Default: a name made from the
            source, in the working folder; for models, among the user's.

        Raises
        ------
        Vox3dError
            If there is no script for the function.
        """
        return scripts.script(self, save_as)

    def as_command(self, *, save_as: str = "") -> str:
        """Write the `vox3d` command that makes the same result and saves it.

        Parameters
        ----------
        save_as
            As for `as_script`.

        Raises
        ------
        Vox3dError
            If no command does what the function does.
        """
        return scripts.command(self, save_as)


def changed(**pairs: tuple[Any, Any]) -> dict[str, Any]:
    """Arguments that differ from their defaults, from pairs (value, default) by name."""
    return {name: value for name, (value, default) in pairs.items() if value != default}


def model_name(given: object, name: str) -> str:
    """Give what finds a model again: the name or path given, or its own name for the default."""
    return str(given) if isinstance(given, str | Path) and str(given) != "default" else name


def as_text(metadata: Mapping[str, Any], most: int) -> str:
    """Write the run in some metadata as one line of ASCII, for the comment of a file.

    Parameters
    ----------
    metadata
        Of a volume or of picks.
    most
        Characters that the file has room for.

    Returns
    -------
    str
        Empty if there is no run, or no room for all of it.
    """
    run = Run.from_metadata(metadata)
    if run is None:
        return ""
    stored = {name: value for name, value in run.as_metadata()[KEY].items() if value}
    text = _MARK + as_json(stored)
    return text if len(text) <= most else ""


def as_json(value: Any) -> str:
    """Write one line of ASCII that no program takes for more than a comment."""
    text = json.dumps(value, separators=(",", ":"))
    # RELION takes a comment with data_ or loop_ in it for the beginning of a table.
    return text.replace("data_", "data\\u005f").replace("loop_", "loop\\u005f")


def from_json(text: str) -> Any:
    """Read what `as_json` wrote; None if it is something else."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def split_text(text: str) -> tuple[str, dict[str, Any]]:
    """Split a comment into what else it says and the metadata that `as_text` wrote there.

    Parameters
    ----------
    text
        Comment of a file, with a run or without.

    Returns
    -------
    (str, dict)
        The text without the run, and ``{"run": {…}}``; empty if there is none that is whole.
    """
    before, found, stored = text.partition(_MARK)
    if not found:
        return text, {}
    try:
        run, end = json.JSONDecoder().raw_decode(stored)
    except ValueError:  # cut off, or edited
        return text, {}
    known = Run.from_metadata({KEY: run})
    if known is None:
        return text, {}
    return " ".join(filter(None, (before.strip(), stored[end:].strip()))), known.as_metadata()
