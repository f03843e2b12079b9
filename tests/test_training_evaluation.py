import numpy as np
import pytest

from napari_vox3d import Picks, Vox3dError, evaluate_picks


def at(*xs, label="a", radius=60.0):
    return Picks([[0, 0, x] for x in xs], label, radii=radius)


def test_exact_picks_score_one():
    score = evaluate_picks(at(0, 500), at(0, 500)).classes["a"]
    assert (score.precision, score.recall, score.f) == (1, 1, 1)


def test_second_pick_of_a_particle_is_false():
    score = evaluate_picks(at(0, 5, 500), at(0, 500)).classes["a"]
    assert (score.matched, score.picked, score.true) == (2, 3, 2)
    assert score.precision == pytest.approx(2 / 3)
    assert score.recall == 1


def test_one_pick_between_two_particles_matches_both():
    # The rule of the CZII challenge counts distinct particles hit.
    assert evaluate_picks(at(20), at(0, 40)).classes["a"].matched == 2


def test_radius_is_half_the_particle_radius_and_inclusive():
    assert evaluate_picks(at(30), at(0)).classes["a"].matched == 1
    assert evaluate_picks(at(30.1), at(0)).classes["a"].matched == 0
    assert evaluate_picks(at(30.1), at(0), radius=31).classes["a"].matched == 1
    assert evaluate_picks(at(30.1), at(0), radius={"a": 29}).classes["a"].matched == 0


def test_wrong_class_is_a_miss_and_a_false_pick():
    scores = evaluate_picks(at(0, label="b"), at(0, label="a"))
    assert scores.classes["a"].recall == 0
    assert (scores.classes["b"].picked, scores.classes["b"].true) == (1, 0)
    assert scores.mean_f == 0


def test_f_beta_of_hand_counted_numbers():
    # P = 1/2, R = 1/3: F4 = 17 P R / (16 P + R) = 0.34
    score = evaluate_picks(at(0, 900), at(0, 300, 600), beta=4).classes["a"]
    assert score.f == pytest.approx(17 / 6 / (8 + 1 / 3))


def test_counts_are_summed_over_tomograms_before_f():
    picks, truth = [at(0), at(0, 900)], [at(0), at(0, 300)]
    score = evaluate_picks(picks, truth).classes["a"]
    assert (score.matched, score.picked, score.true) == (2, 3, 3)


def test_czii_score_weighs_classes_and_misses_count():
    truth = Picks.concatenate([at(0, label="ribosome"), at(500, label="thyroglobulin")])
    picks = at(500, label="thyroglobulin")
    assert evaluate_picks(picks, truth, beta=4).weighted_f() == pytest.approx(2 / 7)


def test_no_picks_and_no_truth():
    empty = Picks(np.zeros((0, 3)), "a")
    assert evaluate_picks(empty, at(0)).classes["a"].f == 0
    assert evaluate_picks(empty, empty).mean_f == 0


def test_errors_say_what_is_missing():
    with pytest.raises(Vox3dError, match="tomograms"):
        evaluate_picks([at(0)], [at(0), at(0)])
    with pytest.raises(Vox3dError, match="radius"):
        evaluate_picks(at(0), Picks([[0, 0, 0]], "a"))
    with pytest.raises(Vox3dError, match="'a'"):
        evaluate_picks(at(0), at(0), radius={"b": 3})
