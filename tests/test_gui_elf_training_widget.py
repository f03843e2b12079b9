import time
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk
from napari.components import ViewerModel
from napari.layers import Layer
from napari.settings import get_plugin_settings
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

import napari_vox3d as vox
from napari_vox3d import Run
from napari_vox3d.gui.elf_training_widget import SOURCE, TrainELF
from napari_vox3d.gui.elf_widget import PredictELF
from napari_vox3d.gui.layers import volume_layers
from napari_vox3d.models import Model, ModelCard, list_models
from napari_vox3d.volume import Volume


@pytest.fixture(autouse=True)
def _own_models(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "models"))
    get_plugin_settings("napari-vox3d").reset()


@pytest.fixture
def training(monkeypatch):
    """Stands in for the training; remembers its arguments."""
    state = SimpleNamespace(runs=[], endless=False)

    def train(elfs, *, network, size, minutes, device, progress, on_step, stop, checkpoint, name):
        state.runs.append(SimpleNamespace(elfs=elfs, network=network, size=size, minutes=minutes))
        try:
            step = 0
            while not stop() and (step < 5 or state.endless):
                step += 1
                on_step(step, 0.2)
                progress(step, 1000)
                time.sleep(0.01)
        finally:
            checkpoint.write_bytes(b"half")
        return Model(
            ModelCard(name=name, title=name, task="elf", input={}, training="5 steps.",
                      licence="BSD-3-Clause", version="1",
                      metrics=[{"data": "held out", "rows": [{"predictor": name, "all": 0.1}]}])
        )  # fmt: skip

    monkeypatch.setitem(vars(vox), "train_elf", train)
    return state


@pytest.fixture
def opened(qtbot):
    viewer = ViewerModel()
    widget = TrainELF(viewer)
    qtbot.addWidget(widget)
    for name in ("inserted", "removed", "reordered", "renamed"):
        getattr(viewer.layers.events, name).connect(widget.reset_choices)
    return viewer, widget


def silicon(quantity="elf", **fields):
    atoms = bulk("Si")
    values = np.random.default_rng(0).random((6, 6, 6))
    return Volume.on_lattice(values, atoms.cell.array, quantity=quantity,
                             **{"name": "silicon", "atoms": atoms, **fields})  # fmt: skip


def add(viewer, volume):
    for layer in volume_layers([volume]):
        viewer.add_layer(Layer.create(*layer))


def press_and_wait(qtbot, widget):
    widget.run.press()
    qtbot.waitUntil(lambda: not widget.run.running, timeout=60000)


def texts(widget):
    return [widget.elfs.item(n).text() for n in range(widget.elfs.count())]


def names():
    return [card.name for card in list_models("elf")]


def test_an_empty_window_says_what_to_do(opened, qtbot, errors, training):
    _, widget = opened
    assert "Open an ELFCAR" in widget.said.text()
    press_and_wait(qtbot, widget)
    assert [error.message for error in errors] == ["Open an ELFCAR, or add files, to learn from."]
    assert training.runs == []


def test_only_true_elfs_are_offered_and_they_go_with_their_layer(opened):
    viewer, widget = opened
    add(viewer, silicon())
    add(viewer, silicon("electron density", name="density"))
    add(viewer, silicon(name="predicted", metadata=Run("predict_elf", "POSCAR").as_metadata()))
    add(viewer, silicon(name="bare", atoms=None))
    assert texts(widget) == ["silicon"]
    viewer.layers["silicon"].name = "Si"
    assert texts(widget) == ["Si"]
    viewer.layers.remove("Si")
    assert texts(widget) == []


def test_training_on_a_layer_and_on_files(opened, qtbot, errors, training, tmp_path, monkeypatch):
    viewer, widget = opened
    predictor = PredictELF(viewer)
    qtbot.addWidget(predictor)
    add(viewer, silicon())
    for name in ("deep/ELFCAR", "elf.cube", "one.cube"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        vox.write_volume(tmp_path / name, silicon())
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    widget.add_folder.click()
    widget.add_folder.click()  # what is there already is not added again
    monkeypatch.setattr(
        QFileDialog, "getOpenFileNames", lambda *_: ([str(tmp_path / "one.cube")], "")
    )
    widget.add_files.click()
    assert texts(widget) == ["silicon", *(str(tmp_path / name) for name in
                                          ("deep/ELFCAR", "elf.cube", "one.cube"))]  # fmt: skip
    widget.elfs.item(2).setCheckState(Qt.CheckState.Unchecked)
    assert widget.said.text() == "3 ELFs to learn from."
    widget.start.menu.value = "network ckconv"
    widget.training.minutes.value = 2
    press_and_wait(qtbot, widget)
    assert errors == []
    (run,) = training.runs
    assert [elf.quantity for elf in run.elfs] == ["elf"] * 3
    assert all(elf.atoms is not None for elf in run.elfs)
    assert (run.network, run.size, run.minutes) == ("ckconv", "small", 2)
    assert "my-elf" in names()
    assert predictor.model.menu.value == "my-elf"
    assert "ready in Predict ELF" in widget.training.result.text()
    assert "held out: my-elf 0.1." in widget.training.result.text()


def test_a_folder_without_elfs_is_an_error(opened, errors, tmp_path, monkeypatch):
    _, widget = opened
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    widget.add_folder.click()
    assert "no file in it that is named like an ELFCAR" in errors[0].message
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "")
    widget.add_folder.click()
    assert len(errors) == 1


def test_a_file_that_is_no_elf_is_named(opened, qtbot, errors, training, tmp_path):
    _, widget = opened
    vox.write_volume(tmp_path / "CHGCAR", silicon("electron density"))
    widget.add_paths([tmp_path / "CHGCAR"])
    press_and_wait(qtbot, widget)
    assert "CHGCAR: holds 'electron density', not an ELF." in errors[0].message
    assert training.runs == []
    assert "my-elf" not in names()


def test_cancel_and_go_on(opened, qtbot, errors, training):
    viewer, widget = opened
    add(viewer, silicon())
    training.endless = True
    widget.run.press()
    qtbot.waitUntil(lambda: "step" in widget.training.curve.caption)
    assert "mean absolute error 0.2" in widget.training.curve.caption
    press_and_wait(qtbot, widget)
    assert "kept" in widget.training.result.text()
    widget.run.press()
    qtbot.waitUntil(lambda: "step" in widget.training.curve.caption)
    widget.training.stop.click()
    qtbot.waitUntil(lambda: not widget.run.running)
    assert errors == []
    assert "my-elf" in names()


def test_the_window_may_close_while_training(make_napari_viewer, qtbot, errors, training):
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-vox3d", "Train an ELF model")
    add(viewer, silicon())
    assert widget.elfs.item(0).data(SOURCE) is viewer.layers["silicon"]
    training.endless = True
    widget.run.press()
    qtbot.waitUntil(lambda: "step" in widget.training.curve.caption)
    viewer.close()
    with qtbot.capture_exceptions() as raised:
        qtbot.waitUntil(lambda: not widget.run.running)
    assert raised == []
    assert errors == []


def test_a_real_training_then_a_prediction(opened, qtbot, errors):
    viewer, widget = opened
    add(viewer, silicon())
    predictor = PredictELF(viewer)
    qtbot.addWidget(predictor)
    widget.training.minutes.value = 0.1
    press_and_wait(qtbot, widget)
    assert errors == []
    assert predictor.model.menu.value == "my-elf"
    predictor.run.press()
    qtbot.waitUntil(lambda: not predictor.run.running, timeout=60000)
    assert errors == []
    assert "by “my-elf”" in predictor.result.text()
