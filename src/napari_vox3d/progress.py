"""How far long work is, told by the parts it consists of."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]

_WHOLE = 1000


def part_of(progress: Progress | None, first: float, last: float) -> Progress:
    """Progress of a part of the work, told as progress of the whole.

    Parameters
    ----------
    progress
        Called as ``progress(done, total)`` for the whole, if there is anyone to be told.
    first, last
        Shares of the whole, 0 to 1, that are done before the part and after it.

    Returns
    -------
    callable
        Takes ``(done, total)`` of the part.
    """

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(round(_WHOLE * (first + (last - first) * done / total)), _WHOLE)

    return tell
