"""Fields of equal width `` 0.12345678901E+02`` to doubles and back, many at a time.

Eight characters are taken as one integer, on which a few operations do what would else be done to
each character (D. Lemire, "Quickly parsing eight digits", 2018).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WIDTHS = {12: 5, 18: 11}  # of a field, and the digits of its mantissa

_EXACT = 22  # 10**22 is the largest power of ten that a double holds exactly
_EXPONENTS = 100  # of two digits
_DOWN = 128  # added to the exponent if it is negative, as an index
_SMALLEST, _BEYOND = 1e-99, 1e99  # what is smaller is written as zero, what is not smaller not

_Words = NDArray[np.uint64]


def _word(characters: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(characters, "little"))


# "Exclusive or" with these turns digits into their values, other characters into 0, and "-" into 6.
# Adding the second ones then sets the highest bit of each byte that is more than it may be.
_HEAD, _HEAD_ROOM = _word(b".0000000"), _word(b"\x7f" + 7 * b"\x76")
_TAIL, _TAIL_ROOM = _word(b"0000E+00"), _word(4 * b"\x76" + b"\x7f\x79" + 2 * b"\x76")
_TOO_MUCH = _word(8 * b"\x80")
_SIGN, _MINUS = _word(b"\0\0\0\0\0\xff\0\0"), _word(b"\0\0\0\0\0\x06\0\0")
_PLUS_LEAD, _BARE_LEAD, _MINUS_LEAD = (
    np.uint16(int.from_bytes(lead, "little")) for lead in (b" 0", b"  ", b" -")
)
_PAIRS, _QUADS, _OCTETS = (
    (np.uint64((10**digits << bits) + 1), np.uint64(bits), np.uint64(mask))
    for digits, bits, mask in (
        (1, 8, 0x00FF00FF00FF00FF),
        (2, 16, 0x0000FFFF0000FFFF),
        (4, 32, 0x00000000FFFFFFFF),
    )
)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def _divisors(digits: int) -> NDArray[np.float64]:
    """Power of ten to divide a mantissa by, by exponent; NaN where it is not exact."""
    table = np.full(2 * _DOWN, np.nan)
    for first, sign in ((0, 1), (_DOWN, -1)):
        for size in range(_EXPONENTS):
            if 0 <= digits - sign * size <= _EXACT:
                table[first + size] = 10.0 ** (digits - sign * size)
    return table


_DIVISORS = {digits: _divisors(digits) for digits in WIDTHS.values()}


class Fields:
    """Decodes and encodes lines of fields; keeps the memory that this takes.

    Parameters
    ----------
    lines
        How many at a time, at most.
    columns
        Fields in a line.
    width
        Characters of a field, one of `WIDTHS`.
    """

    def __init__(self, lines: int, columns: int, width: int) -> None:
        self.lines, self.columns, self.width = lines, columns, width
        self._leads = np.empty((lines, columns), np.uint16)
        self._words = np.empty((3, lines, columns), np.uint64)
        self._numbers = np.empty((lines, columns))

    def decode(self, rows: NDArray[np.uint8], values: NDArray[np.float64]) -> bool:
        """Decode lines.

        The digits make an integer below 2**53 and the power of ten is exact up to 10**22, so that
        one division is correctly rounded, as in ``strtod``. Beyond, NumPy parses the field.

        Parameters
        ----------
        rows
            (lines, columns × width + 1) characters, the last one the end of the line.
        values
            (lines × columns,): what becomes of them.

        Returns
        -------
        bool
            False if anything else stands there.
        """
        count = len(rows)
        leads, (heads, tails, work) = self._leads[:count], self._words[:, :count]
        lead_view, head_view, tail_view = self._views(rows)
        np.copyto(leads, lead_view)
        np.copyto(heads, head_view)
        np.copyto(tails, tail_view)
        heads ^= _HEAD & np.uint64(2 ** (8 * head_view.itemsize) - 1)
        tails ^= _TAIL
        good = _fits(heads, _HEAD_ROOM, work) and _fits(tails, _TAIL_ROOM, work)
        if not good or (rows[:, -1] != ord("\n")).any():
            return False
        np.bitwise_and(tails, _SIGN, out=work)
        down = work == _MINUS
        if not (down | (work == 0)).all():
            return False

        tails &= ~_SIGN
        for joined in (_PAIRS, _QUADS):
            _join(tails, *joined)
        if self.width == 12:
            heads >>= np.uint64(8)  # the point; one digit is left
        else:
            for joined in (_PAIRS, _QUADS, _OCTETS):
                _join(heads, *joined)
        heads *= np.uint64(10_000)
        heads += np.bitwise_and(tails, _LOW, out=work)
        tails >>= _HALF
        tails += np.multiply(down, np.uint64(_DOWN), out=work)
        divisors = self._numbers[:count]
        # "clip" is never needed, and makes it write in place
        _DIVISORS[WIDTHS[self.width]].take(tails.view(np.int64), out=divisors, mode="clip")
        table = values.reshape(count, self.columns)
        np.divide(heads.view(np.int64), divisors, out=table)
        return self._signed(rows, leads, table)

    def _signed(
        self, rows: NDArray[np.uint8], leads: NDArray[np.uint16], values: NDArray[np.float64]
    ) -> bool:
        """Give numbers their sign, and those out of the exact range their value."""
        plus = leads == _PLUS_LEAD
        if not plus.all():
            minus = leads == _MINUS_LEAD
            if not (plus | minus | (leads == _BARE_LEAD)).all():
                return False
            np.negative(values, out=values, where=minus)
        far = np.isnan(values)
        if far.any():
            fields = rows[:, :-1].reshape(-1, self.width)[far.ravel()]
            values[far] = np.fromstring(fields.tobytes(), sep=" ")
        return True

    def encode(self, values: NDArray[np.float64], rows: NDArray[np.uint8]) -> None:
        """Encode lines; what `decode` reads, and ``NaN``.

        Parameters
        ----------
        values
            (lines × columns,) numbers.
        rows
            (lines, columns × width + 1) characters: what becomes of them.

        Raises
        ------
        ValueError
            If a magnitude is 1e99 or more, or infinite, for which the field has no room.
        """
        count, digits = len(rows), WIDTHS[self.width]
        values = values.reshape(count, self.columns)
        size, (heads, tails, work) = self._numbers[:count], self._words[:, :count]
        np.abs(values, out=size)
        nan = np.isnan(size)
        size[nan | (size < _SMALLEST)] = 0
        if (size >= _BEYOND).any():
            raise ValueError("a value of 1e99 or more has no room in this format")
        # a binade has at most one power of ten in it
        binade = np.right_shift(size.view(np.uint64), np.uint64(52), out=work).view(np.int64)
        index = _FIRST_INDEX[binade]
        index += size >= _NEXT_POWER[binade]
        size *= _SCALES[digits][index]
        np.rint(size, out=size)
        carried = size >= 10.0**digits
        if carried.any():
            size[carried] /= 10
            index += carried
        mantissa = size.astype(np.uint64)
        np.floor_divide(mantissa, np.uint64(10_000), out=heads)
        np.multiply(heads, np.uint64(10_000), out=work)
        np.subtract(mantissa, work, out=work)
        tails[...] = _EXPONENT_TEXT[index]
        tails <<= _HALF
        tails |= _FOUR_DIGITS[work.view(np.int64)]
        lead_view, head_view, tail_view = self._views(rows)
        lead_view[...] = _PLUS_LEAD
        np.copyto(lead_view, _MINUS_LEAD, where=(values < 0) & (size > 0))
        np.copyto(tail_view, tails)
        np.copyto(head_view, self._head_text(heads, work), casting="unsafe")
        rows[:, -1] = ord("\n")
        if nan.any():
            fields = rows[:, :-1].reshape(count, self.columns, self.width)  # a view
            fields[nan] = np.frombuffer(b"NaN".rjust(self.width), np.uint8)

    def _head_text(self, heads: _Words, work: _Words) -> _Words:
        """The point and the digits before the last four."""
        if self.width == 12:
            heads += np.uint64(ord("0"))
            heads <<= np.uint64(8)
        else:
            np.floor_divide(heads, np.uint64(10_000), out=work)
            text = _FOUR_DIGITS[work.view(np.int64)]  # three, and a zero where the point goes
            text &= ~np.uint64(0xFF)
            work *= np.uint64(10_000)
            heads -= work
            np.left_shift(_FOUR_DIGITS[heads.view(np.int64)], _HALF, out=heads)
            heads |= text
        heads |= np.uint64(ord("."))
        return heads

    def _views(self, rows: NDArray[np.uint8]) -> tuple[NDArray[np.unsignedinteger], ...]:
        """Of each field: blank and sign; point and first digits; four digits and exponent."""
        tail = self.width - 8

        def view(first: int, size: int) -> NDArray[np.unsignedinteger]:
            found: NDArray[np.unsignedinteger] = np.ndarray(
                (len(rows), self.columns), f"<u{size}", rows, first, (rows.strides[0], self.width)
            )
            return found

        return view(0, 2), view(2, tail - 2), view(tail, 8)


def _fits(words: _Words, room: np.uint64, work: _Words) -> bool:
    np.add(words, room, out=work)
    work |= words
    return not np.bitwise_or.reduce(work, axis=None) & _TOO_MUCH


def _join(words: _Words, factor: np.uint64, bits: np.uint64, mask: np.uint64) -> None:
    """Join neighbouring numbers of each word to numbers of twice the digits."""
    words *= factor
    words >>= bits
    words &= mask


def _binades() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Index of the exponent of the smallest double of each binade, and the next power of ten."""
    first, following = np.zeros(2048, np.int64), np.full(2048, np.inf)
    for binade in range(1, 2047):
        smallest = 2.0 ** (binade - 1023)
        exponent = int(f"{smallest:.17e}".split("e")[1]) + 1  # of a mantissa 0.ddd
        if abs(exponent) < _EXPONENTS:
            first[binade] = exponent + _EXPONENTS
            following[binade] = 10.0**exponent
    first[0] = _EXPONENTS  # zero
    return first, following


def _four_digits() -> _Words:
    numbers = np.arange(10_000)
    text = np.stack([numbers // 10**n % 10 + ord("0") for n in (3, 2, 1, 0)], axis=1)
    return np.ascontiguousarray(text, np.uint8).view("<u4")[:, 0].astype(np.uint64)


_FIRST_INDEX, _NEXT_POWER = _binades()
_FOUR_DIGITS = _four_digits()
_EXPONENT_TEXT = np.array(
    [_word(b"E%+03d" % exponent) for exponent in range(-_EXPONENTS, _EXPONENTS + 1)]
)
_SCALES = {
    digits: np.array([10.0 ** (digits - e) for e in range(-_EXPONENTS, _EXPONENTS + 1)])
    for digits in WIDTHS.values()
}
