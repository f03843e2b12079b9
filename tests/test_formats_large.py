"""Volumes of 2 GB are read box by box in a process that may not allocate a fifth of that."""

import subprocess
import sys

import numpy as np
import pytest
import tifffile
import zarr

from napari_vox3d.formats import write_volume
from napari_vox3d.volume import Volume

SHAPE = (512, 1024, 2048)  # of int16
LIMIT = 400 << 20
SEEN = (slice(128, 256),) * 3
NOISE = np.random.default_rng(0).integers(-100, 100, (128, 128, 128), np.int16)
READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))
import numpy as np
from napari_vox3d.formats import read_volume
from napari_vox3d.inference.tiles import NetworkView

volume = read_volume({path!r})
assert volume.shape == {shape} and volume.values.dtype == "i2", volume
view = NetworkView.of(volume, 10.0, "zscore")
total = 0.0
for start in range(0, 512, 96):
    total += view.read((start, start, start), (start + 96,) * 3).max()
assert total > 0
try:
    np.ones({shape}, np.int16)
except MemoryError:
    print("read")
"""


def mrc(path):
    write_volume(path, Volume(np.zeros((1, 2, 3), np.int16), 10.0))
    header = bytearray(path.read_bytes()[:1024])
    sizes = np.array(SHAPE[::-1], "<i4").tobytes()
    header[0:12] = header[28:40] = sizes
    header[40:52] = np.array([10.0 * n for n in SHAPE[::-1]], "<f4").tobytes()
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(1024 + 2 * int(np.prod(SHAPE)))
    values = np.memmap(path, "<i2", "r+", 1024, SHAPE)
    values[SEEN] = NOISE


def tiff(path):
    about = {"axes": "ZYX", "PhysicalSizeX": 1, "PhysicalSizeY": 1, "PhysicalSizeZ": 1}
    about |= {f"PhysicalSize{axis}Unit": "nm" for axis in "XYZ"}
    values = tifffile.memmap(
        path, shape=SHAPE, dtype=np.int16, photometric="minisblack", ome=True, metadata=about
    )
    values[SEEN] = NOISE


def zarr_folder(path):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    values = group.create_array("0", shape=SHAPE, chunks=(128, 128, 128), dtype="i2")
    values[SEEN] = NOISE
    axes = [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"]
    scale = [{"type": "scale", "scale": [10.0] * 3}]
    group.attrs["multiscales"] = [
        {"version": "0.4", "axes": axes,
         "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.parametrize(
    ("name", "make"), [("a.mrc", mrc), ("a.ome.tif", tiff), ("a.zarr", zarr_folder)]
)
def test_two_gigabytes_are_never_whole(tmp_path, name, make):
    path = tmp_path / name
    make(path)
    code = READ.format(path=str(path), shape=SHAPE, limit=LIMIT)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "read", done.stderr
