"""The *Find similar* window: picks by what they look like, to clean or to extend a set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import FloatSlider, PushButton
from napari.layers import Layer, Points
from qtpy.QtWidgets import QPushButton, QWidget

from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.appearance import class_colours
from napari_vox3d.gui.controls import (
    OPEN_FIRST,
    ComputeOptions,
    ModelChoice,
    add_row,
    contrast_menu,
    drop_down,
    new_grid,
    note,
    scroll_to,
    scrolled_form,
)
from napari_vox3d.gui.layers import volume_from_layer
from napari_vox3d.gui.live_picks import replace_points
from napari_vox3d.gui.looks import LIKENESS, LikenessTable, Looks, group, rank, search
from napari_vox3d.gui.pick_layers import (
    picks_from_layer,
    picks_layer,
    same_picks,
    show_whole_spheres,
)
from napari_vox3d.gui.pick_saving import ask_and_save, write_by_class
from napari_vox3d.gui.settings import recall, remember
from napari_vox3d.gui.tomograms import is_picks, is_tomogram
from napari_vox3d.gui.workers import RunControl
from napari_vox3d.inference.similarity import THRESHOLD
from napari_vox3d.picks import Picks
from napari_vox3d.provenance import Run

if TYPE_CHECKING:
    import napari

    from napari_vox3d.volume import Volume

OPEN_PICKS = "Open, find or click picks first: a points layer of any origin will do."
SELECT_FIRST = (
    "Select some picks of the kind that you mean first: press 3 on the canvas and click them, "
    "with Shift for several."
)
CLUSTER, CLASS = "cluster", "class"  # features of the points
CLEAREST = "as is clearest"


class FindSimilar(QWidget):
    """Dock widget that groups picks, ranks them, and finds more of a kind, without training.

    Parameters
    ----------
    napari_viewer
        Where picks and tomograms are.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer):
        super().__init__()
        self._viewer = napari_viewer
        self._looks = Looks()
        self._ranked: Points | None = None  # layer in the table
        self._found: Picks | None = None  # everything that was looked at, by falling likeness
        self._shown: tuple[Points, Picks] | None = None  # what is shown of it
        self._examined: Volume | None = None
        self.picks = drop_down("Picks to compare.", choices=self._points)
        self.volume = drop_down("The tomogram they are in.", choices=self._tomograms)
        self.model = ModelChoice("embedding", recall("embedding").get("model", ""))
        self.contrast = contrast_menu()
        self.count = drop_down(
            "How many clusters: the clearest number from 2 to 8, or as many as you say.",
            choices=[(CLEAREST, 0), *((str(n), n) for n in range(2, 13))],
        )
        self.cluster = self._control(
            "Colour by cluster", self._start_clusters, "Group the picks by what they look like."
        )
        self.clusters = QWidget(toolTip="Press a cluster to select its picks.")
        self.as_class = PushButton(
            text="Take clusters as classes",
            tooltip="Let the cluster of each pick be its class, in files too.",
        )
        self.by_class = PushButton(text="Colour by class", tooltip="As before.")
        self.sort = self._control(
            "Sort by likeness to selected",
            self._start_ranking,
            "List all picks of the layer, those least like the selected ones first.",
        )
        self.table = LikenessTable()
        self.set_aside = PushButton(
            text="Set selected aside",
            tooltip="Move the selected picks to a hidden layer, so that nothing is lost.",
        )
        self.find = self._control(
            "Find more like the selected ones",
            self._start_search,
            "Look everywhere in the tomogram. If nothing is selected, all picks of the layer are "
            "examples.",
        )
        self.threshold = FloatSlider(
            value=THRESHOLD, min=-0.5, max=1.5, step=0.01,
            tooltip="Likeness that a found pick needs; applied at once.",
        )  # fmt: skip
        self.result = note()
        self.save = PushButton(text="Save picks…", tooltip="Write the picks that were found.")
        self._form = form = scrolled_form(self)
        add_row(form, "Picks", self.picks)
        add_row(form, "Tomogram", self.volume)
        add_row(form, "Model", self.model)
        add_row(form, "Contrast", self.contrast)
        self.computing = ComputeOptions(self, form)
        add_row(form, "Clusters", self.count)
        for part in (self.cluster, self.clusters, self.as_class, self.by_class, self.sort,
                     self.table, self.set_aside, self.find):  # fmt: skip
            form.addRow(getattr(part, "native", part))
        add_row(form, "Likeness", self.threshold)
        for part in (self.result, self.save):
            form.addRow(getattr(part, "native", part))
        self.picks.changed.connect(self._refresh)
        self.volume.changed.connect(self._refresh)
        self.as_class.changed.connect(self._take_clusters)
        self.by_class.changed.connect(lambda: _colour(self.picks.value, CLASS))
        self.table.chosen.connect(self._show_rows)
        self.set_aside.changed.connect(self._set_aside)
        self.threshold.changed.connect(self._apply_threshold)
        self.save.changed.connect(self._ask_and_save)
        self.reset_choices()

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers that are open now; napari calls this when they change."""
        self.picks.reset_choices()
        self.volume.reset_choices()
        self._refresh()

    def save_picks(self, path: str | Path, format: str | None = None) -> list[Path]:
        """Write the picks that were found, as the user left them; see `write_picks`.

        Raises
        ------
        Vox3dError
            If none were found, or the file cannot be written.
        """
        if self._shown is None or self._shown[0] not in self._viewer.layers:
            raise Vox3dError("There are no picks to save yet; find some first.")
        return write_by_class(path, picks_from_layer(self._shown[0], self._examined), format)

    # --- layers --------------------------------------------------------------------------------

    def _points(self, _: object = None) -> list[Points]:
        return [layer for layer in self._viewer.layers if is_picks(layer)]

    def _tomograms(self, _: object = None) -> list[Layer]:
        return [layer for layer in self._viewer.layers if is_tomogram(layer, several=True)]

    def _chosen(self) -> tuple[Points, Volume, Picks]:
        """Layer of picks, tomogram, and picks in it; a `Vox3dError` says what is missing."""
        layer, tomogram = self.picks.value, self.volume.value
        if tomogram is None:
            raise Vox3dError(OPEN_FIRST)
        if layer is None or not len(layer.data):
            raise Vox3dError(OPEN_PICKS)
        if self.model.card is None:
            raise Vox3dError("No model that tells particles apart is installed.")
        volume = volume_from_layer(tomogram, self._viewer.dims.point)
        if not volume.calibrated:
            raise Vox3dError(
                f"{tomogram.name!r} does not say how large its voxels are; set that in Pick "
                "particles first."
            )
        remember("embedding", model=self.model.chosen)
        return layer, volume, picks_from_layer(layer, volume, rejected=True)

    def _refresh(self) -> None:
        """Show what can be done with the layer that is chosen."""
        layer = self.picks.value
        grouped = layer is not None and CLUSTER in layer.features
        self._list_clusters(layer if grouped else None)
        for control in (self.as_class, self.by_class):
            self._form.setRowVisible(control.native, grouped)
        listed = layer is not None and layer is self._ranked
        self._form.setRowVisible(self.table, listed)
        self._form.setRowVisible(self.set_aside.native, listed)
        there = self._shown is not None and self._shown[0] in self._viewer.layers
        self._form.setRowVisible(self.threshold.native, there)
        self._form.setRowVisible(self.save.native, there)
        if layer is None or self.volume.value is None:
            self.result.setText(OPEN_FIRST if self.volume.value is None else OPEN_PICKS)
        elif self.result.text() in (OPEN_FIRST, OPEN_PICKS):
            self.result.clear()

    # --- jobs ----------------------------------------------------------------------------------

    def _control(self, text: str, prepare: Callable[[], None], tooltip: str) -> RunControl:
        control = RunControl(text, prepare, f"{tooltip} Press again to cancel.", networks=True)
        control.ended.connect(lambda: self._lock(None))
        return control

    def _lock(self, running: RunControl | None) -> None:
        """Let one job run at a time."""
        for control in (self.cluster, self.sort, self.find):
            if control is not running:
                control.button.setEnabled(running is None)

    def _options(self) -> dict[str, Any]:
        return {
            "model": self.model.card.name,
            "contrast": self.contrast.value,
            **self.computing.arguments(),
        }

    def _start_clusters(self) -> None:
        layer, volume, picks = self._chosen()
        self._lock(self.cluster)
        self.cluster.run(
            group, self._looks, volume, picks, self.count.value or None, **self._options(),
            then=partial(self._show_clusters, layer, volume, picks),
        )  # fmt: skip

    def _start_ranking(self) -> None:
        layer, volume, picks = self._chosen()
        chosen = sorted(layer.selected_data)
        if not chosen:
            raise Vox3dError(SELECT_FIRST)
        self._lock(self.sort)
        self.sort.run(
            rank, self._looks, volume, picks, chosen, **self._options(),
            then=partial(self._show_ranking, layer, volume, picks),
        )  # fmt: skip

    def _start_search(self) -> None:
        layer, volume, picks = self._chosen()
        chosen = sorted(layer.selected_data)
        self._lock(self.find)
        self.find.run(
            search, volume, picks.select(chosen) if chosen else picks, **self._options(),
            then=partial(self._show_found, volume, picks),
        )  # fmt: skip

    def _still(self, layer: Points, volume: Volume, picks: Picks) -> bool:
        """Whether a layer shows the picks that a job worked on; if not, say so."""
        if layer in self._viewer.layers and same_picks(
            picks_from_layer(layer, volume, rejected=True), picks
        ):
            return True
        self.result.setText(f"{layer.name} was changed meanwhile; start again.")
        return False

    # --- clusters ------------------------------------------------------------------------------

    def _show_clusters(
        self, layer: Points, volume: Volume, picks: Picks, groups: np.ndarray
    ) -> None:
        if not self._still(layer, volume, picks):
            return
        names = np.array([f"cluster-{n + 1}" for n in groups], dtype=object)
        layer.features = layer.features.assign(**{CLUSTER: names})
        _colour(layer, CLUSTER)
        self.result.setText(f"{len(names)} picks in {len(set(names))} clusters.")
        self._refresh()

    def _list_clusters(self, layer: Points | None) -> None:
        """Offer a button for each cluster."""
        grid = new_grid(self.clusters, wide=1)
        if layer is None:
            return
        counts = layer.features[CLUSTER].dropna().value_counts()
        colours = class_colours(sorted(counts.index))
        for n, (name, colour) in enumerate(colours.items()):
            button = QPushButton(f"{name}: {counts[name]}", toolTip="Select these picks.")
            button.setStyleSheet(f"QPushButton {{ border-left: 8px solid {colour}; }}")
            button.clicked.connect(partial(self._select_cluster, layer, name))
            grid.addWidget(button, n // 2, n % 2)

    def _select_cluster(self, layer: Points, name: str, _checked: bool = False) -> None:
        layer.selected_data = set(np.flatnonzero(layer.features[CLUSTER] == name).tolist())
        self._viewer.layers.selection.active = layer
        layer.mode = "select"

    def _take_clusters(self) -> None:
        layer = self.picks.value
        layer.features = layer.features.assign(**{CLASS: layer.features[CLUSTER]})
        self.result.setText("Each pick has its cluster as class now.")

    # --- likeness ------------------------------------------------------------------------------

    def _show_ranking(self, layer: Points, volume: Volume, picks: Picks, found: np.ndarray) -> None:
        if not self._still(layer, volume, picks):
            return
        layer.features = layer.features.assign(**{LIKENESS: found})
        self._ranked = layer
        self.table.fill(layer.features)
        self._refresh()
        scroll_to(self.set_aside)
        self.result.setText("The picks least like those selected come first.")

    def _show_rows(self, chosen: list[int]) -> None:
        """Select the picks that are chosen in the table, and bring the first into view."""
        layer = self._ranked
        if layer not in self._viewer.layers or len(layer.data) != self.table.rowCount():
            self.result.setText("The picks were changed since; sort them again.")
            return
        layer.selected_data = set(chosen)
        self._viewer.layers.selection.active = layer
        if chosen:
            point = np.asarray(layer.data_to_world(layer.data[chosen[0]]))
            others = self._viewer.dims.point[: -len(point)]
            self._viewer.dims.point = (*others, *point)
            self._viewer.scene.camera.center = tuple(point[-3:])

    def _set_aside(self) -> None:
        """Move the selected picks to a layer of their own."""
        layer = self._ranked
        chosen = sorted(layer.selected_data)
        if not chosen:
            self.result.setText("Select what is to be set aside first, in the table or the layer.")
            return
        name = f"{layer.name} set aside"
        aside = picks_from_layer(layer, rejected=True).select(chosen)
        place = {"translate": layer.translate, "scale": layer.scale, "units": layer.units}
        if name in self._viewer.layers:
            before = picks_from_layer(self._viewer.layers[name], rejected=True)
            replace_points(
                self._viewer.layers[name], *picks_layer(Picks.concatenate([before, aside]))[:2]
            )
        else:
            data, looks, kind = picks_layer(aside, name=name, visible=False)
            self._viewer.add_layer(Layer.create(data, looks | place, kind))
        layer.remove_selected()
        self._viewer.layers.selection.active = layer
        self.table.fill(layer.features)
        self.result.setText(f"{len(chosen)} picks are in {name!r} now, {len(layer.data)} left.")

    # --- more ----------------------------------------------------------------------------------

    def _show_found(self, volume: Volume, known: Picks, found: Picks) -> None:
        """Show what was found beside the picks that were there."""
        from scipy.spatial import cKDTree

        reach = 75.0 if known.radii is None else float(np.median(known.radii))
        new = cKDTree(known.positions).query(found.positions)[0] > reach
        low, high = np.quantile(found.scores, (0, 1)) if len(found) else (0.0, 1.0)
        self._found = self._shown = None  # the slider moves no picks yet
        self.threshold.min, self.threshold.max = -1e6, 1e6  # whatever the value is now
        self.threshold.value = THRESHOLD
        self.threshold.min = round(min(float(low), THRESHOLD), 2) - 0.01
        self.threshold.max = round(max(float(high), THRESHOLD), 2) + 0.01
        self._found, self._examined = found.select(new), volume
        self._apply_threshold()
        self._refresh()
        scroll_to(self.save)

    def _apply_threshold(self) -> None:
        """Show what is at least as alike as the slider says; edits by hand stay as they are."""
        if self._found is None:
            return
        picks = self._found.select(self._found.scores >= self.threshold.value)
        run = Run.from_metadata(picks.metadata)
        if run is not None:
            arguments = {**run.arguments, "threshold": round(self.threshold.value, 4)}
            run = replace(run, arguments=arguments)
            picks = replace(picks, metadata={**picks.metadata, **run.as_metadata()})
        label = next(iter(self._found.classes), "particle")
        name = f"more like {label}"
        data, looks, kind = picks_layer(picks, self._examined, classes=[label], name=name)
        layer = None if self._shown is None else self._shown[0]
        if layer in self._viewer.layers and same_picks(
            picks_from_layer(layer, self._examined, rejected=True), self._shown[1]
        ):
            replace_points(layer, data, looks)
        else:
            show_whole_spheres(self._viewer, picks)
            layer = Layer.create(data, looks, kind)
            before = self.picks.value
            self._viewer.add_layer(layer)
            self.picks.value = before
        self._shown = layer, picks
        self.result.setText(f"{len(picks)} more like the selected ones.")

    def _ask_and_save(self) -> None:
        written = ask_and_save(self, "similar.star", self.save_picks)
        if written:
            self.result.setText("Saved " + ", ".join(file.name for file in written) + ".")


def _colour(layer: Points, feature: str) -> None:
    """Colour points by a feature of theirs, if they have it."""
    layer.face_color = "white"  # a cycle of colours cannot be changed while it is in use
    if feature not in layer.features:
        return
    names = layer.features[feature].dropna().astype(str)
    ordered = sorted(names.unique()) if feature == CLUSTER else names.unique().tolist()
    layer.face_color_cycle = class_colours(ordered)
    layer.face_color = feature
