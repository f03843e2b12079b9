import json
import subprocess
import sys

import numpy as np
import pytest

from napari_vox3d import Picks, Run, Volume, Vox3dError
from napari_vox3d.curation import ACCEPTED, REJECTED, UNDECIDED, Review
from napari_vox3d.curation.flags import near_border, on_extremes, overlapping
from napari_vox3d.curation.saved import keep, kept_rows, review_file

SCORES = (0.9, 0.52, 0.3, 0.75, np.nan)


def some(scores=SCORES, labels=("a", "a", "b", "a", "a")):
    positions = np.arange(len(scores))[:, None] * [0.0, 0.0, 100.0]
    return Picks(positions, labels, scores, radii=50.0, tomogram="t")


def review(**kwargs):
    return Review(some(**kwargs), {"a": 0.5, "b": 0.35})


def edited(reviewed, rows, positions=None):
    """The picks of a review in other rows, as napari leaves them."""
    picks = reviewed.picks.select(rows)
    if positions is None:
        return picks
    return Picks(positions, picks.labels, picks.scores, radii=picks.radii)


# --- order ---------------------------------------------------------------------------------------


def test_most_doubtful_first_and_hand_clicked_last():
    assert review().order().tolist() == [1, 2, 3, 0, 4]
    assert review().order([True, False, True, False, True]).tolist() == [2, 0, 4]


def test_picks_without_scores_go_from_slice_to_slice():
    picks = Picks([[30, 0, 0], [10, 5, 0], [10, 0, 0]], "a")
    assert Review(picks).order().tolist() == [2, 1, 0]


def test_without_thresholds_the_least_score_of_a_class_is_one():
    reviewed = Review(some())
    assert reviewed.thresholds == {"a": 0.52, "b": 0.3}
    assert reviewed.order().tolist() == [1, 2, 3, 0, 4]


def test_order_stays_when_a_pick_is_relabelled():
    reviewed = review()
    reviewed.relabel(1, "b")
    assert reviewed.order().tolist() == [1, 2, 3, 0, 4]


def test_steps_stop_at_the_ends():
    reviewed = review()
    order = reviewed.order()
    assert reviewed.after(None, order) == 1
    assert reviewed.after(1, order) == 2
    assert reviewed.after(1, order, -1) == 1
    assert reviewed.after(4, order) == 4
    assert reviewed.after(1, order[:0]) is None


def test_next_undecided_passes_over_decisions_and_comes_round():
    reviewed = review()
    reviewed.decide(2, REJECTED)
    order = reviewed.order()
    assert reviewed.next_undecided(1, order) == 3
    assert reviewed.next_undecided(4, order) == 1
    for number in order.tolist():
        reviewed.decide(number, ACCEPTED)
    assert reviewed.next_undecided(1, order) is None


# --- decisions -----------------------------------------------------------------------------------


def test_decisions_are_undone_and_done_again():
    reviewed = review()
    reviewed.decide(1, REJECTED)
    reviewed.relabel(2, "a")
    assert (reviewed.count(REJECTED), reviewed.count(ACCEPTED)) == (1, 1)
    assert reviewed.kept.counts() == {"a": 4}
    assert reviewed.undo() == 2
    assert reviewed.picks.labels[2] == "b"
    assert reviewed.states[2] == UNDECIDED
    assert reviewed.undo() == 1
    assert reviewed.undo() is None
    assert reviewed.redo() == 1
    assert reviewed.states[1] == REJECTED
    reviewed.decide(0, ACCEPTED)
    assert reviewed.redo() is None  # another decision came in between


def test_the_same_decision_again_is_no_step():
    reviewed = review()
    reviewed.decide(1, REJECTED)
    reviewed.decide(1, REJECTED)
    assert reviewed.undo() == 1
    assert reviewed.undo() is None


def test_rejecting_below_a_score_leaves_decisions_and_other_classes():
    reviewed = review()
    reviewed.decide(3, ACCEPTED)
    assert reviewed.reject_below("a", 0.8) == 1
    assert reviewed.states.tolist() == [UNDECIDED, REJECTED, UNDECIDED, ACCEPTED, UNDECIDED]
    assert reviewed.reject_below("a", 0.95) == 1
    reviewed.undo()
    assert reviewed.count(REJECTED) == 1
    assert reviewed.reject_below("a", 0.0) == 0
    assert Review(some()).reject_below("a", 0.8) == 2


def test_what_was_rejected_at_once_is_undone_at_once():
    reviewed = review()
    assert reviewed.reject_below("a", 0.8) == 2
    assert reviewed.undo() == 1
    assert reviewed.count(REJECTED) == 0
    reviewed.redo()
    assert reviewed.count(REJECTED) == 2


