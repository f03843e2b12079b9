import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from napari_vox3d.gui import samples
from napari_vox3d.gui.samples import FOLDER

NAMES = ["iron", "graphite", "simulated_tomogram", "microtubule"]


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_opens_in_the_viewer(make_napari_viewer, name):
    viewer = make_napari_viewer()
    layers = viewer.open_sample("napari-vox3d", name)
    assert layers
    assert all(np.isfinite(layer.extent.world).all() for layer in layers)


def test_iron_is_real_and_complete():
    volume = samples.iron()[0][1]["metadata"]["vox3d"]
    electrons = volume.values.mean() * volume.volume
    assert volume.shape == (28, 28, 28)
    assert electrons == pytest.approx(8, abs=1e-3)


def test_graphite_shows_its_bonds():
    up, down = (data[1]["metadata"]["vox3d"] for data in samples.graphite()[:2])
    assert up.quantity == "elf"
    assert up.values.max() > 0.8
    np.testing.assert_allclose(up.values, down.values, atol=0.01)


def test_the_microtubule_is_calibrated():
    volume = samples.microtubule()[0][1]["metadata"]["vox3d"]
    np.testing.assert_allclose(volume.voxel_size, 10.52, rtol=1e-5)


def test_simulated_particles_lie_on_their_density():
    image, points = samples.simulated_tomogram()
    volume, truth = image[1]["metadata"]["vox3d"], points[1]["metadata"]["vox3d"]
    indices = np.round(truth.indices).astype(int)
    assert ((indices >= 0) & (indices < volume.shape)).all()
    # The microscope keeps little of the mean of a particle, but much of its texture.
    smooth = uniform_filter(np.asarray(volume.values, float), 3)
    texture = uniform_filter((smooth - smooth.mean()) ** 2, 7)
    assert np.median(texture[tuple(indices.T)]) > 1.3 * np.median(texture)
    shifted = (indices + np.array([0, 40, 40])) % volume.shape
    assert np.median(texture[tuple(shifted.T)]) < 1.2 * np.median(texture)


def test_samples_are_small_and_name_their_sources():
    files = [file for file in FOLDER.iterdir() if file.name not in ("README.md", "LICENSES.txt")]
    told = (FOLDER / "README.md").read_text()
    assert sum(len(file.read_bytes()) for file in files) < 6e6
    assert all(f"`{file.name}`" in told for file in files)
