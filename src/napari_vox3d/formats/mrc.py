"""MRC and CCP4 maps: tomograms, sub-volumes, image stacks and electron microscopy maps.

The format is that of Cheng et al. (2015), https://www.ccpem.ac.uk/mrc_format/mrc2014.php. Files
of other habits (bad machine stamp, no ``MAP`` identifier, IMOD's unsigned bytes) are read too,
with a warning where something had to be guessed.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import as_stored, write_aside
from napari_vox3d.formats.compression import (
    COMPRESSED_SUFFIXES,
    create_bytes,
    is_compressed,
    open_bytes,
    plain_name,
)
from napari_vox3d.formats.mapped import guarded
from napari_vox3d.provenance import as_text, split_text
from napari_vox3d.volume import Volume

SUFFIXES = (".mrc", ".mrcs", ".map", ".rec", ".st", ".ali", ".ccp4")
PATTERNS = [f"*{suffix}{more}" for suffix in SUFFIXES for more in ("", *COMPRESSED_SUFFIXES)]

_HEADER_BYTES = HEADER_DTYPE.itemsize
_DTYPES = {0: "i1", 1: "i2", 2: "f4", 4: "c8", 6: "u2", 12: "f2"}
_UNSUPPORTED = {3: "complex 16-bit integers", 101: "IMOD's packed 4-bit integers"}
_STAMPS = {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}
_IMOD_STAMP = 1146047817
_MODES = {"?": 0, "b": 0, "h": 1, "B": 6, "H": 6, "e": 12, "F": 4, "D": 4}  # others: float32
_LARGEST_INTEGER = 1 << 24  # that float32 holds along with all smaller ones
_CHUNK_BYTES = 1 << 24
_LABEL, _LABELS = 80, 10  # bytes of a label, and how many there are


def read(path: str | Path) -> list[Volume]:
    """Read an MRC file.

    Values come as (z, y, x) whatever the order of columns, rows and sections in the file, in the
    byte order of the file. An uncompressed file is memory-mapped read-only, so that opening costs
    neither time nor memory; a compressed one is read whole. A single image has one z.

    Parameters
    ----------
    path
        .mrc .mrcs .map .rec .st .ali .ccp4, plain or compressed with gzip, bzip2 or xz.

    Returns
    -------
    list of Volume
        One, or the members of a volume stack (space group 401 to 630). `Volume.metadata["mrc"]`
        keeps what the header says beyond the geometry; the labels may tell of a run, see
        `napari_vox3d.Run`.

    Raises
    ------
    FormatError
        If this is no MRC file, its mode is not supported, or it is shorter than its header says.

    Warns
    -----
    UserWarning
        If the header is irregular, or does not tell the voxel size; `Volume.calibrated` is then
        False and the step 1 Å.
    """
    path = Path(path)
    with open_bytes(path) as file:
        header = _parse_header(path, file.read(_HEADER_BYTES))
        offset = _HEADER_BYTES + int(header["nsymbt"])
        shape = tuple(int(header[n]) for n in ("nz", "ny", "nx"))
        stored = _values(path, file, _dtype(path, header), shape, offset)
    axes = _axes(path, header)
    step, calibrated = _step(path, header)
    origin, nstart = _origin(header, axes, step)
    metadata = {
        "mode": int(header["mode"]),
        "nsymbt": int(header["nsymbt"]),
        "exttyp": _text(header["exttyp"]),
        "ispg": int(header["ispg"]),
        "axes": tuple(int(header[n]) for n in ("mapc", "mapr", "maps")),
        "nstart": tuple(nstart.tolist()),
        "origin": tuple(_xyz(header["origin"])[::-1].tolist()),
        "labels": [_text(label) for label in header["label"] if _text(label)],
    }
    _, run = split_text(header["label"].tobytes().decode("ascii", "replace"))
    name = plain_name(path).split(".")[0] or plain_name(path)
    members = _members(path, header, stored)
    return [
        Volume(
            guarded(values.transpose(axes)),
            step,
            origin,
            calibrated=calibrated,
            name=name if len(members) == 1 else f"{name} {number}",
            source=str(path),
            metadata={"mrc": metadata, **run},
        )
        for number, values in enumerate(members, 1)
    ]


def write(path: str | Path, volume: Volume) -> None:
    """Write a volume as MRC 2014, little-endian, in the mode that holds its values.

    float16 becomes mode 12, int8 and bool 0, int16 1, uint8 and uint16 6, complex 4, everything
    else float32 (mode 2), which holds integers up to 16777216. Values are fetched and written a
    slab at a time.

    Parameters
    ----------
    path
        File name; .gz, .bz2 or .xz at its end compresses.
    volume
        An orthogonal volume.

    Raises
    ------
    FormatError
        If the cell of the volume is not orthogonal, integers are too large, or the file cannot
        be written.

    Warns
    -----
    UserWarning
        If float64, complex128 or integers of 32 bits and more lose digits.
    """
    path = Path(path)
    if not volume.is_orthogonal:
        raise FormatError(
            path,
            "MRC holds only grids along z, y and x, and this one is oblique",
            hint="Write it as .vasp, .cube or .xsf.",
        )
    with write_aside(path) as aside:
        if path.suffix.lower() not in COMPRESSED_SUFFIXES:
            with aside.open("wb") as file:
                _write_plain(path, file, volume)
            return
        # The header wants statistics of all values, and compressed files cannot be rewound.
        with tempfile.TemporaryFile(dir=aside.parent) as plain:
            _write_plain(path, plain, volume)
            plain.seek(0)
            with create_bytes(aside, path.name) as file:
                shutil.copyfileobj(plain, file, _CHUNK_BYTES)


def is_header(head: bytes) -> bool:
    """True if these first bytes of a file can be an MRC header that says it is one."""
    return len(head) >= _HEADER_BYTES and head[208:211] == b"MAP" and _byte_order(head) is not None


def _parse_header(path: Path, head: bytes) -> NDArray[np.void]:
    if len(head) < _HEADER_BYTES:
        raise FormatError(
            path, f"is too short for an MRC file ({len(head)} of {_HEADER_BYTES} header bytes)"
        )
    order = _byte_order(head)
    named = head[208:211] == b"MAP"
    stamped = _STAMPS.get(head[212:214])
    if order is None and not named:
        raise FormatError(path, "is not an MRC file")
    # Kept as an array of no axes: its fields know their byte order, scalars forget it.
    header = np.frombuffer(head, HEADER_DTYPE.newbyteorder(order or stamped or "<")).reshape(())
    if header["nsymbt"] < 0:
        raise FormatError(
            path, f"claims an extended header of {header['nsymbt']} bytes", where="byte 92"
        )
    if min(header["nx"], header["ny"], header["nz"]) <= 0:
        size = " × ".join(str(header[n]) for n in ("nx", "ny", "nz"))
        raise FormatError(path, f"claims an impossible size, nx × ny × nz = {size}", where="byte 0")
    oddities = [] if named else ["lacks the identifier 'MAP '"]
    if stamped != order:
        endian = "big" if order == ">" else "little"
        oddities.append(f"has a wrong machine stamp; its numbers were taken as {endian}-endian")
    if oddities:
        warnings.warn(f"{path.name} {' and '.join(oddities)}.", stacklevel=4)
    return header


def _byte_order(head: bytes) -> str | None:
    """Byte order in which mode and size make sense, the stamped one first; None if neither."""
    stamped = _STAMPS.get(head[212:214], "<")
    for order in (stamped, "<" if stamped == ">" else ">"):
        nx, ny, nz, mode = np.frombuffer(head[:16], f"{order}i4").tolist()
        if mode in _DTYPES.keys() | _UNSUPPORTED.keys() and min(nx, ny, nz) > 0:
            return order
    return None


def _dtype(path: Path, header: NDArray[np.void]) -> np.dtype[Any]:
    mode = int(header["mode"])
    if mode not in _DTYPES:
        what = f" ({_UNSUPPORTED[mode]})" if mode in _UNSUPPORTED else ""
        raise FormatError(
            path,
            f"has mode {mode}{what}, which is not supported",
            where="byte 12",
            hint="Convert it to mode 2, for example with IMOD's `newstack -mode 2`.",
        )
    kind = _DTYPES[mode]
    if mode == 0:
        # IMOD marks its files; without bit 0 of the flags their bytes are unsigned. So are those
        # of older programs, whose statistics would else be impossible.
        order = header["mode"].dtype.byteorder
        stamp, flags = np.frombuffer(header["extra2"].tobytes()[44:52], f"{order}i4").tolist()
        beyond = header["dmin"] >= 0 and 127 < header["dmax"] <= 255
        if beyond if stamp != _IMOD_STAMP else not flags & 1:
            kind = "u1"
    return np.dtype(kind).newbyteorder(header["mode"].dtype.byteorder)


def _values(
    path: Path, file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...], offset: int
) -> NDArray[Any]:
    """Values as stored, (sections, rows, columns): a memory map if the file is not compressed."""
    expected = dtype.itemsize * shape[0] * shape[1] * shape[2]
    if is_compressed(path):
        for chunk in range(_HEADER_BYTES, offset, _CHUNK_BYTES):  # the extended header
            file.read(min(_CHUNK_BYTES, offset - chunk))
        content = _read_up_to(file, expected)
        found = len(content)
    else:
        found = path.stat().st_size - offset
    if found < expected:
        state = "holds a header and no data" if found <= 0 else "is truncated"
        size = " × ".join(map(str, reversed(shape)))
        raise FormatError(
            path,
            f"{state}: {size} values need {expected} bytes and there are {max(found, 0)}",
            hint="Copy or download it again.",
        )
    if is_compressed(path):
        return np.frombuffer(content, dtype).reshape(shape)
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape)


def _read_up_to(file: IO[bytes], count: int) -> bytearray:
    """Read `count` bytes or what there is, without trusting `count` with an allocation."""
    content = bytearray()
    while chunk := file.read(min(_CHUNK_BYTES, count - len(content))):
        content += chunk
    return content


def _axes(path: Path, header: NDArray[np.void]) -> tuple[int, ...]:
    """Stored axis (0 section, 1 row, 2 column) that runs along z, y and x."""
    directions = [int(header[n]) for n in ("maps", "mapr", "mapc")]
    if not any(directions):
        return 0, 1, 2
    if sorted(directions) != [1, 2, 3]:
        raise FormatError(
            path,
            "has columns, rows and sections along axes "
            f"{directions[2]}, {directions[1]}, {directions[0]}, not a permutation of 1, 2, 3",
            where="byte 64",
        )
    return tuple(directions.index(direction) for direction in (3, 2, 1))


def _step(path: Path, header: NDArray[np.void]) -> tuple[NDArray[np.float64], bool]:
    """Grid vectors in Å, rows and columns (z, y, x), and whether the file knows them."""
    counts = np.array([header[n] for n in ("mx", "my", "mz")], float)
    with np.errstate(all="ignore"):
        size = np.abs(_xyz(header["cella"]) / counts)
    if not np.isfinite(size).all() or not size.all() or (size == 1).all():
        written = " × ".join(f"{length:g}" for length in size)
        warnings.warn(
            f"{path.name} does not tell its voxel size (the header gives {written} Å); 1 Å is "
            "assumed. Set the true one before measuring, picking or predicting.",
            stacklevel=3,
        )
        return np.eye(3), False
    cosines = np.cos(np.radians(_angles(header)))
    alpha, beta, gamma = np.where(np.abs(cosines) < 1e-6, 0, cosines)
    # a along x and b in the x-y plane, as in CCP4 and the PDB.
    sine = np.sqrt(1 - gamma**2)
    c_y = (alpha - beta * gamma) / sine
    vectors = np.array([[1, 0, 0], [gamma, sine, 0], [beta, c_y, np.sqrt(1 - beta**2 - c_y**2)]])
    return (vectors * size[:, None])[::-1, ::-1], True


def _angles(header: NDArray[np.void]) -> NDArray[np.float64]:
    """Cell angles in degrees; right ones where the header gives none that a cell can have."""
    angles = np.array(header["cellb"].item(), float)
    cosines = np.cos(np.radians(angles))
    gram = 1 - (cosines**2).sum() + 2 * cosines.prod()
    possible = np.isfinite(angles).all() and ((angles > 0) & (angles < 180)).all() and gram > 1e-6
    return angles if possible else np.full(3, 90.0)


def _origin(
    header: NDArray[np.void], axes: tuple[int, ...], step: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Position of voxel (0, 0, 0) in Å, and the start indices; both (z, y, x)."""
    stored = [int(header[n]) for n in ("nzstart", "nystart", "nxstart")]
    nstart = np.array([stored[axis] for axis in axes])
    origin = _xyz(header["origin"])[::-1]
    return (origin if origin.any() and np.isfinite(origin).all() else nstart @ step), nstart


