import time
from dataclasses import replace

import numpy as np
import pytest
from embeddings import embedding, tomogram
from napari.components import ViewerModel
from napari.layers import Layer
from napari.settings import get_plugin_settings
from qtpy.QtWidgets import QFileDialog, QLabel, QPushButton

import napari_vox3d as vox
from napari_vox3d.gui.controls import OPEN_FIRST, choose
from napari_vox3d.gui.layers import volume_layer
from napari_vox3d.gui.pick_layers import picks_from_layer, picks_layer
from napari_vox3d.gui.pick_saving import FILE_FORMATS
from napari_vox3d.gui.similar_widget import OPEN_PICKS, SELECT_FIRST, FindSimilar
from napari_vox3d.volume import Volume

VOLUME, PICKS = tomogram()
BALLS = np.flatnonzero(PICKS.labels == "ball").tolist()


@pytest.fixture(autouse=True)
def _surroundings(tmp_path, monkeypatch):
    embedding().save(tmp_path / "models" / "tiny")
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "models"))
    get_plugin_settings("napari-vox3d").reset()


def fill(viewer, volume=VOLUME, picks=PICKS):
    viewer.add_layer(Layer.create(*volume_layer(volume)))
    layer = Layer.create(*picks_layer(picks, volume, name="picks"))
    viewer.add_layer(layer)
    return layer


@pytest.fixture
def opened(qtbot):
    viewer = ViewerModel()
    widget = FindSimilar(viewer)
    qtbot.addWidget(widget)
    for name in ("inserted", "removed", "reordered", "renamed"):
        getattr(viewer.layers.events, name).connect(widget.reset_choices)
    choose(widget.model.menu, "tiny")
    return viewer, widget


@pytest.fixture
def filled(opened):
    viewer, widget = opened
    return viewer, widget, fill(viewer)


def press(qtbot, control):
    control.button.click()
    qtbot.waitUntil(lambda: not control.running, timeout=60_000)


def labels_of(layer):
    return layer.features["class"].to_numpy(str)


def test_it_says_what_is_missing(opened, errors):
    viewer, widget = opened
    assert widget.result.text() == OPEN_FIRST
    widget.cluster.button.click()
    assert errors[-1].message == OPEN_FIRST
    viewer.add_layer(Layer.create(*volume_layer(VOLUME)))
    assert widget.result.text() == OPEN_PICKS
    widget.find.button.click()
    assert errors[-1].message == OPEN_PICKS
    viewer.add_layer(Layer.create(*picks_layer(PICKS, VOLUME)))
    assert widget.result.text() == ""
    widget.sort.button.click()
    assert errors[-1].message == SELECT_FIRST
    assert not widget.sort.running


def test_an_unknown_voxel_size_is_asked_for(opened, errors):
    viewer, widget = opened
    fill(viewer, Volume(VOLUME.values, 1.0, calibrated=False, name="t"))
    viewer.layers[0].units = "pixel"
    widget.cluster.button.click()
    assert "does not say how large its voxels are" in errors[-1].message


def test_clusters_are_coloured_selected_and_taken_as_classes(qtbot, filled):
    _, widget, layer = filled
    widget.count.value = 2
    press(qtbot, widget.cluster)
    clusters = layer.features["cluster"].to_numpy(str)
    of_balls = clusters[BALLS]
    assert (of_balls == of_balls[0]).mean() > 0.9
    first = layer.face_color[BALLS[0]]
    other = np.flatnonzero(clusters != of_balls[0])[0]
    assert not np.allclose(layer.face_color[other], first)
    buttons = widget.clusters.findChildren(QPushButton)
    assert [button.text().split(":")[0] for button in buttons] == ["cluster-1", "cluster-2"]
    buttons[1].click()
    assert layer.selected_data == set(np.flatnonzero(clusters == "cluster-2"))
    widget.by_class.changed.emit(True)
    assert layer.face_color_mode == "cycle"
    assert np.allclose(layer.face_color[BALLS], layer.face_color[BALLS[0]])
    widget.as_class.changed.emit(True)
    assert set(labels_of(layer)) == {"cluster-1", "cluster-2"}
    assert set(picks_from_layer(layer).classes) == {"cluster-1", "cluster-2"}


def test_vectors_are_kept_until_something_else_is_looked_at(qtbot, filled, monkeypatch):
    _, widget, layer = filled
    asked = []
    embed = vox.embed_picks

    def count(volume, picks, **options):
        asked.append(len(picks))
        return embed(volume, picks, **options)

    monkeypatch.setitem(vars(vox), "embed_picks", count)
    press(qtbot, widget.cluster)
    layer.selected_data = set(BALLS[:3])
    press(qtbot, widget.sort)
    layer.add([10.0, 11, 12])
    layer.selected_data = set(BALLS[:3])
    press(qtbot, widget.sort)
    assert asked == [40, 0, 1]
    widget.contrast.value = "bright"
    press(qtbot, widget.sort)
    assert asked[-1] == 41


def test_odd_picks_come_first_and_are_set_aside(qtbot, filled):
    viewer, widget, layer = filled
    layer.selected_data = set(BALLS[:8])
    press(qtbot, widget.sort)
    assert widget.table.rowCount() == 40
    names = [widget.table.item(row, 1).text() for row in range(40)]
    assert names[:18].count("rod") >= 17
    widget.table.selectRow(0)
    (chosen,) = layer.selected_data
    assert layer.features["class"].iloc[chosen] == "rod"
    here = viewer.dims.point
    np.testing.assert_allclose(here, layer.data_to_world(layer.data[chosen]), atol=11)
    widget.set_aside.changed.emit(True)
    assert len(layer.data) == 39
    assert widget.table.rowCount() == 39
    aside = viewer.layers["picks set aside"]
    assert not aside.visible
    widget.table.selectRow(1)
    widget.set_aside.changed.emit(True)
    assert (len(layer.data), len(aside.data)) == (38, 2)
    together = np.concatenate([picks_from_layer(part).positions for part in (layer, aside)])
    assert sorted(map(tuple, together.round(3))) == sorted(map(tuple, PICKS.positions.round(3)))
    layer.selected_data = set()
    widget.set_aside.changed.emit(True)
    assert "Select what is to be set aside" in widget.result.text()


