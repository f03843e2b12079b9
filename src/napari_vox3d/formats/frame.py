"""The tomogram that picks live in, as pick files need it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.picks import Picks
    from napari_vox3d.volume import Volume

UNNAMED_CLASS = "particle"


class GridWarning(UserWarning):
    """Picks were made on another grid than the tomogram's."""


class SeveralTomograms(FormatError):
    """A file holds picks of several tomograms, and nothing tells which are wanted.

    Parameters
    ----------
    path, reason, hint
        As for `FormatError`.
    names
        The tomograms.
    """

    def __init__(self, path: object, reason: str, names: Sequence[str], *, hint: str = "") -> None:
        self.names = list(names)
        super().__init__(path, reason, hint=hint)


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
            hint="Open or name its tomogram first.",
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


def frame_of_file(
    path: Path, stated: float | NDArray[np.float64] | None, volume: Volume | None
) -> dict[str, Any]:
    """Fields of `Picks` for a file in voxels that may state their size; else the tomogram's.

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
    """
    if stated is None or not np.all(np.asarray(stated) > 0):
        return {**frame_of(volume), "voxel_size": voxel_size_for_reading(path, volume)}
    if volume is None or np.ndim(stated):
        return {"voxel_size": np.broadcast_to(np.asarray(stated, float), 3)}
    return {"voxel_size": stated * volume.voxel_size / volume.voxel_size[-1]}


def fitted(path: Path, picks: Picks, volume: Volume, *, counts_in: str, by: str | None) -> Picks:
    """Picks of a file in the frame of a tomogram, with a word if they were made on another grid.

    Parameters
    ----------
    path
        The pick file, for messages.
    picks
        Picks in the frame that the file tells.
    volume
        The tomogram.
    counts_in
        ``"angstrom"`` or ``"voxels"``: the unit of the format.
    by
        What stays, as in `Picks.moved_to`. None: voxel indices, where the size of the tomogram's
        voxels is unknown, or the grids are of one shape, or voxels differ by less than a twentieth,
        which is one grid before and after calibration; else Å.

    Warns
    -----
    UserWarning
        If the picks do not fit, except that files in Å may be of another binning.
    """
    if by is None:
        same_grid = picks.shape == volume.shape or not volume.calibrated
        by = "voxels" if picks.voxel_size is not None and (
            same_grid or np.allclose(picks.voxel_size, volume.voxel_size, rtol=0.05)
        ) else "angstrom"  # fmt: skip
    moved = picks.moved_to(volume, by)  # type: ignore[arg-type]
    problem = moved.fitting(volume)
    another_binning = counts_in == "angstrom" and by == "angstrom" and picks.shape is None
    if "made_on" in moved.metadata and not another_binning:
        kept = {"angstrom": "Positions in Å", "voxels": "Voxel indices"}[by]
        problem = f"{picks.fitting(volume)} {kept} were kept. {problem}".rstrip()
    if problem:
        another_grid = "made_on" in moved.metadata
        category = GridWarning if another_grid else UserWarning
        warnings.warn(f"{path.name}: {problem}", category, stacklevel=4)
    if series_name(picks.tomogram) == series_name(volume.name):
        moved = replace(moved, tomogram=picks.tomogram)  # as the file spells it
    return moved


# What programs add to the name of a tilt series when they name its tomograms.
_PROCESSING = re.compile(
    r"([_.-]("
    r"rec|full|half\d|odd|even|\d+(\.\d+)?Apx|bin\d+|b\d+|wbp|sirt|sart|ctf|dose|filt|filtered"
    r"|deconv|denoised|corrected|isonet|cryocare|mrc|mrcs|rec|st|ali|map|tomostar|zarr|em|hdf"
    r"))+$",
    re.IGNORECASE,
)


def series_name(name: str) -> str:
    """Name of a tilt series from that of its tomogram.

    ``rec_TS_01.mrc``, ``TS_01_10.00Apx.mrc`` and ``TS_01_bin4_denoised.rec`` give ``TS_01``.
    """
    return _PROCESSING.sub("", re.split(r"[\\/]", name)[-1].removeprefix("rec_"))


def series_names(tomograms: Sequence[str]) -> list[str]:
    """Names of the tilt series of several tomograms; their own names where those are alike."""
    names = [series_name(tomogram) for tomogram in tomograms]
    return names if len(set(names)) == len(set(tomograms)) else list(tomograms)


def name_in(names: Iterable[str], tomogram: str) -> str | None:
    """Find the one of the names of a file that means a tomogram, or None.

    Either it is the same, or it is of the same tilt series and no other is.
    """
    known = list(dict.fromkeys(names))
    if tomogram in known:
        return tomogram
    alike = [name for name in known if series_name(name) == series_name(tomogram)]
    return alike[0] if len(alike) == 1 else None


def rows_of_tomogram(
    path: Path, tomograms: list[str], volume: Volume | None, part: str = "", hint: str = ""
) -> NDArray[np.bool_]:
    """(N,) which rows of a file are of the tomogram: all if the file holds a single one.

    `part` names the tomogram, or else `volume` does.

    Raises
    ------
    FormatError
        If it holds several, and neither tells which; or none is called `part`.
    """
    names = list(dict.fromkeys(tomograms))
    if len(names) < 2 and not part:
        return np.ones(len(tomograms), bool)
    wanted = part or (volume.name if volume else "")
    own = name_in(names, wanted) if wanted else None
    if own is None:
        more = ", …" if len(names) > 5 else ""
        count = "1 tomogram" if len(names) == 1 else f"{len(names)} tomograms"
        raise SeveralTomograms(
            path,
            f"holds picks of {count} ({', '.join(names[:5])}{more})"
            + (f", none of them {wanted!r}" if wanted else ""),
            names,
            hint=hint or (f"Name one of them: {path.name}::{names[0]}." if names else ""),
        )
    return np.array(tomograms) == own
