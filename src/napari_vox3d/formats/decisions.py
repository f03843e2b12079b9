"""What a person decided on picks, as columns of files say it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.picks import ACCEPTED, REJECTED, UNDECIDED

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORDS = {UNDECIDED: "undecided", ACCEPTED: ACCEPTED, REJECTED: REJECTED}


def decisions_in_words(decisions: NDArray[np.str_]) -> list[str]:
    """Words for a column of a file: accepted, rejected or undecided."""
    return [_WORDS.get(decision, _WORDS[UNDECIDED]) for decision in decisions.tolist()]


def decisions_from(words: Iterable[object] | None) -> NDArray[np.str_] | None:
    """Decisions that a column tells; any other word is none. None without a column."""
    if words is None:
        return None
    known = {word: decision for decision, word in _WORDS.items()}
    return np.array([known.get(str(word).strip().lower(), UNDECIDED) for word in words], str)
