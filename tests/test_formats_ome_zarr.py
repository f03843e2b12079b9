import json
import os
import sys

import numcodecs
import numpy as np
import pytest
import zarr

from napari_vox3d.errors import FormatError
from napari_vox3d.formats import kind_of, read_atoms, read_volume, read_volumes, write_volume
from napari_vox3d.volume import Volume

SHAPE = (20, 24, 28)
ANGSTROM = [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"]


def noise(shape=SHAPE, dtype="f4"):
    return (np.random.default_rng(0).random(shape) * 100).astype(dtype)


def halved(values):
    blocks = values.reshape([m for n in values.shape for m in (n // 2, 2)])
    return blocks.mean(axis=(1, 3, 5)).astype(values.dtype)


def make(path, levels, *, version="0.4", axes=ANGSTROM, scales=None, shifts=None, whole=None):
    """Write an OME-Zarr image as its specification says, with nothing but zarr."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    datasets = []
    for n, values in enumerate(levels):
        chunks = tuple(min(8, length) for length in values.shape)
        array = group.create_array(str(n), shape=values.shape, chunks=chunks, dtype=values.dtype)
        array[...] = values
        steps = [] if scales is None else [{"type": "scale", "scale": scales[n]}]
        steps += [] if shifts is None else [{"type": "translation", "translation": shifts[n]}]
        datasets.append({"path": str(n), "coordinateTransformations": steps})
    image = {"name": "/", "datasets": datasets}
    if axes is not None:
        image["axes"] = axes
    if whole is not None:
        image["coordinateTransformations"] = whole
    if version == "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [{"version": version, **image}]
    return path


def pyramid(dtype="f4"):
    levels = [noise(dtype=dtype)]
    return [*levels, halved(levels[0])]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "TS_01.zarr"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", ["i1", "u1", "u2", "f2", "f4", ">f4"])
def test_the_layout_of_the_cryoet_data_portal(path, version, dtype):
    levels = pyramid(dtype)
    make(path, levels, version=version, scales=[[10.012] * 3, [20.024] * 3])
    assert kind_of(path) == "volume"
    (volume,) = read_volumes(path)
    assert volume.values.chunks == (8, 8, 8)  # and nothing is loaded
    np.testing.assert_array_equal(volume.values[...], levels[0])
    np.testing.assert_allclose(volume.step, np.eye(3) * 10.012)
    np.testing.assert_array_equal(volume.origin, 0)
    assert volume.calibrated
    assert (volume.name, volume.source) == ("TS_01", str(path))
    (coarse,) = volume.coarser
    np.testing.assert_array_equal(coarse.values[...], levels[1])
    np.testing.assert_allclose(coarse.voxel_size, 20.024)
    np.testing.assert_allclose(coarse.origin, 5.006)  # both levels fill the same box
    assert volume.level_for(20) is coarse
    assert volume.level_for(10) is volume


@pytest.mark.parametrize(
    ("unit", "length"),
    [("angstrom", 1), ("nanometer", 10), ("micrometer", 1e4), ("picometer", 0.01), ("Å", 1)],
)
def test_units_become_angstroms(path, unit, length):
    axes = [{"name": axis, "type": "space", "unit": unit} for axis in "zyx"]
    make(path, [noise()], axes=axes, scales=[[3, 2, 1]], shifts=[[30, 20, 10]])
    volume = read_volume(path)
    np.testing.assert_allclose(volume.voxel_size, np.array([3, 2, 1]) * length)
    np.testing.assert_allclose(volume.origin, np.array([30, 20, 10]) * length)


def test_axes_in_another_order_and_transformations_of_all_levels(path):
    axes = [ANGSTROM[2], ANGSTROM[0], {"name": "y", "type": "space", "unit": "nanometer"}]
    whole = [{"type": "scale", "scale": [2, 2, 2]}, {"type": "translation",
                                                     "translation": [1, 0, 0]}]  # fmt: skip
    values = noise()
    make(path, [values], axes=axes, scales=[[1, 3, 2]], shifts=[[4, 6, 5]], whole=whole)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.values[...], values.transpose(1, 2, 0))
    np.testing.assert_allclose(volume.voxel_size, (6, 40, 2))
    np.testing.assert_allclose(volume.origin, (12, 100, 9))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_channels_and_times_are_volumes_of_their_own(path, version):
    names = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, *ANGSTROM]
    values = noise((1, 2, *SHAPE))
    make(path, [values], version=version, axes=names, scales=[[1, 1, 10, 10, 10]])
    volumes = read_volumes(path)
    assert [volume.name for volume in volumes] == ["TS_01 c0", "TS_01 c1"]
    for channel, volume in enumerate(volumes):
        np.testing.assert_array_equal(np.asarray(volume.values), values[0, channel])
        np.testing.assert_allclose(volume.voxel_size, 10)


@pytest.mark.parametrize(
    ("axes", "scales"),
    [
        (ANGSTROM, None),
        ([{"name": axis, "type": "space"} for axis in "zyx"], [[10] * 3, [20] * 3]),
        (["z", "y", "x"], None),  # as in version 0.3
    ],
)
def test_an_unknown_voxel_size_is_told(path, axes, scales):
    make(path, pyramid(), axes=axes, scales=scales)
    with pytest.warns(UserWarning, match=r"TS_01\.zarr does not tell its voxel size"):
        volume = read_volume(path)
    assert not volume.calibrated
    np.testing.assert_array_equal(volume.step, np.eye(3))


def test_five_axes_without_names_are_those_of_the_first_versions(path):
    make(path, [noise((1, 1, *SHAPE))], version="0.1", axes=None)
    with pytest.warns(UserWarning, match="voxel size"):
        assert read_volume(path).shape == SHAPE


def test_a_bare_array_is_a_volume_of_unknown_voxel_size(path):
    make(path, pyramid(), scales=[[10] * 3, [20] * 3])
    with pytest.warns(UserWarning, match="voxel size"):
        volume = read_volume(path / "0")
    np.testing.assert_array_equal(volume.values[...], noise())
    assert not volume.calibrated


def test_a_folder_of_any_name_is_looked_into(tmp_path):
    make(tmp_path / "VoxelSpacing10", [noise()], scales=[[10] * 3])
    assert read_volume(tmp_path / "VoxelSpacing10").shape == SHAPE


def test_convert_to_mrc_keeps_everything(path, tmp_path):
    make(path, pyramid("i2"), scales=[[10] * 3, [20] * 3], shifts=[[5, 6, 7], [10, 11, 12]])
    write_volume(tmp_path / "a.mrc", read_volume(path))
    again = read_volume(tmp_path / "a.mrc")
    np.testing.assert_array_equal(again.values, noise(dtype="i2"))
    np.testing.assert_allclose(again.voxel_size, 10)
    np.testing.assert_allclose(again.origin, (5, 6, 7))


def labels(path):
    make(path, [noise(dtype="i4")], scales=[[10] * 3])
    zarr.open_group(path).attrs["image-label"] = {"version": "0.4"}


def outer(path):
    zarr.open_group(path, mode="w", zarr_format=2).create_group("A1")


def lost(path):
    make(path, [noise()], scales=[[10] * 3])
    (path / "0" / ".zarray").unlink()


def flat(path):
    make(path, [noise(SHAPE[1:])], axes=ANGSTROM[1:], scales=[[10] * 2])


def short(path):
    make(path, [noise(SHAPE[1:])], scales=[[10] * 3])


def spoilt(path):
    make(path, [noise()], scales=[[10] * 3])
    (path / ".zattrs").write_text("{")


def empty(path):
    make(path, [noise()], scales=[[10] * 3])
    (path / ".zattrs").write_text(json.dumps({"multiscales": [{"axes": ANGSTROM}]}))


def negative(path):
    make(path, [noise()], scales=[[-10] * 3])


def compressed(path):
    make(path, [noise()], scales=[[10] * 3])
    file = path / "0" / ".zarray"
    about = json.loads(file.read_text())
    file.write_text(json.dumps({**about, "compressor": {"id": "jpeg-xyz"}}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (labels, "holds labels and no image"),
        (outer, "no OME-Zarr image.*Open one of those inside: A1"),
        (lost, r"TS_01\.zarr.0: is no zarr array"),
        (flat, "has the axes y, x; a volume needs z, y and x"),
        (short, "an array of 2 axes, its metadata name 3"),
        (spoilt, "not valid JSON"),
        (empty, "damaged OME-Zarr metadata"),
        (negative, "damaged OME-Zarr metadata"),
        (compressed, "is no zarr array that can be read.*jpeg-xyz"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(path, spoil, message):
    spoil(path)
    with pytest.raises(FormatError, match=message):
        read_volume(path)


def test_other_uses_are_refused(path, monkeypatch):
    with pytest.raises(FormatError, match=r"read here and not written.*\.mrc"):
        write_volume(path, Volume(noise(), 10))
    make(path, [noise()], scales=[[10] * 3])
    with pytest.raises(FormatError, match="holds no atoms"):
        read_atoms(path)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(FormatError, match=r"pip install 'napari-vox3d\[zarr\]'"):
        read_volume(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("left", [0, 10, 16, 100, -1])
def test_nothing_behind_a_chunk_that_was_cut_short_is_read(path, zarr_format, left):
    values = noise((16, 16, 16))
    blosc = numcodecs.Blosc() if zarr_format == 2 else zarr.codecs.BloscCodec()
    array = zarr.create_array(path, shape=values.shape, chunks=(8, 16, 16), dtype="f4",
                              compressors=[blosc], zarr_format=zarr_format)  # fmt: skip
    array[...] = values
    with pytest.warns(UserWarning, match="voxel size"):
        volume = read_volume(path)
    np.testing.assert_array_equal(volume.values[:], values)
    chunk = path / ("0.0.0" if zarr_format == 2 else "c/0/0/0")
    os.truncate(chunk, left if left >= 0 else chunk.stat().st_size + left)
    with pytest.raises(FormatError, match=r"TS_01.zarr: has a chunk .* cut short"):
        volume.values[0]
    np.testing.assert_array_equal(volume.values[8:], values[8:])
