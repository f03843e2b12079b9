import numpy as np
import pytest
from ase.build import bulk

import napari_vox3d as vox
from napari_vox3d.density import supported_elements
from napari_vox3d.errors import Cancelled, InferenceError, ModelError, Vox3dError
from napari_vox3d.models import load_model
from napari_vox3d.training import elf_errors


def crystal(symbol, scale=1.0):
    atoms = bulk(symbol)
    atoms.set_cell(scale * atoms.cell, scale_atoms=True)
    return vox.predict_elf(atoms, "promolecule", spacing=0.4)


@pytest.fixture(scope="module")
def elfs():
    """Six crystals of five compositions; the fifth, copper, comes twice."""
    symbols = ("Si", "Al", "Na", "Ag", "Cu")
    return [*(crystal(symbol) for symbol in symbols), crystal("Cu", 1.1)]


def train(elfs, **options):
    return vox.train_elf(elfs, **{"spacing": 0.5, "steps": 3, "device": "cpu"} | options)


def test_model_predicts_and_survives_a_file(elfs, tmp_path):
    model = train(elfs[:2], name="mine")
    assert model.card.name == "mine"
    assert "nothing was held out" in model.card.training
    assert "cannot say how far off it may be at a point" in model.card.training
    assert model.card.input.channels == ["invariants", "owners"]
    assert not model.card.metrics
    again = load_model(model.save(tmp_path / "mine").weights.parent)
    one, other = (vox.predict_elf(elfs[0], m, device="cpu").values for m in (model, again))
    np.testing.assert_array_equal(one, other)
    assert 0 <= one.min() < one.max() <= 1


@pytest.mark.parametrize("size", ["small", "large"])
def test_continuous_kernels_can_be_trained_and_work_on_any_grid(elfs, size, tmp_path):
    model = train(elfs[:2], network="ckconv", size=size, steps=2)
    assert model.card.network.arguments["backbone"] == "ckconv"
    assert model.card.input.spacing is None
    again = load_model(model.save(tmp_path / "mine").weights.parent)
    elf = vox.predict_elf(elfs[0], again, shape=(9, 7, 8), device="cpu")
    assert 0 <= elf.values.min() < elf.values.max() <= 1


def test_large_flat_network_knows_one_spacing(elfs):
    model = train(elfs[:1], network="flat-resnet", size="large", steps=1, spacing=0.8)
    assert model.card.input.spacing == 0.8


def test_every_fifth_composition_is_held_out_and_measured(elfs):
    model = train(elfs, channels=("log_sad", "promolecular_elf"))
    (table,) = model.card.metrics
    assert "2 crystals of 1 held-out composition" in table.data
    rows = {row["predictor"]: row["all"] for row in table.rows}
    assert list(rows) == ["my-elf", "Tsirelson–Stash", "global median"]
    assert rows["Tsirelson–Stash"] < 0.05  # it is the truth here, but for the coarser grid
    assert 0.05 < rows["global median"] < 0.5
    assert "4 crystals of 4 compositions" in model.card.training
    assert model.card.input.channels == ["log_sad", "promolecular_elf"]


def test_small_flat_network_works_on_any_grid(elfs):
    assert train(elfs[:1]).card.input.spacing is None


@pytest.fixture(scope="module")
def forty():
    """One crystal each of forty compositions, on coarse grids."""
    symbols = [s for s in supported_elements() if s not in ("He", "Ne", "Ar")][:40]
    cells = [bulk(symbol, "sc", 3.0) for symbol in symbols]
    return [vox.predict_elf(cell, "promolecule", spacing=0.5) for cell in cells]


