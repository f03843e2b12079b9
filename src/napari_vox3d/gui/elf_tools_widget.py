"""The *Explore a crystal* window: what is read off an ELF or a density once it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image, Layer
from napari.layers import Surface as Surface3D
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QPushButton, QWidget

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.controls import add_row, choose, drop_down, note, scrolled_form
from napari_vox3d.gui.crystal_measures import Compare, LineProfile, Save, Supercell, Values
from napari_vox3d.gui.crystal_sections import Maxima, Plane, Section, Surface
from napari_vox3d.gui.docks import open_window
from napari_vox3d.gui.layers import volume_from_layer
from napari_vox3d.gui.reproduce import CopyButtons, crystal_arguments
from napari_vox3d.provenance import Run

if TYPE_CHECKING:
    import napari

    from napari_vox3d.volume import Volume

SECTIONS: tuple[type[Section], ...] = (
    Maxima,
    Surface,
    Plane,
    LineProfile,
    Compare,
    Supercell,
    Values,
    Save,
)
OPEN_FIRST = (
    "Open a CHGCAR, an ELFCAR or a cube file, or predict an ELF: Plugins › vox3d › Predict ELF."
)


class ExploreCrystal(QWidget):
    """Dock widget with the tools for a volume of a crystal.

    Parameters
    ----------
    napari_viewer
        Where volumes come from and results go.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer):
        super().__init__()
        self.viewer = napari_viewer
        self.source = drop_down(
            "The ELF, density or potential of a crystal that is looked at.",
            choices=lambda _=None: self.crystals(),
        )
        self.hint = note()
        form = scrolled_form(self)
        add_row(form, "Crystal", self.source)
        form.addRow(self.hint)
        self.sections = {section: section(self) for section in SECTIONS}
        self.headings: dict[type[Section], QPushButton] = {}
        for kind, section in self.sections.items():
            self.headings[kind] = heading = QPushButton(toolTip=kind.about)
            heading.setStyleSheet("text-align: left; padding: 4px;")
            heading.clicked.connect(lambda _=False, kind=kind: self.toggle(kind))
            form.addRow(heading)
            form.addRow(section)
        self.copy = CopyButtons(self.current_run)
        form.addRow(self.copy)
        self.open: type[Section] | None = SECTIONS[0]
        self._covering: Layer | None = None
        napari_viewer.dims.events.ndisplay.connect(self._slices_or_space)
        self.setMinimumHeight(420)
        self.source.changed.connect(self._look)
        self._look()

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers that are open now; napari calls this when they change."""
        before = self.source.value
        self.source.reset_choices()
        for section in self.sections.values():
            section.layers_changed()
        if self.source.value is not before:
            self._look()

    def toggle(self, kind: type[Section]) -> None:
        """Open a section and close the one that was open, or close this one."""
        self.open = None if kind is self.open else kind
        self._arrange()

    def choose(self, layer: Layer) -> None:
        """Look at this layer."""
        choose(self.source, layer)

    def crystals(self) -> list[Image]:
        """Image layers that show a volume of a crystal, those that are seen first."""
        found = [layer for layer in self.viewer.layers if _is_crystal(layer)]
        return sorted(found, key=lambda layer: not layer.visible)

    def volume(self) -> Volume:
        """Return the volume that is looked at.

        Raises
        ------
        Vox3dError
            If there is none.
        """
        if self.source.value is None:
            raise Vox3dError(OPEN_FIRST)
        return volume_from_layer(self.source.value)

    def current_run(self) -> Run:
        """What the open page is set to do now.

        Raises
        ------
        Vox3dError
            If there is no crystal, or the page is not set to anything that can be done.
        """
        assert self.open is not None
        volume = self.volume()
        arguments = crystal_arguments(volume)
        source = arguments.pop("source") or self.source.value.name
        settings = self.sections[self.open].arguments(volume)
        return Run(self.open.function, source, {**arguments, **settings})

    def made(self, layer: Layer) -> bool:
        """Whether a layer was made by one of the pages."""
        return any(section.made(layer) for section in self.sections.values())

    def uncover(self) -> None:
        """Hide the volume in 3D, where it would cover what lies in it; slices show it."""
        self._covering = self.source.value
        self._slices_or_space()

    def _slices_or_space(self, *_: Any) -> None:
        inside = [layer for part in self.sections.values() for layer in part.lying_inside()]
        covering = self._covering
        if not inside or covering is None or covering is not self.source.value:
            return
        flat = self.viewer.dims.ndisplay == 2
        covering.visible = flat
        for layer in inside:
            if isinstance(layer, Surface3D):  # in a slice they would cover it in turn
                layer.visible = not flat

    def _look(self, *_: Any) -> None:
        there = self.source.value is not None
        self.hint.setText("" if there else OPEN_FIRST)
        self.hint.setVisible(not there)
        for heading, section in zip(self.headings.values(), self.sections.values(), strict=True):
            heading.setEnabled(there)
            if there:
                section.source_changed()
        self._arrange()

    def _arrange(self) -> None:
        """Show the open section under its heading, and the headings of the others."""
        there = self.source.value is not None
        for kind, heading in self.headings.items():
            is_open = there and kind is self.open
            heading.setText(f"{'▾' if is_open else '▸'}  {kind.title}")
            self.sections[kind].setVisible(is_open)
            if is_open:
                self.sections[kind].opened()
        self.copy.setVisible(there and self.open is not None and bool(self.open.function))
        self.copy.said.hide()


def open_explorer(viewer: napari.viewer.Viewer, layer: Layer) -> None:
    """Open the window beside the others, or find it open, and look at a layer there."""
    window = open_window(viewer, "Explore a crystal")
    window.choose(layer)
    window.setFocus(Qt.FocusReason.OtherFocusReason)


def _is_crystal(layer: Layer) -> bool:
    held = layer.metadata.get("vox3d")
    return isinstance(layer, Image) and isinstance(held, vox.Volume) and held.periodic
