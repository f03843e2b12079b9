from pathlib import Path
from weakref import ref

import pytest
import yaml
from napari.settings import get_plugin_settings, get_settings
from qtpy.QtWidgets import QFormLayout, QWidget

from napari_vox3d.gui import settings
from napari_vox3d.gui.controls import ComputeOptions
from napari_vox3d.gui.settings import recall, remember, watch


@pytest.fixture(autouse=True)
def _fresh():
    get_plugin_settings("napari-vox3d").reset()
    yield
    get_plugin_settings("napari-vox3d").reset()


@pytest.fixture(params=["napari's own", "a file"])
def stored(request, monkeypatch, tmp_path):
    if request.param == "a file":  # napari before 0.9
        monkeypatch.setattr(settings, "_plugin_settings", lambda: None)
        monkeypatch.setattr(settings, "_own_file", lambda: tmp_path / "deep" / "settings.yaml")


@pytest.mark.usefixtures("stored")
def test_values_come_back():
    remember("elf", model="a", spacing=0.25)
    remember("elf", spacing=0.5)
    remember("picking", show_scores=True)
    assert {"model": "a", "spacing": 0.5}.items() <= recall("elf").items()
    assert recall("picking")["show_scores"] is True
    assert recall("picking").get("model", "") == ""


def test_napari_keeps_them_in_the_file_of_the_plugin():
    remember("picking", min_distance=80.0)
    path = get_plugin_settings("napari-vox3d").config_path
    assert yaml.safe_load(Path(path).read_text())["picking"]["min_distance"] == 80.0


def test_a_damaged_file_is_as_good_as_none(monkeypatch, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("[")
    monkeypatch.setattr(settings, "_plugin_settings", lambda: None)
    monkeypatch.setattr(settings, "_own_file", lambda: path)
    assert recall("elf") == {}
    remember("elf", model="a")
    assert recall("elf") == {"model": "a"}


def test_a_later_napari_reads_the_file_of_an_earlier_one(monkeypatch):
    theirs = get_plugin_settings("napari-vox3d")
    assert settings._own_file() == Path(theirs.config_path)
    assert settings._own_file().parent == Path(get_settings().config_path).parent
    monkeypatch.setattr(settings, "_plugin_settings", lambda: None)
    remember("elf", model="früher", spacing=0.5)
    later = type(theirs)(config_path=theirs.config_path)
    assert (later.elf.model, later.elf.spacing) == ("früher", 0.5)


class Listener:
    heard = 0

    def hear(self):
        self.heard += 1


def test_a_change_is_heard_as_long_as_there_is_a_listener(qtbot):
    one, other = Listener(), Listener()
    watch("computing", "device", one.hear)
    watch("computing", "device", other.hear)
    other.hear()
    gone = ref(other)
    del other
    assert gone() is None
    remember("computing", device="cpu")
    remember("computing", device="cpu")
    qtbot.waitUntil(lambda: one.heard == 1)
    qtbot.wait(20)
    assert one.heard == 1


def test_nothing_is_heard_before_napari_has_plugin_settings(monkeypatch):
    monkeypatch.setattr(settings, "_plugin_settings", lambda: None)
    watch("computing", "device", Listener().hear)


def test_open_windows_follow_the_preferences(qtbot):
    window = QWidget()
    qtbot.addWidget(window)
    options = ComputeOptions(window, QFormLayout(window))
    assert options.arguments() == {"device": "auto", "precision": "auto"}
    get_plugin_settings("napari-vox3d").computing.precision = "float32"
    qtbot.waitUntil(lambda: options.precision.value == "float32")
    assert options.arguments()["precision"] == "float32"  # and it does not set them back
    assert recall("computing")["precision"] == "float32"