def _members(path: Path, header: NDArray[np.void], stored: NDArray[Any]) -> list[NDArray[Any]]:
    """Split a volume stack; anything else is one volume."""
    sections, each = int(header["nz"]), int(header["mz"])
    if not 401 <= header["ispg"] <= 630 or each == sections:
        return [stored]
    if each <= 0 or sections % each:
        warnings.warn(
            f"{path.name} calls itself a stack of volumes of {each} sections but has {sections}; "
            "it is shown as one volume.",
            stacklevel=3,
        )
        return [stored]
    return [stored[start : start + each] for start in range(0, sections, each)]


def _write_plain(path: Path, file: IO[bytes], volume: Volume) -> None:
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    dtype = np.dtype(volume.values.dtype)
    mode = _MODES.get(dtype.char, 2)
    if dtype.itemsize > np.dtype(_DTYPES[mode]).itemsize:
        warnings.warn(
            f"{path.name}: {dtype.name} becomes {np.dtype(_DTYPES[mode]).name}, the widest numbers "
            "of their kind that MRC holds.",
            stacklevel=4,
        )
    depth, height, width = volume.shape
    header["nx"], header["ny"], header["nz"] = width, height, depth
    header["mx"], header["my"], header["mz"] = width, height, depth
    header["mode"] = mode
    header["cella"] = tuple((volume.voxel_size * volume.shape)[::-1])
    header["cellb"] = (90, 90, 90)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["ispg"], header["nversion"] = 1, 20141
    header["origin"] = tuple(volume.origin[::-1])
    header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    about = as_text(volume.metadata, most=_LABEL * (_LABELS - 1))
    labels = [f"napari-vox3d: {volume.quantity}".encode("ascii", "replace")]
    labels += [about[n : n + _LABEL].encode() for n in range(0, len(about), _LABEL)]
    header["nlabl"] = len(labels)
    header["label"][: len(labels)] = labels
    file.write(header.tobytes())
    statistics = _Statistics()
    stored_as = np.dtype(_DTYPES[mode]).newbyteorder("<")
    for part in volume.slabs():  # so that a mapped, dask or zarr array is never whole
        slab = _contiguous(path, np.asarray(volume.values[part]), stored_as)
        for plane in slab:  # a slab of chunks is large, and the sums need float64
            statistics.add(plane)
        file.write(slab.data)
        del slab, plane  # before the next one is read
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = statistics.result()
    file.seek(0)
    file.write(header.tobytes())


