import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer
from napari.settings import get_plugin_settings
from qtpy.QtWidgets import QFileDialog

import napari_vox3d as vox
from napari_vox3d.errors import InferenceError
from napari_vox3d.gui.controls import choose
from napari_vox3d.gui.layers import volume_layer
from napari_vox3d.gui.pick_saving import FILE_FORMATS
from napari_vox3d.gui.picking_widget import OPEN_FIRST, WHOLE, PickParticles
from napari_vox3d.gui.samples import simulated_tomogram
from napari_vox3d.models import load_model
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

CARD = {
    "name": "two",
    "title": "Two classes",
    "task": "picking",
    "input": {"voxel_size": 10.0},
    "classes": [
        {"name": "ribosome", "radius": 150.0, "colour": "#009e73", "threshold": 0.5},
        {"name": "ferritin", "radius": 60.0, "colour": "#e69f00", "threshold": 0.3},
    ],
    "training": "Simulated tomograms.",
    "licence": "BSD-3-Clause",
    "version": "1",
}
FOUND = {  # voxel (z, y, x): score
    "ribosome": {(5, 10, 12): 0.9, (5, 20, 12): 0.6, (2, 3, 4): 0.4},
    "ferritin": {(7, 8, 9): 0.35},
}


@pytest.fixture(autouse=True)
def model(tmp_path, monkeypatch):
    folder = tmp_path / "models" / "two"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps(CARD))
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "models"))


@pytest.fixture(autouse=True)
def _fresh_settings():
    get_plugin_settings("napari-vox3d").reset()


@pytest.fixture
def inference(monkeypatch):
    """Stands in for the network and the search for peaks; remembers the arguments."""
    state = SimpleNamespace(runs=[], searches=[], error=None, endless=False)

    def score(volume, model, *, region, contrast, flips, device, precision, progress):
        state.runs.append((volume, model, region))
        state.contrast, state.flips = contrast, flips
        progress(0, 4)
        while state.endless:
            progress(1, 4)
            time.sleep(0.01)
        if state.error is not None:
            raise state.error
        maps = []
        for name, peaks in FOUND.items():
            values = np.zeros(volume.shape, np.float32)
            for place, height in peaks.items():
                values[place] = height
            maps.append(volume.with_values(values, quantity="score", name=name))
        return maps

    def find(maps, *, threshold, min_distance, classes):
        state.searches.append((threshold, min_distance))
        maps = [score for score in maps if classes is None or score.name in classes]
        if not maps:
            return Picks.concatenate([])
        places = [(m, place) for m in maps for place in np.argwhere(m.values > threshold[m.name])]
        return Picks.from_indices(
            np.array([place for _, place in places]),
            np.array([m.name for m, _ in places], str),
            scores=np.array([m.values[tuple(place)] for m, place in places]),
            voxel_size=maps[0].voxel_size,
            shape=maps[0].shape,
            tomogram="tomogram",
        )

    monkeypatch.setitem(vars(vox), "score_particles", score)
    monkeypatch.setitem(vars(vox), "find_particles", find)
    return state


@pytest.fixture
def opened(qtbot):
    """The widget on a viewer without a window, wired to the layers as napari wires it."""
    viewer = ViewerModel()
    widget = PickParticles(viewer)
    qtbot.addWidget(widget)
    for name in ("inserted", "removed", "reordered", "renamed"):
        getattr(viewer.layers.events, name).connect(widget.reset_choices)
    choose(widget.model.menu, "two")
    return viewer, widget


@pytest.fixture
def docked(make_napari_viewer):
    """The widget in a window, by the way of the manifest."""
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-vox3d", "Pick particles")
    choose(widget.model.menu, "two")
    return viewer, widget


@pytest.fixture
def picked(opened, inference, qtbot):
    viewer, widget = opened
    source = add_tomogram(viewer)
    press_and_wait(qtbot, widget)
    return viewer, widget, source, viewer.layers["tomogram picks"]


def add_tomogram(viewer, **fields):
    values = np.random.default_rng(0).random((10, 30, 40)).astype(np.float32)
    volume = Volume(values, **{"step": 10.0, "origin": (50, 0, -30), "name": "tomogram", **fields})
    return viewer.add_layer(Layer.create(*volume_layer(volume)))


def press_and_wait(qtbot, widget):
    widget.run.press()
    qtbot.waitUntil(lambda: not widget.run.running, timeout=20000)


