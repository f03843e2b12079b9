"""The *Review picks* window: from the most doubtful pick on, by the keyboard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, PushButton
from napari.layers import Layer, Points
from qtpy.compat import isalive
from qtpy.QtCore import QTimer
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import QGridLayout, QProgressBar, QPushButton, QWidget

from napari_vox3d.curation import ACCEPTED, REJECTED, UNDECIDED
from napari_vox3d.curation.flags import on_extremes
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.canvas_keys import CanvasKeys
from napari_vox3d.gui.controls import add_row, drop_down, note, scrolled_form
from napari_vox3d.gui.pick_layers import show_whole_spheres
from napari_vox3d.gui.pick_saving import ask_and_save, write_by_class
from napari_vox3d.gui.review_scores import ReviewScores
from napari_vox3d.gui.reviewed_layer import ReviewedLayer
from napari_vox3d.gui.reviewed_pick import CLASS_KEYS, ReviewedPick
from napari_vox3d.gui.tomograms import is_picks, is_tomogram
from napari_vox3d.gui.workers import BackgroundJob, show_problem

if TYPE_CHECKING:
    import napari

OPEN_PICKS = "Open or find picks first: a points layer of any origin can be reviewed."
NO_TOMOGRAM = "none"
ALL, FLAGGED, EVERY_CLASS = "All picks", "Flagged picks only", "All classes"
# What goes into files: states of picks by what it is called.
SAVED = {
    "accepted, undecided": (ACCEPTED, UNDECIDED),
    "accepted only": (ACCEPTED,),
    "all, rejected marked": (ACCEPTED, UNDECIDED, REJECTED),
}
PAUSE = 300  # ms without an edit before boxes around picks are looked at again

# Keys that napari has no use for on points, images or the viewer itself. On points it has
# 1 to 5, A, P, S, V and Z.
KEYS = {
    "next": "N", "back": "B", "keep": "K", "reject": "R", "undo": "U", "redo": "Shift+U",
}  # fmt: skip


class ReviewPicks(QWidget):
    """Dock widget that goes through the picks of a points layer.

    Parameters
    ----------
    napari_viewer
        Where picks and tomograms are.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer):
        super().__init__()
        self._viewer = napari_viewer
        self.reviewed: ReviewedLayer | None = None
        self._job: BackgroundJob | None = None
        self._flags: dict[int, tuple[str, ...]] = {}
        self.picks = drop_down("Picks to go through.", choices=self._points)
        self.volume = drop_down("The tomogram they are in.", choices=self._tomograms)
        self.pick = ReviewedPick()
        self.buttons = {
            "back": self._button("Back", "The pick before, which is more doubtful.", "back"),
            "next": self._button("Next", "The next most doubtful pick.", "next"),
            "keep": self._button("Keep", "Accept this pick, and go to the next open one.", "keep"),
            "reject": self._button(
                "Reject", "Reject this pick, and go to the next open one. It stays in the layer "
                "and is left out of files and trainings.", "reject",
            ),
            "undo": self._button("Undo", "Take the last decision back.", "undo"),
            "redo": self._button("Redo", "Take it again.", "redo"),
        }  # fmt: skip
        self.progress = QProgressBar(toolTip="Picks that you have looked at.")
        self.counts = note()
        self.which = drop_down(
            "Which picks to go through. Flags are given to picks near the border, on something as "
            "dark or bright as gold or carbon, and to overlapping ones.",
            choices=(ALL, FLAGGED),
        )
        self.only = drop_down("Go through one class only.", choices=self._classes)
        self.hide_rejected = CheckBox(
            value=True, text="Hide rejected picks", tooltip="Otherwise they are crossed out."
        )
        self.scores = ReviewScores()
        self.saved = drop_down(
            "What is saved. Tables (CSV) and STAR files tell in a column what was decided on each "
            "pick; other formats have no room for it, and are given no rejected picks.",
            choices=list(SAVED),
        )
        self.save = PushButton(text="Save picks…", tooltip="Write these picks to a file.")
        self.done = PushButton(
            text="Done", tooltip="Make a new layer of the accepted and the undecided picks. The "
            "reviewed layer stays, hidden."
        )  # fmt: skip
        self.said = note()
        self._form = form = scrolled_form(self)
        add_row(form, "Picks", self.picks)
        add_row(form, "Tomogram", self.volume)
        add_row(form, "Show", self.which)
        add_row(form, "Class", self.only)
        form.addRow(self.hide_rejected.native)
        form.addRow(self.pick)
        grid = QGridLayout()
        for n, button in enumerate(self.buttons.values()):
            grid.addWidget(button, n // 2, n % 2)
        form.addRow(grid)
        form.addRow(self.progress)
        form.addRow(self.counts)
        form.addRow(self.scores)
        add_row(form, "Save", self.saved)
        form.addRow(self.save.native)
        form.addRow(self.done.native)
        form.addRow(self.said)
        self._soon = QTimer(self, singleShot=True, interval=PAUSE)
        self._soon.timeout.connect(self._look_for_extremes)
        self.picks.changed.connect(self._open)
        self.volume.changed.connect(self._open)
        self.which.changed.connect(self._refresh)
        self.only.changed.connect(self._refresh)
        self.hide_rejected.changed.connect(self._hide)
        self.pick.relabelled.connect(self.relabel)
        self.scores.rejected.connect(
            lambda count: self.said.setText(f"{count} picks were rejected; Undo brings them back.")
        )
        self.save.changed.connect(self._ask_and_save)
        self.done.changed.connect(self.finish)
        self._acts: dict[str, Callable[[], Any]] = {
            "next": lambda: self.step(1), "back": lambda: self.step(-1),
            "keep": lambda: self.decide(ACCEPTED), "reject": lambda: self.decide(REJECTED),
            "undo": self.undo, "redo": lambda: self.undo(again=True),
        }  # fmt: skip
        for name, button in self.buttons.items():
            button.clicked.connect(lambda _=False, act=self._acts[name]: act())
        self._keys = CanvasKeys(napari_viewer, self, self._shortcuts())
        self._guess()
        self.reset_choices()

    # --- what the user does --------------------------------------------------------------------

    def step(self, by: int) -> None:
        """Go to the next pick in the order of doubt, or with ``-1`` to the one before."""
        reviewed = self.reviewed
        if reviewed is not None:
            reviewed.catch_up()
            self._go_to(reviewed.review.after(reviewed.current, self._order(), by))

    def decide(self, state: str) -> None:
        """Accept or reject the current pick, and go to the next one that is undecided."""
        self._act(lambda reviewed: reviewed.decide(state))

    def relabel(self, label: str) -> None:
        """Accept the current pick as one of another class, and go on."""
        if label.strip():
            self._act(lambda reviewed: reviewed.relabel(label.strip()))

    def undo(self, again: bool = False) -> None:
        """Take the last decision back, or again, and go to its pick."""
        if self.reviewed is not None:
            try:
                self._go_to(self.reviewed.undo(again))
            except Vox3dError as error:
                show_problem(error)

    def finish(self) -> None:
        """Add a layer of the picks that are left, and hide the one that was reviewed."""
        reviewed = self.reviewed
        if reviewed is None:
            return
        picks = reviewed.cleaned()
        show_whole_spheres(self._viewer, picks)
        layer = reviewed.layer
        self._viewer.add_layer(Layer.create(*reviewed.cleaned_layer()))
        layer.visible = False
        rejected = reviewed.review.count(REJECTED)
        self.said.setText(f"{len(picks)} picks are left of {len(picks) + rejected}.")

    def save_picks(self, path: str | Path, format: str | None = None) -> list[Path]:
        """Write the picks that are to be saved; see `napari_vox3d.write_picks`.

        Raises
        ------
        Vox3dError
            If no picks are under review, or the file cannot be written.
        """
        if self.reviewed is None:
            raise Vox3dError(OPEN_PICKS)
        picks = self.reviewed.picks()
        wanted = np.isin(picks.decisions, SAVED[self.saved.value])
        return write_by_class(path, picks.select(wanted), format)

    # --- layers --------------------------------------------------------------------------------

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers that are open now; napari calls this when they change."""
        before = self.picks.value
        self.picks.reset_choices()
        self.volume.reset_choices()
        if before is None:
            self._guess()
        self._open()

    def _guess(self) -> None:
        """Choose the picks that are on top; the true particles of a sample are hidden, say."""
        visible = [layer for layer in self.picks.choices if layer.visible]
        if visible:
            self.picks.value = visible[-1]

    def _points(self, _: object = None) -> list[Points]:
        return [layer for layer in self._viewer.layers if is_picks(layer)]

    def _tomograms(self, _: object = None) -> list[Layer | str]:
        tomograms = [layer for layer in self._viewer.layers if is_tomogram(layer, several=True)]
        return [*tomograms, NO_TOMOGRAM]

    def _classes(self, _: object = None) -> list[str]:
        return [EVERY_CLASS, *(self.reviewed.classes if self.reviewed else [])]

    def _open(self) -> None:
        """Begin the review of the layer that is chosen, unless it is the one that is open."""
        layer = self.picks.value
        tomogram = None if self.volume.value == NO_TOMOGRAM else self.volume.value
        now = self.reviewed
        if now is not None and now.layer is layer and now.tomogram is tomogram:
            return
        self._close()
        if layer is not None and self._keys.taken:
            try:
                self.reviewed = ReviewedLayer(self._viewer, layer, tomogram)
            except Vox3dError as error:
                show_problem(error)
        if self.reviewed is None:
            self._refresh()
            return
        self.reviewed.changed.connect(self._on_change)
        self.reviewed.hidden = self.hide_rejected.value
        self.only.reset_choices()
        self._refresh()
        self._look_for_extremes()
        self._go_to(self.reviewed.review.next_undecided(None, self._order()))

    def _close(self) -> None:
        self._soon.stop()
        if self._job is not None:
            self._job.cancel()
        if self.reviewed is not None:
            self.reviewed.changed.disconnect(self._on_change)
            self.reviewed.close()
            self.reviewed = None

    def _on_change(self, moved: bool) -> None:
        if moved:
            self._soon.start()
            self.only.reset_choices()
        self._refresh()

    def _look_for_extremes(self) -> None:
        """Look at the boxes around the picks, in the background."""
        reviewed = self.reviewed
        if reviewed is None or reviewed.volume is None or not len(reviewed.review):
            return
        if self._job is not None:  # comes back here when it has stopped
            self._job.cancel()
            return
        numbers = reviewed.review.numbers.copy()

        def finished(job: BackgroundJob) -> None:
            self._job = None
            if not isalive(self):
                return
            if job.error is not None:
                show_problem(job.error)
            elif job.cancelled or self.reviewed is not reviewed:
                self._look_for_extremes()
            else:
                reviewed.set_extreme(numbers, job.result)

        self._job = BackgroundJob(
            "Looking for gold and carbon", on_extremes, reviewed.review.picks, reviewed.volume
        )
        self._job.start(finished)

    # --- the current pick ----------------------------------------------------------------------

    def _order(self) -> np.ndarray:
        """Numbers of the picks to go through, the most doubtful first."""
        review = self.reviewed.review
        among = np.ones(len(review), bool)
        if self.which.value == FLAGGED:
            among &= [bool(self._flags.get(n)) for n in review.numbers.tolist()]
        if self.only.value != EVERY_CLASS:
            among &= review.picks.labels == self.only.value
        return review.order(among)

    def _act(self, decide: Callable[[ReviewedLayer], None]) -> None:
        reviewed = self.reviewed
        if reviewed is None:
            return
        reviewed.catch_up()
        order, here = self._order(), reviewed.current
        try:
            decide(reviewed)
        except Vox3dError as error:
            show_problem(error)
            return
        still = np.isin(order, self._order()) | (order == here)  # a flag may be gone
        following = reviewed.review.next_undecided(here, order[still])
        if following is None:
            self.said.setText("Every pick of these is decided.")
        self._go_to(here if following is None else following)

    def _go_to(self, number: int | None) -> None:
        if number is not None and number in self.reviewed.review.numbers:
            self.reviewed.go_to(number)
            self._refresh()

    def _refresh(self) -> None:
        """Show the current pick, how far the review is, and the scores."""
        reviewed = self.reviewed
        for button in (*self.buttons.values(), self.pick.label):
            button.setEnabled(reviewed is not None)
        for button in (self.save, self.done):
            button.enabled = reviewed is not None
        if reviewed is None:
            self.pick.show_none(OPEN_PICKS)
            for part in (self.scores, self.progress):
                part.hide()
            self.counts.clear()
            return
        self._flags = reviewed.flags
        review = reviewed.review
        if reviewed.current not in review.numbers:  # deleted by hand
            reviewed.current = None
        self._show_current()
        seen, accepted, rejected = int(review.seen.sum()), *map(review.count, (ACCEPTED, REJECTED))
        self.progress.setMaximum(max(1, len(review)))
        self.progress.setValue(seen)
        self.progress.setFormat(f"{seen} of {len(review)} seen")
        self.progress.show()
        flagged = sum(map(bool, self._flags.values()))
        self.counts.setText(
            f"{accepted} accepted, {rejected} rejected, {review.count(UNDECIDED)} undecided; "
            f"{flagged} flagged."
        )
        self.scores.show_scores(reviewed, self._plotted)

    def _show_current(self) -> None:
        reviewed = self.reviewed
        self.pick.offer(reviewed.classes)
        if reviewed.current is None:
            count = len(self._order())
            self.pick.show_none("No pick is like this." if not count else "Press Next (N).")
        else:
            self.pick.show_pick(reviewed, self._flags.get(reviewed.current, ()))

    @property
    def _plotted(self) -> str:
        """Class whose scores are shown: the one chosen, or that of the current pick."""
        if self.only.value != EVERY_CLASS:
            return self.only.value
        review = self.reviewed.review
        if self.reviewed.current in review.numbers:
            return str(review.picks.labels[review.row(self.reviewed.current)])
        return next(iter(review.picks.classes), "")

    # --- keys ----------------------------------------------------------------------------------

    def _button(self, text: str, tooltip: str, act: str) -> QPushButton:
        return QPushButton(f"{text} ({KEYS[act]})", toolTip=tooltip)

    def _shortcuts(self) -> dict[str, Callable[[], None]]:
        acts = {KEYS[name]: act for name, act in self._acts.items()} | {"Ctrl+Z": self.undo}
        for n, key in enumerate(CLASS_KEYS):
            acts[key] = lambda n=n: self._relabel_as_number(n)
        return acts

    def _relabel_as_number(self, n: int) -> None:
        if self.reviewed is not None and n < len(self.reviewed.classes):
            self.relabel(self.reviewed.classes[n])

    def _hide(self, hidden: bool) -> None:
        if self.reviewed is not None:
            self.reviewed.hidden = hidden

    def _ask_and_save(self) -> None:
        start = f"{Path(self.reviewed.layer.name).stem}_reviewed.star"
        written = ask_and_save(self, start, self.save_picks)
        if written:
            self.said.setText("Saved " + ", ".join(file.name for file in written) + ".")

    def showEvent(self, event: QShowEvent) -> None:
        """Begin, or go on; the canvas has the keys as long as the window is open."""
        super().showEvent(event)
        self._keys.take()
        self._open()

    def hideEvent(self, event: QHideEvent) -> None:
        """Give the keys back; the decisions stay in the layer."""
        super().hideEvent(event)
        self._keys.give_back()
        self._close()
