"""TIFF stacks: ImageJ's, OME's, and plain ones, which do not tell the voxel size.

ImageJ keeps x and y as resolution, z as ``spacing`` and one ``unit`` in the image description
(``ij.io.FileSaver``); OME has an XML with ``PhysicalSizeX`` and its unit
(https://docs.openmicroscopy.org/ome-model). Neither has a place for an origin.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import as_stored, write_aside
from napari_vox3d.formats.axes import angstroms, volumes_of, warn_of_unknown_size
from napari_vox3d.formats.mapped import guarded
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tifffile import TiffFile, TiffPageSeries

PATTERNS = ["*.tif", "*.tiff"]

_OME_NAMES = (".ome.tif", ".ome.tiff")
_IMAGEJ = ("uint8", "uint16", "float32")  # the only numbers that ImageJ knows
_OME = (*_IMAGEJ, "int8", "int16", "int32", "uint32", "float64")
_IMAGEJ_BYTES = (1 << 32) - (1 << 20)  # offsets have 32 bits
_ELSEWHERE = re.compile(r"FileName\s*=\s*[\"'][^\"']*[/\\]")  # planes may be in files beside it
_OME_UNIT = "µm"  # that of PhysicalSize if none is written


def read(path: str | Path) -> list[Volume]:
    """Read a TIFF stack.

    Uncompressed files that lie in one piece are memory-mapped; of others, a plane is decoded when
    it is asked for.

    Parameters
    ----------
    path
        .tif or .tiff of ImageJ, OME or any other program. Files of pages without a name are taken
        as slices along z.

    Returns
    -------
    list of Volume
        One for each channel and time. A stack of pages whose program does not say what they are
        is one along z.

    Raises
    ------
    FormatError
        If this is no TIFF, is a single or a colour image, has no z axis, or is compressed in a
        way that cannot be decoded here.

    Warns
    -----
    UserWarning
        If the file does not tell the voxel size in a unit of length.
    """
    path = Path(path)
    with _opened(path) as file:
        series = file.series[0]
        axes = _axes(path, series)
        size = _voxel_size(file)
        values = _values(path, series)
    if size is None:
        warn_of_unknown_size(path)
    name = path.name.split(".")[0]
    return [
        Volume(
            guarded(part),
            np.ones(3) if size is None else size,
            calibrated=size is not None,
            name=f"{name} {place}".strip(),
            source=str(path),
        )
        for place, part in volumes_of(path, values, axes)
    ]


def holds_volume(path: Path) -> bool:
    """True if a TIFF has z, y and x at one time, and numbers of an image and not of labels."""
    try:
        with _opened(path) as file:
            series = file.series[0]
            labels = series.dtype.kind in "iu" and series.dtype.itemsize > 2
            times = dict(zip(_axes(path, series), series.shape, strict=True)).get("t", 1)
            return times == 1 and not labels
    except FormatError:
        return False


def write(path: str | Path, volume: Volume) -> None:
    """Write a volume as a TIFF with its voxel size, plane by plane.

    ``.ome.tif`` is OME-TIFF with sizes in Å, in the number format of the volume; float16 becomes
    float32. Any other name is a stack that ImageJ opens by itself, in nm: uint8, uint16 or
    float32, other numbers become float32.

    Raises
    ------
    FormatError
        If the grid is oblique or complex, the stack is too large for ImageJ, or the file cannot
        be written.

    Warns
    -----
    UserWarning
        If float64 or integers of 64 bits lose digits.
    """
    import tifffile

    path = Path(path)
    if not volume.is_orthogonal:
        hint = "Write it as .vasp, .cube or .xsf."
        raise FormatError(path, "TIFF holds only grids along z, y and x", hint=hint)
    ome = path.name.lower().endswith(_OME_NAMES)
    dtype = np.dtype(volume.values.dtype).newbyteorder("=")
    if dtype.kind == "c":
        raise FormatError(path, "TIFF holds no complex numbers", hint="Write it as .mrc.")
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    if dtype.name not in (_OME if ome else _IMAGEJ):
        if dtype.itemsize > 4:
            warnings.warn(f"{path.name}: {dtype.name} becomes float32.", stacklevel=3)
        dtype = np.dtype(np.float32)
    if not ome and dtype.itemsize * np.prod(volume.shape) > _IMAGEJ_BYTES:
        raise FormatError(path, "ImageJ's TIFF ends at 4 GB", hint="Write it as .ome.tif or .mrc.")
    planes = (as_stored(path, plane, dtype) for plane in _planes(volume))
    form = _ome_form(volume) if ome else _imagej_form(volume)
    with write_aside(path) as aside:
        tifffile.imwrite(
            aside, planes, shape=volume.shape, dtype=dtype, photometric="minisblack", **form
        )


@contextmanager
def _opened(path: Path) -> Iterator[TiffFile]:
    """Open file; what tifffile raises on damaged ones becomes a `FormatError`."""
    import tifffile

    try:
        if _goes_in_a_circle(path):
            raise FormatError(path, "is a damaged TIFF whose pages follow each other without end")
        with tifffile.TiffFile(path) as file:
            if _ELSEWHERE.search(file.ome_metadata or ""):
                raise FormatError(path, "names planes in another folder")
            yield file
    except (FormatError, Warning):
        raise
    except Exception as error:  # tifffile raises whatever goes wrong in it
        what = str(error) or type(error).__name__
        raise FormatError(path, f"is not a TIFF that can be read ({what})") from error


def _goes_in_a_circle(path: Path) -> bool:
    """True if a page is followed by an earlier one, which tifffile would go along for hours."""
    with path.open("rb") as file:
        head = file.read(16)
        order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"

        def number(at: int, size: int) -> int:
            file.seek(at)
            return int.from_bytes(file.read(size), order)

        big = number(2, 2) == 43
        counter, entry, pointer = (8, 20, 8) if big else (2, 12, 4)
        page, seen = number(8 if big else 4, pointer), set()
        while page and page not in seen:
            seen.add(page)
            following = page + counter + entry * number(page, counter)
            page = number(following, pointer) if following < 1 << 62 else 0
        return page in seen


def _axes(path: Path, series: TiffPageSeries) -> list[str]:
    """Names of the axes in lower case, z among them."""
    axes, shape = series.axes.lower(), series.shape
    if not all(shape):
        raise FormatError(path, f"claims an impossible size, {' × '.join(map(str, shape))}")
    if "s" in axes and shape[axes.index("s")] > 1:
        raise FormatError(path, "is a colour image", hint="Give one with one value a voxel.")
    stacked = [n for n, (name, count) in enumerate(zip(axes, shape, strict=True))
               if name not in "ctsyx" and count > 1]  # fmt: skip
    if "z" not in axes and len(stacked) == 1:
        axes = axes[: stacked[0]] + "z" + axes[stacked[0] + 1 :]
    if "z" not in axes:
        many = ", ".join(axes.upper())
        raise FormatError(path, f"holds flat images (axes {many}); a volume needs a z axis")
    return list(axes)


def _values(path: Path, series: TiffPageSeries) -> Any:
    """Values of all axes: a memory map, or a dask array of planes."""
    import tifffile

    if series.dataoffset is not None:
        return tifffile.memmap(path, mode="r")
    import dask.array
    from dask import delayed

    _plane(path, 0)  # so that what cannot be decoded is told at once
    shape = series.shape[-2:]
    planes = [
        dask.array.from_delayed(delayed(_plane, pure=True)(path, n), shape, series.dtype)
        for n in range(int(np.prod(series.shape[:-2])))
    ]
    return dask.array.stack(planes).reshape(series.shape)


def _plane(path: Path, number: int) -> NDArray[Any]:
    """Decode one page."""
    with _opened(path) as file:
        page = file.series[0].pages[number]
        if page is None:
            raise FormatError(path, "lacks a page", where=f"page {number}")
        return page.asarray().reshape(file.series[0].shape[-2:])


def _voxel_size(file: TiffFile) -> NDArray[np.float64] | None:
    """(z, y, x) in Å, or None if the file does not tell."""
    if file.ome_metadata:
        return _ome_size(file.ome_metadata)
    if file.imagej_metadata:
        return _imagej_size(file)
    return None


def _ome_size(xml: str) -> NDArray[np.float64] | None:
    pixels = ElementTree.fromstring(xml).find(".//{*}Pixels")
    if pixels is None:
        return None
    sizes = []
    for axis in "ZYX":
        size = pixels.get(f"PhysicalSize{axis}")
        unit = angstroms(pixels.get(f"PhysicalSize{axis}Unit", _OME_UNIT))
        if size is None or unit is None:
            return None
        sizes.append(float(size) * unit)
    return np.array(sizes)


def _imagej_size(file: TiffFile) -> NDArray[np.float64] | None:
    about, tags = file.imagej_metadata or {}, file.pages.first.tags
    unit = angstroms(str(about.get("unit", "")))
    if unit is None or "XResolution" not in tags or "YResolution" not in tags:
        return None
    ratios = [tags[f"{axis}Resolution"].value for axis in "YX"]
    if not np.all(ratios):
        return None
    sizes = [below / above for above, below in ratios]
    depth = abs(float(about.get("spacing", 1.0))) or 1.0  # ImageJ leaves out a spacing of 1
    return unit * np.array([depth, *sizes])


def _planes(volume: Volume) -> Iterator[Any]:
    """Planes along z, each read once where the array has chunks of several."""
    for slab in volume.slabs():
        yield from np.asarray(volume.values[slab])


def _imagej_form(volume: Volume) -> dict[str, Any]:
    form: dict[str, Any] = {"imagej": True, "metadata": {"axes": "ZYX"}}
    if volume.calibrated:
        z, y, x = volume.voxel_size / 10
        form["resolution"] = (1 / x, 1 / y)
        form["metadata"] |= {"spacing": z, "unit": "nm"}
    return form


def _ome_form(volume: Volume) -> dict[str, Any]:
    about: dict[str, Any] = {"axes": "ZYX"}
    if volume.calibrated:
        for axis, size in zip("ZYX", volume.voxel_size.tolist(), strict=True):
            about |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "Å"}
    return {"ome": True, "bigtiff": True, "metadata": about}
