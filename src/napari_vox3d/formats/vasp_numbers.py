"""Blocks of numbers in Fortran text: reading them fast and exactly, and writing them."""

from __future__ import annotations

import mmap
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK = 1 << 16  # numbers decoded at a time: their columns stay in the cache
_PIECE = 1 << 16  # lines parsed at a time where the layout is free
_EXACT = 22  # 10**22 is the largest power of ten that a double holds exactly
_WIDTHS = {12: 5, 18: 11}  # of a field, and the digits of its mantissa
_HUNDREDS = 100.0 ** np.arange(4, -1, -1)
_DIVISORS = {
    digits: 10.0 ** np.clip(digits - np.r_[0:100, 0:-100:-1], 0, _EXACT)
    for digits in _WIDTHS.values()
}
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


def read_numbers(text: Text, start: int, count: int) -> tuple[NDArray[np.float64], int]:
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
    if count > len(text) - start:  # before memory is taken for them
        raise BadNumberError(len(text), f"the file ends before its {count} values")
    values = np.empty(count)
    done, offset = _read_columns(text, start, values)
    while done < count:
        first = text[offset : _line_end(text, offset, 1)]
        if not first:
            raise BadNumberError(offset - 1, f"the file ends after {done} of {count} values")
        per_line = max(1, len(first.split()))
        lines = min(max(1, (count - done) // per_line), _PIECE)
        end = _line_end(text, offset, lines)
        found, surplus = np.split(_parse(text, offset, end), [count - done])
        if len(surplus) >= per_line or surplus.any():
            raise BadNumberError(offset, f"more than the {count} values that the grid holds")
        values[done : done + len(found)] = found
        done, offset = done + len(found), end
    return values, offset


def _line_end(text: Text, offset: int, lines: int) -> int:
    """Byte after the given number of lines, or the end of the text."""
    for _ in range(lines):
        newline = text.find(b"\n", offset)
        if newline < 0:
            return len(text)
        offset = newline + 1
    return offset


def _read_columns(text: Text, start: int, values: NDArray[np.float64]) -> tuple[int, int]:
    """Fill `values` from full lines of fixed columns; how many were read, and where they end.

    Reads nothing if the first line does not have that layout, and stops at the first chunk with
    lines of another length.
    """
    newline = text.find(b"\n", start)
    line = text[start:newline] if newline >= 0 else b""
    columns = len(line.split())
    if not columns or len(line) % columns or len(line) // columns not in _WIDTHS:
        return 0, start
    width, length = len(line) // columns, len(line) + 1
    lines = min(len(values) // columns, (len(text) - start) // length)
    rows = np.frombuffer(text, np.uint8, lines * length, start).reshape(lines, length)
    step = _CHUNK // columns
    chunks = [(first, min(first + step, lines)) for first in range(0, lines, step)]

    def decode(chunk: tuple[int, int]) -> bool:
        first, last = chunk
        part, target = rows[first:last], values[first * columns : last * columns]
        if (part[:, -1] != ord("\n")).any():
            return False
        if not _decode(part[:, :-1].reshape(-1, width), target):
            found = _parse(text, start + first * length, start + last * length)
            if len(found) != len(target):
                return False
            target[:] = found
        return True

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = list(pool.map(decode, chunks))
    good = decoded.index(False) if False in decoded else len(chunks)
    lines = chunks[good - 1][1] if good else 0
    return lines * columns, start + lines * length


def _decode(fields: NDArray[np.uint8], values: NDArray[np.float64]) -> bool:
    """Decode (n, width) fields `` 0.ddddE+dd`` into `values`; False if one is anything else.

    The digits make an integer below 2**53 and the power of ten is exact up to 10**22, so that
    one division is correctly rounded, as in ``strtod``.
    """
    columns = np.ascontiguousarray(fields.T)
    blank, lead, point = columns[:3]
    letter, sign = columns[-4:-2]
    digits = columns[3:-4] - np.uint8(ord("0"))
    exponent = columns[-2:] - np.uint8(ord("0"))
    negative = lead == ord("-")
    down = sign == ord("-")
    if not (
        (blank == ord(" ")).all()
        and (negative | (lead == ord("0")) | (lead == ord(" "))).all()
        and (point == ord(".")).all()
        and (digits <= 9).all()
        and (letter == ord("E")).all()
        and (down | (sign == ord("+"))).all()
        and (exponent <= 9).all()
    ):
        return False
    places = len(digits)
    pairs = digits[1::2] * np.uint8(10) + digits[2::2]  # behind the first digit of an odd number
    mantissa = _HUNDREDS[-len(pairs) :] @ pairs.astype(np.float64)
    mantissa += digits[0] * 10.0 ** (places - 1)
    size = exponent[0] * np.uint8(10) + exponent[1]
    index = size + down * np.uint8(100)  # 0 to 99: E+00 to E+99; 100 to 199: E-00 to E-99
    np.divide(mantissa, _DIVISORS[places].take(index), out=values)
    np.negative(values, out=values, where=negative)
    far = np.where(down, size > _EXACT - places, size > places) & (mantissa != 0)
    if far.any():
        values[far] = np.fromstring(fields[far].tobytes(), sep=" ")
    return True


def _parse(text: Text, start: int, end: int) -> NDArray[np.float64]:
    """Numbers between two bytes, whatever the layout; NaN for what is none or infinite."""
    piece = text[start:end]
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


def format_numbers(values: NDArray[np.float64], columns: int, digits: int) -> bytes:
    """Write numbers as Fortran does with ``(columns(1X, E.digits))``.

    Parameters
    ----------
    values
        (n,) numbers. NaN is written as ``NaN``; magnitudes below 1e-100 as zero.
    columns
        Numbers on a line.
    digits
        Digits after the point of the mantissa ``0.ddd``; negative numbers have no zero there.

    Returns
    -------
    bytes
        Whole lines; the last one may be short.

    Raises
    ------
    ValueError
        If a magnitude is 1e99 or more, or infinite, for which the field has no room.
    """
    values = np.asarray(values, np.float64)
    full = len(values) // columns * columns
    parts = []
    step = max(1, _CHUNK // columns) * columns
    for first in range(0, full, step):
        fields = _fields(values[first : min(first + step, full)], digits)
        rows = fields.reshape(-1, columns * fields.shape[1])
        parts.append(np.pad(rows, ((0, 0), (0, 1)), constant_values=ord("\n")).tobytes())
    if full < len(values):
        parts.append(_fields(values[full:], digits).tobytes() + b"\n")
    return b"".join(parts)


def _fields(values: NDArray[np.float64], digits: int) -> NDArray[np.uint8]:
    """(n, digits + 7) characters `` 0.dddE+dd``."""
    finite = np.isfinite(values)
    size = np.where(finite, np.abs(values), 0.0)
    size[size < 1e-99] = 0.0
    if (size >= 1e99).any() or np.isinf(values).any():
        raise ValueError("a value of 1e99 or more has no room in this format")
    exponent = np.zeros(len(values), np.int64)
    some = size > 0
    exponent[some] = np.floor(np.log10(size[some])).astype(np.int64) + 1
    mantissa = np.rint(_times_power_of_ten(size, digits - exponent)).astype(np.int64)
    short = some & (mantissa < 10 ** (digits - 1))  # log10 was rounded up
    exponent[short] -= 1
    mantissa[short] = np.rint(_times_power_of_ten(size[short], digits - exponent[short]))
    carried = mantissa >= 10**digits
    mantissa[carried] //= 10
    exponent[carried] += 1

    fields = np.full((len(values), digits + 7), ord(" "), np.uint8)
    fields[:, 1] = np.where((values < 0) & some, ord("-"), ord("0"))
    fields[:, 2] = ord(".")
    for column in range(2 + digits, 2, -1):
        mantissa, digit = np.divmod(mantissa, 10)
        fields[:, column] = digit + ord("0")
    fields[:, -4] = ord("E")
    fields[:, -3] = np.where(exponent < 0, ord("-"), ord("+"))
    fields[:, -2] = np.abs(exponent) // 10 + ord("0")
    fields[:, -1] = np.abs(exponent) % 10 + ord("0")
    if not finite.all():
        fields[~finite] = ord(" ")
        fields[~finite, -3:] = np.frombuffer(b"NaN", np.uint8)
    return fields


def _times_power_of_ten(
    values: NDArray[np.float64], power: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Multiply by 10**power, by exact powers where there are any."""
    scale = 10.0 ** np.abs(power)
    return np.where(power < 0, values / scale, values * scale)
