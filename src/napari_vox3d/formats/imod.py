"""IMOD's models (``.mod``): objects of contours of points, with the size of each point.

Coordinates are voxels x, y, z of the image. In x and y they count from the edge of the first
voxel, whose centre is at 0.5; in z from the centre of the first slice. See
https://bio3d.colorado.edu/imod/doc/binspec.html ("Model Coordinate Conventions"). Each class is an
object that bears its name; sizes of points are radii, and scores are the general values of points.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import write_aside
from napari_vox3d.formats.frame import (
    UNNAMED_CLASS,
    frame_of_file,
    voxel_size_for_writing,
)
from napari_vox3d.picks import CLASS_COLOURS, Picks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.volume import Volume

CENTRE = np.array([0.0, 0.5, 0.5])
"""(z, y, x) model coordinates of the centre of the first voxel."""
_ID = b"IMODV1.2"
# Name; sizes, count of objects; flags; display; offsets, scales; current; pixel, unit; angles.
_MODEL = struct.Struct(">128s4iI4i6f5ff2i3f")
# Name; extra; contours; flags; axis, drawing; colour; radius; symbols and lines; meshes, surfaces.
_OBJECT = struct.Struct(">64s64siI2i3fi8B2i")
_CONTOUR = struct.Struct(">iI2i")
_MESH = struct.Struct(">2iI2h")
_CHUNK = struct.Struct(">4si")
_VALUES = np.dtype([("type", ">i2"), ("flags", ">i2"), ("point", ">i4"), ("value", ">f4")])
_GENERAL_VALUE, _FLOAT_VALUE = 10, 1 << 2
_Z_FROM_HALF, _NEW, _HAS_IMAGE_ORIGIN = 1 << 10, 1 << 11, 1 << 14
_SCATTERED = 1 << 9
_NM = -9
_UNITS = {3: 1e13, 1: 1e10, -2: 1e8, -3: 1e7, -6: 1e4, _NM: 10.0, -10: 1.0, -12: 0.01}  # Å


@dataclass
class _Contour:
    """Points of one contour of one object."""

    label: str
    points: NDArray[np.float64]  # (N, 3) x, y, z
    sizes: NDArray[np.float64]  # (N,) radii in voxels, -1 where the object's serves
    values: NDArray[np.float64]  # (N,) general values


def read(path: str | Path, volume: Volume | None = None) -> Picks:
    """Read all points of an IMOD model; each object is a class.

    Parameters
    ----------
    path
        Binary model. Meshes and drawing properties are passed over.
    volume
        The tomogram; needed if the model states no pixel size.

    Raises
    ------
    FormatError
        If this is no IMOD model, it ends too early, or `volume` is needed and None.
    """
    path = Path(path)
    data = path.read_bytes()
    if not data.startswith(_ID[:4]) or len(data) < len(_ID) + _MODEL.size:
        raise FormatError(path, "is not an IMOD model")
    header = _MODEL.unpack_from(data, len(_ID))
    flags, scales, (pixel_size, unit) = header[5], np.array(header[13:16]), header[21:23]
    try:
        contours, shift = _read_chunks(data, bool(flags & _HAS_IMAGE_ORIGIN))
    except (struct.error, ValueError, IndexError):
        raise FormatError(path, "is a damaged IMOD model, or a part of one") from None
    stated = pixel_size * _UNITS.get(unit, 0) * scales[::-1]
    frame = frame_of_file(path, stated, volume)
    voxel_size = frame["voxel_size"]
    points = np.concatenate([np.zeros((0, 3)), *(contour.points for contour in contours)]) + shift
    sizes, values = (
        np.concatenate([np.zeros(0), *(getattr(contour, name) for contour in contours)])
        for name in ("sizes", "values")
    )
    if not np.isfinite(points).all():
        raise FormatError(path, "lacks coordinates of points")
    size = header[3], header[2], header[1]
    if min(size) > 0 and "tomogram" not in frame:
        frame["shape"] = size
    return Picks(
        (points[:, ::-1] - CENTRE) * voxel_size,
        np.repeat([c.label for c in contours] or [""], [len(c.points) for c in contours] or [0]),
        values,
        radii=sizes * voxel_size[-1] if len(sizes) and (sizes >= 0).all() else None,
        **frame,
    )


def write(path: str | Path, picks: Picks) -> None:
    """Write picks as an IMOD model: an object of scattered points for each class.

    Raises
    ------
    FormatError
        If the picks carry no voxel size, or the file cannot be written.
    """
    voxel_size = voxel_size_for_writing(Path(path), picks)
    size = (0, 0, 0) if picks.shape is None else picks.shape[::-1]
    scales = voxel_size[::-1] / voxel_size[-1]
    header = _MODEL.pack(
        b"napari-vox3d", *size, len(picks.classes), _Z_FROM_HALF | _NEW,
        1, 1, 0, 255, 0, 0, 0, *scales, 0, 0, -1, 3, 128, voxel_size[-1] / 10, _NM, 0, 0, 0, 0,
    )  # fmt: skip
    objects = [_object(picks, number, voxel_size) for number in range(len(picks.classes))]
    with write_aside(path) as aside:
        aside.write_bytes(b"".join([_ID, header, *objects, b"IEOF"]))


def _read_chunks(data: bytes, has_origin: bool) -> tuple[list[_Contour], NDArray[np.float64]]:
    """Contours of a model, and the (3,) x, y, z from its image to the whole of it."""
    contours: list[_Contour] = []
    shift = np.zeros(3)
    label, unnamed = "", 0
    at = len(_ID) + _MODEL.size
    while (name := data[at : at + 4]) != b"IEOF":
        at += 4
        if name == b"OBJT":
            label = _text(_OBJECT.unpack_from(data, at)[0])
            unnamed += not label
            label = label or (UNNAMED_CLASS if unnamed == 1 else f"{UNNAMED_CLASS} {unnamed}")
            at += _OBJECT.size
        elif name == b"CONT":
            count = _CONTOUR.unpack_from(data, at)[0]
            points = np.frombuffer(data, ">f4", 3 * count, at + _CONTOUR.size).reshape(-1, 3)
            at += _CONTOUR.size + points.nbytes
            contours.append(
                _Contour(label, points.astype(float), np.full(count, -1.0), np.full(count, np.nan))
            )
        elif name == b"MESH":
            vertices, indices = _MESH.unpack_from(data, at)[:2]
            if min(vertices, indices) < 0:
                raise ValueError("a mesh of impossible size")
            at += _MESH.size + 12 * vertices + 4 * indices
        else:
            size = struct.unpack_from(">i", data, at)[0]
            at += 4
            if not 0 <= size <= len(data) - at:
                raise ValueError("a chunk of impossible size")
            if name == b"SIZE":
                contours[-1].sizes[:] = np.frombuffer(data, ">f4", size // 4, at)
            elif name == b"COST":
                _set_values(contours[-1].values, np.frombuffer(data, _VALUES, size // 12, at))
            elif name == b"MINX" and has_origin:
                shift = _shift_to_whole_image(np.frombuffer(data, ">f4", 18, at).reshape(6, 3))
            at += size
    return contours, shift


def _set_values(values: NDArray[np.float64], stored: NDArray[np.void]) -> None:
    """Take the general values out of what is stored about points."""
    stored = stored[(stored["type"] == _GENERAL_VALUE) & (stored["flags"] & 0b1100 == _FLOAT_VALUE)]
    values[stored["point"]] = stored["value"]


def _shift_to_whole_image(reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """(3,) x, y, z voxels from the part of the image that was shown, if it was a part."""
    _, image_origin, _, scale, origin, _ = reference.astype(float)
    return (image_origin - origin) / np.where(scale == 0, 1, scale)


def _object(picks: Picks, number: int, voxel_size: NDArray[np.float64]) -> bytes:
    label = picks.classes[number]
    own = picks.of_class(label)
    rgb = bytes.fromhex(CLASS_COLOURS[number % len(CLASS_COLOURS)][1:])
    colour = [value / 255 for value in rgb]
    sizes = None if own.radii is None else own.radii / voxel_size[-1]
    radius = 5 if sizes is None else max(1, round(float(np.median(sizes))))
    points = (own.positions / voxel_size + CENTRE)[:, ::-1]
    known = np.flatnonzero(~np.isnan(np.asarray(own.scores)))
    values = np.zeros(len(known), _VALUES)
    values["type"], values["flags"], values["point"] = _GENERAL_VALUE, _FLOAT_VALUE, known
    values["value"] = np.asarray(own.scores)[known]
    parts = [
        b"OBJT" + _OBJECT.pack(_bytes(label, 63), b"", 1, _SCATTERED, 0, 1, *colour, radius,
                               1, 3, 1, 1, 0, 0, 0, 0, 0, 0),
        b"CONT" + _CONTOUR.pack(len(own), 0, 0, 0) + points.astype(">f4").tobytes(),
    ]  # fmt: skip
    if sizes is not None:
        parts.append(_CHUNK.pack(b"SIZE", 4 * len(own)) + sizes.astype(">f4").tobytes())
    if len(values):
        parts.append(_CHUNK.pack(b"COST", values.nbytes) + values.tobytes())
    return b"".join(parts)


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "replace").strip()


def _bytes(text: str, limit: int) -> bytes:
    """At most `limit` bytes of UTF-8, without a broken character at the end."""
    return text.encode()[:limit].decode("utf-8", "ignore").encode()
