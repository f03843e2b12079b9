"""`PicksMeanwhile`: what a model in training would pick on the slice that is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from napari.layers import Layer, Points
from qtpy.QtCore import QObject, QTimer, Signal

import napari_vox3d as vox
from napari_vox3d.errors import Cancelled, Vox3dError
from napari_vox3d.gui.live_picks import replace_points
from napari_vox3d.gui.pick_layers import picks_layer, show_whole_spheres
from napari_vox3d.gui.tomograms import PASSING

if TYPE_CHECKING:
    import napari

    from napari_vox3d.models import Model
    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume

REFRESH = 250  # ms between two looks at where the user is, and at what was found
WIDEST = 2560.0  # Å of a slice that are looked at, about the middle of the view
NAME = "picks meanwhile"
TINT = 0.15  # opacity of the colour of a class


class Place(NamedTuple):
    """A box in a tomogram about the slice that is shown."""

    volume: Volume
    region: tuple[tuple[int, int], ...]
    slice: str


class PicksMeanwhile(QObject):
    """A layer of the picks that a model in training finds about the slice that is shown.

    The thread of the training calls `see`; all that touches the viewer is done by a timer.

    Parameters
    ----------
    viewer
        Where the user looks.
    parent
        Window of the training.

    Attributes
    ----------
    said
        Qt signal, emitted with what was found, in a sentence.
    """

    said = Signal(str)

    def __init__(self, viewer: napari.viewer.Viewer, parent: QObject):
        super().__init__(parent)
        self._viewer = viewer
        self._tomograms: Sequence[tuple[Layer, Volume]] = ()
        self._reach, self._contrast = 0.0, "auto"
        self._place: Place | None = None
        self._found: tuple[Place, Picks] | None = None
        self._layer: Points | None = None
        self._stopping: Callable[[], bool] = bool
        self._timer = QTimer(self, interval=REFRESH)
        self._timer.timeout.connect(self._follow)

    def begin(
        self,
        tomograms: Sequence[tuple[Layer, Volume]],
        reach: float,
        contrast: str,
        stopping: Callable[[], bool],
    ) -> None:
        """Follow the user from now on.

        Parameters
        ----------
        tomograms
            Layers that are learnt from, and what they show.
        reach
            Å on either side of the slice that are looked at: the largest radius of a particle.
        contrast
            As for `score_particles`.
        stopping
            Whether the training is to end, so that a look is left at once.
        """
        self._tomograms, self._reach, self._contrast = tomograms, reach, contrast
        self._stopping, self._found = stopping, None
        self._follow()
        self._timer.start()

    def end(self) -> None:
        """Take the layer away."""
        self._timer.stop()
        self._place = None
        if self._layer in self._viewer.layers:
            self._viewer.layers.remove(self._layer)
        self._layer = None

    def see(self, model: Model) -> None:
        """Find picks about the slice with a model; called in the thread of the training."""
        place = self._place
        if place is None or self._stopping():
            return
        try:
            picks = vox.pick_particles(
                place.volume, model, region=place.region, contrast=self._contrast,
                progress=self._go_on,
            )  # fmt: skip
        except (
            Cancelled,
            Vox3dError,
            MemoryError,
        ):  # the training will say what is wrong, if anything is
            return
        self._found = place, picks

    def _go_on(self, _done: int, _total: int) -> None:
        if self._stopping():
            raise Cancelled("Cancelled.")

    def _follow(self) -> None:
        """Note where the user is, and show what was found."""
        self._place = self._shown()
        found, self._found = self._found, None
        if found is not None:
            self._show(*found)

    def _shown(self) -> Place | None:
        """Box about the slice, of the uppermost tomogram that is visible."""
        layers = self._viewer.layers
        there = [(layers.index(layer), volume) for layer, volume in self._tomograms
                 if layer in layers and layer.visible]  # fmt: skip
        if not there:
            return None
        volume = max(there, key=lambda pair: pair[0])[1]
        dims = self._viewer.dims
        displayed = [axis - dims.ndim + 3 for axis in dims.displayed]  # of z, y, x
        across = next((axis for axis in range(3) if axis not in displayed), 0)
        centre = np.array(dims.point[-3:])
        for axis, at in zip(displayed, self._viewer.scene.camera.center[-len(displayed) :],
                            strict=True):  # fmt: skip
            if axis >= 0 and axis != across:
                centre[axis] = at
        reach = np.full(3, WIDEST / 2)
        reach[across] = self._reach
        half = reach / volume.voxel_size
        low, high = (volume.to_index(centre) + side * half for side in (-1, 1))
        shape = np.array(volume.shape)
        low = np.clip(np.floor(low), 0, shape - 1).astype(int)
        high = np.clip(np.ceil(high) + 1, low + 1, shape).astype(int)
        region = tuple(zip(low.tolist(), high.tolist(), strict=True))
        return Place(volume, region, f"{'zyx'[across]} = {centre[across]:.0f} Å")

    def _show(self, place: Place, picks: Picks) -> None:
        data, options, kind = picks_layer(picks, place.volume, name=NAME)
        options["metadata"] = {PASSING: True}
        options |= {"opacity": 1, "shading": "none", "border_color": "yellow"}
        layers = self._viewer.layers
        if self._layer in layers:
            replace_points(self._layer, data, options)
            self._layer.translate = options["translate"]
            self._layer.scale = options["scale"]
        else:
            active = layers.selection.active
            show_whole_spheres(self._viewer, picks)
            self._layer = Layer.create(data, options, kind)
            self._layer.editable = False
            layers.append(self._layer)
            layers.selection.active = active  # the user may be clicking
        if len(picks):  # rings, through which the particles can be seen
            tints = self._layer.face_color.copy()
            tints[:, 3] = TINT
            self._layer.face_color = tints
        count = f"{len(picks)} pick{'' if len(picks) == 1 else 's'}"
        self.said.emit(f"{count} around {place.slice} by the model as it is now.")
