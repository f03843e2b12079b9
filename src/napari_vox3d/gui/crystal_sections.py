"""The pages of *Explore a crystal*, one tool each."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import FileEdit
from napari.layers import Image, Layer, Points
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
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
    line_layer,
    maxima_layer,
    plane_layer,
    surface_layer,
)
from napari_vox3d.gui.layers import volume_from_layer, volume_layer, volume_layers
from napari_vox3d.gui.plots import Plot
from napari_vox3d.gui.workers import RunControl, show_problem

if TYPE_CHECKING:
    from napari_vox3d.density.analysis import Comparison
    from napari_vox3d.gui.elf_tools_widget import ExploreCrystal
    from napari_vox3d.gui.layers import LayerData
    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume

FILE = "A file…"
ONE_COLOUR = "one colour"
LIVE = 80  # ms without a change before a surface or plane follows


def shown_problems(function: Callable[..., None]) -> Callable[..., None]:
    """Show what a user can mend as a notification."""

    @wraps(function)
    def run(self: Section, *_: Any) -> None:
        try:
            function(self)
        except Vox3dError as error:
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

    def shown(self, role: str) -> Layer | None:
        """Return the layer of this role, if it is still open."""
        layer = self._layers.get(role)
        return layer if layer in self._viewer.layers else None

    def see_in_3d(self) -> None:
        """Show the scene in 3D, without the volume, which would hide what lies in it."""
        self._window.source.value.visible = False
        if self._viewer.dims.ndisplay != 3:
            self._viewer.dims.ndisplay = 3

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

    def _start(self) -> None:
        volume = self._window.volume()
        self.run.run(
            vox.find_maxima, volume, self.least.value(), self.prominence.value(),
            then=lambda found: self._show(volume, found),
        )  # fmt: skip

    def _show(self, volume: Volume, found: Picks) -> None:
        self.show_layer("maxima", maxima_layer(found, volume))
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
        low, high = float(np.nanmin(volume.values)), float(np.nanmax(volume.values))
        if not low < high or np.iscomplexobj(volume.values):
            return
        self.level.setDecimals(max(2, 2 - int(np.floor(np.log10(high - low)))))
        self.level.setRange(low, high)
        self.level.setSingleStep((high - low) / 200)
        self.level.setValue(volume_look(volume, volume.values)["iso_threshold"])

    def layers_changed(self) -> None:
        """Offer the volumes that are open now."""
        self.colour_by.reset_choices()

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

    @shown_problems
    def show_plane(self) -> None:
        """Cut and show the plane at the height."""
        volume, hkl = self._window.volume(), [box.value() for box in self.hkl]
        cut = vox.lattice_plane(volume, hkl, origin=volume.origin)
        normal = cut.step[0] / np.linalg.norm(cut.step[0])
        if self.height.value():
            origin = volume.origin + self.height.value() * normal
            cut = vox.lattice_plane(volume, hkl, origin=origin)
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


class LineProfile(Section):
    """Values along a line."""

    title = "Line profile"
    about = "Values between two atoms or points: a number of an atom, or a b c as fractions."

    def __init__(self, window: ExploreCrystal):
        super().__init__(window)
        place = "Number of an atom, from 0, or three fractions of the cell such as 0.5 0.5 0."
        self.ends = [QLineEdit(text, toolTip=place) for text in ("0", "1")]
        self.pick = QPushButton("Click two atoms", checkable=True)
        self.pick.setToolTip("Take the line between two atoms or maxima clicked in the view.")
        self.plot = Plot("Values along the line; point at it to read them.")
        self.result = note()
        for label, end in zip(("From", "To"), self.ends, strict=True):
            add_row(self.form, label, end)
            end.returnPressed.connect(self.show_profile)
        self.form.addRow(self.pick)
        self.button("Show profile", "Draw the line and plot the values.", self.show_profile)
        self.form.addRow(self.plot)
        self.form.addRow(self.result)
        self._clicked: list[str] = []
        self.pick.toggled.connect(self._listen)

    def source_changed(self) -> None:
        """Take the line of another crystal away."""
        self.hide_layer("line")
        self.plot.hide()
        self.result.clear()

    @shown_problems
    def show_profile(self) -> None:
        """Draw the line and plot the values along it."""
        volume = self._window.volume()
        line = vox.line_profile(volume, *(_place(volume, end.text()) for end in self.ends))
        unit = f" {volume.unit}".rstrip()
        self.plot.show_line(line.distances, line.values, f"{{x:.2f}} Å: {{y:.4g}}{unit}")
        top, low = line.values.argmax(), line.values.argmin()
        self.result.setText(
            f"{line.distances[-1]:.3f} Å; highest {line.values[top]:.4g}{unit} at "
            f"{line.distances[top]:.2f} Å, lowest {line.values[low]:.4g} at "
            f"{line.distances[low]:.2f} Å."
        )
        # where the atoms are shown: in the cell
        start = volume.to_index(line.positions[0])
        start = volume.to_world((start + 0.5) % volume.shape - 0.5)
        ends = start + line.positions[[0, -1]] - line.positions[0]
        self.show_layer("line", line_layer(ends, f"{volume.name} profile"))

    def _listen(self, wanted: bool) -> None:
        callbacks = self._viewer.mouse_drag_callbacks
        self._clicked = []
        if wanted:
            callbacks.append(self.take_click)
        elif self.take_click in callbacks:
            callbacks.remove(self.take_click)

    def take_click(self, _viewer: Any, event: Any) -> None:
        """Take the point under the mouse as the next end of the line."""
        for layer in reversed(self._viewer.layers):
            if not isinstance(layer, Points) or not layer.visible:
                continue
            hit = layer.get_value(
                event.position,
                view_direction=event.view_direction,
                dims_displayed=event.dims_displayed,
                world=True,
            )
            if hit is not None:
                self._take(np.asarray(layer.data_to_world(layer.data[hit])))
                return

    def _take(self, place: np.ndarray) -> None:
        volume = self._window.volume()
        fractions = (volume.to_index(place) / volume.shape)[::-1].round(4) + 0.0
        text = " ".join(f"{x:g}" for x in fractions)
        self.ends[len(self._clicked)].setText(text)
        self._clicked.append(text)
        if len(self._clicked) == len(self.ends):
            self.pick.setChecked(False)
            self.show_profile()


class Compare(Section):
    """Difference to a reference."""

    title = "Compare"
    about = "Difference to another volume of the same crystal, whose grid may be another one."

    def __init__(self, window: ExploreCrystal):
        super().__init__(window)
        self.reference = drop_down(
            "What the crystal is judged by: another layer, or a file such as an ELFCAR.",
            choices=lambda _=None: [
                *(layer for layer in window.crystals() if layer is not window.source.value),
                FILE,
            ],
        )
        self.file = FileEdit(tooltip="ELFCAR, CHGCAR, cube or XSF; it need not be open.")
        self.run = RunControl("Compare", self._start, "Subtract the reference.")
        self.result = note()
        add_row(self.form, "Reference", self.reference)
        add_row(self.form, "File", self.file)
        self.form.addRow(self.run)
        self.form.addRow(self.result)
        self.reference.changed.connect(lambda _: self._offer_file())

    def source_changed(self) -> None:
        """Offer what is not looked at."""
        self.result.clear()
        self.layers_changed()

    def layers_changed(self) -> None:
        """Offer the volumes that are open now."""
        self.reference.reset_choices()
        self._offer_file()

    def _offer_file(self) -> None:
        self.form.setRowVisible(self.file.native, self.reference.value == FILE)

    def _start(self) -> None:
        volume, reference = self._window.volume(), self.reference.value
        if reference == FILE:
            path = Path(self.file.value)
            if not path.is_file():
                raise Vox3dError("Choose a reference: an ELFCAR, a CHGCAR or a cube file.")
            other: Volume | Path = path
        else:
            other = volume_from_layer(reference)
        self.run.run(_compare, volume, other, then=self._show)

    def _show(self, found: Comparison) -> None:
        difference = found.difference
        unit = f" {difference.unit}".rstrip()
        self.result.setText(
            f"Mean absolute difference {found.mae:.4g}{unit}, root mean square {found.rmse:.4g}, "
            f"largest {found.largest:.4g}."
        )
        if not found.largest:
            return  # nothing to see
        for layer in (self._window.source.value, self.reference.value):
            if isinstance(layer, Layer):
                layer.visible = False
        # the isosurface is at what is above zero; differences of both signs are seen in slices
        self.show_layer("difference", volume_layer(difference))


class Supercell(Section):
    """Several cells."""

    title = "Supercell"
    about = "Show several cells side by side, atoms too."

    def __init__(self, window: ExploreCrystal):
        super().__init__(window)
        row = QHBoxLayout()
        self.repeats = [QSpinBox(minimum=1, maximum=20, value=2) for _ in range(3)]
        for axis, box in zip("abc", self.repeats, strict=True):
            box.setToolTip(f"Cells along {axis}.")
            row.addWidget(box)
        self.form.addRow("a b c", row)
        self.button("Show supercell", "Tile the crystal, and look at that.", self.tile)

    @shown_problems
    def tile(self) -> None:
        """Show the larger cell, its border and its atoms, and look at it from now on."""
        source = self._window.source.value
        volume = self._window.volume()
        larger = vox.supercell(volume, [box.value() for box in self.repeats])
        for layer in self._viewer.layers:
            same = layer.metadata.get("provenance", {}).get("source") == volume.source
            if layer is source or (same and not isinstance(layer, Image)):
                layer.visible = False
        image, *more = volume_layers([larger])
        for number, made in enumerate(more):
            self.show_layer(f"part {number}", made)
        self._window.choose(self.show_layer("volume", image))
        self._viewer.reset_view()


class Values(Section):
    """Statistics."""

    title = "Values and electrons"
    about = "What values there are and, of a density, how many electrons."

    def __init__(self, window: ExploreCrystal):
        super().__init__(window)
        self.text = note()
        self.plot = Plot("How many voxels have which value; point at it to read the numbers.")
        self.form.addRow(self.text)
        self.form.addRow(self.plot)
        self._known: Layer | None = None

    def source_changed(self) -> None:
        """Forget the values of another crystal."""
        self._known = None

    @shown_problems
    def opened(self) -> None:
        """Describe the values, once."""
        layer = self._window.source.value
        if layer is self._known:
            return
        volume = self._window.volume()
        found = vox.volume_statistics(volume, bins=80)
        unit = f" {volume.unit}".rstrip()
        parts = [
            f"From {found.least:.4g} to {found.largest:.4g}{unit}, mean {found.mean:.4g}, "
            f"standard deviation {found.deviation:.4g}.",
            f"Half of the volume is below {found.quantiles[0.5]:.4g}, 5 % above "
            f"{found.quantiles[0.95]:.4g}.",
        ]
        if found.electrons is not None:
            what = "Electrons up less down" if volume.quantity == "spin density" else "Electrons"
            parts.append(f"{what}: {found.electrons:.4f}.")
        if found.not_numbers:
            parts.append(f"{found.not_numbers} voxels hold no number.")
        self.text.setText("\n".join(parts))
        self.plot.show_bars(found.edges, found.counts.astype(float), "{x:.4g}: {y:.0f} voxels")
        self._known = layer


class Save(Section):
    """Files."""

    title = "Save"
    about = (
        "ELFCAR, CHGCAR (density times cell volume, spin channels and augmentation occupancies "
        "kept), LOCPOT, .cube or .xsf; the native grid is written, not the box shown."
    )

    def __init__(self, window: ExploreCrystal):
        super().__init__(window)
        self.file = FileEdit(mode="w", tooltip="File to write; its name says the format.")
        self.result = note()
        add_row(self.form, "File", self.file)
        self.button("Save", "Write the file.", self.save)
        self.form.addRow(self.result)

    def source_changed(self) -> None:
        """Propose the name that VASP gives such a file."""
        names = {"elf": "ELFCAR", "potential": "LOCPOT", "electron density": "CHGCAR"}
        quantity = self._window.volume().quantity
        self.file.value = Path(names.get(quantity, f"{quantity.replace(' ', '_')}.cube"))
        self.result.clear()

    @shown_problems
    def save(self) -> None:
        """Write the volume, with the other spin channels of its file where the format has room."""
        path = Path(self.file.value)
        volumes = self._channels()
        vox.write_volume(path, volumes if len(volumes) > 1 else volumes[0])
        channels = f", {len(volumes)} channels" if len(volumes) > 1 else ""
        self.result.setText(f"Wrote {path}{channels}.")

    def _channels(self) -> list[Volume]:
        """The volume, or all channels of its file if they are open and it is the first."""
        volume = self._window.volume()
        if "vasp" not in volume.metadata or not volume.source:
            return [volume]
        crystals = self._window.crystals()
        open_ones = [volume_from_layer(layer) for layer in self._viewer.layers if layer in crystals]
        same = [one for one in open_ones if one.source == volume.source and "vasp" in one.metadata]
        return same if len(same) in (2, 4) and same[0] is volume else [volume]


def _compare(volume: Volume, reference: Volume | Path, progress: Any) -> Comparison:
    progress(0, 1)
    if isinstance(reference, Path):
        reference = vox.read_volume(reference)
    found = vox.compare_volumes(volume, reference)
    progress(1, 1)
    return found


def _place(volume: Volume, text: str) -> int | np.ndarray:
    """Number of an atom, or Å (z, y, x) of fractions of the cell."""
    if text.strip().isdigit():
        return int(text)
    try:
        a, b, c = (float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise Vox3dError(
            f"A place is the number of an atom or three fractions of the cell, not {text!r}."
        ) from None
    return volume.origin + np.array([c, b, a]) @ volume.cell


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
