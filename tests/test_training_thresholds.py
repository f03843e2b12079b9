import numpy as np
import pytest

from napari_vox3d import Picks
from napari_vox3d.models import ParticleClass
from napari_vox3d.training.thresholds import (
    best_threshold,
    logits,
    recall_of_some,
    threshold_from_some,
)

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


def test_some_particles_are_enough_for_a_threshold():
    rng = np.random.default_rng(0)
    true = 1 / (1 + np.exp(-rng.normal(3, 0.7, 30)))
    false = 1 / (1 + np.exp(-rng.normal(-2, 0.7, 60)))
    threshold = threshold_from_some([candidates(true, false)], [particles(2, 8, 9, 14, 20)], KIND)
    assert (true >= threshold).mean() > 0.95
    assert (false >= threshold).mean() < 0.05


def test_particles_that_were_trained_on_do_not_raise_the_threshold():
    true = np.r_[np.full(9, 0.99), 0.78, 0.8, 0.82, np.linspace(0.7, 0.9, 20)]
    found = candidates(true, np.full(15, 0.2))
    shown, judges = particles(*range(9)), particles(9, 10, 11)
    assert threshold_from_some([found], [shown], KIND) > 0.9
    threshold = threshold_from_some([found], [shown], KIND, [judges])
    assert 0.2 < threshold < 0.75


def test_recall_counts_particles_that_are_not_found():
    found = candidates([0.9, 0.9, 0.9], [])
    levels, recall = recall_of_some([found], [particles(0, 1, 2, 30)], KIND)
    assert recall[0] == pytest.approx(0.75)
    assert np.interp(logits(0.9), levels, recall) == pytest.approx(0.375, abs=0.01)
    assert (np.diff(recall) <= 0).all()


def test_without_particles_found_the_threshold_stays():
    found = candidates([], [0.4, 0.3])
    assert threshold_from_some([found], [particles(30, 31)], KIND) == 0.77
    assert threshold_from_some([found], [particles()], KIND) == 0.77


def test_judges_that_are_not_found_leave_it_to_the_others():
    found = candidates([0.9] * 4, [0.1] * 4)
    shown = [particles(0, 1, 2, 3)]
    alone = threshold_from_some([found], shown, KIND)
    assert threshold_from_some([found], shown, KIND, [particles(30)]) == alone
