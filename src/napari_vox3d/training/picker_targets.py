"""What a picker learns from: crops of tomograms, what is to be found in each cell, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from napari_vox3d.inference.contrast import ContrastChoice, contrast_of
from napari_vox3d.inference.tiles import Box, NetworkView
from napari_vox3d.models import ParticleClass, PickingInput
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

_CENTRED = 0.75  # share of crops that hold a given particle
_TRAPPED = 0.5  # of the others, those that hold a trap
_JITTER = 24  # voxels that it may lie from the middle of the crop
FOREGROUND = 4.0  # weight of particles against background
_GAMMA = 2.0
_SURELY_EMPTY = 0.9  # share of background in a target
_WIDTH = 4.0  # voxels: standard deviation of a bell
_CORE, _SMALLEST_CORE = 0.4, 1.6  # radius of a ball: of the particle's, and least in cells
_SHELL = 1.5  # radii of a ball within which the background is not asked for


class Particles(NamedTuple):
    """Particles of known classes in some frame of voxels.

    Parameters
    ----------
    positions
        (N, 3) voxels.
    labels
        (N,) indices of classes.
    radii
        (N,) voxels.
    """

    positions: NDArray[np.floating]
    labels: NDArray[np.intp]
    radii: NDArray[np.floating]

    def seen_from(self, start: NDArray[np.integer]) -> Particles:
        """Give the same with positions counted from the voxel `start`."""
        return self._replace(positions=self.positions - start)


Draw = Callable[[Particles, int, NDArray[np.floating]], NDArray[np.float32]]


class Tomogram(NamedTuple):
    """A tomogram as the network sees it, with what is known of it in voxels of that view.

    Parameters
    ----------
    view
        The tomogram.
    particles
        To be learnt.
    doubtful
        Places that may be particles or not, and are not asked for.
    traps
        (N, 3) voxels: places that look like particles and are none.
    told
        Voxels (z, y, x) outside which background is not known to be such. None: all is known.
    """

    view: NetworkView
    particles: Particles
    doubtful: Particles | None = None
    traps: NDArray[np.floating] = np.zeros((0, 3))
    told: Box | None = None

    @classmethod
    def of(
        cls,
        volume: Volume,
        picks: Picks,
        kinds: Sequence[ParticleClass],
        taken: PickingInput,
        contrast: ContrastChoice | None = None,
    ) -> Tomogram:
        """Take the picks of the classes `kinds`, in a view for the input `taken`.

        Those that somebody rejected are traps.
        """
        inverted = contrast_of(volume, contrast, taken.contrast) != taken.contrast
        view = NetworkView.of(volume, taken.voxel_size, taken.normalisation, inverted)
        particles, rejected = (
            particles_in(view, volume, part, kinds, taken.voxel_size)
            for part in (picks.kept, picks.rejected)
        )
        return cls(view, particles, traps=rejected.positions)

    @property
    def known(self) -> int:
        """Number of particles, the doubtful among them."""
        return len(self.particles.labels) + (
            0 if self.doubtful is None else len(self.doubtful.labels)
        )

    def crop(
        self, rng: np.random.Generator, edge: int, beyond: int
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Values of a random cube, and where it begins.

        Three in four hold a particle, of rare classes as often as of common ones; half of the
        others a trap, if there are some.

        Parameters
        ----------
        rng
            Source of chance.
        edge
            Voxels.
        beyond
            Voxels that the cube may reach beyond the tomogram, further only if it must.
        """
        labels = self.particles.labels
        last = np.maximum(self.view.shape, edge - 2 * beyond) - edge + beyond
        centre = None
        if len(labels) and rng.random() < _CENTRED:
            kind = rng.choice(np.unique(labels))
            centre = self.particles.positions[rng.choice(np.flatnonzero(labels == kind))]
        elif len(self.traps) and rng.random() < _TRAPPED:
            centre = self.traps[rng.integers(len(self.traps))]
        elif self.told is not None:
            centre = rng.uniform(*np.array([(part.start, part.stop) for part in self.told]).T)
        if centre is not None:
            start = np.rint(centre + rng.uniform(-_JITTER, _JITTER, 3) - edge / 2)
            start = np.clip(start, -beyond, last).astype(int)
        else:
            start = rng.integers(-beyond, last + 1)
        return self.view.read(start, start + edge), start

    def target(
        self, draw: Draw, start: NDArray[np.intp], outputs: int, centres: NDArray[np.floating]
    ) -> NDArray[np.float32]:
        """What is to be found in the cells of a crop.

        Parameters
        ----------
        draw
            `balls` or `bells`.
        start
            (3,) voxel where the crop begins.
        outputs
            Classes and, last, the background.
        centres
            Of the cells along each axis, in voxels of the crop.

        Returns
        -------
        NDArray
            (outputs, n, n, n) probabilities; all 0 where nothing is asked.
        """
        target = draw(self.particles.seen_from(start), outputs, centres)
        unasked = np.zeros(target.shape[1:], bool)
        if self.doubtful is not None:
            unasked |= draw(self.doubtful.seen_from(start), outputs, centres)[-1] < _SURELY_EMPTY
        for axis, (begin, length) in enumerate(zip(start, self.view.shape, strict=True)):
            places = centres + begin
            mirrored = np.abs(places - (length - 1) / 2) > length / 2
            np.moveaxis(target, axis + 1, 0)[mirrored] = 0  # particles in the mirror are not told
            if self.told is not None:
                inside = (places >= self.told[axis].start) & (places < self.told[axis].stop)
                np.moveaxis(unasked, axis, 0)[~inside] = True
        target[:, unasked & (target[-1] > _SURELY_EMPTY)] = 0
        return target


