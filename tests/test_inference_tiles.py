from itertools import product

import dask.array as da
import numpy as np
import pytest

from napari_vox3d import Volume
from napari_vox3d.errors import InferenceError
from napari_vox3d.inference import tiles as module
from napari_vox3d.inference.tiles import MirrorImage, NetworkView, Normalisation, tiles


def volume(values, voxel_size=10.0, **fields):
    return Volume(values, voxel_size, name="t", **fields)


@pytest.fixture
def noise():
    return np.random.default_rng(0).normal(100, 20, (20, 22, 24)).astype(np.float32)


def test_tiles_cover_a_grid_once():
    count = np.zeros((5, 8, 9), int)
    for tile in tiles(count.shape, (4, 3, 9)):
        count[tile] += 1
        lengths = [part.stop - part.start for part in tile]
        assert (np.array(lengths) <= (4, 3, 9)).all()
    assert (count == 1).all()


def test_tiles_begin_at_multiples():
    found = list(tiles((5, 30, 9), (4, 16, 8), 4))
    assert {(z.start, y.start, x.start) for z, y, x in found} == set(
        product((0, 4), (0, 16), (0, 8))
    )
    assert {part.stop for _, part, _ in found} == {16, 30}


@pytest.mark.parametrize("voxel_size", [3.3, 10.0, 17.0])
def test_boxes_are_read_slab_by_slab(noise, voxel_size, monkeypatch):
    view = NetworkView.of(volume(noise, voxel_size), 10, "robust")
    start, stop = (-3, 2, -9), (view.shape[0] + 5, 6, view.shape[2] + 1)
    whole = view.read(start, stop)
    for voxels in (1, 1000):
        monkeypatch.setattr(module, "_AT_A_TIME", voxels)
        np.testing.assert_allclose(view.read(start, stop), whole, atol=1e-6)


def test_robust_normalisation_withstands_gold(noise):
    noise[:2] = -1e6
    centre, width, clip = Normalisation.of(volume(noise), "robust")
    assert centre == pytest.approx(97, abs=3)
    assert width == pytest.approx(22, abs=3)
    assert NetworkView.of(volume(noise), 10, "robust").read((0, 0, 0), (1, 1, 1)) == -clip


def test_zscore_and_none(noise):
    view = NetworkView.of(volume(noise), 10, "zscore")
    box = view.read((0, 0, 0), noise.shape)
    assert box.mean() == pytest.approx(0, abs=1e-3)
    assert box.std() == pytest.approx(1, abs=1e-3)
    plain = NetworkView.of(volume(noise), 10, "none").read((0, 0, 0), noise.shape)
    np.testing.assert_array_equal(plain, noise)


@pytest.mark.parametrize("values", [np.ones((8, 8, 8)), np.full((8, 8, 8), np.nan)])
def test_a_tomogram_without_spread_is_refused(values):
    with pytest.raises(InferenceError, match="'t'"):
        NetworkView.of(volume(values), 10, "robust")


def test_a_complex_volume_is_refused():
    with pytest.raises(InferenceError, match="complex"):
        NetworkView.of(volume(np.ones((4, 4, 4), complex)), 10, "none")


def test_beyond_the_edges_lies_the_mirror_image(noise):
    view = NetworkView.of(volume(noise), 10, "none")
    expected = np.pad(noise, 60, mode="symmetric")  # several reflections deep
    box = view.read((-60, -60, -60), [n + 60 for n in noise.shape])
    np.testing.assert_array_equal(box, expected)


def test_integer_dask_and_broken_values_are_read(noise):
    stored = noise.astype(np.int8)
    plain = NetworkView.of(volume(stored), 10, "robust")
    lazy = NetworkView.of(volume(da.from_array(stored, chunks=7)), 10, "robust")
    box = plain.read((-3, 0, 5), (4, 9, 30))
    assert box.dtype == np.float32
    np.testing.assert_array_equal(box, lazy.read((-3, 0, 5), (4, 9, 30)))
    noise[0, 0, :2] = np.nan, np.inf
    box = NetworkView.of(volume(noise), 10, "robust").read((0, 0, 0), (1, 1, 2))
    assert not box.any()


def test_inverted_contrast_changes_the_sign(noise):
    dark = NetworkView.of(volume(noise), 10, "robust").read((0, 0, 0), (5, 5, 5))
    bright = NetworkView.of(volume(noise), 10, "robust", inverted=True).read((0, 0, 0), (5, 5, 5))
    np.testing.assert_array_equal(dark, -bright)


