import shlex
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from napari.components import ViewerModel
from napari.layers import Layer
from napari.settings import get_plugin_settings
from qtpy.QtWidgets import QApplication
from typer.testing import CliRunner

import napari_vox3d as vox
from napari_vox3d import Picks, Run, Volume
from napari_vox3d.cli import app
from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui import reproduce
from napari_vox3d.gui.elf_training_widget import TrainELF
from napari_vox3d.gui.elf_widget import PredictELF
from napari_vox3d.gui.layers import volume_from_layer
from napari_vox3d.gui.pick_layers import picks_from_layer
from napari_vox3d.gui.picking_widget import PickParticles
from napari_vox3d.gui.readers import read_layers
from napari_vox3d.gui.reproduce import CopyButtons, reading_arguments
from napari_vox3d.gui.tomograms import calibrate
from napari_vox3d.gui.training_widget import TrainPicker
from napari_vox3d.gui.writers import write_image, write_points

SHAPE = (20, 24, 28)


@pytest.fixture(autouse=True)
def _own_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("napari_vox3d.curation.clicks.data_folder", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    get_plugin_settings("napari-vox3d").reset()


@pytest.fixture
def problems(monkeypatch):
    found = []
    monkeypatch.setattr(reproduce, "show_problem", lambda error: found.append(str(error)))
    return found


@pytest.fixture
def tomogram_file(tmp_path):
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    vox.write_volume(tmp_path / "tomo.mrc", Volume(values, 10.0))
    return tmp_path / "tomo.mrc"


def open_file(viewer, path):
    return [viewer.add_layer(Layer.create(*data)) for data in read_layers(str(path))]


def window(widget_class, qtbot, *paths):
    viewer = ViewerModel()
    for path in paths:
        open_file(viewer, path)
    widget = widget_class(viewer)
    qtbot.addWidget(widget)
    return viewer, widget


def copied(buttons, what="script"):
    QApplication.clipboard().clear()
    getattr(buttons, what).click()
    return QApplication.clipboard().text()


def run_script(script):
    exec(compile(script, "script.py", "exec"), {"__name__": "__main__"})


def press_and_wait(qtbot, widget):
    widget.run.press()
    qtbot.waitUntil(lambda: not widget.run.running, timeout=120_000)


def test_the_buttons_copy_what_is_set_now(qtbot, problems):
    sources = iter(["first", __file__])
    buttons = CopyButtons(lambda: Run("predict_elf", next(sources), model="promolecule"))
    qtbot.addWidget(buttons)
    assert "PATH/TO/first" in copied(buttons)
    assert "“first”" in buttons.said.text()
    assert copied(buttons, "command").startswith(f"vox3d elf {__file__} ")
    assert buttons.said.text() == "Copied the command."
    assert problems == []


def test_what_is_missing_is_said(qtbot, problems):
    def refuse():
        raise Vox3dError("Open a tomogram first.")

    buttons = CopyButtons(refuse)
    qtbot.addWidget(buttons)
    assert copied(buttons) == ""
    assert problems == ["Open a tomogram first."]
    assert buttons.said.isHidden()


def test_picks_of_the_window_and_of_what_it_copies_are_the_same(qtbot, tomogram_file, problems):
    viewer, widget = window(PickParticles, qtbot, tomogram_file)
    widget.region.reset_choices()
    for row, least in zip(widget._rows, (0.03, 0.01), strict=False):
        row.threshold.value = least
    for row in widget._rows[2:]:
        row.shown.value = False
    widget.min_distance.value = 30
    widget.contrast.value = "bright"
    widget.flips.value = True
    press_and_wait(qtbot, widget)
    script, command = copied(widget.copy), copied(widget.copy, "command")
    assert problems == []
    assert widget.copy.said.text() == "Copied the command."
    (layer,) = (layer for layer in viewer.layers if layer.name.endswith("picks"))
    run = Run.from_metadata(layer.metadata)
    now = widget.current_run()
    assert run.arguments["threshold"] == now.arguments["threshold"]
    assert run.arguments["classes"] == now.arguments["classes"]
    assert (run.source, run.model, run.sha256) == (now.source, now.model, now.sha256)
    shown = layer.metadata["vox3d"]
    assert len(shown) > 0
    vox.write_picks("window.star", shown)
    expected = vox.read_picks("window.star")
    run_script(script.replace("'tomo.star'", "'script.star'"))
    words = shlex.split(command.replace("tomo.star", "command.star"))[1:]
    assert CliRunner().invoke(app, words).exit_code == 0
    for name in ("script.star", "command.star"):
        found = vox.read_picks(name)
        np.testing.assert_allclose(found.positions, expected.positions, atol=1e-4)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    widget._rows[0].threshold.value = 0.5
    assert "0.5" in copied(widget.copy)


def test_the_region_drawn_is_copied(qtbot, tomogram_file):
    viewer, widget = window(PickParticles, qtbot, tomogram_file)
    corners = np.array([[0, 20, 40], [0, 20, 200], [0, 100, 200], [0, 100, 40]])
    shapes = viewer.add_shapes([corners], units="angstrom")
    widget.reset_choices()
    widget.region.value = shapes
    widget.slices.value = 3, 9
    assert widget.current_run().arguments["region"] == [[3, 10], [2, 11], [4, 21]]
    assert "--region 3:10,2:11,4:21" in copied(widget.copy, "command")


def test_no_class_is_nothing_to_copy(qtbot, tomogram_file, problems):
    _, widget = window(PickParticles, qtbot, tomogram_file)
    for row in widget._rows:
        row.shown.value = False
    assert copied(widget.copy) == ""
    assert problems == ["Tick at least one class to pick."]


def test_nothing_open_is_said(qtbot, problems):
    _, widget = window(PickParticles, qtbot)
    copied(widget.copy)
    assert "Open a tomogram first" in problems[0]


def test_a_voxel_size_that_the_file_lacks_is_copied(qtbot, tmp_path, tomogram_file):
    raw = Volume(np.asarray(vox.read_volume(tomogram_file).values), 1.0)
    vox.write_volume("unknown.mrc", raw)
    viewer, widget = window(PickParticles, qtbot, tmp_path / "unknown.mrc")
    (layer,) = viewer.layers
    calibrate(viewer, layer, 9.5)
    run = widget.current_run()
    assert run.arguments["voxel_size"] == 9.5
    assert run.missing == []
    layer.scale = (9.5, 9.5, 8)
    with pytest.raises(Vox3dError, match="not cubes"):
        widget.current_run()


def test_a_layer_without_a_file_asks_for_a_path(qtbot, tomogram_file):
    viewer = ViewerModel()
    values = np.random.default_rng(0).normal(size=SHAPE)
    layer = viewer.add_image(values, name="filtered", scale=(10,) * 3, units="angstrom")
    widget = PickParticles(viewer)
    qtbot.addWidget(widget)
    assert "# Put a path here: 'filtered' is not a file." in copied(widget.copy)
    assert "Put a path into it for “filtered”" in widget.copy.said.text()
    assert reading_arguments(layer, volume_from_layer(layer)) == {"voxel_size": 10.0}


def test_changed_values_are_not_those_of_the_file(qtbot, tomogram_file):
    viewer, widget = window(PickParticles, qtbot, tomogram_file)
    (layer,) = viewer.layers
    assert widget.current_run().source == str(tomogram_file)
    layer.data = np.asarray(layer.data) + 1
    assert widget.current_run().source == layer.name


def test_picks_edited_by_hand_say_so(tomogram_file):
    viewer = ViewerModel()
    open_file(viewer, tomogram_file)
    picks = Picks(np.eye(3) * 50, "ribosome", shape=SHAPE, voxel_size=10.0, tomogram="tomo",
                  metadata=Run("pick_particles", str(tomogram_file)).as_metadata())  # fmt: skip
    vox.write_picks("found.star", picks)
    (layer,) = open_file(viewer, "found.star")
    assert not Run.from_metadata(picks_from_layer(layer).metadata).edited
    write_points("same.star", *layer.as_layer_data_tuple()[:2])
    assert not Run.from_metadata(vox.read_picks("same.star").metadata).edited
    layer.add((1, 2, 3))
    write_points("edited.star", *layer.as_layer_data_tuple()[:2])
    assert Run.from_metadata(vox.read_picks("edited.star").metadata).edited


def test_a_window_shows_that_nothing_was_found(make_napari_viewer, qtbot, tomogram_file):
    viewer = make_napari_viewer()
    open_file(viewer, tomogram_file)
    _, widget = viewer.window.add_plugin_dock_widget("napari-vox3d", "Pick particles")
    for row in widget._rows:
        row.threshold.value = 1
    press_and_wait(qtbot, widget)
    assert len(viewer.layers["tomo picks"].data) == 0
    widget._rows[0].threshold.value = 0.001
    qtbot.waitUntil(lambda: len(viewer.layers["tomo picks"].data) > 0)


@pytest.mark.parametrize("layer", ["CHGCAR", "atoms", "file"])
def test_elfs_of_the_window_and_of_what_it_copies_are_the_same(qtbot, tmp_path, layer, problems):
    crystal = bulk("Mg")
    values = np.random.default_rng(0).random((10, 6, 6))
    density = Volume.on_lattice(
        values, crystal.cell.array, atoms=crystal, quantity="electron density"
    )
    vox.write_volume("CHGCAR", density)
    viewer, widget = window(PredictELF, qtbot, tmp_path / "CHGCAR")
    widget.model.menu.value = "promolecule"
    choices = [choice for choice in widget.source.choices if layer in str(choice)]
    widget.source.value = choices[0]
    if layer == "file":
        widget.file.value = tmp_path / "CHGCAR"
        widget.spacing.value = 0.4
    press_and_wait(qtbot, widget)
    script, command = copied(widget.copy), copied(widget.copy, "command")
    assert problems == []
    made = [each for each in viewer.layers if "run" in each.metadata]
    assert Run.from_metadata(made[0].metadata).arguments == widget.current_run().arguments
    elf = made[0].metadata["vox3d"]
    run_script(script.replace("'CHGCAR.ELFCAR'", "'script.cube'"))
    words = shlex.split(command.replace("CHGCAR.ELFCAR", "command.cube"))[1:]
    assert CliRunner().invoke(app, words).exit_code == 0
    write_image("window.cube", *made[0].as_layer_data_tuple()[:2])
    expected = vox.read_volume("window.cube")
    assert expected.shape == elf.shape
    for name in ("script.cube", "command.cube"):
        np.testing.assert_array_equal(vox.read_volume(name).values, expected.values)


@pytest.fixture
def training_files(tmp_path, tomogram_file):
    picks = Picks(np.array([[50, 60, 70], [120, 100, 90], [150, 20, 200.0]]), ["a", "b", "b"],
                  shape=SHAPE, voxel_size=10.0, tomogram="tomo")  # fmt: skip
    vox.write_picks("true.star", picks)
    return tomogram_file, tmp_path / "true.star"


def open_for_training(qtbot, tomogram, picks):
    viewer = ViewerModel()
    open_file(viewer, tomogram)
    (points,) = open_file(viewer, picks)
    points._source = points.source.model_copy(update={"path": str(picks)})  # as viewer.open does
    widget = TrainPicker(viewer)
    qtbot.addWidget(widget)
    for row in widget._classes:
        row.radius.value = 60
    return viewer, widget, points


def test_a_training_of_the_window_is_copied(qtbot, training_files, problems):
    tomogram, picks = training_files
    _, widget, _ = open_for_training(qtbot, tomogram, picks)
    widget.start.menu.value = "network unet"
    widget._classes[1].learn.value = False
    assert widget.training.current_run().arguments["labels"] == "some"
    widget.labels.value, widget.contrast.value = "all", "dark"
    widget.training.minutes.value = 0.5
    run = widget.training.current_run()
    assert run.arguments == {
        "examples": [[str(tomogram), [str(picks)]]],
        "classes": {"a": 60.0},
        "contrast": "dark",
        "network": "unet",
        "size": "small",
        "minutes": 0.5,
        "name": "my-picker",
    }
    assert run.missing == []
    script = copied(widget.training.copy).replace("minutes=0.5", "steps=1")
    run_script(script)
    card = vox.load_model("my-picker").card
    assert [kind.name for kind in card.classes] == ["a"]
    command = copied(widget.training.copy, "command")  # its name is taken now
    assert problems == ["There is a model 'my-picker' already; choose another name."]
    assert command == ""


def test_points_edited_or_without_a_file_ask_for_one(qtbot, training_files):
    _, widget, points = open_for_training(qtbot, *training_files)
    points.add((1, 2, 3))
    widget._list_classes()
    for row in widget._classes:
        row.radius.value = 60
    assert widget.training.current_run().missing == ["true"]
    assert "“true”" in (copied(widget.training.copy), widget.training.copy.said.text())[1]


def test_nothing_to_learn_from_is_said(qtbot, problems):
    _, widget = window(TrainPicker, qtbot)
    copied(widget.training.copy)
    assert "Open a tomogram first" in problems[0]


def test_an_elf_training_of_the_window_is_copied(qtbot, tmp_path, problems):
    crystal = bulk("NaCl", "rocksalt", 5.64)
    elf = vox.predict_elf(crystal, "promolecule", spacing=0.5)
    vox.write_volume("a.ELFCAR", Volume.on_lattice(elf.values, crystal.cell.array, quantity="elf",
                                                   atoms=crystal))  # fmt: skip
    vox.write_volume("predicted.ELFCAR", elf)
    Path("b.ELFCAR").write_bytes(Path("a.ELFCAR").read_bytes())
    _, widget = window(TrainELF, qtbot, tmp_path / "a.ELFCAR", tmp_path / "predicted.ELFCAR")
    widget.add_paths([tmp_path / "b.ELFCAR"])
    run = widget.training.current_run()
    assert run.arguments["elfs"] == [str(tmp_path / "a.ELFCAR"), str(tmp_path / "b.ELFCAR")]
    minutes = f"minutes={widget.training.minutes.value}"
    run_script(copied(widget.training.copy).replace(minutes, "steps=1"))
    assert vox.load_model("my-elf").card.task == "elf"
    assert problems == []
