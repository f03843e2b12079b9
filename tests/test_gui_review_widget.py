import json

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer, Points
from qtpy.QtCore import Qt
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtTest import QTest

import napari_vox3d as vox
from napari_vox3d.curation import ACCEPTED, REJECTED
from napari_vox3d.curation.saved import kept_rows
from napari_vox3d.gui.layers import volume_layer
from napari_vox3d.gui.live_picks import LivePicks
from napari_vox3d.gui.pick_layers import REVIEW, picks_from_layer, picks_layer
from napari_vox3d.gui.review_widget import (
    ALL,
    EVERY_CLASS,
    FLAGGED,
    KEYS,
    OPEN_PICKS,
    ReviewPicks,
)
from napari_vox3d.gui.reviewed_layer import NUMBER
from napari_vox3d.models import ModelCard
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

SCORES = (0.9, 0.52, 0.4, 0.75)
INDICES = ((10, 20, 20), (10, 20, 40), (14, 40, 20), (12, 40, 38))
CARD = ModelCard.model_validate({
    "name": "two", "title": "Two", "task": "picking", "input": {"voxel_size": 10.0},
    "classes": [
        {"name": "a", "radius": 60.0, "colour": "#009e73", "threshold": 0.5},
        {"name": "b", "radius": 60.0, "colour": "#e69f00", "threshold": 0.35},
    ],
    "training": "None.", "licence": "BSD-3-Clause", "version": "1",
})  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_vox3d.curation.saved.data_folder", lambda: tmp_path)
    return tmp_path


def tomogram():
    values = np.random.default_rng(0).normal(size=(24, 60, 60)).astype("f4")
    return Volume(values, 10.0, origin=np.array([100.0, 0, 0]), name="t")


def found(scores=SCORES, labels=("a", "a", "b", "a")):
    return Picks.from_indices(
        INDICES, labels, scores=np.array(scores), voxel_size=10.0, radii=60.0, shape=(24, 60, 60),
        tomogram="t",
    )  # fmt: skip


def open_layers(viewer, picks=None):
    volume = tomogram()
    viewer.add_layer(Layer.create(*volume_layer(volume)))
    layer = Layer.create(*picks_layer(found() if picks is None else picks, volume, name="picks"))
    viewer.add_layer(layer)
    return layer


def opened_on(viewer, qtbot):
    widget = ReviewPicks(viewer)
    qtbot.addWidget(widget)
    for name in ("inserted", "removed", "reordered", "renamed"):
        getattr(viewer.layers.events, name).connect(widget.reset_choices)
    widget.show()
    return widget


def idle(widget, qtbot):
    qtbot.waitUntil(lambda: widget._job is None and not widget._soon.isActive(), timeout=20000)


@pytest.fixture
def review(qtbot):
    """Widget, viewer without a window, and the layer under review."""
    viewer = ViewerModel()
    layer = open_layers(viewer)
    widget = opened_on(viewer, qtbot)
    idle(widget, qtbot)
    yield widget, viewer, layer
    widget.hide()
    idle(widget, qtbot)


def test_without_picks_it_says_what_to_do(qtbot):
    widget = opened_on(ViewerModel(), qtbot)
    assert widget.pick.about.text() == OPEN_PICKS
    widget.step(1)
    widget.decide(ACCEPTED)
    widget.undo()
    with pytest.raises(vox.Vox3dError, match="points layer"):
        widget.save_picks("picks.star")


def test_the_picks_on_top_are_the_ones_to_begin_with(qtbot):
    viewer = ViewerModel()
    open_layers(viewer).visible = False
    above = open_layers(viewer)
    widget = opened_on(viewer, qtbot)
    assert widget.picks.value is above
    idle(widget, qtbot)
    widget.hide()


def test_it_begins_with_the_most_doubtful_and_goes_there(review):
    widget, viewer, layer = review
    assert widget.reviewed.current == 1  # 0.52 is the least of its class
    row = widget.reviewed.review.row(1)
    assert viewer.dims.point == (200.0, 200.0, 400.0)
    assert viewer.scene.camera.center == (200.0, 200.0, 400.0)
    assert layer.border_width[row] > layer.border_width[0]
    widget.step(1)
    assert widget.reviewed.current == 2
    assert viewer.dims.point == (240.0, 400.0, 200.0)
    assert viewer.layers[0].plane.position == (14.0, 40.0, 20.0)  # in 3D
    assert widget.progress.text() == "2 of 4 seen"


