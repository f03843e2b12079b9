"""Controls that several dock widgets have: the model, and the device it runs on."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

from magicgui.widgets import CheckBox, ComboBox, FloatSpinBox
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QFrame,
    QGridLayout,
    QLabel,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

import napari_vox3d as vox
from napari_vox3d.gui.cards import figures
from napari_vox3d.gui.settings import recall, remember, watch

if TYPE_CHECKING:
    from magicgui.widgets.bases import Widget

    from napari_vox3d.models import ModelCard, Task

OPEN_FIRST = "Open a tomogram first: File › Open File(s)…, or File › Open Sample › vox3d."
DEFAULT = "default"  # in a menu of models: the source decides which of several
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
_COLUMN = 240  # pixels: long text makes no wide window


def drop_down(tooltip: str, **options: Any) -> ComboBox:
    """Make a drop-down that long names do not make wide."""
    menu = ComboBox(tooltip=tooltip, **options)
    menu.native.setSizeAdjustPolicy(
        QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
    )
    menu.native.setMinimumContentsLength(8)
    return menu


def choose(menu: ComboBox, value: Any) -> None:
    """Set a drop-down to `value` if it is among its choices."""
    if value in menu.choices:
        menu.value = value


def voxel_size_box() -> FloatSpinBox:
    """Make a box for the voxel size that a file lacks; 0 is unknown."""
    box = _length_box(
        "unknown: please set it",
        max=1000,
        step=0.1,
        tooltip="The file does not say how large a voxel is, and models find particles of "
        "the size they know. What you type here goes to the layer.",
    )
    box.native.setKeyboardTracking(False)
    return box


def distance_box() -> FloatSpinBox:
    """Make a box for the least distance between two picks; 0 is the one of each class."""
    return _length_box(
        "by class",
        max=2000,
        step=10,
        value=recall("picking").get("min_distance", 0),
        tooltip="Least distance between two picks of a class. At 0 it is what the model says, "
        "most often the particle's radius.",
    )


def spacing_box() -> FloatSpinBox:
    """Make a box for the distance between grid points; 0 is that of the source."""
    return _length_box(
        "as the source",
        max=1,
        step=0.05,
        value=recall("elf").get("spacing", 0),
        tooltip="Distance between grid points. At the lowest value the ELF comes on the grid "
        "of the source; a structure has none and gets the model's.",
    )


def _length_box(at_zero: str, **options: Any) -> FloatSpinBox:
    box = FloatSpinBox(min=0, **options)
    box.native.setSpecialValueText(at_zero)
    box.native.setSuffix(" Å")
    return box


def contrast_menu() -> ComboBox:
    """Make a drop-down of how particles look: ``"auto"``, ``"dark"`` or ``"bright"``."""
    return drop_down(
        "How particles look against the solvent: dark in most reconstructions, bright if the "
        "contrast was inverted. Detected from the tomogram, unless you choose.",
        choices=[
            ("detect", "auto"),
            ("dark particles", "dark"),
            ("bright particles", "bright"),
        ],
    )


def flips_box() -> CheckBox:
    """Make a check box for scores that are averaged over mirror images."""
    return CheckBox(
        text="Average over mirror images (4× slower)",
        value=recall("picking").get("flips", False),
        tooltip="Score the tomogram and its mirror images along y and x, and take the mean. "
        "Scores of doubtful particles depend less on chance; look at the thresholds anew.",
    )


def new_grid(table: QWidget, wide: int) -> QGridLayout:
    """Give a table of controls an empty layout, and take its old rows away.

    Parameters
    ----------
    table
        Widget of the rows.
    wide
        Column that takes spare width.
    """
    if table.layout() is not None:
        QWidget().setLayout(table.layout())
    grid = QGridLayout(table)
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setColumnStretch(wide, 1)
    return grid


class _Note(QLabel):
    """Text that wraps, and asks for no more than a column however long it is."""

    def sizeHint(self) -> QSize:
        """Width of a column, and the height that the text needs there; Qt asks for it."""
        width = min(super().sizeHint().width(), _COLUMN)
        return QSize(width, self.heightForWidth(width))

    def minimumSizeHint(self) -> QSize:
        """Height that the text needs in its present width, which layouts may forget; Qt asks."""
        return QSize(super().minimumSizeHint().width(), self.heightForWidth(self.width()))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Text wraps anew."""
        super().resizeEvent(event)
        self.updateGeometry()


