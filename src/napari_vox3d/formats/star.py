"""Picks in STAR files: RELION 5, RELION 4, and the simple tables of other programs.

RELION 5 writes Å relative to a centre that it defines as ``size / 2 - 1`` in voxels of the tilt
series (``relion/tomography_python_programs/get_particle_poses``). RELION 4 and others write voxel
indices counted from 0, of the tilt series' pixel size where the file names one, else of the
tomogram. RELION has no class names and no radii; these files carry them in the columns
``vox3dClass``, ``vox3dRadius`` (Å) and ``vox3dReview`` (accepted, rejected or undecided), which
RELION keeps and ignores, and scores in ``rlnAutopickFigureOfMerit``.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import write_aside
from napari_vox3d.formats.comments import read_run, write_runs
from napari_vox3d.formats.decisions import decisions_from, decisions_in_words
from napari_vox3d.formats.frame import (
    UNNAMED_CLASS,
    frame_of,
    rows_of_tomogram,
    series_name,
    series_names,
    voxel_size_for_reading,
    voxel_size_for_writing,
)
from napari_vox3d.formats.relion_project import (
    BINNING,
    OF_WARP,
    PIXEL_SIZE,
    SIZES,
    frame_in_file,
    number_of,
    pixel_size_of,
    pixel_size_of_coordinates,
    read_project,
    rows_about,
    rows_of,
    sizes_of,
    tomograms_beside,
    whole_size,
)
from napari_vox3d.picks import Picks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas import DataFrame, Series
    from scipy.spatial.transform import Rotation

    from napari_vox3d.volume import Volume

_CENTRED = [f"rlnCenteredCoordinate{axis}Angst" for axis in "ZYX"]
_INDEXED = ([f"rlnCoordinate{axis}" for axis in "ZYX"], ["z", "y", "x"])
# M's, in Å; numbered where a particle moves during the tilt series.
_OF_M = ([f"wrpCoordinate{axis}1" for axis in "ZYX"], [f"wrpCoordinate{axis}" for axis in "ZYX"])
_SHIFTS = [f"rlnOrigin{axis}Angst" for axis in "ZYX"]
_SHIFTS_IN_VOXELS = [f"rlnOrigin{axis}" for axis in "ZYX"]  # before RELION 3.1
_ANGLES = [f"rlnAngle{name}" for name in ("Rot", "Tilt", "Psi")]
_ANGLES_OF_M = [[f"wrpAngle{name}{n}" for name in ("Rot", "Tilt", "Psi")] for n in ("1", "")]
_FRAME_ANGLES = [f"rlnTomoSubtomogram{name}" for name in ("Rot", "Tilt", "Psi")]
_TOMOGRAMS = ("rlnTomoName", "rlnMicrographName", "wrpSourceName")
_SCORES = ("rlnAutopickFigureOfMerit", "rlnLCCmax")
_REVIEW = "vox3dReview"
_TEXTS = ("rlnTomoName", "vox3dClass")
_QUOTES = str.maketrans({"'": "’", '"': "”"})  # readers take either for the end of a quotation
# What STAR gives a meaning of its own: the beginning of a block, a name, or a comment.
_RESERVED = re.compile(r"(data|save|loop|stop|global)_|[_$;\[\]]|\S*#", re.IGNORECASE)


def read(path: str | Path, volume: Volume | None = None, part: str = "") -> Picks:
    """Read the picks of one tomogram from a STAR file.

    Parameters
    ----------
    path
        STAR file with a block that has ``rlnCenteredCoordinate*Angst``, ``rlnCoordinate*``,
        ``wrpCoordinate*`` (M, Å) or ``x y z`` columns, or RELION's ``optimisation_set.star`` that
        names it. Sizes and pixel sizes may be in a ``tomograms.star`` beside it.
    volume
        The tomogram. Needed unless the file tells its size (RELION 5) or pixel size (others);
        its name chooses among the tomograms of the file.
    part
        Name of the tomogram, if the one of `volume` does not tell which of several is wanted.

    Raises
    ------
    FormatError
        If this is no such file, `volume` is needed and None, or the file holds several tomograms
        and none bears the name of `volume`.
    """
    path = Path(path)
    particles, blocks = _particles(path)
    names = _names_of_tomograms(particles)
    if names is not None:
        particles = particles[rows_of_tomogram(path, names.tolist(), volume, part)]
    return _picks(path, blocks, particles, volume)


def read_collection(path: str | Path) -> list[Picks]:
    """Read the picks of every tomogram of a STAR file, in order of first appearance.

    Raises
    ------
    FormatError
        As `read` without a tomogram.
    """
    path = Path(path)
    particles, blocks = _particles(path)
    names = _names_of_tomograms(particles)
    if names is None:
        return [_picks(path, blocks, particles, None)]
    groups = particles.groupby(names, sort=False)
    read_ones = {str(name): _picks(path, blocks, rows, None) for name, rows in groups}
    # Tomograms of one name in several folders keep their folder.
    count = Counter(picks.tomogram for picks in read_ones.values())
    return [
        picks if count[picks.tomogram] == 1 else replace(picks, tomogram=name)
        for name, picks in read_ones.items()
    ]


def _picks(
    path: Path, blocks: dict[str, DataFrame], particles: DataFrame, volume: Volume | None
) -> Picks:
    """Picks of rows that are all of one tomogram."""
    names = _names_of_tomograms(particles)
    tomogram = "" if names is None or names.empty else str(names.iloc[0])
    blocks = {
        "own": particles,
        **{name: rows_about(block, particles, tomogram) for name, block in blocks.items()},
    }
    pixel_size = pixel_size_of(blocks)
    frame = _frame(path, frame_in_file(blocks, pixel_size), volume)
    if _CENTRED[0] in particles:
        if "shape" not in frame:
            raise FormatError(
                path,
                "gives positions relative to the centre of a tomogram whose size is unknown",
                hint="Open or name its tomogram first.",
            )
        known = sizes_of(blocks)
        size, unit = whole_size(frame["shape"], frame["voxel_size"], pixel_size, known)
        positions = _columns(path, particles, _CENTRED) + (size / 2 - 1) * unit
    else:
        counted_in = pixel_size_of_coordinates(blocks, tomogram)
        positions = _positions_from_corner(path, particles, counted_in, volume, tomogram)
    if _SHIFTS[0] in particles:
        positions -= _shifts(path, particles)
    score = next((name for name in _SCORES if name in particles), None)
    return Picks(
        positions,
        _labels(particles),
        None if score is None else _columns(path, particles, [score], missing=True)[:, 0],
        _angles(path, particles),
        _radii(path, particles),
        decisions=decisions_from(particles.get(_REVIEW)),
        metadata={**_metadata(pixel_size, sizes_of(blocks)), **read_run(path, tomogram)},
        **{**frame, "tomogram": _plain(tomogram) or frame.get("tomogram", "")},
    )


def write(path: str | Path, picks: Picks, *, centred: bool = True) -> None:
    """Write picks for RELION.

    Name, size and pixel size of the tilt series are those of RELION's ``tomograms.star`` if it, or
    an ``optimisation_set.star`` that names it, lies in the same folder; else those of the file that
    the picks came from. Without either the tomogram is taken as unbinned. Comments before the
    table name the run that found the picks of each tomogram.

    Parameters
    ----------
    path
        STAR file.
    picks
        Picks of one tomogram.
    centred
        True for RELION 5 (Å from the tomogram's centre), False for RELION 4 and others (voxels).

    Raises
    ------
    FormatError
        If the picks do not carry the voxel size, or for RELION 5 the shape, of their tomogram,
        or the file cannot be written.
    """
    write_collection(path, [picks], centred=centred)


def write_collection(
    path: str | Path, collection: Sequence[Picks], *, centred: bool = True
) -> None:
    """Write picks of several tomograms for RELION; see `write`.

    Raises
    ------
    FormatError
        As `write`.
    """
    import pandas as pd
    import starfile

    path = Path(path)
    project = tomograms_beside(path)
    names = series_names([picks.tomogram or "tomogram" for picks in collection])
    tables = [
        pd.DataFrame(_columns_of(path, picks, name, project, centred))
        for picks, name in zip(collection, names, strict=True)
    ]
    table = pd.concat(tables, ignore_index=True)
    present = [name for name in _ANGLES if name in table]
    table[present] = table[present].fillna(0.0)  # no angle is unknown to RELION
    for name in _TEXTS:
        table[name] = table[name].map(_quoted)
    # One block and no optics: RELION makes a complete optics block from its own tomograms.
    blocks = {"particles": table}
    with write_aside(path) as aside:
        starfile.write(blocks, aside, float_format="%.6f", na_rep="nan", overwrite=True)
        written = [t["rlnTomoName"].iloc[0] if len(t) else name
                   for t, name in zip(tables, names, strict=True)]  # fmt: skip
        about = [picks.metadata for picks in collection]
        write_runs(aside, dict(zip(written, about, strict=True)))


def _columns_of(
    path: Path, picks: Picks, tomogram: str, project: dict[str, DataFrame], centred: bool
) -> dict[str, Any]:
    """Columns of the picks of one tomogram, which the project may know."""
    voxel_size = voxel_size_for_writing(path, picks)
    project = {
        name: rows_of(block, picks.tomogram)
        for name, block in project.items()
        if "rlnTomoName" in block
    }
    tomogram = next((str(b["rlnTomoName"].iloc[0]) for b in project.values() if len(b)), tomogram)
    known = number_of(PIXEL_SIZE, project) or picks.metadata.get("tilt_series_pixel_size")
    isotropic = np.allclose(voxel_size, voxel_size[-1])
    pixel_size = known or (float(voxel_size[-1]) if isotropic else None)
    table: dict[str, Any] = {"rlnTomoName": np.full(len(picks), tomogram, dtype=object)}
    stated = sizes_of(project) or picks.metadata.get("tilt_series_size")
    if not centred:
        table |= _table(_INDEXED[0], picks.positions / (known or voxel_size))
    elif picks.shape is None:
        raise FormatError(
            path,
            "RELION 5 counts from the centre of the tomogram, whose size these picks lack",
            hint='Read the picks together with their tomogram, or write format "relion4".',
        )
    if picks.shape is not None:
        size, unit = whole_size(picks.shape, voxel_size, pixel_size, stated)
        if centred:
            table |= _table(_CENTRED, picks.positions - (size / 2 - 1) * unit)
        table |= _table(SIZES, np.tile(np.rint(size).astype(int), (len(picks), 1)))
    if pixel_size is not None:
        table[PIXEL_SIZE] = np.full(len(picks), pixel_size)
        table[BINNING] = np.full(len(picks), voxel_size[-1] / pixel_size)
    if picks.angles is not None:
        table |= dict(zip(_ANGLES, picks.angles.T, strict=True))
    table["vox3dClass"] = picks.labels
    if picks.radii is not None:
        table["vox3dRadius"] = picks.radii
    if picks.decisions is not None:
        table[_REVIEW] = decisions_in_words(picks.decisions)
    if not np.isnan(np.asarray(picks.scores)).all():
        table[_SCORES[0]] = picks.scores
    return table


def _positions_from_corner(
    path: Path,
    particles: DataFrame,
    pixel_size: float | None,
    volume: Volume | None,
    tomogram: str,
) -> NDArray[np.float64]:
    """(N, 3) Å of positions that count from the first voxel, in whatever unit."""
    columns = next(names for names in (*_OF_M, *_INDEXED) if names[0] in particles)
    values = _columns(path, particles, columns)
    if columns in _OF_M:
        return values
    if _SHIFTS[0] not in particles and set(_SHIFTS_IN_VOXELS) <= set(particles.columns):
        values = values - _columns(path, particles, _SHIFTS_IN_VOXELS)
    voxel_size = pixel_size or voxel_size_for_reading(path, volume)
    # Warp's template matching writes fractions of the tomogram.
    fractions = (
        tomogram.endswith(OF_WARP) and len(values) and 0 <= values.min() <= values.max() <= 1
    )
    if fractions and volume is not None:
        return values * volume.shape * volume.voxel_size
    return values * voxel_size


def _metadata(pixel_size: float | None, size: list[float] | None) -> dict[str, Any]:
    """What writing for RELION again needs and picks have no field for."""
    known = {"tilt_series_pixel_size": pixel_size, "tilt_series_size": size}
    return {name: value for name, value in known.items() if value is not None}


def _particles(path: Path) -> tuple[DataFrame, dict[str, DataFrame]]:
    """Return the block with particle positions, and all others that may say more of them."""
    blocks = read_project(path)
    for names in (_CENTRED, *_INDEXED, *_OF_M):
        for title, block in blocks.items():
            if set(names) <= set(block.columns):
                return blocks.pop(title), blocks
    raise FormatError(
        path,
        "has no positions in three dimensions",
        hint="Wanted: rlnCenteredCoordinateXAngst, rlnCoordinateX or x, and the same for y and z.",
    )


def _names_of_tomograms(particles: DataFrame) -> Series | None:
    """Tomogram of each row, or None if the file does not say."""
    column = next((name for name in _TOMOGRAMS if name in particles), None)
    return None if column is None else particles[column].astype(str)


def _plain(tomogram: str) -> str:
    """Name without the folder and suffix that files of micrographs come with."""
    return series_name(tomogram) if re.search(r"[/\\]|\.\w+$", tomogram) else tomogram


def _frame(path: Path, own: dict[str, Any], volume: Volume | None) -> dict[str, Any]:
    """Frame that a file counts in: its own if it tells it, unless that is another tomogram's."""
    theirs = frame_of(volume)
    if volume is None or "shape" not in own or not volume.calibrated:
        return theirs if "voxel_size" not in own else own
    grid = Picks(np.zeros((0, 3)), np.zeros(0, str), **own)
    if not grid.fitting(volume):
        return theirs
    if np.allclose(own["voxel_size"], volume.voxel_size, rtol=1e-3):
        warnings.warn(
            f"{path.name}: {grid.fitting(volume)} The size of the tomogram was used.",
            stacklevel=5,
        )
        return theirs
    return own


def _columns(
    path: Path, particles: DataFrame, names: list[str], missing: bool = False
) -> NDArray[np.float64]:
    try:
        values = particles[names].to_numpy(float)
    except (KeyError, ValueError) as error:
        raise FormatError(path, f"has unreadable values ({error})", where=names[0]) from None
    known = np.isfinite(values).all(axis=0)
    if not missing and not known.all():
        raise FormatError(path, "lacks values", where=names[int(np.argmin(known))])
    return values


def _labels(particles: DataFrame) -> NDArray[np.str_]:
    """(N,) names of classes, or their numbers; some programs write 1 as 1.0 and none as nan."""
    if "vox3dClass" in particles:
        return np.array(particles["vox3dClass"], str)
    if "rlnClassNumber" not in particles:
        return np.array(UNNAMED_CLASS)
    numbers = (str(number).removesuffix(".0") for number in particles["rlnClassNumber"])
    return np.array([UNNAMED_CLASS if number == "nan" else number for number in numbers], str)


def _radii(path: Path, particles: DataFrame) -> NDArray[np.float64] | None:
    if "vox3dRadius" not in particles:
        return None
    radii = _columns(path, particles, ["vox3dRadius"], missing=True)[:, 0]
    return None if np.isnan(radii).any() else radii


def _shifts(path: Path, particles: DataFrame) -> NDArray[np.float64]:
    """(N, 3) Å (z, y, x) that refinement found particles off their coordinates."""
    shifts = _columns(path, particles, _SHIFTS)
    if not set(_FRAME_ANGLES) <= set(particles.columns) or particles.empty:
        return shifts
    # Shifts are measured in the frame of the subtomogram.
    return _rotation(path, particles, _FRAME_ANGLES).apply(shifts[:, ::-1], inverse=True)[:, ::-1]


def _angles(path: Path, particles: DataFrame) -> NDArray[np.float64] | None:
    """(N, 3) rot, tilt, psi; RELION's rotation of the subtomogram's frame is composed in."""
    known = (_ANGLES, _FRAME_ANGLES, *_ANGLES_OF_M)
    present = [names for names in known if set(names) <= set(particles.columns)]
    if not present or particles.empty:
        return None
    if len(present) == 1:
        return _columns(path, particles, present[0])
    inner, frame = (_rotation(path, particles, names) for names in present)
    return (inner * frame).as_euler("ZYZ", degrees=True, suppress_warnings=True)


def _rotation(path: Path, particles: DataFrame, names: list[str]) -> Rotation:
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("ZYZ", _columns(path, particles, names), degrees=True)


def _quoted(text: str) -> str:
    """Text as a value of a STAR file; starfile itself quotes what has spaces, and only that."""
    text = text.translate(_QUOTES)
    return f'"{text}"' if " " not in text and _RESERVED.match(text) else text


def _table(names: list[str], values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Columns X, Y, Z of (N, 3) values (z, y, x)."""
    return dict(zip(names[::-1], values.T[::-1], strict=True))
