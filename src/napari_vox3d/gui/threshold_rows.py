"""A class of *Pick particles*: whether to show it, its threshold, and how many picks there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicgui.widgets import CheckBox, FloatSlider
from qtpy.QtWidgets import QDoubleSpinBox, QLabel

if TYPE_CHECKING:
    from napari_vox3d.models import ParticleClass

READOUT = "QDoubleSpinBox { min-width: 30px; max-width: 30px; }"


class ThresholdRow:
    """A class: whether to show it, its threshold, and how many picks there are.

    Parameters
    ----------
    kind
        The class as the model's card describes it.
    """

    def __init__(self, kind: ParticleClass):
        self.kind = kind
        self.shown = CheckBox(value=True, text=kind.name, tooltip=f"Show picks of {kind.name}.")
        self.threshold = FloatSlider(
            value=kind.threshold,
            min=0,
            max=1,
            step=0.01,
            tooltip=f"Score that a pick of {kind.name} needs. Applied at once; the network does "
            f"not run again. The model suggests {kind.threshold:g}.",
        )
        readout = self.threshold.native.findChild(QDoubleSpinBox)
        readout.setStyleSheet(READOUT)  # napari's style leaves the slider no room in a narrow dock
        self.count = QLabel(toolTip=f"Number of picks of {kind.name}.")
        self.count.setMinimumWidth(50)
        self.show_count(None)

    @property
    def choice(self) -> tuple[bool, float]:
        """Whether the class is shown, and its threshold."""
        return self.shown.value, self.threshold.value

    @choice.setter
    def choice(self, choice: tuple[bool, float]) -> None:
        self.shown.value, self.threshold.value = choice

    def show_count(self, count: int | None) -> None:
        """Show the number of picks beside the colour of the class; None if nothing ran yet."""
        dot = f'<span style="color:{self.kind.colour}">●</span>'
        self.count.setText(f"{dot} {'–' if count is None else count}")