def _contiguous(path: Path, slab: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values as they are written."""
    rounded = slab.dtype.kind in "iu" and dtype.kind == "f" and slab.size
    if rounded and max(-int(slab.min()), int(slab.max())) > _LARGEST_INTEGER:
        raise FormatError(
            path,
            f"holds integers beyond ±{_LARGEST_INTEGER}, which MRC cannot keep apart",
            hint="Number the labels anew, or convert them to float32.",
        )
    return as_stored(path, slab, dtype)


class _Statistics:
    """Least, largest, mean and deviation of values that pass by in pieces."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0
        self.least, self.largest = np.inf, -np.inf

    def add(self, values: NDArray[Any]) -> None:
        if values.dtype.kind == "c":
            return
        exact = values.astype(np.float64)
        self.count += exact.size
        with np.errstate(all="ignore"):  # of values that are no numbers, or infinite
            self.total += exact.sum()
            self.squares += np.square(exact).sum()
        self.least, self.largest = min(self.least, exact.min()), max(self.largest, exact.max())

    def result(self) -> tuple[float, float, float, float]:
        """(min, max, mean, rms); of nothing, or of no numbers, MRC's "not determined"."""
        if not (self.count and np.isfinite(self.squares)):
            return 0, -1, -2, -1
        mean = self.total / self.count
        variance = max(0.0, self.squares / self.count - mean**2)
        return self.least, self.largest, mean, variance**0.5


def _xyz(field: NDArray[np.void]) -> NDArray[np.float64]:
    return np.array(field.item(), float)


def _text(raw: Any) -> str:
    return bytes(raw).decode("ascii", "ignore").replace("\0", "").strip()
