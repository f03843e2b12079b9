import numpy as np
import pytest
import torch

from napari_vox3d import Picks, Volume
from napari_vox3d.models import ParticleClass, PickingInput
from napari_vox3d.training.picker_targets import (
    Particles,
    Tomogram,
    balls,
    bells,
    focal_loss,
    varied,
)

INPUT = PickingInput(voxel_size=10, normalisation="none")
KINDS = [ParticleClass(name=name, radius=60, colour="#000000") for name in "ab"]


def particles(positions, labels, radius=6.0):
    return Particles(np.array(positions, float), np.array(labels), np.full(len(labels), radius))


def test_focal_loss_forgives_the_sure_and_is_cross_entropy_without_gamma():
    logits = torch.tensor([[[4.0, 0.0], [0.0, 0.0]]])  # (1, 2 classes, 2 places)
    target = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    plain = focal_loss(logits, target, gamma=0)
    log_p = logits.log_softmax(1)
    assert plain == pytest.approx(float(-(4 * log_p[0, 0, 0] + log_p[0, 1, 1]) / 2))
    assert focal_loss(logits, target) < 0.25 * plain


def test_places_without_a_target_do_not_count():
    logits = torch.randn(1, 3, 5)
    target = torch.zeros(1, 3, 5)
    target[0, 2, :2] = 1
    changed = logits.clone()
    changed[..., 2:] += 7
    assert focal_loss(changed, target) == focal_loss(logits, target)


def test_bells_stand_about_the_particles_and_sum_to_one():
    centres = 15.5 + 8 * np.arange(5)
    target = bells(particles([[15.5, 23.5, 31.5], [47.5, 31.5, 31.5]], [0, 1]), 3, centres)
    np.testing.assert_allclose(target.sum(0), 1, atol=1e-6)
    assert target[0, 0, 1, 2] == 1
    assert target[1, 4, 2, 2] == 1
    assert target[0, 1, 1, 2] == pytest.approx(np.exp(-(8**2) / (2 * 4**2)), rel=1e-5)


def test_balls_have_a_shell_where_nothing_is_asked():
    centres = 2 * np.arange(32) + 0.5
    target = balls(particles([[20.5, 30.5, 40.5]], [1], radius=15), 3, centres)
    line = target[:, :, 15, 20]
    distance = np.abs(centres - 20.5)
    np.testing.assert_array_equal(line[1], distance <= 6)
    np.testing.assert_array_equal(line[2], distance >= 9)
    assert not line[0].any()
    assert not line[:, (distance > 6) & (distance < 9)].any()


def test_a_small_particle_still_has_cells_and_the_nearer_one_has_them():
    centres = 2 * np.arange(32) + 0.5
    target = balls(particles([[20.5, 20.5, 20.5], [20.5, 20.5, 25.5]], [0, 1], 2), 3, centres)
    assert target[0].sum() >= 7
    np.testing.assert_array_equal(target[0, 10, 10, 8:15], [0, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(target[1, 10, 10, 8:15], [0, 0, 0, 0, 1, 1, 1])
    assert target.sum(0).max() == 1


@pytest.mark.parametrize(
    ("make", "centres", "edge"),
    [(bells, 15.5 + 8 * np.arange(9), 96), (balls, 2 * np.arange(32) + 0.5, 64)],
)
def test_crop_and_target_are_flipped_together(make, centres, edge):
    rng = np.random.default_rng(3)
    positions = rng.integers(18, edge - 18, (4, 3))
    values = np.zeros((edge,) * 3, np.float32)
    values[tuple(positions.T)] = 1000 * 2 ** np.arange(4)  # tells which is which
    target = make(particles(positions, [0, 1, 0, 1]), 3, centres)
    turned = set()
    for seed in range(40):
        crop, flipped = varied(values, target, np.random.default_rng(seed))
        found = np.argwhere(crop > 500)
        which = np.rint(np.log2(crop[tuple(found.T)] / 1000)).astype(int)
        expected = make(particles(found, which % 2), 3, centres)
        np.testing.assert_allclose(flipped, expected, atol=1e-6)
        turned.add(found.tobytes())
    assert len(turned) == 8


def test_crops_hold_the_particles_where_they_are():
    values = np.zeros((70, 60, 80), np.float32)
    positions = np.array([[30.0, 21, 40], [44, 50, 33], [25, 40, 70]])
    values[tuple(positions.astype(int).T)] = 1000
    picks = Picks.from_indices(positions, ["b", "b", "unknown"], voxel_size=10)
    tomogram = Tomogram.of(Volume(values, 10.0), picks, KINDS, INPUT)
    np.testing.assert_array_equal(tomogram.particles.labels, [1, 1])
    np.testing.assert_allclose(tomogram.particles.radii, 6)
    for seed in range(8):
        crop, start = tomogram.crop(np.random.default_rng(seed), 48, 0)
        assert (start >= 0).all()
        assert (start + 48 <= values.shape).all()
        low, high = start, start + 48
        expected = [p for p in positions if (p >= low).all() and (p < high).all()]
        assert {tuple(p) for p in np.argwhere(crop) + start} == {tuple(p) for p in expected}


def test_positions_follow_the_voxel_size():
    volume = Volume(np.zeros((40, 40, 40), np.float32), 5.0)
    tomogram = Tomogram.of(volume, Picks([[100.0, 100, 100]], ["a"]), KINDS, INPUT)
    # voxel 20 of 5 Å is the second half of the doubled voxel 10, which is centred a quarter before
    np.testing.assert_allclose(tomogram.particles.positions, [[9.75, 9.75, 9.75]])


def test_rejected_picks_are_traps():
    volume = Volume(np.zeros((40, 40, 40), np.float32), 10.0)
    places = [[10.0, 10, 10], [20, 20, 20], [30, 30, 30]]
    picks = Picks.from_indices(places, "a", voxel_size=10, decisions=["accepted", "rejected", ""])
    tomogram = Tomogram.of(volume, picks, KINDS, INPUT)
    np.testing.assert_allclose(tomogram.particles.positions, [places[0], places[2]])
    np.testing.assert_allclose(tomogram.traps, [places[1]])


def test_doubtful_places_and_what_is_not_told_are_not_asked_for():
    volume = Volume(np.zeros((32, 32, 64), np.float32), 10.0)
    known = Picks.from_indices([[16, 16, 12], [16, 16, 56]], "a", voxel_size=10)
    tomogram = Tomogram.of(volume, known, KINDS, INPUT)._replace(
        doubtful=particles([[16, 16, 30]], [1]), told=(slice(0, 32), slice(0, 32), slice(0, 44))
    )
    centres = 2 * np.arange(32) + 0.5
    target = tomogram.target(balls, np.zeros(3, int), 3, centres)
    line = target[:, 8, 8]
    np.testing.assert_array_equal(line[0] > 0, np.abs(centres - [[12], [56]]).min(0) < 3.2)
    asked = line.any(0)
    assert not asked[np.abs(centres - 30) < 4].any()
    assert asked[(centres > 20) & (centres < 25)].all()
    assert not asked[(centres > 44) & (centres < 52)].any()
