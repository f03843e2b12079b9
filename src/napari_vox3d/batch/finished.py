"""Which results are there already, of the same source and the same settings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_vox3d.batch.tasks import Task
from napari_vox3d.errors import FormatError
from napari_vox3d.formats import kind_of, read_picks, split_address
from napari_vox3d.formats.comments import first_run
from napari_vox3d.provenance import Run, model_name

if TYPE_CHECKING:
    from napari_vox3d.models.card import ModelCard

_SAID = {"classes": "choice of classes", "flips": "choice of mirror images"}


def why_to_do(task: Task, cards: Sequence[ModelCard]) -> str | None:
    """Say why a file has to be done.

    Results that tell of the run they come from must come from one like that asked for; of those
    that do not, or were edited by hand since, their name and date decide.

    Parameters
    ----------
    task
        What is asked for.
    cards
        The models that may do it.

    Returns
    -------
    str or None
        ``"another threshold before"`` or the like; empty if no result is there; None if one is
        that will do.
    """
    try:
        source, part = split_address(task.source)
        made = min(Path(path).stat().st_mtime for path in task.targets)
        # The date of a copick project is not that of its tomograms, and picks are written into it.
        if made < source.stat().st_mtime and not part:
            return "source changed since"
    except OSError:
        return ""
    run = _recorded(task)
    differences = [] if run is None or run.edited else _differences(task, run, cards)
    if not differences:
        return None
    return f"another {', '.join(differences)} before"


def _recorded(task: Task) -> Run | None:
    """Run that a result tells of; none if it is in a format, or of a program, that does not."""
    target = Path(task.target)
    if task.format != "copick":
        return first_run(target)
    with suppress(FormatError):
        return Run.from_metadata(read_picks(target, format=task.format).metadata)
    return None


def _differences(task: Task, run: Run, cards: Sequence[ModelCard]) -> list[str]:
    asked, there = _settings(task.options), _settings(run.arguments)
    if "spacing" in there and "spacing" not in asked and _is_structure(task.source):
        from napari_vox3d.inference.elf import DEFAULT_SPACING

        asked["spacing"] = DEFAULT_SPACING  # which runs name
    names = [name for name in sorted(asked | there) if asked.get(name) != there.get(name)]
    same_model = any(_is_model(run, card, task.model) for card in cards)
    said = [_SAID.get(name, name.replace("_", " ")) for name in names]
    return said if same_model else ["model", *said]


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """Settings that make a difference: not the device, nor what is a file of its own."""
    return {
        name: value for name, value in options.items()
        if name not in ("device", "uncertainty") and value not in (None, "auto")
    }  # fmt: skip


def _is_structure(source: str) -> bool:
    with suppress(FormatError):
        return kind_of(source) == "structure"
    return False


def _is_model(run: Run, card: ModelCard, given: str) -> bool:
    """Whether a run was made with a model: weights tell, or else names."""
    if run.sha256 or card.sha256:
        return run.sha256 == card.sha256
    return run.model == model_name(given, card.name)
