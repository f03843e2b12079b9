import hashlib
import os
import shutil

import pytest
import torch
from napari.settings import get_plugin_settings

from napari_vox3d.errors import FormatError, ModelError
from napari_vox3d.gui import settings
from napari_vox3d.models import (
    Model,
    ModelCard,
    add_model,
    installed_models,
    list_models,
    load_model,
    model_folders,
    preferences,
    registry,
    remove_model,
    user_folder,
)
from napari_vox3d.networks import ELFPredictor

TINY = {"in_ch": 1, "base": 8, "blocks": 2, "kernel": 3, "attention_every": 1}
CARD = ModelCard(
    name="tiny", title="Tiny", task="elf", network={"name": "ELFPredictor", "arguments": TINY},
    input={"channels": ["log_sad"]}, training="Random weights.", licence="MIT", version="1",
    default=True,
)  # fmt: skip


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.fixture
def given(tmp_path):
    """Folder of a model that is not listed."""
    torch.manual_seed(0)
    Model(CARD, ELFPredictor(**TINY).state_dict()).save(tmp_path / "given")
    return tmp_path / "given"


@pytest.fixture
def pair(given, tmp_path):
    """The same as two files beside other ones."""
    folder = tmp_path / "pair"
    folder.mkdir()
    shutil.copy(given / "card.json", folder / "a.json")
    shutil.copy(given / "weights.safetensors", folder / "a.safetensors")
    (folder / "notes.json").write_text("{}")
    return folder


def names():
    return [model.card.name for model in installed_models() if not model.shipped]


# --- adding and removing -------------------------------------------------------------------------