def set_threshold(qtbot, widget, inference, name, value):
    searches = len(inference.searches)
    row_of(widget, name).threshold.value = value
    qtbot.waitUntil(lambda: len(inference.searches) > searches)


def row_of(widget, name):
    return next(row for row in widget._rows if row.kind.name == name)


def counts(widget):
    return {row.kind.name: row.count.text().split()[-1] for row in widget._rows}


def test_an_empty_window_says_what_to_do(opened, qtbot, errors, inference):
    _, widget = opened
    assert widget.result.text() == OPEN_FIRST
    press_and_wait(qtbot, widget)
    assert [error.message for error in errors] == [OPEN_FIRST]
    assert inference.runs == []


def test_picking_in_a_window(docked, qtbot, inference):
    viewer, widget = docked
    add_tomogram(viewer)
    press_and_wait(qtbot, widget)
    assert [layer.name for layer in viewer.layers] == ["tomogram", "tomogram picks"]
    picks = viewer.layers["tomogram picks"]
    for threshold, count in ((0.95, 0), (0.7, 1)):
        set_threshold(qtbot, widget, inference, "ribosome", threshold)
        assert len(picks.data) == count + 1


def test_every_control_has_a_tooltip(opened):
    _, widget = opened
    controls = [widget.volume, widget.voxel_size, widget.min_distance, widget.region,
                widget.contrast, widget.flips,
                widget.slices, widget.show_scores, widget.save]  # fmt: skip
    controls += [part for row in widget._rows for part in (row.shown, row.threshold)]
    assert all(control.tooltip for control in controls)
    assert all(row.count.toolTip() for row in widget._rows)


def test_picks_lie_on_the_tomogram(picked, inference):
    _, widget, source, picks = picked
    for name in ("scale", "translate"):
        assert np.array_equal(getattr(picks, name), getattr(source, name))
    assert picks.units == source.units
    assert picks.axis_labels == source.axis_labels
    assert picks.data.tolist() == [[5, 10, 12], [5, 20, 12], [7, 8, 9]]
    assert picks.data_to_world((5, 10, 12)) == source.data_to_world((5, 10, 12))
    assert list(picks.features["class"]) == ["ribosome", "ribosome", "ferritin"]
    assert np.allclose(picks.features["score"], [0.9, 0.6, 0.35])
    assert counts(widget) == {"ribosome": "2", "ferritin": "1"}
    (run,) = inference.runs
    assert run[1:] == ("two", None)
    assert inference.contrast == "auto"
    assert inference.flips is False
    assert inference.searches == [({"ribosome": 0.5, "ferritin": 0.3}, None)]


def test_a_window_that_is_opened_again_goes_on_with_its_picks(picked, inference, qtbot):
    viewer, widget, _, picks = picked
    set_threshold(qtbot, widget, inference, "ribosome", 0.7)
    widget.close()
    again = PickParticles(viewer)
    qtbot.addWidget(again)
    choose(again.model.menu, "two")
    assert row_of(again, "ribosome").threshold.value == pytest.approx(0.7)
    assert counts(again)["ribosome"] == "1"
    press_and_wait(qtbot, again)
    assert [layer.name for layer in viewer.layers].count(picks.name) == 1
    assert picks in viewer.layers
    set_threshold(qtbot, again, inference, "ribosome", 0.3)
    assert counts(again)["ribosome"] == "3"


def test_mirror_images_are_asked_for_and_remembered(opened, inference, qtbot):
    viewer, widget = opened
    add_tomogram(viewer)
    assert "flips" not in widget.current_run().arguments
    widget.flips.value = True
    assert widget.current_run().arguments["flips"] is True
    press_and_wait(qtbot, widget)
    assert inference.flips is True
    again = PickParticles(viewer)
    qtbot.addWidget(again)
    assert again.flips.value


def test_classes_have_the_colours_of_the_card(picked):
    *_, picks = picked
    green, _, orange = (tuple((255 * rgba[:3]).round().astype(int)) for rgba in picks.face_color)
    assert green == (0x00, 0x9E, 0x73)
    assert orange == (0xE6, 0x9F, 0x00)


