import numpy as np
import pytest

from napari_vox3d import Picks
from napari_vox3d.models import ParticleClass
from napari_vox3d.training.thresholds import Confidence, best_threshold, logits

KIND = ParticleClass(name="a", radius=60, colour="#000000", threshold=0.77)


def row(count, first=0):
    return np.stack([np.zeros(count), np.zeros(count), 500.0 * (first + np.arange(count))], 1)


def candidates(true, false):
    """Picks at the particles 0, 1, ... with the scores `true`, and elsewhere."""
    places = np.concatenate([row(len(true)) + 5, row(len(false), first=len(true))])
    return Picks(places, "a", np.concatenate([true, false]))


def particles(*numbers):
    return Picks(row(40)[list(numbers)], "a")


def test_the_threshold_is_the_middle_of_the_plateau():
    found = candidates([0.9, 0.8], [0.2])
    assert best_threshold([found], [particles(0, 1)], KIND) == pytest.approx(0.5, abs=0.02)
    assert best_threshold([found.select([])], [particles(0, 1)], KIND) == 0.77


def confidence(found, shown, judges=None):
    return Confidence.of([found], [shown], KIND, None if judges is None else [judges])


def sigmoid(heights):
    return 1 / (1 + np.exp(-heights))


def test_some_particles_are_enough_for_a_threshold():
    rng = np.random.default_rng(0)
    true, false = sigmoid(rng.normal(3, 0.7, 30)), sigmoid(rng.normal(-2, 0.7, 60))
    found = confidence(candidates(true, false), particles(2, 8, 9, 14, 20))
    assert (true >= found.threshold).mean() > 0.95
    assert (false >= found.threshold).mean() < 0.05
    assert found.expected == pytest.approx(25, abs=5)  # without the known ones
    assert found.share_at(sigmoid(3.0)) > 0.9
    assert found.share_at(sigmoid(-2.0)) < 0.1


def test_scores_that_most_others_have_too_are_not_sure():
    rng = np.random.default_rng(0)
    true, false = sigmoid(rng.normal(2, 1, 30)), sigmoid(rng.normal(0, 1, 300))
    found = confidence(candidates(true, false), particles(*range(0, 30, 2)))
    assert found.expected < 60
    assert found.share_at(sigmoid(1.5)) < 0.5


def test_particles_that_were_trained_on_do_not_raise_the_threshold():
    true = np.r_[np.full(9, 0.99), 0.78, 0.8, 0.82, np.linspace(0.7, 0.9, 20)]
    found = candidates(true, np.full(15, 0.2))
    shown, judges = particles(*range(9)), particles(9, 10, 11)
    assert confidence(found, shown).threshold > 0.9
    assert 0.2 < confidence(found, shown, judges).threshold < 0.75


def test_recall_counts_particles_that_are_not_found():
    found = confidence(candidates([0.9, 0.9, 0.9], []), particles(0, 1, 2, 30))
    assert found.recall[0] == pytest.approx(0.75)
    assert np.interp(logits(0.9), found.levels, found.recall) == pytest.approx(0.375, abs=0.01)
    assert (np.diff(found.recall) <= 0).all()


def test_without_particles_found_there_is_no_threshold():
    found = candidates([], [0.4, 0.3])
    assert confidence(found, particles(30, 31)).threshold is None
    assert confidence(found, particles()).threshold is None
    assert not confidence(found, particles(30)).share_at([0.9]).any()


def test_all_particles_may_be_known():
    found = confidence(candidates([0.9] * 4, [0.1] * 4), particles(0, 1, 2, 3))
    assert 0.1 < found.threshold < 0.9


def test_judges_that_are_not_found_lower_recall_alone():
    found, shown = candidates([0.9] * 4, [0.1] * 4), particles(0, 1, 2, 3)
    alone, judged = confidence(found, shown), confidence(found, shown, particles(30))
    assert judged.threshold == alone.threshold
    np.testing.assert_allclose(judged.recall, 0.8 * alone.recall)