def test_decisions_hide_and_never_delete(review):
    widget, _, layer = review
    widget.decide(REJECTED)
    assert len(layer.data) == 4
    assert layer.features[REVIEW].tolist() == ["", REJECTED, "", ""]
    assert layer.shown.tolist() == [True, False, True, True]
    assert widget.reviewed.current == 2
    widget.hide_rejected.value = False
    assert layer.shown.all()
    assert str(layer.symbol[1]) == "x"
    assert len(picks_from_layer(layer)) == 3
    assert len(picks_from_layer(layer, rejected=True)) == 4
    widget.undo()
    assert widget.reviewed.current == 1
    assert layer.features[REVIEW].tolist() == [""] * 4
    widget.undo(again=True)
    assert layer.features[REVIEW][1] == REJECTED


def test_relabelling_recolours(review):
    widget, _, layer = review
    before = layer.face_color.copy()
    widget.relabel("b")
    assert layer.features["class"].tolist() == ["a", "b", "b", "a"]
    np.testing.assert_allclose(layer.face_color[1], before[2])
    widget.relabel("new")
    assert "new" in widget.reviewed.classes
    assert picks_from_layer(layer).labels.tolist() == ["a", "b", "new", "a"]


def test_all_decided_is_said(review):
    widget, _, _ = review
    for _ in range(4):
        widget.decide(ACCEPTED)
    assert "decided" in widget.said.text()
    assert "4 accepted" in widget.counts.text()


def test_edits_in_napari_keep_decisions_right(review, qtbot):
    widget, _, layer = review
    widget.decide(REJECTED)  # number 1
    layer.selected_data = {0}
    layer.remove_selected()
    layer.add([[12, 30, 30]])
    layer.selected_data = {1}
    layer._move([1], layer.data[1] + 2)
    layer.events.data(value=layer.data, action="changed", data_indices=(1,), vertex_indices=((),))
    reviewed = widget.reviewed.review
    assert reviewed.numbers.tolist() == [1, 2, 3, 4]
    assert reviewed.states.tolist() == [REJECTED, "", "", ACCEPTED]
    assert layer.features[REVIEW].tolist() == [REJECTED, "", "", ACCEPTED]
    assert np.isnan(layer.features["score"].iloc[-1])
    np.testing.assert_allclose(reviewed.picks.positions, layer.data * 10)
    with layer.events.data.blocker():  # as when points are pasted, of which napari does not tell
        layer.add([[5, 5, 5]])
    widget.step(1)
    assert reviewed.numbers.tolist() == [1, 2, 3, 4, 5]
    idle(widget, qtbot)


def test_names_changed_elsewhere_are_taken_over(review):
    widget, _, layer = review
    layer.features = layer.features.assign(**{"class": "c"})
    assert widget.reviewed.review.picks.classes == ["c"]


def test_deleting_the_current_pick_leaves_none(review):
    widget, _, layer = review
    layer.selected_data = {1}
    layer.remove_selected()
    assert widget.reviewed.current is None
    assert "Next" in widget.pick.about.text()
    widget.decide(ACCEPTED)  # an error is shown, nothing is decided
    assert not widget.reviewed.review.count(ACCEPTED)


def test_flags_are_shown_and_filter(review):
    widget, _, _ = review
    picks = Picks.from_indices([(2, 30, 30), (12, 30, 30), (12, 30, 32)], "a", voxel_size=10.0,
                               scores=np.array([0.9, 0.8, 0.7]), radii=60.0)  # fmt: skip
    viewer = widget._viewer
    layer = Layer.create(*picks_layer(picks, tomogram(), name="others"))
    viewer.add_layer(layer)
    widget.picks.value = layer
    widget.which.value = FLAGGED
    assert widget._order().tolist() == [2, 1, 0]
    assert "overlaps" in widget.pick.about.text()
    widget.decide(REJECTED)  # it stands in nobody's way now
    assert widget._order().tolist() == [0]
    assert "border" in widget.pick.about.text()
    widget.which.value = ALL
    widget.only.value = "a"
    assert len(widget._order()) == 3