def note(text: str = "") -> QLabel:
    """Make a line of text that wraps."""
    return _Note(text, wordWrap=True)


class _UpAndDown(QScrollArea):
    """Scrolls the height alone: it asks for the width that all controls need."""

    def minimumSizeHint(self) -> QSize:
        """Width of the widget beside a scroll bar; Qt asks for it."""
        needed = self.widget().minimumSizeHint().width()
        needed += self.verticalScrollBar().sizeHint().width()
        return QSize(needed, super().minimumSizeHint().height())

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Ask anew when controls appear; Qt shows it the events of the widget."""
        if event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)


def scrolled_form(window: QWidget) -> QFormLayout:
    """Fill a window with a form that scrolls where the window is too low for it."""
    inner = QWidget()
    rows = QVBoxLayout(inner)
    area = _UpAndDown(widgetResizable=True, frameShape=QFrame.Shape.NoFrame)
    area.setWidget(inner)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setMinimumHeight(300)  # when two windows share the height, both stay usable
    layout = QVBoxLayout(window)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.addWidget(area)
    form = QFormLayout()
    rows.addLayout(form)
    rows.addStretch(1)  # spare height goes below, not between the rows
    return form


def scroll_to(control: Widget) -> None:
    """Bring a control of a scrolled form into view, as soon as new rows have their places."""
    shown = control.native
    area = shown.parent()
    while not isinstance(area, QScrollArea):
        area = area.parent()
    QTimer.singleShot(0, lambda: isalive(shown) and area.ensureWidgetVisible(shown))


def add_row(form: QFormLayout, text: str, control: Widget | QWidget) -> None:
    """Add a control with a label that has the same tooltip."""
    field = getattr(control, "native", control)
    form.addRow(text, field)
    form.labelForField(field).setToolTip(field.toolTip())


class ModelNews(QObject):
    """Tells every open window that models were added or removed."""

    changed = Signal()


MODEL_NEWS = ModelNews()


class ModelChoice(QWidget):
    """Drop-down of the models for a task, with a line on what the chosen one is.

    Parameters
    ----------
    task
        ``"elf"`` or ``"picking"``.
    remembered
        Name of the model to start with, if it is still there.
    """

    _open: ClassVar[WeakSet[ModelChoice]] = WeakSet()

    def __init__(self, task: Task, remembered: str = ""):
        super().__init__()
        self._task = task
        self._cards = {}
        self._default: ModelCard | None = None
        self._why = ""
        self.menu = drop_down("", choices=self._models)
        self.about = note()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.menu.native)
        layout.addWidget(self.about)
        self._choose_default()
        choose(self.menu, remembered)
        self.menu.changed.connect(self._describe)
        self._describe()
        self._open.add(self)
        MODEL_NEWS.changed.connect(self._list)
        watch("models", "folder", self._list)

    @classmethod
    def offer(cls, card: ModelCard) -> None:
        """List a model in every open window, and choose it in those for its task."""
        MODEL_NEWS.changed.emit()
        for choice in list(cls._open):
            if choice._task == card.task and isalive(choice):
                choose(choice.menu, card.name)

    @property
    def card(self) -> ModelCard | None:
        """Card of the chosen model; None if no model is installed."""
        return self._default if self.menu.value == DEFAULT else self._cards.get(self.menu.value)

    @property
    def defaults(self) -> list[ModelCard]:
        """Cards of the default models: for an ELF there may be several, and the source decides."""
        return [card for card in self._cards.values() if card.default]

    @property
    def chosen(self) -> str:
        """Name to remember: empty for the default, which may become another one."""
        alone = self.card is None or (self.card.default and len(self.defaults) == 1)
        return "" if alone or self.menu.value == DEFAULT else self.card.name

    def show_default(self, card: ModelCard, why: str) -> None:
        """Say which of several default models it is for the present source, and why."""
        self._default, self._why = card, why
        self.menu.native.setItemText(0, self._default_text())
        self._describe()

    def _default_text(self) -> str:
        return f"Default: {self._default.title}"

    def _choose_default(self) -> None:
        names = [DEFAULT, *(card.name for card in self.defaults)]
        choose(self.menu, next((name for name in names if name in self.menu.choices), None))

    def _list(self) -> None:
        if not isalive(self):
            return
        before = self.menu.value
        self.menu.reset_choices()
        if before not in self._cards:
            self._choose_default()

    def _models(self, _: object = None) -> list[tuple[str, str]]:
        self._cards = {card.name: card for card in vox.list_models(self._task)}
        titles = Counter(card.title for card in self._cards.values())
        choices = [  # a drop-down keeps one of several choices of the same text
            (card.title if titles[card.title] == 1 else f"{card.title} ({name})", name)
            for name, card in self._cards.items()
        ]
        if len(self.defaults) < 2:
            return choices
        if self._default not in self.defaults:  # until a source tells
            self._default = min(self.defaults, key=lambda card: card.needs_density)
        return [(self._default_text(), DEFAULT), *choices]

    def _describe(self) -> None:
        card = self.card
        if card is None:
            self.about.setText("No model is installed.")
            return
        more = " Hover here for measured figures." if card.metrics else ""
        why = f"{self._why} " if self.menu.value == DEFAULT and self._why else ""
        self.about.setText(why + (card.description or card.training) + more)
        self.setToolTip(figures(card))


class ComputeOptions(QObject):
    """Device and precision, remembered for all of the plugin's windows.

    Parameters
    ----------
    window
        Widget that shows them.
    form
        Layout to add them to.
    precision
        Whether there is a choice of it.
    """

    def __init__(self, window: QWidget, form: QFormLayout, precision: bool = True):
        super().__init__(window)
        remembered = recall("computing")
        device = remembered.get("device", "auto")
        self.device = drop_down(
            "Where the network runs; auto takes a graphics card if there is one.",
            choices=list(dict.fromkeys(("auto", device))),
            value=device,
        )
        self.precision = drop_down(
            "Number format inside the network; auto takes half precision where the device is "
            "faster with it, and float32 elsewhere.",
            choices=PRECISIONS,
        )
        choose(self.precision, remembered.get("precision", "auto"))
        add_row(form, "Device", self.device)
        if precision:
            add_row(form, "Precision", self.precision)
        watch("computing", "device", self._follow_settings)
        watch("computing", "precision", self._follow_settings)
        self._timer = QTimer(self, interval=300)
        self._timer.timeout.connect(self._show_devices)
        self._timer.start()

    def arguments(self) -> dict[str, str]:
        """Keyword arguments for the inference functions; they are remembered from now on."""
        chosen = {"device": self.device.value, "precision": self.precision.value}
        remember("computing", **chosen)
        return chosen

    def _follow_settings(self) -> None:
        """Choose what the Preferences, or another window, say now."""
        if isalive(self):
            remembered = recall("computing")
            choose(self.device, remembered["device"])
            choose(self.precision, remembered["precision"])

    def _show_devices(self) -> None:
        found = _devices()
        if found.done():
            self._timer.stop()
            if found.exception() is None:  # otherwise Run will say what is wrong with torch
                self.device.choices = list(dict.fromkeys(("auto", *found.result())))


@cache
def _devices() -> Future[list[str]]:
    """Devices of this machine, once they are found: that imports torch, so it is not waited for.

    Unlike napari's workers, this thread may still run when the program ends.
    """
    with_one_thread = ThreadPoolExecutor(1)
    try:
        return with_one_thread.submit(_available_devices)
    finally:
        with_one_thread.shutdown(wait=False)


def _available_devices() -> list[str]:
    from napari_vox3d.inference.device import available_devices

    return available_devices()