def test_a_deleted_pick_can_not_be_decided_on():
    reviewed = review()
    reviewed.follow(edited(reviewed, [0, 1]), [0, 1])
    with pytest.raises(Vox3dError, match="deleted"):
        reviewed.decide(4, ACCEPTED)


# --- edits by hand -------------------------------------------------------------------------------


def test_decisions_stay_with_their_picks_when_others_are_deleted_moved_or_added():
    reviewed = review()
    reviewed.decide(3, REJECTED)
    reviewed.decide(1, ACCEPTED)
    positions = reviewed.picks.positions[[1, 3, 0]]
    positions[0] += 7
    reviewed.follow(edited(reviewed, [1, 3, 0], positions), [1, 3, -1])
    assert reviewed.states.tolist() == [ACCEPTED, REJECTED, ACCEPTED]
    assert reviewed.numbers.tolist() == [1, 3, 5]
    assert np.isnan(reviewed.picks.scores[2])  # nobody scored what a person clicked
    assert reviewed.undo() == 1


def test_a_pasted_pick_is_another_one():
    reviewed = review()
    reviewed.decide(0, REJECTED)
    reviewed.follow(edited(reviewed, [0, 1, 2, 3, 4, 0]), [0, 1, 2, 3, 4, 0])
    assert reviewed.numbers.tolist() == [0, 1, 2, 3, 4, 5]
    assert reviewed.states.tolist()[-1] == ACCEPTED


def test_undo_passes_over_picks_that_were_deleted():
    reviewed = review()
    reviewed.decide(0, REJECTED)
    reviewed.decide(4, REJECTED)
    reviewed.follow(edited(reviewed, [0, 1, 2, 3]), [0, 1, 2, 3])
    assert reviewed.undo() == 0


def test_another_threshold_keeps_what_a_person_did():
    reviewed = review()
    reviewed.decide(1, ACCEPTED)
    reviewed.relabel(2, "a")
    moved = reviewed.picks.positions.copy()
    moved[3] += 20
    reviewed.follow(edited(reviewed, range(len(moved)), moved), reviewed.numbers)
    reviewed.follow(edited(reviewed, [1, 2, 3, 4]), [1, 2, 3, 4])  # 0 is deleted
    before = some()
    new = Picks([[0, 0, 900.0]], "a", [0.4], radii=50.0)
    found = Picks.concatenate([before.select([0, 2, 3]), new])  # 1 and 4 are not found any more
    reviewed.find_again(found)
    assert reviewed.numbers.tolist() == [1, 2, 3, 5]
    assert reviewed.states.tolist() == [ACCEPTED, ACCEPTED, UNDECIDED, UNDECIDED]
    assert reviewed.picks.positions[2].tolist() == moved[3].tolist()
    reviewed.find_again(found.select([0, 1, 2]))  # and back
    assert reviewed.numbers.tolist() == [1, 2, 3]


# --- keeping -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_vox3d.curation.saved.data_folder", lambda: tmp_path)
    return tmp_path


def test_a_review_goes_on_where_it_was(folder):
    first = review()
    first.decide(1, REJECTED)
    first.relabel(2, "c")
    first.look_at(0)
    moved = first.picks.positions.copy()
    moved[3] += 20
    first.follow(edited(first, range(len(moved)), moved), first.numbers)
    added = np.concatenate([moved[:4], [[0, 70, 70]]])
    first.follow(edited(first, [0, 1, 2, 3, 0], added), [0, 1, 2, 3, -1])  # 4 is deleted
    path = review_file(some())
    keep(path, first)
    again = review()
    again.resume(kept_rows(path))
    assert again.states.tolist() == [UNDECIDED, REJECTED, ACCEPTED, UNDECIDED, REJECTED, ACCEPTED]
    assert again.picks.labels.tolist() == ["a", "a", "c", "a", "a", "a"]
    assert again.picks.positions[3].tolist() == moved[3].tolist()
    assert again.seen.tolist() == [True, True, True, False, False, True]
    twice = review()
    twice.resume(json.loads(json.dumps(again.rows())))
    assert twice.states.tolist() == again.states.tolist()


def test_decisions_on_picks_that_are_not_found_now_come_back_with_them(folder):
    first = review()
    first.decide(1, ACCEPTED)
    first.decide(0, REJECTED)
    first.look_at(3)
    again = Review(some().select([2]), {"a": 0.8})
    again.resume(first.rows())
    assert again.states.tolist() == [UNDECIDED, REJECTED, ACCEPTED]
    again.find_again(some())  # the threshold is low again
    assert len(again) == 5
    assert sorted(again.states.tolist()) == [UNDECIDED] * 3 + [ACCEPTED, REJECTED]


