import numpy as np
import pytest
import torch

from napari_vox3d import Picks, Volume, load_model, pick_particles, score_particles
from napari_vox3d.errors import Cancelled, ModelError, Vox3dError
from napari_vox3d.models import Model, ModelCard, NetworkSpec, ParticleClass, PickingInput
from napari_vox3d.networks.catalogue import ARCHITECTURES
from napari_vox3d.networks.cryoet_cnn import CryoET3DCNN, DenseCryoET3DCNN
from napari_vox3d.networks.pickers import DensePicker
from napari_vox3d.training import picking
from napari_vox3d.training.evaluation import evaluate_picks
from napari_vox3d.training.picker_forms import RANK, DenseForm, WindowForm, form_of
from napari_vox3d.training.picking import train_picker


@pytest.fixture(autouse=True)
def _small_crops(monkeypatch):
    monkeypatch.setattr(WindowForm, "edge", 64)
    monkeypatch.setattr(DenseForm, "edge", 32)


@pytest.fixture
def without_thresholds(monkeypatch):
    monkeypatch.setattr(
        picking,
        "estimate_thresholds",
        lambda model, *_, **__: {kind.name: 0.5 for kind in model.card.classes},
    )


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(24, 32, 40)).astype(np.float32)
    picks = Picks.from_indices(
        rng.uniform(4, 20, (4, 3)), ["a", "b", "a", "b"], voxel_size=10, radii=[60, 90, 60, 90]
    )
    return Volume(values, 10.0, name="t"), picks


NETWORKS = [entry.name for entry in ARCHITECTURES if entry.task == "picking"]


def train(examples, **options):
    return train_picker(examples, **{"base": None, "steps": 2, "device": "cpu", **options})


def state_of(model):
    return model.network().state_dict()


def test_folded_normalisation_changes_nothing():
    torch.manual_seed(0)
    normed = WindowForm(DenseCryoET3DCNN(3, 4))
    for norm in normed.norms:
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
    for name, value in normed.named_parameters():
        if name.endswith("bias"):
            value.data.normal_(std=0.1)
    crop = torch.randn(1, 1, 64, 64, 64)
    normed.eval()
    with torch.inference_mode():
        expected = normed(crop)
        plain = normed.fold()
        found = plain.classify(torch.nn.functional.pad(plain.extract(crop), (2,) * 6))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("network", ["unet", "cryoet3dcnn"])
def test_convolutions_run_in_bfloat16_where_that_is_faster(
    example, without_thresholds, monkeypatch, network
):
    losses = {torch.float32: [], torch.bfloat16: []}
    for half, seen in losses.items():
        monkeypatch.setattr(picking, "choose_precision", lambda *_, half=half: half)
        model = train(
            [example], network=network, on_step=lambda _, loss, seen=seen: seen.append(loss)
        )
        assert all(v.dtype != torch.bfloat16 for v in state_of(model).values())
    full, half = losses.values()
    assert half != full
    np.testing.assert_allclose(half, full, rtol=0.1)


def test_training_gives_a_model_with_an_honest_card(example, tmp_path):
    reports = []
    model = train([example], name="mine", progress=lambda *r: reports.append(r))
    card = model.card
    assert [kind.name for kind in card.classes] == ["a", "b"]
    assert [kind.radius for kind in card.classes] == [60, 90]
    assert card.background == 2
    assert "2 crops of 1 tomogram with 4 particles" in card.training
    assert "too hopeful" in card.training
    assert reports[:2] == [(1, 2), (2, 2)]
    assert set(reports[2:]) == {(2, 2)}  # while the thresholds are found
    assert isinstance(model.network(), CryoET3DCNN)
    model.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "weights.safetensors").stat().st_size < 5e6
    again = load_model(tmp_path / "mine", task="picking")
    torch.testing.assert_close(state_of(again), state_of(model))


def test_every_fifth_example_is_held_out(example, monkeypatch):
    told = []
    monkeypatch.setattr(
        picking,
        "estimate_thresholds",
        lambda model, some, **_: told.append(some) or {"a": 0.4, "b": 0.6},
    )
    others = [example] * 4
    apart = (example[0].with_values(example[0].values.copy()), example[1])
    model = train([*others, apart], steps=1)
    assert told == [[apart]]
    assert [kind.threshold for kind in model.card.classes] == [0.4, 0.6]
    assert "1 tomogram held out" in model.card.training


