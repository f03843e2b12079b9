"""OME-Zarr images (NGFF 0.1 to 0.5): multiscale tomograms in folders of chunks.

Layout: https://ngff.openmicroscopy.org/0.4 (zarr 2, metadata in ``.zattrs``) and
https://ngff.openmicroscopy.org/0.5 (zarr 3, under ``ome`` in ``zarr.json``). The CryoET Data Portal
and copick keep tomograms so, with the unit ångström. zarr is an optional dependency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.axes import angstroms, volumes_of, warn_of_unknown_size
from napari_vox3d.formats.opening import parse_json
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    import zarr
    from numpy.typing import NDArray

PATTERNS = ["*.zarr"]

_MARKS = (".zgroup", ".zattrs", ".zarray", "zarr.json")
_FIRST_AXES = "tczyx"  # of versions 0.1 and 0.2, which do not name them


def is_zarr(path: Path) -> bool:
    """True if a folder is a zarr group or array, whatever its name."""
    return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)


def is_for_others(path: Path) -> bool:
    """True if a zarr folder holds labels, a flat image or a film, which other readers show."""
    try:
        about, attributes = _metadata(path), _attributes(path)
        if "shape" in about:
            return len(about["shape"]) != 3
        return "image-label" in attributes or any(
            _is_flat_or_film(path, image) for image in attributes.get("multiscales", ())
        )
    except (FormatError, LookupError, TypeError, AttributeError, ValueError):
        return False  # it is damaged, and reading it says how


def _is_flat_or_film(path: Path, image: Mapping[str, Any]) -> bool:
    names = [axis.name for axis in _axes(image)]
    shape = _metadata(path / image["datasets"][0]["path"])["shape"]
    times = dict(zip(names, shape, strict=True)).get("t", 1)
    return not {"x", "y", "z"} <= set(names) or times > 1


def read(path: str | Path) -> list[Volume]:
    """Read an OME-Zarr image, or a bare zarr array of three axes.

    Nothing is read but the metadata: values are zarr arrays, or dask arrays over them where an
    axis has to be moved or taken away.

    Parameters
    ----------
    path
        Folder of the image: the one with ``multiscales`` in its ``.zattrs`` or ``zarr.json``.

    Returns
    -------
    list of Volume
        One for each channel and time, its coarser levels in `Volume.coarser`.

    Raises
    ------
    FormatError
        If zarr is not installed, the folder holds no image, an array is missing or its
        compression is unknown, or there is no z axis.

    Warns
    -----
    UserWarning
        If the scale or its unit is missing; `Volume.calibrated` is then False.
    """
    path = Path(path)
    attributes = _attributes(path)
    if "shape" in _metadata(path):
        return _grids(path, [_array(path)], "zyx", [np.ones(3)], np.zeros(3), calibrated=False)
    return [volume for image in _images(path, attributes) for volume in _read_image(path, image)]


def _metadata(path: Path) -> dict[str, Any]:
    """What stands about a group or array in its folder, read without zarr."""
    found: dict[str, Any] = {}
    try:
        for mark in _MARKS:
            if (path / mark).is_file():
                about = parse_json(path / mark, (path / mark).read_bytes())
                if not isinstance(about, dict):
                    raise TypeError(f"{mark} holds {type(about).__name__}")
                found |= {"attributes": about} if mark == ".zattrs" else about
    except (ValueError, TypeError) as error:
        raise FormatError(path, f"has damaged metadata ({error})") from error
    return found


def _attributes(path: Path) -> dict[str, Any]:
    """What its program wrote about a group or array; in 0.5 all of OME is under one key."""
    found = _metadata(path).get("attributes", {})
    if isinstance(found, dict):
        found = found.get("ome", found)
    if not isinstance(found, dict):
        raise FormatError(path, "has damaged metadata (its attributes are no object)")
    return found


def _images(path: Path, attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The multiscale images of a group.

    Raises
    ------
    FormatError
        If there is none, or they are label images.
    """
    images = attributes.get("multiscales")
    if "image-label" in attributes:
        raise FormatError(path, "holds labels and no image", hint="Open them with another reader.")
    if images:
        return images
    inside = sorted(one.name for one in path.iterdir() if is_zarr(one))
    hint = f"Open one of those inside: {', '.join(inside[:9])}." if inside else ""
    raise FormatError(path, "is a zarr folder and no OME-Zarr image", hint=hint)


class _Axis(NamedTuple):
    name: str
    unit: str | None


def _axes(image: Mapping[str, Any]) -> list[_Axis]:
    """Axes of an image; 0.3 names them, 0.4 and later know units as well."""
    written = image.get("axes") or _FIRST_AXES
    return [
        _Axis(one.lower(), None) if isinstance(one, str) else _Axis(one["name"].lower(),
                                                                    one.get("unit"))
        for one in written
    ]  # fmt: skip


