"""What *Find similar* does in its thread, and a table of picks by their likeness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

import napari_vox3d as vox

if TYPE_CHECKING:
    from pandas import DataFrame

    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume

LIKENESS = "likeness"  # feature of points


class Looks:
    """What picks look like, kept, so that only new ones are looked at."""

    def __init__(self) -> None:
        self._of: tuple[Any, ...] = ()
        self._volume: Volume | None = None
        self._known: dict[bytes, np.ndarray] = {}

    def __call__(self, volume: Volume, picks: Picks, *, progress: Any, **options: Any) -> Any:
        """(N, D) vectors of the picks; see `embed_picks`."""
        of = (volume.step.tobytes(), volume.origin.tobytes(), *sorted(options.items()))
        same = self._volume is not None and self._volume.values is volume.values
        if not same or of != self._of:
            self._known, self._of, self._volume = {}, of, volume
        places = [position.tobytes() for position in picks.positions]
        new = [n for n, place in enumerate(places) if place not in self._known]
        found = vox.embed_picks(volume, picks.select(new), progress=progress, **options)
        self._known |= dict(zip((places[n] for n in new), found, strict=True))
        return np.stack([self._known[place] for place in places])


def group(
    looks: Looks, volume: Volume, picks: Picks, count: int | None, **options: Any
) -> np.ndarray:
    """Group each pick; see `cluster_picks`."""
    count = None if count is None else min(count, len(picks))
    return vox.cluster_picks(looks(volume, picks, **options), count)


def rank(
    looks: Looks, volume: Volume, picks: Picks, chosen: list[int], **options: Any
) -> np.ndarray:
    """Likeness of each pick to those that are chosen."""
    vectors = looks(volume, picks, **options)
    return vox.likeness(vectors, vectors[chosen])


def search(volume: Volume, examples: Picks, **options: Any) -> Picks:
    """Everything that was looked at, by falling likeness to the examples."""
    return vox.find_similar(volume, examples, threshold=-np.inf, **options)


class LikenessTable(QTableWidget):
    """Picks by rising likeness.

    Attributes
    ----------
    chosen
        Qt signal, emitted with the numbers of the picks whose rows are chosen, the current one
        first.
    """

    chosen = Signal(list)

    def __init__(self) -> None:
        super().__init__(
            columnCount=2,
            toolTip="Picks by rising likeness to those that were selected: 0 is like any pick of "
            "the layer, 1 like the mean of the selected ones. Choose rows to see them and to "
            "select them in the layer.",
        )
        self.setHorizontalHeaderLabels(["likeness", "class"])
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.verticalHeader().hide()
        self.itemSelectionChanged.connect(self._tell)

    def fill(self, features: DataFrame) -> None:
        """List points by the feature ``likeness``."""
        values = features[LIKENESS].to_numpy(float)
        labels = features.get("class", features.get("label"))
        self.blockSignals(True)
        self.clearContents()
        self.clearSelection()
        self.setRowCount(len(values))
        for row, n in enumerate(np.argsort(values, kind="stable").tolist()):
            item = QTableWidgetItem(f"{values[n]:.2f}")
            item.setData(Qt.ItemDataRole.UserRole, n)
            self.setItem(row, 0, item)
            label = "" if labels is None else str(labels.iloc[n])
            self.setItem(row, 1, QTableWidgetItem(label))
        self.blockSignals(False)

    def _tell(self) -> None:
        rows = {item.row() for item in self.selectedItems()}
        current = [self.currentRow()] if self.currentRow() in rows else []
        ordered = [*current, *sorted(rows - set(current))]
        self.chosen.emit([self.item(row, 0).data(Qt.ItemDataRole.UserRole) for row in ordered])
