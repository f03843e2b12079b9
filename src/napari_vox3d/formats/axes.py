"""Arrays whose axes have names: which of them are z, y and x, and how long their units are."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from napari_vox3d.errors import FormatError

_ANGSTROMS = {
    1.0: ("angstrom", "angstroms", "ångström", "ångströms", "å", "a"),
    10.0: ("nm", "nanometer", "nanometre", "nanometers", "nanometres"),
    1e4: ("µm", "um", "micrometer", "micrometre", "micrometers", "micrometres", "micron",
          "microns"),
    1e7: ("mm", "millimeter", "millimetre", "millimeters", "millimetres"),
    1e10: ("m", "meter", "metre", "meters", "metres"),
    1e-2: ("pm", "picometer", "picometre", "picometers", "picometres"),
}  # fmt: skip
_BY_NAME = {name: length for length, names in _ANGSTROMS.items() for name in names}


def angstroms(unit: str | None) -> float | None:
    """Å of a unit of length as OME and ImageJ write it; None if it is none, as ``"pixel"``."""
    name = (unit or "").replace("\\u00B5", "µ").strip().lower()
    return _BY_NAME.get(name.replace("\N{GREEK SMALL LETTER MU}", "µ"))


def warn_of_unknown_size(path: Path) -> None:
    """Say that a file lacks its voxel size, and that 1 Å is assumed."""
    warnings.warn(
        f"{path.name} does not tell its voxel size in a unit of length; 1 Å is assumed. Set the "
        "true one before measuring, picking or predicting.",
        stacklevel=3,
    )


def volumes_of(path: Path, values: Any, axes: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Take the (z, y, x) volumes out of an array that has axes of channels or times as well.

    Parameters
    ----------
    path
        File, for errors.
    values
        Array: numpy, memory-mapped, dask or zarr. Nothing is read; zarr of more axes than
        z, y, x becomes a dask array.
    axes
        Name of each axis; ``z``, ``y`` and ``x`` must be among them.

    Yields
    ------
    tuple of str and array
        Where the volume stands on the other axes, e.g. ``"c1 t0"``, empty if there is only one;
        and its values.

    Raises
    ------
    FormatError
        If there is no z, y or x.
    """
    if not {"x", "y", "z"} <= set(axes) or len(set(axes)) < len(axes):
        written = ", ".join(axes)
        raise FormatError(path, f"has the axes {written}; a volume needs z, y and x")
    if list(axes) == ["z", "y", "x"]:
        yield "", values
        return
    lazy = values
    if not isinstance(values, np.ndarray):  # which dask would copy
        import dask.array

        lazy = dask.array.asarray(values)
    others = [n for n, name in enumerate(axes) if name not in "zyx"]
    lazy = lazy.transpose([*others, *(axes.index(name) for name in "zyx")])
    for place in product(*(range(n) for n in lazy.shape[:-3])):
        named = [
            f"{axes[axis]}{index}"
            for axis, index, count in zip(others, place, lazy.shape[:-3], strict=True)
            if count > 1
        ]
        yield " ".join(named), lazy[place]
