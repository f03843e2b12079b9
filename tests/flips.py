import numpy as np

from napari_vox3d import Volume
from napari_vox3d.inference.picking import score_particles

MIRRORS = ((1,), (2,), (1, 2))


def noise(shape, voxel_size=10.0):
    values = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    return Volume(values, voxel_size, name="noise")


def mirrored(volume, axes):
    return volume.with_values(np.flip(volume.values, axes).copy())


def extended(volume, margin):
    """A tomogram that goes on as in a mirror."""
    return Volume(np.pad(volume.values, margin, mode="symmetric"), volume.step, name=volume.name)


def assert_mirrored_scores(model, shape, voxel_size, region, axes):
    """Averaged scores of a mirrored tomogram are mirrored, cell by cell."""
    volume = noise(shape, voxel_size)
    there = region and [
        (n - stop, n - start) if axis in axes else (start, stop)
        for axis, (n, (start, stop)) in enumerate(zip(shape, region, strict=True))
    ]
    scored = score_particles(volume, model, device="cpu", flips=True, region=region)
    again = score_particles(mirrored(volume, axes), model, device="cpu", flips=True, region=there)
    for one, other in zip(again, scored, strict=True):
        np.testing.assert_allclose(np.flip(one.values, axes), other.values, atol=1e-5)
