"""Thresholds of picking models: from tomograms of which all particles are known, or only some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

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
_LEVELS = np.linspace(-3, 5, 81)  # logits
_OPEN_PLATEAU = 0.9  # share of the best recall² / picks
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


def threshold_from_some(
    found: Sequence[Picks],
    shown: Sequence[Picks],
    kind: ParticleClass,
    judges: Sequence[Picks] | None = None,
) -> float:
    """Threshold of one class, where only some of the particles are known.

    Precision cannot be measured then, but recall² / picks can, which is proportional to the
    product of precision and recall (Lee and Liu, ICML 2003). The threshold is the middle of the
    range in which it is near its best.

    Parameters
    ----------
    found
        Candidates of several tomograms, found at a low threshold.
    shown
        Known particles in these that the model was trained on.
    kind
        The class.
    judges
        Known particles that it was not trained on.
    """
    levels, recall = recall_of_some(found, shown, kind, judges)
    if not recall.any():
        return kind.threshold
    scores = np.concatenate([picks.of_class(kind.name).scores for picks in found])
    picked = (logits(scores)[:, None] >= levels).sum(0)
    worth = recall**2 / np.maximum(picked, 1)
    plateau = np.flatnonzero(worth >= _OPEN_PLATEAU * worth.max())
    return round(float(1 / (1 + np.exp(-levels[plateau[len(plateau) // 2]]))), 3)


def recall_of_some(
    found: Sequence[Picks],
    shown: Sequence[Picks],
    kind: ParticleClass,
    judges: Sequence[Picks] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall of a class over thresholds, as the scores of some of its particles tell it.

    Scores of particles that a model was trained on are too high: they are lowered by as much as
    their median exceeds that of the judges.

    Parameters
    ----------
    found, shown, kind, judges
        As for `threshold_from_some`.

    Returns
    -------
    levels, recall
        (N,) thresholds as logits, and the smooth share of particles found there; zeros if none is.
    """
    from scipy.special import ndtr

    heights, count = _heights(found, shown, kind)
    if judges is not None:
        unseen, more = _heights(found, judges, kind)
        if len(unseen) and len(heights):
            heights = heights - max(0.0, float(np.median(heights) - np.median(unseen)))
        heights, count = np.r_[heights, unseen], count + more
    if not len(heights):
        return _LEVELS, np.zeros(len(_LEVELS))
    width = max(_LEAST_WIDTH, 0.9 * float(heights.std()) * len(heights) ** -0.2)  # Silverman's
    return _LEVELS, ndtr((heights[:, None] - _LEVELS) / width).sum(0) / count


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


def logits(scores: ArrayLike) -> NDArray[np.float64]:
    """Logits of probabilities, those beyond 10⁻⁴ of 0 or 1 being held there."""
    held = np.clip(np.asarray(scores, float), 1e-4, 1 - 1e-4)
    return np.log(held / (1 - held))