@pytest.mark.parametrize("network", NETWORKS)
def test_a_cancelled_training_goes_on_where_it_was(example, tmp_path, network, without_thresholds):
    def stop(done, _total):
        if done == 1:
            raise Cancelled("stopped")

    file = tmp_path / "run.safetensors"
    with pytest.raises(Cancelled):
        train([example], network=network, checkpoint=file, progress=stop)
    resumed = train([example], network=network, checkpoint=file)
    straight = train([example], network=network)
    torch.testing.assert_close(state_of(resumed), state_of(straight))
    with pytest.raises(ModelError, match="seed 0"):
        train([example], network=network, checkpoint=file, seed=1)
    other = "unet" if network != "unet" else "hrnet"
    with pytest.raises(ModelError, match="start anew"):
        train([example], network=other, checkpoint=file)
    file.write_bytes(b"something else")
    with pytest.raises(ModelError, match="start anew"):
        train([example], checkpoint=file)


def test_the_randomness_of_others_is_left_alone():
    before = torch.random.get_rng_state()
    with picking._own_randomness(3):
        torch.rand(5)
    torch.testing.assert_close(torch.random.get_rng_state(), before)


def make_base(classes):
    torch.manual_seed(0)
    network = DenseCryoET3DCNN(len(classes) + 1, RANK)
    card = ModelCard(
        name="base", title="Base", task="picking",
        network=NetworkSpec(name="CryoET3DCNN", arguments={"num_classes": len(classes) + 1}),
        input=PickingInput(voxel_size=7, normalisation="robust"),
        classes=[ParticleClass(name=name, radius=50, colour="#123456") for name in classes],
        background=0, training="None.", licence="BSD-3-Clause", version="1",
    )  # fmt: skip
    return Model(card, network.windowed_state())


def test_fine_tuning_starts_from_the_outputs_of_the_base():
    base = make_base(["b", "x"])
    kinds = [ParticleClass(name=n, radius=60, colour="#000000") for n in ("a", "b")]
    network = form_of(base, kinds).network
    old = state_of(base)["classifier.3.weight"]
    new = network.state_dict()["classifier.3.weight"].flatten(1)
    torch.testing.assert_close(new[1], old[1])  # b
    torch.testing.assert_close(new[2], old[0])  # background
    assert not torch.isclose(new[0], old).all(1).any()
    window = torch.randn(1, 1, 64, 64, 64)
    with torch.inference_mode():
        expected = base.network()(window)[0, [1, 0, 2]]  # b, background, x
        torch.testing.assert_close(
            network.eval()(window).flatten()[1:], expected, atol=1e-3, rtol=0
        )


def test_what_is_not_to_be_learnt_is_still_told_from_it(example):
    base = train([example], network="unet", steps=2)
    only_a = [kind for kind in base.card.classes if kind.name == "a"]
    tuned = train([example], base=base, classes=only_a, steps=0)
    assert tuned.card.classes[0].outputs == [0]
    assert tuned.network().num_classes == 3
    before, _ = score_particles(example[0], base, device="cpu")
    (after,) = score_particles(example[0], tuned, device="cpu")
    np.testing.assert_allclose(after.values, before.values, atol=1e-5)


def test_outputs_of_a_class_count_together(example):
    base = train([example], network="unet", steps=2)
    a, _ = base.card.classes
    both = base.with_card(base.card.model_copy(update={
        "classes": [a.model_copy(update={"name": "any", "outputs": [0, 1]})], "background": None
    }))  # fmt: skip
    (any_,) = score_particles(example[0], both, device="cpu")
    apart = score_particles(example[0], base, device="cpu")
    np.testing.assert_allclose(any_.values, apart[0].values + apart[1].values, atol=1e-6)
    form = form_of(both, both.card.classes)
    crops = torch.randn(1, 1, form.edge, form.edge, form.edge)
    form.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            form.grouped(form(crops)).softmax(1)[:, 0], form(crops).softmax(1)[:, :2].sum(1)
        )
    alike = Picks(example[1].positions, "any", radii=60.0)
    tuned = train([(example[0], alike)], base=both, steps=1)
    assert tuned.card.classes[0].outputs == [0, 1]


def test_a_fine_tuned_model_keeps_the_scale_and_the_classes_of_its_base(example):
    model = train([example], base=make_base(["a", "b"]), steps=1)
    assert model.card.input.voxel_size == 7
    assert [kind.radius for kind in model.card.classes] == [50, 50]
    assert "'base'" in model.card.training


def test_a_dense_picker_is_fine_tuned_from_its_own_outputs(example):
    base = train([example], network="unet", steps=1)
    turned = Picks(
        example[1].positions, np.where(example[1].labels == "a", "b", "c"), radii=example[1].radii
    )
    network = form_of(base, train([(example[0], turned)], network="unet", steps=1).card.classes)
    assert isinstance(network.network, DensePicker)
    old, new = state_of(base), network.network.state_dict()
    torch.testing.assert_close(new["head.weight"][0], old["head.weight"][1])  # b
    torch.testing.assert_close(new["head.weight"][3], old["head.weight"][2])  # background
    torch.testing.assert_close(new["head.weight"][2], old["head.weight"][0])  # a, not learnt
    assert not torch.isclose(new["head.weight"][1], old["head.weight"]).all(1).any()
    torch.testing.assert_close(new["stem.0.weight"], old["stem.0.weight"])
    tuned = train([(example[0], turned)], base=base)
    assert tuned.card.network.name == "DensePicker"
    assert "'my-picker'" in tuned.card.training