def test_files_are_told_apart_by_tomogram_and_picks(folder):
    volume = Volume(np.zeros((4, 4, 4), "f4"), 10.0, name="t")
    other = Volume(np.zeros((5, 4, 4), "f4"), 10.0, name="t")
    assert review_file(some(), volume) == review_file(some(), volume)
    assert review_file(some(), volume) != review_file(some(), other)
    assert review_file(some(), volume) != review_file(some().select([0, 1]), volume)
    assert review_file(some(), volume) == review_file(some().select([4, 3, 2, 1, 0]), volume)
    run = Run("pick_particles", "t.mrc", {}, model="m", sha256="1").as_metadata()
    found = Picks([[0, 0, 0]], "a", metadata=run, tomogram="t")
    more = Picks([[0, 0, 0], [0, 0, 9]], "a", metadata=run, tomogram="t")
    assert review_file(found, volume) == review_file(more, volume)  # of any threshold


@pytest.mark.parametrize("text", ["", "{", "[]", '{"picks": [1]}', '{"picks": [{"at": 1}]}'])
def test_a_damaged_file_is_no_review(tmp_path, text):
    path = tmp_path / "review.json"
    path.write_text(text)
    assert kept_rows(path) == []
    assert kept_rows(tmp_path / "missing.json") == []


def test_a_killed_program_loses_nothing_that_was_decided(tmp_path):
    script = f"""
import os, signal, numpy as np
from pathlib import Path
from napari_vox3d import Picks
from napari_vox3d.curation import Review
from napari_vox3d.curation.saved import keep
review = Review(Picks(np.arange(30.0).reshape(-1, 3) * 100, "a"))
for number in range(7):
    review.decide(number, "rejected")
    keep(Path({str(tmp_path / "r.json")!r}), review)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert [row["state"] for row in kept_rows(tmp_path / "r.json")] == ["rejected"] * 7


# --- flags ---------------------------------------------------------------------------------------


def tomogram(seed=0, shape=(40, 60, 60)):
    values = np.random.default_rng(seed).normal(0, 1, shape).astype("f4")
    return Volume(values, 10.0, origin=np.array([500.0, 0, 0]), name="t")


def at(*index, radius=60.0):
    return Picks(np.array(index, float) * 10, "a", radii=radius, voxel_size=10.0)


def test_border_is_a_radius_away():
    volume = tomogram()
    picks = at((20, 30, 30), (5, 30, 30), (5.6, 30, 30), (20, 30, 54), (20, 53.4, 30))
    assert near_border(picks, volume).tolist() == [False, True, False, True, False]
    assert near_border(at((-3, 0, 0)), volume).all()


def test_overlap_is_a_centre_within_another():
    picks = Picks([[0, 0, 0], [0, 0, 50], [0, 0, 110.0]], "a", radii=[20.0, 60.0, 20.0])
    assert overlapping(picks).tolist() == [True, True, False]
    assert not overlapping(picks.select([0])).any()


def put_particles(volume, places, depth=-2.0):
    z, y, x = np.indices(volume.shape)
    for c in places:
        volume.values[(z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2 < 16] += depth


def test_gold_is_found_among_particles_and_particles_are_not_gold():
    volume = tomogram()
    places = [(20, y, x) for y in (10, 30, 50) for x in (10, 30, 50)]
    put_particles(volume, places)
    put_particles(volume, [(20, 40, 40)], depth=-15.0)
    marked = on_extremes(at(*places, (20, 41, 39)), volume)
    assert marked.tolist() == [False] * 9 + [True]


def test_a_wide_film_is_found_though_it_is_no_darker_than_particles():
    volume = tomogram(shape=(40, 60, 120))
    places = [(20, y, x) for y in (10, 30, 50) for x in (10, 30, 50)]
    put_particles(volume, places)
    volume.values[10:30, :, 85:] -= 1.5
    marked = on_extremes(at(*places, (20, 30, 105)), volume)
    assert marked.tolist() == [False] * 9 + [True]


def test_only_boxes_around_picks_are_read_and_progress_is_told():
    class Watched:
        def __init__(self, values):
            self.values, self.shape, self.ndim, self.largest = values, values.shape, 3, 0
            self.dtype = values.dtype

        def __getitem__(self, place):
            box = self.values[place]
            self.largest = max(self.largest, box.size)
            return box

    watched = Watched(np.random.default_rng(0).normal(size=(100, 100, 100)).astype("f4"))
    calls = []
    on_extremes(at((50, 50, 50)), Volume(watched, 10.0), progress=lambda *a: calls.append(a))
    assert 0 < watched.largest <= 26**3
    assert calls[-1][0] == calls[-1][1]
    assert len(on_extremes(at((1, 1, 1)).select([]), tomogram())) == 0
