"""Scores of the picks of one class under review, and the threshold that the mouse moves."""

from __future__ import annotations

import numpy as np
from magicgui.widgets import PushButton
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_vox3d.curation import REJECTED, UNDECIDED
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.reviewed_layer import ReviewedLayer
from napari_vox3d.gui.score_plot import ThresholdPlot
from napari_vox3d.gui.workers import show_problem

BINS = 40


class ReviewScores(QWidget):
    """Histogram of a class with its threshold, and a button that rejects the picks below.

    Attributes
    ----------
    rejected
        Qt signal, emitted with how many picks the button rejected.
    """

    rejected = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._reviewed: ReviewedLayer | None = None
        self._label = ""
        self.plot = ThresholdPlot(
            "Scores of the picks of one class, and its threshold. Drag the line: picks that Pick "
            "particles found follow it, and what you decided stays; of other picks it selects "
            "those below."
        )
        self.below = PushButton(
            tooltip="Reject the undecided picks of this class whose score is below the line."
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.plot)
        layout.addWidget(self.below.native)
        self.plot.moved.connect(self._count_below)
        self.plot.dropped.connect(self._drop)
        self.below.changed.connect(self._reject_below)

    def show_scores(self, reviewed: ReviewedLayer, label: str) -> None:
        """Show the scores of a class; without any there is nothing to see."""
        self._reviewed, self._label = reviewed, label
        review = reviewed.review
        scores = np.asarray(review.picks.scores)[review.picks.labels == label]
        scores = scores[~np.isnan(scores)]
        self.setVisible(len(scores) > 0)
        if not len(scores):
            return
        threshold = review.thresholds.get(label, float(scores.min()))
        low = 0.0 if reviewed.live else min(threshold, float(scores.min()))
        high = max(threshold, float(scores.max()), low + 1e-3)
        counts, edges = np.histogram(scores, BINS, (low, high))
        words = f"{label}: {{y:g}} with scores near {{x:.2f}}"
        self.plot.show_bars(edges, counts.astype(float), words)
        self.plot.mark(threshold)
        self._count_below(threshold)

    def _below(self, threshold: float) -> np.ndarray:
        """(N,) which picks of the class are below a threshold."""
        picks = self._reviewed.review.picks
        return (np.asarray(picks.scores) < threshold) & (picks.labels == self._label)

    def _count_below(self, threshold: float) -> None:
        undecided = self._reviewed.review.states == UNDECIDED
        count = int((self._below(threshold) & undecided).sum())
        self.below.text = f"Reject {count} undecided {self._label} below {threshold:.2f}"
        self.below.enabled = count > 0

    def _drop(self, threshold: float) -> None:
        reviewed = self._reviewed
        try:
            if reviewed.live is not None:
                reviewed.find_at(self._label, threshold)
                return
        except Vox3dError as error:
            show_problem(error)
            return
        left = reviewed.review.states != REJECTED
        reviewed.set_threshold(self._label, threshold)
        reviewed.layer.selected_data = set(np.flatnonzero(self._below(threshold) & left).tolist())

    def _reject_below(self) -> None:
        try:
            self.rejected.emit(self._reviewed.reject_below(self._label, self.plot.threshold))
        except Vox3dError as error:
            show_problem(error)
