"""`Glimpses`: somebody looks into a training now and then, and slows it down little."""

from __future__ import annotations

import time
from collections.abc import Callable

_FIRST, _PAUSE = 4.0, 12.0  # seconds
_SHARE = 0.15  # of the time of a training that looking into it may take


class Glimpses:
    """Called after each step; looks every twelve seconds, or more rarely if a look takes long.

    Parameters
    ----------
    look
        Called in the thread of the training, which waits.
    on_step
        Called after each step as well, see `TrainingLoop`.
    clock
        Gives seconds.
    """

    def __init__(
        self,
        look: Callable[[], None],
        on_step: Callable[[int, float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._on_step, self._clock = look, on_step, clock
        self._due = clock() + _FIRST

    def __call__(self, step: int, loss: float) -> None:
        """Tell of a step, and look if it is time."""
        if self._on_step is not None:
            self._on_step(step, loss)
        begin = self._clock()
        if begin < self._due:
            return
        self._look()
        end = self._clock()
        self._due = end + max(_PAUSE, (end - begin) * (1 / _SHARE - 1))
