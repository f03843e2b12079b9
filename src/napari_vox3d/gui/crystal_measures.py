"""The pages of *Explore a crystal* that measure, compare and save."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import FileEdit
from napari.layers import Layer, Points
from qtpy.QtWidgets import QHBoxLayout, QLineEdit, QPushButton, QSpinBox

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.controls import add_row, drop_down, note
from napari_vox3d.gui.crystal_layers import line_layer
from napari_vox3d.gui.crystal_sections import Section, fractions, reading_of, shown_problems
from napari_vox3d.gui.layers import volume_from_layer, volume_layer, volume_layers
from napari_vox3d.gui.plots import Plot
from napari_vox3d.gui.workers import RunControl

if TYPE_CHECKING:
    from napari_vox3d.density.analysis import Comparison
    from napari_vox3d.gui.elf_tools_widget import ExploreCrystal
    from napari_vox3d.volume import Volume

FILE = "A file…"


class LineProfile(Section):
    """Values along a line."""

    title = "Line profile"
    about = "Values between two atoms or points: a number of an atom, or a b c as fractions."
    function = "line_profile"

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

    def arguments(self, volume: Volume) -> dict[str, Any]:
        """Arguments of `line_profile`; places as fractions of the cell."""
        ends = [_place(volume, end.text()) for end in self.ends]
        start, stop = (end if isinstance(end, int) else fractions(volume, end) for end in ends)
        return {"start": start, "stop": stop}

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
        text = " ".join(f"{x:.4g}" for x in fractions(volume, place))
        self.ends[len(self._clicked)].setText(text)
        self._clicked.append(text)
        if len(self._clicked) == len(self.ends):
            self.pick.setChecked(False)
            self.show_profile()


class Compare(Section):
    """Difference to a reference."""

    title = "Compare"
    about = "Difference to another volume of the same crystal, whose grid may be another one."
    function = "compare_volumes"

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

    def arguments(self, volume: Volume) -> dict[str, Any]:
        """The reference, as it is read."""
        from_file = self.reference.value == FILE
        return {
            "reference": {"source": str(self._file())}
            if from_file
            else reading_of(self.reference.value)
        }

    def _file(self) -> Path:
        path = Path(self.file.value)
        if not path.is_file():
            raise Vox3dError("Choose a reference: an ELFCAR, a CHGCAR or a cube file.")
        return path

    def _start(self) -> None:
        volume, reference = self._window.volume(), self.reference.value
        other = self._file() if reference == FILE else volume_from_layer(reference)
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
    function = "supercell"

    def __init__(self, window: ExploreCrystal):
        super().__init__(window)
        row = QHBoxLayout()
        self.repeats = [QSpinBox(minimum=1, maximum=20, value=2) for _ in range(3)]
        for axis, box in zip("abc", self.repeats, strict=True):
            box.setToolTip(f"Cells along {axis}.")
            row.addWidget(box)
        self.form.addRow("a b c", row)
        self.button("Show supercell", "Tile the crystal, and look at that.", self.tile)

    def arguments(self, volume: Volume) -> dict[str, Any]:
        """Arguments of `supercell`."""
        return {"repeats": [box.value() for box in self.repeats]}

    @shown_problems
    def tile(self) -> None:
        """Show the larger cell, its border and its atoms, and look at it from now on."""
        source = self._window.source.value
        volume = self._window.volume()
        larger = vox.supercell(volume, **self.arguments(volume))
        for layer in self._viewer.layers:
            same = layer.metadata.get("provenance", {}).get("source") == volume.source
            if layer is source or same or self._window.made(layer):
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
    function = "volume_statistics"

    def __init__(self, window: ExploreCrystal):
        super().__init__(window)
        self.text = note()
        self.plot = Plot("Share of the volume, in %, that has a value; point at it to read it.")
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
        share = 100 * found.counts / found.counts.sum()
        self.plot.show_bars(found.edges, share, "{x:.4g}: {y:.2f} % of the volume")
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
