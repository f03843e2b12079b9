"""A points layer under review: edits of the user go into the review, decisions into the layer.

What was decided lies in the features ``review`` and ``pick`` of the layer, so that it goes along
when napari adds or deletes points.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.layers.points._points_constants import Symbol
from psygnal import Signal

from napari_vox3d.curation import ACCEPTED, REJECTED, Review
from napari_vox3d.curation.flags import BORDER, EXTREME, OVERLAP, near_border, overlapping
from napari_vox3d.curation.saved import keep, kept_rows, review_file
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.appearance import class_colours
from napari_vox3d.gui.closeups import planes_through
from napari_vox3d.gui.layers import volume_from_layer
from napari_vox3d.gui.live_picks import LivePicks, card_of, thresholds_of
from napari_vox3d.gui.pick_layers import REVIEW, picks_from_layer, picks_layer, points_in_layer
from napari_vox3d.picks import Picks

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Points
    from numpy.typing import NDArray


NUMBER = "pick"
_KEPT = "vox3d_review"  # in the metadata of the layer
_OPEN, _GREEN, _RED, _YELLOW = np.array(
    [(1, 1, 1, 1), (0.3, 0.85, 0.39, 1), (1, 0.27, 0.23, 1), (1, 0.9, 0, 1)]
)
_NAPARI_EDITS = ("added", "removed", "changed")


class ReviewedLayer:
    """The review of the picks in a points layer.

    Parameters
    ----------
    viewer
        Viewer that shows the layer.
    layer
        Picks of any origin.
    tomogram
        Layer of the tomogram they are in, or None.

    Attributes
    ----------
    review
        The model, which knows nothing of layers.
    current
        Number of the pick that is looked at, or None.
    file
        Where the review is kept.
    changed
        Signal, emitted when picks or decisions changed; with True if picks moved, came or went.
    """

    changed = Signal(bool)

    def __init__(self, viewer: ViewerModel, layer: Points, tomogram: Image | None = None):
        self._viewer, self.layer, self.tomogram = viewer, layer, tomogram
        self.volume = None if tomogram is None else volume_from_layer(tomogram, viewer.dims.point)
        self.current: int | None = None
        self._extreme: dict[int, bool] = {}
        self._hidden = True
        self._own = False
        picks = self.picks()
        held = layer.metadata.get("vox3d")
        found = held if isinstance(held, Picks) and len(held) else picks
        self.file = review_file(found, self.volume)
        self.card = card_of(found, self.live)
        before = layer.metadata.get(_KEPT)
        if isinstance(before, Review) and NUMBER in layer.features:
            self.review = before
            self.review.follow(picks, layer.features[NUMBER])
        else:
            self.review = Review(picks, thresholds_of(found, self.live, self.card))
            self.review.resume(kept_rows(self.file))
        self._write_points()
        layer.events.data.connect(self._on_data)
        layer.events.features.connect(self._on_features)

    def close(self) -> None:
        """Leave the layer to the user, with what was decided."""
        self.layer.events.data.disconnect(self._on_data)
        self.layer.events.features.disconnect(self._on_features)
        self.current = None
        self._draw()

    @property
    def live(self) -> LivePicks | None:
        """Score maps that the picks come from, if they are open in *Pick particles*."""
        return LivePicks.of(self.layer)

    @property
    def classes(self) -> list[str]:
        """Classes a pick may be of: those of the model first, in a fixed order."""
        known = [] if self.card is None else [kind.name for kind in self.card.classes]
        return list(dict.fromkeys([*known, *self.review.thresholds, *self.review.picks.classes]))

    # --- what the user decides -----------------------------------------------------------------

    def decide(self, state: str) -> None:
        """Accept or reject the current pick."""
        self._decide(lambda number: self.review.decide(number, state))

    def relabel(self, label: str) -> None:
        """Accept the current pick as one of another class."""
        self._decide(lambda number: self.review.relabel(number, label))

    def reject_below(self, label: str, threshold: float) -> int:
        """Reject all undecided picks of a class below a score; returns how many."""
        count = self.review.reject_below(label, threshold)
        self._after_decision()
        return count

    def undo(self, again: bool = False) -> int | None:
        """Take the last decision back, or take it again; returns the pick's number."""
        number = self.review.redo() if again else self.review.undo()
        if number is not None:
            self._after_decision()
        return number

    def _decide(self, act: Any) -> None:
        if self.current is None:
            raise Vox3dError("There is no pick to decide on.")
        act(self.current)
        self._after_decision()

    def _after_decision(self) -> None:
        self._write_decisions()
        self.save()
        self.changed.emit(False)

    def catch_up(self) -> None:
        """Take over points that were pasted, of which napari does not tell."""
        if len(self.layer.data) != len(self.review):
            self.follow()

    def save(self) -> None:
        """Keep the review in the user's data folder.

        Raises
        ------
        FormatError
            If that cannot be written.
        """
        keep(self.file, self.review)

    # --- where to look -------------------------------------------------------------------------

    def go_to(self, number: int) -> None:
        """Make a pick the current one and bring it to the middle of the view."""
        self.current = number
        row = self.review.row(number)
        self.review.look_at(number)
        self._draw()
        world = np.asarray(self.layer.data_to_world(self.layer.data[row]))
        others = self._viewer.dims.point[: -len(world)]
        self._viewer.dims.point = (*others, *world)
        self._viewer.scene.camera.center = tuple(world[-3:])
        if self.tomogram is not None and self.tomogram.depiction == "plane":
            self.tomogram.plane.position = tuple(self.tomogram.world_to_data(world)[-3:])

    def closeups(self, number: int) -> list[NDArray[np.float64]]:
        """Planes through a pick, see `planes_through`; none are there without a tomogram."""
        if self.volume is None:
            return []
        picks, row = self.review.picks, self.review.row(number)
        return planes_through(self.volume, picks.positions[row], float(picks.radii[row]))

    # --- flags ---------------------------------------------------------------------------------

    @property
    def flags(self) -> dict[int, tuple[str, ...]]:
        """What speaks against each pick, by number; rejected ones stand in nobody's way."""
        review = self.review
        kept = np.flatnonzero(review.states != REJECTED)
        lapping = np.zeros(len(review), bool)
        lapping[kept] = overlapping(review.picks.select(kept))
        border = np.zeros(len(review), bool)
        if self.volume is not None:
            border = near_border(review.picks, self.volume)
        return {
            number: tuple(
                flag
                for flag, is_so in (
                    (BORDER, border[row]),
                    (EXTREME, self._extreme.get(number, False)),
                    (OVERLAP, lapping[row]),
                )
                if is_so
            )
            for row, number in enumerate(review.numbers.tolist())
        }

    def set_extreme(self, numbers: NDArray[np.int64], extreme: NDArray[np.bool_]) -> None:
        """Take over which picks lie on something very dark or bright."""
        self._extreme = dict(zip(numbers.tolist(), extreme.tolist(), strict=True))
        self.changed.emit(False)

    # --- thresholds ----------------------------------------------------------------------------

    def set_threshold(self, label: str, threshold: float) -> None:
        """Measure doubt of a class from another score."""
        self.review.thresholds[label] = threshold
        self.changed.emit(False)

    def find_at(self, label: str, threshold: float) -> None:
        """Find the undecided picks of a class anew at another threshold; decided ones stay.

        Raises
        ------
        Vox3dError
            If the picks come from no score maps that are open.
        """
        live = self.live
        if live is None:
            raise Vox3dError("Only picks of the window Pick particles have a threshold to move.")
        choices = {**live.choices, label: (True, threshold)}
        found = live.search(choices, live.min_distance)
        self.review.thresholds[label] = threshold
        self.review.find_again(found)
        self._write_points()
        if not (self.review.states != "").any():
            live.as_shown()
        self.changed.emit(True)

    # --- the layer -----------------------------------------------------------------------------

    @property
    def hidden(self) -> bool:
        """Whether rejected picks are hidden; else they are crossed out."""
        return self._hidden

    @hidden.setter
    def hidden(self, hidden: bool) -> None:
        self._hidden = hidden
        self._draw()

    def cleaned(self) -> Picks:
        """Picks that were not rejected, as the layer holds them."""
        return picks_from_layer(self.layer, self.volume, unnamed=self.layer.name)

    def cleaned_layer(self) -> tuple[Any, dict[str, Any], str]:
        """Layer of the picks that were not rejected."""
        picks = replace(self.cleaned(), decisions=None)
        colours = self._colours()
        return picks_layer(
            picks, self.volume, face_color_cycle=colours, name=f"{self.layer.name} reviewed"
        )

    def picks(self) -> Picks:
        """All picks as the layer holds them, with what was decided on each."""
        return picks_from_layer(self.layer, self.volume, unnamed=self.layer.name, rejected=True)

    def _colours(self) -> dict[str, str]:
        colours = class_colours(self.classes)
        if self.card is not None:
            colours |= {kind.name: kind.colour for kind in self.card.classes}
        return colours

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._own = True
        try:
            yield
        finally:
            self._own = False

    def _on_data(self, event: Any) -> None:
        action = getattr(getattr(event, "action", None), "value", "changed")
        if not self._own and action in _NAPARI_EDITS:
            self.follow()

    def _on_features(self, _event: Any) -> None:
        if not self._own and len(self.layer.features) == len(self.layer.data):
            self.follow()

    def follow(self) -> None:
        """Take over what the user, or *Pick particles*, did to the layer."""
        picks = self.picks()
        if NUMBER in self.layer.features:
            self.review.follow(picks, self.layer.features[NUMBER].fillna(-1))
            self._write_decisions()
        else:  # found anew
            self.review.find_again(picks)
            self._write_points()
        self.save()
        self.changed.emit(True)

    def _write_points(self) -> None:
        """Make the layer show the picks of the review, all of them."""
        layer, review = self.layer, self.review
        data, size = points_in_layer(layer, review.picks, self.volume)
        same = len(data) == len(layer.data) and np.allclose(data, layer.data, atol=1e-6)
        with self._writing():
            if not same:
                features = layer.features
                by_class = layer.face_color_mode == "cycle"
                layer.selected_data = set()
                if by_class:  # a colour by feature cannot be extended from no points at all
                    layer.face_color = "white"
                layer.data = data
                layer.features = _features(features, review)
                layer.size = size
                if by_class:
                    layer.face_color_cycle = self._colours()
                    layer.face_color = "class"
        self._write_decisions()

    def _write_decisions(self) -> None:
        layer, review = self.layer, self.review
        labels = review.picks.labels.astype(object)
        with self._writing():
            features = layer.features
            renamed = "class" not in features or (features["class"] != labels).any()
            columns = {"class": labels, "score": np.asarray(review.picks.scores)}
            columns |= {REVIEW: review.states.copy(), NUMBER: review.numbers}
            if set(columns) <= set(features):
                for name, values in columns.items():
                    features[name] = values  # the table itself: setting it costs all the colours
            else:
                defaults = dict(layer.feature_defaults.iloc[0])
                layer.features = features.assign(**columns)
                layer.feature_defaults = {
                    "class": next(iter(review.picks.classes), layer.name),
                    "score": np.nan, **defaults, REVIEW: "", NUMBER: -1,
                }  # fmt: skip
            if renamed and layer.face_color_mode == "cycle":
                layer.face_color_cycle = self._colours()
                layer.face_color = "class"
            elif renamed and len(review.picks.classes) > 1:
                layer.face_color = "class"
                layer.face_color_cycle = self._colours()
            layer.metadata = {**layer.metadata, _KEPT: review}
        self._draw()

    def _draw(self) -> None:
        """Show decisions by the borders of the points, and hide or cross out rejected ones.

        napari hides no points in 3D, so that rejected ones are crossed out there.
        """
        layer, review = self.layer, self.review
        if len(layer.data) != len(review) or not len(review):
            return
        current = review.numbers == self.current
        rejected = review.states == REJECTED
        colours = np.tile(_OPEN, (len(review), 1))
        colours[review.states == ACCEPTED] = _GREEN
        colours[rejected] = _RED
        colours[current] = _YELLOW
        looks = {
            "border_color": colours,
            "border_width": np.where(current, 0.12, 0.04),
            "shown": current | ~(rejected & self._hidden),
        }
        with self._writing():
            for name, look in looks.items():  # each costs napari another slice
                if not np.array_equal(getattr(layer, name), look):
                    setattr(layer, name, look)
            if not np.array_equal(layer.symbol == Symbol.X, rejected):
                layer.symbol = np.where(rejected, Symbol.X, Symbol.DISC)


def _features(before: pd.DataFrame, review: Review) -> pd.DataFrame:
    """Features of other points: what is known of a pick goes along."""
    if NUMBER in before:
        table = before.drop_duplicates(NUMBER).set_index(NUMBER).reindex(review.numbers)
    else:
        table = before.reindex(range(len(review)))
    table = table.reset_index(drop=True)
    table["class"] = review.picks.labels.astype(object)
    table["score"] = np.asarray(review.picks.scores)
    if review.picks.angles is not None:
        table[["rot", "tilt", "psi"]] = review.picks.angles
    table[REVIEW] = review.states
    table[NUMBER] = review.numbers
    return table
