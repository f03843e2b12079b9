import pytest

from napari_vox3d.errors import Cancelled, ModelError
from napari_vox3d.models import Model, ModelCard, list_models
from napari_vox3d.training.drafts import Draft, free_name


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def made(name):
    return Model(
        ModelCard(name=name, title=name, task="elf", input={}, training="None.",
                  licence="BSD-3-Clause", version="1")
    )  # fmt: skip


def train(*, name, checkpoint, fail=None):
    checkpoint.write_bytes(b"half")
    if fail is not None:
        raise fail
    return made(name)


def names():
    return [card.name for card in list_models("elf")]


def test_a_trained_model_is_listed_and_its_checkpoint_is_gone():
    draft = Draft.named("mine")
    model = draft.train(train)
    assert "mine" in names()
    assert model.card.name == "mine"
    assert not draft.checkpoint.exists()


def test_an_interrupted_training_leaves_its_checkpoint_alone():
    draft = Draft.named("mine")
    with pytest.raises(Cancelled):
        draft.train(train, fail=Cancelled("Cancelled."))
    assert draft.checkpoint.read_bytes() == b"half"
    assert "mine" not in names()
    assert Draft.named("mine") == draft


def test_a_training_that_never_began_leaves_nothing(models):
    def fail(**_):
        raise ModelError("No such network.")

    with pytest.raises(ModelError):
        Draft.named("mine").train(fail)
    assert list(models.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a b", "../up", ".hidden", "ä/ö"])
def test_a_name_must_do_for_a_file(name):
    with pytest.raises(ModelError, match="cannot be the name"):
        Draft.named(name)


def test_no_model_is_replaced(tmp_path):
    Draft.named("mine").train(train)
    with pytest.raises(ModelError, match="'mine' already"):
        Draft.named("mine")
    with pytest.raises(ModelError, match="already"):
        Draft.named("promolecule")
    Draft.named("promolecule", tmp_path / "elsewhere").train(train)
    with pytest.raises(ModelError, match="holds a model"):
        Draft.named("other", tmp_path / "elsewhere")


def test_a_free_name_has_a_number_if_need_be():
    assert free_name("mine") == "mine"
    Draft.named("mine").train(train)
    Draft.named("mine-2").train(train)
    assert free_name("mine") == "mine-3"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be made a folder"):
        Draft.named("mine", tmp_path / "file" / "mine").train(train)
