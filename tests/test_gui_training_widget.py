import time
from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer
from napari.settings import get_plugin_settings

import napari_vox3d as vox
from napari_vox3d.errors import InferenceError
from napari_vox3d.gui.controls import OPEN_FIRST, choose
from napari_vox3d.gui.layers import volume_layer
from napari_vox3d.gui.pick_layers import picks_layer
from napari_vox3d.gui.picking_widget import PickParticles
from napari_vox3d.gui.samples import simulated_tomogram
from napari_vox3d.gui.training_widget import TrainPicker
from napari_vox3d.models import Model, ModelCard, list_models, load_model
from napari_vox3d.picks import Picks
from napari_vox3d.training.drafts import Draft
from napari_vox3d.volume import Volume

SHAPE = (20, 30, 40)


@pytest.fixture(autouse=True)
def _own_models(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("napari_vox3d.curation.clicks.data_folder", lambda: tmp_path)
    get_plugin_settings("napari-vox3d").reset()


@pytest.fixture
def training(monkeypatch):
    """Stands in for the training; remembers its arguments and does what it is told."""
    state = SimpleNamespace(runs=[], error=None, endless=False)

    def train(examples, *, classes, labels, contrast, minutes, device, progress, on_step, stop,
              glimpse, checkpoint, name, base=None, network=None, size=None):  # fmt: skip
        start = {"base": base, "network": network, "size": size}
        state.runs.append(SimpleNamespace(examples=examples, classes=classes, start=start,
                                          minutes=minutes, device=device, name=name,
                                          labels=labels, contrast=contrast, glimpse=glimpse,
                                          resumed=checkpoint.exists()))  # fmt: skip
        try:
            step = 0
            while not stop():
                step += 1
                on_step(step, 1 / step)
                progress(step, 1000 if state.endless else 5)
                if state.error is not None:
                    raise state.error
                if step == 5 and not state.endless:
                    break
                time.sleep(0.01)
        finally:
            checkpoint.write_bytes(b"half")
        kinds = [kind.model_copy(update={"threshold": 0.25}) for kind in classes]
        return Model(
            ModelCard(name=name, title=name, task="picking", input={"voxel_size": 10.0},
                      classes=kinds, training=f"{step} crops.", licence="BSD-3-Clause",
                      version="1")
        )  # fmt: skip

    monkeypatch.setitem(vars(vox), "train_picker", train)
    return state


@pytest.fixture
def opened(qtbot):
    """The widget on a viewer without a window, wired to the layers as napari wires it."""
    viewer = ViewerModel()
    widget = TrainPicker(viewer)
    qtbot.addWidget(widget)
    wire(viewer, widget)
    return viewer, widget


@pytest.fixture
def ready(opened):
    viewer, widget = opened
    tomogram = add_tomogram(viewer)
    points = add_picks(viewer, tomogram)
    return viewer, widget, tomogram, points


@pytest.fixture
def docked(make_napari_viewer):
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-vox3d", "Train a picker")
    return viewer, widget


def wire(viewer, widget):
    for name in ("inserted", "removed", "reordered", "renamed"):
        getattr(viewer.layers.events, name).connect(widget.reset_choices)


def add_tomogram(viewer, **fields):
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    volume = Volume(values, **{"step": 10.0, "origin": (50, 0, -30), "name": "tomo", **fields})
    return viewer.add_layer(Layer.create(*volume_layer(volume)))


def add_picks(viewer, tomogram, labels=("ribosome", "new", "new"), radii=80.0):
    volume = tomogram.metadata["vox3d"]
    picks = Picks.from_indices([(2, 3, 4 * n) for n in range(1, len(labels) + 1)], labels,
                               voxel_size=volume.voxel_size, shape=volume.shape, radii=radii,
                               tomogram=volume.name)  # fmt: skip
    return viewer.add_layer(Layer.create(*picks_layer(picks, volume)))


def add_points(viewer, tomogram, places=((1, 2, 3),), name="capsid"):
    return viewer.add_points(np.array(places, float).reshape(-1, 3), name=name, ndim=3,
                             scale=tomogram.scale, translate=tomogram.translate,
                             units=tomogram.units)  # fmt: skip


def press_and_wait(qtbot, widget):
    widget.run.press()
    qtbot.waitUntil(lambda: not widget.run.running, timeout=60000)


def press_and_see(qtbot, widget):
    """Press Train and wait until the loss of an endless training is seen."""
    widget.run.press()
    qtbot.waitUntil(lambda: "step" in widget.training.curve.caption)


def classes(widget):
    return {row.name: (int(row.count.text()), row.radius.value) for row in widget._classes}


def radius_of(widget, name):
    return next(row for row in widget._classes if row.name == name).radius


def names():
    return [card.name for card in list_models("picking")]


def test_an_empty_window_says_what_to_do(opened, qtbot, errors, training):
    _, widget = opened
    assert widget.hint.text() == OPEN_FIRST
    press_and_wait(qtbot, widget)
    assert [error.message for error in errors] == [OPEN_FIRST]
    assert training.runs == []


def test_a_tomogram_alone_asks_for_points(opened, qtbot, errors, training):
    viewer, widget = opened
    add_tomogram(viewer)
    assert "Click particles of “tomo”" in widget.hint.text()
    press_and_wait(qtbot, widget)
    assert errors[0].message == widget.hint.text()
    assert training.runs == []


def test_an_empty_points_layer_asks_for_clicks(opened, qtbot, errors, training):
    viewer, widget = opened
    add_points(viewer, add_tomogram(viewer), ())
    press_and_wait(qtbot, widget)
    assert [error.message for error in errors] == [
        "'capsid' is empty: click on some particles first."
    ]


def test_atoms_and_score_maps_are_not_offered(opened):
    from ase.build import bulk

    from napari_vox3d.gui.layers import score_layer, structure_layers

    viewer, widget = opened
    tomogram = add_tomogram(viewer)
    for layer in structure_layers(bulk("Si")):
        viewer.add_layer(Layer.create(*layer))
    score = tomogram.metadata["vox3d"].with_values(np.zeros(SHAPE), quantity="score")
    viewer.add_layer(Layer.create(*score_layer(score)))
    (row,) = widget.examples.rows
    assert row.tomogram.choices == (tomogram,)
    assert row.points.choices == (None,)


def test_training_from_the_default_model(ready, qtbot, errors, training):
    _, widget, *_ = ready
    widget.training.minutes.value = 3
    press_and_wait(qtbot, widget)
    assert errors == []
    (run,) = training.runs
    ((volume, picks),) = run.examples
    assert volume.name == "tomo"
    assert np.allclose(picks.positions, [(20, 30, 40), (20, 30, 80), (20, 30, 120)])
    assert (run.start["base"], run.minutes, run.device, run.name) == (
        load_model(task="picking").card.name, 3, "auto", "my-picker",
    )  # fmt: skip
    assert {kind.name: kind.radius for kind in run.classes} == {"new": 80, "ribosome": 150}
    assert "my-picker" in names()
    assert not (Draft("x", vox.models.user_folder() / "my-picker")).checkpoint.exists()
    said = widget.training.result.text()
    assert "Saved as “my-picker”" in said
    assert "new 0.25, ribosome 0.25" in said
    assert widget.training.name.value == "my-picker-2"


def test_a_network_is_chosen_by_name_and_size(ready, qtbot, training):
    _, widget, *_ = ready
    assert widget.start.size.native.isHidden()
    widget.start.menu.value = "network hrnet"
    assert not widget.start.size.native.isHidden()
    assert "resolution" in widget.start.about.text()
    widget.start.size.value = "large"
    assert classes(widget)["ribosome"] == (1, 80)  # no model knows better
    press_and_wait(qtbot, widget)
    assert training.runs[0].start == {"base": None, "network": "hrnet", "size": "large"}
    again = TrainPicker(ready[0])
    qtbot.addWidget(again)
    assert (again.start.menu.value, again.start.size.value) == ("network hrnet", "large")


def test_classes_follow_the_points(ready, qtbot):
    _, widget, _, points = ready
    assert classes(widget) == {"new": (2, 80), "ribosome": (1, 150)}
    points.add((5, 5, 5))
    qtbot.waitUntil(lambda: sum(count for count, _ in classes(widget).values()) == 4)
    radius_of(widget, "new").value = 95
    points.features = {"class": ["ribosome", "ribosome", "other", "new"]}
    qtbot.waitUntil(lambda: "other" in classes(widget))
    assert classes(widget)["new"] == (1, 95)  # what the user set stays


def test_a_class_can_be_left_out(ready, qtbot, errors, training):
    _, widget, *_ = ready
    widget._classes[0].learn.value = False
    press_and_wait(qtbot, widget)
    assert [kind.name for kind in training.runs[0].classes] == ["ribosome"]
    for row in widget._classes:
        row.learn.value = False
    press_and_wait(qtbot, widget)
    assert [error.message for error in errors] == ["Tick at least one class to learn."]


def test_clicked_points_are_of_the_class_of_their_layer_and_need_a_radius(
    opened, qtbot, errors, training
):
    viewer, widget = opened
    add_points(viewer, add_tomogram(viewer))
    assert classes(widget) == {"capsid": (1, 0)}
    press_and_wait(qtbot, widget)
    assert [error.message for error in errors] == ["How large is 'capsid'? Give its radius in Å."]
    radius_of(widget, "capsid").value = 120
    press_and_wait(qtbot, widget)
    assert [(kind.name, kind.radius) for kind in training.runs[0].classes] == [("capsid", 120)]


def test_an_unknown_voxel_size_is_asked_for_and_goes_to_points_too(opened, qtbot, errors, training):
    viewer, widget = opened
    tomogram = viewer.add_image(np.zeros(SHAPE, np.float32), name="bare")
    points = add_points(viewer, tomogram)
    radius_of(widget, "capsid").value = 120
    assert not widget.voxel_size.native.isHidden()
    press_and_wait(qtbot, widget)
    assert "Set the voxel size of 'bare'" in errors[0].message
    assert training.runs == []
    picker = PickParticles(viewer)
    qtbot.addWidget(picker)
    widget.voxel_size.value = 12
    assert widget.voxel_size.native.isHidden()
    assert picker.voxel_size.native.isHidden()
    assert np.allclose([tomogram.scale, points.scale], 12)
    press_and_wait(qtbot, widget)
    ((volume, picks),) = training.runs[0].examples
    assert np.allclose(volume.voxel_size, 12)
    assert np.allclose(picks.positions, [(12, 24, 36)])


def test_points_elsewhere_are_an_error(opened, qtbot, errors, training):
    viewer, widget = opened
    add_points(viewer, add_tomogram(viewer), [(500, 500, 500)])
    press_and_wait(qtbot, widget)
    assert "None of the picks lies in tomo" in errors[0].message


def test_two_tomograms(ready, qtbot, training):
    viewer, widget, first, _ = ready
    second = add_tomogram(viewer, name="second")
    add_picks(viewer, second, ["ribosome"])
    widget.add.click()
    one, two = widget.examples.rows
    assert (one.tomogram.value, two.tomogram.value) == (first, second)
    assert two.points.value.metadata["vox3d"].tomogram == "second"
    assert classes(widget)["ribosome"][0] == 2
    press_and_wait(qtbot, widget)
    assert [len(picks) for _, picks in training.runs[0].examples] == [3, 1]
    two.remove.click()
    assert classes(widget)["ribosome"][0] == 1
    press_and_wait(qtbot, widget)
    assert len(training.runs[1].examples) == 1


def test_two_points_layers_on_one_tomogram_are_one_example(ready, qtbot, training):
    viewer, widget, first, _ = ready
    points = add_points(viewer, first)
    widget.add.click()
    choose(widget.examples.rows[1].points, points)
    radius_of(widget, "capsid").value = 120
    press_and_wait(qtbot, widget)
    ((_, picks),) = training.runs[0].examples
    assert sorted(picks.classes) == ["capsid", "new", "ribosome"]


def test_cancel_keeps_a_checkpoint_to_go_on_from(ready, qtbot, errors, training):
    _, widget, *_ = ready
    training.endless = True
    press_and_see(qtbot, widget)
    assert widget.training.go_on.native.isHidden()
    press_and_wait(qtbot, widget)
    assert errors == []
    assert "my-picker" not in names()
    assert "kept" in widget.training.result.text()
    assert not widget.training.go_on.native.isHidden()
    training.endless = False
    press_and_wait(qtbot, widget)
    assert [run.resumed for run in training.runs] == [False, True]
    assert "my-picker" in names()
    assert widget.training.go_on.native.isHidden()


def test_an_unfinished_training_is_offered_later_and_can_be_begun_anew(ready, qtbot, training):
    viewer, widget, *_ = ready
    training.endless = True
    press_and_see(qtbot, widget)
    press_and_wait(qtbot, widget)
    again = TrainPicker(viewer)
    qtbot.addWidget(again)
    assert "“my-picker”" in again.training.go_on.text
    assert not again.training.go_on.native.isHidden()
    again.training.name.value = "other"
    assert again.training.go_on.native.isHidden()
    again.training.name.value = "my-picker"
    again.training.go_on.value = False
    training.endless = False
    press_and_wait(qtbot, again)
    assert [run.resumed for run in training.runs] == [False, False]


def test_stop_and_keep(ready, qtbot, training):
    _, widget, *_ = ready
    training.endless = True
    assert widget.training.stop.isHidden()
    press_and_see(qtbot, widget)
    widget.training.stop.click()
    assert not widget.training.stop.isEnabled()
    qtbot.waitUntil(lambda: not widget.run.running)
    assert "my-picker" in names()
    assert widget.training.stop.isHidden()
    assert "Saved as" in widget.training.result.text()


@pytest.mark.parametrize("error", [InferenceError("Not enough memory."), RuntimeError("shapes")])
def test_an_error_of_training_is_shown_once(ready, qtbot, errors, training, error):
    _, widget, *_ = ready
    training.error = error
    press_and_wait(qtbot, widget)
    (shown,) = errors
    assert str(error).rstrip(".") in shown.message
    assert widget.run.button.text() == "Train"
    assert widget.run.button.isEnabled()
    assert widget.training.stop.isHidden()


def test_a_name_that_is_taken_or_no_name_is_an_error(ready, qtbot, errors, training):
    _, widget, *_ = ready
    for name in (load_model(task="picking").card.name, "", "a/b"):
        widget.training.name.value = name
        press_and_wait(qtbot, widget)
    assert [("already" in e.message, "cannot be the name" in e.message) for e in errors] == [
        (True, False), (False, True), (False, True),
    ]  # fmt: skip
    assert training.runs == []


def test_the_new_model_is_chosen_in_an_open_window(ready, qtbot, training):
    viewer, widget, *_ = ready
    picker = PickParticles(viewer)
    qtbot.addWidget(picker)
    press_and_wait(qtbot, widget)
    assert picker.model.menu.value == "my-picker"
    assert [row.kind.name for row in picker._rows] == ["new", "ribosome"]
    assert picker._rows[0].threshold.value == 0.25
    later = PickParticles(viewer)
    qtbot.addWidget(later)
    assert later.model.menu.value == "my-picker"


def test_the_layers_may_go_while_training(ready, qtbot, errors, training):
    viewer, widget, *_ = ready
    training.endless = True
    press_and_see(qtbot, widget)
    viewer.layers.clear()
    widget.training.stop.click()
    qtbot.waitUntil(lambda: not widget.run.running)
    assert "my-picker" in names()
    assert errors == []


def test_training_in_a_window_that_closes(docked, qtbot, errors, training):
    viewer, widget = docked
    add_picks(viewer, add_tomogram(viewer))
    training.endless = True
    press_and_see(qtbot, widget)
    assert widget.training.curve.grab().width() > 0
    viewer.close()
    with qtbot.capture_exceptions() as raised:
        qtbot.waitUntil(lambda: not widget.run.running)
    assert raised == []
    assert errors == []


def test_the_curve_is_drawn_from_any_number_of_steps(opened):
    curve = opened[1].training.curve
    curve.resize(300, 110)
    pictures = set()
    for count in (0, 1, 2, 5000):
        curve.losses = [(step, 1 / step) for step in range(1, count + 1)]
        pictures.add(curve.grab().toImage().sizeInBytes())
    assert curve.caption.endswith("step 5000")
    assert len(pictures) == 1


def test_every_control_has_a_tooltip(ready):
    _, widget, *_ = ready
    (row,) = widget.examples.rows
    controls = [widget.start.menu, widget.start.size, widget.voxel_size, row.tomogram, row.points,
                widget.training.name, widget.training.minutes, widget.training.go_on]  # fmt: skip
    controls += [part for kind in widget._classes for part in (kind.learn, kind.radius)]
    assert all(control.tooltip for control in controls)
    plain = [widget.add, row.remove, widget.training.stop, widget.run.button]
    assert all(control.toolTip() for control in plain)


def test_a_real_training_on_the_sample_then_picking(opened, qtbot, errors):
    viewer, widget = opened
    for layer in simulated_tomogram():
        viewer.add_layer(Layer.create(*layer))
    widget.examples.rows[0].points.value = viewer.layers["true particles"]  # hidden: not guessed
    widget.start.menu.value = "network encodernet"
    widget.training.minutes.value = 0.1
    widget.run.press()
    qtbot.waitUntil(lambda: not widget.run.running, timeout=120000)
    assert errors == []
    assert "Saved as “my-picker”" in widget.training.result.text()
    picker = PickParticles(viewer)
    qtbot.addWidget(picker)
    assert picker.model.menu.value == "my-picker"
    picker.run.press()
    qtbot.waitUntil(lambda: not picker.run.running, timeout=120000)
    assert errors == []
    assert "simulated_tomogram picks" in viewer.layers


def clicked(viewer, widget, count=6, name="capsid"):
    """Make a layer with the button and click in it; wait until the clicks are kept."""
    widget.particle.value = name
    widget.click.click()
    points = viewer.layers[name]
    points.add([(2 + n, 3 * n, 4 * n) for n in range(count)])
    return points


def test_clicking_needs_no_more_than_a_button(opened, qtbot):
    viewer, widget = opened
    tomogram = add_tomogram(viewer)
    points = clicked(viewer, widget, 3)
    (row,) = widget.examples.rows
    assert (row.tomogram.value, row.points.value) == (tomogram, points)
    assert points.mode == "add"
    assert viewer.layers.selection.active is points
    for name in ("scale", "translate"):
        assert np.array_equal(getattr(points, name), getattr(tomogram, name))
    qtbot.waitUntil(lambda: "capsid" in classes(widget))
    assert "2 more of capsid" in widget.hint.text()
    points.add([(9, 9, 9), (9, 9, 12)])
    qtbot.waitUntil(widget.hint.isHidden)
    radius_of(widget, "capsid").value = 120
    assert np.allclose(points.size, 24)  # the circles are as large
    widget.click.click()
    assert len(widget.examples.rows) == 1
    clicked(viewer, widget, name="other")
    assert [row.points.value.name for row in widget.examples.rows] == ["capsid", "other"]
    assert {row.tomogram.value for row in widget.examples.rows} == {tomogram}


def test_clicking_without_a_tomogram_says_what_to_do(opened, errors):
    opened[1].click.click()
    assert [error.message for error in errors] == [OPEN_FIRST]


def test_labels_and_contrast_go_to_the_training(ready, qtbot, training):
    _, widget, *_ = ready
    press_and_wait(qtbot, widget)
    widget.labels.value, widget.contrast.value = "all", "bright"
    press_and_wait(qtbot, widget)
    assert [(run.labels, run.contrast) for run in training.runs] == [
        ("some", "auto"), ("all", "bright"),
    ]  # fmt: skip


def killed(viewer, widget, qtbot, tmp_path):
    """Click on a tomogram of a file, as before napari is killed."""
    vox.write_volume(tmp_path / "tomo.mrc", Volume(np.zeros(SHAPE, np.float32), 10.0))
    viewer.add_layer(Layer.create(*volume_layer(vox.read_volume(tmp_path / "tomo.mrc"))))
    clicked(viewer, widget)
    qtbot.waitUntil(lambda: "capsid" in classes(widget))
    radius_of(widget, "capsid").value = 120


def another_napari(qtbot):
    viewer = ViewerModel()
    widget = TrainPicker(viewer)
    qtbot.addWidget(widget)
    wire(viewer, widget)
    return viewer, widget


def test_clicks_outlive_the_program(opened, qtbot, errors, training, tmp_path):
    killed(*opened, qtbot, tmp_path)
    viewer, widget = another_napari(qtbot)
    assert "“my-picker”? 6 points in tomo" in widget.kept.about.text()
    assert widget.training.name.value == "my-picker-2"  # the first one is not written over
    widget.kept.accept.click()
    assert errors == []
    assert [layer.name for layer in viewer.layers] == ["tomo", "capsid"]
    assert classes(widget) == {"capsid": (6, 120)}
    assert widget.training.name.value == "my-picker"
    assert widget.kept.isHidden()
    assert training.runs == []  # none was begun
    assert np.allclose(viewer.layers["capsid"].data[1], (3, 3, 4))
    press_and_wait(qtbot, widget)
    assert training.runs[0].name == "my-picker"
    viewer, widget = another_napari(qtbot)  # clicks outlive the training as well
    assert "“my-picker-2”? 6 points" in widget.kept.about.text()


def test_a_training_that_was_killed_goes_on(opened, qtbot, training, tmp_path):
    killed(*opened, qtbot, tmp_path)
    training.endless = True
    press_and_see(qtbot, opened[1])
    press_and_wait(qtbot, opened[1])  # cancelled: the checkpoint is there, as after a kill
    training.endless = False
    _, widget = another_napari(qtbot)
    assert "training begun" in widget.kept.about.text()
    widget.kept.accept.click()
    qtbot.waitUntil(lambda: len(training.runs) == 2 and not widget.run.running, timeout=60000)
    assert training.runs[1].resumed
    assert "my-picker" in names()


def test_clicks_can_be_forgotten(opened, qtbot, training, tmp_path):
    killed(*opened, qtbot, tmp_path)
    _, widget = another_napari(qtbot)
    widget.kept.forget.click()
    assert widget.kept.isHidden()
    assert another_napari(qtbot)[1].kept.offered is None


def test_a_tomogram_that_is_gone_is_asked_for(opened, qtbot, errors, tmp_path):
    killed(*opened, qtbot, tmp_path)
    (tmp_path / "tomo.mrc").unlink()
    _, widget = another_napari(qtbot)
    widget.kept.accept.click()
    assert "Open it, and press Go on again." in errors[0].message
    assert not widget.kept.isHidden()


def test_clicks_that_cannot_be_kept_are_told_of_once(opened, qtbot, errors, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr("napari_vox3d.curation.clicks.data_folder", lambda: tmp_path / "file")
    viewer, widget = opened
    add_tomogram(viewer)
    points = clicked(viewer, widget)
    qtbot.waitUntil(lambda: len(errors) == 1)
    points.add((9, 9, 9))
    qtbot.waitUntil(lambda: classes(widget)["capsid"][0] == 7)
    assert len(errors) == 1


def test_a_window_that_is_opened_again_goes_on_with_its_clicks(opened, qtbot, tmp_path):
    viewer, _ = opened
    killed(*opened, qtbot, tmp_path)
    again = TrainPicker(viewer)
    qtbot.addWidget(again)
    assert again.kept.isHidden()
    assert again.training.name.value == "my-picker"
    assert classes(again) == {"capsid": (6, 120)}


def test_picks_of_a_file_or_a_model_are_no_clicks(ready, qtbot):
    _, widget, _, points = ready
    widget._list_classes()
    assert another_napari(qtbot)[1].kept.offered is None
    points.add((9, 9, 9))
    qtbot.waitUntil(lambda: another_napari(qtbot)[1].kept.offered is not None)


def test_picks_are_seen_while_the_model_learns(ready, qtbot, training, monkeypatch):
    viewer, widget, tomogram, points = ready
    training.endless = True
    regions = []

    def pick(volume, model, *, region, contrast, progress):
        regions.append(region)
        progress(0, 1)
        return Picks.from_indices([(2, 3, 4)] * len(regions), "new", voxel_size=10.0, radii=40.0)

    monkeypatch.setitem(vars(vox), "pick_particles", pick)
    viewer.dims.set_point(0, tomogram.data_to_world((15, 0, 0))[0])
    viewer.layers.selection.active = points
    press_and_see(qtbot, widget)
    (run,) = training.runs
    for count in (1, 2):
        run.glimpse(None)
        qtbot.waitUntil(lambda said=f"{count} pick": said in widget.seen.text())
        assert len(viewer.layers["picks meanwhile"].data) == count
    (low, high), (first, last), _ = regions[0]
    assert low <= 15 - 150 / 10 + 1  # the radius of a ribosome on either side
    assert high == SHAPE[0]
    assert (first, last) == (0, SHAPE[1])
    assert viewer.layers.selection.active is points
    assert viewer.layers["picks meanwhile"] not in widget.examples.rows[0].points.choices
    widget.training.stop.click()
    run.glimpse(None)  # is left at once
    assert len(regions) == 2
    qtbot.waitUntil(lambda: not widget.run.running)
    assert "picks meanwhile" not in viewer.layers
    assert widget.seen.text() == ""


def test_the_new_model_picks_at_the_press_of_a_button(docked, qtbot, errors, training, monkeypatch):
    viewer, widget = docked
    tomogram = add_tomogram(viewer)
    add_picks(viewer, tomogram)
    scored = []
    monkeypatch.setitem(vars(vox), "score_particles", lambda *a, **_: scored.append(a) or [])
    assert widget.pick.isHidden()
    press_and_wait(qtbot, widget)
    widget.pick.click()
    qtbot.waitUntil(lambda: len(scored) == 1)
    assert scored[0][1] == "my-picker"
    picking = viewer.window.dock_widgets["Pick particles (vox3d)"]
    qtbot.waitUntil(lambda: not picking.run.running)
