import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from napari_vox3d.errors import ModelError, Vox3dError
from napari_vox3d.models import ModelCard, list_models, load_model, registry, user_folder
from napari_vox3d.models.checkpoint import read_checkpoint
from napari_vox3d.models.model import Model, restore
from napari_vox3d.networks import ELFPredictor

TINY = {"in_ch": 1, "base": 8, "blocks": 2, "kernel": 3, "attention_every": 1}
ELF_CARD = {
    "name": "tiny",
    "title": "Tiny",
    "task": "elf",
    "network": {"name": "ELFPredictor", "arguments": TINY},
    "input": {"spacing": 0.25, "channels": ["log_sad"]},
    "training": "Random weights.",
    "licence": "BSD-3-Clause",
    "version": "1",
}
PICKING_CARD = {
    "name": "picker",
    "title": "Picker",
    "task": "picking",
    "input": {"voxel_size": 10, "normalisation": "zscore", "contrast": "dark"},
    "classes": [{"name": "ribosome", "radius": 150, "colour": "#56b4e9", "threshold": 0.3}],
    "background": 1,
    "training": "None.",
    "licence": "BSD-3-Clause",
    "version": "1",
    "metrics": [{"data": "ten crystals", "rows": [{"predictor": "median", "MAE": 0.2}]}],
}
WEIGHT_FREE = {**ELF_CARD, "name": "formula", "network": None}


def card_of(fields, **changes):
    return ModelCard.model_validate({**fields, **changes})


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ELFPredictor(**TINY)


@pytest.fixture
def model(network):
    return Model(card_of(ELF_CARD), network.state_dict())


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    shipped, user = tmp_path / "shipped", tmp_path / "user"
    shipped.mkdir()
    monkeypatch.setattr(registry, "SHIPPED", shipped)
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(user))
    return types.SimpleNamespace(shipped=shipped, user=user)


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


# --- cards -------------------------------------------------------------------------------------


def test_card_survives_its_file(tmp_path):
    path = tmp_path / "card.json"
    for fields in (ELF_CARD, PICKING_CARD, WEIGHT_FREE):
        card = card_of(fields)
        path.write_text(card.to_json(), encoding="utf-8")
        assert ModelCard.read(path) == card


@pytest.mark.parametrize(
    ("fields", "changes", "words"),
    [
        (ELF_CARD, {"colour": "red"}, "field colour: Extra inputs"),
        (ELF_CARD, {"task": "dreams"}, "field task"),
        (ELF_CARD, {"name": "../evil"}, "field name"),
        (ELF_CARD, {"licence": ""}, "field licence"),
        (ELF_CARD, {"version": 1}, "field version"),
        (ELF_CARD, {"sha256": "beef"}, "field sha256"),
        (ELF_CARD, {"input": {"spacing": -1}}, r"field input\.spacing"),
        (ELF_CARD, {"input": {"density": "guessed"}}, "density"),
        (ELF_CARD, {"input": {"channels": []}}, "channels"),
        (ELF_CARD, {"input": PICKING_CARD["input"]}, "does not describe a model for elf"),
        (ELF_CARD, {"classes": PICKING_CARD["classes"]}, "classes belong to picking"),
        (WEIGHT_FREE, {"sha256": "0" * 64}, "no network"),
        (PICKING_CARD, {"input": {}}, "does not describe a model for picking"),
        (PICKING_CARD, {"classes": []}, "at least one"),
        (PICKING_CARD, {"classes": 2 * PICKING_CARD["classes"]}, "same name"),
        (PICKING_CARD, {"background": 2}, "background 2 is not one of 2 outputs"),
        (PICKING_CARD, {"input": {"voxel_size": 10, "contrast": "loud"}}, r"input\.contrast"),
        (
            PICKING_CARD,
            {"classes": [{"name": "x", "radius": 1, "colour": "red"}]},
            "field classes.0.colour",
        ),
        (
            PICKING_CARD,
            {"classes": [{"name": "x", "radius": 1, "colour": "#ffffff", "threshold": 2}]},
            "field classes.0.threshold",
        ),
    ],
)
def test_wrong_card_names_file_and_field(tmp_path, fields, changes, words):
    path = tmp_path / "card.json"
    path.write_text(json.dumps({**fields, **changes}))
    with pytest.raises(ModelError, match=words) as caught:
        ModelCard.read(path)
    assert str(path) in str(caught.value)
    if changes != {"version": 1}:  # only a file is read strictly
        with pytest.raises(ValidationError):
            card_of(fields, **changes)


