import numpy as np
import pytest
import torch
from flips import MIRRORS, assert_mirrored_scores, noise

import napari_vox3d as vox
from napari_vox3d import Volume
from napari_vox3d.errors import Cancelled, InferenceError, NotEnoughMemory
from napari_vox3d.inference import tiled
from napari_vox3d.inference.picking import find_particles, score_particles
from napari_vox3d.models import Model, ModelCard, NetworkSpec, ParticleClass, PickingInput
from napari_vox3d.networks.pickers import DensePicker

ARGUMENTS = {"num_classes": 3, "backbone": "UNet", "channels": 4, "levels": 1, "blocks": ["C3"]}


def make_model(**arguments):
    """A random network that is sure of something everywhere."""
    arguments = {**ARGUMENTS, **arguments}
    torch.manual_seed(3)
    network = DensePicker(**arguments)
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm3d):
            norm.running_mean.normal_(std=0.2)
            norm.running_var.uniform_(0.5, 2)
    network.head.weight.data *= 20
    kinds = [
        ParticleClass(name=name, radius=radius, colour="#000000", threshold=0.3)
        for name, radius in (("small", 60), ("large", 150))
    ]
    card = ModelCard(
        name="random",
        title="Random",
        task="picking",
        network=NetworkSpec(name="DensePicker", arguments=arguments),
        input=PickingInput(voxel_size=10, normalisation="robust"),
        classes=kinds,
        background=2,
        training="None.",
        licence="BSD-3-Clause",
        version="1",
    )
    return Model(card, network.state_dict())


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def tomogram():
    values = np.random.default_rng(1).normal(size=(30, 70, 101)).astype(np.float32)
    return Volume(values, 10.0, origin=[100, -50, 7], name="tomo", source="tomo.mrc")


@pytest.fixture(scope="module")
def maps(tomogram, model):
    return score_particles(tomogram, model, device="cpu")


def assert_alike(found, expected, atol=2e-5):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.values, other.values, atol=atol)


def test_maps_have_the_cells_of_the_network(maps, tomogram):
    assert [score.name for score in maps] == ["small", "large"]
    assert maps[0].shape == (15, 35, 51)
    np.testing.assert_allclose(maps[0].voxel_size, 20)
    np.testing.assert_allclose(maps[0].origin, tomogram.origin + 5)
    assert maps[0].values.std() > 0.1


