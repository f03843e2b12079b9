"""Clicks of *Train a picker* that are kept while they are made, and offered again later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Points
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_vox3d.curation.clicks import ClickedTomogram, Clicks, forget_clicks, kept_clicks
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.controls import note
from napari_vox3d.gui.layers import FRAME, SPHERES, volume_from_layer
from napari_vox3d.gui.pick_layers import picks_from_layer, same_picks, show_whole_spheres
from napari_vox3d.gui.tomograms import calibrate, is_picks, is_tomogram
from napari_vox3d.gui.workers import show_problem
from napari_vox3d.picks import Picks
from napari_vox3d.training.drafts import Draft

if TYPE_CHECKING:
    import napari

    from napari_vox3d.gui.training_examples import ExampleRow
    from napari_vox3d.volume import Volume


class KeptClicks(QWidget):
    """Keeps the clicks of a window, and offers those of an earlier one that was closed or killed.

    Parameters
    ----------
    viewer
        Where tomograms and points are, or are put.
    go_on
        Called with clicks that the user wants back, and their layers: tomogram, points.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        go_on: Callable[[Clicks, Sequence[tuple[Image, Points]]], None],
    ):
        super().__init__()
        self._viewer, self._go_on = viewer, go_on
        self._as = ""  # name that the clicks of this window are kept under
        self._failed = False
        self._offers: list[Clicks] = []
        self.about = note()
        self.accept = QPushButton(
            "Go on",
            toolTip="Open the tomograms and the points again, and train on if it was begun.",
        )
        self.forget = QPushButton("Forget", toolTip="Delete these clicks and what was learnt.")
        buttons = QHBoxLayout()
        buttons.addWidget(self.accept)
        buttons.addWidget(self.forget)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.about)
        layout.addLayout(buttons)
        self.accept.clicked.connect(self._accept)
        self.forget.clicked.connect(self._forget)
        self.setVisible(False)

    @property
    def offered(self) -> Clicks | None:
        """Clicks that are offered now."""
        return self._offers[0] if self._offers else None

    def names(self) -> list[str]:
        """Names of trainings that may be gone on with."""
        return [clicks.name for clicks in self._offers]

    def look(self) -> Clicks | None:
        """Look for clicks that were kept; those that are open here are given back at once."""
        kept = kept_clicks()
        here = next((clicks for clicks in kept if self._is_open(clicks)), None)
        self._offers = [clicks for clicks in kept if clicks is not here]
        self._as = here.name if here else ""
        self._show()
        return here

    def keep(self, name: str, rows: Sequence[ExampleRow], settings: dict[str, Any]) -> None:
        """Keep the clicks of a window under a name, and nothing under the one before.

        Parameters
        ----------
        name
            Of the model to be; nothing is kept under one that is no name.
        rows
            Tomograms with their points.
        settings
            As for `Clicks`.
        """
        examples = [_clicked(row) for row in rows]
        try:
            Draft.named(name)
        except Vox3dError:  # Train will say what is wrong with it
            return
        try:
            Clicks(name, examples, settings).keep()
        except Vox3dError as error:
            if not self._failed:  # to be told once is enough
                show_problem(error)
            self._failed = True
            return
        self._failed = False
        if self._as not in ("", name):
            forget_clicks(self._as)
        self._as = name

    def keeps(self, rows: Sequence[ExampleRow]) -> bool:
        """Whether there is something to keep: clicks, or what was kept before."""
        return bool(rows) and (self._as != "" or any(map(_is_by_hand, rows)))

    def _is_open(self, clicks: Clicks) -> bool:
        return bool(clicks.examples) and all(
            _points_of(self._viewer, example) is not None for example in clicks.examples
        )

    def _show(self) -> None:
        clicks = self.offered
        self.setVisible(clicks is not None)
        if clicks is None:
            return
        tomograms = list(dict.fromkeys(example.tomogram for example in clicks.examples))
        where = tomograms[0] if len(tomograms) == 1 else f"{len(tomograms)} tomograms"
        points = f"{clicks.count} point{'' if clicks.count == 1 else 's'}"
        begun = ", training begun" if _begun(clicks) else ""
        self.about.setText(
            f"Go on with the training of “{clicks.name}”? {points} in {where}{begun}."
        )

    def _accept(self) -> None:
        clicks = self._offers[0]
        try:
            layers = [open_again(self._viewer, example) for example in clicks.examples]
        except Vox3dError as error:
            show_problem(error)
            return
        self._offers.pop(0)
        self._as = clicks.name
        self._show()
        self._go_on(clicks, layers)

    def _forget(self) -> None:
        clicks = self._offers.pop(0)
        forget_clicks(clicks.name)
        with suppress(Vox3dError):  # there is a model of that name now
            Draft.named(clicks.name).forget()
        self._show()


