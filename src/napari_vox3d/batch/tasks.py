"""What is done to one file of a batch, wherever it is done."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from napari_vox3d.errors import Cancelled, as_sentence
from napari_vox3d.progress import Progress
from napari_vox3d.provenance.files import uncertainty_file


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Parameters
    ----------
    source
        Path of the file, as it was given.
    targets
        Files written; of a skipped file the one that was there.
    seconds
        How long it took.
    count
        Number of picks; None for an ELF, and where nothing was done.
    state
        ``"done"``, ``"skipped"`` because its result was there, or ``"failed"``.
    problem
        Why it failed, in one line.
    again
        Why it was done though a result was there: ``"another threshold before"``.
    """

    source: str
    targets: tuple[str, ...]
    seconds: float
    count: int | None
    state: Literal["done", "skipped", "failed"]
    problem: str = ""
    again: str = ""


@dataclass(frozen=True)
class Task:
    """One file, and all that a process elsewhere needs to know to work on it.

    Parameters
    ----------
    kind
        ``"picking"`` or ``"elf"``: what the model is for.
    source, target
        Paths of the file to read and the file to write.
    model
        Name or path.
    options
        Keyword arguments of `pick_particles` or `predict_elf`; values that JSON can hold.
    format
        Format of picks; None for the one that the name of `target` says.
    name
        Name of the tomogram where that of its file will not do.
    again
        See `Outcome`.
    """

    kind: Literal["picking", "elf"]
    source: str
    target: str
    model: str = "default"
    options: dict[str, Any] = field(default_factory=dict)
    format: str | None = None
    name: str | None = None
    again: str = ""

    @property
    def targets(self) -> tuple[str, ...]:
        """Files that are there when the task is done: the uncertainty beside the ELF, if asked."""
        if not self.options.get("uncertainty"):
            return (self.target,)
        return (self.target, uncertainty_file(self.target))

    def on(self, device: str) -> Task:
        """Return the same task on another device."""
        return replace(self, options={**self.options, "device": device})


@dataclass(frozen=True)
class Report:
    """Outcome of a task, and the warnings on the way."""

    outcome: Outcome
    warnings: tuple[str, ...] = ()


def attempt(task: Task, progress: Progress) -> Report:
    """Carry out a task; whatever goes wrong is told in the outcome.

    Raises
    ------
    Cancelled
        If `progress` raises it.
    """
    started = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            outcome = carry_out(task, progress)
        except Cancelled:
            raise
        except Exception as error:  # one file must not stop the others
            outcome = failed(task, what_went_wrong(error), time.monotonic() - started)
    told = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    return Report(outcome, tuple(dict.fromkeys(told)))


def carry_out(task: Task, progress: Progress | None = None) -> Outcome:
    """Read, predict and write one file.

    Raises
    ------
    Vox3dError
        What reading, predicting and writing raise.
    """
    started = time.monotonic()
    work = _pick if task.kind == "picking" else _predict_elf
    targets, count = work(task, progress)
    seconds = time.monotonic() - started
    written = tuple(map(str, targets))
    return Outcome(task.source, written, seconds, count, "done", again=task.again)


def failed(task: Task, problem: str, seconds: float = 0.0) -> Outcome:
    """Outcome of a task that came to nothing."""
    return Outcome(task.source, (), seconds, None, "failed", problem)


def what_went_wrong(error: BaseException) -> str:
    """Say in one line what an exception means."""
    told = as_sentence(error)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if told is None else str(told)


def _pick(task: Task, progress: Progress | None) -> tuple[list[Path], int]:
    import napari_vox3d as vox

    tomogram = vox.read_volume(task.source)
    if task.name is not None:
        tomogram = replace(tomogram, name=task.name)
    picks = vox.pick_particles(tomogram, task.model, progress=progress, **task.options)
    return vox.write_picks(task.target, picks, format=task.format), len(picks)


def _predict_elf(task: Task, progress: Progress | None) -> tuple[list[Path], None]:
    import napari_vox3d as vox

    made = vox.predict_elf(task.source, task.model, progress=progress, **task.options)
    volumes = made if isinstance(made, tuple) else (made,)
    for path, volume in zip(task.targets, volumes, strict=True):
        vox.write_volume(path, volume)
    return [Path(path) for path in task.targets], None