def test_decisions_survive_closing_and_a_crash(review, qtbot, folder):
    widget, _, layer = review
    widget.decide(REJECTED)
    file = widget.reviewed.file
    assert [row["state"] for row in kept_rows(file)][:1] == [REJECTED]
    widget.hide()
    assert layer.border_width.max() == pytest.approx(0.04)
    widget.show()
    assert widget.reviewed.review.count(REJECTED) == 1
    assert widget.undo() is None
    assert widget.reviewed.review.count(REJECTED) == 0  # history goes on as well
    widget.decide(REJECTED)
    another = ViewerModel()  # as after a crash
    fresh = open_layers(another)
    again = opened_on(another, qtbot)
    assert fresh.features[REVIEW].tolist() == ["", REJECTED, "", ""]
    assert not fresh.shown[1]
    idle(again, qtbot)
    again.hide()


def test_done_gives_a_clean_layer_and_saves_what_is_left(review, tmp_path):
    widget, viewer, layer = review
    widget.decide(REJECTED)
    widget.decide(ACCEPTED)
    widget.finish()
    clean = viewer.layers[-1]
    assert clean.name == "picks reviewed"
    assert len(clean.data) == 3
    assert REVIEW not in clean.features
    assert not layer.visible
    np.testing.assert_allclose(clean.translate, layer.translate)
    widget.save_picks(tmp_path / "picks.csv")
    assert len(vox.read_picks(tmp_path / "picks.csv")) == 3
    assert len(widget.save_picks(tmp_path / "picks.json", "copick")) == 2  # a class each


def test_what_was_decided_goes_into_the_file_and_comes_back(review, tmp_path, qtbot, folder):
    widget, *_ = review
    widget.decide(REJECTED)
    widget.decide(ACCEPTED)
    for what, states in (
        ("accepted, undecided", ["", "", ACCEPTED]),
        ("accepted only", [ACCEPTED]),
        ("all, rejected marked", ["", "", ACCEPTED, REJECTED]),
    ):
        widget.saved.value = what
        for name in ("picks.csv", "picks.star"):
            widget.save_picks(tmp_path / name)
            assert sorted(vox.read_picks(tmp_path / name).decisions) == states
    viewer = ViewerModel()
    viewer.add_layer(Layer.create(*volume_layer(tomogram())))
    again = vox.read_picks(tmp_path / "picks.csv", tomogram())
    for file in (folder / "reviews").iterdir():
        file.unlink()
    layer = viewer.add_layer(Layer.create(*picks_layer(again, tomogram())))
    assert layer.shown.tolist() == (again.decisions != REJECTED).tolist()
    assert len(picks_from_layer(layer)) == 3
    second = opened_on(viewer, qtbot)
    review_ = second.reviewed.review
    assert (review_.count(ACCEPTED), review_.count(REJECTED)) == (1, 1)
    assert review_.states[second.reviewed.review.row(second.reviewed.current)] == ""
    idle(second, qtbot)
    second.hide()


def test_the_menu_of_classes_names_classes(review):
    widget, *_ = review
    assert widget.only.choices == (EVERY_CLASS, "a", "b")


def test_hand_clicked_points_of_any_layer(review):
    widget, viewer, _ = review
    clicked = Points(np.array([[3.0, 4, 5], [1, 2, 3]]), scale=(10, 10, 10), units="angstrom",
                     translate=(100, 0, 0), name="virus", size=6)  # fmt: skip
    viewer.add_layer(clicked)
    widget.picks.value = clicked
    assert widget.reviewed.current == 1  # from slice to slice
    assert widget.reviewed.review.picks.classes == ["virus"]
    assert widget.scores.isHidden()
    widget.decide(REJECTED)
    assert len(picks_from_layer(clicked)) == 1
    clicked.add([[5, 5, 5]])
    assert clicked.features["class"].tolist() == ["virus"] * 3
    widget.volume.value = "none"
    assert widget.pick.closeups.isHidden()


def test_threshold_of_other_picks_selects_and_rejects_those_below(review):
    widget, _, layer = review
    widget.only.value = "a"
    widget.scores.plot.mark(0.8)
    widget.scores.plot.dropped.emit(0.8)
    assert layer.selected_data == {1, 3}
    assert "2 undecided a below 0.80" in widget.scores.below.text
    widget.scores.below.changed.emit(True)
    assert layer.features[REVIEW].tolist() == ["", REJECTED, "", REJECTED]


