"""The *Train a picker* window: from tomograms with picks to a model for *Pick particles*."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, FloatSpinBox
from napari.layers import Layer
from qtpy.compat import isalive
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.controls import (
    OPEN_FIRST,
    add_row,
    choose,
    drop_down,
    new_grid,
    note,
    scrolled_form,
    voxel_size_box,
)
from napari_vox3d.gui.layers import picks_from_layer, same_picks, volume_from_layer
from napari_vox3d.gui.reproduce import reading_arguments
from napari_vox3d.gui.tomograms import calibrate, is_picks, is_tomogram
from napari_vox3d.gui.training_controls import StartChoice, TrainingControl
from napari_vox3d.picks import Picks
from napari_vox3d.provenance import Run
from napari_vox3d.training.inputs import check_example, known_radii, particle_classes

if TYPE_CHECKING:
    import napari

    from napari_vox3d.models import Model
    from napari_vox3d.training.inputs import Example

PAUSE = 200  # ms without a change before the classes are listed anew
NO_PICKS = (
    "Add a points layer with the particles of {}: open a file of picks, or click them in a new "
    "points layer."
)


class ExampleRow(QWidget):
    """A tomogram and the points on its particles.

    Parameters
    ----------
    viewer
        Whose layers are offered.
    """

    def __init__(self, viewer: napari.viewer.Viewer):
        super().__init__()
        self._viewer = viewer
        self.tomogram = drop_down("A tomogram to learn from.", choices=self._tomograms)
        self.points = drop_down(
            "Points on its particles. Places without a point count as empty, so all particles of "
            "a class should have one. The class is the feature “class” or “label” of the points, "
            "else the name of their layer.",
            choices=self._points,
        )
        self.remove = QToolButton(text="×", toolTip="Leave this tomogram out.")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.tomogram.native, 1)
        layout.addWidget(self.points.native, 1)
        layout.addWidget(self.remove)
        self.tomogram.changed.connect(self.match_points)

    def reset_choices(self) -> None:
        """Offer the layers that are open now."""
        alone = self.points.value is None
        self.tomogram.reset_choices()
        self.points.reset_choices()
        if alone:
            self.match_points()

    def match_points(self) -> None:
        """Choose the points that were found in the tomogram, if some say so."""
        if self.tomogram.value is None:
            return
        name = volume_from_layer(self.tomogram.value).name
        for layer in self.points.choices:
            held = layer.metadata.get("vox3d")
            if isinstance(held, Picks) and held.tomogram == name:
                choose(self.points, layer)
                return

    def example(self) -> Example:
        """Volume, and its picks with the classes and radii that are known.

        Raises
        ------
        Vox3dError
            If a layer is missing, or nothing can be learnt from the two.
        """
        tomogram, points = self.tomogram.value, self.points.value
        if tomogram is None:
            raise Vox3dError(OPEN_FIRST)
        if points is None:
            raise Vox3dError(NO_PICKS.format(f"“{tomogram.name}”"))
        volume = volume_from_layer(tomogram)
        if not volume.calibrated:
            raise Vox3dError(f"Set the voxel size of {tomogram.name!r} first: its file lacks it.")
        picks = labelled_picks(points, tomogram)
        if not len(picks):
            raise Vox3dError(f"{points.name!r} is empty: click on some particles first.")
        check_example(volume, picks)
        return volume, picks

    def _tomograms(self, _: object = None) -> list[Layer]:
        return [layer for layer in self._viewer.layers if is_tomogram(layer)]

    def _points(self, _: object = None) -> list[Layer]:
        return [layer for layer in self._viewer.layers if is_picks(layer)]


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
        self._rows: list[ExampleRow] = []
        self._classes: list[ClassRow] = []
        self._radii: dict[str, float] = {}  # as the user set them
        self._left_out: set[str] = set()
        self.start = StartChoice("picking", models=True, section="training")
        self.examples = QVBoxLayout()
        self.examples.setContentsMargins(0, 0, 0, 0)
        self.add = QPushButton(
            "Add a tomogram", toolTip="More tomograms make the model more reliable."
        )
        self.voxel_size = voxel_size_box()
        self.classes = QWidget()
        self.hint = note()
        self._form = form = scrolled_form(self)
        add_row(form, "Start from", self.start)
        form.addRow(note("Learn from these tomograms and the points on their particles:"))
        form.addRow(self.examples)
        form.addRow(self.add)
        add_row(form, "Voxel size", self.voxel_size)
        form.addRow(self.classes)
        form.addRow(self.hint)
        self.training = TrainingControl(
            form, function=_train_picker, section="training", stem="my-picker", what="loss",
            prepare=self._prepare, describe=self._describe,
        )  # fmt: skip
        self._soon = QTimer(self, singleShot=True, interval=PAUSE)
        self._soon.timeout.connect(self._list_classes)
        self.start.changed.connect(self._list_classes)
        self.add.clicked.connect(self._add_row)
        self.voxel_size.changed.connect(self._calibrate)
        self.training.run.ended.connect(self.start.menu.reset_choices)
        self._add_row()
        self.reset_choices()

    @property
    def run(self) -> Any:
        """The Train button."""
        return self.training.run

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers that are open now; napari calls this when they change."""
        for row in self._rows:
            row.reset_choices()
        for layer in self._viewer.layers:  # connecting again does nothing
            if is_picks(layer):
                layer.events.data.connect(self._list_classes_soon)
                layer.events.features.connect(self._list_classes_soon)
            elif is_tomogram(layer):
                layer.events.scale.connect(self._list_classes_soon)
                layer.events.units.connect(self._list_classes_soon)
        self._list_classes()

    def _add_row(self) -> None:
        row = ExampleRow(self._viewer)
        taken = [other.tomogram.value for other in self._rows]
        row.match_points()
        for layer in row.tomogram.choices:
            if layer not in taken:
                choose(row.tomogram, layer)
                break
        row.remove.clicked.connect(lambda: self._remove_row(row))
        row.tomogram.changed.connect(self._list_classes)
        row.points.changed.connect(self._list_classes)
        self._rows.append(row)
        self.examples.addWidget(row)
        self._show_rows()

    def _remove_row(self, row: ExampleRow) -> None:
        self._rows.remove(row)
        self.examples.removeWidget(row)
        row.deleteLater()
        self._show_rows()

    def _show_rows(self) -> None:
        for row in self._rows:
            row.remove.setVisible(len(self._rows) > 1)
        self._list_classes()

    def _list_classes_soon(self, _event: object = None) -> None:
        if isalive(self):
            self._soon.start()

    def _list_classes(self) -> None:
        """Show the classes of all rows, and ask for a voxel size if one is unknown."""
        self._soon.stop()
        unknown = [layer for layer in self._tomograms() if not volume_from_layer(layer).calibrated]
        self._form.setRowVisible(self.voxel_size.native, bool(unknown))
        picks = [
            labelled_picks(row.points.value, row.tomogram.value)
            for row in self._rows
            if row.points.value is not None and row.tomogram.value is not None
        ]
        counts: dict[str, int] = {}
        for part in picks:
            for name, count in part.counts().items():
                counts[name] = counts.get(name, 0) + count
        self._classes = [
            ClassRow(name, counts[name], self._radii.get(name, radius))
            for name, radius in known_radii(picks, self.start.known).items()
        ]
        self._show_hint()
        grid = new_grid(self.classes, wide=0)
        for column, title in enumerate(("Class", "Points", "Radius") if self._classes else ()):
            grid.addWidget(QLabel(title), 0, column)
        for n, row in enumerate(self._classes, start=1):
            row.learn.value = row.name not in self._left_out
            for column, part in enumerate((row.learn.native, row.count, row.radius.native)):
                grid.addWidget(part, n, column)
            row.learn.changed.connect(self._remember_classes)
            row.radius.changed.connect(self._remember_classes)

    def _show_hint(self) -> None:
        """Say what is missing before anything can be learnt."""
        tomograms = self._tomograms()
        missing = "" if self._classes else OPEN_FIRST
        if tomograms and not self._classes:
            missing = NO_PICKS.format(f"“{tomograms[0].name}”")
        self.hint.setText(missing)
        self.hint.setVisible(bool(missing))

    def _remember_classes(self) -> None:
        for row in self._classes:
            (self._left_out.discard if row.learn.value else self._left_out.add)(row.name)
            if row.radius.value:
                self._radii[row.name] = row.radius.value

    def _tomograms(self) -> list[Layer]:
        chosen = dict.fromkeys(row.tomogram.value for row in self._rows)
        return [layer for layer in chosen if layer is not None]

    def _calibrate(self, size: float) -> None:
        if size == 0:
            return
        for layer in self._tomograms():
            if not volume_from_layer(layer).calibrated:
                calibrate(self._viewer, layer, size)
        self.voxel_size.value = 0
        self._list_classes()

    def _prepare(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of `train_picker`."""
        found: dict[Layer, dict[Layer, Example]] = {}
        for row in self._rows:  # several points layers may lie on one tomogram
            found.setdefault(row.tomogram.value, {})[row.points.value] = row.example()
        examples = []
        for pairs in found.values():
            volumes, picks = zip(*pairs.values(), strict=True)
            examples.append((volumes[0], Picks.concatenate(picks)))
        self._list_classes()
        radii = {row.name: row.radius.value for row in self._classes if row.learn.value}
        if not radii:
            raise Vox3dError("Tick at least one class to learn.")
        classes = particle_classes(radii, self.start.known)
        return (examples,), {"classes": classes, **self.start.arguments}

    def _describe(self) -> Run:
        examples: dict[str, list[str]] = {}
        reading: list[dict[str, Any]] = []
        for row in self._rows:
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
        _, settings = self._prepare()
        radii = {kind.name: kind.radius for kind in settings.pop("classes")}
        pairs = [[source, files] for source, files in examples.items()]
        size = {key: value for key, value in reading[0].items() if key != "member"}
        arguments = {"examples": pairs, "classes": radii, **settings, **size}
        return Run("train_picker", "", arguments)


def file_of_picks(points: Layer, tomogram: Layer) -> str:
    """Path of the file that a layer of points shows unchanged; else the name of the layer."""
    held, path = points.metadata.get("vox3d"), points.source.path
    if path is None or not isinstance(held, Picks):
        return points.name
    return str(path) if same_picks(picks_from_layer(points, tomogram), held) else points.name


def labelled_picks(points: Layer, tomogram: Layer) -> Picks:
    """Picks of a layer; unnamed ones get its name, and radii are there only if they are known."""
    picks = picks_from_layer(points, tomogram, unnamed=points.name)
    held = points.metadata.get("vox3d")
    if isinstance(held, Picks) and held.radii is not None:
        return picks
    return replace(picks, radii=None)  # the size that napari draws points in says nothing


def _train_picker(*args: Any, **kwargs: Any) -> Model:
    # Looked up in the thread, because this imports torch.
    return vox.train_picker(*args, **kwargs)
