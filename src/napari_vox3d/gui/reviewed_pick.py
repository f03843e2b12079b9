"""The pick under review: what is known of it, close-ups, and its class."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QWidget

from napari_vox3d.gui.closeups import Closeups
from napari_vox3d.gui.controls import note
from napari_vox3d.gui.reviewed_layer import ReviewedLayer

CLASS_KEYS = [f"Ctrl+{n}" for n in range(1, 10)]
FLAG = '<br><span style="color:#ff9f0a">⚑ {}</span>'


class ReviewedPick(QWidget):
    """Shows the current pick of a review, and lets the user give it another class.

    Attributes
    ----------
    relabelled
        Qt signal, emitted with the class that was chosen or typed.
    """

    relabelled = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.about = note()
        self.closeups = Closeups()
        self.label = QComboBox(
            editable=True, insertPolicy=QComboBox.InsertPolicy.NoInsert,
            toolTip="Class of the pick; choosing one, or typing a new one and Enter, accepts the "
            "pick as that. The keys Ctrl+1 to Ctrl+9 choose from this list.",
        )  # fmt: skip
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow(self.about)
        form.addRow(self.closeups)
        form.addRow("This is", self.label)
        self.label.activated.connect(lambda _: self.relabelled.emit(self.label.currentText()))
        self.label.lineEdit().returnPressed.connect(self._relabel_as_typed)

    def show_none(self, why: str) -> None:
        """Say why there is no pick to look at."""
        self.about.setText(why)
        self.closeups.hide()

    def show_pick(self, reviewed: ReviewedLayer, flags: tuple[str, ...]) -> None:
        """Show the current pick of a layer under review, and what speaks against it."""
        review, classes = reviewed.review, reviewed.classes
        row = review.row(reviewed.current)
        label, score = str(review.picks.labels[row]), float(review.picks.scores[row])
        self.offer(classes)
        self.label.setCurrentText(label)
        key = CLASS_KEYS[classes.index(label)] if classes.index(label) < len(CLASS_KEYS) else ""
        self.label.setToolTip(f"{self.label.toolTip().split(' This')[0]} This class: {key}")
        threshold = review.thresholds.get(label)
        known = "no score" if np.isnan(score) else f"score {score:.2f}"
        if threshold is not None and not np.isnan(score):
            known += f", threshold {threshold:.2f}"
        state = review.states[row] or "undecided"
        told = "".join(FLAG.format(flag) for flag in flags)
        self.about.setText(f"<b>{label}</b>, {known}: {state}{told}")
        limits = (0.0, 1.0) if reviewed.tomogram is None else reviewed.tomogram.contrast_limits
        self.closeups.show_planes(reviewed.closeups(reviewed.current), tuple(limits))

    def offer(self, classes: list[str]) -> None:
        """List the classes that a pick may be of, with their keys."""
        self.label.blockSignals(True)
        self.label.clear()
        self.label.addItems(classes)
        for n, key in enumerate(CLASS_KEYS[: len(classes)]):
            self.label.setItemData(n, f"Key {key}", Qt.ItemDataRole.ToolTipRole)
        self.label.blockSignals(False)

    def _relabel_as_typed(self) -> None:
        if self.label.findText(self.label.currentText()) < 0:  # else it was activated
            self.relabelled.emit(self.label.currentText())
