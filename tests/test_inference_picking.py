from pathlib import Path

import numpy as np
import pytest
import torch
from flips import MIRRORS, assert_mirrored_scores, extended, mirrored, noise
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

import napari_vox3d as vox
from napari_vox3d import Volume
from napari_vox3d.errors import Cancelled, InferenceError
from napari_vox3d.inference import dense
from napari_vox3d.inference.peaks import local_maxima
from napari_vox3d.inference.picking import find_particles, pick_particles, score_particles
from napari_vox3d.models import (
    Model,
    ModelCard,
    NetworkSpec,
    ParticleClass,
    PickingInput,
)
from napari_vox3d.networks.cryoet_cnn import CryoET3DCNN, DenseCryoET3DCNN

SAMPLE = Path(vox.__file__).parent / "gui/sample_data/simulated_tomogram.mrc"


def make_model(background=0, normalisation="robust", **particle):
    """A random network that is sure of something everywhere."""
    torch.manual_seed(3)
    network = DenseCryoET3DCNN(3, rank=4)
    network.classifier[3].weight.data *= 40
    kinds = [
        ParticleClass(name=name, radius=radius, colour="#000000", threshold=0.3, **particle)
        for name, radius in (("small", 60), ("large", 150))
    ]
    card = ModelCard(
        name="random",
        title="Random",
        task="picking",
        network=NetworkSpec(name="CryoET3DCNN", arguments={"num_classes": 3}),
        input=PickingInput(voxel_size=10, normalisation=normalisation),
        classes=kinds,
        background=background,
        training="None.",
        licence="BSD-3-Clause",
        version="7",
    )
    return Model(card, network.windowed_state())


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def tomogram():
    values = np.random.default_rng(1).normal(size=(32, 40, 48)).astype(np.float32)
    return Volume(values, 10.0, origin=[100, -50, 7], name="tomo", source="tomo.mrc")


@pytest.fixture(scope="module")
def maps(tomogram, model):
    return score_particles(tomogram, model, device="cpu")


def score_map(values, name="small", radius=60.0, threshold=0.3, origin=(15, 15, 15), **more):
    shape = tuple(4 * n for n in values.shape)
    tomogram = {"name": "tomo", "shape": shape, "voxel_size": [10.0] * 3, "origin": [0.0] * 3,
                "region": [(0, n) for n in shape]}  # fmt: skip
    metadata = {"radius": radius, "threshold": threshold, "min_distance": radius,
                "tomogram": tomogram, "provenance": {"model": "m"}, **more}  # fmt: skip
    return Volume(np.asarray(values, np.float32), 40.0, origin=origin, quantity="score",
                  name=name, metadata=metadata)  # fmt: skip


def bell(centre, shape=(8, 9, 10), height=0.9, width=1.2):
    offsets = np.moveaxis(np.indices(shape), 0, -1) - np.asarray(centre)
    logit = np.log(height / (1 - height)) - (offsets**2).sum(-1) / (2 * width**2)
    return 1 / (1 + np.exp(-logit))


def test_one_map_for_each_class_and_none_for_the_background(maps):
    assert [score.name for score in maps] == ["small", "large"]
    assert all(score.quantity == "score" and score.values.dtype == np.float32 for score in maps)
    total = maps[0].values + maps[1].values
    assert ((total > 0) & (total <= 1.00001)).all()
    assert maps[0].metadata["radius"] == 60
    assert maps[1].metadata["provenance"]["device"] == "cpu"
    assert maps[0].metadata["run"]["source"] == "tomo.mrc"


def test_maps_lie_in_the_frame_of_the_tomogram(maps, tomogram):
    assert maps[0].shape == (8, 10, 12)
    np.testing.assert_allclose(maps[0].voxel_size, 40)
    np.testing.assert_allclose(maps[0].origin, tomogram.origin + 15)


@pytest.mark.parametrize("exact", [True, False])
def test_scores_are_those_of_the_window_about_each_cell(tomogram, exact, monkeypatch):
    model = make_model()
    if not exact:  # the whole classifier, at stride 8
        monkeypatch.setattr(dense, "_HIGHEST_RANK", 1)
    maps = score_particles(tomogram, model, device="cpu")
    stride = 4 if exact else 8
    np.testing.assert_allclose(maps[0].voxel_size, 10 * stride)
    cell = np.array([2, 3, 2])
    view = dense.NetworkView.of(tomogram, 10, "robust")
    start = stride * cell + stride // 2 - 32 - 8
    window = torch.from_numpy(view.read(start, start + 80))[None, None]
    with torch.inference_mode():  # 8 voxels more on each side keep the zero padding away
        whole = model.network().dense().extract(window)[..., 1:-1, 1:-1, 1:-1]
        expected = model.network().classifier(whole.flatten(1)).softmax(1)[0]
    found = [float(score.values[tuple(cell)]) for score in maps]
    np.testing.assert_allclose(found, expected[1:], atol=1e-4)