def test_scores_are_those_of_the_network_on_the_whole_tomogram(maps, tomogram, model):
    network = model.network()
    shape = [-(-n // network.multiple) * network.multiple for n in tomogram.shape]
    values = tiled.NetworkView.of(tomogram, 10, "robust").read((0, 0, 0), shape)
    with torch.inference_mode():
        expected = network(torch.from_numpy(values)[None, None]).softmax(1)[0, 0]
    np.testing.assert_allclose(maps[0].values, expected[:15, :35, :51], atol=2e-5)


def take_tiles_of(edge, monkeypatch):
    monkeypatch.setattr(tiled, "_MEMORY", 0)
    monkeypatch.setattr(tiled, "_USEFUL", edge)


@pytest.mark.parametrize("edge", [28, 52])
def test_tiles_join_without_seams(maps, tomogram, model, monkeypatch, edge):
    take_tiles_of(edge, monkeypatch)
    assert_alike(score_particles(tomogram, model, device="cpu"), maps)


def test_far_surroundings_that_tiles_do_not_see_hardly_matter(monkeypatch):
    """The halo of the default picker is wider than what it heeds, and than what tiles see."""
    values = np.random.default_rng(0).normal(size=(16, 32, 512)).astype(np.float32)
    volume = Volume(values, np.eye(3) * 10)
    whole = score_particles(volume, device="cpu")
    assert vox.load_model("default", task="picking").network().halo > tiled._SEEN
    take_tiles_of(128, monkeypatch)
    assert_alike(score_particles(volume, device="cpu"), whole, atol=0.05)


def test_tiles_are_as_large_as_their_memory_allows(model, monkeypatch):
    volume = noise((16, 200, 330))
    whole = score_particles(volume, model, device="cpu")
    forward, seen = DensePicker.forward, []

    def watched(self, values):
        seen.append(tuple(values.shape[2:]))
        return forward(self, values)

    monkeypatch.setattr(DensePicker, "forward", watched)
    monkeypatch.setattr(tiled, "_MEMORY", 0.4 * model.network().peak_bytes((16, 200, 332)))
    assert_alike(score_particles(volume, model, device="cpu"), whole)
    assert seen == [(16, 132, 200), (16, 132, 196)] * 2


def test_a_region_gives_the_same_scores_there(maps, tomogram, model):
    region = (slice(8, 24), (30, 32), slice(None))
    part = score_particles(tomogram, model, device="cpu", region=region)  # and 15 voxels around
    np.testing.assert_allclose(part[1].values, maps[1].values[:, 7:24], atol=2e-5)
    np.testing.assert_allclose(part[0].origin, maps[0].to_world([0, 7, 0]))


def test_another_voxel_size_is_rescaled(tomogram, model):
    fine = Volume(tomogram.values, 5.0, origin=[1, 2, 3])
    score = score_particles(fine, model, device="cpu")[0]
    assert score.shape == (8, 18, 26)
    np.testing.assert_allclose(score.voxel_size, 20)
    np.testing.assert_allclose(score.origin, fine.origin + 2 * 5 - 2.5)
    picks = find_particles([score], threshold=0.3)
    assert len(picks)
    assert (picks.indices <= np.array(fine.shape) - 1).all()


def test_a_tomogram_smaller_than_the_network_takes_is_mirrored(model):
    values = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    assert score_particles(Volume(values, 10.0), model)[0].shape == (2, 3, 4)


def test_smaller_tiles_when_memory_runs_out(maps, tomogram, model, monkeypatch):
    forward, sizes = DensePicker.forward, []

    def limited(self, volume):
        sizes.append(volume.numel())
        if volume.numel() > 210_000:
            raise NotEnoughMemory("would not fit")
        return forward(self, volume)

    monkeypatch.setattr(DensePicker, "forward", limited)
    reports = []
    scores = score_particles(tomogram, model, progress=lambda *r: reports.append(r))
    assert_alike(scores, maps)
    assert reports[-1][0] == reports[-1][1]
    assert sum(size > 210_000 for size in sizes) <= 3  # what did not fit is not tried again


def test_what_does_not_fit_at_all_is_a_clear_error(tomogram, model, monkeypatch):
    def full(self, volume):
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(DensePicker, "forward", full)
    with pytest.raises(InferenceError, match="too little memory"):
        score_particles(tomogram, model)


def test_other_failures_are_not_hidden(tomogram, model, monkeypatch):
    def broken(self, volume):
        raise RuntimeError("something else")

    monkeypatch.setattr(DensePicker, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        score_particles(tomogram, model)


@pytest.mark.parametrize(
    ("shape", "voxel_size", "region"),
    [
        ((13, 42, 70), 10.0, None),  # multiples of the cells, not of what the network takes
        ((14, 42, 70), 10.0, [(0, 14), (8, 30), (4, 70)]),
        ((22, 84, 60), 5.0, None),
        ((28, 84, 60), 5.0, [(4, 20), (0, 40), (20, 44)]),
    ],
)
@pytest.mark.parametrize("axes", MIRRORS)
def test_averaged_scores_of_a_mirrored_tomogram_are_mirrored(
    model, shape, voxel_size, region, axes
):
    assert_mirrored_scores(model, shape, voxel_size, region, axes)


def test_averaged_scores_are_the_mean_over_mirror_images_made_by_hand(model):
    volume = noise((30, 71, 101))  # 15 × 36 × 51 cells, of which the last are not full
    found = score_particles(volume, model, device="cpu", flips=True)
    centre, width, clip = tiled.NetworkView.of(volume, 10, "robust").normalisation
    wide = np.pad(((volume.values - centre) / width).clip(-clip, clip), 8, mode="symmetric")
    network, images = model.network(), []
    for axes in ((), *MIRRORS):
        places = [np.arange(32), np.arange(72), np.arange(104)]  # multiples of 4
        for axis in axes:
            places[axis] = [30, 72, 102][axis] - 1 - places[axis]
        image = torch.from_numpy(wide[np.ix_(*(place + 8 for place in places))])
        with torch.inference_mode():
            scores = network(image[None, None]).softmax(1)[0, 0]
        images.append(np.flip(scores.numpy()[:15, :36, :51], axes))
    np.testing.assert_allclose(found[0].values, np.mean(images, axis=0), atol=2e-5)


def test_mirror_images_in_small_tiles(tomogram, model, monkeypatch):
    whole = score_particles(tomogram, model, device="cpu", flips=True)
    take_tiles_of(28, monkeypatch)
    assert_alike(score_particles(tomogram, model, device="cpu", flips=True), whole)


def test_a_cancel_leaves_a_tile_between_two_operations(tomogram, model, monkeypatch):
    monkeypatch.setattr(tiled, "_BEAT", 0.0)
    reports = []

    def progress(done, total):
        reports.append((done, total))
        if len(reports) > 5:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        score_particles(tomogram, model, progress=progress)
    assert {done for done, _ in reports} == {0}  # a single tile, and it was not finished


def test_windows_of_attention_do_not_move_with_the_tiles(tomogram, monkeypatch):
    arguments = {"backbone": "SOANet", "blocks": ["L3"], "window": [1, 4, 4], "patch": [1, 2, 2],
                 "heads": 2, "channels": 4, "levels": 2}  # fmt: skip
    model = make_model(**arguments)
    whole = score_particles(tomogram, model, device="cpu")
    take_tiles_of(32, monkeypatch)
    assert_alike(score_particles(tomogram, model, device="cpu"), whole)
