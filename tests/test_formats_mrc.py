import itertools
import resource
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import dask.array as da
import mrcfile
import numpy as np
import pytest
import zarr
from mrcfile.dtypes import HEADER_DTYPE

from napari_vox3d.errors import FormatError
from napari_vox3d.formats import read_volume, read_volumes, write_volume
from napari_vox3d.volume import Volume

DATA = Path(__file__).parent / "data" / "mrc"
FILES = sorted(path for path in DATA.iterdir() if path.name != "README.md")
DTYPES = {0: "i1", 1: "i2", 2: "f4", 4: "c8", 6: "u2", 12: "f2"}


def make(path, values, *, order="<", extended=b"", trailing=b"", **fields):
    """Write an MRC file by hand, so that nothing but the header says what it is."""
    values = np.asarray(values)
    mode = {np.dtype(d): m for m, d in DTYPES.items()}[values.dtype.newbyteorder("=")]
    header = np.zeros((), HEADER_DTYPE.newbyteorder(order))
    header["nz"], header["ny"], header["nx"] = values.shape
    header["mz"], header["my"], header["mx"] = values.shape
    header["cella"] = tuple(2.5 * n for n in values.shape[::-1])
    header["cellb"] = (90, 90, 90)
    header["mode"], header["ispg"] = mode, 1
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["map"] = b"MAP "
    header["machst"] = (0x44, 0x44, 0, 0) if order == "<" else (0x11, 0x11, 0, 0)
    header["nsymbt"] = len(extended)
    for name, value in fields.items():
        header[name] = value
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    path.write_bytes(header.tobytes() + extended + data + trailing)
    return path


def ramp(shape=(3, 4, 5), dtype="f4"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.mrc"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_real_files_equal_mrcfile(file):
    volume = read_volume(file)
    with mrcfile.open(file, permissive=True) as reference:
        header, data = reference.header, reference.data
        if data.dtype == np.int8 and header.dmax > 127:  # SerialEM's bytes are unsigned
            data = data.view(np.uint8)
            assert (data.min(), data.max()) == (header.dmin, header.dmax)
        axes = [int(header[name]) for name in ("maps", "mapr", "mapc")]
        data = data.reshape(header.nz, header.ny, header.nx)
        expected = data.transpose([axes.index(axis) for axis in (3, 2, 1)])
        size = np.array(reference.voxel_size.item())[::-1]
    np.testing.assert_array_equal(volume.values, expected)
    if volume.calibrated:
        np.testing.assert_allclose(volume.voxel_size, size, rtol=1e-6)
    assert volume.calibrated == np.isfinite(size).all()
    assert volume.name == file.name.split(".")[0]


def test_a_monoclinic_map_keeps_its_angle():
    step = read_volume(DATA / "EMD-3001.map.bz2").step
    cosine = step[0] @ step[2] / np.linalg.norm(step[0]) / np.linalg.norm(step[2])
    assert np.degrees(np.arccos(cosine)) == pytest.approx(94.326, abs=1e-3)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("mode", DTYPES)
def test_modes_and_byte_orders(path, mode, order):
    values = ramp(dtype=DTYPES[mode])
    make(path, values, order=order)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.values, values)
    assert volume.values.dtype.newbyteorder("=") == values.dtype
    assert volume.calibrated
    np.testing.assert_allclose(volume.voxel_size, 2.5)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("stamp", [(0, 0, 0, 0), (0x44, 0x20, 0x20, 0x20), None])
def test_a_bad_machine_stamp_is_seen_through(path, order, stamp):
    wrong = (0x11, 0x11, 0, 0) if order == "<" else (0x44, 0x44, 0, 0)
    make(path, ramp(), order=order, machst=wrong if stamp is None else stamp)
    with pytest.warns(UserWarning, match="machine stamp"):
        volume = read_volume(path)
    np.testing.assert_array_equal(volume.values, ramp())


def test_a_missing_identifier_is_a_warning(path):
    make(path, ramp(), map=b"")
    with pytest.warns(UserWarning, match="MAP"):
        np.testing.assert_array_equal(read_volume(path).values, ramp())


@pytest.mark.parametrize("columns", list(itertools.permutations((1, 2, 3))))
def test_axis_order_does_not_move_values_in_space(path, columns):
    """`columns` are MAPC, MAPR, MAPS; value, start and voxel size follow their own axis."""
    upright, start, size = ramp((3, 4, 5)), np.array([7, -2, 3]), np.array([1.5, 2.0, 4.0])
    stored_axes = [3 - axis for axis in reversed(columns)]  # of section, row, column, in z, y, x
    counts = np.array([30, 20, 10])
    starts = start[stored_axes]
    make(
        path,
        upright.transpose(stored_axes),
        **dict(zip(("mapc", "mapr", "maps"), columns, strict=True)),
        **dict(zip(("nzstart", "nystart", "nxstart"), starts, strict=True)),
        **dict(zip(("mz", "my", "mx"), counts, strict=True)),
        cella=tuple((size * counts)[::-1]),
    )
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.values, upright)
    index = np.array([2, 1, 4])
    np.testing.assert_allclose(volume.to_world(index), (index + start) * size)
    assert volume.values[tuple(index)] == upright[tuple(index)]
    assert volume.metadata["mrc"]["nstart"] == tuple(start)


