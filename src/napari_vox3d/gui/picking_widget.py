"""The *Pick particles* window: score a tomogram once, then set thresholds while looking."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, PushButton, RangeSlider
from napari.layers import Layer, Shapes
from qtpy.compat import isalive
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QLabel, QWidget

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.controls import (
    OPEN_FIRST,
    ComputeOptions,
    ModelChoice,
    add_row,
    choose,
    contrast_menu,
    distance_box,
    drop_down,
    flips_box,
    new_grid,
    note,
    scrolled_form,
    voxel_size_box,
)
from napari_vox3d.gui.layers import volume_from_layer
from napari_vox3d.gui.live_picks import LivePicks
from napari_vox3d.gui.pick_layers import picks_from_layer
from napari_vox3d.gui.pick_saving import ask_and_save, write_by_class
from napari_vox3d.gui.reproduce import CopyButtons, reading_arguments
from napari_vox3d.gui.settings import recall, remember
from napari_vox3d.gui.threshold_rows import ThresholdRow
from napari_vox3d.gui.tomograms import calibrate, is_tomogram
from napari_vox3d.gui.workers import RunControl, show_problem
from napari_vox3d.provenance import Run, changed

if TYPE_CHECKING:
    import napari

    from napari_vox3d.models import ModelCard
    from napari_vox3d.volume import Volume

WHOLE = "Whole volume"
PAUSE = 100  # ms without a change before thresholds are applied


class PickParticles(QWidget):
    """Dock widget that finds particles in a tomogram.

    Parameters
    ----------
    napari_viewer
        Where tomograms come from and picks go.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer):
        super().__init__()
        self._viewer = napari_viewer
        remembered = recall("picking")
        self.volume = drop_down("The tomogram to pick in.", choices=self._tomograms)
        self.voxel_size = voxel_size_box()
        self.model = ModelChoice("picking", remembered.get("model", ""))
        self.contrast = contrast_menu()
        self.classes = QWidget(
            toolTip="Classes to show, the score a pick of each needs, and the number of picks."
        )
        self.min_distance = distance_box()
        self.region = drop_down(
            "Pick in the whole tomogram, or in the box around what is drawn in a Shapes layer "
            "(around the selected shapes, if some are selected).",
            choices=self._regions,
        )
        self.slices = RangeSlider(tooltip="First and last slice (z) of the box.")
        self.flips = flips_box()
        self.run = RunControl(
            "Pick particles",
            self._start,
            "Score in the background; press again to cancel.",
            networks=True,
        )
        self.result = note()
        self.show_scores = CheckBox(
            text="Show score maps",
            value=remembered.get("show_scores", False),
            tooltip="Add the score of each class as an image layer.",
        )
        self.save = PushButton(
            text="Save picks…",
            tooltip="Write the picks as they are now, your own edits included, for RELION, copick "
            "or as a table.",
        )
        self.copy = CopyButtons(self.current_run)
        self._rows: list[ThresholdRow] = []
        self._current: Layer | None = None
        self._form = form = scrolled_form(self)
        add_row(form, "Tomogram", self.volume)
        add_row(form, "Voxel size", self.voxel_size)
        add_row(form, "Model", self.model)
        add_row(form, "Contrast", self.contrast)
        add_row(form, "Region", self.region)
        add_row(form, "Slices", self.slices)
        form.addRow("", self.flips.native)
        self.computing = ComputeOptions(self, form)
        form.addRow(self.run)
        form.addRow(self.classes)
        add_row(form, "Distance", self.min_distance)
        form.addRow(self.result)
        form.addRow(self.show_scores.native)
        form.addRow(self.save.native)
        form.addRow(self.copy)
        self._soon = QTimer(self, singleShot=True, interval=PAUSE)
        self._soon.timeout.connect(self._apply_thresholds)
        self.volume.changed.connect(self._on_volume)
        self.voxel_size.changed.connect(self._calibrate)
        self.region.changed.connect(self._offer_slices)
        self.model.menu.changed.connect(self._list_classes)
        self.min_distance.changed.connect(self._apply_soon)
        self.show_scores.changed.connect(self._show_score_maps)
        self.save.changed.connect(self._ask_and_save)
        self._list_classes()
        self.reset_choices()

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers that are open now; napari calls this when they change."""
        self.volume.reset_choices()
        self.region.reset_choices()
        self._offer_slices()
        for layer in self.volume.choices:  # another window may set the voxel size
            layer.events.scale.connect(self._ask_for_voxel_size)
            layer.events.units.connect(self._ask_for_voxel_size)
        self._on_volume()

    def save_picks(self, path: str | Path, format: str | None = None) -> list[Path]:
        """Write the picks as the user left them: of a selected layer of edits, or those found last.

        Parameters
        ----------
        path, format
            As for `napari_vox3d.write_picks`, but where a file holds one class, as copick's
            does, each of several gets a file with its name added to that of `path`.

        Returns
        -------
        list of Path
            The files written.

        Raises
        ------
        Vox3dError
            If there are no picks, or the file cannot be written.
        """
        scored = None if self.volume.value is None else LivePicks.on(self.volume.value)
        if scored is None or not scored.present:
            raise Vox3dError("There are no picks to save yet; pick particles first.")
        picks = picks_from_layer(self._to_save(scored), scored.volume)
        return write_by_class(path, picks, format)

    def current_run(self) -> Run:
        """What the window is set to do now, thresholds included.

        Raises
        ------
        Vox3dError
            If something is missing that picking needs, or no class is shown.
        """
        layer, volume, card = self._chosen()
        shown = {row.kind.name: row.choice[1] for row in self._rows if row.choice[0]}
        if not shown:
            raise Vox3dError("Tick at least one class to pick.")
        region = self._box(volume)
        computing = self.computing.arguments()
        arguments = changed(
            threshold=(shown, None),
            min_distance=(self.min_distance.value or None, None),
            classes=(list(shown) if len(shown) < len(self._rows) else None, None),
            contrast=(self.contrast.value, None),
            region=(region and [[part.start, part.stop] for part in region], None),
            flips=(self.flips.value, False),
            device=(computing["device"], "auto"),
            precision=(computing["precision"], "auto"),
        )
        return Run(
            "pick_particles",
            volume.source or layer.name,
            {**arguments, **reading_arguments(layer, volume)},
            model=card.name,
            sha256=card.sha256 or "",
            voxel_size=tuple(volume.voxel_size),
        )

    def _tomograms(self, _: object = None) -> list[Layer]:
        return [layer for layer in self._viewer.layers if is_tomogram(layer, several=True)]

    def _regions(self, _: object = None) -> list[Layer | str]:
        return [WHOLE] + [layer for layer in self._viewer.layers if isinstance(layer, Shapes)]

    def _on_volume(self) -> None:
        layer = self.volume.value
        self._ask_for_voxel_size()
        if layer is None:
            self.result.setText(OPEN_FIRST)
        elif layer is not self._current:
            self.result.clear()
            self.slices.max = layer.data.shape[-3] - 1
            self.slices.value = 0, layer.data.shape[-3] - 1
        if layer is not self._current:
            self._current = layer
            self._recall_choices()

    def _ask_for_voxel_size(self) -> None:
        if isalive(self):
            layer = self.volume.value
            try:
                point = self._viewer.dims.point
                known = layer is None or volume_from_layer(layer, point).calibrated
            except Vox3dError:
                known = True  # the run will say what is wrong with the layer
            self._form.setRowVisible(self.voxel_size.native, not known)

    def _recall_choices(self) -> None:
        """Show the thresholds and counts that belong to the picks of this tomogram."""
        if not isalive(self):
            return
        scored = self._scored_now()
        if scored and scored.choices:
            for row in self._rows:
                row.choice = scored.choices[row.kind.name]
            self.min_distance.value = scored.min_distance
        self._soon.stop()
        self._show_counts(scored)

    def _scored_now(self) -> LivePicks | None:
        """What the chosen model found in the chosen tomogram, if it ran there."""
        layer = self.volume.value
        scored = None if layer is None else LivePicks.on(layer)
        if scored is None or scored.card != self.model.card:
            return None
        scored.searched.connect(self._recall_choices, unique=True)  # also by Review picks
        scored.recounted.connect(self._count_anew, unique=True)
        return scored

    def _offer_slices(self) -> None:
        self._form.setRowVisible(self.slices.native, self.region.value != WHOLE)

    def _calibrate(self, size: float) -> None:
        layer = self.volume.value
        if layer is None or size == 0:
            return
        calibrate(self._viewer, layer, size)

    def _list_classes(self) -> None:
        card = self.model.card
        self._rows = [ThresholdRow(kind) for kind in card.classes] if card else []
        grid = new_grid(self.classes, wide=1)
        for column, title in enumerate(("Class", "Threshold", "Picks") if self._rows else ()):
            grid.addWidget(QLabel(title), 0, column)
        for n, row in enumerate(self._rows, start=1):
            grid.addWidget(row.shown.native, n, 0)
            grid.addWidget(row.threshold.native, n, 1)
            grid.addWidget(row.count, n, 2)
            row.shown.changed.connect(self._apply_soon)
            row.threshold.changed.connect(self._apply_soon)
        self._recall_choices()

    def _apply_soon(self) -> None:
        self._soon.start()

    def _start(self) -> None:
        layer, volume, card = self._chosen()
        region = self._box(volume)
        remember("picking", model=self.model.chosen, flips=self.flips.value)
        self.result.clear()
        self.run.run(
            _score_particles, volume, card.name, region=region,
            contrast=self.contrast.value, flips=self.flips.value, **self.computing.arguments(),
            then=partial(self._keep, layer, volume, card),
        )  # fmt: skip

    def _chosen(self) -> tuple[Layer, Volume, ModelCard]:
        """Layer, its volume, and the model; a `Vox3dError` says what is missing."""
        layer, card = self.volume.value, self.model.card
        if layer is None:
            raise Vox3dError(OPEN_FIRST)
        if card is None:
            raise Vox3dError("No model for picking is installed.")
        volume = volume_from_layer(layer, self._viewer.dims.point)
        if not volume.calibrated:
            raise Vox3dError(f"Set the voxel size of {layer.name!r} first: its file lacks it.")
        return layer, volume, card

    def _box(self, volume: Volume) -> tuple[slice, slice, slice] | None:
        """Voxels to pick in, as slices; None for all."""
        shapes = self.region.value
        if shapes == WHOLE:
            return None
        drawn = [shapes.data[n] for n in sorted(shapes.selected_data)] or shapes.data
        if not drawn:
            raise Vox3dError(f"Draw a rectangle in {shapes.name!r} first, or pick everywhere.")
        world = np.array([shapes.data_to_world(corner) for corner in np.concatenate(drawn)])
        corners = np.full((len(world), 3), volume.origin)
        flat = min(3, world.shape[1])
        corners[:, -flat:] = world[:, -flat:]
        index = volume.to_index(corners)
        low = np.clip(np.floor(index.min(axis=0)), 0, volume.shape).astype(int)
        high = np.clip(np.ceil(index.max(axis=0)) + 1, 0, volume.shape).astype(int)
        low[0], high[0] = self.slices.value[0], self.slices.value[1] + 1
        if (high <= low).any():
            raise Vox3dError(f"{shapes.name!r} lies outside the tomogram.")
        return tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))

    def _keep(self, layer: Layer, volume: Volume, card: ModelCard, maps: Sequence[Volume]) -> None:
        if layer not in self._viewer.layers:
            self.result.setText(f"{layer.name} was closed meanwhile; its picks are dropped.")
            return
        LivePicks(self._viewer, layer, volume, card, maps)
        choose(self.volume, layer)
        choose(self.model.menu, card.name)
        self._apply_thresholds()
        self._show_score_maps()
        look = maps[0].metadata.get("provenance", {}).get("contrast") if maps else None
        if look not in (None, card.input.contrast):
            self.result.setText(f"{self.result.text()} Its particles are {look}.")

    def _apply_thresholds(self) -> None:
        """Find the picks in the kept score maps and show them; the network does not run."""
        self._soon.stop()
        scored = self._scored_now()
        if scored is None:
            return
        choices = {row.kind.name: row.choice for row in self._rows}
        try:
            said = scored.find(choices, self.min_distance.value)
        except Vox3dError as error:
            show_problem(error)
            return
        remember("picking", min_distance=self.min_distance.value)
        self._show_counts(scored)
        if said:
            self.result.setText(said)

    def _count_anew(self) -> None:
        if isalive(self):
            self._show_counts(self._scored_now())

    def _show_counts(self, scored: LivePicks | None) -> None:
        for row in self._rows:
            row.show_count(scored.counts.get(row.kind.name) if scored else None)

    def _show_score_maps(self) -> None:
        remember("picking", show_scores=self.show_scores.value)
        scored = self._scored_now()
        if scored is not None:
            scored.show_scores(self.show_scores.value)

    def _ask_and_save(self) -> None:
        layer = self.volume.value
        start = "picks.star" if layer is None else f"{Path(layer.name).stem}_picks.star"
        written = ask_and_save(self, start, self.save_picks)
        if written:
            names = ", ".join(file.name for file in written)
            self.result.setText(f"Saved {self._to_save(LivePicks.on(layer)).name} to {names}.")

    def _to_save(self, scored: LivePicks) -> Layer:
        """A layer with edits, if the user selected one that another search left; or the last."""
        active = self._viewer.layers.selection.active
        return active if active in scored.kept else scored.layer


def _score_particles(*args: Any, **kwargs: Any) -> list[Volume]:
    # Looked up in the thread, because this imports torch.
    return vox.score_particles(*args, **kwargs)
