"""The pages of *Explore a crystal* that show something in the view, and what all pages share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
    QWidget,
)
from superqt import QLabeledDoubleSlider
from superqt.utils import qdebounced

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.appearance import volume_look
from napari_vox3d.gui.controls import add_row, drop_down, note
from napari_vox3d.gui.crystal_layers import (
    KIND_COLOURS,
    maxima_layer,
    plane_layer,
    surface_layer,
)
from napari_vox3d.gui.layers import volume_from_layer
from napari_vox3d.gui.reproduce import crystal_arguments
from napari_vox3d.gui.workers import RunControl, show_problem
from napari_vox3d.provenance import changed

if TYPE_CHECKING:
    from napari_vox3d.gui.elf_tools_widget import ExploreCrystal
    from napari_vox3d.gui.layers import LayerData
    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume

ONE_COLOUR = "one colour"
LIVE = 80  # ms without a change before a surface or plane follows


def shown_problems(function: Callable[..., None]) -> Callable[..., None]:
    """Show what a user can mend as a notification."""

    @wraps(function)
    def run(self: Section, *_: Any) -> None:
        try:
            function(self)
        except (Vox3dError, MemoryError) as error:
            show_problem(error)

    return run


class Section(QWidget):
    """One page.

    Parameters
    ----------
    window
        The window it belongs to.
    """

    title = ""
    about = ""
    function = ""  # public name of what it does, if a script can do it
    inside: tuple[str, ...] = ()  # roles of layers that the volume would cover in 3D

    def __init__(self, window: ExploreCrystal):
        super().__init__()
        self._window = window
        self._viewer = window.viewer
        self._layers: dict[str, Layer] = {}
        self.form = QFormLayout(self)
        self.form.setContentsMargins(8, 0, 0, 6)
        text = note(self.about)
        self.form.addRow(text)

    def opened(self) -> None:
        """Do what is due when the page is looked at."""

    def source_changed(self) -> None:
        """Adapt to another crystal."""

    def layers_changed(self) -> None:
        """Adapt to other open layers."""

    def arguments(self, volume: Volume) -> dict[str, Any]:
        """Arguments of its function besides the volume, of JSON types."""
        return {}

    def lying_inside(self) -> list[Layer]:
        """Layers that the volume would cover in 3D."""
        return [layer for role in self.inside if (layer := self.shown(role)) is not None]

    def show_layer(self, role: str, made: LayerData) -> Layer:
        """Show a layer in place of the one that had this role before."""
        self.hide_layer(role)
        self._layers[role] = layer = Layer.create(*made)
        self._viewer.add_layer(layer)
        return layer

    def hide_layer(self, role: str) -> None:
        """Take away the layer of this role."""
        layer = self._layers.pop(role, None)
        if layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def made(self, layer: Layer) -> bool:
        """Whether a layer is one of this page."""
        return layer in self._layers.values()

    def shown(self, role: str) -> Layer | None:
        """Return the layer of this role, if it is still open."""
        layer = self._layers.get(role)
        return layer if layer in self._viewer.layers else None

    def see_in_3d(self) -> None:
        """Show the scene in 3D, without the volume, which would hide what lies in it."""
        self._viewer.dims.ndisplay = 3
        self._window.uncover()

    def button(self, text: str, tooltip: str, press: Callable[[], None]) -> QPushButton:
        """Add a button."""
        made = QPushButton(text, toolTip=tooltip)
        made.clicked.connect(lambda: press())
        self.form.addRow(made)
        return made


class Maxima(Section):
    """Maxima of an ELF as points."""

    title = "Bonds, lone pairs, interstitial electrons"
    about = "Maxima of an ELF, with the value there and their kind."
    function = "find_maxima"
    inside = ("maxima",)

    def __init__(self, window: ExploreCrystal):
        super().__init__(window)
        self.least = _number(
            0.5, 0, 1, 0.05, "Lower maxima are left out; 0.5 is the uniform electron gas."
        )
        self.prominence = _number(
            0.01, 0, 1, 0.01, "Maxima are left out from which the ELF falls by less on the way to "
            "one as high, as it does in metals.",
        )  # fmt: skip
        self.run = RunControl("Find maxima", self._start, "Find them in the background.")
        self.legend = note()
        add_row(self.form, "Least value", self.least)
        add_row(self.form, "Least prominence", self.prominence)
        self.form.addRow(self.run)
        self.form.addRow(self.legend)

    def source_changed(self) -> None:
        """Forget the maxima of another crystal."""
        self.legend.clear()

    def arguments(self, volume: Volume) -> dict[str, Any]:
        """Arguments of `find_maxima`."""
        return changed(least=(self.least.value(), 0.5), prominence=(self.prominence.value(), 0.01))

    def _start(self) -> None:
        volume = self._window.volume()
        self.run.run(
            vox.find_maxima, volume, self.least.value(), self.prominence.value(),
            then=lambda found: self._show(volume, found),
        )  # fmt: skip

    def _show(self, volume: Volume, found: Picks) -> None:
        self.show_layer("maxima", maxima_layer(found, volume))
        self._window.uncover()
        rows = []
        for kind, colour in KIND_COLOURS.items():
            values = found.scores[found.labels == kind]
            if len(values):
                low, high = f"{values.min():.2f}", f"{values.max():.2f}"
                where = low if low == high else f"{low}–{high}"
                rows.append(
                    f'<span style="color:{colour}">●</span> {len(values)} {kind}, ELF {where}'
                )
        left_out = found.metadata["hardly prominent"]
        if left_out:
            rows.append(f"{left_out} more hardly stand out")
        self.legend.setText("<br>".join(rows or ["No maxima."]))


class Surface(Section):
    """Isosurface in the true cell."""

    title = "Isosurface"
    about = "Surface of one value, in the true cell and continued to its border."
    function = "isosurface"
    inside = ("surface",)

    def __init__(self, window: ExploreCrystal):
        super().__init__(window)
        self.level = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.level.setToolTip("Value on the surface.")
        self.colour_by = drop_down(
            "Colour the surface by the values of another volume, such as the ELF on a surface of "
            "the density.",
            choices=lambda _=None: [ONE_COLOUR, *window.crystals()],
        )
        add_row(self.form, "Level", self.level)
        add_row(self.form, "Colour by", self.colour_by)
        self.button("Show surface", "Show it in 3D; it then follows the level.", self.show_surface)
        self._follow = qdebounced(self._update, timeout=LIVE)
        self.level.valueChanged.connect(lambda _: self._follow())
        self.colour_by.changed.connect(lambda _: self._follow())

    def source_changed(self) -> None:
        """Set the slider to the values of the crystal."""
        volume = self._window.volume()
        self.hide_layer("surface")
        values = np.asarray(volume.values)
        finite = values[np.isfinite(values)].real
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        if not 0 < high - low < np.inf or np.iscomplexobj(values):
            return
        self.level.setDecimals(max(2, 2 - int(np.floor(np.log10(high - low)))))
        self.level.setRange(low, high)
        self.level.setSingleStep((high - low) / 200)
        self.level.setValue(volume_look(volume, volume.values)["iso_threshold"])

    def layers_changed(self) -> None:
        """Offer the volumes that are open now."""
        self.colour_by.reset_choices()

    def arguments(self, volume: Volume) -> dict[str, Any]:
        """Arguments of `isosurface`."""
        other = self.colour_by.value
        colours = {} if other == ONE_COLOUR else {"colour_by": reading_of(other)}
        return {"level": round(self.level.value(), 6), **colours}

    @shown_problems
    def show_surface(self) -> None:
        """Show the surface at the level."""
        volume, other = self._window.volume(), self.colour_by.value
        colours = None if other == ONE_COLOUR else volume_from_layer(other)
        surface = vox.isosurface(volume, self.level.value(), colours)
        made = surface_layer(surface, volume, colours)
        layer = self.shown("surface")
        if layer is None:
            self.show_layer("surface", made)
            self.see_in_3d()
        else:
            _replace_surface(layer, made)

    def _update(self) -> None:
        if self.shown("surface") is not None:
            self.show_surface()


class Plane(Section):
    """Lattice plane in its place."""

    title = "Lattice plane"
    about = "Cut along (h k l) of any cell, shown where it lies."
    function = "lattice_plane"
    inside = ("plane",)

    def __init__(self, window: ExploreCrystal):
        super().__init__(window)
        row = QHBoxLayout()
        self.hkl = [QSpinBox(minimum=-9, maximum=9, value=value) for value in (1, 1, 0)]
        for letter, box in zip("hkl", self.hkl, strict=True):
            box.setToolTip(f"Miller index {letter}, with respect to the cell.")
            row.addWidget(box)
            box.valueChanged.connect(lambda _: self._reach())
        self.height = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.height.setToolTip("Distance of the plane from the first voxel, along its normal.")
        self.form.addRow("h k l", row)
        add_row(self.form, "Height, Å", self.height)
        self.button("Show plane", "Show it in 3D; it then follows the indices.", self.show_plane)
        self.face = self.button("Face the plane", "Turn the view so as to see it flat.", self.look)
        self._follow = qdebounced(self._update, timeout=LIVE)
        self.height.valueChanged.connect(lambda _: self._follow())

    def source_changed(self) -> None:
        """Take the plane of another crystal away."""
        self.hide_layer("plane")
        self._reach()

    def arguments(self, volume: Volume) -> dict[str, Any]:
        """Arguments of `lattice_plane`; the origin as fractions of the cell."""
        through, _ = self._through(volume)
        return {"hkl": self._indices(), "origin": fractions(volume, through)}

    def _indices(self) -> list[int]:
        return [box.value() for box in self.hkl]

    def _through(self, volume: Volume) -> tuple[np.ndarray, np.ndarray]:
        """A point of the plane at the height, and its normal."""
        cut = vox.lattice_plane(volume, self._indices(), origin=volume.origin)
        normal = cut.step[0] / np.linalg.norm(cut.step[0])
        return volume.origin + self.height.value() * normal, normal

    @shown_problems
    def show_plane(self) -> None:
        """Cut and show the plane at the height."""
        volume = self._window.volume()
        through, normal = self._through(volume)
        cut = vox.lattice_plane(volume, self._indices(), origin=through)
        made = plane_layer(cut, volume)
        layer = self.shown("plane")
        self._view = normal, cut.step[1]
        if layer is None:
            self.show_layer("plane", made)
            self.see_in_3d()
        else:
            _replace_surface(layer, made)

    def look(self) -> None:
        """Turn the camera to the plane."""
        self.show_plane()
        if self.shown("plane") is not None:
            normal, up = self._view
            self._viewer.scene.camera.set_view_direction(tuple(-normal), tuple(up))

    def _reach(self) -> None:
        """Let the height go from one plane of the crystal to the next."""
        hkl = np.array([box.value() for box in self.hkl], float)
        if hkl.any() and self._window.source.value is not None:
            cell = self._window.volume().lattice
            self.height.setRange(0, 1 / float(np.linalg.norm(np.linalg.inv(cell) @ hkl)))
            self._follow()

    def _update(self) -> None:
        if self.shown("plane") is not None:
            self.show_plane()


def reading_of(layer: Any) -> dict[str, Any]:
    """Where a script takes the volume of a layer from."""
    arguments = crystal_arguments(volume_from_layer(layer))
    return {**arguments, "source": arguments["source"] or layer.name}


def fractions(volume: Volume, place: np.ndarray) -> list[float]:
    """Give a place in Å (z, y, x) as fractions of the cell along a, b and c."""
    return ((volume.to_index(place) / volume.shape)[::-1].round(6) + 0.0).tolist()


def _replace_surface(layer: Any, made: LayerData) -> None:
    """Change what a layer shows; colours that the user gave it stay unless they mean another."""
    layer.data, options, _ = made
    if layer.name != options["name"]:
        for name in ("name", "colormap", "contrast_limits"):
            setattr(layer, name, options[name])


def _number(value: float, low: float, high: float, step: float, tooltip: str) -> QDoubleSpinBox:
    box = QDoubleSpinBox(minimum=low, maximum=high, singleStep=step, value=value, decimals=3)
    box.setToolTip(tooltip)
    return box