def test_tiles_join_without_seams(maps, tomogram, model, monkeypatch):
    monkeypatch.setattr(dense, "_TILE", 32)
    monkeypatch.setattr(dense, "_SLAB", 5)
    for tiled, whole in zip(score_particles(tomogram, model, device="cpu"), maps, strict=True):
        np.testing.assert_allclose(tiled.values, whole.values, atol=1e-4)


def test_a_region_gives_the_same_scores_there(maps, tomogram, model):
    region = (slice(20, 28), (24, 40), slice(None))
    part = score_particles(tomogram, model, device="cpu", region=region)[1]  # and 15 voxels around
    np.testing.assert_allclose(part.values, maps[1].values[1:, 2:], atol=1e-4)
    np.testing.assert_allclose(part.origin, maps[1].to_world([1, 2, 0]))
    picks = find_particles([part], threshold=0.0, min_distance=20)
    inside = (picks.indices >= [19.5, 23.5, 0]) & (picks.indices <= [27.5, 39, 47])
    assert len(picks)
    assert inside.all()


def test_a_region_gives_the_picks_of_the_whole_that_lie_in_it():
    sample = vox.read_volume(SAMPLE)
    region = [(10, 90), (30, 160), (46, 146)]
    whole = vox.pick_particles(sample, device="cpu")
    low, high = np.array(region).T - 0.5
    whole = whole.select(((whole.indices >= low) & (whole.indices < high)).all(1))
    part = vox.pick_particles(sample, region=region, device="cpu")
    assert len(part) == len(whole) > 10
    assert (np.sort(part.labels) == np.sort(whole.labels)).all()
    assert cKDTree(part.positions).query(whole.positions)[0].max() < 2  # Å


@pytest.mark.parametrize("region", [[(5, 5), (0, 9), (0, 9)], [(90, 95), (0, 9), (0, 9)]])
def test_an_empty_region_is_refused(tomogram, model, region):
    with pytest.raises(InferenceError, match="no voxels"):
        score_particles(tomogram, model, device="cpu", region=region)


def test_stored_types_change_nothing(tomogram, model):
    stored = tomogram.with_values(np.round(tomogram.values * 20).astype(np.int8))
    as_float = tomogram.with_values(stored.values.astype(np.float64))
    for a, b in zip(score_particles(stored, model), score_particles(as_float, model), strict=True):
        np.testing.assert_array_equal(a.values, b.values)


def test_bright_tomograms_are_turned_round(maps, tomogram, model):
    turned = tomogram.with_values(-tomogram.values)
    again = score_particles(turned, model, contrast="bright")
    np.testing.assert_allclose(again[0].values, maps[0].values, atol=1e-4)


def test_another_voxel_size_is_rescaled(tomogram, model):
    fine = Volume(tomogram.values, 5.0, origin=[1, 2, 3])
    score = score_particles(fine, model, device="cpu")[0]
    assert score.shape == (4, 5, 6)
    np.testing.assert_allclose(score.voxel_size, 40)
    np.testing.assert_allclose(score.origin, fine.origin + 4 * 5 - 2.5)
    picks = find_particles([score], threshold=0.0)
    np.testing.assert_allclose(picks.voxel_size, 5)
    assert (picks.indices <= np.array(fine.shape) - 1).all()


def test_an_uncalibrated_tomogram_warns_and_takes_the_size_of_the_model(tomogram, model):
    unknown = Volume(tomogram.values, 1.0, calibrated=False, name="tomo")
    with pytest.warns(UserWarning, match="10 Å is assumed"):
        picks = pick_particles(unknown, model, threshold=0.0)
    np.testing.assert_allclose(picks.voxel_size, 10)


def test_progress_ends_at_the_total_and_can_cancel(tomogram, model):
    reports = []
    score_particles(tomogram, model, device="cpu", progress=lambda *r: reports.append(r))
    assert reports[-1][0] == reports[-1][1]
    assert reports == sorted(reports)
    assert len(reports) >= 3

    def stop(_done, _total):
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        score_particles(tomogram, model, device="cpu", progress=stop)