def test_a_network_that_cannot_be_trained_is_refused(example):
    arguments = {"num_classes": 2, "batch_norm": True}
    torch.manual_seed(0)
    base = make_base(["a"])
    card = base.card.model_copy(
        update={"network": NetworkSpec(name="CryoET3DCNN", arguments=arguments)}
    )
    with pytest.raises(ModelError, match="cannot start from"):
        train([example], base=Model(card, CryoET3DCNN(**arguments).state_dict()))


def test_an_unknown_network_or_size_is_refused(example):
    with pytest.raises(ModelError, match="choose unet, "):
        train([example], network="resnet")
    with pytest.raises(ModelError, match="'small' or 'large'"):
        train([example], network="unet", size="huge")


def test_stop_ends_the_training_with_a_model(example):
    told = []
    model = train(
        [example],
        network="unet",
        steps=50,
        on_step=lambda step, loss: told.append((step, loss)),
        stop=lambda: len(told) == 3,
    )
    assert [step for step, _ in told] == [1, 2, 3]
    assert all(np.isfinite(loss) for _, loss in told)
    assert "6 crops" in model.card.training


def bright_balls(seed):
    rng = np.random.default_rng(seed)
    places = rng.permutation(np.stack(np.mgrid[8:40:16, 8:56:16, 8:56:16], -1).reshape(-1, 3))
    centres = places[:8] + rng.uniform(-3, 3, (8, 3))
    grid = np.moveaxis(np.indices((40, 56, 56)), 0, -1)
    values = rng.normal(size=grid.shape[:3])
    for centre in centres:
        values[np.linalg.norm(grid - centre, axis=-1) < 4] += 3
    picks = Picks.from_indices(centres, "ball", voxel_size=10, radii=40.0)
    return Volume(values.astype(np.float32), 10.0), picks


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_learns(network, without_thresholds):
    losses = []
    steps = 24 if network == "cryoet3dcnn" else 16
    train(
        [bright_balls(0)],
        network=network,
        steps=steps,
        on_step=lambda _, loss: losses.append(loss),
    )
    learnt = losses[: 3 * steps // 4]  # before the statistics are frozen, too early for them here
    assert np.mean(learnt[-5:]) < 0.8 * np.mean(learnt[:5])


def test_a_unet_finds_bright_balls_after_a_short_training():
    model = train([bright_balls(0), bright_balls(1)], network="unet", steps=60)
    volume, truth = bright_balls(2)
    scores = evaluate_picks(pick_particles(volume, model, device="cpu"), truth)
    assert scores.mean_f > 0.9


def test_going_on_learns_faster_than_fine_tuning_and_with_new_statistics(
    example, without_thresholds
):
    base = train([example], network="unet", steps=1)
    gently, on = (
        state_of(train([example], base=base, steps=8, fine_tune=gentle)) for gentle in (True, False)
    )
    old = state_of(base)
    for name, value in old.items():
        if name.endswith("running_mean"):
            assert torch.equal(gently[name], value)
            assert not torch.equal(on[name], value)
    stem = "stem.0.weight"
    assert 0 < (gently[stem] - old[stem]).norm() < 0.6 * (on[stem] - old[stem]).norm()


def test_the_output_of_a_new_class_learns_before_all_else(example, without_thresholds):
    base = train([example], network="unet", steps=1)
    volume, truth = bright_balls(0)
    tuned = train([(volume, truth)], base=base, steps=0)
    unchanged = {key: value for key, value in state_of(base).items() if "head" not in key}
    for key, value in unchanged.items():
        torch.testing.assert_close(state_of(tuned)[key], value)
    (scores,) = score_particles(volume, tuned, device="cpu")
    cells = np.rint((truth.positions - scores.origin) / scores.voxel_size).astype(int)
    at = scores.values[tuple(cells.T)]
    assert np.median(at) > np.percentile(scores.values, 95)


def test_nothing_to_learn_from_is_an_error(example):
    volume, picks = example
    with pytest.raises(Vox3dError, match="no particles"):
        train([])
    with pytest.raises(Vox3dError, match="no particles"):
        train([example], classes=[ParticleClass(name="z", radius=50, colour="#000000")])
    with pytest.raises(Vox3dError, match="How large is 'a'"):
        train([(volume, Picks(picks.positions, picks.labels))])