def test_thresholds_act_without_the_network(picked, qtbot, inference):
    viewer, widget, _, picks = picked
    layers = list(viewer.layers)
    for threshold, count in ((0.7, 1), (0.95, 0), (0.1, 3)):
        set_threshold(qtbot, widget, inference, "ribosome", threshold)
        assert counts(widget) == {"ribosome": str(count), "ferritin": "1"}
        assert len(picks.data) == count + 1
        assert list(picks.features["class"]) == ["ribosome"] * count + ["ferritin"]
    set_threshold(qtbot, widget, inference, "ferritin", 0.9)
    assert len(picks.data) == 3
    set_threshold(qtbot, widget, inference, "ribosome", 0.95)
    assert len(picks.data) == 0
    set_threshold(qtbot, widget, inference, "ribosome", 0.5)
    assert len(picks.data) == 2
    assert list(viewer.layers) == layers
    assert len(inference.runs) == 1


def test_counts_follow_what_is_done_by_hand(picked):
    _, widget, _, picks = picked
    picks.add((1, 2, 3))
    assert counts(widget) == {"ribosome": "3", "ferritin": "1"}
    picks.selected_data = {2}
    picks.remove_selected()
    assert counts(widget) == {"ribosome": "3", "ferritin": "0"}
    picks.features = picks.features.assign(review=["rejected", "accepted", ""])
    assert counts(widget) == {"ribosome": "2", "ferritin": "0"}


def test_counts_follow_the_layer_of_the_last_search(picked, qtbot, inference):
    viewer, widget, _, picks = picked
    picks.add((1, 2, 3))
    press_and_wait(qtbot, widget)
    viewer.layers["tomogram picks [1]"].add((4, 5, 6))
    assert counts(widget) == {"ribosome": "3", "ferritin": "1"}
    picks.add((7, 8, 9))
    assert counts(widget) == {"ribosome": "3", "ferritin": "1"}


def test_a_class_can_be_left_out(picked, qtbot, inference):
    _, widget, _, picks = picked
    row_of(widget, "ribosome").shown.value = False
    qtbot.waitUntil(lambda: len(inference.searches) == 2)
    assert inference.searches[-1][0] == {"ferritin": 0.3}
    assert counts(widget) == {"ribosome": "–", "ferritin": "1"}
    row_of(widget, "ferritin").shown.value = False
    qtbot.waitUntil(lambda: len(picks.data) == 0)
    assert counts(widget) == {"ribosome": "–", "ferritin": "–"}


def test_the_least_distance_acts_without_the_network(picked, qtbot, inference):
    _, widget, *_ = picked
    widget.min_distance.value = 120
    qtbot.waitUntil(lambda: len(inference.searches) == 2)
    assert inference.searches[-1][1] == 120
    assert len(inference.runs) == 1


@pytest.mark.parametrize("edit", ["move", "add", "delete", "rename"])
def test_edited_picks_are_never_overwritten(picked, qtbot, inference, edit):
    viewer, widget, _, picks = picked
    if edit == "move":
        picks.data[0] += 1
    elif edit == "add":
        picks.add((1, 2, 3))
    elif edit == "delete":
        picks.selected_data = {0}
        picks.remove_selected()
    else:
        picks.features["class"] = ["ribosome", "ferritin", "ferritin"]
    data, classes = picks.data.copy(), list(picks.features["class"])
    set_threshold(qtbot, widget, inference, "ribosome", 0.7)
    assert np.array_equal(picks.data, data)
    assert list(picks.features["class"]) == classes
    fresh = viewer.layers["tomogram picks [1]"]
    assert fresh.data.tolist() == [[5, 10, 12], [7, 8, 9]]
    assert "Your own edits are kept in tomogram picks, which is hidden" in widget.result.text()
    assert (picks.visible, fresh.visible) == (False, True)
    set_threshold(qtbot, widget, inference, "ribosome", 0.5)
    assert len(fresh.data) == 3


def test_the_selected_layer_is_saved_of_edits_and_new_picks(picked, qtbot, inference, tmp_path):
    viewer, widget, _, picks = picked
    picks.add((1, 2, 3))
    count = len(picks.data)
    set_threshold(qtbot, widget, inference, "ribosome", 0.7)
    (new,) = widget.save_picks(tmp_path / "new.csv")
    assert len(vox.read_picks(new)) == len(viewer.layers["tomogram picks [1]"].data)
    viewer.layers.selection.active = picks
    (edited,) = widget.save_picks(tmp_path / "edited.csv")
    assert len(vox.read_picks(edited)) == count