def particles_in(
    view: NetworkView,
    volume: Volume,
    picks: Picks,
    kinds: Sequence[ParticleClass],
    voxel_size: float,
) -> Particles:
    """Picks of the classes `kinds`, in voxels of `voxel_size` Å of a view of their tomogram."""
    names = [kind.name for kind in kinds]
    known = picks.select(np.isin(picks.labels, names))
    labels = np.array([names.index(label) for label in known.labels], dtype=np.intp)
    radii = np.array([kind.radius for kind in kinds]) / voxel_size
    return Particles(view.from_index(known.positions / volume.voxel_size), labels, radii[labels])


def varied(
    values: NDArray[np.float32], target: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Crop (D, H, W) and target (C, d, h, w), flipped alike; the crop scaled and noisier.

    They are never turned, which would turn the missing wedge.
    """
    axes = np.flatnonzero(rng.random(3) < 0.5)
    values, target = np.flip(values, tuple(axes)), np.flip(target, tuple(axes + 1))
    values = values * np.float32(rng.uniform(0.8, 1.25))
    values += np.float32(rng.uniform(0, 0.5)) * rng.standard_normal(values.shape, np.float32)
    return values, np.ascontiguousarray(target)


def bells(particles: Particles, outputs: int, centres: NDArray[np.floating]) -> NDArray[np.float32]:
    """Soft target: a bell of 4 voxels about each particle, the rest is background.

    Parameters
    ----------
    particles
        In voxels of the crop.
    outputs
        Classes and, last, the background.
    centres
        Of the cells along each axis, in voxels of the crop.

    Returns
    -------
    NDArray
        (outputs, n, n, n) probabilities.
    """
    count = len(centres)
    target = np.zeros((outputs, count, count, count), np.float32)
    for position, label in zip(particles.positions, particles.labels, strict=True):
        z, y, x = (np.exp(-(((centres - p) / _WIDTH) ** 2) / 2) for p in position)
        bell = z[:, None, None] * y[:, None] * x
        np.maximum(target[label], bell, out=target[label])
    classes = target[:-1]
    classes *= classes == classes.max(axis=0)  # the nearest one counts
    target[-1] = 1 - classes.sum(axis=0)
    return target


def balls(particles: Particles, outputs: int, centres: NDArray[np.floating]) -> NDArray[np.float32]:
    """Hard target: a ball in the middle of each particle, in a shell where nothing is asked.

    Parameters and result are those of `bells`; in the shell all classes have probability 0.
    """
    count, cell = len(centres), centres[1] - centres[0]
    nearest = np.full((count, count, count), np.inf)
    owner = np.full(nearest.shape, outputs - 1)
    for position, label, radius in zip(*particles, strict=True):
        core = max(_CORE * radius, _SMALLEST_CORE * cell)
        box = tuple(_within(centres, p, _SHELL * core) for p in position)
        z, y, x = (((centres[part] - p) / core) ** 2 for part, p in zip(box, position, strict=True))
        distance = np.sqrt(z[:, None, None] + y[:, None] + x)
        closer = (distance < nearest[box]) & (distance < _SHELL)
        nearest[box][closer] = distance[closer]
        owner[box][closer] = label
    target = (np.arange(outputs)[:, None, None, None] == owner).astype(np.float32)
    target[:, (nearest > 1) & (nearest < _SHELL)] = 0
    return target


def _within(centres: NDArray[np.floating], position: float, reach: float) -> slice:
    first, last = np.searchsorted(centres, (position - reach, position + reach))
    return slice(int(first), int(last))


def focal_loss(
    logits: Tensor, target: Tensor, gamma: float = _GAMMA, foreground: float = FOREGROUND
) -> Tensor:
    """Focal cross entropy against soft targets, −q (1 − p)^γ log p summed over classes.

    Parameters
    ----------
    logits
        (B, C, ...), the last class being the background.
    target
        Probabilities of the same shape; places where all are 0 do not count.
    gamma
        0 is the plain cross entropy.
    foreground
        Weight of particles against background.

    Returns
    -------
    Tensor
        Scalar: mean over places.
    """
    log_p = F.log_softmax(logits, dim=1)
    terms = -target * (1 - log_p.exp()) ** gamma * log_p
    return (foreground * terms[:, :-1].sum(1) + terms[:, -1]).mean()
