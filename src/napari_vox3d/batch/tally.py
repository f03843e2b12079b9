"""How far a batch is: one progress over all its files."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from napari_vox3d.batch.tasks import Outcome, Report
from napari_vox3d.progress import Progress

_PARTS = 1000  # of a file


class Tally:
    """Collects what happens to the tasks of a batch, and tells whoever wants to know.

    All of its methods raise what the callbacks raise, so that `Cancelled` ends whoever calls them.

    Parameters
    ----------
    count
        Number of tasks.
    progress
        Called with the thousandths of files that are done, of all.
    on_outcome
        Called as soon as the outcome of a file is known.
    """

    def __init__(
        self, count: int, progress: Progress | None, on_outcome: Callable[[Outcome], None] | None
    ):
        self._parts = [0] * count
        self._progress, self._on_outcome = progress, on_outcome
        self.outcomes: dict[int, Outcome] = {}

    @property
    def complete(self) -> bool:
        """Whether every task has its outcome."""
        return len(self.outcomes) == len(self._parts)

    def moved(self, index: int, done: int, total: int) -> None:
        """Note that a task has come so far."""
        if index not in self.outcomes:
            self._parts[index] = _PARTS * done // max(total, 1)
        self.beat()

    def ended(self, index: int, report: Report) -> None:
        """Note what became of a task."""
        self.outcomes[index] = report.outcome
        self._parts[index] = _PARTS
        for text in report.warnings:
            warnings.warn(text, stacklevel=2)
        if self._on_outcome is not None:
            self._on_outcome(report.outcome)
        self.beat()

    def beat(self) -> None:
        """Say how far all are; to be called at least once a second."""
        if self._progress is not None:
            self._progress(sum(self._parts), _PARTS * len(self._parts))