def test_card_that_is_no_json(tmp_path):
    path = tmp_path / "card.json"
    path.write_text("{")
    with pytest.raises(ModelError, match="Invalid JSON"):
        ModelCard.read(path)
    with pytest.raises(ModelError, match="cannot be read"):
        ModelCard.read(tmp_path / "absent.json")


# --- models ------------------------------------------------------------------------------------


def test_saved_model_comes_back(tmp_path, model, network):
    saved = model.save(tmp_path / "new" / "folder")
    loaded = load_model(tmp_path / "new" / "folder")
    assert same(loaded.network(), network)
    assert loaded.card == saved.card
    content = (tmp_path / "new" / "folder" / "weights.safetensors").read_bytes()
    assert loaded.card.sha256 == hashlib.sha256(content).hexdigest()
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "card.json",
        "weights.safetensors",
    ]
    again = loaded.save(tmp_path / "copy")
    assert again.card == saved.card
    assert same(load_model(str(tmp_path / "copy" / "card.json")).network(), network)


def test_network_is_kept_until_released(model):
    network = model.network("cpu")
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert model.network(torch.device("cpu")) is network
    model.release()
    assert model.network() is not network


def test_threads_share_one_network(model):
    with ThreadPoolExecutor(8) as pool:
        assert len({id(network) for network in pool.map(model.network, ["cpu"] * 8)}) == 1


def test_state_is_copied(network):
    model = Model(card_of(ELF_CARD), network.state_dict())
    before = model.network().eta_vox.item()
    with torch.no_grad():
        network.eta_vox += 1
    model.release()
    assert model.network().eta_vox.item() == before


def test_weight_free_model(tmp_path):
    model = Model(card_of(WEIGHT_FREE)).save(tmp_path / "formula")
    assert [p.name for p in (tmp_path / "formula").iterdir()] == ["card.json"]
    assert load_model(tmp_path / "formula").card == model.card
    with pytest.raises(ModelError, match="without a network"):
        model.network()


def test_weights_and_card_belong_together(network):
    with pytest.raises(ModelError, match="one set of"):
        Model(card_of(ELF_CARD))
    with pytest.raises(ModelError, match="needs no weights"):
        Model(card_of(WEIGHT_FREE), network.state_dict())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("eta_vox"), "they lack eta_vox"),
        (lambda state: state.update(other=torch.zeros(1)), "unknown other"),
        (lambda state: state.update(eta_vox=torch.zeros(2)), r"eta_vox has shape \(2,\)"),
        (lambda state: state.update({"eta_vox.left": torch.zeros(1)}), "unknown eta_vox.left"),
    ],
)
def test_weights_that_do_not_fit(network, change, words):
    state = dict(network.state_dict())
    change(state)
    with pytest.raises(ModelError, match=words):
        Model(card_of(ELF_CARD), state).network()


def test_changed_or_damaged_weights(tmp_path, model, network):
    model.save(tmp_path)
    weights = tmp_path / "weights.safetensors"
    save_file({"eta_vox": torch.ones(())}, weights)
    with pytest.raises(ModelError, match="not the ones of the card") as caught:
        load_model(tmp_path).network()
    assert str(weights) in str(caught.value)
    weights.write_bytes(b"junk")
    card = card_of(ELF_CARD, sha256=hashlib.sha256(b"junk").hexdigest())
    with pytest.raises(ModelError, match="not a safetensors file"):
        Model(card, weights=weights).network()
    weights.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        Model(card, weights=weights).network()
    registry._open_once.cache_clear()
    with pytest.raises(ModelError, match=r"weights\.safetensors: is missing"):
        load_model(tmp_path)


def test_a_first_save_that_ended_between_card_and_weights(tmp_path, model, network):
    saved = model.save(tmp_path / "tiny")
    saved.weights.rename(saved.weights.with_name("weights.new.safetensors"))
    assert same(load_model(tmp_path / "tiny").network(), network)


