"""Dynamo's tables (``.tbl``) and the lists that name their tomograms (``.doc``, ``.vll``).

A table is columns of numbers without a header. Positions (columns 24 to 26) are x, y, z in voxels
counted from 1, as MATLAB counts, and the shifts of columns 4 to 6 are added to them; columns 7 to 9
are ZXZ Euler angles. Column 20 numbers the tomogram: a table map (``1 TS_01.mrc`` a line) or a
volume list, of the table's name and beside it, tells its name. See
https://wiki.dynamo.biozentrum.unibas.ch/w/index.php/Table_convention and ``Volume_list_file``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats import orientations
from napari_vox3d.formats.aside import write_aside
from napari_vox3d.formats.frame import (
    UNNAMED_CLASS,
    frame_of_file,
    name_in,
    rows_of_tomogram,
    series_name,
    voxel_size_for_writing,
)
from napari_vox3d.picks import Picks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.volume import Volume

# Columns counted from 0.
_TAG, _ALIGNED, _AVERAGED, _SCORE, _TOMOGRAM, _CLASS, _PIXEL_SIZE = 0, 1, 2, 9, 19, 21, 35
_SHIFTS, _ANGLES, _POSITION = slice(3, 6), slice(6, 9), slice(23, 26)
_COLUMNS = 42  # of a table that `dynamo_table_blank` makes
_UNSET = 1.0  # Å, the pixel size of tables to which nobody told it
_LARGEST = 2**31  # number of a class or a tomogram
_FIRST = 1  # MATLAB's index of the first voxel
# Dynamo's own name of the map that it lays into a folder of particles.
_MAP_OF_FOLDER = "indices_column20.doc"


def read(path: str | Path, volume: Volume | None = None, part: str = "") -> Picks:
    """Read the picks of one tomogram from a Dynamo table.

    Parameters
    ----------
    path
        Table. Names of tomograms come from ``NAME.doc`` or ``NAME.vll`` beside ``NAME.tbl``, or
        from Dynamo's ``indices_column20.doc`` in the same folder.
    volume
        The tomogram. Needed unless the table states the voxel size (column 36); its name chooses
        among several.
    part
        Name of the tomogram, if the one of `volume` does not tell which of several is wanted.

    Raises
    ------
    FormatError
        If this is no table, `volume` is needed and None, or the table holds several tomograms and
        none bears the name of `volume`.
    """
    path = Path(path)
    table, tomograms = _read_table(path), _names_of_tomograms(path)
    numbers = table[:, _TOMOGRAM].astype(int)
    hint = "" if tomograms else (
        f"Lay a table map ('1 {volume.name if volume else 'TS_01.mrc'}' a line) "
        f"beside it as {path.with_suffix('.doc').name}."
    )  # fmt: skip
    names = [tomograms.get(number, str(number)) for number in numbers]
    return _picks(path, table[rows_of_tomogram(path, names, volume, part, hint)], tomograms, volume)


def read_collection(path: str | Path) -> list[Picks]:
    """Read the picks of every tomogram of a table; one that has no name goes by its number.

    Raises
    ------
    FormatError
        If this is no table, or it does not state the voxel size.
    """
    path = Path(path)
    table, tomograms = _read_table(path), _names_of_tomograms(path)
    numbers = table[:, _TOMOGRAM].astype(int)
    several = len(set(numbers.tolist())) > 1
    names = {int(number): str(number) for number in numbers} if several else {}
    return [
        _picks(path, table[numbers == number], names | tomograms, None)
        for number in dict.fromkeys(numbers.tolist())
    ]


def _picks(
    path: Path, table: NDArray[np.float64], tomograms: dict[int, str], volume: Volume | None
) -> Picks:
    """Picks of rows that are all of one tomogram."""
    number = int(table[0, _TOMOGRAM]) if len(table) else 0
    stated = table[0, _PIXEL_SIZE] if len(table) and table.shape[1] > _PIXEL_SIZE else None
    if stated == _UNSET:
        stated = None
    frame = {
        "tomogram": series_name(tomograms.get(number, "")) or (volume.name if volume else ""),
        **frame_of_file(path, stated, volume),
    }
    classes, scores = table[:, _CLASS].astype(int), table[:, _SCORE]
    return Picks(
        (table[:, _POSITION] + table[:, _SHIFTS] - _FIRST)[:, ::-1] * frame["voxel_size"],
        classes.astype(str) if classes.any() else np.array(UNNAMED_CLASS),
        scores if scores.any() else None,
        orientations.from_euler(table[:, _ANGLES], orientations.DYNAMO),
        **frame,
    )


def write(path: str | Path, picks: Picks) -> list[Path]:
    """Write picks as a Dynamo table, and its tomogram into the table map beside it.

    A map that is there already keeps its entries: the picks take the number of their tomogram in
    it, or the next free one.

    Returns
    -------
    list of Path
        The table map, if the picks name their tomogram.

    Raises
    ------
    FormatError
        If the picks carry no voxel size, or a file cannot be written.

    Warns
    -----
    UserWarning
        If class names became numbers.
    """
    return write_collection(path, [picks])


def write_collection(path: str | Path, collection: Sequence[Picks]) -> list[Path]:
    """Write picks of several tomograms as one table with its map; see `write`.

    Classes of the same name get the same number, particles one tag each.

    Raises
    ------
    FormatError
        As `write`.
    """
    path = Path(path)
    named = any(picks.tomogram for picks in collection)
    entries = _read_map(path.with_suffix(".doc")) if named else {}
    classes = _class_numbers(path, [label for picks in collection for label in picks.classes])
    parts = []
    for picks in collection:
        number = _number_of(picks.tomogram, entries)
        if picks.tomogram:
            entries.setdefault(number, picks.tomogram)
        parts.append(_rows(path, picks, number, classes))
    table = np.concatenate(parts)
    table[:, _TAG] = np.arange(1, len(table) + 1)
    with write_aside(path) as aside:
        np.savetxt(aside, table, fmt="%.10g")
    if not named:
        return []
    with write_aside(path.with_suffix(".doc")) as aside:
        aside.write_text("".join(f"{n} {name}\n" for n, name in sorted(entries.items())))
    return [path.with_suffix(".doc")]


def _rows(path: Path, picks: Picks, number: int, classes: dict[str, int]) -> NDArray[np.float64]:
    """(N, columns) picks of the tomogram of that number."""
    voxel_size = voxel_size_for_writing(path, picks)
    table = np.zeros((len(picks), _COLUMNS))
    table[:, [_ALIGNED, _AVERAGED]] = 1
    table[:, _ANGLES] = orientations.to_euler(picks, orientations.DYNAMO)
    table[:, _SCORE] = np.nan_to_num(np.asarray(picks.scores))
    table[:, _TOMOGRAM] = number
    table[:, _CLASS] = [classes[label] for label in picks.labels]
    table[:, _POSITION] = (picks.positions / voxel_size)[:, ::-1] + _FIRST
    table[:, _PIXEL_SIZE] = voxel_size[-1]
    return table


def _read_table(path: Path) -> NDArray[np.float64]:
    """(N, columns) numbers; complex ones, as some differences of axes are, by their real part."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    lines = [line for line in lines if line and line[0] not in "%#"]
    width = min((len(line.split()) for line in lines), default=_COLUMNS)
    if width < _POSITION.stop:
        raise FormatError(
            path, f"has {width} columns, and a Dynamo table has {_POSITION.stop} or more"
        )
    convert = _real if any("i" in line for line in lines) else None
    try:
        table = np.zeros((0, width))
        if lines:
            table = np.loadtxt(lines, usecols=range(width), ndmin=2, converters=convert)
    except ValueError:
        raise FormatError(path, "is not a Dynamo table (not all of it is numbers)") from None
    needed = [_TOMOGRAM, _CLASS, *range(_POSITION.start, _POSITION.stop), *range(3, 9)]
    numbered = np.abs(table[:, [_TOMOGRAM, _CLASS]])
    if not np.isfinite(table[:, needed]).all() or (numbered > _LARGEST).any():
        raise FormatError(path, "lacks values of positions, angles, tomograms or classes")
    return table


