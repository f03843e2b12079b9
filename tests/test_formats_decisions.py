import csv

import numpy as np
import pytest
import starfile

from napari_vox3d.formats import PICK_FORMATS, read_picks, write_pick_collection, write_picks
from napari_vox3d.picks import Picks
from napari_vox3d.training.evaluation import evaluate_picks
from napari_vox3d.volume import Volume

DECISIONS = ["accepted", "", "rejected"]


@pytest.fixture
def picks():
    return Picks(
        [[0.0, 10, 20], [100, 10, 20], [200, 10, 20]], "a", [0.9, 0.8, 0.7], radii=30,
        tomogram="tomo", shape=(40, 40, 40), voxel_size=10.0, decisions=DECISIONS,
    )  # fmt: skip


@pytest.mark.parametrize("format", [name for name, f in PICK_FORMATS.items() if f.decisions])
def test_decisions_go_into_files_and_back(picks, format, tmp_path):
    path = tmp_path / f"picks{PICK_FORMATS[format].suffix}"
    write_picks(path, picks, format)
    assert read_picks(path).decisions.tolist() == DECISIONS
    write_picks(path, picks.select([1]), format)
    assert read_picks(path).decisions.tolist() == [""]


def test_the_words_of_a_file_can_be_read_by_people(picks, tmp_path):
    write_picks(tmp_path / "picks.csv", picks)
    with (tmp_path / "picks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["review"] for row in rows] == ["accepted", "undecided", "rejected"]
    write_picks(tmp_path / "picks.star", picks)
    assert starfile.read(tmp_path / "picks.star")["vox3dReview"].tolist() == [
        "accepted", "undecided", "rejected",
    ]  # fmt: skip


@pytest.mark.parametrize("format", ["dynamo", "cbox", "imod", "coords", "eman2"])
def test_other_formats_are_given_no_rejected_picks(picks, format, tmp_path):
    path = tmp_path / f"picks{PICK_FORMATS[format].suffix}"
    write_picks(path, picks, format)
    again = read_picks(path, Volume(np.zeros((40, 40, 40)), 10.0, name="tomo"), format)
    assert len(again) == 2
    assert again.decisions is None


def test_picks_that_nobody_reviewed_have_no_column(picks, tmp_path):
    plain = picks.select([0, 1])
    plain = Picks(plain.positions, plain.labels, voxel_size=10.0, shape=(40, 40, 40))
    for name in ("picks.csv", "picks.star"):
        write_picks(tmp_path / name, plain)
        assert "eview" not in (tmp_path / name).read_text()
        assert read_picks(tmp_path / name).decisions is None


def test_a_collection_keeps_what_is_known(picks, tmp_path):
    other = Picks([[5.0, 5, 5]], "a", tomogram="second", shape=(9, 9, 9), voxel_size=10.0)
    for name in ("all.csv", "all.star"):
        write_pick_collection(tmp_path / name, [picks, other])
        assert read_picks(f"{tmp_path / name}::second").decisions.tolist() == [""]
        assert read_picks(f"{tmp_path / name}::tomo").decisions.tolist() == DECISIONS


def test_any_other_word_is_no_decision(tmp_path):
    (tmp_path / "picks.csv").write_text(
        "z_angstrom,y_angstrom,x_angstrom,review\n1,2,3,Rejected\n1,2,3,perhaps\n1,2,3,\n"
    )
    assert read_picks(tmp_path / "picks.csv").decisions.tolist() == ["rejected", "", ""]


def test_decisions_go_along(picks):
    assert picks.select([2, 0]).decisions.tolist() == ["rejected", "accepted"]
    assert picks.kept.decisions.tolist() == ["accepted", ""]
    plain = Picks(np.zeros((1, 3)), "a")
    assert plain.kept is plain
    assert Picks.concatenate([plain, picks]).decisions.tolist() == ["", *DECISIONS]
    assert Picks.concatenate([plain, plain]).decisions is None


def test_rejected_picks_are_not_counted(picks):
    truth = Picks(picks.positions[:2], "a", radii=30.0)
    assert evaluate_picks(picks, truth).classes["a"].precision == 1
