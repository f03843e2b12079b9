"""What RELION 5 keeps of its tomograms apart from the particles.

``tomograms.star`` has names, sizes, binning and pixel size of tomograms; ``optimisation_set.star``
says which particles belong to which tomograms, by paths from the folder of the project.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_vox3d.errors import FormatError

if TYPE_CHECKING:
    from pandas import DataFrame

_PARTICLES, _TOMOGRAMS = "rlnTomoParticlesFile", "rlnTomoTomogramsFile"


def read_blocks(path: Path) -> dict[str, DataFrame]:
    """Blocks of a STAR file as tables, names of tomograms and classes as text.

    Raises
    ------
    FormatError
        If the file cannot be parsed or has no block.
    """
    import pandas as pd
    import starfile

    names = ["rlnTomoName", "rlnMicrographName", "vox3dClass"]
    try:
        content = starfile.read(path, always_dict=True, parse_as_string=names)
    except UnicodeDecodeError:
        raise
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
        raise FormatError(path, f"names particles in {named}, and there is no such file")
    return {**read_blocks(particles), **_tomograms_of(path, blocks)}


def tomograms_beside(path: Path) -> dict[str, DataFrame]:
    """Blocks about the tomograms of a file of particles, from what lies in its folder.

    Raises
    ------
    FormatError
        If what lies there is no STAR file.
    """
    optimisation_set = path.with_name("optimisation_set.star")
    if optimisation_set.is_file() and optimisation_set != path:
        return _tomograms_of(optimisation_set, read_blocks(optimisation_set))
    tomograms = path.with_name("tomograms.star")
    return _read_tomograms(tomograms) if tomograms.is_file() and tomograms != path else {}


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
    """Find a file of the project: from a folder above `path`, or beside it under the same name."""
    if name is None:
        return None
    above = [folder / name for folder in path.absolute().parents]
    beside = path.with_name(Path(name).name)
    return next((file for file in [*above, beside] if file.is_file()), None)