@pytest.mark.parametrize(
    ("shape", "voxel_size", "region", "axes"),
    [
        ((7, 44, 36), 10.0, [(2, 6), (8, 20), (4, 16)], (2,)),  # no multiples of 8 voxels
        ((14, 40, 24), 5.0, None, (1, 2)),
    ],
)
def test_averaged_scores_of_a_mirrored_tomogram_are_mirrored(
    model, shape, voxel_size, region, axes
):
    assert_mirrored_scores(model, shape, voxel_size, region, axes)


def test_averaged_scores_are_the_mean_over_mirror_images_made_by_hand():
    model = make_model(normalisation="none")  # which a margin does not change
    found = score_particles(noise((7, 15, 25)), model, device="cpu", flips=True)
    assert found[0].shape == (2, 4, 7)  # the last ones are not full
    wide = extended(noise((7, 15, 25)), [(64, 65), (64, 65), (64, 67)])
    region = [(64, 72), (64, 80), (64, 92)]
    images = [
        [np.flip(score.values[4:-4, 4:-4, 4:-4], axes) for score in  # without what lies around
         score_particles(mirrored(wide, axes), model, device="cpu", region=region)]
        for axes in ((), *MIRRORS)
    ]  # fmt: skip
    for score, expected in zip(found, np.mean(images, axis=0), strict=True):
        np.testing.assert_allclose(score.values, expected, atol=1e-5)
    picks = find_particles(found, threshold=0.0)
    assert picks.metadata["run"]["arguments"]["flips"] is True


def test_progress_goes_evenly_over_the_mirror_images_and_each_can_be_cancelled(model):
    reports, small = [], noise((8, 12, 16))
    score_particles(small, model, device="cpu", flips=True, progress=lambda *r: reports.append(r))
    assert reports == sorted(reports)
    assert reports[-1][0] == reports[-1][1]
    shares = np.array([done / total for done, total in reports])
    assert all(((shares > n / 4) & (shares <= (n + 1) / 4)).sum() >= 2 for n in range(4))

    def stop(done, total):
        if done > 0.8 * total:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        score_particles(small, model, device="cpu", flips=True, progress=stop)


def test_smaller_tiles_when_memory_runs_out(maps, tomogram, model, monkeypatch):
    extract = DenseCryoET3DCNN.extract

    def limited(self, volume, stride=8):
        if volume.numel() > 60**3:
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        return extract(self, volume, stride)

    monkeypatch.setattr(DenseCryoET3DCNN, "extract", limited)
    reports = []
    scores = score_particles(tomogram, model, progress=lambda *r: reports.append(r))
    np.testing.assert_allclose(scores[0].values, maps[0].values, atol=1e-4)
    assert reports[-1][0] == reports[-1][1]


def test_what_does_not_fit_at_all_is_a_clear_error(tomogram, model, monkeypatch):
    def full(self, volume, stride=8):
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(DenseCryoET3DCNN, "extract", full)
    with pytest.raises(InferenceError, match="too little memory"):
        score_particles(tomogram, model)


def test_other_failures_are_not_hidden(tomogram, model, monkeypatch):
    def broken(self, volume, stride=8):
        raise RuntimeError("something else")

    monkeypatch.setattr(DenseCryoET3DCNN, "extract", broken)
    with pytest.raises(RuntimeError, match="something else"):
        score_particles(tomogram, model)


def test_a_model_for_elf_is_refused(tomogram):
    with pytest.raises(vox.Vox3dError):
        score_particles(tomogram, "promolecule")


def test_a_network_of_another_kind_is_refused(tomogram):
    view = dense.NetworkView.of(tomogram, 10, "none")
    box = tuple(slice(0, n) for n in tomogram.shape)
    with pytest.raises(InferenceError, match="not by Linear"):
        dense.score_cells(
            torch.nn.Linear(1, 1), [[0]], view, box, torch.device("cpu"), torch.float32
        )


def test_the_dense_form_is_kept_with_its_network():
    network = CryoET3DCNN(2).eval()
    here = torch.device("cpu")
    assert dense._dense_form(network, here) is dense._dense_form(network, here)


@pytest.mark.parametrize("centre", [(3, 4, 5), (3.3, 4.2, 4.6), (2.8, 3.5, 5.45)])
def test_peaks_are_refined_between_the_cells(centre):
    picks = find_particles([score_map(bell(centre))])
    assert len(picks) == 1
    np.testing.assert_allclose(picks.positions[0], np.array(centre) * 40 + 15, atol=0.5)
    assert picks.labels[0] == "small"
    assert picks.radii[0] == 60
    assert picks.tomogram == "tomo"


