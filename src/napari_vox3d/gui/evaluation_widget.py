"""The *Evaluate picks* window: picks against the truth, in numbers and in colours."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import ComboBox, FloatSpinBox, PushButton
from napari.layers import Layer, Points
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QApplication,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError
from napari_vox3d.formats import write_aside
from napari_vox3d.gui.controls import add_row, drop_down, note, scrolled_form
from napari_vox3d.gui.pick_layers import picks_from_layer, picks_layer, show_whole_spheres
from napari_vox3d.gui.score_plot import ThresholdPlot
from napari_vox3d.gui.tomograms import is_picks
from napari_vox3d.gui.training_examples import labelled_picks
from napari_vox3d.gui.workers import show_problem
from napari_vox3d.picks import Picks
from napari_vox3d.training.evaluation import (
    CZII_RADII,
    PickScores,
    czii_score,
    match_picks,
    table_rows,
    threshold_curve,
)

if TYPE_CHECKING:
    import napari

HALF, CZII, GIVEN = "half the particle's radius", "half the radius of CZII", "one distance for all"
NO_CLASS = "none of these"
_SHORT = {"precision": "P", "recall": "R", "matched": "hit", "missed": "miss"}  # in a narrow table
COLOURS = {"matched": "#4cd964", "missed": "#0a84ff", "false": "#ff453a"}


class EvaluatePicks(QWidget):
    """Dock widget that compares two layers of picks.

    Parameters
    ----------
    napari_viewer
        Where both are, and where matched, missed and false ones go.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer):
        super().__init__()
        self._viewer = napari_viewer
        self._rows: list[dict[str, object]] = []
        self._compared: tuple[Picks, Picks, Any] | None = None
        self._shown: list[Points] = []
        self.picks = drop_down("Picks to judge.", choices=self._points)
        self.truth = drop_down("Picks that are known to be true.", choices=self._points)
        self.rule = drop_down(
            "How far from a true particle a pick may be: half the radius that the true picks are "
            "shown with, half the radius that the CZII challenge gives its classes, or a distance.",
            choices=(HALF, CZII, GIVEN),
        )
        self.distance = FloatSpinBox(value=50, min=0.1, max=2000, step=5, tooltip="The distance.")
        self.distance.native.setSuffix(" Å")
        self.beta = FloatSpinBox(
            value=4, min=0.1, max=10, step=1,
            tooltip="Weight of recall against precision in F: 1 for F1, 4 for the CZII challenge.",
        )  # fmt: skip
        self.names = QWidget(toolTip="What each class of the picks is called in the truth.")
        self._menus: dict[str, ComboBox] = {}
        self.evaluate = PushButton(
            text="Evaluate", tooltip="Compare, and show matched, missed and false ones as layers."
        )
        self.evaluate.native.setMinimumWidth(330)  # so that the table fits when it comes
        self.table = QTableWidget(
            toolTip="Precision P, recall R and F of each class; true particles that were hit and "
            "missed, and false picks. For all: the mean of F, and the sums."
        )
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.verticalHeader().hide()
        self.score = note()
        self.copy = PushButton(text="Copy table", tooltip="Copy the table for a spreadsheet.")
        self.save = PushButton(text="Save table…", tooltip="Write the table as CSV.")
        self.of_class = drop_down("Class whose F is plotted.", choices=self._classes)
        self.curve = ThresholdPlot("F of a class for each threshold its scores allow.")
        self.best = note()
        self._form = form = scrolled_form(self)
        add_row(form, "Picks", self.picks)
        add_row(form, "Truth", self.truth)
        add_row(form, "Within", self.rule)
        add_row(form, "Distance", self.distance)
        add_row(form, "β", self.beta)
        form.addRow(self.names)
        form.addRow(self.evaluate.native)
        form.addRow(self.table)
        form.addRow(self.score)
        buttons = QHBoxLayout()
        buttons.addWidget(self.copy.native)
        buttons.addWidget(self.save.native)
        form.addRow(buttons)
        add_row(form, "F of", self.of_class)
        form.addRow(self.curve)
        form.addRow(self.best)
        self.picks.changed.connect(self._on_layers)
        self.truth.changed.connect(self._on_layers)
        self.rule.changed.connect(self._offer_distance)
        self.evaluate.changed.connect(self._evaluate)
        self.copy.changed.connect(self._copy)
        self.save.changed.connect(self._ask_and_save)
        self.of_class.changed.connect(self._plot)
        self._offer_distance()
        self._show_results()
        self.reset_choices()

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers that are open now; napari calls this when they change."""
        self.picks.reset_choices()
        self.truth.reset_choices()
        if self.truth.value is self.picks.value:
            self._guess()
        self._on_layers()

    def scores(self) -> PickScores:
        """Compare the layers that are chosen, as the window is set.

        Raises
        ------
        Vox3dError
            If there are not two layers, or no radius is known.
        """
        if self.picks.value is None or self.truth.value is None:
            raise Vox3dError("Open two layers of points: the picks, and those known to be true.")
        if self.picks.value is self.truth.value:
            raise Vox3dError("Choose two layers: picks are always right by themselves.")
        found = picks_from_layer(self.picks.value, unnamed=self.picks.value.name)
        found = replace(found, labels=[self._renamed(label) for label in found.labels.tolist()])
        truth = labelled_picks(self.truth.value, None)
        found = replace(found, positions=found.positions + self._shift())
        radius = self._radius(found, truth)
        self._compared = found, truth, radius
        return vox.evaluate_picks(found, truth, radius=radius, beta=self.beta.value)

    def save_table(self, path: str | Path) -> None:
        """Write the table as CSV.

        Raises
        ------
        Vox3dError
            If there is no table yet, or the file cannot be written.
        """
        if not self._rows:
            raise Vox3dError("There is no table yet; press Evaluate first.")
        with write_aside(path) as aside:
            aside.write_text(self._as_text(","), encoding="utf-8", newline="")

    # --- what is chosen ------------------------------------------------------------------------

    def _points(self, _: object = None) -> list[Points]:
        return [
            layer for layer in self._viewer.layers if is_picks(layer) and layer not in self._shown
        ]

    def _classes(self, _: object = None) -> list[str]:
        return [str(row["class"]) for row in self._rows[:-1]]

    def _guess(self) -> None:
        """Choose two layers: the truth is one that is called so, the picks are the last other."""
        layers = list(self.truth.choices)
        truth = next((layer for layer in layers if "tru" in layer.name.lower()), None)
        others = [layer for layer in layers if layer is not truth]
        if others:
            self.picks.value = others[-1]
            self.truth.value = truth if truth is not None else others[0]

    def _on_layers(self) -> None:
        self._offer_names()
        self.evaluate.enabled = self.picks.value is not None and self.truth.value is not None

    def _offer_distance(self) -> None:
        self._form.setRowVisible(self.distance.native, self.rule.value == GIVEN)

    def _offer_names(self) -> None:
        """Offer a menu for every class of the picks that the truth calls something else."""
        chosen = {name: menu.value for name, menu in self._menus.items()}
        self._menus = {}
        if self.names.layout() is not None:
            QWidget().setLayout(self.names.layout())  # takes the rows of the last layers away
        grid = QGridLayout(self.names)
        grid.setContentsMargins(0, 0, 0, 0)
        if self.picks.value is None or self.truth.value in (None, self.picks.value):
            return
        theirs = picks_from_layer(self.truth.value, unnamed=self.truth.value.name).classes
        mine = picks_from_layer(self.picks.value, unnamed=self.picks.value.name).classes
        for n, name in enumerate(name for name in mine if name not in theirs):
            menu = drop_down(
                f"What {name} is called in the truth.", choices=[NO_CLASS, *theirs],
                value=_likely(name, theirs, alone=len(mine) == len(theirs) == 1),
            )  # fmt: skip
            if chosen.get(name) in menu.choices:
                menu.value = chosen[name]
            grid.addWidget(QLabel(f"{name} is"), n, 0)
            grid.addWidget(menu.native, n, 1)
            self._menus[name] = menu

    def _renamed(self, label: str) -> str:
        menu = self._menus.get(label)
        return label if menu is None or menu.value == NO_CLASS else menu.value

    def _shift(self) -> np.ndarray:
        """Å from the first voxel of the truth to that of the picks."""
        corners = [np.asarray(layer.data_to_world((0, 0, 0)), float)
                   for layer in (self.picks.value, self.truth.value)]  # fmt: skip
        return corners[0] - corners[1]

    def _radius(self, found: Picks, truth: Picks) -> float | Mapping[str, float] | None:
        if self.rule.value == GIVEN:
            return self.distance.value
        if self.rule.value == HALF:
            if truth.radii is None:
                raise Vox3dError(
                    f"Nobody said how large the particles of {self.truth.value.name!r} are; choose "
                    "one distance for all."
                )
            return None
        radii = {name: 0.5 * radius for name, radius in CZII_RADII.items()}
        unknown = {*truth.classes, *found.classes} - radii.keys()
        if unknown:
            raise Vox3dError(
                f"CZII has no {', '.join(sorted(unknown))}; choose another rule for the distance."
            )
        return radii

    # --- results -------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        try:
            self._rows = table_rows(self.scores())
            self._show_matches()
        except Vox3dError as error:
            show_problem(error)
            return
        self._show_results()

    def _show_matches(self) -> None:
        """Show matched and missed particles and false picks as three layers."""
        found, truth, radius = self._compared
        matches = match_picks(found, truth, radius=radius)
        parts = {
            "matched": truth.select(matches.hit),
            "missed": truth.select(~matches.hit),
            "false": found.select(~matches.right),
        }
        for layer in self._shown:
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        frame = self.truth.value
        show_whole_spheres(self._viewer, picks_from_layer(frame))
        self._shown = []
        for name, part in parts.items():
            data, looks, kind = picks_layer(
                part, name=f"{name} ({len(part)})", face_color=COLOURS[name],
                border_color=COLOURS[name], metadata={},
            )  # fmt: skip
            looks |= {"translate": frame.translate}
            layer = Layer.create(data, looks, kind)
            self._shown.append(layer)
            self._viewer.add_layer(layer)
        for layer in (self.picks.value, self.truth.value):
            layer.visible = False

    def _show_results(self) -> None:
        there = bool(self._rows)
        for control in (self.copy, self.save):
            control.enabled = there
        for part in (self.table, self.score):
            part.setVisible(there)
        self._form.setRowVisible(self.of_class.native, there)
        self.of_class.reset_choices()
        if there:
            _fill(self.table, self._rows)
            found, truth, _ = self._compared
            czii = set(truth.classes) & {name for name in CZII_RADII if name != "beta-amylase"}
            self.score.setText(
                f"CZII score {czii_score(found, truth):.3f} (β 4, half its radii, its weights)."
                if czii else ""
            )  # fmt: skip
        self._plot()

    def _plot(self) -> None:
        """Show F over the threshold, if there are scores."""
        self.curve.hide()
        self.best.clear()
        if self._compared is None or not self.of_class.value:
            return
        found, truth, radius = self._compared
        name, beta = self.of_class.value, self.beta.value
        try:
            curve = threshold_curve(found, truth, name, radius=radius, beta=beta)
        except Vox3dError:
            return  # the table says so already
        if curve is None or len(curve.thresholds) < 2:
            self.best.setText(f"The picks of {name} carry no scores to plot.")
            return
        self.curve.show_line(curve.thresholds, curve.f, f"F{beta:g} {{y:.3f}} at {{x:.2f}}")
        self.curve.mark(curve.best)
        self.best.setText(
            f"Best threshold for {name}: {curve.best:.2f}, F{beta:g} {curve.f.max():.3f}; now "
            f"{curve.thresholds[0]:.2f}, {curve.f[0]:.3f}. Set it in Pick particles."
        )

    def _as_text(self, separator: str) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._rows[0], delimiter=separator, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        return text.getvalue()

    def _copy(self) -> None:
        QApplication.clipboard().setText(self._as_text("\t"))

    def _ask_and_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save table", "scores.csv", "Table (*.csv)")
        if not path:
            return
        path = path if path.lower().endswith(".csv") else f"{path}.csv"
        try:
            self.save_table(path)
        except Vox3dError as error:
            show_problem(error)


def _likely(name: str, theirs: list[str], alone: bool) -> str:
    """Class of the truth that is meant: the same letters, or the only one there is."""
    plain = {_letters(other): other for other in theirs}
    if _letters(name) in plain:
        return plain[_letters(name)]
    return theirs[0] if alone else NO_CLASS


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _fill(table: QTableWidget, rows: list[dict[str, object]]) -> None:
    names = list(rows[0])
    table.setRowCount(len(rows))
    table.setColumnCount(len(names))
    table.setHorizontalHeaderLabels([_SHORT.get(name, name) for name in names])
    for n, row in enumerate(rows):
        for m, value in enumerate(row.values()):
            item = QTableWidgetItem(f"{value:.2f}" if isinstance(value, float) else str(value))
            item.setToolTip(f"{value:.4f}" if isinstance(value, float) else str(value))
            if m:
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            table.setItem(n, m, item)
    modes = QHeaderView.ResizeMode  # long names of classes give way, numbers do not
    for m in range(len(names)):
        table.horizontalHeader().setSectionResizeMode(
            m, modes.ResizeToContents if m else modes.Stretch
        )
    height = table.horizontalHeader().sizeHint().height() + sum(
        table.rowHeight(n) for n in range(len(rows))
    )
    table.setMinimumHeight(height + table.horizontalScrollBar().sizeHint().height() + 4)
