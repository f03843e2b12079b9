from dataclasses import replace

import numpy as np
import pytest
from embeddings import embedding, tomogram

import napari_vox3d as vox
from napari_vox3d.errors import Cancelled, InferenceError, ModelError
from napari_vox3d.inference.candidates import MeanParticle, in_memory
from napari_vox3d.inference.embedding import Embedder, window
from napari_vox3d.models import EmbeddingInput
from napari_vox3d.provenance import Run

TINY = embedding()
VOLUME, PICKS = tomogram()


@pytest.fixture(scope="module")
def vectors():
    return vox.embed_picks(VOLUME, PICKS, TINY)


def purity(groups, labels):
    return sum(
        np.unique(labels[groups == n], return_counts=True)[1].max() for n in np.unique(groups)
    ) / len(labels)


def test_vectors_are_of_length_one_and_do_not_depend_on_their_neighbours(vectors):
    assert vectors.shape == (40, 8)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    some = vox.embed_picks(VOLUME, PICKS.select([17, 3]), TINY)
    np.testing.assert_allclose(some, vectors[[17, 3]], atol=1e-5)
    assert vox.embed_picks(VOLUME, PICKS.select([]), TINY).shape == (0, 8)


def test_inverted_contrast_gives_the_same_vectors(vectors):
    bright = VOLUME.with_values(-VOLUME.values)
    for contrast in ("bright", "auto"):
        found = vox.embed_picks(bright, PICKS, TINY, contrast=contrast)
        np.testing.assert_allclose(found, vectors, atol=1e-4)


def test_another_binning_gives_nearly_the_same_vectors(vectors):
    fine = VOLUME.values.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    # The first voxel has its centre a quarter of a coarse voxel before that of the coarse one.
    picks = replace(PICKS, positions=PICKS.positions + 5, shape=fine.shape, voxel_size=10.0)
    found = vox.embed_picks(vox.Volume(fine, 10.0), picks, TINY)
    assert (found * vectors).sum(axis=1).min() > 0.99


def test_an_unknown_voxel_size_is_announced(vectors):
    unknown = vox.Volume(VOLUME.values, 1.0, calibrated=False, name="t")
    picks = replace(PICKS, positions=PICKS.indices, voxel_size=1.0)
    with pytest.warns(UserWarning, match="20 Å is assumed"):
        found = vox.embed_picks(unknown, picks, TINY)
    np.testing.assert_allclose(found, vectors, atol=1e-5)


def test_picks_outside_and_models_of_another_task_are_refused():
    outside = replace(PICKS, positions=PICKS.positions + 1000)
    with pytest.raises(InferenceError, match="picks lie outside t"):
        vox.embed_picks(VOLUME, outside, TINY)
    with pytest.raises(ModelError, match="not for embedding"):
        vox.embed_picks(VOLUME, PICKS, "unet-simulated")


def test_a_cancel_leaves_every_function():
    def cancel(done, total):
        raise Cancelled

    with pytest.raises(Cancelled):
        vox.embed_picks(VOLUME, PICKS, TINY, progress=cancel)
    with pytest.raises(Cancelled):
        vox.find_similar(VOLUME, PICKS, TINY, progress=cancel)


def test_window_is_a_soft_ball():
    soft = window(12)
    assert soft.shape == (12, 12, 12)
    assert soft[5:7, 5:7, 5:7].min() == 1
    assert soft[0, 0, 0] == 0
    np.testing.assert_array_equal(soft, soft[::-1].swapaxes(0, 2))


def test_peaks_of_the_mean_are_where_particles_are():
    view = in_memory(Embedder(VOLUME, TINY).view, lambda *_: None)
    balls = PICKS.of_class("ball").indices
    mean = MeanParticle(view, balls[:5], 12)
    places = mean.peaks(5.0, 60)
    nearest = np.linalg.norm(balls[5:, None] - places, axis=2).min(axis=1)
    assert nearest.max() < 1.8
    assert np.linalg.norm(balls[:5, None] - places, axis=2).min() >= 5
    between = np.linalg.norm(places[:, None] - places, axis=2) + 100 * np.eye(len(places))
    assert between.min() >= 5
    assert len(mean.peaks(5.0, 7)) == 7
    answers = mean.answers(balls[5:])
    assert mean.own_answers.mean() == pytest.approx(answers.mean(), rel=0.2)
    assert answers.min() > mean.answers(PICKS.of_class("rod").indices).max()
    alone = MeanParticle(view, balls[:1], 12)
    assert alone.own_answers > 0


def test_reading_by_slabs_changes_nothing():
    view = Embedder(vox.Volume(VOLUME.values, 13.0, name="t"), TINY).view
    kept = in_memory(view, lambda *_: None)
    assert kept.shape == view.shape
    box = (-3, 5, 2), (9, 17, 14)
    np.testing.assert_allclose(kept.read(*box), view.read(*box), atol=1e-5)
    places = np.array([[3.0, 4, 5]])
    np.testing.assert_allclose(kept.to_index(places), view.to_index(places))


