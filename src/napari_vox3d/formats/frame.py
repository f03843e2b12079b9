"""The tomogram that picks live in, as pick files need it."""

from __future__ import annotations

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
