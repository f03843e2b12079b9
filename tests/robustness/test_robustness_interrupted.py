"""Work that is killed: training goes on to the same end, batches and reviews lose nothing done."""

import hashlib
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from ase import io
from ase.build import bulk
from nursery import die, die_after, lines_of
from test_robustness_writing import done

import napari_vox3d as vox
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
STEPS = 4


def warm():
    import torch  # noqa: F401
    from napari.components import ViewerModel  # noqa: F401

    from napari_vox3d.gui import reviewed_layer  # noqa: F401
    from napari_vox3d.training import elf_fit, picking  # noqa: F401


# --- training ------------------------------------------------------------------------------------


def fit_elf(**options):
    from napari_vox3d.training.elf_examples import prepare_example
    from napari_vox3d.training.elf_fit import fit_elf

    crystals = [bulk("Si"), bulk("NaCl", "rocksalt", 5.64)]
    elfs = [vox.predict_elf(atoms, "promolecule", spacing=0.4) for atoms in crystals]
    examples = [prepare_example(elf, ["invariants"], 0.5) for elf in elfs]
    arguments = {"base": 8, "blocks": 1, "kernel": 1, "attention_every": 0}
    network, _ = fit_elf(examples, arguments=arguments, device="cpu", **options)
    return network


def train_picker(**options):
    from napari_vox3d.training import picking
    from napari_vox3d.training.picker_forms import DenseForm

    DenseForm.edge = 32
    picking.estimate_thresholds = lambda model, *_, **__: {
        kind.name: 0.5 for kind in model.card.classes
    }
    rng = np.random.default_rng(0)
    values = rng.normal(size=(24, 32, 40)).astype(np.float32)
    picks = Picks.from_indices(
        rng.uniform(4, 20, (4, 3)), ["a", "b", "a", "b"], voxel_size=10, radii=[60, 90, 60, 90]
    )
    example = Volume(values, 10.0, name="t"), picks
    options = {"base": None, "network": "unet", "device": "cpu", **options}
    return picking.train_picker([example], **options).network()


TRAININGS = {"ELF": fit_elf, "picker": train_picker}


def train(kind, checkpoint):
    """Train to the end, saving at each step; gives a digest of the weights."""
    from napari_vox3d.training import loop

    loop._SAVE_EVERY = -1.0
    network = TRAININGS[kind](steps=STEPS, checkpoint=checkpoint)
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def train_and_die(kind, checkpoint, step, share):
    """Be killed after a share of the lines that save a step, or as soon as it is told of."""
    from napari_vox3d.training import loop

    save = loop.save_checkpoint

    def save_and_die(*arguments):
        if arguments[4] == step:
            shutil.copy(checkpoint, f"{checkpoint}.before")
            lines = lines_of(save, *arguments)
            shutil.copy(f"{checkpoint}.before", checkpoint)
            die_after(int(share * lines))
        save(*arguments)

    def on_step(done, _loss):
        if done == step and not share:
            die()

    loop.save_checkpoint, loop._SAVE_EVERY = save_and_die, -1.0
    TRAININGS[kind](steps=STEPS, checkpoint=checkpoint, on_step=on_step)


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_killed_training_ends_as_if_nothing_had_been(nursery, long, cases, tmp_path, kind):
    straight = done(nursery.do(train, kind, None))
    shares = [0, *np.linspace(0.05, 1, 12)] if long else [0.97]
    for number, share in enumerate(shares):
        checkpoint = tmp_path / f"{number}.safetensors"
        life = nursery.do(train_and_die, kind, checkpoint, 2 + number % 2, share)
        assert life.signal == signal.SIGKILL, life.error
        assert checkpoint.exists()
        again = nursery.do(train, kind, checkpoint)
        assert done(again) == straight
        cases(life)


def make_model(*, name, checkpoint, **_):
    """Stand in for a training that is done and is to be saved."""
    from samples import elf_model

    checkpoint.write_bytes(b"state")
    model = elf_model()
    return model.with_card(model.card.model_copy(update={"name": name}))


def finish(folder):
    from napari_vox3d.training.drafts import Draft

    Draft.named("mine", folder).train(make_model)


def finish_and_die(folder, lines):
    die_after(lines)
    finish(folder)


def count_lines(folder):
    return lines_of(finish, folder)


def state_of_draft(folder):
    from napari_vox3d.models import load_model

    folder = Path(folder)
    if (folder / "card.json").exists():
        load_model(folder).network()
        return "model"
    return "checkpoint" if (folder / "unfinished.safetensors").exists() else "nothing"


