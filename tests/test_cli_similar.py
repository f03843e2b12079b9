import numpy as np
import pytest
from embeddings import embedding, tomogram
from typer.testing import CliRunner

import napari_vox3d as vox
from napari_vox3d.cli import app

VOLUME, PICKS = tomogram()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("similar")
    vox.write_volume(here / "tomogram.mrc", VOLUME)
    vox.write_picks(here / "picks.star", PICKS)
    embedding().save(here / "model")
    return here


def run(folder, command, *words):
    tail = ["--model", folder / "model", "--device", "cpu"]
    words = [command, folder / "tomogram.mrc", folder / "picks.star", *words, *tail]
    return CliRunner().invoke(app, [str(word) for word in words])


def test_similar_ranks_and_finds(folder, tmp_path):
    ranked = tmp_path / "ranked.star"
    options = ("--class", "ball", "--among", folder / "picks.star", "--threshold=-9", "-o", ranked)
    result = run(folder, "similar", *options)
    assert result.exit_code == 0, result.output
    assert "20 ball, 20 rod" in " ".join(result.output.split())
    picks = vox.read_picks(ranked, VOLUME)
    assert (picks.labels[np.argsort(-picks.scores)][:18] == "ball").all()
    found = tmp_path / "found.star"
    result = run(folder, "similar", "--class", "ball", "--min-distance", 60, "-o", found)
    assert result.exit_code == 0, result.output
    new = vox.read_picks(found, VOLUME)
    if len(new):  # every ball is an example
        distance = np.linalg.norm(new.positions[:, None] - PICKS.of_class("ball").positions, axis=2)
        assert distance.min() > 59


def test_examples_of_several_classes_or_of_none_are_refused(folder, tmp_path):
    target = ("-o", tmp_path / "x.star")
    result = run(folder, "similar", *target)
    assert result.exit_code == 2
    assert "name one with --class" in result.stderr
    result = run(folder, "similar", "--class", "ribosome", *target)
    assert result.exit_code == 2
    assert "No example is of class 'ribosome'" in result.stderr


def test_cluster_names_the_groups(folder, tmp_path):
    target = tmp_path / "grouped.star"
    result = run(folder, "cluster", "--count", 2, "-o", target)
    assert result.exit_code == 0, result.output
    grouped = vox.read_picks(target, VOLUME)
    assert set(grouped.classes) == {"cluster-1", "cluster-2"}
    balls = grouped.labels[PICKS.labels == "ball"]
    assert (balls == balls[0]).mean() > 0.9
    result = run(folder, "cluster", "--count", 50, "-o", target)
    assert result.exit_code == 2
    assert "40 picks cannot be put into 50 groups" in result.stderr
