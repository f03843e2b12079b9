import csv

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer, Points
from qtpy.QtWidgets import QApplication, QFileDialog

import napari_vox3d as vox
from napari_vox3d.gui.evaluation_widget import CZII, GIVEN, NO_CLASS, EvaluatePicks
from napari_vox3d.gui.pick_layers import picks_layer
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

VOLUME = Volume(np.zeros((20, 60, 60), "f4"), 10.0, origin=np.array([100.0, 0, 0]), name="t")
TRUE = [(5, 10, 10), (5, 10, 40), (5, 40, 10)]
FOUND = [(5, 10, 11), (5, 10, 12), (5, 40, 30)]  # right, a second pick of it, false


def add(viewer, name, indices, labels, **fields):
    picks = Picks.from_indices(indices, labels, voxel_size=10.0, radii=60.0, **fields)
    layer = Layer.create(*picks_layer(picks, VOLUME, name=name))
    viewer.add_layer(layer)
    return layer


@pytest.fixture
def opened(qtbot):
    viewer = ViewerModel()
    widget = EvaluatePicks(viewer)
    qtbot.addWidget(widget)
    for name in ("inserted", "removed", "reordered", "renamed"):
        getattr(viewer.layers.events, name).connect(widget.reset_choices)
    return viewer, widget


@pytest.fixture
def compared(opened):
    viewer, widget = opened
    add(viewer, "true particles", TRUE, ["ribosome", "ribosome", "apo-ferritin"])
    add(viewer, "picks", FOUND, "ribosome", scores=np.array([0.9, 0.5, 0.4]))
    return viewer, widget


def cells(widget, row):
    return [widget.table.item(row, m).text() for m in range(widget.table.columnCount())]


def test_layers_are_guessed_by_their_names(compared):
    _, widget = compared
    assert widget.truth.value.name == "true particles"
    assert widget.picks.value.name == "picks"
    assert widget.evaluate.enabled


def test_table_layers_and_score(compared):
    viewer, widget = compared
    widget.evaluate.changed.emit(True)
    assert cells(widget, 0)[0] == "ribosome"
    assert cells(widget, 0)[-3:] == ["1", "1", "2"]  # matched, missed, false
    assert cells(widget, 1) == ["apo-ferritin", "0.00", "0.00", "0.00", "0", "1", "0"]
    assert cells(widget, 2)[0] == "all"
    names = {layer.name: layer for layer in viewer.layers}
    assert {"matched (1)", "missed (2)", "false (2)"} < names.keys()
    truth, missed = names["true particles"], names["missed (2)"]
    np.testing.assert_allclose(
        missed.data_to_world(missed.data[0]), truth.data_to_world(truth.data[1])
    )
    assert not truth.visible
    f4 = 17 * (1 / 3) * 0.5 / (16 / 3 + 0.5)
    assert f"CZII score {f4 / 7:.3f}" in widget.score.text()
    widget.evaluate.changed.emit(True)  # takes its own layers' place
    assert len(viewer.layers) == 5
    assert len(widget.picks.choices) == 2


def test_curve_names_the_best_threshold(compared):
    _, widget = compared
    widget.beta.value = 1
    widget.evaluate.changed.emit(True)
    assert widget.curve.threshold == pytest.approx(0.9)
    assert "0.90, F1 0.667" in widget.best.text()
    widget.of_class.value = "apo-ferritin"
    assert "no scores" in widget.best.text()


def test_rules_of_distance(compared, errors):
    _, widget = compared
    widget.rule.value = GIVEN
    widget.distance.value = 5
    assert widget.scores().classes["ribosome"].matched == 0
    widget.distance.value = 300
    assert widget.scores().classes["ribosome"].matched == 2
    widget.rule.value = CZII
    assert widget.scores().classes["ribosome"].matched == 1


def test_odd_names_get_a_menu(opened):
    viewer, widget = opened
    add(viewer, "truth", TRUE, ["apo-ferritin", "ribosome", "ribosome"])
    add(viewer, "picks", TRUE, ["Apo_Ferritin", "80S", "ribosome"])
    assert {name: menu.value for name, menu in widget._menus.items()} == {
        "Apo_Ferritin": "apo-ferritin",
        "80S": NO_CLASS,
    }
    assert widget.scores().classes["ribosome"].matched == 1
    widget._menus["80S"].value = "ribosome"
    assert widget.scores().classes["ribosome"].matched == 2
    assert widget.scores().mean_f == 1


def test_layers_with_other_corners_are_compared_in_the_world(opened):
    viewer, widget = opened
    add(viewer, "truth", TRUE, "a")
    shifted = np.array(TRUE) + np.array([10, 0, 0])  # its first voxel is 100 Å further down
    layer = Points(shifted, scale=(10,) * 3, units="angstrom", name="a", size=6)
    viewer.add_layer(layer)
    widget.picks.value = layer
    assert widget.scores().classes["a"].matched == 3


def test_table_is_copied_and_saved(compared, tmp_path, monkeypatch):
    _, widget = compared
    with pytest.raises(vox.Vox3dError, match="Evaluate first"):
        widget.save_table(tmp_path / "x.csv")
    widget.evaluate.changed.emit(True)
    widget.copy.changed.emit(True)
    assert QApplication.clipboard().text().splitlines()[0].split("\t")[:2] == ["class", "precision"]
    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", lambda *a, **k: (str(tmp_path / "scores"), "")
    )
    widget.save.changed.emit(True)
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["ribosome", "apo-ferritin", "all"]
    assert rows[0]["false"] == "2"


def test_what_is_missing_is_said(opened, errors):
    viewer, widget = opened
    assert not widget.evaluate.enabled
    with pytest.raises(vox.Vox3dError, match="two layers"):
        widget.scores()
    only = add(viewer, "picks", TRUE, "a")
    widget.truth.value = only
    widget.picks.value = only
    with pytest.raises(vox.Vox3dError, match="by themselves"):
        widget.scores()
    clicked = Points(np.array(TRUE, float), scale=(10,) * 3, units="angstrom", name="clicked")
    viewer.add_layer(clicked)
    widget.truth.value, widget.picks.value = clicked, only
    widget.evaluate.changed.emit(True)  # points that were clicked have no radius
    assert "one distance" in str(errors[-1].message)
    widget.rule.value = CZII
    with pytest.raises(vox.Vox3dError, match="CZII has no clicked"):
        widget.scores()