def test_saving_where_no_folder_can_be(tmp_path, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(Vox3dError, match="file"):
        model.save(tmp_path / "file")


def test_compact_weights_are_restored(tmp_path, network):
    state = dict(network.state_dict())
    name = "net.post.0.weight"
    left, right = torch.randn(8, 3), torch.randn(3, 8 * 27)
    state[name] = (left.half().float() @ right.half().float()).reshape(8, 8, 3, 3, 3)
    network.load_state_dict(state)
    compact = {k: v.half() if k == name else v for k, v in state.items() if k != name}
    compact |= {f"{name}.left": left.half(), f"{name}.right": right.half()}
    Model(card_of(ELF_CARD), compact).save(tmp_path)
    loaded = load_model(tmp_path).network()
    assert same(loaded, network)
    assert all(value.dtype == torch.float32 for value in loaded.state_dict().values())
    assert f"{name}.left" in Model(card_of(ELF_CARD), compact)._state


def test_factors_that_do_not_multiply():
    state = {"k.left": torch.zeros(4, 2), "k.right": torch.zeros(3, 4)}
    with pytest.raises(ModelError, match="factors of k"):
        restore(state, {"k": (4, 4)})


# --- registry ----------------------------------------------------------------------------------


def ship(folder, model, name, **changes):
    saved = model.save(folder / "aside")
    card = saved.card.model_copy(update={"name": name, **changes})
    (folder / f"{name}.json").write_text(card.to_json(), encoding="utf-8")
    if saved.weights:
        saved.weights.rename(folder / f"{name}.safetensors")


def test_names_defaults_and_the_users_own(folders, model, network):
    ship(folders.shipped, model, "shipped", default=True)
    ship(folders.shipped, Model(card_of(WEIGHT_FREE)), "formula")
    model.save(folders.user / "anything")
    Model(card_of(PICKING_CARD)).save(folders.user / "picker")
    assert [card.name for card in list_models()] == ["formula", "shipped", "tiny", "picker"]
    assert [card.name for card in list_models("picking")] == ["picker"]
    assert load_model("default", "elf").card.name == "shipped"
    assert same(load_model("shipped").network(), network)
    assert load_model("tiny", task="elf").card.name == "tiny"
    assert load_model("tiny") is load_model("tiny")
    assert load_model(model) is model
    with pytest.raises(ModelError, match="Say for which task"):
        load_model("default")
    with pytest.raises(ModelError, match="no default model for picking; name one of picker"):
        load_model("default", "picking")
    with pytest.raises(ModelError, match="'tiny' is for elf, not for picking"):
        load_model("tiny", "picking")
    with pytest.raises(ModelError, match="no model or file 'nonsense'; known models are formula"):
        load_model("nonsense")


def test_changed_model_is_loaded_anew(tmp_path, model):
    model.save(tmp_path)
    first = load_model(tmp_path)
    Model(card_of(ELF_CARD, title="Other"), model._state).save(tmp_path)
    assert load_model(tmp_path) is not first
    assert load_model(tmp_path).card.title == "Other"


def test_damaged_user_model_is_left_out_with_a_warning(folders):
    (folders.user / "bad").mkdir(parents=True)
    (folders.user / "bad" / "card.json").write_text("{}")
    with pytest.warns(UserWarning, match="left out"):
        assert list_models() == []


def test_user_folder_without_the_variable(monkeypatch):
    monkeypatch.delenv("NAPARI_VOX3D_MODELS")
    assert user_folder().name == "models"
    assert "napari-vox3d" in user_folder().parts


def test_paths_that_are_no_models(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match="is not a model"):
        load_model(tmp_path / "notes.txt")
    with pytest.raises(ModelError, match=r"card\.json: cannot be read"):
        load_model(tmp_path)


def test_shipped_models_load(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", os.devnull)
    for card in list_models():
        model = load_model(card.name, card.task)
        if card.network is not None:
            model.network()
            model.release()


def test_listing_models_needs_no_torch():
    code = "import napari_vox3d.models as m, sys; m.list_models(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- published checkpoints -----------------------------------------------------------------------


@pytest.fixture
def foreign():
    """Classes of a package that the reader does not have."""
    module = types.ModuleType("foreign_package")
    source = """
class AttributeDict(dict): pass
class Node:
    def __init__(self, value): self.__dict__["_val"] = value
    def __getstate__(self): return self.__dict__
class Config:
    def __init__(self, **kw): self._content = {k: Node(v) for k, v in kw.items()}
    def __hash__(self): return 1
class Items(list): pass
"""
    exec(source, module.__dict__)
    sys.modules["foreign_package"] = module
    yield module
    sys.modules.pop("foreign_package", None)


@pytest.mark.parametrize("kind", ["AttributeDict", "Config"])
def test_lightning_checkpoint_with_foreign_classes(tmp_path, network, foreign, kind):
    path = tmp_path / "elfnet epoch=3.ckpt"
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}
    content = {
        "epoch": 3,
        "state_dict": network.state_dict(),
        "hyper_parameters": getattr(foreign, kind)(arch="flat_resnet", lr=1e-4),
        "optimizer_states": [optimizer],
        "loops": foreign.Items([foreign.Node(1), torch.device("cpu"), torch.float32, {1, 2}]),
        foreign.Config(a=1): Path("x"),
    }
    torch.save(content, path)
    del sys.modules["foreign_package"]
    model = load_model(path, "elf")
    assert same(model.network(), network)
    assert model.card.name == "elfnet-epoch-3"
    assert model.card.input.density == "elfnet"
    assert model.card.network.arguments == TINY
    assert "epoch=3, arch=flat_resnet, lr=0.0001" in model.card.training
    saved = model.save(tmp_path / "kept")
    assert same(load_model(tmp_path / "kept").network(), network)
    assert saved.card.input.density == "elfnet"


def test_checkpoint_without_loss_weights_or_attention(tmp_path):
    arguments = {**TINY, "attention_every": 0, "blocks": 1}
    network = ELFPredictor(**arguments)
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("eta")}
    torch.save({"state_dict": state}, tmp_path / "old.pt")
    model = load_model(tmp_path / "old.pt")
    assert model.card.network.arguments == arguments
    assert same(model.network(), network)


