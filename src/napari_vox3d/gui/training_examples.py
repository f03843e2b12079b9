"""Rows of tomograms and the points on their particles, which a picker learns from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari.layers import Layer, Points
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QToolButton, QVBoxLayout, QWidget

from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.controls import OPEN_FIRST, choose, drop_down
from napari_vox3d.gui.layers import volume_from_layer
from napari_vox3d.gui.pick_layers import picks_from_layer, same_picks
from napari_vox3d.gui.tomograms import is_picks, is_tomogram
from napari_vox3d.picks import Picks
from napari_vox3d.training.inputs import check_example

if TYPE_CHECKING:
    import napari

    from napari_vox3d.training.inputs import Example

NO_PICKS = "Click particles of {} with the button above, or open a file of picks."


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
            "Points on its particles. The class is the feature “class” or “label” of the points, "
            "else the name of their layer. Picks that were rejected in a review are learnt as what "
            "is no particle.",
            choices=self._points,
            nullable=True,
        )
        self.remove = QToolButton(text="×", toolTip="Leave this tomogram out.")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.tomogram.native, 1)
        layout.addWidget(self.points.native, 1)
        layout.addWidget(self.remove)
        self.tomogram.changed.connect(self.match_points)

    @property
    def whole(self) -> bool:
        """Whether both are chosen."""
        return self.tomogram.value is not None and self.points.value is not None

    def reset_choices(self) -> None:
        """Offer the layers that are open now."""
        alone = self.points.value is None
        self.tomogram.reset_choices()
        self.points.reset_choices()
        if alone:
            self.match_points()

    def match_points(self) -> None:
        """Choose visible points that were found in the tomogram, or the only ones."""
        if self.tomogram.value is None:
            return
        name = volume_from_layer(self.tomogram.value).name
        visible = [layer for layer in self._points() if layer.visible]
        held = [(layer, layer.metadata.get("vox3d")) for layer in visible]
        own = [
            layer for layer, picks in held if isinstance(picks, Picks) and picks.tomogram == name
        ]
        if own or len(visible) == 1:
            choose(self.points, (own or visible)[0])

    def picks(self) -> Picks:
        """Points that nobody rejected, as `labelled_picks` gives them."""
        return labelled_picks(self.points.value, self.tomogram.value)

    def example(self) -> Example:
        """Volume, and its picks with the classes and radii that are known, rejected ones too.

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
        picks = labelled_picks(points, tomogram, rejected=True)
        if not len(picks.kept):
            raise Vox3dError(f"{points.name!r} is empty: click on some particles first.")
        check_example(volume, picks)
        return volume, picks

    def _tomograms(self, _: object = None) -> list[Layer]:
        return [layer for layer in self._viewer.layers if is_tomogram(layer)]

    def _points(self, _: object = None) -> list[Layer]:
        return [layer for layer in self._viewer.layers if is_picks(layer)]


class ExampleRows(QWidget):
    """One row or more; several layers of points may lie on one tomogram.

    Parameters
    ----------
    viewer
        Whose layers are offered.

    Attributes
    ----------
    rows
        The rows as they are shown.
    changed
        Qt signal, emitted when another layer is chosen.
    """

    changed = Signal()

    def __init__(self, viewer: napari.viewer.Viewer):
        super().__init__()
        self._viewer = viewer
        self.rows: list[ExampleRow] = []
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.add()

    def add(self) -> ExampleRow:
        """Add a row: with a tomogram that no other row has, if there is one."""
        row = ExampleRow(self._viewer)
        taken = [other.tomogram.value for other in self.rows]
        row.match_points()
        for layer in row.tomogram.choices:
            if layer not in taken:
                choose(row.tomogram, layer)
                break
        row.remove.clicked.connect(lambda: self._remove(row))
        row.tomogram.changed.connect(lambda _: self.changed.emit())
        row.points.changed.connect(lambda _: self.changed.emit())
        self.rows.append(row)
        self.layout().addWidget(row)
        self._show()
        return row

    def add_points(self, tomogram: Layer, points: Points) -> None:
        """Learn from a layer of points too: in a row that has none yet, or in a new one."""
        open_ones = (row for row in self.rows if not row.whole or row.points.value is points)
        row = next(open_ones, None) or self.add()
        choose(row.tomogram, tomogram)
        choose(row.points, points)

    def reset_choices(self) -> None:
        """Offer the layers that are open now."""
        for row in self.rows:
            row.reset_choices()

    @property
    def whole(self) -> list[ExampleRow]:
        """Rows in which both are chosen."""
        return [row for row in self.rows if row.whole]

    @property
    def tomograms(self) -> list[Layer]:
        """Tomograms that are chosen, each once."""
        chosen = dict.fromkeys(row.tomogram.value for row in self.rows)
        return [layer for layer in chosen if layer is not None]

    def examples(self) -> list[Example]:
        """Each tomogram with the points of all its rows.

        Raises
        ------
        Vox3dError
            If a layer is missing, or nothing can be learnt from a row.
        """
        found: dict[Layer, dict[Layer, Example]] = {}
        for row in self.rows:
            found.setdefault(row.tomogram.value, {})[row.points.value] = row.example()
        examples = []
        for pairs in found.values():
            volumes, picks = zip(*pairs.values(), strict=True)
            examples.append((volumes[0], Picks.concatenate(picks)))
        return examples

    def _remove(self, row: ExampleRow) -> None:
        self.rows.remove(row)
        self.layout().removeWidget(row)
        row.deleteLater()
        self._show()

    def _show(self) -> None:
        for row in self.rows:
            row.remove.setVisible(len(self.rows) > 1)
        self.changed.emit()


def file_of_picks(points: Layer, tomogram: Layer) -> str:
    """Path of the file that a layer of points shows unchanged; else the name of the layer."""
    held, path = points.metadata.get("vox3d"), points.source.path
    if path is None or not isinstance(held, Picks):
        return points.name
    now = picks_from_layer(points, tomogram, rejected=True)
    return str(path) if same_picks(now, held) else points.name


def labelled_picks(points: Layer, tomogram: Layer, rejected: bool = False) -> Picks:
    """Picks of a layer; unnamed ones get its name, and radii are there only if they are known."""
    picks = picks_from_layer(points, tomogram, unnamed=points.name, rejected=rejected)
    held = points.metadata.get("vox3d")
    if isinstance(held, Picks) and held.radii is not None:
        return picks
    return replace(picks, radii=None)  # the size that napari draws points in says nothing
