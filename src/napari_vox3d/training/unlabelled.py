"""Learning from some particles of a tomogram: what the unlabelled rest of it is taken for.

A place without a label is not an empty place. The network of the moment looks at the tomogram now
and then. What it finds there with a confidence that it has in known particles and hardly anywhere
else is taken for a particle from then on; what is doubtful is not asked for; only the rest counts
as background, and what somebody rejected.

Networks are surer of the particles that they are trained on than of others. So every fourth known
particle is not shown to the network but as it finds it by itself, like all unlabelled ones: these
judge its confidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_vox3d.inference.contrast import ContrastChoice
from napari_vox3d.inference.picking import find_particles, score_particles
from napari_vox3d.inference.tiles import Box, NetworkView
from napari_vox3d.models import Model, ParticleClass, PickingInput
from napari_vox3d.picks import Picks
from napari_vox3d.training.evaluation import best_scores
from napari_vox3d.training.inputs import Example
from napari_vox3d.training.picker_targets import Particles, Tomogram, particles_in
from napari_vox3d.training.thresholds import LOWEST, Confidence
from napari_vox3d.volume import Volume

LOOKS = (0.5, 0.75)  # shares of the training after which the tomograms are looked at
_LOOKED_AT = 3 * 2**22  # voxels of the network: about 4 s of one core
_MOST = 8  # particles taken, and traps set, for one that is shown: enough, and no runaway
_SURE, _DOUBTFUL = 0.8, 0.6  # shares of particles; lower, and nothing tells them from others
_ALIKE = 0.5  # mean score from which on a new class starts from a known one
_FAMILIAR = 0.8  # mean score from which on it is that class by another name


class Unlabelled:
    """Tomograms of which some particles are known, and what is made of the rest of them.

    Parameters
    ----------
    examples
        Tomograms with the known particles.
    kinds
        Classes to learn.
    taken
        Input of the network.
    contrast, device
        As for `score_particles`.
    progress
        Called while tomograms are looked at.

    Attributes
    ----------
    tomograms
        What is learnt from before the first look.
    kinds
        The classes, with the thresholds that suited the last model that was looked with.
    familiar
        Whether the model that training starts from finds these classes already.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        kinds: Sequence[ParticleClass],
        taken: PickingInput,
        contrast: ContrastChoice | None,
        device: str,
        progress: Callable[[int, int], None],
    ) -> None:
        names = [kind.name for kind in kinds]
        self.kinds, self._taken, self.familiar = list(kinds), taken, False
        self._contrast, self._device, self._progress = contrast, device, progress
        self._volumes, self._regions, self.tomograms = [], [], list[Tomogram]()
        self._shown, self._judges, self._rejected = [], [], []
        self._learnt: list[Picks] = []  # those shown that are in the regions
        self._most: dict[str, float] = {}  # others of each class that there may be
        for volume, given in examples:
            of_kinds = given.select(np.isin(given.labels, names))
            picks = of_kinds.kept
            region = region_of(volume, picks, taken.voxel_size)
            inside = _inside(volume, picks, region)
            judging = _every_fourth(picks, inside)
            shown = picks.select(~judging)
            rejected = of_kinds.rejected
            tomogram = Tomogram.of(
                volume, Picks.concatenate([shown, rejected]), kinds, taken, contrast
            )
            doubtful = self._particles(tomogram.view, volume, picks.select(judging))
            told = _in_view(tomogram.view, region)
            self.tomograms.append(tomogram._replace(doubtful=doubtful, told=told))
            self._volumes.append(volume)
            self._regions.append(region)
            self._learnt.append(picks.select(inside & ~judging))
            self._judges.append(picks.select(judging))
            self._shown.append(shown)
            self._rejected.append(rejected)

    def likeness(self, start: Model) -> dict[str, str]:
        """Class of a model that each class may start from: that of its name, or one much alike.

        Sets `familiar`, and bounds how many particles there are of classes that the model knows as
        well as that: it has learnt from more than these clicks. If it was trained on them too, the
        judges, which it was not shown, tell how sure it is of others.
        """
        known = [kind.name for kind in start.card.classes]
        found = self._found(start)
        alike = {}
        self.familiar = True
        for kind in self.kinds:
            scores = {
                name: self._mean_score([picks.of_class(name) for picks in found], kind)
                for name in known
            }
            best = kind.name if kind.name in scores else max(scores, key=lambda name: scores[name])
            if best == kind.name or scores[best] > _ALIKE:
                alike[kind.name] = best
            self.familiar &= best == kind.name or scores[best] > _FAMILIAR
            if scores[best] > _FAMILIAR:
                own = [_named(picks.of_class(best), kind.name) for picks in found]
                seen = Confidence.of(own, self._learnt, kind, self._judges)
                self._most[kind.name] = seen.expected
        return alike

    def look(self, model: Model) -> list[Tomogram]:
        """What is learnt from after the model of the moment has looked at the tomograms."""
        found = self._found(model)
        confidences = self._confidences(found)
        sorted_ = [self._sorted(found, kind, confidences[kind.name]) for kind in self.kinds]
        tomograms = []
        for n, (tomogram, volume) in enumerate(zip(self.tomograms, self._volumes, strict=True)):
            sure, doubtful, traps = (
                self._particles(tomogram.view, volume, Picks.concatenate(picks))
                for picks in zip(
                    (self._shown[n], self._judges[n], self._rejected[n]),
                    *(of_kind[n] for of_kind in sorted_),
                    strict=True,
                )
            )
            tomograms.append(
                tomogram._replace(particles=sure, doubtful=doubtful, traps=traps.positions)
            )
        return tomograms

    def judge(self, model: Model) -> None:
        """Find the thresholds that suit a model."""
        self._confidences(self._found(model))

    def _confidences(self, found: Sequence[Picks]) -> dict[str, Confidence]:
        """Confidence in each class; the thresholds follow."""
        confidences = {}
        for kind in self.kinds:
            most = self._most.get(kind.name, np.inf)
            seen = Confidence.of(found, self._learnt, kind, self._judges, most)
            confidences[kind.name] = seen
            if seen.recall.any():
                self._most[kind.name] = seen.expected
        self.kinds = [
            kind.model_copy(update={"threshold": threshold})
            if (threshold := confidences[kind.name].threshold) is not None
            else kind
            for kind in self.kinds
        ]
        return confidences

    def _found(self, model: Model) -> list[Picks]:
        """All that a model finds at a low threshold."""
        maps = (
            score_particles(
                volume,
                model,
                region=region,
                contrast=self._contrast,
                device=self._device,
                progress=self._progress,
            )
            for volume, region in zip(self._volumes, self._regions, strict=True)
        )
        return [find_particles(scores, threshold=LOWEST) for scores in maps]

    def _mean_score(self, found: Sequence[Picks], kind: ParticleClass) -> float:
        """Mean score of the particles of a class, those not found counting 0."""
        own = [picks.of_class(kind.name) for picks in self._learnt]
        pairs = zip(found, own, strict=True)
        scores = [best_scores(picks, known, 0.5 * kind.radius) for picks, known in pairs]
        return float(np.concatenate(scores).sum()) / max(1, sum(map(len, own)))

    def _sorted(
        self, found: Sequence[Picks], kind: ParticleClass, confidence: Confidence
    ) -> list[tuple[Picks, Picks, Picks]]:
        """Sure ones, doubtful ones and traps among what was found, away from what was told."""
        most = _MOST * sum(len(picks.of_class(kind.name)) for picks in self._shown)
        parts = []
        for picks, *told in zip(found, self._shown, self._rejected, strict=True):
            own, settled = picks.of_class(kind.name), np.concatenate([t.positions for t in told])
            if len(settled):
                own = own.select(cKDTree(settled).query(own.positions)[0] >= kind.radius)
            share, rank = confidence.share_at(own.scores), np.arange(len(own))  # highest first
            sure = (share >= _SURE) & (rank < most)
            doubtful = (share >= _DOUBTFUL) & ~sure
            traps = np.flatnonzero(share < _DOUBTFUL)[:most]
            parts.append((own.select(sure), own.select(doubtful), own.select(traps)))
        return parts

    def _particles(self, view: NetworkView, volume: Volume, picks: Picks) -> Particles:
        return particles_in(view, volume, picks, self.kinds, self._taken.voxel_size)