def test_with_forty_compositions_errors_are_learnt_too(forty, tmp_path, monkeypatch):
    monkeypatch.setattr(elf_errors, "_STEPS", 60)
    calls = []
    model = train(forty, channels=["sad", "promolecular_elf"], network="flat-resnet", steps=20,
                  progress=lambda *call: calls.append(call))  # fmt: skip
    card = model.card
    assert "32 crystals of 32 compositions" in card.training
    assert "8 crystals of other compositions held out." in card.training
    assert "cannot say" not in card.training
    assert "2 crystals of compositions that neither" in card.uncertainty.data
    assert "4 crystals of 4 held-out compositions" in card.metrics[0].data
    assert 0.5 < card.metrics[1].rows[0]["share of the points within"] <= 1
    assert len(card.known.elements) == 32
    assert len(calls) > 40 + 20 + 60  # also while errors are learnt, which may be cancelled
    again = load_model(model.save(tmp_path / "mine").weights.parent)
    elf, band = vox.predict_elf(forty[0], again, device="cpu", uncertainty=True)
    assert 0 < band.values.mean() < 1
    assert elf.metadata["provenance"]["expected error"] > 0


def test_less_than_forty_compositions_are_too_few_for_errors(forty):
    model = train(forty[:39], channels=["sad"], network="flat-resnet", steps=1)
    assert model.card.uncertainty is None
    assert "takes 40 compositions" in model.card.training
    assert "7 crystals of 7 held-out compositions" in model.card.metrics[0].data


def test_progress_steps_and_stop(elfs):
    calls, steps = [], []
    train(
        elfs,
        progress=lambda *call: calls.append(call),
        on_step=lambda step, loss: steps.append(step),
        stop=lambda: len(steps) == 2,
    )
    assert steps == [1, 2]
    assert calls[:4] == [(0, 3)] * 4  # one for each crystal that is prepared
    assert calls[4:6] == [(1, 3), (2, 3)]
    assert set(calls[6:]) == {(2, 3)}  # the held-out crystals


def test_cancel_while_crystals_are_prepared(elfs, tmp_path):
    def cancel(done, total):
        raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        train(elfs, progress=cancel, checkpoint=tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_training_goes_on_from_a_checkpoint(elfs, tmp_path):
    path, steps = tmp_path / "state.safetensors", []
    train(elfs[:1], steps=2, checkpoint=path)
    train(elfs[:1], steps=3, checkpoint=path, on_step=lambda step, _: steps.append(step))
    assert steps == [3]


def test_losses_are_chosen_and_prepared_crystals_are_kept(elfs, tmp_path):
    options = {"channels": ["sad"], "network": "flat-resnet"}
    plain = train(elfs[:2], **options, losses=["voxel"])
    cached = train(elfs[:2], **options, losses=["voxel"], cache=tmp_path / "prepared")
    other = train(elfs[:2], **options, losses={"gradient": 1.0, "soft-cdf": 2.0})
    assert len(list((tmp_path / "prepared").iterdir())) == 2
    one, same, different = (m.network().net.stem[0].weight for m in (plain, cached, other))
    assert (one - same).abs().max() < 0.1 * (one - different).abs().max()


def test_card_says_which_elements_were_seen(elfs):
    known = train(elfs[:3]).card.known
    assert known.elements == ["Na", "Al", "Si"]
    assert len(known.lowest) == len(known.highest) == 24 + 20


@pytest.mark.parametrize(
    ("given", "options", "kind", "message"),
    [
        ([], {}, Vox3dError, "no ELFs"),
        ([vox.Volume(np.zeros((4, 4, 4)), 1.0, periodic=True)], {}, Vox3dError, "no atoms"),
        (None, {"network": "unet"}, ModelError, "no network 'unet' for elf"),
        (None, {"size": "huge"}, ModelError, "'small' or 'large'"),
        (None, {"channels": ["taste"]}, ModelError, "taste"),
        (None, {"losses": ["taste"]}, Vox3dError, "No loss is called 'taste'"),
        (None, {"precision": "float8"}, InferenceError, "float8"),
        (None, {"spacing": 0.0}, Vox3dError, "positive length"),
        (None, {"device": "cuda:77"}, InferenceError, "cuda:77"),
    ],
)
def test_impossible_requests_are_one_sentence(elfs, given, options, kind, message):
    with pytest.raises(kind, match=message):
        train(elfs[:1] if given is None else given, **options)