def picker_state():
    state = OrderedDict()
    for index, (out, into) in zip((0, 3, 6), ((32, 1), (64, 32), (128, 64)), strict=True):
        state[f"features.{index}.weight"] = torch.zeros(out, into, 3, 3, 3)
        state[f"features.{index}.bias"] = torch.zeros(out)
    state["classifier.0.weight"] = torch.zeros(512, 4)  # the card does not depend on it
    state["classifier.0.bias"] = torch.zeros(512)
    state["classifier.3.weight"] = torch.zeros(6, 512)
    state["classifier.3.bias"] = torch.zeros(6)
    return state


@pytest.mark.parametrize("bare", [True, False])
def test_picking_checkpoint(tmp_path, bare):
    state = picker_state()
    path = tmp_path / "checkpoint_epoch_10.pth"
    torch.save(state if bare else {"epoch": 10, "model_state_dict": state}, path)
    card = load_model(path, "picking").card
    assert card.network.name == "CryoET3DCNN"
    assert card.network.arguments == {"num_classes": 6}
    assert [kind.name for kind in card.classes][:2] == ["apo-ferritin", "ribosome"]
    assert card.background == 5
    assert ("epoch=10" in card.training) is not bare


def test_tensors_come_back_equal(tmp_path):
    base = torch.arange(24.0)
    content = {
        "view": base.reshape(4, 6)[1:, ::2],
        "transposed": base.reshape(4, 6).T,
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "half": torch.randn(5).half(),
        "bfloat": torch.randn(5).bfloat16(),
        "long": torch.tensor([1, -2]),
        "mask": torch.tensor([True, False]),
    }
    torch.save(content, tmp_path / "x.pt")
    read = read_checkpoint(tmp_path / "x.pt")
    for name, value in content.items():
        assert torch.equal(read[name], value.detach())
        assert read[name].dtype == value.dtype


class Hostile:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def zipped(path, pickled, **records):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        for name, content in records.items():
            archive.writestr(f"x/data/{name.strip('_')}", content)


@pytest.mark.parametrize(
    "call",
    [
        lambda marker: (os.system, (f"touch {marker}",)),
        lambda marker: (eval, (f"open({str(marker)!r}, 'w')",)),
        lambda marker: (exec, (f"open({str(marker)!r}, 'w')",)),
        lambda marker: (subprocess.check_call, (["touch", str(marker)],)),
        lambda marker: (open, (str(marker), "w")),
    ],
)
def test_hostile_checkpoint_runs_nothing(tmp_path, network, call):
    marker = tmp_path / "marker"
    content = {"state_dict": network.state_dict(), "hyper_parameters": Hostile(*call(marker))}
    torch.save(content, tmp_path / "evil.ckpt")
    assert same(load_model(tmp_path / "evil.ckpt").network(), network)
    assert not marker.exists()