def test_a_trained_model_that_is_not_saved_yet_has_its_checkpoint(nursery, long, cases, tmp_path):
    finish(tmp_path / "first")
    lines = done(nursery.do(count_lines, tmp_path / "whole"))
    rng = random.Random(0)
    moments = range(0, lines, max(1, lines // 300)) if long else rng.sample(range(lines), 6)
    seen = set()
    for moment in moments:
        folder = tmp_path / str(moment)
        life = nursery.do(finish_and_die, folder, moment)
        assert not life.error
        state = done(nursery.do(state_of_draft, folder))
        assert life.signal == signal.SIGKILL or state == "model"  # lines are some more or fewer
        seen.add(state)
        cases(life)
    assert seen <= {"nothing", "checkpoint", "model"}  # nothing: before the training began
    assert not long or seen == {"nothing", "checkpoint", "model"}


# --- batches -------------------------------------------------------------------------------------


def crystals(folder):
    sources = []
    for symbol in ("Al", "Cu", "Si", "Na"):
        path = folder / f"{symbol}.vasp"
        io.write(path, bulk(symbol), format="vasp")
        sources.append(path)
    return sources


def batch(sources, folder, die_at=None, lines=None):
    """Predict ELFs; give the states of the files, in their order."""
    outcomes = []

    def on_outcome(outcome):
        outcomes.append(outcome)
        if len(outcomes) == die_at:
            die()

    if lines is not None:
        die_after(lines)
    states = vox.predict_elf_files(
        sources, folder, "promolecule", spacing=0.5, on_outcome=on_outcome
    )
    return [outcome.state for outcome in states]


def count_batch_lines(sources, folder):
    return lines_of(batch, sources, folder)


def contents(folder):
    return {
        path.name: round(float(vox.read_volume(path).values.sum()), 4)
        for path in Path(folder).iterdir()
        if not path.name.endswith(".part")
    }


def test_a_killed_batch_goes_on_where_it_was(nursery, long, cases, tmp_path):
    sources = crystals(tmp_path)
    lines = done(nursery.do(count_batch_lines, sources, tmp_path / "whole"))
    expected = contents(tmp_path / "whole")
    assert len(expected) == 4
    for number in range(1, 5 if long else 3):
        out = tmp_path / f"out {number}"
        life = nursery.do(batch, sources, out, number)
        assert life.signal == signal.SIGKILL
        again = done(nursery.do(batch, sources, out))
        assert again == ["skipped"] * number + ["done"] * (4 - number)
        assert contents(out) == expected
        cases(life)
    rng = random.Random(0)
    for moment in rng.sample(range(lines), 100 if long else 2):
        out = tmp_path / f"at {moment}"
        life = nursery.do(batch, sources, out, None, moment)
        assert life.signal == signal.SIGKILL, life.error
        assert contents(out).items() <= expected.items() if out.exists() else True
        assert done(nursery.do(batch, sources, out)).count("failed") == 0
        assert contents(out) == expected
        cases(life)


# --- reviews -------------------------------------------------------------------------------------


def review_and_die(home, decisions):
    """Decide on picks as *Review picks* does, rename one, move one, and be killed."""
    reviewed = open_review(home)
    for number in reviewed.review.numbers[:decisions].tolist():
        reviewed.go_to(number)
        reviewed.decide("rejected" if number % 2 else "accepted")
    reviewed.go_to(int(reviewed.review.numbers[decisions]))
    reviewed.relabel("another")
    layer = reviewed.layer
    layer.data = layer.data + [[1.0, 0, 0]] * (np.arange(len(layer.data)) == 0)[:, None]
    die()


def resume_review(home):
    reviewed = open_review(home)
    review = reviewed.review
    return {
        "states": review.states.tolist(),
        "labels": review.picks.labels.tolist(),
        "first": review.picks.positions[0].tolist(),
    }


def open_review(home):
    from napari.components import ViewerModel
    from napari.layers import Layer

    from napari_vox3d.curation import saved
    from napari_vox3d.gui.pick_layers import picks_layer
    from napari_vox3d.gui.reviewed_layer import ReviewedLayer

    saved.data_folder = lambda: Path(home)
    picks = Picks(np.arange(60.0).reshape(-1, 3) * 20, "a", np.linspace(0.2, 0.9, 20), radii=50)
    viewer = ViewerModel()
    layer = viewer.add_layer(Layer.create(*picks_layer(picks, name="picks")))
    return ReviewedLayer(viewer, layer)


@pytest.mark.parametrize("decisions", [1, 7])
def test_a_killed_review_loses_nothing(nursery, cases, tmp_path, decisions):
    before = done(nursery.do(resume_review, tmp_path / "other"))
    assert set(before["states"]) == {""}
    life = nursery.do(review_and_die, tmp_path, decisions)
    assert life.signal == signal.SIGKILL, life.error
    after = done(nursery.do(resume_review, tmp_path))
    kept = after["states"]
    assert kept == (["accepted", "rejected"] * 10)[:decisions] + ["accepted"] + [""] * (
        19 - decisions
    )
    assert after["labels"][decisions] == "another"
    assert np.subtract(after["first"], before["first"]).tolist() == pytest.approx([1, 0, 0])
    cases(life)