def test_a_pick_added_by_hand_has_no_score(picked):
    *_, picks = picked
    picks.add((1, 2, 3))
    assert picks.features["class"].iloc[-1] == "ribosome"
    assert picks.size[-1] == 30
    picks.selected_data = {0}  # its class is taken over, its score is not
    picks.add((3, 2, 1))
    assert picks.features["class"].iloc[-1] == picks.features["class"].iloc[0]
    assert np.isnan(picks.features["score"].iloc[-2:]).all()
    assert not np.isnan(picks.features["score"].iloc[:-2]).any()


def test_other_layers_do_not_bring_new_picks(picked, qtbot, inference):
    viewer, _, _, picks = picked
    picks.add((1, 2, 3))
    picks.name = "mine"
    viewer.add_points(np.zeros((1, 3)))
    qtbot.wait(200)
    assert len(inference.searches) == 1
    assert len(viewer.layers) == 3


def test_deleted_picks_come_back_with_the_next_threshold(picked, qtbot, inference):
    viewer, widget, _, picks = picked
    viewer.layers.remove(picks)
    set_threshold(qtbot, widget, inference, "ribosome", 0.7)
    assert viewer.layers["tomogram picks"].data.tolist() == [[5, 10, 12], [7, 8, 9]]


def test_each_tomogram_keeps_its_scores_and_thresholds(picked, qtbot, inference):
    viewer, widget, source, _ = picked
    set_threshold(qtbot, widget, inference, "ribosome", 0.7)
    second = add_tomogram(viewer, name="second", origin=np.zeros(3))
    widget.volume.value = second
    assert counts(widget) == {"ribosome": "–", "ferritin": "–"}
    widget.volume.value = source
    assert counts(widget) == {"ribosome": "1", "ferritin": "1"}
    assert row_of(widget, "ribosome").threshold.value == 0.7
    qtbot.wait(200)
    assert len(inference.searches) == 2
    assert len(viewer.layers) == 3


def test_running_again_updates_the_picks(picked, qtbot, inference):
    viewer, widget, *_ = picked
    press_and_wait(qtbot, widget)
    assert len(inference.runs) == 2
    assert len(viewer.layers) == 2


def test_score_maps_can_be_shown(picked):
    viewer, widget, source, _ = picked
    widget.show_scores.value = True
    scores = viewer.layers["ribosome score"]
    assert scores.visible
    assert np.array_equal(scores.scale, source.scale)
    assert np.array_equal(scores.translate, source.translate)
    assert [layer.name for layer in viewer.layers][-1] == "tomogram picks"
    assert widget.volume.choices == (source,)
    widget.show_scores.value = False
    assert [layer.name for layer in viewer.layers] == ["tomogram", "tomogram picks"]


@pytest.mark.parametrize(
    ("drawn", "region"),
    [
        ([[5, 4], [5, 11], [16, 11], [16, 4]], (slice(0, 10), slice(5, 17), slice(7, 15))),
        ([[-9, -9], [-9, 99], [99, 99], [99, -9]], (slice(0, 10), slice(0, 30), slice(0, 40))),
    ],
)
def test_a_box_is_read_from_shapes(opened, qtbot, inference, drawn, region):
    viewer, widget = opened
    add_tomogram(viewer)
    corners = [[0, *corner] for corner in drawn]
    shapes = viewer.add_shapes([np.array(corners)], name="box", scale=(10, 10, 10),
                               units="angstrom")  # fmt: skip
    widget.region.value = shapes
    press_and_wait(qtbot, widget)
    assert inference.runs[0][2] == region


def test_picks_of_a_box_lie_in_the_whole_tomogram(opened, qtbot, monkeypatch):
    viewer, widget = opened
    layer = add_tomogram(viewer)

    def score(volume, model, **_):
        values = np.zeros((3, 4, 5), np.float32)
        values[1, 2, 2] = 0.9
        about = {
            "tomogram": {"name": "tomogram", "shape": volume.shape, "voxel_size": [10.0] * 3,
                         "origin": volume.origin.tolist(), "region": [(2, 10), (5, 20), (8, 30)]},
            "provenance": {},
        }  # fmt: skip
        return [
            Volume(values * height, 40.0, volume.to_world((3.5, 6.5, 9.5)), quantity="score",
                   name=name, metadata={"radius": 60.0, "threshold": 0.5, "min_distance": 60.0,
                                        **about})
            for name, height in (("ribosome", 1.0), ("ferritin", 0.0))
        ]  # fmt: skip

    monkeypatch.setitem(vars(vox), "score_particles", score)
    press_and_wait(qtbot, widget)
    picks = viewer.layers["tomogram picks"]
    assert np.allclose(picks.data, [[7.5, 14.5, 17.5]], atol=1e-6)
    assert np.array_equal(picks.translate, layer.translate)