class Described:
    """Pickles as a tensor with a description of one's own."""

    def __init__(self, pid, offset=0, shape=(2,), stride=(1,)):
        self.pid, self.arguments = pid, (offset, shape, stride, False, OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (Persistent(self.pid), *self.arguments)


class Persistent:
    def __init__(self, pid):
        self.pid = pid


class DescribingPickler(pickle.Pickler):
    def persistent_id(self, item):
        return item.pid if isinstance(item, Persistent) else None


GOOD = ("storage", torch.FloatStorage, "0", "cpu", 4)


@pytest.mark.parametrize(
    ("described", "words"),
    [
        (Described(GOOD, shape=(5,)), "leaves its storage"),
        (Described(GOOD, offset=3), "leaves its storage"),
        (Described(GOOD, offset=-1), "leaves its storage"),
        (Described(GOOD, stride=(-1,)), "leaves its storage"),
        (Described(GOOD, shape=(10**9,), stride=(0,)), "leaves its storage"),
        (Described(GOOD, shape=(2, 2)), "leaves its storage"),
        (Described(GOOD, shape=(2.0,)), "leaves its storage"),
        (Described((*GOOD[:4], 400)), "cut short"),
        (Described((*GOOD[:4], 1)), "larger than it says"),
        (Described((*GOOD[:2], "../../0", *GOOD[3:])), "bad storage"),
        (Described((*GOOD[:2], "7", *GOOD[3:])), "no item named"),
        (Described((GOOD[0], Hostile, *GOOD[2:])), "unknown type"),
        (Described(("module", *GOOD[1:])), "unknown type"),
        (Described((*GOOD[:4], -4)), "wrongly"),
        (Described(("storage",)), "not a sound checkpoint"),
    ],
)
def test_tensor_must_stay_inside_its_storage(tmp_path, described, words):
    file = io.BytesIO()
    DescribingPickler(file, 2).dump({"state_dict": {"a": described}})
    zipped(tmp_path / "x.pt", file.getvalue(), _0=bytes(16))
    with pytest.raises(ModelError, match=words):
        read_checkpoint(tmp_path / "x.pt")


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match=r"zip format.*save it again"):
        load_model(path)
    path.write_bytes(b"junk")
    with pytest.raises(ModelError, match="zip format"):
        load_model(path)
    zipped(path, b"\x80\x02junk")
    with pytest.raises(ModelError, match="not a sound checkpoint"):
        load_model(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "no pickle")
    with pytest.raises(ModelError, match="zip format"):
        load_model(path)
    torch.save({"state_dict": {"unet.weight": torch.zeros(1)}}, path)
    with pytest.raises(ModelError, match=r"no weights of .*first entry is unet\.weight"):
        load_model(path)
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="no weights of"):
        load_model(path)
    torch.save({"net.stem.0.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="unexpected shapes"):
        load_model(path)
    with pytest.raises(ModelError, match="cannot be read"):
        read_checkpoint(tmp_path / "absent.pt")


def test_reading_leaves_no_trace_on_shared_classes(tmp_path):
    # BUILD on a class would set attributes of it if the reader let it
    pickled = b"\x80\x02cforeign\nThing\n}X\x06\x00\x00\x00appendK\x01sb."
    zipped(tmp_path / "x.pt", pickled)
    with pytest.raises(ModelError):
        read_checkpoint(tmp_path / "x.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "y.pt")
    assert torch.equal(read_checkpoint(tmp_path / "y.pt")["a"], torch.zeros(1))


def test_packed_records_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}))
    with pytest.raises(ModelError, match="packed"):
        read_checkpoint(tmp_path / "x.pt")


def test_big_endian_checkpoint_is_refused(tmp_path):
    zipped(tmp_path / "x.pt", pickle.dumps({}))
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as archive:
        archive.writestr("x/byteorder", "big")
    with pytest.raises(ModelError, match="little-endian"):
        read_checkpoint(tmp_path / "x.pt")