def _real(word: str) -> float:
    return complex(word[:-1] + "j").real if word.endswith("i") else float(word)


def _names_of_tomograms(path: Path) -> dict[int, str]:
    """Name of each tomogram's number, from the first list that lies beside the table."""
    volume_list = path.with_suffix(".vll")
    if not path.with_suffix(".doc").exists() and volume_list.exists():
        return _read_volume_list(volume_list)
    return _read_map(path.with_suffix(".doc")) or _read_map(path.with_name(_MAP_OF_FOLDER))


def _read_map(path: Path) -> dict[int, str]:
    """Entries of a table map; none if there is no such file."""
    if not path.exists():
        return {}
    entries = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        words = line.split(maxsplit=1)
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 2 or not words[0].isdigit():
            raise FormatError(
                path, f"wants a number and a tomogram, not {line!r}", where=f"line {number}"
            )
        entries[int(words[0])] = words[1].strip()
    return entries


def _read_volume_list(path: Path) -> dict[int, str]:
    """Entries of a volume list: tomograms count from 1, unless ``* index = n`` follows one."""
    entries: dict[int, str] = {}
    number = 0
    for line in map(str.strip, path.read_text(encoding="utf-8-sig").splitlines()):
        key, _, value = line.lstrip("* ").partition("=")
        if line.startswith("*") and key.strip() == "index" and value.strip().isdigit() and entries:
            entries[int(value)] = entries.pop(number)
            number = int(value)
        elif line and line[0] not in "#*>!":
            number += 1
            entries[number] = line
    return entries


def _number_of(tomogram: str, names: dict[int, str]) -> int:
    """Number of a tomogram in a map, or the one that follows the largest."""
    known = name_in(names.values(), tomogram)
    return next((n for n, name in names.items() if name == known), max(names, default=0) + 1)


def _class_numbers(path: Path, labels: list[str]) -> dict[str, int]:
    """Number of each class: its name if all of them are numbers, else 1, 2 and so on."""
    labels = list(dict.fromkeys(labels))
    if all(label.isdigit() for label in labels):
        return {label: int(label) for label in labels}
    if labels == [UNNAMED_CLASS]:
        return {UNNAMED_CLASS: 0}
    numbers = {label: number for number, label in enumerate(labels, 1)}
    warnings.warn(
        f"{path.name} numbers its classes: "
        + ", ".join(f"{number} is {label}" for label, number in numbers.items())
        + ".",
        stacklevel=4,
    )
    return numbers
