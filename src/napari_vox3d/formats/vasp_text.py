"""What of a VASP volume is not read yet; a compressed one is unpacked as it is read."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.compression import is_compressed, open_bytes, unpack
from napari_vox3d.formats.vasp_numbers import BadNumberError, Text, read_numbers, unpack_columns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PART = 1 << 21  # bytes unpacked at a time, about what is decoded at a time
_TAIL = 1 << 16  # bytes after numbers that are looked at first
_FEW = 10  # fewer numbers are what a last line holds


class Unread:
    """Numbers and text of a file, one after another.

    Parameters
    ----------
    path
        Its name.
    file
        The same opened by `open_bytes`, at the first line of numbers.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._start = path, 0
        self._parts: Iterator[bytes] | None = None
        self._text: Text = b""
        if is_compressed(path):
            self._parts, self._unpacked = unpack(path, file, _PART), file.tell()
        else:
            self._text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._start, self._unpacked = file.tell(), len(self._text)

    @property
    def place(self) -> int:
        """Byte of the file, unpacked, where reading goes on."""
        return self._unpacked - len(self._text) + self._start

    def numbers(self, count: int) -> NDArray[np.float64]:
        """Read (count,) numbers to the end of their last line, as `read_numbers`."""
        found: list[NDArray[np.float64]] = []
        if self._parts is not None:
            self._have(_TAIL)
            text = bytes(self._text[self._start :])
            found, self._text = unpack_columns(text, self._more, count)
            self._start = 0
            rest = count - sum(map(len, found))
            self._have(_TAIL if rest < _FEW else None)
        try:
            values, self._start = read_numbers(self._text, self._start, count, found)
        except BadNumberError as error:
            raise BadNumberError(self.place - self._start + error.offset, str(error)) from None
        return values

    def until(self, line: re.Pattern[bytes]) -> tuple[bytes, bool]:
        """Text up to a line or the end, and whether there is one, behind which reading goes on."""
        size = _TAIL
        while True:
            whole = self._have(size)
            found = line.search(self._text, self._start)
            if whole or (found and found.end() < len(self._text)):
                break
            size *= 2
        text = self._text[self._start : found.start() if found else len(self._text)]
        if found:
            self._start = self._text.find(b"\n", found.end()) + 1 or len(self._text)
        return text, found is not None

    def finish(self) -> None:
        """Unpack the rest, since its damage is known at the end only."""
        for _ in self._parts or ():
            pass

    def error(self, reason: str, place: int) -> FormatError:
        """Make the error for something wrong at that byte of the file, unpacked."""
        self.finish()
        line = 1
        with open_bytes(self.path) as file:
            while part := file.read(min(_PART, place)):
                line += part.count(b"\n")
                place -= len(part)
        return FormatError(self.path, reason, where=f"line {line}")

    def _have(self, size: int | None) -> bool:
        """Unpack until so many bytes, or all, are at hand; whether the file has no more."""
        if self._parts is None or (size is not None and len(self._text) - self._start >= size):
            return self._parts is None
        parts, self._text = [self._text[self._start :]], b""
        have = len(parts[0])
        while (size is None or have < size) and (part := self._more()):
            parts.append(part)
            have += len(part)
        self._text, self._start = b"".join(parts), 0
        return self._parts is None

    def _more(self) -> bytes:
        part = next(self._parts, b"") if self._parts is not None else b""
        if not part:
            self._parts = None
        self._unpacked += len(part)
        return part