def test_axes_of_zero_are_the_usual_ones(path):
    make(path, ramp(), mapc=0, mapr=0, maps=0)
    np.testing.assert_array_equal(read_volume(path).values, ramp())


def test_an_origin_goes_before_start_indices(path):
    make(path, ramp(), origin=(10, 20, 30), nxstart=5)
    np.testing.assert_allclose(read_volume(path).origin, [30, 20, 10])


@pytest.mark.parametrize("cell", [0, np.inf, np.nan, (5, 4, 3)])
def test_an_unknown_voxel_size_is_said_and_one_angstrom(path, cell):
    make(path, ramp(), cella=tuple(np.broadcast_to(cell, 3)))
    with pytest.warns(UserWarning, match="voxel size.*Set the true one"):
        volume = read_volume(path)
    assert not volume.calibrated
    np.testing.assert_array_equal(volume.step, np.eye(3))


def test_no_sampling_means_no_voxel_size(path):
    make(path, ramp(), mx=0, my=0, mz=0)
    with pytest.warns(UserWarning, match="voxel size"):
        assert not read_volume(path).calibrated


def test_negative_voxel_sizes_are_lengths(path):
    make(path, ramp(), cella=(-50, -40, -30))
    np.testing.assert_allclose(read_volume(path).voxel_size, 10)


def test_extended_header_and_trailing_bytes_are_skipped(path):
    make(path, ramp(), extended=b"x" * 162, trailing=b"y" * 7, exttyp=b"FEI1")
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.values, ramp())
    assert volume.metadata["mrc"]["nsymbt"] == 162
    assert volume.metadata["mrc"]["exttyp"] == "FEI1"


def test_bytes_of_imod_are_unsigned_unless_flagged(path):
    values = np.array([[[-1, 5, -128]]], "i1")
    for flags, expected in ((0, [255, 5, 128]), (1, [-1, 5, -128])):
        words = np.zeros(21, "<i4")
        words[11:13] = 1146047817, flags
        make(path, values, extra2=words.tobytes())
        assert read_volume(path).values.ravel().tolist() == expected


def test_bytes_are_unsigned_where_the_statistics_say_so(path):
    values = np.array([[[-1, 5, -128]]], "i1")
    for dmin, dmax, expected in ((5, 255, [255, 5, 128]), (-128, 5, [-1, 5, -128])):
        make(path, values, dmin=dmin, dmax=dmax)
        assert read_volume(path).values.ravel().tolist() == expected


def test_stacks(path):
    values = ramp((6, 4, 5))
    make(path, values, ispg=401, mz=2)
    members = read_volumes(path)
    assert [member.name for member in members] == ["some 1", "some 2", "some 3"]
    np.testing.assert_array_equal(np.concatenate([member.values for member in members]), values)
    make(path, values, ispg=0, mz=1)
    assert [member.shape for member in read_volumes(path)] == [(6, 4, 5)]
    make(path, values, ispg=401, mz=4)
    with pytest.warns(UserWarning, match="one volume"):
        assert [member.shape for member in read_volumes(path)] == [(6, 4, 5)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": 3}, "mode 3 .complex 16-bit"),
        ({"mode": 101}, "mode 101 .IMOD's packed 4-bit"),
        ({"mode": 77}, "mode 77, which is not supported"),
        ({"nx": 0}, "impossible size.* 0 × 4 × 3"),
        ({"nz": -3}, "impossible size"),
        ({"nx": 2**31 - 1, "ny": 2**31 - 1, "nz": 2**31 - 1}, "truncated"),
        ({"nsymbt": -8}, "extended header of -8 bytes"),
        ({"mapc": 2}, "columns, rows and sections along axes 2, 2, 3"),
        ({"mode": 77, "map": b"", "machst": 0}, "is not an MRC file"),
    ],
)
def test_what_cannot_be_read_is_told(path, fields, message):
    make(path, ramp(), **fields)
    with pytest.raises(FormatError, match=message):
        read_volume(path)


def test_short_files_are_told_with_numbers(path):
    make(path, ramp())
    whole = path.read_bytes()
    for size, message in (
        (1200, "truncated: 5 × 4 × 3 values need 240 bytes and there are 176"),
        (1024, "a header and no data"),
        (100, "too short for an MRC file .100 of 1024"),
    ):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=message):
            read_volume(path)
    path.write_text("not a map, but a text that is longer than a header\n" * 40)
    with pytest.raises(FormatError, match="is not an MRC file"):
        read_volume(path)


