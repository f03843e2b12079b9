"""The tomogram that picks live in, as pick files need it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume

UNNAMED_CLASS = "particle"


def frame_of(volume: Volume | None) -> dict[str, Any]:
    """Fields of `Picks` that a tomogram gives: its name, shape and voxel size."""
    if volume is None:
        return {}
    return {"tomogram": volume.name, "shape": volume.shape, "voxel_size": volume.voxel_size}


def voxel_size_for_reading(path: Path, volume: Volume | None) -> NDArray[np.float64]:
    """(3,) Å of the tomogram, for a file whose positions are in voxels and that has no size.

    Raises
    ------
    FormatError
        If there is no tomogram to ask.
    """
    if volume is None:
        raise FormatError(
            path,
            "gives positions in voxels without the voxel size",
            hint="Read it together with its tomogram.",
        )
    return volume.voxel_size


def voxel_size_for_writing(path: Path, picks: Picks) -> NDArray[np.float64]:
    """(3,) Å of the tomogram, for a format that wants positions in voxels.

    Raises
    ------
    FormatError
        If the picks do not carry it.
    """
    if picks.voxel_size is None:
        raise FormatError(
            path,
            "wants positions in voxels, and these picks carry no voxel size",
            hint="Read the picks together with their tomogram, or write .json.",
        )
    return picks.voxel_size


def voxel_size_of_file(
    path: Path, stated: float | NDArray[np.float64] | None, volume: Volume | None
) -> NDArray[np.float64]:
    """(3,) Å of the voxels that a file counts in, which may state their size itself.

    Sizes that differ by less than a twentieth are those of one grid before and after calibration,
    so the tomogram's is right. Others mean that the picks were made in another binning.

    Parameters
    ----------
    path
        The pick file, for messages.
    stated
        Å (z, y, x) by the file; one number is Å along x. None or 0 if it does not tell.
    volume
        The tomogram, if there is one.

    Raises
    ------
    FormatError
        If neither tells.

    Warns
    -----
    UserWarning
        If the picks were made in another binning.
    """
    if stated is None or not np.all(np.asarray(stated) > 0):
        return voxel_size_for_reading(path, volume)
    if volume is None:
        return np.broadcast_to(np.asarray(stated, float), 3)
    one = np.ndim(stated) == 0
    size = stated * (volume.voxel_size / volume.voxel_size[-1] if one else np.ones(3))
    if not volume.calibrated or np.allclose(size, volume.voxel_size, rtol=0.05):
        return volume.voxel_size
    warnings.warn(
        f"{path.name} counts in voxels of {size[-1]:.4g} Å, and {volume.name} has voxels of "
        f"{volume.voxel_size[-1]:.4g} Å: the positions were rescaled.",
        stacklevel=4,
    )
    return size


def series_name(name: str) -> str:
    """Name of a tilt series from that of its tomogram: ``rec_TS_01.mrc`` gives ``TS_01``."""
    return Path(name).name.split(".")[0].removeprefix("rec_")


def rows_of_tomogram(
    path: Path, tomograms: list[str], volume: Volume | None, hint: str = ""
) -> NDArray[np.bool_]:
    """(N,) which rows of a file are of the tomogram: all if the file holds a single one.

    Raises
    ------
    FormatError
        If it holds several, and `volume` is None or bears none of their names.
    """
    names = list(dict.fromkeys(tomograms))
    if len(names) < 2:
        return np.ones(len(tomograms), bool)
    own = [] if volume is None else [n for n in names if n == volume.name]
    if not own and volume is not None:
        own = [name for name in names if series_name(name) == series_name(volume.name)]
    if len(own) != 1:
        raise FormatError(
            path,
            f"holds picks of {len(names)} tomograms ({', '.join(names[:5])})"
            + ("" if volume is None else f", none of them {volume.name!r}"),
            hint=hint or "Read it together with a tomogram of one of these names.",
        )
    return np.array(tomograms) == own[0]
