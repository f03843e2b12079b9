"""What both training windows share: where to start, when to stop, and the loss as it falls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, FloatSpinBox, LineEdit
from qtpy.QtCore import QPointF, QRectF, Qt, QTimer, Signal
from qtpy.QtGui import QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QFormLayout, QPushButton, QVBoxLayout, QWidget

import napari_vox3d as vox
from napari_vox3d.errors import ModelError
from napari_vox3d.gui.cards import TASKS, figures
from napari_vox3d.gui.controls import (
    MODEL_NEWS,
    ComputeOptions,
    ModelChoice,
    add_row,
    choose,
    drop_down,
    note,
)
from napari_vox3d.gui.reproduce import CopyButtons
from napari_vox3d.gui.settings import recall, remember
from napari_vox3d.gui.workers import RunControl
from napari_vox3d.networks.catalogue import ARCHITECTURES
from napari_vox3d.provenance import Run, changed
from napari_vox3d.training.drafts import Draft, free_name

if TYPE_CHECKING:
    from napari_vox3d.models import Model, ParticleClass, Task

SIZES = {"small": "small, for a laptop", "large": "large, for a graphics card"}
REDRAW = 250  # ms between two pictures of the loss
MARGIN = 4  # pixels around the curve


class StartChoice(QWidget):
    """Drop-downs of what training starts from, with a line on when to take it.

    Parameters
    ----------
    task
        ``"elf"`` or ``"picking"``.
    models
        Whether models can be trained further, beside networks from random weights.
    section
        Settings to remember the choice in.
    """

    changed = Signal()

    def __init__(self, task: Task, models: bool, section: str):
        super().__init__()
        self._section, self._offers_models, self._task = section, models, task
        self._networks = {entry.name: entry for entry in ARCHITECTURES if entry.task == task}
        remembered = recall(section)
        self.menu = drop_down(
            "A model that knows other particles learns new ones faster and from fewer examples; "
            "a new network starts from nothing."
            if models
            else "The network to train, from nothing.",
            choices=self._starts,
        )
        self.size = drop_down(
            "Large networks learn more and need more time and memory.",
            choices=[(text, size) for size, text in SIZES.items()],
        )
        self.about = note()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.menu.native, self.size.native, self.about):
            layout.addWidget(part)
        self.setToolTip(self.menu.tooltip)
        choose(self.menu, remembered.get("start"))
        choose(self.size, remembered.get("size"))
        self.menu.changed.connect(self._describe)
        MODEL_NEWS.changed.connect(self._list)
        self._describe()

    @property
    def arguments(self) -> dict[str, str]:
        """What to train, as the training functions take it; remembered from now on."""
        remember(self._section, start=self.menu.value, size=self.size.value)
        kind, name = self.menu.value.split(" ", 1)
        return {"base": name} if kind == "base" else {"network": name, "size": self.size.value}

    @property
    def known(self) -> list[ParticleClass]:
        """Classes of the model that training starts from."""
        kind, name = self.menu.value.split(" ", 1)
        return self._cards[name].classes if kind == "base" else []

    def _list(self) -> None:
        self.menu.reset_choices()

    def _starts(self, _: object = None) -> list[tuple[str, str]]:
        cards = vox.list_models(self._task) if self._offers_models else []
        cards.sort(key=lambda card: not card.default)
        self._cards = {card.name: card for card in cards if card.network is not None}
        new = "New " if self._offers_models else ""
        return [
            *((f"Model: {card.title}", f"base {name}") for name, card in self._cards.items()),
            *((f"{new}{e.title}", f"network {e.name}") for e in self._networks.values()),
        ]

    def _describe(self) -> None:
        kind, name = self.menu.value.split(" ", 1)
        self.size.native.setVisible(kind == "network")
        if kind == "network":
            self.about.setText(self._networks[name].about)
        else:
            names = ", ".join(kind.name for kind in self._cards[name].classes)
            self.about.setText(f"Is trained further. It knows {names}; others can be added.")
        self.changed.emit()


class LossCurve(QWidget):
    """Picture of the loss over the steps, smoothed once there are many.

    Parameters
    ----------
    what
        What falls, such as ``"loss"``.

    Attributes
    ----------
    losses
        (step, loss) pairs; a thread may append to them.
    """

    def __init__(self, what: str):
        super().__init__(toolTip=f"How the {what} falls; training has converged when it is flat.")
        self._what = what
        self.losses: list[tuple[int, float]] = []
        self.setMinimumHeight(110)

    @property
    def caption(self) -> str:
        """The last values in words."""
        if not self.losses:
            return "Preparing…"
        _, smooth = self._smooth()
        return f"{self._what} {smooth[-1]:.4f} · step {self.losses[-1][0]}"

    def paintEvent(self, _event: object) -> None:
        """Draw caption, frame, and curve."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().color(self.foregroundRole())
        line = painter.fontMetrics().height()
        painter.setPen(ink)
        whole = QRectF(self.rect())
        painter.drawText(whole, int(Qt.AlignmentFlag.AlignLeft), self.caption)
        frame = whole.adjusted(0, line + MARGIN, -1, -1)
        faint = QPen(ink)
        faint.setColor(ink.darker(200))
        painter.setPen(faint)
        painter.drawRect(frame)
        if len(self.losses) < 2:
            return
        steps, smooth = self._smooth()
        high, low = float(smooth.max()), float(smooth.min())
        inside = frame.adjusted(MARGIN, MARGIN, -MARGIN, -MARGIN)
        x = inside.left() + inside.width() * (steps - steps[0]) / max(1, steps[-1] - steps[0])
        y = inside.top() + inside.height() * (high - smooth) / ((high - low) or 1)
        painter.drawText(inside, int(Qt.AlignmentFlag.AlignRight), f"{high:.3g}")
        painter.drawText(
            inside,
            int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignBottom),
            f"{low:.3g}",
        )
        painter.setPen(QPen(ink, 2))
        painter.drawPolyline(QPolygonF([QPointF(*point) for point in zip(x, y, strict=True)]))

    def _smooth(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and means over neighbouring steps, few enough to draw."""
        steps, losses = np.array(self.losses, float).T
        width = max(1, len(losses) // 60)
        whole = len(losses) - len(losses) % width
        start = len(losses) - whole
        return tuple(column[start:].reshape(-1, width).mean(axis=1) for column in (steps, losses))


class TrainingControl(QWidget):
    """Name, time and device of a training; the Train button, a Stop button, and the loss.

    Parameters
    ----------
    form
        Layout to add the rows to.
    function
        Trains in a thread, as `napari_vox3d.train_picker` does.
    section
        Settings that remember the time.
    stem
        Name that new models get, with a number if need be.
    what
        What the curve shows, see `LossCurve`.
    prepare
        Called when Train is pressed; gives the arguments of the function. A `Vox3dError` it
        raises is shown.
    describe
        Gives the run with the same arguments; a `Vox3dError` it raises is shown.

    Attributes
    ----------
    trained
        Qt signal, emitted with each new model.
    taken
        Gives names that no new model is to get.
    """

    trained = Signal(object)

    def __init__(
        self,
        form: QFormLayout,
        *,
        function: Callable[..., Model],
        section: str,
        stem: str,
        what: str,
        prepare: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]],
        describe: Callable[[], Run],
    ):
        super().__init__()
        self._function, self._section = function, section
        self._prepare, self._describe = prepare, describe
        self._stopped = Event()
        self._draft: Draft | None = None
        self.taken: Callable[[], Sequence[str]] = tuple
        self.name = LineEdit(
            value=free_name(stem), tooltip="What the new model is called in lists and files."
        )
        self.minutes = FloatSpinBox(
            value=recall(section).get("minutes", 10),
            min=0.1,
            max=100_000,
            step=5,
            tooltip="How long to train. More is better, up to where the loss stays flat.",
        )
        self.minutes.native.setDecimals(1)
        self.minutes.native.setSuffix(" min")
        self.go_on = CheckBox(
            value=True,
            tooltip="What a cancelled training of this name had learnt was kept. Go on with the "
            "same tomograms or crystals and the same network; untick it to begin anew.",
        )
        self.run = RunControl(
            "Train", self._start, "Train in the background; press again to cancel.", networks=True
        )
        self.stop = QPushButton(
            "Stop and keep the model",
            toolTip="End the training now as if the time were up, and save the model.",
        )
        self.curve = LossCurve(what)
        self.result = note()
        self.copy = CopyButtons(self.current_run)
        add_row(form, "Name", self.name)
        add_row(form, "Time", self.minutes)
        self.computing = ComputeOptions(self, form, precision=False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.go_on.native, self.run, self.stop, self.curve, self.copy, self.result):
            layout.addWidget(part)
        form.addRow(self)
        self._redraw = QTimer(self, interval=REDRAW)
        self._redraw.timeout.connect(self._show_loss)
        self.name.changed.connect(self._look_for_unfinished)
        self.run.ended.connect(self._end)
        self.stop.clicked.connect(self._stop)
        self.stop.hide()
        self.curve.hide()
        self._look_for_unfinished()

    @property
    def stopping(self) -> bool:
        """Whether the training was asked to end, by either button."""
        return self._stopped.is_set() or self.run.cancelling

    @property
    def unfinished(self) -> bool:
        """Whether a training of this name was interrupted."""
        try:
            return Draft.named(self.name.value.strip()).checkpoint.exists()
        except ModelError:
            return False

    def current_run(self) -> Run:
        """What the window is set to do now.

        Raises
        ------
        Vox3dError
            If something is missing that training needs.
        """
        run = self._describe()
        arguments = {
            **run.arguments,
            "minutes": self.minutes.value,
            **changed(device=(self.computing.arguments()["device"], "auto")),
            "name": Draft.named(self.name.value.strip()).name,
        }
        return replace(run, arguments=arguments)

    def _start(self) -> None:
        draft = Draft.named(self.name.value.strip())
        args, kwargs = self._prepare()
        if not self.go_on.value:
            draft.checkpoint.unlink(missing_ok=True)
        remember(self._section, minutes=self.minutes.value)
        self._draft, self._stopped, self.curve.losses = draft, Event(), []
        self.result.clear()
        self.go_on.native.hide()
        self.curve.show()
        self.stop.setText("Stop and keep the model")
        self.stop.setEnabled(True)
        self.stop.show()
        self._redraw.start()
        self.run.run(
            draft.train, self._function, *args, minutes=self.minutes.value,
            device=self.computing.arguments()["device"], stop=self._stopped.is_set,
            on_step=partial(_note, self.curve.losses), then=self._show_result, **kwargs,
        )  # fmt: skip

    def _stop(self) -> None:
        self._stopped.set()
        self._show_stopping()

    def _show_loss(self) -> None:
        self.curve.update()
        if self.run.finishing:
            self._show_stopping()

    def _show_stopping(self) -> None:
        self.stop.setText("The model is tested and saved…")
        self.stop.setEnabled(False)

    def _show_result(self, model: Model) -> None:
        card = model.card
        found = ", ".join(f"{kind.name} {kind.threshold:g}" for kind in card.classes)
        said = f"Saved as “{card.name}”, ready in {TASKS[card.task]}."
        if found:
            said += f" Thresholds: {found}."
        said += f" Training: {card.training}"
        for table in card.metrics:  # a new model has one small table, if any
            rows = (" ".join(map(str, row.values())) for row in table.rows)
            said += f" {table.data}: {', '.join(rows)}."
        self.result.setText(said)
        self.result.setToolTip(figures(card))
        remember(card.task, model=card.name)
        ModelChoice.offer(card)
        self.name.value = free_name(card.name, self.taken())
        self.trained.emit(model)

    def _end(self) -> None:
        self._redraw.stop()
        self.stop.hide()
        if self._draft is not None and self._draft.checkpoint.exists():
            self.result.setText("What was learnt so far is kept. Press Train to go on.")
        self.curve.update()
        self.curve.setVisible(bool(self.curve.losses))
        self._look_for_unfinished()

    def _look_for_unfinished(self) -> None:
        """Offer to go on, if a training of this name was interrupted."""
        self.go_on.text = f"Go on with the unfinished training of “{self.name.value.strip()}”"
        self.go_on.native.setVisible(self.unfinished and not self.run.running)
        self.go_on.value = True


def _note(losses: list[tuple[int, float]], step: int, loss: float) -> None:
    losses.append((step, loss))