def test_a_huge_claim_in_a_compressed_file_allocates_nothing(path):
    import gzip

    make(path, ramp(), nx=2**31 - 1, ny=2**31 - 1, nz=2**31 - 1)
    packed = path.with_name("some.mrc.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    tracemalloc.start()
    with pytest.raises(FormatError, match=r"truncated.*there are 240"):
        read_volume(packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_damaged_compressed_data_are_told(tmp_path):
    packed = tmp_path / "half.map.gz"
    packed.write_bytes((DATA / "emd_3001.map.gz").read_bytes()[:100_000])
    with pytest.raises(FormatError, match="damaged compressed data"):
        read_volume(packed)


def test_four_gigabytes_are_mapped_and_not_read(path):
    make(path, ramp((1, 1, 1)), nx=1024, ny=1024, nz=1024, mx=1024, my=1024, mz=1024)
    with path.open("r+b") as file:
        file.truncate(1024 + 4 * 1024**3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    volume = read_volume(path)
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert isinstance(volume.values, np.memmap)
    assert not volume.values.flags.writeable
    assert volume.shape == (1024, 1024, 1024)
    assert traced < 5e6
    assert (after - before) * 1024 < 100e6


def test_opening_imports_nothing_heavy():
    code = (
        "import sys; from napari_vox3d.formats import read_volume; "
        f"read_volume({str(DATA / 'EMD-3197.map')!r}); "
        "print(sys.modules.keys() & {'torch', 'ase', 'pandas', 'scipy', 'napari', 'starfile'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("dtype", "mode"),
    [
        ("f2", 12), ("f4", 2), ("f8", 2), ("i1", 0), ("?", 0), ("u1", 6), ("i2", 1), ("u2", 6),
        ("i4", 2), ("c8", 4), ("c16", 4), (">f4", 2), (">i2", 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2"])
def test_written_files_are_what_mrcfile_reads(tmp_path, dtype, mode, suffix, capsys):
    path = tmp_path / f"out.rec{suffix}"
    values = (ramp((3, 4, 5)) % 2 if dtype == "?" else ramp((3, 4, 5))).astype(dtype)
    volume = Volume(values, [4, 2, 1.5], [30, -20, 10])
    write_volume(path, volume)
    assert mrcfile.validate(path), capsys.readouterr().out
    with mrcfile.open(path) as written:
        assert written.header.mode == mode
        assert written.header.ispg == 1
        np.testing.assert_array_equal(written.data, values)
        np.testing.assert_allclose(written.voxel_size.item(), [1.5, 2, 4])
        np.testing.assert_allclose(written.header.origin.item(), [10, -20, 30])
    again = read_volume(path)
    np.testing.assert_array_equal(again.values, values)
    np.testing.assert_allclose(again.step, volume.step)
    np.testing.assert_allclose(again.origin, volume.origin)


def test_a_mapped_volume_may_be_written_over_itself(path):
    make(path, ramp((7, 5, 6)), order=">")
    volume = read_volume(path)
    write_volume(path, volume)
    np.testing.assert_array_equal(read_volume(path).values, ramp((7, 5, 6)))


def test_large_volumes_are_fetched_in_slabs_and_never_two_at_once(path):
    class Lazy:
        """Stands for a dask array: knows its shape and dtype, gives slices."""

        shape, ndim, dtype, largest = (64, 512, 512), 3, np.dtype("f4"), 0

        def __getitem__(self, part):
            piece = np.zeros((len(range(*part.indices(64))), 512, 512), "f4")
            Lazy.largest = max(Lazy.largest, piece.nbytes)
            return piece

    tracemalloc.start()
    write_volume(path, Volume(Lazy(), 10))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size == 1024 + 64 * 512 * 512 * 4
    assert Lazy.largest <= 1 << 24
    assert peak < 1.5 * (1 << 24)


def test_oblique_grids_are_refused_with_a_way_out(path):
    oblique = Volume(ramp(), [[1, 0, 0], [0, 1, 0], [0, 0.5, 1]])
    with pytest.raises(FormatError, match=r"oblique.*\.vasp, \.cube or \.xsf"):
        write_volume(path, oblique)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("dtype", ["i4", "u4", "i8", "u8"])
def test_integers_are_kept_or_refused(path, dtype):
    values = np.full((2, 3, 4), 2**24, dtype)
    write_volume(path, Volume(values, 10))
    np.testing.assert_array_equal(read_volume(path).values, values)
    with pytest.raises(FormatError, match="beyond ±16777216"):
        write_volume(path, Volume(values + 1, 10))
    np.testing.assert_array_equal(read_volume(path).values, values)  # the old file stays


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_lazy_arrays_are_written(path, kind):
    values = ramp((5, 6, 7), "i2")
    lazy = da.from_array(values, chunks=2) if kind == "dask" else zarr.array(values)
    write_volume(path, Volume(lazy, [4, 2, 1.5]))
    with mrcfile.open(path) as written:
        assert written.header.mode == 1
        np.testing.assert_array_equal(written.data, values)


def test_uncalibrated_volumes_stay_so(path):
    write_volume(path, replace(Volume(ramp(), 1), calibrated=False))
    with pytest.warns(UserWarning, match="voxel size"):
        assert not read_volume(path).calibrated
