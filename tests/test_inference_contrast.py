import numpy as np
import pytest

from napari_vox3d.errors import InferenceError
from napari_vox3d.inference.contrast import contrast_of, detect_contrast
from napari_vox3d.volume import Volume

SHAPE = (40, 80, 80)


def tomogram(sign, noise=1.0, voxel_size=10.0):
    """Spheres of the size of ribosomes in noise, brighter or darker than what is around them."""
    rng = np.random.default_rng(0)
    values = noise * rng.standard_normal(SHAPE)
    grid = np.indices(SHAPE)
    for place in rng.uniform(0, SHAPE, (12, 3)):
        values[((grid - place[:, None, None, None]) ** 2).sum(0) < 8**2] += sign
    return Volume(values.astype(np.float32), voxel_size)


@pytest.mark.parametrize("voxel_size", [7.0, 10.0, 14.0])
@pytest.mark.parametrize(("sign", "contrast"), [(-1, "dark"), (1, "bright")])
def test_particles_tell_the_contrast(sign, contrast, voxel_size):
    assert detect_contrast(tomogram(sign, voxel_size=voxel_size)) == contrast


def test_the_scale_of_the_values_does_not_count():
    volume = tomogram(-1)
    assert detect_contrast(volume.with_values(volume.values * 1e-6 + 7)) == "dark"


def test_noise_tells_nothing():
    assert detect_contrast(tomogram(0)) is None


def test_a_sample_and_its_inverse():
    from importlib.resources import files

    import napari_vox3d as vox

    for name in ("simulated_tomogram.mrc", "microtubule.mrc"):
        volume = vox.read_volume(files("napari_vox3d.gui") / "sample_data" / name)
        assert detect_contrast(volume) == "dark"
        assert detect_contrast(volume.with_values(-np.asarray(volume.values, np.float32))) == (
            "bright"
        )


def test_what_is_said_goes_before_what_is_seen():
    volume = tomogram(1)
    assert contrast_of(volume, "auto", "dark") == "bright"
    assert contrast_of(volume, "dark", "bright") == "dark"
    assert contrast_of(volume, None, "dark") == "dark"
    assert contrast_of(tomogram(0), "auto", "bright") == "bright"


def test_an_empty_tomogram_is_refused():
    with pytest.raises(InferenceError, match="nothing to see"):
        detect_contrast(Volume(np.zeros(SHAPE, np.float32), 10.0))
