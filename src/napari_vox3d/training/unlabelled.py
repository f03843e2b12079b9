"""Learning from some particles of a tomogram: what the unlabelled rest of it is taken for.

A place without a label is not an empty place. The network of the moment looks at the tomogram
again and again. What it finds with the confidence that it has in the known particles is taken for
a particle; what is doubtful is not asked for; only the rest counts as background, the most
particle-like places of it most often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from napari_vox3d.inference.picking import find_particles, score_particles
from napari_vox3d.inference.tiles import Box, NetworkView
from napari_vox3d.models import Model, ParticleClass, PickingInput
from napari_vox3d.picks import Picks
from napari_vox3d.progress import Progress
from napari_vox3d.training.evaluation import best_scores
from napari_vox3d.training.inputs import Example
from napari_vox3d.training.picker_targets import Particles, Tomogram, particles_in
from napari_vox3d.training.thresholds import (
    LOWEST,
    logits,
    recall_of_some,
    threshold_from_some,
)
from napari_vox3d.volume import Volume

LOOKS = (1 / 3, 2 / 3)  # shares of the training after which the tomograms are looked at
_LOOKED_AT = 2**23  # voxels of the network: about 3 s of one core
_MOST = 8  # particles taken for one that is known: enough, and no runaway
_ALIKE = 0.5  # mean score from which on a class is taken for a new one
_DOUBT = 0.98  # share of the known particles that a doubtful place would be among


class Sorted(NamedTuple):
    """What was found in a tomogram beside the known particles."""

    taken: Picks
    doubtful: Picks
    rest: Picks


def region_of(volume: Volume, picks: Picks, voxel_size: float) -> Box:
    """Voxels about the known particles that are looked at: all of a tomogram that is not large."""
    scale = voxel_size / volume.voxel_size  # voxels for one of the network
    shape = np.array(volume.shape)
    edge = float((shape / scale).max())
    while np.prod(np.minimum(shape, edge * scale)) > _LOOKED_AT * np.prod(scale):
        edge *= 0.95
    size = np.ceil(np.minimum(shape, edge * scale)).astype(int)
    middle = np.median(picks.positions / volume.voxel_size, axis=0)
    start = np.clip(np.rint(middle - size / 2).astype(int), 0, shape - size)
    z, y, x = (slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True))
    return z, y, x


class Unlabelled:
    """Tomograms of which some particles are known, and what becomes of the rest of them.

    Parameters
    ----------
    examples
        Tomograms with the known particles.
    kinds
        Classes to learn.
    taken
        Input of the network.
    device
        As for `score_particles`.
    progress
        Called while tomograms are looked at.

    Attributes
    ----------
    tomograms
        With the known particles alone.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        kinds: Sequence[ParticleClass],
        taken: PickingInput,
        device: str,
        progress: Progress,
    ) -> None:
        names = [kind.name for kind in kinds]
        self._volumes = [volume for volume, _ in examples]
        self._known = [picks.select(np.isin(picks.labels, names)) for _, picks in examples]
        self._kinds, self._taken = list(kinds), taken
        self._device, self._progress = device, progress
        pairs = list(zip(self._volumes, self._known, strict=True))
        self._regions = [region_of(*pair, taken.voxel_size) for pair in pairs]
        self.tomograms = [
            tomogram._replace(told=told(tomogram.view, region))
            for (volume, picks), region in zip(pairs, self._regions, strict=True)
            for tomogram in [Tomogram.of(volume, picks, kinds, taken)]
        ]

    def likeness(self, start: Model) -> dict[str, str]:
        """Class of a model that each class new to it is taken for, where there is one."""
        known = {kind.name for kind in start.card.classes}
        new = [kind for kind in self._kinds if kind.name not in known]
        if not new:
            return {}
        found = self._found(start)
        alike = {}
        for kind in new:
            seen = {
                other.name: self._mean_score(found, kind, other) for other in start.card.classes
            }
            best = max(seen, key=lambda name: seen[name])
            if seen[best] > _ALIKE:
                alike[kind.name] = best
        return alike

    def _mean_score(
        self, found: Sequence[Picks], kind: ParticleClass, other: ParticleClass
    ) -> float:
        """Mean score as class `other` of the known particles of a class."""
        own = [picks.of_class(kind.name) for picks in self._known]
        scores = [
            best_scores(picks.of_class(other.name), known, 0.5 * kind.radius)
            for picks, known in zip(found, own, strict=True)
        ]
        return float(np.concatenate(scores).sum()) / max(1, sum(map(len, own)))

    def _found(self, model: Model) -> list[Picks]:
        """All that a model finds at a low threshold."""
        return [
            find_particles(
                score_particles(
                    volume, model, region=region, device=self._device, progress=self._progress
                ),
                threshold=LOWEST,
            )
            for volume, region in zip(self._volumes, self._regions, strict=True)
        ]

    def look(self, model: Model) -> list[Tomogram]:
        """Tomograms with what the model of the moment finds in them, sorted."""
        found = self._found(model)
        parts = [_sort(found, self._known, kind) for kind in self._kinds]
        tomograms = []
        for n, tomogram in enumerate(self.tomograms):
            taken, doubtful, rest = (
                Picks.concatenate(picks) for picks in zip(*(part[n] for part in parts), strict=True)
            )
            particles, unsure, traps = (
                self._particles(n, picks)
                for picks in (Picks.concatenate([self._known[n], taken]), doubtful, rest)
            )
            tomograms.append(
                tomogram._replace(particles=particles, doubtful=unsure, traps=traps.positions)
            )
        return tomograms

    def _particles(self, n: int, picks: Picks) -> Particles:
        view, volume = self.tomograms[n].view, self._volumes[n]
        return particles_in(view, volume, picks, self._kinds, self._taken.voxel_size)


def told(view: NetworkView, region: Box) -> Box:
    """Voxels of the view for a region of the tomogram."""
    low, high = (
        view.from_index(np.array(ends) - 0.5) + 0.5
        for ends in ([part.start for part in region], [part.stop for part in region])
    )
    z, y, x = (slice(round(a), round(b)) for a, b in zip(low, high, strict=True))
    return z, y, x


def _sort(found: Sequence[Picks], known: Sequence[Picks], kind: ParticleClass) -> list[Sorted]:
    """Sort what was found of a class away from all known particles, for each tomogram."""
    sure, doubtful = _limits(found, known, kind)
    most = _MOST * sum(int((picks.labels == kind.name).sum()) for picks in known)
    parts = []
    for picks, clicked in zip(found, known, strict=True):
        own = picks.of_class(kind.name)
        if len(clicked):
            near = cKDTree(clicked.positions).query(own.positions)[0]
            own = own.select(near >= kind.radius)
        heights, rank = logits(np.asarray(own.scores)), np.arange(len(own))  # highest first
        taken = (heights >= sure) & (rank < most)
        unsure = (heights >= doubtful) & ~taken
        parts.append(Sorted(own.select(taken), own.select(unsure), own.select(~taken & ~unsure)))
    return parts


def _limits(
    found: Sequence[Picks], known: Sequence[Picks], kind: ParticleClass
) -> tuple[float, float]:
    """Logits from which on a place is taken for a particle, and from which on it is doubtful."""
    levels, recall = recall_of_some(found, known, kind)
    threshold = float(logits(np.array([threshold_from_some(found, known, kind)]))[0])
    sure = levels[recall >= _DOUBT]
    return threshold, min(threshold, float(sure[-1]) if len(sure) else levels[0])
