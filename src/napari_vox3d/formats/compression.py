"""Compressed files: told apart by their first bytes, written by their last suffix."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from napari_vox3d.errors import FormatError

PLENTY, RATIO = 1 << 28, 100  # bytes that are taken anyway, and how often the size of their file
_PART = 1 << 24
_MAGIC: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_SUFFIXES: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
COMPRESSED_SUFFIXES = tuple(_SUFFIXES)


def is_compressed(path: str | Path) -> bool:
    """True if the file begins like gzip, bzip2 or xz, whatever its name."""
    return _opener(path) is not None


def open_bytes(path: str | Path) -> IO[bytes]:
    """Open a file for reading bytes, decompressing gzip, bzip2 and xz by their magic bytes.

    Damaged compressed data raise `EOFError`, `OSError`, `zlib.error` or `lzma.LZMAError` on
    reading; `napari_vox3d.formats` turns these into a `FormatError`.
    """
    opener = _opener(path)
    return Path(path).open("rb") if opener is None else opener(path, "rb")


def read_whole(path: str | Path, file: IO[bytes]) -> bytes:
    """Read what is left of a file of text or HDF5 that `open_bytes` opened.

    Numbers in text shrink to a third, and the emptiest to a thirtieth. What unpacks to far more
    is made to fill the memory.

    Raises
    ------
    FormatError
        If it does.
    """
    return b"".join(unpack(path, file)) if is_compressed(path) else file.read()


def unpack(path: str | Path, file: IO[bytes], size: int = _PART) -> Iterator[bytes]:
    """What `read_whole` reads of a compressed file, `size` bytes at a time."""
    most = max(PLENTY, RATIO * Path(path).stat().st_size)
    while part := file.read(size):
        yield part
        most -= len(part)
        if most < 0:
            raise FormatError(
                path,
                f"unpacks to more than {RATIO} times its size, as no file of its kind does",
                hint="If you trust it, unpack it first.",
            )


def create_bytes(path: str | Path, name: str) -> IO[bytes]:
    """Open a file for writing bytes, compressed if `name` ends in .gz, .bz2 or .xz.

    `path` and `name` differ when a file is written aside and renamed to `name` later.
    """
    opener = _SUFFIXES.get(Path(name).suffix.lower())
    return Path(path).open("wb") if opener is None else opener(path, "wb")


def plain_name(path: str | Path) -> str:
    """File name without a compression suffix: ``"map.mrc"`` for ``"data/map.mrc.gz"``.

    The name of a part of a file is that of the part: ``"TS_01"`` for ``"config.json::TS_01"``.
    """
    _, _, part = str(path).partition("::")
    path = Path(part.split("::")[0] or path)
    return path.stem if path.suffix.lower() in _SUFFIXES else path.name


def _opener(path: str | Path) -> Callable[..., Any] | None:
    with Path(path).open("rb") as file:
        start = file.read(max(map(len, _MAGIC)))
    return next((opener for magic, opener in _MAGIC.items() if start.startswith(magic)), None)
