"""Picks that were made on another grid than the tomogram they are shown on: a notice, and a window.

What is said and how picks are moved is `Picks.fitting` and `Picks.moved_to`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from magicgui.widgets import ComboBox, PushButton
from qtpy.QtWidgets import QFormLayout, QWidget

from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.controls import OPEN_FIRST, add_row, choose, drop_down, note
from napari_vox3d.gui.layers import volume_from_layer
from napari_vox3d.gui.pick_layers import picks_from_layer, picks_layer
from napari_vox3d.gui.tomograms import is_picks, is_tomogram
from napari_vox3d.gui.workers import show_problem

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Points

    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume

KEPT = {"angstrom": "positions in Å", "voxels": "voxel indices"}
_SHORT = {"angstrom": "Å", "voxels": "voxels"}  # on a narrow button


def refit(layer: Points, volume: Volume, by: Literal["angstrom", "voxels"]) -> None:
    """Move the picks of a layer from the grid they were made on into a tomogram.

    Points that the user moved or added since go along.

    Parameters
    ----------
    layer
        Points layer, which changes in place.
    volume
        The tomogram.
    by
        What stays.

    Raises
    ------
    Vox3dError
        If voxel indices are to stay, and the picks know no voxel size.
    """
    picks = picks_from_layer(layer, rejected=True).as_made().moved_to(volume, by)
    data, looks, _ = picks_layer(picks, volume)
    with layer.events.blocker_all():  # until all of it fits together
        layer.units, layer.axis_labels = looks["units"], looks["axis_labels"]
        layer.scale, layer.translate = looks["scale"], looks["translate"]
        layer.data = data
        layer.size = looks["size"]
        layer.metadata = {**layer.metadata, **looks["metadata"]}
    layer.refresh()
    for event in (layer.events.scale, layer.events.data, layer.events.extent):
        event()


def tell(viewer: ViewerModel, picks: Picks, volume: Volume) -> None:
    """Show that picks were made on another grid, with a button that keeps the other thing.

    Parameters
    ----------
    viewer
        Viewer that is about to show the picks.
    picks
        Picks that `Picks.moved_to` brought into the tomogram.
    volume
        The tomogram.
    """
    from napari.utils.notifications import Notification, NotificationSeverity, notification_manager

    kept = picks.metadata["made_on"]["kept"]
    other: Any = "voxels" if kept == "angstrom" else "angstrom"

    def keep_the_other(_: Any = None) -> None:
        for layer in viewer.layers:
            if layer.metadata.get("vox3d") is picks:
                refit(layer, volume, other)

    notification_manager.dispatch(
        Notification(
            f"{picks.as_made().fitting(volume)} {KEPT[kept].capitalize()} were kept; the window "
            "Fit picks to tomogram changes that.",
            NotificationSeverity.WARNING,
            actions=((f"Keep {_SHORT[other]} instead", keep_the_other),),
        )
    )


class FitPicks(QWidget):
    """Dock widget that says whether picks fit a tomogram, and moves them into it.

    Parameters
    ----------
    napari_viewer
        Where both are.
    """

    def __init__(self, napari_viewer: ViewerModel):
        super().__init__()
        self._viewer = napari_viewer
        self.picks = drop_down("Points that may not fit.", choices=self._points)
        self.volume = drop_down("The tomogram they are to be in.", choices=self._tomograms)
        self.keep = ComboBox(
            choices=[(text, by) for by, text in KEPT.items()],
            tooltip="Keep positions in Å if the picks were made on another binning; keep voxel "
            "indices if the voxel size of one of the two was wrong or unknown.",
        )
        self.said = note()
        self.fit = PushButton(text="Fit picks", tooltip="Move the picks; press again to change it.")
        form = QFormLayout(self)
        add_row(form, "Picks", self.picks)
        add_row(form, "Tomogram", self.volume)
        form.addRow(self.said)
        add_row(form, "Keep", self.keep)
        form.addRow(self.fit.native)
        self.picks.changed.connect(self._look)
        self.volume.changed.connect(self._look)
        self.fit.changed.connect(self._fit)
        self.reset_choices()
        choose(self.picks, napari_viewer.layers.selection.active)  # what a notice was about

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers that are open now; napari calls this when they change."""
        self.picks.reset_choices()
        self.volume.reset_choices()
        self._look()

    def _points(self, _: object = None) -> list[Points]:
        return [layer for layer in self._viewer.layers if is_picks(layer)]

    def _tomograms(self, _: object = None) -> list[Image]:
        return [layer for layer in self._viewer.layers if is_tomogram(layer)]

    def _look(self) -> None:
        """Say how the grids differ, and propose what to keep."""
        ready = self.picks.value is not None and self.volume.value is not None
        self.fit.enabled = ready
        if not ready:
            self.said.setText(OPEN_FIRST if self.volume.value is None else "Open picks first.")
            return
        picks, volume = picks_from_layer(self.picks.value), volume_from_layer(self.volume.value)
        made_on = picks.metadata.get("made_on")
        if made_on is not None:
            self.keep.value = made_on["kept"]
            kept = f" Now {KEPT[made_on['kept']]} are kept."
        else:
            kept = ""
            self.keep.value = "voxels" if picks.shape in (None, volume.shape) else "angstrom"
        self.said.setText((picks.as_made().fitting(volume) or "The picks fit.") + kept)

    def _fit(self) -> None:
        layer, volume = self.picks.value, volume_from_layer(self.volume.value)
        try:
            refit(layer, volume, self.keep.value)
        except Vox3dError as error:
            show_problem(error)
            return
        self._look()
