"""What RELION 5 keeps of its tomograms apart from the particles.

``tomograms.star`` has names, sizes, binning and pixel size of tomograms; ``optimisation_set.star``
says which particles belong to which tomograms, by paths from the folder of the project. Here is
also what the blocks of a STAR file say of the tomogram that its particles are in.
"""

from __future__ import annotations

from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import FormatError, Vox3dError
from napari_vox3d.formats.frame import name_in

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas import DataFrame

SIZES = [f"rlnTomoSize{axis}" for axis in "ZYX"]
PIXEL_SIZE = "rlnTomoTiltSeriesPixelSize"
_PIXEL_SIZES_OF_WARP = ("rlnPixelSize", "rlnImagePixelSize")
BINNING = "rlnTomoTomogramBinning"
OF_WARP = ".tomostar"
"""How names of tilt series end in files of Warp."""
_GROUP = "rlnOpticsGroup"
_DEPTH = 4  # folders above a file: RELION's are Extract/job012
_PARTICLES, _TOMOGRAMS = "rlnTomoParticlesFile", "rlnTomoTomogramsFile"


def read_blocks(path: Path) -> dict[str, DataFrame]:
    """Blocks of a STAR file as tables, names of tomograms and classes as text.

    Raises
    ------
    FormatError
        If the file cannot be parsed or has no block.
    """
    import linecache

    import pandas as pd
    import starfile

    linecache.checkcache(str(path))  # starfile keeps the lines of a file that it could not parse
    names = ["rlnTomoName", "rlnMicrographName", "wrpSourceName", "vox3dClass"]
    try:
        content = starfile.read(path, always_dict=True, parse_as_string=names)
    except UnicodeDecodeError:
        raise
    except TypeError as error:
        raise FormatError(
            path,
            "is not a readable STAR file: a block is empty, or a row begins with data_",
            hint="Put names that begin with data_ in quotes.",
        ) from error
    except Exception as error:  # the parser raises whatever its parts raise
        raise FormatError(path, f"is not a readable STAR file ({error})") from error
    # A block without a loop comes as a dict of single values.
    blocks = {
        name: block if isinstance(block, pd.DataFrame) else pd.DataFrame([block])
        for name, block in content.items()
    }
    if not blocks:
        raise FormatError(path, "is not a STAR file (no data block)")
    return blocks


def read_project(path: Path) -> dict[str, DataFrame]:
    """Blocks of the particles of a STAR file, and of the tomograms that belong to them.

    Parameters
    ----------
    path
        Particles or an optimisation set. Tomograms come from the set, or from a set or a
        ``tomograms.star`` beside the particles; there may be none.

    Raises
    ------
    FormatError
        If one of the files is no STAR file, or the particles of a set are not there.
    """
    blocks = read_blocks(path)
    named = _file_named(blocks, _PARTICLES)
    if named is None:
        return {**blocks, **tomograms_beside(path)}
    particles = _found(path, named)
    if particles is None:
        raise FormatError(
            path, f"names particles in {named}, and there is no such file in its project"
        )
    return {**read_blocks(particles), **_tomograms_of(path, blocks)}


def tomograms_beside(path: Path) -> dict[str, DataFrame]:
    """Blocks about the tomograms of a file of particles, from what lies in its folder.

    RELION's refinement names the set of ``run_data.star`` ``run_optimisation_set.star``, Warp that
    of ``ribosomes.star`` ``ribosomes_optimisation_set.star``.

    Raises
    ------
    FormatError
        If what lies there is no STAR file.
    """
    for beginning in (f"{path.stem.removesuffix('_data')}_", ""):
        optimisation_set = path.with_name(f"{beginning}optimisation_set.star")
        if optimisation_set.is_file() and optimisation_set != path:
            return _tomograms_of(optimisation_set, read_blocks(optimisation_set))
        tomograms = path.with_name(f"{beginning}tomograms.star")
        if tomograms.is_file() and tomograms != path:
            return _read_tomograms(tomograms)
    return {}


def _tomograms_of(path: Path, optimisation_set: dict[str, DataFrame]) -> dict[str, DataFrame]:
    tomograms = _found(path, _file_named(optimisation_set, _TOMOGRAMS))
    return {} if tomograms is None else _read_tomograms(tomograms)


def _read_tomograms(path: Path) -> dict[str, DataFrame]:
    """Blocks by names that no block of particles bears."""
    return {f"tomograms {name}": block for name, block in read_blocks(path).items()}


def _file_named(blocks: dict[str, DataFrame], column: str) -> str | None:
    """Return the path that an optimisation set names."""
    return next((str(b[column].iloc[0]) for b in blocks.values() if column in b and len(b)), None)


