import numpy as np
import pytest

from napari_vox3d import Picks, Volume, evaluate_picks, pick_particles
from napari_vox3d.models import Model, ModelCard, NetworkSpec, ParticleClass, PickingInput
from napari_vox3d.networks import build
from napari_vox3d.training import unlabelled
from napari_vox3d.training.picker_forms import DenseForm, form_of
from napari_vox3d.training.picking import train_picker
from napari_vox3d.training.unlabelled import Unlabelled, region_of

INPUT = PickingInput(voxel_size=10, normalisation="none")
KIND = ParticleClass(name="a", radius=40, colour="#000000")
PLACES = np.array([[20.0, 20, 20 + 12 * n] for n in range(12)])  # voxels


@pytest.fixture
def volume():
    return Volume(np.random.default_rng(0).normal(size=(40, 40, 176)).astype(np.float32), 10.0)


def picks_at(places, scores=None, label="a"):
    return Picks.from_indices(places, label, voxel_size=10, radii=40.0, scores=scores)


def make(volume, known, kinds=(KIND,)):
    return Unlabelled([(volume, known)], kinds, INPUT, None, "cpu", lambda *_: None)


def model(classes=("a",)):
    arguments = {"num_classes": len(classes) + 1, "channels": 8, "levels": 1, "blocks": ["C3"]}
    card = ModelCard(
        name="m", title="M", task="picking", input=INPUT,
        network=NetworkSpec(name="DensePicker", arguments=arguments),
        classes=[ParticleClass(name=name, radius=40, colour="#000000") for name in classes],
        background=len(classes), training="None.", licence="BSD-3-Clause", version="1",
    )  # fmt: skip
    return Model(card, build("DensePicker", **arguments).state_dict())


def places_of(particles):
    return particles.positions[:, 2].round().tolist()


def test_every_fourth_particle_judges_and_is_not_shown(volume):
    given = picks_at(PLACES[:6])
    (tomogram,) = make(volume, given).tomograms
    assert places_of(tomogram.particles) == [20, 44, 56, 68]
    assert places_of(tomogram.doubtful) == [32, 80]
    target = tomogram.target(DenseForm.target, np.array([0, 0, 0]), 2, np.arange(0.5, 40, 2))
    assert target[0].any()
    assert not target[:, 10, 10, 16].any()  # where a judge is nothing is asked


def test_a_look_sorts_what_was_found(volume, monkeypatch):
    found = picks_at(PLACES + 0.3, np.r_[np.full(8, 0.97), 0.5, 0.4, 0.1, 0.08])
    monkeypatch.setattr(Unlabelled, "_found", lambda *_: [found])
    (tomogram,) = make(volume, picks_at(PLACES[:5])).look(model())
    # the judge, number 1, is found by itself like numbers 5 to 7
    assert sorted(places_of(tomogram.particles)) == [20, 32, 44, 56, 68, 80, 92, 104]
    assert places_of(tomogram.doubtful) == [32]
    assert tomogram.traps[:, 2].round().tolist() == [116, 128, 140, 152]


def test_no_more_is_taken_than_a_few_for_each_known_one(volume, monkeypatch):
    monkeypatch.setattr(unlabelled, "_MOST", 1)
    found = picks_at(PLACES, np.full(12, 0.97))
    monkeypatch.setattr(Unlabelled, "_found", lambda *_: [found])
    (tomogram,) = make(volume, picks_at(PLACES[:3])).look(model())
    assert len(tomogram.particles.labels) == 2 + 2  # one for each that was shown


def test_no_look_expects_more_than_one_before_it(volume, monkeypatch):
    some = picks_at(PLACES, np.r_[np.full(6, 0.97), np.full(6, 0.2)])
    all_ = picks_at(PLACES, np.full(12, 0.97))
    monkeypatch.setattr(Unlabelled, "_found", lambda _, found: [found])
    known = picks_at(PLACES[:4])
    alone, after = make(volume, known), make(volume, known)
    after.look(some)
    assert len(after.look(all_)[0].particles.labels) < len(alone.look(all_)[0].particles.labels)


def test_a_new_class_starts_from_the_one_it_looks_like(volume, monkeypatch):
    kinds = [KIND, ParticleClass(name="b", radius=40, colour="#000000")]
    known = Picks.concatenate([picks_at(PLACES[:4]), picks_at(PLACES[4:8], label="b")])
    found = Picks.concatenate(
        [picks_at(PLACES[:4], [0.9] * 4, "x"), picks_at(PLACES[4:8], [0.2] * 4, "y")]
    )
    monkeypatch.setattr(Unlabelled, "_found", lambda *_: [found])
    base = model(("y", "x"))
    alike = make(volume, known, kinds).likeness(base)
    assert alike == {"a": "x"}
    old = base.network().state_dict()["head.weight"]
    new = form_of(base, kinds, alike).network.state_dict()["head.weight"]
    assert (new[0] == old[1]).all()
    assert not (new[1] == old[0]).all()