def test_threshold_of_live_picks_finds_them_anew_and_keeps_decisions(qtbot, monkeypatch):
    everything = found()

    def find(maps, *, threshold, min_distance, classes):
        least = np.array([threshold[label] for label in everything.labels.tolist()])
        return everything.select(everything.scores >= least)

    monkeypatch.setitem(vars(vox), "find_particles", find)
    viewer = ViewerModel()
    volume = tomogram()
    viewer.add_layer(Layer.create(*volume_layer(volume)))
    live = LivePicks(viewer, viewer.layers[0], volume, CARD, [])
    live.find({"a": (True, 0.5), "b": (True, 0.3)}, 0.0)
    widget = opened_on(viewer, qtbot)
    assert widget.reviewed.live is live
    assert widget.reviewed.review.thresholds == {"a": 0.5, "b": 0.3}
    widget.decide(ACCEPTED)
    assert widget.reviewed.review.count(ACCEPTED) == 1
    widget.only.value = "a"
    widget.scores.plot.dropped.emit(0.95)
    assert sorted(live.layer.features["score"]) == [0.4, 0.52]  # the accepted one stays
    assert live.choices["a"] == (True, 0.95)
    widget.scores.plot.dropped.emit(0.5)
    assert len(live.layer.data) == 4
    assert live.layer.features[REVIEW].tolist().count(ACCEPTED) == 1
    assert live.edited  # so that Pick particles leaves the layer alone
    idle(widget, qtbot)
    widget.hide()


def test_keys_work_while_the_window_is_open_and_clash_with_none_of_points(
    make_napari_viewer, qtbot
):
    viewer = make_napari_viewer()
    layer = open_layers(viewer)
    taken = {str(key) for key in [*layer.class_keymap, *viewer.class_keymap, *viewer.keymap]}
    dock, widget = viewer.window.add_plugin_dock_widget("napari-vox3d", "Review picks")
    widget.showEvent(QShowEvent())
    bound = {str(key) for key in viewer.keymap}
    assert len(bound) == len(KEYS) + 1 + 9
    assert not bound & taken
    viewer.layers.selection.active = layer
    canvas = viewer.window._qt_viewer.canvas.native
    reviewed = widget.reviewed

    def press(key, modifier=Qt.KeyboardModifier.NoModifier):
        QTest.keyClick(canvas, key, modifier)

    press(Qt.Key.Key_N)
    assert reviewed.current == 2
    press(Qt.Key.Key_B)
    assert reviewed.current == 1
    press(Qt.Key.Key_R)
    press(Qt.Key.Key_K)
    assert reviewed.review.states.tolist() == ["", REJECTED, ACCEPTED, ""]
    press(Qt.Key.Key_U)
    press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert reviewed.review.states.tolist() == ["", "", "", ""]
    press(Qt.Key.Key_U, Qt.KeyboardModifier.ShiftModifier)
    assert reviewed.review.states[1] == REJECTED
    press(Qt.Key.Key_2, Qt.KeyboardModifier.ControlModifier)
    assert reviewed.review.picks.labels[1] == reviewed.classes[1]
    press(Qt.Key.Key_3)
    assert str(layer.mode) == "select"  # napari's own
    idle(widget, qtbot)
    widget.hideEvent(QHideEvent())
    assert not {str(key) for key in viewer.keymap} & bound
    dock.close()


def test_the_line_in_the_plot_follows_the_mouse(review, qtbot):
    widget, _, _ = review
    plot = widget.scores.plot
    plot.resize(300, 150)
    moved, dropped = [], []
    plot.moved.connect(moved.append)
    plot.dropped.connect(dropped.append)
    widget.only.value = "a"
    middle = plot._frame().center().toPoint()
    qtbot.mousePress(plot, Qt.MouseButton.LeftButton, pos=middle)
    qtbot.mouseRelease(plot, Qt.MouseButton.LeftButton, pos=middle)
    assert moved[0] == dropped[0]
    assert dropped[0] == pytest.approx((0.52 + 0.9) / 2, abs=0.02)


def test_numbers_and_decisions_are_json(review):
    widget, _, layer = review
    widget.decide(ACCEPTED)
    assert layer.features[NUMBER].tolist() == [0, 1, 2, 3]
    assert json.loads(widget.reviewed.file.read_text())["picks"][0]["state"] == ACCEPTED
