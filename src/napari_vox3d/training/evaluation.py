"""How good picks are: precision, recall and F by class, against picks that are known to be true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from napari_vox3d.errors import Vox3dError
from napari_vox3d.picks import Picks

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
        """Share of picks that are the pick of a particle; 0 without picks."""
        return self.matched / self.picked if self.picked else 0.0

    @property
    def recall(self) -> float:
        """Share of particles that were picked; 0 without particles."""
        return self.matched / self.true if self.true else 0.0

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
        Picks of one tomogram, or equally long sequences of several.
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
    found = [picks] if isinstance(picks, Picks) else list(picks)
    true = [truth] if isinstance(truth, Picks) else list(truth)
    if len(found) != len(true):
        raise Vox3dError(f"Picks of {len(found)} tomograms, truth of {len(true)}.")
    names = dict.fromkeys(name for part in (*true, *found) for name in part.classes)
    scores = {}
    for name in names:
        pairs = [
            (f.select(f.labels == name), t.select(t.labels == name))
            for f, t in zip(found, true, strict=True)
        ]
        scores[name] = ClassScore(
            sum(_matched(f, t, _radius(name, t, radius)) for f, t in pairs if len(f) and len(t)),
            sum(len(f) for f, _ in pairs),
            sum(len(t) for _, t in pairs),
            beta,
        )
    return PickScores(scores)


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


def _matched(picks: Picks, truth: Picks, radius: float) -> int:
    """Number of true particles with a pick within `radius`."""
    from scipy.spatial import cKDTree

    distances, _ = cKDTree(picks.positions).query(truth.positions)
    return int((distances <= radius).sum())