def _found(path: Path, name: str | None) -> Path | None:
    """Find a file of the project: from a folder above `path`, or beside it under the same name.

    A path that leaves the folders above, as far as a project may reach, is not followed.
    """
    if name is None:
        return None
    absolute = path.absolute()
    folders = [folder for folder in absolute.parents[:_DEPTH] if folder != folder.parent]
    above = [Path(normpath(folder / name)) for folder in folders]
    inside = [file for file in above if folders and file.is_relative_to(folders[-1])]
    beside = path.with_name(Path(name).name)
    return next((file for file in [*inside, beside] if file.is_file()), None)


def rows_about(block: DataFrame, particles: DataFrame, tomogram: str) -> DataFrame:
    """Rows of a block that are about a tomogram: by its name, or by the group of its optics."""
    if "rlnTomoName" in block:
        return rows_of(block, tomogram)
    if _GROUP in block and _GROUP in particles:
        return block[block[_GROUP].isin(particles[_GROUP])]
    return block


def rows_of(block: DataFrame, tomogram: str) -> DataFrame:
    """Rows of a block that name a tomogram, in whichever way programs spell it."""
    names = block["rlnTomoName"].astype(str)
    return block[names == name_in(names, tomogram)]


def pixel_size_of(blocks: dict[str, DataFrame]) -> float | None:
    """Å per voxel of the tilt series, by RELION's column, or Warp's, or the detector's.

    With a magnification the detector's size is in µm (RELION before 3.1, Warp); without it, PyTom
    means Å.
    """
    sizes = (number_of(name, blocks) for name in (PIXEL_SIZE, *_PIXEL_SIZES_OF_WARP))
    size = next((size for size in sizes if size), None)
    if size is None and (size := number_of("rlnDetectorPixelSize", blocks)) is not None:
        magnification = number_of("rlnMagnification", blocks)
        size = size if magnification is None else size * 1e4 / magnification
    return size


def pixel_size_of_coordinates(blocks: dict[str, DataFrame], tomogram: str) -> float | None:
    """Å per voxel of coordinates that count from the first voxel.

    They are those of the tilt series; but Warp counts in voxels of the particles that it writes,
    and states the size of both.
    """
    size_of_particles = number_of("rlnImagePixelSize", blocks)
    if tomogram.endswith(OF_WARP) and size_of_particles is not None:
        return size_of_particles
    return pixel_size_of(blocks)


def number_of(name: str, blocks: dict[str, DataFrame]) -> float | None:
    """First value of a column in any block; 0 stands for none.

    Raises
    ------
    Vox3dError
        If it is no number, or none that a size can be.
    """
    for block in blocks.values():
        if name in block:
            values = block[name].dropna()
            if not len(values):
                continue
            try:
                value = float(values.iloc[0])
            except (TypeError, ValueError):
                value = np.nan
            if not 0 <= value < np.inf:
                raise Vox3dError(f"{name} is {values.iloc[0]!r} and no size.")
            if value:
                return value
    return None


def frame_in_file(blocks: dict[str, DataFrame], pixel_size: float | None) -> dict[str, Any]:
    """Shape and voxel size of the tomogram, if the file tells them."""
    binning = number_of(BINNING, blocks)
    if pixel_size is None or binning is None:
        return {}
    frame: dict[str, Any] = {"voxel_size": np.full(3, pixel_size * binning)}
    if (sizes := sizes_of(blocks)) is not None:
        frame["shape"] = tuple(np.rint(np.array(sizes) / binning).astype(int).tolist())
    return frame


def sizes_of(blocks: dict[str, DataFrame]) -> list[float] | None:
    """Sizes (z, y, x) of a tomogram in voxels of the tilt series, if a block has them."""
    sizes = [number_of(name, blocks) for name in SIZES]
    return None if None in sizes else [float(size) for size in sizes if size is not None]


def whole_size(
    shape: tuple[int, ...],
    voxel_size: NDArray[np.float64],
    pixel_size: float | None,
    known: list[float] | None,
) -> tuple[NDArray[np.float64], float]:
    """(3,) voxels of the tilt series (z, y, x) along the tomogram, and their Å.

    Binning rounds, so the size that RELION states is the exact one; but it may be of another
    tomogram than the one at hand, and then it is passed over.
    """
    if pixel_size is None:  # no tilt series of RELION's: one of voxels as wide as the tomogram's
        return np.asarray(shape) * voxel_size / voxel_size[-1], float(voxel_size[-1])
    unit = float(pixel_size)
    size = np.rint(np.asarray(shape) * voxel_size / unit)
    if known is not None and np.all(np.abs(size - known) < np.maximum(voxel_size / unit, 1)):
        size = np.asarray(known)
    return size, unit
