from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import KDTree

from napari_vox3d import Picks, Vox3dError, evaluate_picks
from napari_vox3d.training.evaluation import (
    CZII_RADII,
    czii_score,
    match_picks,
    pair_tomograms,
    table_rows,
    threshold_curve,
)


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


# --- the score of the CZII challenge ------------------------------------------------------------


def czii_by_the_book(solution, submission):
    """The challenge's own steps, on lists of (tomogram, class, position)."""
    radii = {"apo-ferritin": 60, "beta-amylase": 65, "beta-galactosidase": 90, "ribosome": 150,
             "thyroglobulin": 130, "virus-like-particle": 135}  # fmt: skip
    weights = {"apo-ferritin": 1, "beta-amylase": 0, "beta-galactosidase": 2, "ribosome": 1,
               "thyroglobulin": 2, "virus-like-particle": 1}  # fmt: skip
    experiments = {row[0] for row in solution}
    total = 0.0
    for kind in {row[1] for row in solution}:
        tp = fp = fn = 0
        for experiment in experiments:
            true = np.array([r[2] for r in solution if r[:2] == (experiment, kind)])
            mine = np.array([r[2] for r in submission if r[:2] == (experiment, kind)])
            if not len(true):
                fp += len(mine)
                continue
            if not len(mine):
                fn += len(true)
                continue
            near = KDTree(mine).query_ball_tree(KDTree(true), r=0.5 * radii[kind])
            hits = len({match for matches in near for match in matches})
            tp, fp, fn = tp + hits, fp + len(mine) - hits, fn + len(true) - hits
        precision = tp / (tp + fp) if tp + fp > 0 else 0
        recall = tp / (tp + fn) if tp + fn > 0 else 0
        f = 17 * precision * recall / (16 * precision + recall) if precision + recall > 0 else 0.0
        total += f * weights[kind]
    return total / sum(weights.values())


@pytest.mark.parametrize("seed", range(6))
def test_czii_score_is_the_challenges(seed):
    rng = np.random.default_rng(seed)
    kinds = list(CZII_RADII)[: rng.integers(2, 7)]
    solution, submission = [], []
    for experiment in ("TS_1", "TS_2", "TS_3"):
        for kind in kinds:
            true = rng.uniform(0, 2000, (rng.integers(0, 12), 3))
            solution += [(experiment, kind, at) for at in true]
            shifted = np.repeat(true, 2, 0)[: rng.integers(0, 20)] + rng.normal(0, 30, 3)
            extra = rng.uniform(0, 2000, (rng.integers(0, 5), 3))
            submission += [(experiment, kind, at) for at in (*shifted, *extra)]
    submission += [("TS_9", kinds[0], np.zeros(3))]  # not in the solution: left out

    def collection(rows):
        names = dict.fromkeys(row[0] for row in rows)
        parts = {name: [row for row in rows if row[0] == name] for name in names}
        return [
            Picks(np.array([r[2] for r in part]), [r[1] for r in part], tomogram=name)
            for name, part in parts.items()
        ]

    found, true = pair_tomograms(collection(submission), collection(solution))
    assert czii_score(found, true) == pytest.approx(czii_by_the_book(solution, submission))


def test_beta_amylase_and_classes_of_others_do_not_count():
    truth = Picks.concatenate([at(0, label=name) for name in CZII_RADII])
    assert czii_score(truth, truth) == pytest.approx(1)
    kept = truth.select(truth.labels != "beta-amylase")
    others = Picks.concatenate([kept, at(0, 100, label="membrane")])
    assert czii_score(others, truth) == pytest.approx(1)


def test_tomograms_are_paired_by_name():
    a, b = replace(at(0), tomogram="A"), replace(at(500), tomogram="B")
    found, true = pair_tomograms([b], [a, b])
    score = evaluate_picks(found, true).classes["a"]
    assert (score.matched, score.picked, score.true) == (1, 1, 2)
    assert pair_tomograms([a], [b]) == ([a], [b])
    assert [len(part) for part in pair_tomograms([], [a, b])[0]] == [0, 0]
    assert len(pair_tomograms([], [a])[0][0]) == 0
    with pytest.raises(Vox3dError, match="no tomogram is in both"):
        pair_tomograms([a], [b, replace(b, tomogram="C")])
    with pytest.raises(Vox3dError, match="one tomogram"):
        pair_tomograms([a, a], [a, b])


def test_matches_say_which_are_right_missed_and_false():
    matches = match_picks(at(0, 5, 900), at(2, 500))
    assert matches.hit.tolist() == [True, False]
    assert matches.right.tolist() == [True, False, False]
    empty = Picks(np.zeros((0, 3)), "a")
    assert not match_picks(empty, at(0)).hit.any()


def scored(xs, scores, label="a"):
    return Picks([[0, 0, x] for x in xs], label, scores)


@pytest.mark.parametrize("seed", range(3))
def test_curve_is_what_evaluating_at_each_threshold_gives(seed):
    rng = np.random.default_rng(seed)
    picks = scored(rng.uniform(0, 2000, 60), rng.uniform(0, 1, 60).round(1))
    truth = at(*rng.uniform(0, 2000, 20))
    curve = threshold_curve(picks, truth, "a", beta=2)
    for threshold, f in zip(curve.thresholds, curve.f, strict=True):
        chosen = picks.select(picks.scores >= threshold)
        assert evaluate_picks(chosen, truth, beta=2).classes["a"].f == pytest.approx(f)


def test_best_threshold_is_the_middle_of_the_plateau():
    xs = [0, 300, 600, 900, 1200, 1500]
    curve = threshold_curve(scored(xs, [0.1, 0.2, 0.3, 0.7, 0.8, 0.9]), at(900, 1200, 1500), "a")
    assert curve.f.max() == 1
    assert curve.best == pytest.approx(0.7)
    assert threshold_curve(at(0), at(0), "a") is None
    assert threshold_curve(at(0), at(0), "b") is None


def test_table_has_a_row_for_all():
    rows = table_rows(evaluate_picks(at(0), at(0, 500), beta=4))
    assert [row["class"] for row in rows] == ["a", "all"]
    assert rows[0]["F4"] == pytest.approx(17 * 0.5 / 16.5)
    assert (rows[1]["matched"], rows[1]["missed"], rows[1]["false"]) == (1, 1, 0)
