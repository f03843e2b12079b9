import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from napari_vox3d.errors import Cancelled, Vox3dError
from napari_vox3d.training.simulation import Template, simulate_tomogram

SHAPE = (32, 64, 64)
TILTS = range(-60, 61, 10)


def ball(radius, label="ball", size=24):
    grid = np.indices((size,) * 3) - (size - 1) / 2
    density = (np.linalg.norm(grid, axis=0) < radius).astype(np.float32)
    return Template(density, label, 10.0 * radius)


def simulate(templates, **options):
    return simulate_tomogram(templates, **{"shape": SHAPE, "tilts": TILTS, "seed": 0, **options})


@pytest.fixture(scope="module")
def simulated():
    return simulate([ball(5), ball(4, "")], snr=5.0, seed=3)


def test_the_truth_describes_the_tomogram(simulated):
    volume, picks = simulated
    assert volume.shape == SHAPE
    assert volume.values.dtype == np.float32
    np.testing.assert_allclose(volume.voxel_size, 10)
    assert picks.shape == SHAPE
    assert set(picks.labels) == {"ball"}  # distractors are not told
    assert (picks.radii == 50).all()
    assert picks.angles.shape == (len(picks), 3)
    assert ((picks.indices >= 0) & (picks.indices <= np.array(SHAPE) - 1)).all()
    assert volume.metadata["simulation"]["projection_snr"] == 5.0


def test_particles_are_dark_where_the_truth_says(simulated):
    volume, picks = simulated
    smooth = ndimage.gaussian_filter(volume.values, 2)
    at = smooth[tuple(np.rint(picks.indices).astype(int).T)]
    assert np.median(at) < np.percentile(smooth, 10)


def test_particles_do_not_overlap(simulated):
    _, picks = simulated
    distances = np.linalg.norm(picks.positions[:, None] - picks.positions, axis=-1)
    assert distances[~np.eye(len(picks), dtype=bool)].min() > 0.9 * 2 * 45


def test_the_same_seed_gives_the_same_tomogram(simulated):
    again, picks = simulate([ball(5), ball(4, "")], snr=5.0, seed=3)
    np.testing.assert_array_equal(again.values, simulated[0].values)
    np.testing.assert_array_equal(picks.positions, simulated[1].positions)
    other, _ = simulate([ball(5)], snr=5.0, seed=4)
    assert not np.array_equal(other.values, simulated[0].values)


def test_noise_follows_the_signal_to_noise_ratio():
    clean, _ = simulate([ball(5)], snr=1e6, seed=1)
    noise = [simulate([ball(5)], snr=snr, seed=1)[0].values - clean.values for snr in (0.4, 0.1)]
    assert noise[1].std() / noise[0].std() == pytest.approx(2, rel=0.02)


def test_the_wedge_is_missing(simulated):
    power = np.abs(np.fft.fftn(simulate([ball(5)], snr=0.01)[0].values)) ** 2
    kz, _, kx = np.meshgrid(*(np.fft.fftfreq(n) for n in SHAPE), indexing="ij")
    distance = np.hypot(kz, kx)
    steep = np.abs(kz) > 3 * np.abs(kx)  # beyond 71.6°, where no tilt of up to 60° reaches
    band = (distance > 0.15) & (distance < 0.3)
    assert power[band & steep].mean() < 0.05 * power[band & ~steep & (np.abs(kz) < kx)].mean()


def test_angles_turn_the_template_into_the_particle():
    rod = np.zeros((23, 23, 23), np.float32)
    rod[10:13, 10:13, 2:21] = 1  # along x
    volume, picks = simulate([Template(rod, "rod", 100)], snr=1e4, shape=(48, 80, 80), seed=6)
    smooth = ndimage.gaussian_filter(volume.values, 1)
    along = Rotation.from_euler("ZYZ", picks.angles, degrees=True).apply([1, 0, 0])[:, ::-1]
    across = np.cross(along, [1, 0, 0])  # in the plane of the slice, where nothing is missing
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    flat = np.abs(along[:, 0]) < 0.8
    inner = flat & (
        np.abs(picks.indices - (np.array(volume.shape) - 1) / 2) < np.array(volume.shape) / 2 - 9
    ).all(1)
    assert inner.sum() > 2

    def darkness(direction):
        places = [picks.indices + direction * step for step in (-7, -6, -5, 5, 6, 7)]
        return -np.mean([ndimage.map_coordinates(smooth, p.T, order=1) for p in places], axis=0)

    assert (darkness(along)[inner] > darkness(across)[inner]).all()


@pytest.mark.parametrize(
    ("templates", "snr", "message"),
    [
        ([ball(5, "")], 1.0, "labelled"),
        ([ball(5)], 0.0, "positive"),
        ([ball(5)], np.nan, "positive"),
    ],
)
def test_senseless_simulations_are_refused(templates, snr, message):
    with pytest.raises(Vox3dError, match=message):
        simulate(templates, snr=snr)


def test_can_be_cancelled():
    def stop(_done, _total):
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        simulate([ball(5)], progress=stop)


def likeness_by_frequency(one, other, low, high):
    a, b = (np.fft.rfft(volume.values, axis=1) for volume in (one, other))  # along the tilt axis
    frequency = np.fft.rfftfreq(SHAPE[1])
    band = (frequency > low) & (frequency < high)
    return (a * b.conj())[:, band].real.sum() / (np.abs(a[:, band]) ** 2).sum()


@pytest.mark.parametrize("harm", [{"dose": 300.0}, {"misalignment": 15.0}])
def test_dose_and_misalignment_take_fine_detail_most(harm):
    sharp, _ = simulate([ball(5)], snr=1e6, seed=2)
    harmed, _ = simulate([ball(5)], snr=1e6, seed=2, **harm)
    coarse, fine = (
        likeness_by_frequency(sharp, harmed, *band) for band in ((0.01, 0.06), (0.25, 0.45))
    )
    assert fine < 0.7 * coarse


def test_particles_stand_in_the_ice():
    _, picks = simulate([ball(3)], thickness=160.0, seed=1, crowding=0.1)
    assert len(picks)
    assert (np.abs(picks.indices[:, 0] - (SHAPE[0] - 1) / 2) <= 8.5).all()


def test_flipped_phases_turn_the_second_lobe_round():
    plain, flipped = (
        simulate([ball(3)], snr=1e9, tilts=[0], defocus=60_000.0, phases_flipped=given)[0]
        for given in (False, True)
    )
    zero = 0.29  # per voxel of 10 Å: where 0.0197 Å · 60 000 Å · k² = 1
    assert likeness_by_frequency(plain, flipped, 0.01, 0.2) > 0.4
    assert likeness_by_frequency(plain, flipped, zero, 0.36) < 0


def test_templates_are_brought_to_the_voxel_size():
    template = Template(ball(8, size=36).density, "ball", 80.0, voxel_size=10.0)
    _, fine = simulate([template], voxel_size=10.0, seed=4, crowding=0.3)
    coarse, picks = simulate([template], voxel_size=20.0, seed=4, crowding=0.3, snr=1e4)
    assert len(picks) > 3 * len(fine)  # they take an eighth of the voxels
    smooth = ndimage.gaussian_filter(coarse.values, 1)
    inside = smooth[tuple(np.rint(picks.indices).astype(int).T)]
    assert np.median(inside) < np.median(smooth) - 0.5 * smooth.std()