def region_of(volume: Volume, picks: Picks, voxel_size: float) -> Box:
    """Voxels about the known particles that are looked at: all of a tomogram that is not large.

    Parameters
    ----------
    volume
        Tomogram.
    picks
        Known particles.
    voxel_size
        Å of the network.
    """
    scale = voxel_size / volume.voxel_size  # voxels for one of the network
    shape = np.array(volume.shape)
    edge = float((shape / scale).max())
    while np.prod(np.minimum(shape / scale, edge)) > _LOOKED_AT:
        edge *= 0.95
    size = np.ceil(np.minimum(shape, edge * scale)).astype(int)
    middle = np.median(picks.positions, axis=0) / volume.voxel_size if len(picks) else shape / 2
    start = np.clip(np.rint(middle - size / 2).astype(int), 0, shape - size)
    z, y, x = (slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True))
    return z, y, x


def _named(picks: Picks, name: str) -> Picks:
    return replace(picks, labels=np.full(len(picks), name))


def _in_view(view: NetworkView, region: Box) -> Box:
    """Voxels of a view for a region of its tomogram."""
    ends = np.array([(part.start, part.stop) for part in region]).T - 0.5
    first, last = np.rint(view.from_index(ends) + 0.5).astype(int).tolist()
    z, y, x = (slice(a, b) for a, b in zip(first, last, strict=True))
    return z, y, x


def _inside(volume: Volume, picks: Picks, region: Box) -> NDArray[np.bool_]:
    """Which picks lie in a region."""
    first, last = np.array([(part.start, part.stop) for part in region]).T
    index = np.rint(picks.positions / volume.voxel_size)
    return ((index >= first) & (index < last)).all(axis=1)


def _every_fourth(picks: Picks, eligible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which particles judge: of each class the second, the sixth, ... of those eligible."""
    chosen = np.zeros(len(picks), bool)
    for name in picks.classes:
        chosen[np.flatnonzero(eligible & (picks.labels == name))[1::4]] = True
    return chosen