def test_an_added_model_is_the_same_to_the_byte(given, own):
    card = add_model(given)
    assert names() == ["tiny"]
    assert not card.default  # or it would compete with the shipped default
    assert card == load_model("tiny").card
    content = (own / "tiny" / "weights.safetensors").read_bytes()
    assert content == (given / "weights.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == card.sha256 == load_model(given).card.sha256


@pytest.mark.parametrize("part", ["", "a.json", "a.safetensors"])
def test_a_pair_of_files_is_added_by_folder_card_or_weights(pair, part):
    add_model(pair / part)
    assert names() == ["tiny"]
    load_model("tiny").network()


@pytest.mark.parametrize("part", ["card.json", "weights.safetensors"])
def test_either_file_of_a_model_folder_will_do(given, part):
    assert add_model(str(given / part)).name == "tiny"


def test_a_checkpoint_becomes_a_model(tmp_path):
    torch.manual_seed(0)
    torch.save({"state_dict": ELFPredictor(**TINY).state_dict()}, tmp_path / "run.ckpt")
    card = add_model(tmp_path / "run.ckpt")
    assert names() == [card.name]


def test_what_is_removed_is_gone_and_what_is_not_its_own_stays(given, own):
    add_model(given)
    remove_model("tiny")
    assert names() == []
    assert not (own / "tiny").exists()
    add_model(given)
    (own / "tiny" / "notes.txt").write_text("mine")
    remove_model("tiny")
    assert [path.name for path in (own / "tiny").iterdir()] == ["notes.txt"]
    with pytest.raises(ModelError, match="in the way"):
        add_model(given)
    assert (own / "tiny" / "notes.txt").exists()


def test_models_that_cannot_be_removed(given, own, monkeypatch):
    with pytest.raises(ModelError, match="part of napari-vox3d"):
        remove_model("promolecule")
    with pytest.raises(ModelError, match="no model 'nonsense'; yours are: none"):
        remove_model("nonsense")
    add_model(given)
    with pytest.raises(ModelError, match="yours are: tiny"):
        remove_model("nonsense")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(ModelError, match=r"card\.json: cannot be removed \(Permission denied\)"):
        remove_model("tiny")


def test_a_name_is_taken_once(given, pair):
    add_model(given)
    with pytest.raises(ModelError, match=r"'tiny' already \(it is in .*change the name"):
        add_model(pair)
    shipped = registry.SHIPPED / "promolecule.json"
    with pytest.raises(ModelError, match=r"'promolecule' already \(it is shipped"):
        add_model(shipped)


def test_models_that_are_not_added(given, pair, tmp_path, own):
    with pytest.raises(ModelError, match="no such file or folder"):
        add_model(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no model, which would be card\.json with"):
        add_model(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match="is not a model"):
        add_model(tmp_path / "notes.txt")
    for part in ("json", "safetensors"):
        shutil.copy(pair / f"a.{part}", pair / f"b.{part}")
    with pytest.raises(ModelError, match=r"several models; name one of a\.json, b\.json"):
        add_model(pair)
    (pair / "b.json").unlink()
    with pytest.raises(ModelError, match=r"b\.json: is missing"):
        add_model(pair / "b.safetensors")
    (given / "weights.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match="not the ones of the card"):
        add_model(given)
    (given / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"weights\.safetensors: the weights cannot be read"):
        add_model(given)
    (given / "card.json").write_text('{"name": "x"}')
    with pytest.raises(ModelError, match=r"card\.json: field"):
        add_model(given)
    assert not own.exists()


def test_nothing_half_made_stays(given, own, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ModelCard, "to_json", full)
    with pytest.raises(FormatError, match="No space left"):
        add_model(given)
    assert not (own / "tiny").exists()


def test_size_counts_card_and_weights(given, own):
    add_model(given)
    (model,) = [model for model in installed_models() if not model.shipped]
    assert model.size == sum(path.stat().st_size for path in (own / "tiny").iterdir())
    assert all(model.size > 100 for model in installed_models())


# --- where they are ------------------------------------------------------------------------------


def test_several_folders_the_first_of_which_takes_new_models(given, own, tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    Model(CARD.model_copy(update={"name": "theirs", "network": None})).save(shared / "theirs")
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", os.pathsep.join([str(own), str(shared)]))
    assert model_folders() == [own, shared]
    add_model(given)
    assert names() == ["tiny", "theirs"]
    assert (own / "tiny").is_dir()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("NAPARI_VOX3D_MODELS")
    monkeypatch.setattr(preferences, "data_folder", lambda: tmp_path / "home")
    monkeypatch.setattr(registry, "data_folder", lambda: tmp_path / "home")
    return tmp_path / "home"


def test_the_folder_of_the_preferences_comes_before_the_default(home, tmp_path):
    default = home / "models"
    assert model_folders() == [default]
    get_plugin_settings("napari-vox3d").models.folder = str(tmp_path / "chosen")
    try:
        assert model_folders() == [tmp_path / "chosen", default]
        assert user_folder() == tmp_path / "chosen"
        Model(CARD.model_copy(update={"network": None})).save(default / "before")
        assert "tiny" in [card.name for card in list_models()]  # it is not lost
    finally:
        get_plugin_settings("napari-vox3d").reset()
    assert model_folders() == [default]


def test_scripts_find_the_settings_by_the_note_of_the_window(home, tmp_path, monkeypatch):
    monkeypatch.delenv("NAPARI_CONFIG")
    kept = tmp_path / "config" / "napari-vox3d.yaml"
    preferences.follow_settings(kept)
    assert model_folders() == [home / "models"]
    kept.parent.mkdir()
    kept.write_text("models:\n  folder: ~/chosen\n")
    assert user_folder() == preferences.Path("~/chosen").expanduser()
    for damaged in ("models: [", "models: 3", "models:\n  folder: 3\n", "- 1", "", "\0"):
        kept.write_text(damaged)
        assert model_folders() == [home / "models"]


def test_a_passing_configuration_leaves_no_note(home, monkeypatch, tmp_path):
    preferences.follow_settings(tmp_path / "napari-vox3d.yaml")
    assert not home.exists()
    monkeypatch.setenv("NAPARI_CONFIG", "")
    assert model_folders() == [home / "models"]


def test_a_home_that_cannot_be_written_is_no_problem(home, monkeypatch, tmp_path):
    monkeypatch.delenv("NAPARI_CONFIG")
    home.write_text("a file")
    preferences.follow_settings(tmp_path / "napari-vox3d.yaml")
    assert model_folders() == [home / "models"]


def test_the_window_leaves_the_note(home, monkeypatch):
    monkeypatch.delenv("NAPARI_CONFIG")
    settings._announce.cache_clear()
    settings.recall("computing")
    noted = (home / "settings-file.txt").read_text()
    assert noted == str(get_plugin_settings("napari-vox3d").config_path)
