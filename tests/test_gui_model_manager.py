import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from napari.components import ViewerModel
from napari.settings import get_plugin_settings
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDesktopServices, QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox

import napari_vox3d as vox
from napari_vox3d.gui import model_manager
from napari_vox3d.gui.cards import page
from napari_vox3d.gui.controls import MODEL_NEWS, ModelChoice
from napari_vox3d.gui.model_manager import ModelManager, file_size
from napari_vox3d.gui.picking_widget import PickParticles
from napari_vox3d.gui.settings import recall
from napari_vox3d.gui.training_controls import StartChoice
from napari_vox3d.models import Model, load_model


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "own"))
    get_plugin_settings("napari-vox3d").reset()
    yield tmp_path / "own"
    get_plugin_settings("napari-vox3d").reset()


@pytest.fixture
def given(tmp_path):
    """Folder of a picker that is not listed."""
    shipped = load_model("unet-simulated")
    card = shipped.card.model_copy(update={"name": "mine", "title": "My <picker>"})
    return shipped.with_card(card).save(tmp_path / "given").weights.parent


@pytest.fixture
def window(qtbot):
    widget = ModelManager(ViewerModel())
    qtbot.addWidget(widget)
    return widget


def wait_for_adding(qtbot, window):
    qtbot.waitUntil(lambda: window._job is None, timeout=60_000)


def titles(window):
    return {name: row.text(0).split("\n")[0] for name, row in window._items.items()}


def test_shipped_models_are_listed_and_cannot_be_removed(window):
    assert titles(window)["unet-simulated"] == "U-Net, simulated data (default)"
    for name, row in window._items.items():
        window.choose(name)
        assert row.text(1) == "shipped"
        assert not window.remove.isEnabled()
        assert window.use.isEnabled()
        card = load_model(name).card
        text = window.card.toPlainText()
        for words in (card.title, card.name, card.description, card.training, card.licence):
            assert words in text
        for kind in card.classes:
            assert kind.name in text


def test_a_model_is_added_used_and_removed(qtbot, window, given, own, monkeypatch, errors):
    picking = PickParticles(ViewerModel())
    qtbot.addWidget(picking)
    starts = StartChoice("picking", True, "training")
    qtbot.addWidget(starts)
    window.add_model(given)
    assert not window.add.isEnabled()
    wait_for_adding(qtbot, window)
    assert not errors
    assert window.add.isEnabled()
    assert window.chosen.card.name == "mine"
    assert window._items["mine"].text(1) == "yours"
    assert "mine" in picking.model.menu.choices
    assert "base mine" in starts.menu.choices
    assert picking.model.card.default  # it is offered, not chosen
    window.use.click()
    assert picking.model.card.name == "mine"
    assert recall("picking")["model"] == "mine"
    answers = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(QMessageBox, "question", lambda *_: answers.pop(0))
    window.remove.click()
    assert (own / "mine").exists()
    window.remove.click()
    assert not (own / "mine").exists()
    assert "mine" not in window._items
    assert "removed" in window.result.text()
    assert picking.model.card.default
    assert "base mine" not in starts.menu.choices


def test_use_opens_the_window_for_the_task(window, monkeypatch):
    opened = []
    monkeypatch.setattr(model_manager, "open_window", lambda _, name: opened.append(name))
    window._viewer = SimpleNamespace(window=object())
    window.choose("promolecule")
    assert window.use.text() == "Use in Predict ELF"
    window.use.click()
    assert opened == ["Predict ELF"]
    assert recall("elf")["model"] == "promolecule"


def test_what_is_no_model_is_refused_with_a_sentence(qtbot, window, tmp_path, errors):
    window.add_model(tmp_path)
    wait_for_adding(qtbot, window)
    assert "holds no model" in errors[0].message
    assert window.add.isEnabled()
    assert window.result.text() == ""


def drop(window, *paths):
    """Drag files onto the list as a file manager does; says whether they were taken."""
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    how = Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton
    enter = QDragEnterEvent(QPoint(5, 5), *how, Qt.KeyboardModifier.NoModifier)
    fall = QDropEvent(QPointF(5, 5), *how, Qt.KeyboardModifier.NoModifier)
    for event in (enter, fall):
        QApplication.sendEvent(window.models.viewport(), event)
    return fall.isAccepted()


def test_models_are_dropped_on_the_list(qtbot, window, given, tmp_path, errors):
    assert drop(window, given)
    wait_for_adding(qtbot, window)
    assert window.chosen.card.name == "mine"
    vox.models.remove_model("mine")
    drop(window, given / "card.json", given / "weights.safetensors")
    wait_for_adding(qtbot, window)
    assert window.chosen.card.name == "mine"
    assert not errors
    drop(window, given, tmp_path)
    assert "one model at a time" in errors[0].message


def test_files_and_folders_are_asked_for(qtbot, window, given, monkeypatch):
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "")
    window._ask_for_folder()
    assert window._job is None
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(given / "card.json"), ""))
    window._ask_for_file()
    wait_for_adding(qtbot, window)
    assert window.chosen.card.name == "mine"


def test_the_folder_is_shown_or_named(window, monkeypatch):
    opened = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(url) or True)
    window.choose("promolecule")
    window.show_folder.click()
    assert (Path(opened[0].toLocalFile()) / "promolecule.json").is_file()
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda _: False)
    window.show_folder.click()
    assert opened[0].toLocalFile() in window.result.text()


def test_the_folder_of_ones_own_models_can_be_changed(qtbot, window, given, tmp_path, monkeypatch):
    assert "NAPARI_VOX3D_MODELS" in window.place.text()
    assert "Change" not in window.place.text()
    monkeypatch.delenv("NAPARI_VOX3D_MODELS")
    elsewhere = tmp_path / "elsewhere"
    load_model(given).save(elsewhere / "mine")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(elsewhere))
    window._ask_for_place()
    assert "mine" in window._items
    assert str(elsewhere) in window.place.text()
    get_plugin_settings("napari-vox3d").models.folder = ""  # as in the Preferences
    qtbot.waitUntil(lambda: "mine" not in window._items)


def test_a_damaged_model_is_named(own, qtbot):
    (own / "bad").mkdir(parents=True)
    (own / "bad" / "card.json").write_text("{}")
    widget = ModelManager(ViewerModel())
    qtbot.addWidget(widget)
    assert str(own / "bad" / "card.json") in widget.result.text()


def test_a_trained_model_is_listed_at_once(window, given, own):
    card = load_model(given).save(own / "mine").card
    ModelChoice.offer(card)
    assert "mine" in window._items


def test_a_closed_window_hears_no_news(qtbot, given, own):
    widget = ModelManager(ViewerModel())
    qtbot.addWidget(widget)
    widget.close()
    widget.deleteLater()
    time.sleep(0.01)
    QApplication.processEvents()
    MODEL_NEWS.changed.emit()


def test_text_of_a_card_is_not_taken_for_markup(given):
    (model,) = [m for m in vox.models.installed_models() if m.card.name == "promolecule"]
    odd = Model(model.card.model_copy(update={"title": "<b>&", "description": "1 < 2"}))
    assert "&lt;b&gt;&amp;" in page(vox.models.Installed(odd.card, model.path))


def test_sizes_in_words():
    assert [file_size(n) for n in (544, 98_268, 802_680, 3_733_572)] == [
        "1 kB", "98 kB", "0.8 MB", "3.7 MB",
    ]  # fmt: skip