@pytest.mark.parametrize("voxel_size", [5.0, 7.3, 16.0])
def test_a_ramp_stays_a_ramp_at_another_voxel_size(voxel_size):
    ramp = np.arange(40.0)[:, None, None] + np.zeros((40, 30, 30))
    view = NetworkView.of(volume(ramp, voxel_size), 10, "none")
    np.testing.assert_allclose(np.array(view.shape) * 10, np.array(ramp.shape) * voxel_size, atol=5)
    inner = slice(3, view.shape[0] - 3)
    places = np.zeros((view.shape[0], 3))
    places[:, 0] = np.arange(view.shape[0])
    values = view.read((0, 0, 0), view.shape)[:, 4, 4]
    np.testing.assert_allclose(values[inner], view.to_index(places)[inner, 0], atol=0.1)
    np.testing.assert_allclose(view.from_index(view.to_index(places)), places, atol=1e-9)


def test_a_box_is_the_same_however_it_is_read(noise):
    view = NetworkView.of(volume(noise, 6.1), 10, "robust")
    whole = view.read((-9, -9, -9), (20, 20, 20))
    part = view.read((-2, 3, 1), (9, 19, 20))
    np.testing.assert_allclose(whole[7:18, 12:28, 10:29], part, atol=1e-6)


@pytest.mark.parametrize("voxel_size", [10.0, 6.1])
@pytest.mark.parametrize("axes", [(), (1,), (1, 2)])
def test_a_mirror_image_is_the_view_the_other_way_round(noise, voxel_size, axes):
    view = NetworkView.of(volume(noise, voxel_size), 10, "robust")
    length = np.add(view.shape, (0, 1, 3))
    whole = np.flip(view.read((0, 0, 0), length), axes)
    image = MirrorImage(view, axes, length)
    part = image.read((2, 3, 1), (9, 8, 12))
    np.testing.assert_allclose(part, whole[2:9, 3:8, 1:12], atol=1e-6)
    beyond = np.flip(view.read((-5, -5, -5), length + 5), axes)
    np.testing.assert_allclose(image.read((-5, -5, -5), length + 5), beyond, atol=1e-6)


def test_coarser_views_average_noise_away(noise):
    coarse = NetworkView.of(volume(noise), 40, "none").read((0, 0, 0), (5, 5, 6))
    assert coarse.std() < 0.3 * noise.std()


def test_nearly_equal_voxels_and_uncalibrated_ones_are_kept(noise):
    assert NetworkView.of(volume(noise, 10.012), 10, "none").scale == (1, 1, 1)
    assert NetworkView.of(volume(noise, 1, calibrated=False), 10, "none").scale == (1, 1, 1)


@pytest.mark.parametrize("length", [48, 49])
def test_of_a_multiscale_tomogram_the_fitting_level_is_read_in_the_frame_of_the_finest(length):
    coarse = np.random.default_rng(0).normal(size=(24, 20, 22)).astype(np.float32)
    finest = np.zeros((length, 40, 44), np.float32)
    tomogram = volume(finest, 5.0, coarser=(volume(coarse, 10.0, origin=np.full(3, 2.5)),))
    view = NetworkView.of(tomogram, 10, "none")
    assert view.shape == coarse.shape
    np.testing.assert_array_equal(view.read((0, 0, 0), coarse.shape), coarse)
    assert view.scale == (2, 2, 2)
    np.testing.assert_allclose(view.to_index(np.zeros(3)), 0.5)
    np.testing.assert_allclose(view.from_index(view.to_index(np.arange(3))), np.arange(3))
    assert view.end.tolist() == [-(-length // 2), 20, 22]


def test_a_turned_tomogram_is_refused(noise):
    turned = Volume(noise, [[10, 0, 0], [0, 0, 10], [0, 10, 0]], name="t")
    with pytest.raises(InferenceError, match="'t' is rotated, mirrored or sheared"):
        NetworkView.of(turned, 10, "robust")


@pytest.mark.parametrize("shape", [(2, 900, 900), (20, 22, 24)])
def test_the_statistics_do_not_depend_on_chunks(shape):
    values = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
    plain = Normalisation.of(volume(values), "robust")
    chunked = Normalisation.of(volume(da.from_array(values, chunks=(3, 7, 300))), "robust")
    assert chunked == plain
    assert plain.centre == pytest.approx(3, abs=0.1)
