from pathlib import Path

import pytest
import yaml
from napari.settings import get_plugin_settings, get_settings

from napari_vox3d.gui import settings
from napari_vox3d.gui.settings import recall, remember


@pytest.fixture(params=["napari's own", "JSON"])
def stored(request, monkeypatch, tmp_path):
    if request.param == "JSON":  # napari before 0.9
        monkeypatch.setattr(settings, "_plugin_settings", lambda: None)
        monkeypatch.setattr(settings, "_json_path", lambda: tmp_path / "deep" / "settings.json")
    else:
        get_plugin_settings("napari-vox3d").reset()


@pytest.mark.usefixtures("stored")
def test_values_come_back():
    remember("elf", model="a", spacing=0.25)
    remember("elf", spacing=0.5)
    remember("picking", show_scores=True)
    assert recall("elf") == {"model": "a", "spacing": 0.5}
    assert recall("picking")["show_scores"] is True
    assert recall("picking").get("model", "") == ""


def test_napari_keeps_them_in_the_file_of_the_plugin():
    remember("picking", min_distance=80.0)
    path = get_plugin_settings("napari-vox3d").config_path
    assert yaml.safe_load(Path(path).read_text())["picking"]["min_distance"] == 80.0


def test_a_damaged_json_file_is_as_good_as_none(monkeypatch, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text("{")
    monkeypatch.setattr(settings, "_plugin_settings", lambda: None)
    monkeypatch.setattr(settings, "_json_path", lambda: path)
    assert recall("elf") == {}
    remember("elf", model="a")
    assert recall("elf") == {"model": "a"}


def test_the_json_file_lies_beside_the_settings_of_napari():
    assert settings._json_path() == Path(get_settings().config_path).parent / "napari-vox3d.json"
