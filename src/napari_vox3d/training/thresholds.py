"""Thresholds of picking models: from tomograms of which all particles are known, or only some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.spatial import cKDTree
from scipy.special import expit, logit, ndtr

from napari_vox3d.inference.picking import find_particles, score_particles
from napari_vox3d.models import Model, ParticleClass
from napari_vox3d.picks import Picks
from napari_vox3d.progress import Progress
from napari_vox3d.training.evaluation import best_scores, evaluate_picks
from napari_vox3d.training.inputs import Example

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from napari_vox3d.inference.contrast import ContrastChoice

LOWEST = 0.05  # threshold that a class may get
_PLATEAU = 0.98  # share of the best F
_WIDE_PLATEAU = 0.9  # the same where F is estimated from some: these hardly tell the lowest scores
_LEVELS = np.linspace(-3, 5, 81)  # logits
_ENOUGH = 1 / 3  # of the highest recall: where fewer are above, chance decides how many
_RARE = 1e-6  # picks for a level: fewer tell nothing
_LEAST_WIDTH = 0.3  # logits: how far scores of particles alike may differ at least


def estimate_thresholds(
    model: Model,
    examples: Sequence[Example],
    *,
    contrast: ContrastChoice | None = None,
    device: str = "auto",
    beta: float = 1.0,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Find the threshold of each class: the middle of the plateau of F on examples.

    Parameters
    ----------
    model
        Picking model.
    examples
        Tomograms with all their particles, best those it was not trained on.
    contrast, device
        As for `score_particles`.
    beta
        Weight of recall in F.
    progress
        As for `score_particles`, for one example after the other.

    Returns
    -------
    dict
        Threshold by class; the card's where no particle of a class is found.
    """
    maps = (
        score_particles(volume, model, contrast=contrast, device=device, progress=progress)
        for volume, _ in examples
    )
    found = [find_particles(scores, threshold=LOWEST) for scores in maps]
    truth = [picks for _, picks in examples]
    return {kind.name: best_threshold(found, truth, kind, beta) for kind in model.card.classes}


def best_threshold(
    found: Sequence[Picks], truth: Sequence[Picks], kind: ParticleClass, beta: float = 1.0
) -> float:
    """Middle of the plateau of F over thresholds for one class, given candidate picks.

    Parameters
    ----------
    found
        Candidates of several tomograms, found at a low threshold.
    truth
        Their true particles.
    kind
        The class.
    beta
        Weight of recall in F.
    """
    thresholds = np.linspace(LOWEST, 0.95, 46)
    own, true = ([picks.of_class(kind.name) for picks in each] for each in (found, truth))
    scores = []
    for threshold in thresholds:
        kept = [picks.select(picks.scores >= threshold) for picks in own]
        score = evaluate_picks(kept, true, radius=0.5 * kind.radius, beta=beta).classes
        scores.append(score[kind.name].f if kind.name in score else 0.0)
    if not max(scores):
        return kind.threshold
    plateau = thresholds[np.array(scores) >= _PLATEAU * max(scores)]
    return round(float(plateau[len(plateau) // 2]), 3)


@dataclass(frozen=True)
class Confidence:
    """What scores of one class mean, where only some of its particles are known.

    Recall at a threshold is the share of known particles above it. Precision cannot be measured,
    but there cannot be more particles than picks / recall, whatever the threshold; where that is
    least, nearly all picks are particles. It is taken for the number of particles.

    Attributes
    ----------
    levels
        (N,) thresholds as logits, rising.
    recall
        (N,) at these thresholds; zeros if nothing is known.
    picked
        (N,) picks at these thresholds that are not known particles.
    share
        (N,) particles among such picks of just these scores.
    expected
        Number of particles that are not known.
    """

    levels: NDArray[np.float64]
    recall: NDArray[np.float64]
    picked: NDArray[np.float64]
    share: NDArray[np.float64]
    expected: float

    @classmethod
    def of(
        cls,
        found: Sequence[Picks],
        shown: Sequence[Picks],
        kind: ParticleClass,
        judges: Sequence[Picks] | None = None,
        most: float = np.inf,
    ) -> Confidence:
        """Find out from candidates and known particles.

        Parameters
        ----------
        found
            Candidates of several tomograms, found at a low threshold.
        shown
            Known particles in these that the model was trained on. Their scores are too high, so
            they are lowered by as much as their median exceeds that of the judges.
        kind
            The class.
        judges
            Known particles that it was not trained on.
        most
            Number of other particles that there are at most, from another model.
        """
        heights, count = _heights(found, shown, kind)
        if judges is not None:
            unseen, more = _heights(found, judges, kind)
            if len(unseen) and len(heights):
                heights = heights - max(0.0, float(np.median(heights) - np.median(unseen)))
            heights, count = np.r_[heights, unseen], count + more
        others = np.concatenate(
            [logits(_apart(f, s, kind).scores) for f, s in zip(found, shown, strict=True)]
        )
        if not len(heights):
            nothing = np.zeros(len(_LEVELS))
            return cls(_LEVELS, nothing, nothing, nothing, 0.0)
        width = max(_LEAST_WIDTH, 0.9 * float(heights.std()) * len(heights) ** -0.2)  # Silverman's
        recall, picked = _above(heights, width) / count, _above(others, width)
        enough = recall >= _ENOUGH * recall.max()
        expected = float((picked / np.maximum(recall, 1e-9))[enough].min())
        expected = max(1.0, min(expected, most))
        true, all_ = -expected * np.gradient(recall), _RARE - np.gradient(picked)
        share = isotonic_regression(true / all_, weights=all_).x  # the surer, the more are true
        return cls(_LEVELS, recall, picked, np.minimum(share, 1), expected)

    @property
    def threshold(self) -> float | None:
        """Middle of the plateau of F, as a score; None if nothing known is found."""
        if not self.recall.any():
            return None
        f = 2 * self.expected * self.recall / (self.picked + self.expected)
        plateau = np.flatnonzero(f >= _WIDE_PLATEAU * f.max())
        return round(float(expit(self.levels[plateau].mean())), 3)

    def share_at(self, scores: ArrayLike | None) -> NDArray[np.float64]:
        """Share of particles among picks of given scores."""
        return np.interp(logits(scores), self.levels, self.share)


def _heights(
    found: Sequence[Picks], known: Sequence[Picks], kind: ParticleClass
) -> tuple[NDArray[np.float64], int]:
    """Logits of the known particles of a class that are found, and how many are known."""
    own = [picks.of_class(kind.name) for picks in known]
    scores = [
        best_scores(picks.of_class(kind.name), particles, 0.5 * kind.radius)
        for picks, particles in zip(found, own, strict=True)
    ]
    return logits(np.concatenate(scores)), sum(map(len, own))


def _apart(found: Picks, shown: Picks, kind: ParticleClass) -> Picks:
    """Candidates of a class that are none of the particles shown."""
    own, known = found.of_class(kind.name), shown.of_class(kind.name)
    if not len(known):
        return own
    return own.select(cKDTree(known.positions).query(own.positions)[0] >= 0.5 * kind.radius)


def _above(heights: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """How many are above each level, every one being spread to a bell."""
    return ndtr((heights[:, None] - _LEVELS) / width).sum(0)


def logits(scores: ArrayLike | None) -> NDArray[np.float64]:
    """Logits of probabilities, those beyond 10⁻⁴ of 0 or 1 being held there."""
    return logit(np.clip(np.asarray(scores, float), 1e-4, 1 - 1e-4))
