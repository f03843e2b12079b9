"""The comments that begin a text file and name the run that made what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_vox3d.provenance import Run, as_json, as_text, from_json, split_text

_LINE = 4000  # characters
_HEAD = 3  # lines, of which formats of volumes begin with one or two of text


def write_runs(path: Path, metadata: Mapping[str, Mapping[str, Any]]) -> None:
    """Put a comment before the text of a STAR file for each of its tomograms that tells of a run.

    Parameters
    ----------
    path
        File that is complete otherwise.
    metadata
        Metadata of picks by the name of their tomogram.
    """
    texts = {name: as_text(about, most=_LINE) for name, about in metadata.items()}
    lines = [f"# {text} {as_json(name)}\n" for name, text in texts.items() if text]
    if lines:
        content = path.read_bytes()
        path.write_bytes("".join(lines).encode() + content)


def read_run(path: Path, tomogram: str) -> dict[str, Any]:
    """Metadata of the run that a comment before the text names for a tomogram; or empty."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.startswith("#"):
                break
            name, run = split_text(line.removeprefix("#"))
            if run and from_json(name) == tomogram:
                return run
    return {}


def first_run(path: Path) -> Run | None:
    """Run that the first lines of a text file name, whatever its format; None if there is none."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for _ in range(_HEAD):
            _, run = split_text(file.readline(2 * _LINE))
            if run:
                return Run.from_metadata(run)
    return None
