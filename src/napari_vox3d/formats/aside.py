"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@contextmanager
def write_aside(path: str | Path) -> Iterator[Path]:
    """Give the path of a temporary file that takes the place of `path` when all went well.

    The temporary file lies in the same folder. On success it is flushed to disk and renamed over
    `path`; on any exception, `Cancelled` included, it is removed and `path` stays as it was.

    Raises
    ------
    FormatError
        If the folder is missing or may not be written to, `path` is a folder, or the disk is full.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise FormatError(path, "is a folder, so no file of that name can be written")
    if not target.parent.is_dir():
        raise FormatError(path, "cannot be written because its folder does not exist")
    aside = target.with_name(f"{_start_of_name(target)}{token_hex(4)}.part")
    try:
        aside.touch(exist_ok=False)
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(target)
    except OSError as error:
        # NumPy says how much it wrote, but not why it was no more
        reason = error.strerror or f"{error}; is the disk full?"
        raise FormatError(path, f"cannot be written ({reason})") from error
    finally:
        aside.unlink(missing_ok=True)


def make_folder(path: str | Path) -> Path:
    """Make a folder, and those it lies in, where there is none.

    Raises
    ------
    FormatError
        If it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FormatError(path, f"cannot be made a folder ({error.strerror})") from error
    return Path(path)


def write_csv(path: str | Path, rows: Iterable[Iterable[object]]) -> None:
    """Write rows, the first of which names the columns, as comma-separated values.

    Raises
    ------
    FormatError
        As `write_aside`.
    """
    with write_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def as_stored(path: str | Path, values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values in the type that a file holds.

    Raises
    ------
    FormatError
        If one is beyond what a float of that type can be.
    """
    with np.errstate(over="raise"):
        try:
            return np.ascontiguousarray(values, dtype)
        except FloatingPointError:
            reason = f"holds values that are too large for {dtype.name}"
            raise FormatError(path, reason) from None


def remove_leftovers(path: str | Path) -> None:
    """Remove what a process that was killed in the midst of writing `path` left beside it.

    What cannot be removed stays.
    """
    target = Path(path).resolve()
    for aside in target.parent.glob(escape(_start_of_name(target)) + "????????.part"):
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _start_of_name(target: Path) -> str:
    return f".{target.name[:100]}."
