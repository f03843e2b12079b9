"""Score maps of a tomogram that stay, and the layers that show what is found in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary, ref

import numpy as np
from napari.layers import Layer, Points
from napari.layers.base import ActionType
from psygnal import Signal

import napari_vox3d as vox
from napari_vox3d.curation import REJECTED
from napari_vox3d.gui.layers import score_layer
from napari_vox3d.gui.pick_layers import REVIEW, picks_layer, show_whole_spheres
from napari_vox3d.provenance import Run

if TYPE_CHECKING:
    import napari
    from napari.components import LayerList

    from napari_vox3d.models import ModelCard, ParticleClass
    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume

Choices = Mapping[str, tuple[bool, float]]


class LivePicks:
    """Finds picks in kept score maps and shows them in one points layer.

    Parameters
    ----------
    viewer
        Where the layers go.
    tomogram
        Layer that was scored; what was shown for it until now is taken over.
    volume
        What it shows.
    card
        Card of the model that scored it.
    maps
        Its score maps, one for each class.

    Attributes
    ----------
    choices
        For each class, whether it is shown, and its threshold; empty until the first `find`.
    min_distance
        Å between picks of a class; 0 for what the model says.
    layer
        The points layer, or None.
    kept
        Layers with edits of the user, that another search left alone.
    searched
        Signal, emitted when picks were found at other thresholds.
    recounted
        Signal, emitted when there are others, by a search or by hand.
    """

    searched = Signal()
    recounted = Signal()
    _kept: ClassVar[WeakKeyDictionary[Layer, LivePicks]] = WeakKeyDictionary()

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        tomogram: Layer,
        volume: Volume,
        card: ModelCard,
        maps: Sequence[Volume],
    ):
        self._viewer = ref(viewer)  # it holds the layer, which keeps this
        self.volume, self.card, self._maps = volume, card, maps
        before = self.on(tomogram)
        self.choices: Choices = {}
        self.min_distance = 0.0
        self.layer: Points | None = None if before is None else before.layer
        self.kept: list[Points] = [] if before is None else before.kept
        self._as_shown = () if before is None else before._as_shown
        self._score_layers: list[Layer] = [] if before is None else before._score_layers
        self._kept[tomogram] = self

    @classmethod
    def on(cls, tomogram: Layer) -> LivePicks | None:
        """What was found in a tomogram last, by this window or by one that was closed."""
        return cls._kept.get(tomogram)

    @classmethod
    def of(cls, layer: Layer) -> LivePicks | None:
        """What is found in the score maps that a layer shows picks of, if it does."""
        return next(
            (live for live in cls._kept.values() if live.layer is layer and live.choices), None
        )

    @property
    def present(self) -> bool:
        """Whether the points layer is in the viewer."""
        return self.layer in self._layers

    @property
    def counts(self) -> dict[str, int]:
        """Number of picks of each class that is shown, without those rejected in a review."""
        if self.layer is None:
            return {}
        features = self.layer.features
        classes = features["class"]
        if REVIEW in features:
            classes = classes[features[REVIEW] != REJECTED]
        found = Counter(classes)
        return {name: found[name] for name, (shown, _) in self.choices.items() if shown}

    @property
    def edited(self) -> bool:
        """Whether somebody moved, added, deleted, renamed or reviewed picks that were shown."""
        reviewed = REVIEW in self.layer.features and (self.layer.features[REVIEW] != "").any()
        return reviewed or not all(map(np.array_equal, _content(self.layer), self._as_shown))

    def as_shown(self) -> None:
        """Take what the layer shows now for what was found."""
        self._as_shown = _content(self.layer)

    def find(self, choices: Choices, min_distance: float) -> str:
        """Find the picks for these thresholds and show them; the network does not run.

        Picks that the user edited are left alone: the new ones go to a new layer.

        Returns
        -------
        str
            What was found, in a sentence; empty if nothing was asked that is not shown already.

        Raises
        ------
        Vox3dError
            If the search fails.
        """
        if (choices, min_distance) == (self.choices, self.min_distance):
            return ""
        return self._show(self.search(choices, min_distance))

    def search(self, choices: Choices, min_distance: float) -> Picks:
        """Find the picks for these thresholds, and show nothing yet.

        Raises
        ------
        Vox3dError
            If the search fails.
        """
        wanted = {name: threshold for name, (shown, threshold) in choices.items() if shown}
        picks = vox.find_particles(
            self._maps,
            threshold=wanted,
            min_distance=min_distance or None,
            classes=None if len(wanted) == len(choices) else list(wanted),
        )
        self.choices, self.min_distance = choices, min_distance
        self.searched.emit()
        return picks

    def show_scores(self, visible: bool) -> None:
        """Show the score maps as image layers below the picks, or take them away."""
        for layer in self._score_layers:
            if layer in self._layers:
                self._layers.remove(layer)
        self._score_layers = []
        for score in self._maps if visible else ():
            look = {"colormap": self._colours[score.name], "visible": True}
            layer = Layer.create(*score_layer(score, **look))
            self._score_layers.append(layer)
            layers = self._layers
            layers.insert(layers.index(self.layer) if self.present else len(layers), layer)

    @property
    def _layers(self) -> LayerList:
        return self._viewer().layers

    @property
    def _colours(self) -> dict[str, str]:
        return {kind.name: kind.colour for kind in self.card.classes}

    def _show(self, picks: Picks) -> str:
        data, options, kind = picks_layer(
            picks, self.volume, classes=list(self._colours), face_color_cycle=self._colours
        )
        said = f"{len(picks)} pick{'' if len(picks) == 1 else 's'} in {self.volume.name}."
        if self.present and not self.edited:
            replace_points(self.layer, data, options)
        else:
            if self.present:
                said += f" Your own edits are kept in {self.layer.name}, which is hidden now."
                self.kept.append(self.layer)
                self.layer.visible = False  # two sets of points cannot be told apart
            show_whole_spheres(self._viewer(), picks)
            self.layer = Layer.create(data, options, kind)
            self._layers.append(self.layer)
        _prepare_for_clicks(self.layer, self.card.classes[0])
        self.as_shown()
        for changed in (self.layer.events.data, self.layer.events.features):
            changed.connect(self._recount)
        return said

    def _recount(self, _event: object) -> None:
        self.recounted.emit()


def _content(layer: Points) -> tuple[Any, ...]:
    return layer.data.copy(), layer.features["class"].to_numpy(object, copy=True)


def replace_points(layer: Points, data: Any, options: dict[str, Any]) -> None:
    """Let a layer show other points, as `picks_layer` describes them."""
    layer.selected_data = set()
    if not len(layer.data):
        layer.face_color = "white"  # a colour by feature cannot be extended from no points at all
    layer.data = data
    layer.features = options["features"]
    layer.size = options["size"]
    layer.face_color_cycle = options["face_color_cycle"]
    layer.face_color = options["face_color"]
    layer.border_color = options["border_color"]
    layer.metadata = options["metadata"]


def _prepare_for_clicks(layer: Points, kind: ParticleClass) -> None:
    """Let a point that the user adds be a particle of `kind` without a score."""
    layer.feature_defaults = {**layer.feature_defaults.iloc[0], "class": kind.name, "score": np.nan}
    layer.current_size = 2 * kind.radius / np.mean(layer.scale)
    layer.events.data.connect(_leave_unscored)


def _leave_unscored(event: Any) -> None:
    """Take away the score that napari copies to a new point from the one that was selected."""
    if event.action == ActionType.ADDED:
        features = event.source.features
        features.loc[features.index[list(event.data_indices)], "score"] = np.nan


def card_of(picks: Picks, live: LivePicks | None) -> ModelCard | None:
    """Card of the model that found the picks, if it is known and still there."""
    if live is not None:
        return live.card
    run = Run.from_metadata(picks.metadata)
    if run is None or not run.model:
        return None
    return next((card for card in vox.list_models("picking") if card.name == run.model), None)


def thresholds_of(picks: Picks, live: LivePicks | None, card: ModelCard | None) -> dict[str, float]:
    """Thresholds that the picks were found at, as far as they are known."""
    if live is not None:
        return {name: threshold for name, (_, threshold) in live.choices.items()}
    run = Run.from_metadata(picks.metadata)
    known = {} if card is None else {kind.name: kind.threshold for kind in card.classes}
    given = None if run is None else run.arguments.get("threshold")
    if isinstance(given, dict):
        return {**known, **given}
    return known if given is None else dict.fromkeys([*known, *picks.classes], float(given))
