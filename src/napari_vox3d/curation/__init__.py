"""Going through picks: what is decided on each, in which order they come, what can be undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import Vox3dError
from napari_vox3d.picks import ACCEPTED, REJECTED, UNDECIDED, Picks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

DELETED = "deleted"
SAME_PLACE = 1.0  # Å within which a pick that is found again is the same one

Row = dict[str, Any]
"""What a review knows of one pick, of JSON types: see `Review.rows`."""


@dataclass(frozen=True)
class _Step:
    """One decision, for undo and redo: label and state of a pick."""

    number: int
    before: tuple[str, str]
    after: tuple[str, str]


class Review:
    """Picks, and what a person decided on them.

    Every pick has a number that stays while picks are moved, added or deleted around it.

    Parameters
    ----------
    picks
        Picks as they were found, with what was decided before if they know it.
    thresholds
        Score by class that a pick needed. Default, for each class: its least score.

    Attributes
    ----------
    picks
        Picks as they are now, in the order in which they are shown.
    numbers
        (N,) number of each.
    states
        (N,) ``""`` (undecided), ``"accepted"`` or ``"rejected"``.
    seen
        (N,) whether each was looked at.
    """

    def __init__(self, picks: Picks, thresholds: Mapping[str, float] | None = None):
        self.picks = replace(picks, decisions=None)
        self.numbers = np.arange(len(picks))
        self.states = np.full(len(picks), UNDECIDED, object)
        if picks.decisions is not None:
            self.states[:] = picks.decisions
        self.seen = self.states != UNDECIDED
        self._found_at = picks.positions.copy()  # NaN where a person put the pick
        self._found_as = picks.labels.astype(object)
        self._deleted: list[Row] = []
        self._next = len(picks)
        self._done: list[list[_Step]] = []  # what was decided at once is undone at once
        self._undone: list[list[_Step]] = []
        self.thresholds = {**_least_scores(picks), **(thresholds or {})}

    def __len__(self) -> int:
        return len(self.picks)

    def row(self, number: int) -> int:
        """Place of a pick among `picks`.

        Raises
        ------
        Vox3dError
            If there is no pick of that number any more.
        """
        rows = np.flatnonzero(self.numbers == number)
        if not len(rows):
            raise Vox3dError("This pick was deleted.")
        return int(rows[0])

    # --- decisions -----------------------------------------------------------------------------

    def decide(self, number: int, state: str) -> None:
        """Accept or reject a pick."""
        self._do([number], None, state)

    def relabel(self, number: int, label: str) -> None:
        """Accept a pick as one of another class."""
        self._do([number], label, ACCEPTED)

    def reject_below(self, label: str, threshold: float) -> int:
        """Reject the undecided picks of a class with lower scores; returns how many."""
        below = (
            (self.picks.labels == label)
            & (np.asarray(self.picks.scores) < threshold)
            & (self.states == UNDECIDED)
        )
        self._do(self.numbers[below].tolist(), None, REJECTED)
        return int(below.sum())

    def undo(self) -> int | None:
        """Take back what was decided last; returns the number of a pick of it, None without any."""
        return self._turn(self._done, self._undone, back=True)

    def redo(self) -> int | None:
        """Decide again what was undone last; returns as `undo`."""
        return self._turn(self._undone, self._done, back=False)

    def look_at(self, number: int) -> None:
        """Count a pick as seen."""
        self.seen[self.row(number)] = True

    def _do(self, numbers: list[int], label: str | None, state: str) -> None:
        steps = []
        for number in numbers:
            row = self.row(number)
            before = (str(self.picks.labels[row]), str(self.states[row]))
            after = (before[0] if label is None else label, state)
            if before != after:
                steps.append(_Step(number, before, after))
            self._set(row, *after)
        if steps:
            self._done.append(steps)
            self._undone.clear()

    def _turn(self, source: list[list[_Step]], target: list[list[_Step]], back: bool) -> int | None:
        while source:
            steps = source.pop()
            there = [step for step in steps if step.number in self.numbers]
            if not there:  # deleted by hand meanwhile
                continue
            target.append(there)
            for step in there:
                self._set(self.row(step.number), *(step.before if back else step.after))
            return there[0].number
        return None

    def _set(self, row: int, label: str, state: str) -> None:
        if self.picks.labels[row] != label:
            labels = self.picks.labels.astype(object)
            labels[row] = label
            self.picks = replace(self.picks, labels=labels)
        self.states[row] = state
        self.seen[row] = True

    # --- order ---------------------------------------------------------------------------------

    @property
    def doubt(self) -> NDArray[np.float64]:
        """(N,) distance of the score from the threshold of the class that was found; NaN without.

        That class stays the measure when a pick is relabelled, so that the order stays too.
        """
        limits = np.full(len(self), np.nan)
        for label in set(self._found_as.tolist()):
            limits[self._found_as == label] = self.thresholds.get(label, np.nan)
        return np.abs(np.asarray(self.picks.scores) - limits)

    def order(self, among: ArrayLike | None = None) -> NDArray[np.int64]:
        """Numbers of the picks, the most doubtful first.

        Picks without a score were clicked by a person, and come last, from slice to slice.

        Parameters
        ----------
        among
            (N,) which picks to go through. Default: all.
        """
        rows = np.flatnonzero(np.ones(len(self), bool) if among is None else np.asarray(among))
        doubt = np.nan_to_num(self.doubt[rows], nan=np.inf)
        z, y, x = self.picks.positions[rows].T
        return self.numbers[rows[np.lexsort((x, y, z, doubt))]]

    def after(self, number: int | None, order: NDArray[np.int64], by: int = 1) -> int | None:
        """Number `by` places on in an order, at its end the last; the first if not in it."""
        if not len(order):
            return None
        places = np.flatnonzero(order == number)
        place = int(np.clip(places[0] + by, 0, len(order) - 1)) if len(places) else 0
        return int(order[place])

    def next_undecided(self, number: int | None, order: NDArray[np.int64]) -> int | None:
        """Number of the next pick in an order without a decision, from its start if need be."""
        here = np.flatnonzero(order == number)
        turned = np.roll(order, -(here[0] + 1)) if len(here) else order
        open_ones = turned[np.isin(turned, self.numbers[self.states == UNDECIDED])]
        return int(open_ones[0]) if len(open_ones) else None

    def count(self, state: str) -> int:
        """Number of picks of a state."""
        return int((self.states == state).sum())

    @property
    def kept(self) -> Picks:
        """Picks that are not rejected."""
        return self.picks.select(self.states != REJECTED)

    # --- edits by hand, and picks that are found anew ------------------------------------------

    def follow(self, picks: Picks, numbers: ArrayLike) -> None:
        """Take over picks that were moved, added, deleted or renamed in another way.

        Parameters
        ----------
        picks
            All picks as they are now.
        numbers
            (N,) number of each; new ones have one that is unknown, or that of their original. A
            person put them there, so they are accepted, and have no score.
        """
        numbers = np.array(numbers, int)
        before = {number: row for row, number in enumerate(self.numbers.tolist())}
        _, firsts = np.unique(numbers, return_index=True)
        known = np.isin(np.arange(len(numbers)), firsts) & np.isin(numbers, self.numbers)
        gone = set(before) - set(numbers[known].tolist())
        self._deleted += [{**self._row(before[n]), "state": DELETED} for n in sorted(gone)]
        numbers[~known] = self._next + np.arange((~known).sum())
        self._next += int((~known).sum())
        rows = np.array([before.get(number, -1) for number in numbers.tolist()], int)
        scores = np.where(known, np.asarray(picks.scores), np.nan)
        self._take(replace(picks, scores=scores, decisions=None), numbers, rows)
        self.states[~known], self.seen[~known] = ACCEPTED, True

    def find_again(self, found: Picks) -> None:
        """Take over what is found at other thresholds; what a person decided or made stays.

        Undecided picks that are not found any more go, new ones come, except those that were
        deleted by hand.

        Parameters
        ----------
        found
            All picks that are found now.
        """
        rows = _match(self._as_found(), found.positions, found.labels)
        stays = self._touched(also_seen=False) | (rows >= 0)
        deleted = _match(self._deleted, found.positions, found.labels)
        fresh = np.setdiff1d(np.arange(len(found)), [*rows, *deleted])
        picks = Picks.concatenate([self.picks.select(stays), found.select(fresh)])
        old = np.flatnonzero(stays)
        numbers = [*self.numbers[old].tolist(), *range(self._next, self._next + len(fresh))]
        self._next += len(fresh)
        count = len(old)
        self._take(replace(picks, metadata=found.metadata), np.array(numbers, int),
                   np.concatenate([old, np.full(len(fresh), -1)]).astype(int))  # fmt: skip
        self._found_at[count:] = found.positions[fresh]
        self._found_as[count:] = found.labels[fresh]

    def _take(self, picks: Picks, numbers: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Columns for other picks: those of the rows before; -1 is a pick made by a person."""
        old = rows >= 0

        def column(values: NDArray[Any], fresh: Any) -> NDArray[Any]:
            taken = np.full((len(rows), *values.shape[1:]), fresh, values.dtype)
            taken[old] = values[rows[old]]
            return taken

        self.states, self.seen = column(self.states, UNDECIDED), column(self.seen, False)
        self._found_at = column(self._found_at, np.nan)
        found_as = column(self._found_as, "")
        found_as[~old] = picks.labels[~old]
        self._found_as = found_as
        self.picks, self.numbers = picks, numbers

    # --- keeping -------------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """What is to be kept: a row for each pick that was seen, decided, moved, added or deleted.

        Returns
        -------
        list of dict
            ``at`` (Å), ``class``, ``score``, ``radius`` (Å), ``state``, ``seen``, and ``found``
            and ``found_as``: place and class before; None for picks that a person made.
        """
        kept = np.flatnonzero(self._touched(also_seen=True)).tolist()
        return [*(self._row(row) for row in kept), *self._deleted]

    def resume(self, rows: Sequence[Row]) -> None:
        """Decide as in a review of these picks that was kept; see `rows`.

        What was decided on picks that are not found now comes back with them.
        """
        known = _match(rows, self.picks.positions, self.picks.labels)
        positions, labels = self.picks.positions.copy(), self.picks.labels.astype(object)
        for row, place in zip(rows, known.tolist(), strict=True):
            if place >= 0:
                positions[place], labels[place] = row["at"], row["class"]
                self.states[place] = REJECTED if row["state"] == DELETED else row["state"]
                self.seen[place] = row["seen"]
        self.picks = replace(self.picks, positions=positions, labels=labels)
        lost = [row for row, place in zip(rows, known.tolist(), strict=True) if place < 0]
        self._deleted += [row for row in lost if row["state"] == DELETED]
        lost = [row for row in lost if row["state"] in (ACCEPTED, REJECTED) or not row["found"]]
        if not lost:
            return
        more = Picks(
            np.array([row["at"] for row in lost]),
            np.array([row["class"] for row in lost]),
            np.array([np.nan if row["score"] is None else row["score"] for row in lost]),
            radii=None if self.picks.radii is None else np.array([row["radius"] for row in lost]),
            angles=None if self.picks.angles is None else np.zeros((len(lost), 3)),
        )
        count = len(self)
        numbers = np.concatenate([self.numbers, self._next + np.arange(len(lost))])
        self._next += len(lost)
        self._take(Picks.concatenate([self.picks, more]), numbers,
                   np.concatenate([np.arange(count), np.full(len(lost), -1)]))  # fmt: skip
        for place, row in enumerate(lost, start=count):
            self.states[place], self.seen[place] = row["state"], row["seen"]
            self._found_at[place] = row["found"] or np.nan
            self._found_as[place] = row["found_as"] or row["class"]

    def _touched(self, also_seen: bool) -> NDArray[np.bool_]:
        """(N,) which picks are not as they were found."""
        moved = ~(np.abs(self.picks.positions - self._found_at).max(axis=1, initial=0) < 1e-3)
        touched = (self.states != UNDECIDED) | moved | (self.picks.labels != self._found_as)
        return touched | self.seen if also_seen else touched

    def _as_found(self) -> list[Row]:
        return [
            {"found": at, "found_as": label} if np.isfinite(at).all() else {}
            for at, label in zip(self._found_at, self._found_as.tolist(), strict=True)
        ]

    def _row(self, row: int) -> Row:
        picks, found = self.picks, self._found_at[row]
        score = float(np.asarray(picks.scores)[row])
        return {
            "at": picks.positions[row].tolist(),
            "class": str(picks.labels[row]),
            "score": None if np.isnan(score) else score,
            "radius": None if picks.radii is None else float(picks.radii[row]),
            "state": str(self.states[row]),
            "seen": bool(self.seen[row]),
            "found": None if np.isnan(found).any() else found.tolist(),
            "found_as": str(self._found_as[row]),
        }


def _least_scores(picks: Picks) -> dict[str, float]:
    scores = np.asarray(picks.scores)
    least = {}
    for label in picks.classes:
        known = scores[(picks.labels == label) & ~np.isnan(scores)]
        if len(known):
            least[label] = float(known.min())
    return least


def _match(
    rows: Sequence[Row], positions: NDArray[np.float64], labels: NDArray[np.str_]
) -> NDArray[np.int64]:
    """Pick of each row, by where and as what it was found, or else by what it became; -1: none."""
    from scipy.spatial import cKDTree

    matched = np.full(len(rows), -1)
    for at, name in (("found", "found_as"), ("at", "class")):
        for label in np.unique(labels):
            open_ones = [
                n for n, row in enumerate(rows)
                if matched[n] < 0 and row.get(name) == label and row.get(at) is not None
            ]  # fmt: skip
            if not open_ones:
                continue
            own = np.flatnonzero(labels == label)
            wanted = np.array([rows[n][at] for n in open_ones])
            distance, nearest = cKDTree(positions[own]).query(wanted)
            near = distance < SAME_PLACE
            matched[np.array(open_ones)[near]] = own[nearest[near]]
    return matched