def _read_image(path: Path, image: Mapping[str, Any]) -> list[Volume]:
    try:
        axes = _axes(image)
        names = [axis.name for axis in axes]
        datasets = [(dataset["path"], dataset) for dataset in image["datasets"]]
        placed = [_placement(names, dataset, image) for _, dataset in datasets]
        units = [angstroms(axis.unit) for name in "zyx" for axis in axes if axis.name == name]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(path, f"has damaged OME-Zarr metadata ({error!r})") from error
    outside = [name for name, _ in datasets if not _is_inside(path, name)]
    if outside:
        raise FormatError(path, f"names an array outside its folder, {outside[0]!r}")
    levels = [_array(path / name) for name, _ in datasets]
    known = None not in units and all(found for _, _, found in placed)
    # without units the levels still stand in their ratio
    to_angstrom = np.array(units, float) if known else 1 / placed[0][0]
    sizes = [scale * to_angstrom for scale, _, _ in placed]
    return _grids(path, levels, names, sizes, placed[0][1] * to_angstrom, calibrated=known)


def _is_inside(folder: Path, name: str) -> bool:
    return Path(normpath(folder / name)).is_relative_to(normpath(folder))


def _placement(
    names: Sequence[str], *holders: Mapping[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Scale and translation (z, y, x) of a level, and whether a scale is written."""
    scale, shift = np.ones(len(names)), np.zeros(len(names))
    found = False
    for holder in holders:  # first those of the level, then those of all levels
        for step in holder.get("coordinateTransformations", ()):
            if step["type"] == "scale":
                factors = np.array(step["scale"], float)
                scale, shift, found = scale * factors, shift * factors, True
            elif step["type"] == "translation":
                shift = shift + np.array(step["translation"], float)
    order = [names.index(name) for name in "zyx" if name in names]
    if not (np.isfinite(scale).all() and (scale > 0).all() and np.isfinite(shift).all()):
        raise ValueError(f"scale {scale.tolist()}, translation {shift.tolist()}")
    return scale[order], shift[order], found


def _grids(
    path: Path,
    levels: Sequence[Any],
    names: Sequence[str],
    sizes: Sequence[NDArray[np.float64]],
    first: NDArray[np.float64],
    *,
    calibrated: bool,
) -> list[Volume]:
    """Volumes of all channels and times, each with its coarser levels.

    Levels cover the same box, so that coarse voxels have their centres further in. Most programs
    average blocks and do not write that as a translation, and the others agree.
    """
    name = path.name.split(".")[0]
    by_level = []
    for values, size in zip(levels, sizes, strict=True):
        if len(values.shape) != len(names):
            raise FormatError(
                path, f"has an array of {len(values.shape)} axes, its metadata name {len(names)}"
            )
        origin = first + (size - sizes[0]) / 2
        by_level.append([
            Volume(part, size, origin, calibrated=calibrated, name=f"{name} {place}".strip(),
                   source=str(path))
            for place, part in volumes_of(path, values, names)
        ])  # fmt: skip
    if not calibrated:
        warn_of_unknown_size(path)
    fine_first = sorted(range(len(by_level)), key=lambda level: float(np.prod(sizes[level])))
    finest, *coarser = (by_level[level] for level in fine_first)
    return [
        replace(volume, coarser=tuple(others))
        for volume, *others in zip(finest, *coarser, strict=True)
    ]


class _Chunked:
    """A zarr array; of chunks that turn out to be damaged, a `FormatError` tells."""

    def __init__(self, path: Path, array: zarr.Array[Any]) -> None:
        self._path, self._array = path, array
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype
        self.size, self.chunks = array.size, array.chunks

    def __getitem__(self, part: Any) -> NDArray[Any]:
        if not self._path.exists():  # zarr takes chunks that are missing for empty ones
            raise FormatError(self._path, "was removed while it was open")
        try:
            return np.asarray(self._array[part])
        except Exception as error:  # codecs raise whatever goes wrong in them
            reason = f"has a chunk that cannot be read ({error})"
            raise FormatError(self._path, reason) from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype)


def _array(path: Path) -> _Chunked:
    """Open an array for reading; its chunks stay where they are."""
    try:
        import zarr
    except ImportError as error:
        raise FormatError(
            path,
            "is OME-Zarr, and the package zarr is not installed",
            hint="Install it with `pip install 'napari-vox3d[zarr]'`.",
        ) from error
    _refuse_short_chunks()
    try:
        return _Chunked(path, zarr.open_array(path, mode="r"))
    except Exception as error:  # zarr raises whatever goes wrong in it
        raise FormatError(path, f"is no zarr array that can be read ({error})") from error


@cache
def _refuse_short_chunks() -> None:
    """Let numcodecs look how long a Blosc chunk is before it unpacks it, in all of the process.

    It believes the length in the header, reads on behind the end of a chunk that was cut short, and
    may end the program so. Arrays are read later, by napari and in threads.
    """
    from numcodecs import blosc
    from numcodecs.compat import ensure_contiguous_ndarray

    unpack = blosc.Blosc.decode

    def decode(self: Any, buf: Any, out: Any = None) -> Any:
        chunk = ensure_contiguous_ndarray(buf).view(np.uint8)
        if len(chunk) < 16 or int.from_bytes(chunk[12:16].tobytes(), "little") > len(chunk):
            raise ValueError("it was cut short")
        return unpack(self, buf, out)

    blosc.Blosc.decode = decode
