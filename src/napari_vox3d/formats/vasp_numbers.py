"""Blocks of numbers in Fortran text: reading them fast and exactly, and writing them."""

from __future__ import annotations

import mmap
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.formats.fortran_fields import WIDTHS, Fields

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK = 1 << 17  # numbers at a time: with fewer, threads wait for each other between operations
_PIECE = 1 << 16  # lines parsed at a time where the layout is free
_THREADS = min(8, os.cpu_count() or 1)  # each has some megabytes of its own
_AHEAD = 4 * _THREADS  # parts that are made while others are being written
Text = bytes | mmap.mmap
_TOKEN = re.compile(
    rb"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[EeDdQq][+-]?\d+|(?P<bare>[+-]\d{3})(?![\d.]))?)"
    rb"|(?P<bad>\*+|[+-]?(?:nan|inf(?:inity)?))",
    re.IGNORECASE,
)


class BadNumberError(ValueError):
    """Text that is no number, or an end of file, at byte `offset`."""

    def __init__(self, offset: int, reason: str) -> None:
        self.offset = offset
        super().__init__(reason)


def read_numbers(
    text: Text, start: int, count: int, found: Sequence[NDArray[np.float64]] = ()
) -> tuple[NDArray[np.float64], int]:
    """Read a block of numbers that begins at the start of a line and ends with one.

    Lines of equal length in the layout ``0.12345678901E+02`` are decoded by columns, which gives
    the same doubles as ``float``. Everything else is parsed number by number: a dropped ``E``
    (``0.123-101``), ``D`` exponents, numbers without a blank between them. Asterisks, NaN and
    Infinity become NaN. Zeros that fill up the last line, as in sums of VTST's scripts, are passed
    over.

    Parameters
    ----------
    text
        The file, read or memory-mapped.
    start
        Byte where the block begins.
    count
        Number of values.
    found
        The first of them, which stood before `start`.

    Returns
    -------
    values
        (count,) float64.
    end
        Byte after the line with the last value.

    Raises
    ------
    BadNumberError
        If the block ends early, holds anything but numbers, or its last line holds too many.
    """
    done = sum(map(len, found))
    if count - done > len(text) - start:  # before memory is taken for them
        raise BadNumberError(len(text), f"the file ends before its {count} values")
    values = np.empty(count)
    if found:
        np.concatenate(found, out=values[:done])
    read, offset = _read_columns(text, start, values[done:])
    done += read
    while done < count:
        first = text[offset : _line_end(text, offset, 1)]
        if not first:
            raise BadNumberError(offset - 1, f"the file ends after {done} of {count} values")
        per_line = max(1, len(first.split()))
        lines = min(max(1, (count - done) // per_line), _PIECE)
        end = _line_end(text, offset, lines)
        part, surplus = np.split(_parse(text[offset:end], offset), [count - done])
        if len(surplus) >= per_line or surplus.any():
            raise BadNumberError(offset, f"more than the {count} values that the grid holds")
        values[done : done + len(part)] = part
        done, offset = done + len(part), end
    return values, offset


def unpack_columns(
    text: bytes, more: Callable[[], bytes], count: int
) -> tuple[list[NDArray[np.float64]], bytes]:
    """Decode full lines of fixed columns while text that follows is unpacked.

    Parameters
    ----------
    text
        The beginning of a block of numbers, with the end of its first line.
    more
        Gives the next piece of text, and an empty one at the end.
    count
        Number of values.

    Returns
    -------
    values
        The first of them, in parts; none if the layout is another.
    text
        What stands after those.
    """
    columns = _Columns(text[: text.find(b"\n") + 1])
    lines = count // columns.count if columns.known else 0
    found: list[NDArray[np.float64]] = []
    ahead: deque[tuple[bytes, Future[NDArray[np.float64] | None]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        while lines or ahead:
            size = columns.length * min(columns.step, lines, max(1, len(text) // columns.length))
            if lines and len(text) < size and (part := more()):
                text += part
            elif lines and len(text) >= size and len(ahead) <= _THREADS:
                piece, text = text[:size], text[size:]
                ahead.append((piece, pool.submit(columns.decoded, piece)))
                lines -= size // columns.length
            elif not ahead:  # the text has ended
                break
            else:
                values = ahead[0][1].result()
                if values is None:
                    break
                found.append(values)
                ahead.popleft()
    return found, b"".join([*(piece for piece, _ in ahead), text])


def _line_end(text: Text, offset: int, lines: int) -> int:
    """Byte after the given number of lines, or the end of the text."""
    for _ in range(lines):
        newline = text.find(b"\n", offset)
        if newline < 0:
            return len(text)
        offset = newline + 1
    return offset


class _Columns:
    """Lines like a given one, as fields of equal width; decodes them in several threads."""

    def __init__(self, line: bytes) -> None:
        fields = len(line.split())
        self.length, self.count = len(line), max(1, fields)
        self._width, rest = divmod(len(line) - 1, self.count)
        self.known = bool(fields) and not rest and self._width in WIDTHS
        self.step = max(1, _CHUNK // self.count)
        self._spare: list[Fields] = []

    def decode(self, rows: NDArray[np.uint8], values: NDArray[np.float64]) -> bool:
        """Fill `values` from (lines, length) characters; False if that is not all they are."""
        try:
            fields = self._spare.pop()
        except IndexError:
            fields = Fields(self.step, self.count, self._width)
        done = fields.decode(rows, values)
        self._spare.append(fields)
        if done:
            return True
        if (rows[:, -1] != ord("\n")).any():
            return False
        try:
            found = _parse(rows.tobytes(), 0)
        except BadNumberError:  # which is found again, and its place
            return False
        if len(found) != len(values):
            return False
        values[:] = found
        return True

    def decoded(self, text: bytes) -> NDArray[np.float64] | None:
        """Values of whole lines; None if there is anything else."""
        rows = np.frombuffer(text, np.uint8).reshape(-1, self.length)
        values = np.empty(len(rows) * self.count)
        return values if self.decode(rows, values) else None


def _read_columns(text: Text, start: int, values: NDArray[np.float64]) -> tuple[int, int]:
    """Fill `values` from full lines of fixed columns; how many were read, and where they end.

    Reads nothing if the first line does not have that layout, and stops at the first chunk with
    lines of another length.
    """
    columns = _Columns(text[start : text.find(b"\n", start) + 1])
    if not columns.known:
        return 0, start
    step, length = columns.step, columns.length
    lines = min(len(values) // columns.count, (len(text) - start) // length)
    rows = np.frombuffer(text, np.uint8, lines * length, start).reshape(lines, length)

    def decode(first: int) -> bool:
        last = min(first + step, lines)
        return columns.decode(
            rows[first:last], values[first * columns.count : last * columns.count]
        )

    with ThreadPoolExecutor(_THREADS) as pool:
        decoded = list(pool.map(decode, range(0, lines, step)))
    good = decoded.index(False) * step if False in decoded else lines
    return good * columns.count, start + good * length


def _parse(piece: bytes, start: int) -> NDArray[np.float64]:
    """Numbers of a text at byte `start`, whatever the layout; NaN for what is none or infinite."""
    values = None if piece.translate(None, b"0123456789+-.eE \t\r\n") else _plain_numbers(piece)
    if values is None:
        values = _odd_numbers(piece, start)
    values[~np.isfinite(values)] = np.nan
    return values


def _plain_numbers(piece: bytes) -> NDArray[np.float64] | None:
    """Blank-separated numbers as C knows them, or None if there is anything else."""
    try:
        values = np.fromstring(piece, sep=" ")
    except ValueError:
        return None
    return values if len(values) == len(piece.split()) else None  # older NumPy stops silently


def _odd_numbers(piece: bytes, start: int) -> NDArray[np.float64]:
    found = []
    position = 0
    for match in _TOKEN.finditer(piece):
        if piece[position : match.start()].strip():
            break
        position = match.end()
        if match["bad"]:
            found.append(np.nan)
            continue
        number = match["number"]
        if match["bare"]:
            number = number[:-4] + b"E" + number[-4:]
        found.append(float(number.upper().translate(bytes.maketrans(b"DQ", b"EE"))))
    rest = piece[position:]
    if rest.strip():
        at = start + position + len(rest) - len(rest.lstrip())
        raise BadNumberError(at, f"expected a number, found {_shown(rest.split()[0])!r}")
    return np.array(found)


def _shown(token: bytes) -> str:
    return token[:40].decode("utf-8", "replace")


def format_numbers(
    values: NDArray[np.floating], columns: int, digits: int, factor: float = 1.0
) -> Iterator[memoryview]:
    """Write numbers as Fortran does with ``(columns(1X, E.digits))``.

    Parameters
    ----------
    values
        (n,) numbers. NaN is written as ``NaN``; magnitudes below 1e-99 as zero.
    columns
        Numbers on a line.
    digits
        Digits after the point of the mantissa ``0.ddd``, 5 or 11; negative numbers have no zero
        there.
    factor
        What the numbers are multiplied by.

    Yields
    ------
    memoryview
        Whole lines, part after part; the very last one may be short.

    Raises
    ------
    ValueError
        If a magnitude is 1e99 or more, or infinite, for which the field has no room.
    """
    width = digits + 7
    lines = len(values) // columns
    step = max(1, _CHUNK // columns)
    spare = [Fields(min(step, lines), columns, width) for _ in range(_THREADS)]

    def encode(first: int) -> NDArray[np.uint8]:
        last = min(first + step, lines)
        rows = np.empty((last - first, columns * width + 1), np.uint8)
        fields = spare.pop()
        try:
            fields.encode(scaled(first * columns, last * columns), rows)
        finally:
            spare.append(fields)
        return rows

    def scaled(first: int, last: int) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):  # what is infinite then is refused
            return np.multiply(values[first:last], factor, dtype=np.float64)

    with ThreadPoolExecutor(_THREADS) as pool:
        ahead: deque[Future[NDArray[np.uint8]]] = deque()
        for first in range(0, lines, step):
            ahead.append(pool.submit(encode, first))
            if len(ahead) > _AHEAD:
                yield ahead.popleft().result().data
        for part in ahead:
            yield part.result().data
    rest = scaled(lines * columns, len(values))
    if len(rest):
        row = np.empty((1, len(rest) * width + 1), np.uint8)
        Fields(1, len(rest), width).encode(rest, row)
        yield row.data