def open_again(viewer: napari.viewer.Viewer, example: ClickedTomogram) -> tuple[Image, Points]:
    """Find a tomogram and its points in a viewer, or bring them there.

    Raises
    ------
    Vox3dError
        If the tomogram is not open, and its file is gone or holds another one.
    """
    tomogram = _tomogram_of(viewer, example)
    if tomogram is None and example.source and Path(example.source).exists():
        viewer.open(example.source, plugin="napari-vox3d")
        tomogram = _tomogram_of(viewer, example)
    if tomogram is None:
        raise Vox3dError(
            f"The tomogram {example.tomogram!r} is not open, and not in "
            f"{example.source or 'any file'} any more. Open it, and press Go on again."
        )
    if not volume_from_layer(tomogram).calibrated:
        calibrate(viewer, tomogram, example.voxel_size[-1])
    points = _points_of(viewer, example)
    if points is None:
        points = points_on(tomogram, example)
        viewer.add_layer(points)
        radii = np.asarray(example.diameters, float) / 2
        show_whole_spheres(viewer, Picks(example.positions, points.name, radii=radii))
        points.current_size = float(points.size.max(initial=points.current_size))
    return tomogram, points


def points_on(tomogram: Image, example: ClickedTomogram) -> Points:
    """Layer of clicks on a tomogram, in its frame."""
    size = np.asarray(tomogram.scale[-3:])
    data = np.reshape(np.asarray(example.positions, float), (-1, 3)) / size
    features = None if example.labels is None else {"class": np.array(example.labels, object)}
    return new_points(tomogram, example.points, data, features=features,
                      size=np.asarray(example.diameters, float) / size[-1])  # fmt: skip


def new_points(tomogram: Image, name: str, data: Any, **options: Any) -> Points:
    """Layer of points in the frame of a tomogram."""
    look = {  # rings, because a particle is clicked better if it can be seen
        **FRAME, **SPHERES, "shading": "none", "face_color": "#ffff0008",
        "border_color": "cyan", "border_width": 0.05,
    }  # fmt: skip
    return Points(
        data, ndim=3, name=name, scale=tomogram.scale[-3:], translate=tomogram.translate[-3:],
        **{**look, **options},
    )  # fmt: skip


def _clicked(row: ExampleRow) -> ClickedTomogram:
    volume, points = volume_from_layer(row.tomogram.value), row.points.value
    picks = picks_from_layer(points, volume, unnamed="")
    named = "class" in points.features or "label" in points.features
    return ClickedTomogram(
        tomogram=volume.name,
        source=_source(volume),
        shape=volume.shape,
        voxel_size=volume.voxel_size.tolist(),
        points=points.name,
        positions=picks.positions.tolist(),
        labels=picks.labels.tolist() if named else None,
        diameters=(2 * picks.radii).tolist(),
    )


def _is_by_hand(row: ExampleRow) -> bool:
    """Whether points were clicked, rather than read from a file or found by a model."""
    points = row.points.value
    held = points.metadata.get("vox3d")
    if isinstance(held, Picks):
        return not same_picks(picks_from_layer(points, row.tomogram.value, rejected=True), held)
    return len(points.data) > 0


def _tomogram_of(viewer: napari.viewer.Viewer, example: ClickedTomogram) -> Image | None:
    for layer in viewer.layers:
        if is_tomogram(layer) and _is_of(volume_from_layer(layer), example):
            return layer
    return None


def _is_of(volume: Volume, example: ClickedTomogram) -> bool:
    if example.source and volume.source and _source(volume) != example.source:
        return False
    return volume.name == example.tomogram and list(volume.shape) == list(example.shape)


def _source(volume: Volume) -> str:
    return str(Path(volume.source).resolve()) if volume.source else ""


def _points_of(viewer: napari.viewer.Viewer, example: ClickedTomogram) -> Points | None:
    tomogram = _tomogram_of(viewer, example)
    if tomogram is None:
        return None
    wanted = np.reshape(np.asarray(example.positions, float), (-1, 3))
    for layer in viewer.layers:
        if is_picks(layer) and layer.name == example.points:
            there = picks_from_layer(layer, tomogram).positions
            if there.shape == wanted.shape and np.allclose(there, wanted, atol=0.01):
                return layer
    return None


def _begun(clicks: Clicks) -> bool:
    try:
        return Draft.named(clicks.name).checkpoint.exists()
    except Vox3dError:
        return False
