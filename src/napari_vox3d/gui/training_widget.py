"""The *Train a picker* window: from tomograms with picks to a model for *Pick particles*."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, FloatSpinBox, LineEdit
from napari.layers import Image, Points
from qtpy.compat import isalive
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QWidget

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.controls import (
    OPEN_FIRST,
    add_row,
    choose,
    contrast_menu,
    drop_down,
    new_grid,
    note,
    scrolled_form,
    voxel_size_box,
)
from napari_vox3d.gui.docks import open_window
from napari_vox3d.gui.kept_clicks import KeptClicks, new_points
from napari_vox3d.gui.layers import volume_from_layer
from napari_vox3d.gui.meanwhile import PicksMeanwhile
from napari_vox3d.gui.pick_layers import DEFAULT_DIAMETER, show_whole_spheres
from napari_vox3d.gui.reproduce import reading_arguments
from napari_vox3d.gui.tomograms import calibrate, is_picks, is_tomogram
from napari_vox3d.gui.training_controls import StartChoice, TrainingControl
from napari_vox3d.gui.training_examples import NO_PICKS, ExampleRows, file_of_picks
from napari_vox3d.gui.workers import show_problem
from napari_vox3d.picks import Picks
from napari_vox3d.provenance import Run, changed
from napari_vox3d.training.drafts import free_name
from napari_vox3d.training.inputs import known_radii, particle_classes

if TYPE_CHECKING:
    import napari

    from napari_vox3d.curation.clicks import Clicks
    from napari_vox3d.models import Model

PAUSE = 200  # ms without a change before the classes are listed anew
STEM = "my-picker"
ENOUGH = 5  # clicks of a class that can be learnt from
LABELS = {"some of the particles": "some", "all particles": "all"}


class ClassRow:
    """A class to learn: whether to, how many examples there are, and how large it is.

    Parameters
    ----------
    name
        Of the class.
    count
        Number of its picks.
    radius
        Å; None if nobody says.
    """

    def __init__(self, name: str, count: int, radius: float | None):
        self.name = name
        self.learn = CheckBox(value=True, text=name, tooltip=f"Learn to find {name}.")
        self.count = QLabel(str(count), toolTip=f"Number of picks of {name}.")
        self.radius = FloatSpinBox(
            value=radius or 0,
            min=0,
            max=5000,
            step=5,
            tooltip=f"Radius of {name}: the size of its picks, and half the least distance "
            "between two of them.",
        )
        self.radius.native.setDecimals(0)
        self.radius.native.setSpecialValueText("please set it")
        self.radius.native.setSuffix(" Å")


class TrainPicker(QWidget):
    """Dock widget that trains a picker on the tomograms and points of a viewer.

    Parameters
    ----------
    napari_viewer
        Where tomograms and points come from.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer):
        super().__init__()
        self._viewer = napari_viewer
        self._classes: list[ClassRow] = []
        self._radii: dict[str, float] = {}  # as the user set them
        self._left_out: set[str] = set()
        self.kept = KeptClicks(napari_viewer, self._take_up)
        self.start = StartChoice("picking", models=True, section="training")
        self.examples = ExampleRows(napari_viewer)
        self.add = QPushButton(
            "Add a row",
            toolTip="For another tomogram, or for another layer of points on the same one. More "
            "tomograms make the model more reliable.",
        )
        self.particle = LineEdit(value="particle", tooltip="What you are going to click.")
        self.click = QPushButton(
            "Click particles",
            toolTip="Make a layer of points on the tomogram, and click on particles in the view.",
        )
        self.labels = drop_down(
            "With some of the particles, places without a point may be particles too; the model "
            "finds out which. With all of them, they count as empty.",
            choices=list(LABELS.items()),
        )
        self.contrast = contrast_menu()
        self.voxel_size = voxel_size_box()
        self.classes = QWidget()
        self.hint = note()
        self.meanwhile = PicksMeanwhile(napari_viewer, self)
        self.seen = note()
        self.pick = QPushButton(
            "Pick with it", toolTip="Find particles in the whole tomogram with the new model."
        )
        self._form = form = scrolled_form(self)
        form.addRow(self.kept)
        add_row(form, "Start from", self.start)
        form.addRow(note("Learn from these tomograms and the points on their particles:"))
        form.addRow(self.examples)
        clicking = QHBoxLayout()
        for part in (self.particle.native, self.click, self.add):
            clicking.addWidget(part)
        form.addRow(clicking)
        add_row(form, "Points are", self.labels)
        add_row(form, "Contrast", self.contrast)
        add_row(form, "Voxel size", self.voxel_size)
        form.addRow(self.classes)
        form.addRow(self.hint)
        self.training = TrainingControl(
            form, function=_train_picker, section="training", stem=STEM, what="loss",
            prepare=self._begin, describe=self._describe,
        )  # fmt: skip
        below_curve = self.training.layout().indexOf(self.training.curve) + 1
        self.training.layout().insertWidget(below_curve, self.seen)
        form.addRow(self.pick)
        self.pick.hide()
        self._soon = QTimer(self, singleShot=True, interval=PAUSE)
        self._soon.timeout.connect(self._list_classes)
        self.start.changed.connect(self._list_classes)
        self.examples.changed.connect(self._list_classes)
        self.add.clicked.connect(lambda: self.examples.add())
        self.click.clicked.connect(self.click_particles)
        self.voxel_size.changed.connect(self._calibrate)
        self.meanwhile.said.connect(self._say_seen)
        self._say_seen("")
        self.run.ended.connect(self._end)
        self.training.trained.connect(self._offer_to_pick)
        self.training.name.changed.connect(lambda _: self._keep_clicks())
        self.pick.clicked.connect(self.pick_with_it)
        here = self.kept.look()
        self.training.taken = self.kept.names
        name = free_name(STEM, self.kept.names()) if here is None else here.name
        self.training.name.value = name
        self.reset_choices()
        if here is not None:
            self._adopt(here)

    @property
    def run(self) -> Any:
        """The Train button."""
        return self.training.run

    # --- clicks --------------------------------------------------------------------------------

    def click_particles(self) -> None:
        """Make a layer of points on the tomogram that is learnt from, and begin to add points."""
        tomogram = self._tomogram_to_click_in()
        if tomogram is None:
            show_problem(Vox3dError(OPEN_FIRST))
            return
        name = self.particle.value.strip() or "particle"
        radius = self._radii.get(name) or known_radii([_named(name)], self.start.known)[name]
        diameter = 2 * radius if radius else DEFAULT_DIAMETER
        own = [row.points.value for row in self.examples.whole if row.tomogram.value is tomogram]
        points = next((layer for layer in own if layer.name == name), None)
        if points is None:
            points = new_points(tomogram, name, np.zeros((0, 3)))
            points.current_size = diameter / float(tomogram.scale[-1])
            show_whole_spheres(self._viewer, Picks(np.zeros((1, 3)), name, radii=diameter / 2))
            self._viewer.add_layer(points)
            self.examples.add_points(tomogram, points)
        self._viewer.layers.selection.active = points
        points.mode = "add"

    def _tomogram_to_click_in(self) -> Image | None:
        """The uppermost one that is visible."""
        there = [layer for layer in self._viewer.layers if is_tomogram(layer)]
        shown = [layer for layer in there if layer.visible] or there
        return shown[-1] if shown else None

    def _keep_clicks(self, begun: bool = False) -> None:
        rows = self.examples.whole
        if begun or self.kept.keeps(rows):
            kind = self.start.menu.value
            settings = {
                "start": kind, "size": self.start.size.value, "labels": self.labels.value,
                "contrast": self.contrast.value, "minutes": self.training.minutes.value,
                "radii": self._radii, "left_out": sorted(self._left_out),
            }  # fmt: skip
            self.kept.keep(self.training.name.value.strip(), rows, settings)

    def _take_up(self, clicks: Clicks, layers: Sequence[tuple[Image, Points]]) -> None:
        """Go on with clicks that were kept, and with their training if it was begun."""
        for tomogram, points in layers:
            self.examples.add_points(tomogram, points)
        self._adopt(clicks)
        if self.training.unfinished:
            self.run.press()

    def _adopt(self, clicks: Clicks) -> None:
        held = clicks.settings
        self.training.name.value = clicks.name
        choose(self.start.menu, held.get("start"))
        choose(self.start.size, held.get("size"))
        choose(self.labels, held.get("labels"))
        choose(self.contrast, held.get("contrast"))
        self.training.minutes.value = held.get("minutes", self.training.minutes.value)
        self._radii |= held.get("radii", {})
        self._left_out |= set(held.get("left_out", ()))
        self._list_classes()

    # --- layers --------------------------------------------------------------------------------

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers that are open now; napari calls this when they change."""
        self.examples.reset_choices()
        for layer in self._viewer.layers:  # connecting again does nothing
            if is_picks(layer):
                layer.events.data.connect(self._list_classes_soon)
                layer.events.features.connect(self._list_classes_soon)
            elif is_tomogram(layer):
                layer.events.scale.connect(self._list_classes_soon)
                layer.events.units.connect(self._list_classes_soon)
        self._list_classes()

    def _list_classes_soon(self, _event: object = None) -> None:
        if isalive(self):
            self._soon.start()

    def _list_classes(self) -> None:
        """Show the classes of all rows, and ask for a voxel size if one is unknown."""
        self._soon.stop()
        tomograms = self.examples.tomograms
        unknown = [layer for layer in tomograms if not volume_from_layer(layer).calibrated]
        self._form.setRowVisible(self.voxel_size.native, bool(unknown))
        picks = [row.picks() for row in self.examples.whole]
        counts: dict[str, int] = {}
        for part in picks:
            for name, count in part.counts().items():
                counts[name] = counts.get(name, 0) + count
        self._classes = [
            ClassRow(name, counts[name], self._radii.get(name, radius))
            for name, radius in known_radii(picks, self.start.known).items()
        ]
        grid = new_grid(self.classes, wide=0)
        grid.setColumnMinimumWidth(2, 115)  # that a radius fits between its two buttons
        for column, title in enumerate(("Class", "Points", "Radius") if self._classes else ()):
            grid.addWidget(QLabel(title), 0, column)
        for n, row in enumerate(self._classes, start=1):
            row.learn.value = row.name not in self._left_out
            for column, part in enumerate((row.learn.native, row.count, row.radius.native)):
                grid.addWidget(part, n, column)
            row.learn.changed.connect(self._remember_classes)
            row.radius.changed.connect(self._remember_classes)
        self._show_hint(counts)
        self._keep_clicks()

    def _show_hint(self, counts: dict[str, int]) -> None:
        """Say what is missing before anything can be learnt."""
        tomograms = self.examples.tomograms
        missing = "" if self._classes else OPEN_FIRST
        if tomograms and not self._classes:
            missing = NO_PICKS.format(f"“{tomograms[0].name}”")
        few = [f"{ENOUGH - counts[name]} more of {name}" for name in counts
               if counts[name] < ENOUGH and name not in self._left_out]  # fmt: skip
        if few:
            missing = f"{ENOUGH} points of a class are needed to learn it: {', '.join(few)}."
        self.hint.setText(missing)
        self.hint.setVisible(bool(missing))

    def _remember_classes(self) -> None:
        for row in self._classes:
            (self._left_out.discard if row.learn.value else self._left_out.add)(row.name)
            if row.radius.value:
                self._radii[row.name] = row.radius.value
        self._show_radii()
        self._show_hint({row.name: int(row.count.text()) for row in self._classes})
        self._keep_clicks()

    def _show_radii(self) -> None:
        """Let clicks be circles of the radius that was set for their class."""
        for row in self.examples.whole:
            points, picks = row.points.value, row.picks()
            if picks.radii is None and picks.classes and set(picks.classes) <= set(self._radii):
                scale = float(points.scale[-1])
                points.size = np.array([2 * self._radii[c] / scale for c in picks.labels.tolist()])
                points.current_size = float(points.size[-1])

    def _calibrate(self, size: float) -> None:
        if size == 0:
            return
        for layer in self.examples.tomograms:
            if not volume_from_layer(layer).calibrated:
                calibrate(self._viewer, layer, size)
        self.voxel_size.value = 0
        self._list_classes()

    # --- the training --------------------------------------------------------------------------

    def _arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Examples and settings, as `train_picker` takes them."""
        examples = self.examples.examples()
        self._list_classes()
        radii = {row.name: row.radius.value for row in self._classes if row.learn.value}
        if not radii:
            raise Vox3dError("Tick at least one class to learn.")
        settings = {
            "classes": particle_classes(radii, self.start.known),
            "labels": self.labels.value,
            "contrast": self.contrast.value,
            **self.start.arguments,
        }
        return examples, settings

    def _begin(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        examples, settings = self._arguments()
        self._keep_clicks(begun=True)
        shown = [(layer, volume_from_layer(layer)) for layer in self.examples.tomograms]
        reach = max(kind.radius for kind in settings["classes"])
        self.meanwhile.begin(shown, reach, settings["contrast"], lambda: self.training.stopping)
        self._say_seen("")
        self.pick.hide()
        return (examples,), {**settings, "glimpse": self.meanwhile.see}

    def _say_seen(self, text: str) -> None:
        self.seen.setText(text)
        self.seen.setVisible(bool(text))

    def _end(self) -> None:
        self.meanwhile.end()
        self._say_seen("")
        self.start.menu.reset_choices()

    def _describe(self) -> Run:
        examples: dict[str, list[str]] = {}
        reading: list[dict[str, Any]] = []
        for row in self.examples.rows:
            row.example()  # says what is missing
            layer = row.tomogram.value
            volume = volume_from_layer(layer)
            files = examples.setdefault(volume.source or layer.name, [])
            files.append(file_of_picks(row.points.value, layer))
            reading.append(reading_arguments(layer, volume))
        if any(each != reading[0] or each.get("member") for each in reading):
            raise Vox3dError(
                "A script cannot set another voxel size for each tomogram, nor take one of several "
                "volumes in a file; save these layers as .mrc, and open those."
            )
        _, settings = self._arguments()
        radii = {kind.name: kind.radius for kind in settings.pop("classes")}
        settings |= changed(labels=(settings.pop("labels"), "all"))
        pairs = [[source, files] for source, files in examples.items()]
        size = {key: value for key, value in reading[0].items() if key != "member"}
        arguments = {"examples": pairs, "classes": radii, **settings, **size}
        return Run("train_picker", "", arguments)

    # --- what follows --------------------------------------------------------------------------

    def _offer_to_pick(self, model: Model) -> None:
        self._trained = model.card.name
        self.pick.setText(f"Pick with “{model.card.name}”")
        self.pick.show()

    def pick_with_it(self) -> None:
        """Find particles in the first of the tomograms with the new model, in *Pick particles*."""
        picking = open_window(self._viewer, "Pick particles")
        picking.reset_choices()
        choose(picking.model.menu, self._trained)
        choose(picking.volume, next(iter(self.examples.tomograms), None))
        picking.contrast.value = self.contrast.value
        if not picking.run.running:
            picking.run.press()


def _named(name: str) -> Picks:
    return Picks(np.zeros((1, 3)), name)


def _train_picker(*args: Any, **kwargs: Any) -> Model:
    # Looked up in the thread, because this imports torch.
    return vox.train_picker(*args, **kwargs)