def test_a_table_of_changed_picks_says_so(qtbot, filled):
    _, widget, layer = filled
    layer.selected_data = {0}
    press(qtbot, widget.sort)
    layer.add([1.0, 2, 3])
    widget.table.selectRow(0)
    assert "sort them again" in widget.result.text()


def test_more_are_found_shown_by_threshold_and_saved(qtbot, opened, tmp_path, monkeypatch):
    viewer, widget = opened
    layer = fill(viewer, picks=PICKS.select(BALLS[:8]))
    layer.selected_data = set(range(6))
    press(qtbot, widget.find)
    found = viewer.layers["more like ball"]
    assert widget.picks.value is layer
    positions = picks_from_layer(found, VOLUME).positions
    rest = PICKS.positions[BALLS[8:]]
    hit = np.linalg.norm(rest[:, None] - positions, axis=2).min(axis=1) < 40
    assert hit.mean() > 0.7
    known = np.linalg.norm(PICKS.positions[BALLS[:8], None] - positions, axis=2)
    assert known.min() > 70  # those of the layer that were not selected are not new either
    count = len(found.data)
    widget.threshold.value = widget.threshold.min
    assert len(found.data) > count
    widget.threshold.value = widget.threshold.max
    assert len(found.data) == 0
    widget.threshold.value = 0.5
    kept = len(found.data)
    found.add([1.0, 2, 3])  # an edit by hand: the layer is left alone
    widget.threshold.value = 0.6
    assert len(found.data) == kept + 1
    assert len([each for each in viewer.layers if each.name.startswith("more like")]) == 2
    answer = str(tmp_path / "more.star"), next(iter(FILE_FORMATS))
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: answer)
    widget.save.changed.emit(True)
    assert "Saved more.star" in widget.result.text()
    assert len(vox.read_picks(tmp_path / "more.star", VOLUME)) <= kept


def test_what_was_found_comes_into_view_and_text_stays_whole(qtbot, filled):
    _, widget, layer = filled
    widget.resize(325, 450)
    widget.show()
    qtbot.waitExposed(widget)
    press(qtbot, widget.cluster)
    layer.selected_data = set(BALLS[:5])
    press(qtbot, widget.sort)
    press(qtbot, widget.find)
    below = widget.save.native
    qtbot.waitUntil(lambda: not below.visibleRegion().isEmpty())
    texts = [label for label in widget.findChildren(QLabel) if label.wordWrap()]
    assert texts
    qtbot.waitUntil(lambda: all(text.height() >= text.heightForWidth(text.width())
                                for text in texts if text.isVisible()))  # fmt: skip


def test_nothing_to_save_is_said(filled, errors, tmp_path):
    _, widget, _ = filled
    with pytest.raises(vox.Vox3dError, match="no picks to save"):
        widget.save_picks(tmp_path / "more.star")


def test_one_job_at_a_time_and_cancel(qtbot, filled, monkeypatch):
    _, widget, layer = filled

    def endless(volume, picks, *, progress, **_):
        while True:
            progress(0, 4)
            time.sleep(0.01)

    monkeypatch.setitem(vars(vox), "embed_picks", endless)
    widget.cluster.button.click()
    assert widget.cluster.running
    assert not widget.find.button.isEnabled()
    press(qtbot, widget.cluster)  # says Cancel now
    assert widget.find.button.isEnabled()
    assert "cluster" not in layer.features


def test_errors_are_shown_and_the_buttons_come_back(qtbot, filled, errors):
    _, widget, layer = filled
    layer.add([1000.0, 2, 3])
    press(qtbot, widget.cluster)
    assert "1 of 41 picks lie outside" in errors[-1].message
    assert widget.cluster.button.isEnabled()
    assert widget.sort.button.isEnabled()


def test_a_layer_that_changed_meanwhile_is_left_alone(qtbot, filled, monkeypatch):
    _, widget, layer = filled
    vectors = np.eye(40, 8, dtype="f4")
    monkeypatch.setitem(vars(vox), "embed_picks", lambda *_, **__: (time.sleep(0.3), vectors)[1])
    widget.cluster.button.click()
    layer.add([1.0, 2, 3])
    qtbot.waitUntil(lambda: not widget.cluster.running, timeout=20_000)
    assert "cluster" not in layer.features
    assert "changed meanwhile" in widget.result.text()


def test_foreign_points_without_classes(qtbot, opened):
    viewer, widget = opened
    viewer.add_layer(Layer.create(*volume_layer(VOLUME)))
    points = viewer.add_points(PICKS.positions, units="angstrom", name="clicks")
    widget.count.value = 2
    press(qtbot, widget.cluster)
    assert set(points.features["cluster"]) == {"cluster-1", "cluster-2"}
    points.selected_data = set(BALLS[:8])
    press(qtbot, widget.sort)
    assert widget.table.item(0, 1).text() == ""
    widget.by_class.changed.emit(True)
    assert np.allclose(points.face_color, 1)


def test_it_opens_in_the_window(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-vox3d", "Find similar")
    layer = fill(viewer, picks=replace(PICKS, scores=None))
    choose(widget.model.menu, "tiny")
    layer.selected_data = set(BALLS[:5])
    press(qtbot, widget.sort)
    widget.table.selectRow(39)
    assert len(layer.selected_data) == 1
