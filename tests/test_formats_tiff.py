import dask.array as da
import numpy as np
import pytest
import tifffile

from napari_vox3d.errors import FormatError
from napari_vox3d.formats import kind_of, read_atoms, read_volume, read_volumes, write_volume
from napari_vox3d.volume import Volume

SHAPE = (7, 8, 9)


def noise(dtype="f4", shape=SHAPE):
    return (np.random.default_rng(0).random(shape) * 100).astype(dtype)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tomo.tif"


@pytest.mark.parametrize(
    ("unit", "length"),
    [("nm", 10), ("um", 1e4), ("micron", 1e4), ("\\u00B5m", 1e4), ("angstrom", 1), ("A", 1)],
)
def test_voxel_sizes_of_imagej(path, unit, length):
    values = noise("u2")
    about = {"axes": "ZYX", "spacing": 3.0, "unit": unit}
    tifffile.imwrite(path, values, imagej=True, resolution=(1 / 1.5, 1 / 2), metadata=about)
    assert kind_of(path) == "volume"
    volume = read_volume(path)
    assert isinstance(volume.values, np.memmap)
    np.testing.assert_array_equal(volume.values, values)
    np.testing.assert_allclose(volume.voxel_size, np.array([3, 2, 1.5]) * length)
    assert volume.name == "tomo"


def test_imagej_leaves_out_a_spacing_of_one(path):
    about = {"axes": "ZYX", "unit": "nm"}
    tifffile.imwrite(path, noise("u1"), imagej=True, resolution=(1, 1), metadata=about)
    np.testing.assert_allclose(read_volume(path).voxel_size, 10)


@pytest.mark.parametrize(("unit", "length"), [("nm", 10), ("Å", 1), ("µm", 1e4), (None, 1e4)])
def test_voxel_sizes_of_ome(tmp_path, unit, length):
    path = tmp_path / "tomo.ome.tif"
    values = noise()
    about = {"axes": "ZYX"}
    for axis, size in zip("ZYX", (3.0, 2.0, 1.5), strict=True):
        about[f"PhysicalSize{axis}"] = size
        if unit:
            about[f"PhysicalSize{axis}Unit"] = unit
    tifffile.imwrite(path, values, metadata=about)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.values, values)
    np.testing.assert_allclose(volume.voxel_size, np.array([3, 2, 1.5]) * length)


@pytest.mark.parametrize("form", ["contiguous", "zlib", "tiles", "pages", "big-endian"])
@pytest.mark.parametrize("dtype", ["i1", "u2", "f2", "f4"])
def test_plain_stacks_have_no_voxel_size(path, form, dtype):
    values = noise(dtype, (7, 32, 48))
    more = {
        "contiguous": {},
        "zlib": {"compression": "zlib"},
        "tiles": {"tile": (16, 16)},
        "pages": {"metadata": None},
        "big-endian": {"byteorder": ">"},
    }[form]
    tifffile.imwrite(path, values, photometric="minisblack", **more)
    with pytest.warns(UserWarning, match=r"tomo\.tif does not tell its voxel size"):
        volume = read_volume(path)
    assert not volume.calibrated
    np.testing.assert_array_equal(np.asarray(volume.values), values)
    np.testing.assert_array_equal(np.asarray(volume.values[2:5, 3:, :20]), values[2:5, 3:, :20])


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_channels_and_times_are_volumes_of_their_own(path, compression):
    values = noise("u2", (2, 7, 3, 8, 9))  # t z c y x
    about = {"axes": "TZCYX", "spacing": 1.0, "unit": "nm"}
    tifffile.imwrite(path, values, imagej=True, metadata=about, compression=compression)
    volumes = read_volumes(path)
    assert [volume.name for volume in volumes][:2] == ["tomo t0 c0", "tomo t0 c1"]
    expected = values.transpose(0, 2, 1, 3, 4).reshape(6, 7, 8, 9)
    for volume, one in zip(volumes, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(volume.values), one)


