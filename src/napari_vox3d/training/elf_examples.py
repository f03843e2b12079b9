"""What an ELF network is trained on: crystals brought to its grid, kept in memory or in files."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_vox3d.density.grids import interpolate, nearest_shape, resample_waves
from napari_vox3d.errors import Vox3dError
from napari_vox3d.formats.aside import make_folder, write_aside
from napari_vox3d.inference.elf_inputs import atomic_density, network_inputs
from napari_vox3d.volume import Volume

_OVERSHOOT = 0.05  # of an interpolated ELF beyond its range


class Prepared(Protocol):
    """A crystal that is ready to be trained on."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, H, W) of its grid."""

    def load(self) -> Example:
        """Give its values."""


@dataclass(frozen=True)
class Example:
    """One crystal on the grid of the network; with a batch axis in front, a batch of them.

    Parameters
    ----------
    inputs
        (channels, D, H, W) float32.
    sad
        (1, D, H, W) e/Å³: where the density is, for the weights of the loss.
    elf
        (1, D, H, W) the true ELF.
    lattice
        (3, 3) Å: edges of the cell along D, H, W, written (z, y, x).
    """

    inputs: Tensor
    sad: Tensor
    elf: Tensor
    lattice: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, H, W) of the grid."""
        return tuple(self.elf.shape[-3:])

    def load(self) -> Example:
        """Give the example itself."""
        return self

    def to(self, place: torch.device) -> Example:
        """Give the same on a device."""
        return Example(**{name: value.to(place) for name, value in vars(self).items()})


def prepare_example(
    elf: Volume, channels: Sequence[str], spacing: float, density: Volume | None = None
) -> Example:
    """Bring a true ELF, and what a network sees of its crystal, to the grid of the network.

    Parameters
    ----------
    elf
        Periodic volume with its atoms.
    channels
        As in the model's card, see `napari_vox3d.inference.elf_inputs.network_inputs`.
    spacing
        Å between the points of the network's grid.
    density
        Electron density of the crystal in e/Å³, on any grid over the same cell, for a network that
        is given it; None for one that is given the superposed atomic density.

    Raises
    ------
    Vox3dError
        If the ELF has no atoms, is not periodic or does not lie between 0 and 1, or an element
        has no atomic density.
    ModelError
        If there is no such channel.
    """
    values = np.asarray(elf.values)
    if problem := _problem(elf, values):
        raise Vox3dError(f"{elf.name or elf.source or 'An ELF to train on'} {problem}.")
    values = values.astype(np.float64)
    shape = nearest_shape(elf.lattice, spacing)
    sad = atomic_density(elf, elf, shape)
    # Naming the lattice vectors in another order changes nothing, and lets cells share a batch.
    order = np.argsort(shape, kind="stable")

    def tensor(values: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values.transpose(0, *(1 + order)), np.float32))

    return Example(
        inputs=tensor(network_inputs(sad if density is None else density, shape, channels)),
        sad=tensor(resample_waves(sad.values, shape)[None].clip(0)),
        elf=tensor(interpolate(values, shape)[None].clip(0, 1)),
        lattice=torch.from_numpy(elf.cell[order].astype(np.float32)),
    )


def _problem(elf: Volume, values: NDArray[Any]) -> str:
    """Why a volume cannot be trained on; empty if it can."""
    if elf.atoms is None:
        return "carries no atoms"
    if not elf.periodic:
        return "is not periodic"
    if np.iscomplexobj(values):
        return "has complex values"
    low, high = float(values.min()), float(values.max())
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return ""
    return f"is no ELF: its values lie between {low:.3g} and {high:.3g}, not between 0 and 1"


@dataclass(frozen=True)
class StoredExample:
    """An example in a file, read when it is asked for."""

    path: Path
    shape: tuple[int, ...]

    def load(self) -> Example:
        """Read the values; they are mapped, not kept."""
        from safetensors.torch import load_file

        stored = load_file(self.path)
        return Example(**{name: value.float() for name, value in stored.items()})


class ExampleStore:
    """Folder of prepared examples, so that each is prepared once and none stays in memory.

    Every crystal has a file of its own, named after what it was made of: a larger set of data, or
    a second training, finds what is there. Values are float16, within 0.0005 of an ELF.

    Parameters
    ----------
    folder
        Made if it is missing.
    channels, spacing
        As for `prepare_example`.
    """

    def __init__(self, folder: str | Path, channels: Sequence[str], spacing: float) -> None:
        self.folder, self.channels, self.spacing = make_folder(folder), list(channels), spacing

    def prepare(
        self, elf: Volume, density: Callable[[], Volume] | None = None, name: str = ""
    ) -> StoredExample:
        """Find an example, or make and keep it.

        Parameters
        ----------
        elf
            As for `prepare_example`.
        density
            Gives the electron density, for a network that is given it.
        name
            What the crystal is called; another crystal must not have it. By default a digest of
            its values.

        Raises
        ------
        Vox3dError
            As for `prepare_example`, or if the folder cannot be written.
        """
        from safetensors import safe_open
        from safetensors.torch import save

        made_of = (name or _digest(elf), self.channels, self.spacing, density is not None)
        path = (
            self.folder / f"{hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]}.safetensors"
        )
        if not path.exists():
            given = None if density is None else density()
            example = prepare_example(elf, self.channels, self.spacing, given)
            tensors = {key: value.half().contiguous() for key, value in vars(example).items()}
            with write_aside(path) as aside:
                aside.write_bytes(save({**tensors, "lattice": example.lattice}))
        with safe_open(path, "pt") as file:
            return StoredExample(path, tuple(file.get_slice("elf").get_shape()[1:]))


def _digest(elf: Volume) -> str:
    parts = [elf.values, elf.step, elf.origin]
    if elf.atoms is not None:
        parts += [elf.atoms.numbers, elf.atoms.positions]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


Part = tuple[list[Prepared], float]  # crystals of one shape, and their share of a batch


def endless_batches(
    examples: Sequence[Prepared], seed: int, first: int, voxels: int, parts: int = 1
) -> Iterator[list[Part]]:
    """Batches in random order, each crystal once an epoch, from number `first` on.

    Parameters
    ----------
    examples
        Crystals; none is loaded.
    seed
        Of the order.
    first
        Number of the first batch that is wanted, counted over all epochs.
    voxels
        How many a part may have, if a single crystal has no more; and a batch, `parts` times.
    parts
        At least so many a batch should have.

    Yields
    ------
    list of (list of Prepared, float)
        Crystals of one shape, which can be computed at once, and their share of the crystals of
        the batch.
    """
    shapes = defaultdict(list)
    for example in examples:
        shapes[example.shape].append(example)
    for epoch in count():
        rng = random.Random(f"{seed} {epoch}")
        alike = []
        for shape, members in shapes.items():
            shuffled = rng.sample(members, len(members))
            size = max(1, voxels // prod(shape))
            alike += [shuffled[n : n + size] for n in range(0, len(shuffled), size)]
        rng.shuffle(alike)
        batches = _joined(alike, voxels * parts)
        for batch in batches[first:]:
            total = sum(map(len, batch))
            yield [(members, len(members) / total) for members in batch]
        first = max(0, first - len(batches))


def _joined(alike: Sequence[list[Prepared]], voxels: int) -> list[list[list[Prepared]]]:
    """Put neighbours into one batch as long as it has no more than so many voxels."""
    batches: list[list[list[Prepared]]] = []
    room = 0
    for members in alike:
        size = len(members) * prod(members[0].shape)
        if size > room:
            batches.append([])
            room = voxels
        batches[-1].append(members)
        room -= size
    return batches


def stacked(members: Sequence[Prepared]) -> Example:
    """One batch of crystals of one shape."""
    loaded = [member.load() for member in members]
    return Example(
        torch.stack([example.inputs for example in loaded]),
        torch.stack([example.sad for example in loaded]),
        torch.stack([example.elf for example in loaded]),
        torch.stack([example.lattice for example in loaded]),
    )


def redescribed(batch: Example, rng: random.Random) -> Example:
    """The same crystals with another origin, other names and other signs of their lattice vectors.

    Every lattice allows it, since nothing moves: a crystal is written down in another way.
    """
    order = rng.sample(range(3), 3)
    signs = torch.tensor([rng.choice((1.0, -1.0)) for _ in order])
    backwards = [2 + axis for axis in range(3) if signs[axis] < 0]
    shifts = [rng.randrange(size) for size in batch.elf.shape[2:]]

    def turned(values: Tensor) -> Tensor:
        shifted = values.roll(shifts, (2, 3, 4))
        return shifted.permute(0, 1, *(2 + axis for axis in order)).flip(backwards)

    return Example(
        turned(batch.inputs),
        turned(batch.sad),
        turned(batch.elf),
        batch.lattice[:, order] * signs[:, None],
    )


def noisy(batch: Example, amounts: Tensor) -> Example:
    """Add noise of (channels,) standard deviations to the inputs."""
    noise = amounts[:, None, None, None] * torch.randn_like(batch.inputs)
    return Example(batch.inputs + noise, batch.sad, batch.elf, batch.lattice)