@pytest.mark.parametrize("centre", [(9, 9, 9), (9.3, 10.2, 8.6), (8.8, 9.5, 10.45)])
def test_flat_peaks_are_refined_by_their_centre_of_mass(centre):
    distance = np.linalg.norm(np.moveaxis(np.indices((20, 20, 20)), 0, -1) - centre, axis=-1)
    flat = 0.9 / (1 + np.exp(4 * (distance - 3)))
    flat += np.random.default_rng(0).uniform(0, 0.02, flat.shape)
    picks = find_particles([score_map(flat, "large", radius=300.0)])
    assert len(picks) == 1
    np.testing.assert_allclose(picks.positions[0], np.array(centre) * 40 + 15, atol=12)


def test_peaks_at_the_edge_stay_inside():
    picks = find_particles([score_map(bell((0, 0, 9), width=3))])
    assert len(picks) == 1
    assert (picks.indices >= 0).all()
    assert (picks.indices <= np.array(picks.shape) - 1).all()


def test_thresholds_are_those_of_the_model_unless_given():
    scores = [score_map(bell((3, 4, 5), height=0.35)),
              score_map(bell((5, 4, 1), height=0.5), "large", 150.0)]  # fmt: skip
    assert find_particles(scores).counts() == {"large": 1, "small": 1}
    assert find_particles(scores, threshold=0.4).counts() == {"large": 1}
    assert find_particles(scores, threshold={"large": 0.6}).counts() == {"small": 1}
    assert len(find_particles(scores, threshold=0.99)) == 0


def test_the_higher_of_two_near_peaks_of_a_class_stays():
    values = np.maximum(bell((4, 4, 2), width=0.5), bell((4, 4, 5), height=0.7, width=0.5))
    assert len(find_particles([score_map(values)])) == 2
    near = find_particles([score_map(values)], min_distance=130)
    assert len(near) == 1
    assert near.positions[0, 2] == pytest.approx(2 * 40 + 15, abs=1)


@pytest.mark.parametrize(
    ("radius", "found"),
    [(62.0, ["large"]), (75.0, ["large", "small"]), (150.0, ["small"])],
)
def test_the_likelier_class_wins_a_place_within_the_smaller_radius(radius, found):
    """Odds of 4 for the large one, over its squared radius, against 1.5; both if alike."""
    small, large = bell((4, 4, 4), height=0.6), bell((4, 4, 5), height=0.8)
    picks = find_particles([score_map(small), score_map(large, "large", radius)])
    assert picks.labels.tolist() == found


def test_two_classes_stay_a_radius_apart():
    small, large = bell((4, 4, 4), height=0.6), bell((4, 4, 6.5), height=0.8)
    picks = find_particles([score_map(small), score_map(large, "large", 150.0)])
    assert picks.counts() == {"large": 1, "small": 1}


def test_a_suppressed_peak_suppresses_nothing():
    values = np.zeros((3, 3, 9))
    values[1, 1, [1, 4, 7]] = 0.9, 0.8, 0.7
    assert len(find_particles([score_map(values)], min_distance=150)) == 2


def test_a_plateau_gives_one_pick():
    values = np.zeros((5, 5, 5))
    values[2, 2, 1:4] = 1.0
    assert len(find_particles([score_map(values)], min_distance=100)) == 1


def test_scores_fall_and_no_maps_give_no_picks():
    values = np.maximum(bell((4, 4, 1), height=0.6, width=0.5), bell((4, 4, 8), width=0.5))
    scores = find_particles([score_map(values)]).scores
    assert scores[0] > scores[1]
    assert len(find_particles([])) == 0


@pytest.mark.parametrize("setting", ["threshold", "min_distance"])
def test_a_setting_for_an_unknown_class_is_an_error(setting):
    score = Volume(np.zeros((4, 4, 4), np.float32), 40.0, quantity="score", name="ribosome")
    with pytest.raises(InferenceError, match="there are ribosome"):
        find_particles([score], **{setting: {"ribosom": 0.5}})


@pytest.mark.parametrize("threshold", [-1, 0.9, 0.999])
def test_local_maxima_whether_few_or_many_cells_are_high(threshold):
    values = np.random.default_rng(0).random((20, 21, 22), np.float32)
    highest = maximum_filter(values, 3, mode="nearest")
    expected = np.argwhere((values == highest) & (values >= threshold))
    np.testing.assert_array_equal(local_maxima(values, threshold), expected)