@pytest.mark.parametrize(
    ("values", "more", "message"),
    [
        (noise("u1", (8, 9, 3)), {"photometric": "rgb"}, "is a colour image"),
        (noise("u1", (5, 8, 9, 3)), {"photometric": "rgb"}, "is a colour image"),
        (noise("u1", (8, 9)), {}, r"flat images .axes Y, X.*needs a z axis"),
        (noise("u2"), {"imagej": True, "metadata": {"axes": "TYX"}}, "flat images .axes T, Y, X"),
    ],
)
def test_what_is_no_volume_is_told(path, values, more, message):
    tifffile.imwrite(path, values, **more)
    with pytest.raises(FormatError, match=message):
        read_volume(path)


def test_damaged_files_are_told(path):
    path.write_bytes(b"no TIFF at all, but some text")
    with pytest.raises(FormatError, match="is not a TIFF that can be read"):
        read_volume(path)
    tifffile.imwrite(path, noise(shape=(20, 32, 32)), photometric="minisblack", metadata=None)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(FormatError, match=r"tomo\.tif"):
        np.asarray(read_volume(path).values)


def test_a_compression_that_is_not_at_hand_is_told(path, monkeypatch):
    tifffile.imwrite(path, noise(), photometric="minisblack", compression="zlib")

    def missing(*_, **__):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", missing)
    with pytest.raises(FormatError, match=r"requires the 'imagecodecs' package"):
        read_volume(path)
    with pytest.raises(FormatError, match="holds no atoms"):
        read_atoms(path)


@pytest.mark.parametrize(
    ("name", "dtype", "stored"),
    [
        ("a.tif", "u1", "u1"), ("a.tiff", "u2", "u2"), ("a.tif", "f4", "f4"),
        ("a.tif", "i1", "f4"), ("a.tif", "f2", "f4"), ("a.tif", "i2", "f4"), ("a.tif", "?", "u1"),
        ("a.ome.tif", "i1", "i1"), ("a.ome.tif", "f2", "f4"), ("a.ome.tiff", "i2", "i2"),
        ("a.ome.tif", ">f4", "f4"), ("a.OME.TIF", "f8", "f8"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("lazy", [False, True])
def test_written_files_are_what_tifffile_and_we_read(tmp_path, name, dtype, stored, lazy):
    values = noise(dtype)
    array = da.from_array(values, chunks=3) if lazy else values
    write_volume(tmp_path / name, Volume(array, [4, 2, 1.5]))
    with tifffile.TiffFile(tmp_path / name) as file:
        assert file.series[0].axes == "ZYX"
        assert file.series[0].dtype == stored
        assert bool(file.is_ome) == (".ome." in name.lower())
        np.testing.assert_array_equal(file.asarray(), values)
    again = read_volume(tmp_path / name)
    np.testing.assert_array_equal(again.values, values)
    np.testing.assert_allclose(again.voxel_size, [4, 2, 1.5], rtol=1e-6)
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_an_unknown_voxel_size_stays_unknown(tmp_path):
    for name in ("a.tif", "a.ome.tif"):
        write_volume(tmp_path / name, Volume(noise(), 1, calibrated=False))
        with pytest.warns(UserWarning, match="voxel size"):
            assert not read_volume(tmp_path / name).calibrated


@pytest.mark.parametrize(
    ("volume", "name", "message"),
    [
        (Volume(noise(), [[1, 0, 0], [0, 1, 0], [0, 0.5, 1]]), "a.tif", "along z, y and x"),
        (Volume(noise("c8"), 1), "a.tif", "no complex numbers"),
        (Volume(np.broadcast_to(np.float32(0), (1100, 1000, 1000)), 1), "a.tif",
         r"ends at 4 GB. Write it as \.ome\.tif"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused(tmp_path, volume, name, message):
    with pytest.raises(FormatError, match=message):
        write_volume(tmp_path / name, volume)
    assert not list(tmp_path.iterdir())