def test_a_box_may_have_fewer_slices(opened, qtbot, inference):
    viewer, widget = opened
    add_tomogram(viewer)
    shapes = viewer.add_shapes([np.array([[0, 0], [50, 60]])], name="box")
    assert widget.slices.native.isHidden()
    widget.region.value = shapes
    assert not widget.slices.native.isHidden()
    widget.slices.value = (2, 5)
    press_and_wait(qtbot, widget)
    assert inference.runs[0][2] == (slice(2, 6), slice(0, 6), slice(3, 10))


def test_of_a_multiscale_layer_the_level_of_the_model_is_picked(opened, qtbot, inference):
    viewer, widget = opened
    levels = [np.random.default_rng(0).random((n, 3 * n, 4 * n), np.float32) for n in (20, 10, 5)]
    viewer.add_image(
        levels, multiscale=True, scale=[5] * 3, units="angstrom", name="pyramid",
        contrast_limits=(0, 1),
    )  # fmt: skip
    widget.region.value = viewer.add_shapes([np.array([[0, 0], [50, 60]])], name="box")
    widget.slices.value = (4, 11)  # of the finest level
    press_and_wait(qtbot, widget)
    volume, _, region = inference.runs[0]
    assert volume.values is levels[0]
    assert volume.level_for(10).values is levels[1]
    assert region == (slice(4, 12), slice(0, 11), slice(0, 13))


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        ([], "Draw a rectangle in 'box' first, or pick everywhere."),
        ([np.array([[900, 900], [950, 950]])], "'box' lies outside the tomogram."),
    ],
)
def test_a_useless_box_is_an_error(opened, qtbot, inference, errors, drawn, message):
    viewer, widget = opened
    add_tomogram(viewer)
    widget.region.value = viewer.add_shapes(drawn, ndim=2, name="box")
    press_and_wait(qtbot, widget)
    assert [error.message for error in errors] == [message]
    viewer.layers.remove("box")
    assert widget.region.value == WHOLE


def test_an_unknown_voxel_size_must_be_set(opened, qtbot, inference, errors):
    viewer, widget = opened
    layer = add_tomogram(viewer, step=1.0, origin=np.zeros(3), calibrated=False)
    assert not widget.voxel_size.native.isHidden()
    press_and_wait(qtbot, widget)
    assert "Set the voxel size" in errors[0].message
    assert inference.runs == []
    viewer.dims.set_current_step(0, 3)
    widget.voxel_size.value = 13.5
    assert layer.scale.tolist() == [13.5] * 3
    assert layer.name == "tomogram"
    assert viewer.dims.current_step[0] == 3
    press_and_wait(qtbot, widget)
    assert inference.runs[0][0].voxel_size.tolist() == [13.5] * 3
    assert inference.runs[0][0].calibrated


def test_a_layer_in_pixels_can_be_given_a_voxel_size(opened, qtbot, inference):
    viewer, widget = opened
    viewer.add_image(np.zeros((10, 30, 40), np.float32), name="pixels")
    widget.voxel_size.value = 8
    press_and_wait(qtbot, widget)
    assert inference.runs[0][0].voxel_size.tolist() == [8] * 3


def test_layers_that_are_no_tomograms_are_not_offered(opened):
    viewer, widget = opened
    viewer.add_image(np.zeros((4, 4, 3)), rgb=True)
    viewer.add_image(np.zeros((4, 4)))
    viewer.add_labels(np.zeros((4, 4, 4), int))
    assert widget.volume.choices == ()


@pytest.mark.parametrize("chosen", FILE_FORMATS)
def test_saved_picks_are_the_ones_shown(picked, qtbot, tmp_path, monkeypatch, chosen):
    if FILE_FORMATS[chosen] == "copick-project":
        pytest.importorskip("copick")
    _, widget, _, picks = picked
    picks.data = np.add(picks.data, (0, 0.5, 0))
    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "found"), chosen)
    )
    widget.save.changed.emit(True)
    written = [path for path in tmp_path.iterdir() if path.is_file()]
    assert all(path.name in widget.result.text() for path in written)
    known = FILE_FORMATS[chosen]
    # A file for each class of copick and the portal; Dynamo's list of tomograms.
    assert len(written) == (2 if known in ("copick", "portal", "dynamo") else 1)
    volume = Volume(np.zeros((10, 30, 40)), 10.0, name="tomogram")
    written = [path for path in written if path.suffix != ".doc"]
    found = np.concatenate([vox.read_picks(path, volume).positions for path in written])
    expected = [[50, 105, 120], [50, 205, 120], [70, 85, 90]]
    assert np.allclose(
        found[np.lexsort(found.T)],
        np.array(expected)[np.lexsort(np.transpose(expected))],
        atol=0.01,
    )


