"""How good picks are: precision, recall and F by class, against picks that are known to be true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.errors import Vox3dError
from napari_vox3d.picks import Picks

if TYPE_CHECKING:
    from numpy.typing import NDArray

CZII_RADII = {
    "apo-ferritin": 60.0,
    "beta-amylase": 65.0,
    "beta-galactosidase": 90.0,
    "ribosome": 150.0,
    "thyroglobulin": 130.0,
    "virus-like-particle": 135.0,
}
CZII_WEIGHTS = {
    "apo-ferritin": 1.0,
    "beta-amylase": 0.0,
    "beta-galactosidase": 2.0,
    "ribosome": 1.0,
    "thyroglobulin": 2.0,
    "virus-like-particle": 1.0,
}


@dataclass(frozen=True)
class ClassScore:
    """Counts of one class over all tomograms, and what follows from them.

    Parameters
    ----------
    matched
        True particles with at least one pick close enough.
    picked
        Picks; further picks of one particle count as false.
    true
        True particles.
    beta
        Weight of recall against precision in `f`.
    """

    matched: int
    picked: int
    true: int
    beta: float = 1.0

    @property
    def precision(self) -> float:
        """Particles matched for each pick; 0 without picks, and above 1 where one pick hits two."""
        return self.matched / self.picked if self.picked else 0.0

    @property
    def recall(self) -> float:
        """Share of particles that were picked; 0 without particles."""
        return self.matched / self.true if self.true else 0.0

    @property
    def missed(self) -> int:
        """True particles without a pick."""
        return self.true - self.matched

    @property
    def false(self) -> int:
        """Picks beyond one for each particle; below 0 where one pick hits two."""
        return self.picked - self.matched

    @property
    def f(self) -> float:
        """F-beta: (1 + β²) P R / (β² P + R); 0 where nothing matches."""
        weighted = self.beta**2 * self.precision + self.recall
        return (1 + self.beta**2) * self.precision * self.recall / weighted if weighted else 0.0


@dataclass(frozen=True)
class PickScores:
    """Scores by class.

    Parameters
    ----------
    classes
        Score of each class that is picked or true.
    """

    classes: dict[str, ClassScore]

    @property
    def mean_f(self) -> float:
        """Plain mean of F over the classes."""
        return float(np.mean([score.f for score in self.classes.values()])) if self.classes else 0.0

    def weighted_f(self, weights: Mapping[str, float] = CZII_WEIGHTS) -> float:
        """Weighted mean of F over the classes named in `weights`; a class not here counts as 0.

        With the default, ``beta=4`` and ``radius`` half the particle radius this is the score of
        the CZII challenge (Kaggle 2024), where a class of weight 0 does not count.
        """
        score = sum(weight * self.classes[name].f for name, weight in weights.items()
                    if name in self.classes)  # fmt: skip
        return score / sum(weights.values())


def evaluate_picks(
    picks: Picks | Sequence[Picks],
    truth: Picks | Sequence[Picks],
    *,
    radius: float | Mapping[str, float] | None = None,
    beta: float = 1.0,
) -> PickScores:
    """Compare picks with the truth, class by class, summed over tomograms.

    A particle is matched if a pick of its class lies within `radius`. The rule is that of the
    CZII challenge: matched particles count once, every other pick is false.

    Parameters
    ----------
    picks, truth
        Picks of one tomogram, or equally long sequences of several. Rejected ones do not count.
    radius
        Å, one for all or by class. Default: half the radius that the true picks carry.
    beta
        Weight of recall in F.

    Returns
    -------
    PickScores
        Counts, precision, recall and F of each class.

    Raises
    ------
    Vox3dError
        If the numbers of tomograms differ, or no radius is known for a class.
    """
    found, true = _tomograms(picks, truth)
    names = dict.fromkeys(name for part in (*true, *found) for name in part.classes)
    scores = {}
    for name in names:
        pairs = _of_class(name, found, true)
        scores[name] = ClassScore(
            sum(_matched(f, t, radius) for f, t in pairs),
            sum(len(f) for f, _ in pairs),
            sum(len(t) for _, t in pairs),
            beta,
        )
    return PickScores(scores)


def czii_score(picks: Picks | Sequence[Picks], truth: Picks | Sequence[Picks]) -> float:
    """Score of the CZII challenge (Kaggle 2024): its radii, β = 4, its weights.

    Picks of β-amylase, which weighs nothing, and of classes that the challenge lacks do not count.

    Parameters
    ----------
    picks, truth
        As for `evaluate_picks`.
    """
    known = [
        [part.select(np.isin(part.labels, list(CZII_RADII))) for part in parts]
        for parts in _tomograms(picks, truth)
    ]
    radii = {name: 0.5 * radius for name, radius in CZII_RADII.items()}
    return evaluate_picks(*known, radius=radii, beta=4.0).weighted_f()


def pair_tomograms(
    picks: Sequence[Picks], truth: Sequence[Picks]
) -> tuple[list[Picks], list[Picks]]:
    """Bring picks of several tomograms into the order of the truth, by the tomograms' names.

    A tomogram without picks counts as one with none; one without truth is left out, as the CZII
    challenge does. If each has one tomogram they belong together whatever their names.

    Raises
    ------
    Vox3dError
        If no name is in both, or two sets of picks have one name.
    """
    nothing = Picks(np.zeros((0, 3)), np.zeros(0, str))
    if len(picks) <= 1 and len(truth) <= 1:  # a file without picks holds no tomogram either
        return list(picks) or [nothing], list(truth) or [nothing]
    if not picks:
        return [nothing] * len(truth), list(truth)
    by_name = {part.tomogram: part for part in picks}
    names = [part.tomogram for part in truth]
    for parts in (picks, truth):
        if len({part.tomogram for part in parts}) < len(parts):
            raise Vox3dError("Two sets of picks are of one tomogram; their names should differ.")
    if not by_name.keys() & set(names):
        raise Vox3dError(
            f"The picks are of {_some(by_name)}, the truth is of {_some(names)}: "
            "no tomogram is in both."
        )
    return [by_name.get(name, replace(nothing, tomogram=name)) for name in names], list(truth)


@dataclass(frozen=True)
class Matches:
    """Which picks and which true particles found each other.

    Parameters
    ----------
    hit
        (true,) which particles have a pick of their class within the radius.
    right
        (picks,) which picks are the closest one of such a particle; all others are false.
    """

    hit: NDArray[np.bool_]
    right: NDArray[np.bool_]


def match_picks(
    picks: Picks, truth: Picks, *, radius: float | Mapping[str, float] | None = None
) -> Matches:
    """Match picks and true particles of one tomogram by the rule of `evaluate_picks`.

    Raises
    ------
    Vox3dError
        If no radius is known for a class.
    """
    from scipy.spatial import cKDTree

    hit, right = np.zeros(len(truth), bool), np.zeros(len(picks), bool)
    for name in set(truth.classes) & set(picks.classes):
        own, true = np.flatnonzero(picks.labels == name), np.flatnonzero(truth.labels == name)
        reach = _radius(name, truth.select(true), radius)
        tree = cKDTree(picks.positions[own])
        distance, nearest = tree.query(truth.positions[true])
        hit[true] = distance <= reach
        right[own[nearest[distance <= reach]]] = True
    return Matches(hit, right)


@dataclass(frozen=True)
class ThresholdCurve:
    """F of one class for every threshold that its scores allow.

    Parameters
    ----------
    thresholds
        (n,) rising scores: picks with at least that score count.
    f
        (n,) F-beta at each.
    """

    thresholds: NDArray[np.float64]
    f: NDArray[np.float64]

    @property
    def best(self) -> float:
        """Middle of the thresholds around the highest F that come within 0.005 of it."""
        top = int(self.f.argmax())
        worse = np.flatnonzero(self.f < self.f[top] - 0.005)
        first = int(worse[worse < top].max(initial=-1)) + 1
        last = int(worse[worse > top].min(initial=len(self.f))) - 1
        return float((self.thresholds[first] + self.thresholds[last]) / 2)


def threshold_curve(
    picks: Picks | Sequence[Picks],
    truth: Picks | Sequence[Picks],
    name: str,
    *,
    radius: float | Mapping[str, float] | None = None,
    beta: float = 1.0,
) -> ThresholdCurve | None:
    """F of a class as its threshold rises, without another pass over the tomogram.

    Parameters
    ----------
    picks, truth, radius, beta
        As for `evaluate_picks`.
    name
        The class.

    Returns
    -------
    ThresholdCurve
        None if the picks of the class have no scores, or there are none.

    Raises
    ------
    Vox3dError
        As `evaluate_picks`.
    """
    pairs = _of_class(name, *_tomograms(picks, truth))
    scores = np.concatenate([np.asarray(found.scores) for found, _ in pairs])
    if not len(scores) or np.isnan(scores).any():
        return None
    # A particle is matched as long as the best pick within its reach is there.
    best = [
        best_scores(found, true, _radius(name, true, radius)) for found, true in pairs if len(true)
    ]
    reached = np.sort(np.concatenate([np.zeros(0), *best]))
    true_count = sum(len(true) for _, true in pairs)
    thresholds, first = np.unique(np.sort(scores), return_index=True)
    picked = len(scores) - first
    matched = len(reached) - np.searchsorted(reached, thresholds)
    f = [
        ClassScore(int(m), int(p), true_count, beta).f for m, p in zip(matched, picked, strict=True)
    ]
    return ThresholdCurve(thresholds, np.array(f))


def table_rows(scores: PickScores) -> list[dict[str, object]]:
    """Rows of a table: one for each class, and one of the sums with the mean of F."""
    beta = next((score.beta for score in scores.classes.values()), 1.0)
    total = ClassScore(
        sum(score.matched for score in scores.classes.values()),
        sum(score.picked for score in scores.classes.values()),
        sum(score.true for score in scores.classes.values()),
        beta,
    )
    whole = {**_cells(total), f"F{beta:g}": scores.mean_f}
    rows = {**{name: _cells(score) for name, score in scores.classes.items()}, "all": whole}
    return [{"class": name, **cells} for name, cells in rows.items()]


def _cells(score: ClassScore) -> dict[str, object]:
    return {
        "precision": score.precision,
        "recall": score.recall,
        f"F{score.beta:g}": score.f,
        "matched": score.matched,
        "missed": score.missed,
        "false": score.false,
    }


def _tomograms(
    picks: Picks | Sequence[Picks], truth: Picks | Sequence[Picks]
) -> tuple[list[Picks], list[Picks]]:
    found = [part.kept for part in ([picks] if isinstance(picks, Picks) else picks)]
    true = [part.kept for part in ([truth] if isinstance(truth, Picks) else truth)]
    if len(found) != len(true):
        raise Vox3dError(f"Picks of {len(found)} tomograms, truth of {len(true)}.")
    return found, true


def _of_class(
    name: str, found: Sequence[Picks], true: Sequence[Picks]
) -> list[tuple[Picks, Picks]]:
    return [(f.of_class(name), t.of_class(name)) for f, t in zip(found, true, strict=True)]


def _radius(name: str, truth: Picks, radius: float | Mapping[str, float] | None) -> float:
    if isinstance(radius, Mapping):
        if name not in radius:
            raise Vox3dError(f"No radius for {name!r}; radii are given for {', '.join(radius)}.")
        return radius[name]
    if radius is not None:
        return radius
    if truth.radii is None:
        raise Vox3dError(f"The true picks of {name!r} carry no radius; give one with radius=.")
    return 0.5 * float(np.median(truth.radii))


def _matched(picks: Picks, truth: Picks, radius: float | Mapping[str, float] | None) -> int:
    return int(match_picks(picks, truth, radius=radius).hit.sum())


def best_scores(picks: Picks, truth: Picks, radius: float) -> NDArray[np.float64]:
    """Highest score within `radius` of each particle that has a pick there."""
    from scipy.spatial import cKDTree

    if not len(picks):
        return np.zeros(0)
    scores = np.asarray(picks.scores)
    near = cKDTree(picks.positions).query_ball_point(truth.positions, radius)
    return np.array([scores[rows].max() for rows in near if rows])


def _some(names: Mapping[str, object] | Sequence[str]) -> str:
    known = [name or "a tomogram without a name" for name in list(names)[:3]]
    return ", ".join(known) + (" and others" if len(names) > 3 else "")