@pytest.mark.parametrize(
    ("name", "score", "bounded"), [("a", 0.97, 1), ("b", 0.97, 1), ("a", 0.6, 0)]
)
def test_a_model_that_finds_a_class_bounds_how_many_there_are(
    volume, monkeypatch, name, score, bounded
):
    """What it found before it was trained on the clicks, by whatever name, is not too hopeful."""
    before = picks_at(PLACES, np.r_[np.full(6, score), np.full(6, 0.2)])
    all_ = picks_at(PLACES, np.full(12, 0.97), name)
    known, kinds = picks_at(PLACES[:4], label=name), [KIND.model_copy(update={"name": name})]
    alone, after = make(volume, known, kinds), make(volume, known, kinds)
    monkeypatch.setattr(Unlabelled, "_found", lambda *_: [before])
    assert after.likeness(model(("b", "a")) if name == "a" else model()) == {name: "a"}
    monkeypatch.setattr(Unlabelled, "_found", lambda *_: [all_])
    taken = [len(each.look(model())[0].particles.labels) for each in (after, alone)]
    assert (taken[0] < taken[1]) == bounded


def test_a_model_that_was_trained_on_the_clicks_is_not_taken_at_its_word(volume, monkeypatch):
    """It is surer of them than of the others, of which there are seven with the judge."""
    scores = np.r_[0.99, 0.9, 0.99, 0.99, np.full(6, 0.9), 0.1, 0.1]
    unlabelled = make(volume, picks_at(PLACES[:4]))
    monkeypatch.setattr(Unlabelled, "_found", lambda *_: [picks_at(PLACES, scores)])
    unlabelled.likeness(model())
    (tomogram,) = unlabelled.look(model())
    assert sorted(places_of(tomogram.particles)) == [20 + 12 * n for n in range(10)]


@pytest.mark.parametrize(("name", "score", "looks"), [("a", 0, 1), ("b", 0.9, 1), ("b", 0.6, 0)])
def test_a_model_looks_at_once_for_what_it_knows(volume, monkeypatch, name, score, looks):
    seen = []
    monkeypatch.setattr(DenseForm, "edge", 32)
    monkeypatch.setattr(Unlabelled, "_found", lambda *_: [picks_at(PLACES, [score] * 12, "a")])
    monkeypatch.setattr(Unlabelled, "judge", lambda *_: None)
    monkeypatch.setattr(Unlabelled, "look", lambda self, _: seen.append(1) or self.tomograms)
    known = picks_at(PLACES[:6], label=name)
    trained = train_picker([(volume, known)], base=model(), labels="some", steps=1, device="cpu")
    assert len(seen) == looks
    assert "6 particles known among others" in trained.card.training


def test_rejected_picks_stay_traps(volume, monkeypatch):
    found = picks_at(PLACES + 0.3, np.full(12, 0.97))
    monkeypatch.setattr(Unlabelled, "_found", lambda *_: [found])
    decisions = ["accepted"] * 5 + ["rejected"]
    known = Picks.from_indices(PLACES[:6], "a", voxel_size=10, radii=40.0, decisions=decisions)
    unlabelled = make(volume, known)
    (before,) = unlabelled.tomograms
    (after,) = unlabelled.look(model())
    for tomogram in (before, after):
        assert tomogram.traps[:, 2].round().tolist() == [80]
        assert 80 not in places_of(tomogram.particles)
        assert 80 not in places_of(tomogram.doubtful)
    assert len(after.particles.labels) > len(before.particles.labels)


def test_small_tomograms_are_looked_at_as_a_whole(volume):
    assert region_of(volume, picks_at(PLACES), 10.0) == (slice(0, 40), slice(0, 40), slice(0, 176))


def test_of_large_tomograms_the_surroundings_of_the_clicks(volume, monkeypatch):
    monkeypatch.setattr(unlabelled, "_LOOKED_AT", 40 * 40 * 88)
    known = picks_at(PLACES[8:])
    region = region_of(volume, known, 10.0)
    assert region[:2] == (slice(0, 40), slice(0, 40))
    assert 80 <= region[2].stop - region[2].start <= 88
    assert region[2].stop == 176
    assert region_of(volume, known, 20.0)[2] == slice(0, 176)  # eight times fewer voxels
    apart = picks_at(PLACES[[0, 7, 8, 9, 10, 11]])
    (tomogram,) = make(volume, apart).tomograms
    assert places_of(tomogram.particles) == [20, 104, 128, 140, 152]  # 116 judges
    start = np.array([4, 4, 4])
    target = tomogram.target(DenseForm.target, start, 2, np.arange(0.5, 32, 2))
    assert target[0].any()
    assert not target[1].any()  # what is not looked at is not taken for empty


def bright_balls(seed):
    rng = np.random.default_rng(seed)
    places = rng.permutation(np.stack(np.mgrid[8:40:16, 8:72:16, 8:72:16], -1).reshape(-1, 3))
    centres = places[:20] + rng.uniform(-3, 3, (20, 3))
    grid = np.moveaxis(np.indices((40, 72, 72)), 0, -1)
    values = rng.normal(size=grid.shape[:3])
    for centre in centres:
        values[np.linalg.norm(grid - centre, axis=-1) < 4] += 3
    return Volume(values.astype(np.float32), 10.0), picks_at(centres, label="ball")


def test_five_clicks_find_the_other_particles(monkeypatch):
    monkeypatch.setattr(DenseForm, "edge", 32)
    volume, truth = bright_balls(0)
    clicks = truth.select(range(5))
    trained = train_picker(
        [(volume, clicks)], network="unet", labels="some", steps=60, device="cpu"
    )
    assert "5 particles known among others" in trained.card.training
    assert "every fourth" in trained.card.training
    other, true = bright_balls(1)
    scores = evaluate_picks(pick_particles(other, trained, device="cpu"), true)
    assert scores.mean_f > 0.9
