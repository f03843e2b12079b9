"""Names of results: after their sources, and never one name for two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_vox3d.errors import Vox3dError
from napari_vox3d.formats import split_address
from napari_vox3d.formats.compression import plain_name


@dataclass(frozen=True)
class TargetName:
    """Name of a result without its suffix.

    Parameters
    ----------
    own
        The name.
    told_apart
        Whether it is more than the name of the source.
    """

    own: str
    told_apart: bool = False


def target_names(
    sources: Sequence[str | Path], suffix: str, *, stem: bool = False
) -> list[TargetName]:
    """Name the results of sources.

    Parameters
    ----------
    sources
        Files, in as many folders as there may be. Where several bear one name, folders are put
        before it, as many as it takes: ``a/POSCAR`` and ``b/POSCAR`` become ``a_POSCAR`` and
        ``b_POSCAR``.
    suffix
        Of the results; for the message.
    stem
        Whether the suffix of the source is left out.

    Raises
    ------
    Vox3dError
        If folders do not tell two sources apart.
    """
    paths = [split_address(source)[0].absolute() for source in sources]
    plain = [_name(source, stem) for source in sources]
    names, depth = list(plain), 0
    while clashes := _clashes(names):
        depth += 1
        if depth > min(len(paths[place].parent.parts) for place in clashes) - 1:
            twins = [place for place in clashes if names[place] == names[clashes[0]]]
            first, second = (sources[place] for place in twins[:2])
            raise Vox3dError(
                f"{first} and {second} would both become {plain[twins[0]]}{suffix}; give one of "
                "them another name, or do them one after the other into two folders."
            )
        for place in clashes:
            folders = paths[place].parent.parts[-depth:]
            names[place] = "_".join([*folders, plain[place]])
    return [TargetName(n, n != own) for n, own in zip(names, plain, strict=True)]


def _name(source: str | Path, stem: bool) -> str:
    """Name of a file, or of the run of a project that ``config.json::RUN::TOMOGRAM`` means."""
    path, part = split_address(source)
    if part:
        return part.partition("::")[0]
    return Path(plain_name(path)).stem if stem else plain_name(path)


def _clashes(names: Sequence[str]) -> list[int]:
    """Places of names that are there twice; files may not tell upper and lower case apart."""
    counts = Counter(name.casefold() for name in names)
    return [place for place, name in enumerate(names) if counts[name.casefold()] > 1]