def test_more_of_a_kind_are_found():
    balls = PICKS.of_class("ball")
    said = []
    found = vox.find_similar(
        VOLUME, balls.select(range(6)), TINY, candidates=60, threshold=0.5,
        progress=lambda done, total: said.append(done / total),
    )  # fmt: skip
    scores = vox.evaluate_picks(found, balls.select(range(6, 20))).classes["ball"]
    assert scores.f > 0.85
    assert (np.diff(found.scores) <= 0).all()
    assert found.radii[0] == 70
    assert found.shape == VOLUME.shape
    assert said == sorted(said)
    assert said[-1] == 1
    everything = vox.find_similar(VOLUME, balls.select(range(6)), TINY, candidates=60, threshold=-9)
    assert len(found) < len(everything) <= 60
    kept = everything.select(everything.scores >= 0.5)
    np.testing.assert_array_equal(kept.positions, found.positions)


def test_the_run_of_a_search_makes_a_script(tmp_path):
    path = tmp_path / "tomogram.mrc"
    vox.write_volume(path, VOLUME)
    TINY.save(tmp_path / "model")
    volume = vox.read_volume(path)
    balls = PICKS.of_class("ball").select(range(6))
    found = vox.find_similar(volume, balls, tmp_path / "model", candidates=20, threshold=0.1)
    run = Run.from_metadata(found.metadata)
    assert run.function == "find_similar"
    target = tmp_path / "found.star"
    exec(compile(run.as_script(save_as=str(target)), "script", "exec"), {})
    again = vox.read_picks(target, volume)
    np.testing.assert_allclose(again.positions, found.positions, atol=0.1)


def test_picks_are_ranked_among_others():
    balls = PICKS.of_class("ball").select(range(8))
    ranked = vox.find_similar(VOLUME, balls, TINY, among=PICKS, threshold=-9)
    assert len(ranked) == 40
    assert (ranked.labels[:18] == "ball").mean() > 0.9
    np.testing.assert_array_equal(ranked.radii, 70)
    kept = vox.find_similar(VOLUME, balls, TINY, among=PICKS)
    assert 15 <= len(kept) <= 25


def test_examples_are_needed():
    nothing = PICKS.select([])
    with pytest.raises(InferenceError, match="at least one"):
        vox.find_similar(VOLUME, nothing, TINY)
    with pytest.raises(InferenceError, match="at least one"):
        vox.likeness(np.ones((3, 2)), np.ones((0, 2)))
    assert len(vox.find_similar(VOLUME, PICKS, TINY, among=nothing)) == 0


def test_likeness_is_none_for_the_mean_and_one_for_the_examples(vectors):
    examples = vectors[PICKS.labels == "ball"]
    found = vox.likeness(vectors, examples)
    assert found.mean() == pytest.approx(0, abs=1e-6)
    assert found[PICKS.labels == "ball"].mean() == pytest.approx(1, abs=1e-6)
    assert found[PICKS.labels == "rod"].max() < 0.5
    np.testing.assert_allclose(vox.likeness(examples, examples, among=vectors), found[
        PICKS.labels == "ball"
    ])  # fmt: skip


def test_likeness_of_identical_vectors_is_a_number():
    assert np.isfinite(vox.likeness(np.ones((4, 3)), np.ones((1, 3)))).all()


def test_clusters_are_kinds_and_the_largest_comes_first(vectors):
    groups = vox.cluster_picks(vectors)
    assert purity(groups, PICKS.labels) > 0.9
    rng = np.random.default_rng(1)
    centres = np.eye(4)[:3] * 5
    kinds = np.repeat([0, 1, 2], [10, 30, 20])
    points = centres[kinds] + rng.normal(0, 0.2, (60, 4))
    groups = vox.cluster_picks(points)
    assert np.bincount(groups).tolist() == [30, 20, 10]
    assert purity(groups, kinds) == 1
    assert len(set(vox.cluster_picks(points, 5))) == 5
    assert set(vox.cluster_picks(points, 1)) == {0}


def test_many_picks_are_grouped_without_all_their_distances():
    rng = np.random.default_rng(2)
    kinds = rng.integers(0, 3, 5000)
    points = np.eye(3)[kinds] * 4 + rng.normal(0, 0.2, (5000, 3))
    assert purity(vox.cluster_picks(points), kinds) == 1


def test_few_or_identical_picks_are_grouped():
    assert vox.cluster_picks(np.ones((2, 3))).tolist() == [0, 0]
    assert vox.cluster_picks(np.zeros((0, 3))).tolist() == []
    assert set(vox.cluster_picks(np.ones((9, 3)), 3)) == {0}
    assert sorted(vox.cluster_picks(np.eye(3), 3)) == [0, 1, 2]
    with pytest.raises(InferenceError, match="3 picks cannot be put into 4 groups"):
        vox.cluster_picks(np.eye(3), 4)


def test_a_card_of_an_embedding_is_read_again(tmp_path):
    TINY.save(tmp_path / "model")
    card = vox.load_model(tmp_path / "model").card
    assert isinstance(card.input, EmbeddingInput)
    assert card.input.edge == 12
    with pytest.raises(ModelError, match="for embedding, not for picking"):
        vox.score_particles(VOLUME, tmp_path / "model")