def test_saving_without_picks_is_an_error(opened, tmp_path, monkeypatch, errors):
    _, widget = opened
    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "a.star"), "RELION 5 (*.star)")
    )
    widget.save.changed.emit(True)
    assert "no picks to save" in errors[0].message
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: ("", ""))
    widget.save.changed.emit(True)
    assert len(errors) == 1


def test_an_error_of_the_core_is_shown_once(opened, qtbot, errors, inference):
    viewer, widget = opened
    add_tomogram(viewer)
    inference.error = InferenceError("Not enough memory.")
    press_and_wait(qtbot, widget)
    assert [error.message for error in errors] == ["Not enough memory."]
    assert widget.run.button.isEnabled()


def test_the_tomogram_may_go_while_running(opened, qtbot, errors, inference):
    viewer, widget = opened
    layer = add_tomogram(viewer)
    inference.endless = True
    widget.run.press()
    qtbot.waitUntil(lambda: bool(inference.runs))
    viewer.layers.remove(layer)
    inference.endless = False
    qtbot.waitUntil(lambda: not widget.run.running)
    assert len(viewer.layers) == 0
    assert "closed meanwhile" in widget.result.text()
    assert errors == []


def test_another_tomogram_may_be_chosen_while_running(opened, qtbot, errors, inference):
    viewer, widget = opened
    first, second = add_tomogram(viewer), add_tomogram(viewer, name="second")
    widget.volume.value = first
    inference.endless = True
    widget.run.press()
    qtbot.waitUntil(lambda: bool(inference.runs))
    widget.volume.value = second
    inference.endless = False
    with qtbot.capture_exceptions() as raised:
        qtbot.waitUntil(lambda: not widget.run.running)
    assert raised == []
    assert widget.volume.value is first
    assert counts(widget) == {"ribosome": "2", "ferritin": "1"}


def test_the_viewer_may_close_while_running(docked, qtbot, errors, inference):
    viewer, widget = docked
    add_tomogram(viewer)
    inference.endless = True
    widget.run.press()
    qtbot.waitUntil(lambda: bool(inference.runs))
    viewer.close()
    with qtbot.capture_exceptions() as raised:
        qtbot.waitUntil(lambda: not widget.run.running)
    assert raised == []
    assert errors == []


def test_settings_are_remembered(picked, qtbot):
    viewer, widget, *_ = picked
    widget.min_distance.value = 90
    widget.show_scores.value = True
    qtbot.wait(200)
    again = PickParticles(viewer)
    qtbot.addWidget(again)
    assert again.min_distance.value == 90
    assert again.show_scores.value
    assert again.model.menu.value == "two"


def test_the_shipped_model_finds_a_particle_of_the_sample(opened, qtbot, errors):
    viewer, widget = opened
    image, truth = [viewer.add_layer(Layer.create(*layer)) for layer in simulated_tomogram()]
    widget.volume.value = image
    widget.model.menu.value = load_model(task="picking").card.name
    capsids = truth.data[truth.features["class"] == "virus-like-particle"]
    middle = np.array(image.data.shape) / 2
    capsid = capsids[np.linalg.norm(capsids - middle, axis=1).argmin()]
    low, high = capsid - 8, capsid + 8
    box = np.array([[0, y, x] for y, x in ((low[1], low[2]), (low[1], high[2]),
                                           (high[1], high[2]), (high[1], low[2]))])  # fmt: skip
    widget.region.value = viewer.add_shapes(
        [box], name="box", scale=image.scale, translate=image.translate, units="angstrom"
    )
    widget.slices.value = (int(low[0]), int(high[0]))
    press_and_wait(qtbot, widget)
    assert errors == []
    picks = viewer.layers["simulated_tomogram picks"]
    assert list(picks.features["class"]) == ["virus-like-particle"]
    assert np.linalg.norm(picks.data - capsid) * image.scale[0] < 135 / 2
