"""Fitting an ELF network to crystals that have been brought to its grid."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_vox3d.density.grids import interpolate, nearest_shape, resample_waves
from napari_vox3d.errors import NotEnoughMemory, Vox3dError
from napari_vox3d.inference.device import choose_device, is_out_of_memory
from napari_vox3d.inference.elf import atomic_density, network_inputs
from napari_vox3d.networks import ELFPredictor
from napari_vox3d.training import losses
from napari_vox3d.training.loop import Progress, TrainingLoop
from napari_vox3d.volume import Volume

DEFAULT_MINUTES = 10.0
_BATCH_VOXELS = 16_384
_WARM_UP = 0.15  # of the training
_NOISE = 0.1  # of the deviation of each input channel
_OVERSHOOT = 0.05  # of an interpolated ELF beyond its range


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


def prepare_example(elf: Volume, channels: Sequence[str], spacing: float) -> Example:
    """Bring a true ELF, and what a network sees of its crystal, to the grid of the network.

    Parameters
    ----------
    elf
        Periodic volume with its atoms.
    channels
        As in the model's card, see `napari_vox3d.inference.elf.network_inputs`.
    spacing
        Å between the points of the network's grid.

    Raises
    ------
    Vox3dError
        If the ELF has no atoms, is not periodic or does not lie between 0 and 1, or an element
        has no atomic density.
    ModelError
        If there is no such channel.
    """
    values = np.asarray(elf.values, np.float64)
    if problem := _problem(elf, values):
        raise Vox3dError(f"{elf.name or elf.source or 'An ELF to train on'} {problem}.")
    shape = nearest_shape(elf.lattice, spacing)
    sad = atomic_density(elf, elf, shape)
    # Naming the lattice vectors in another order changes nothing, and lets cells share a batch.
    order = np.argsort(shape, kind="stable")

    def tensor(values: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values.transpose(0, *(1 + order)), np.float32))

    return Example(
        inputs=tensor(network_inputs(sad, shape, channels)),
        sad=tensor(resample_waves(sad.values, shape)[None].clip(0)),
        elf=tensor(interpolate(values, shape)[None].clip(0, 1)),
        lattice=torch.from_numpy(elf.cell[order].astype(np.float32)),
    )


def _problem(elf: Volume, values: NDArray[np.float64]) -> str:
    """Why a volume cannot be trained on; empty if it can."""
    if elf.atoms is None:
        return "carries no atoms"
    if not elf.periodic:
        return "is not periodic"
    low, high = float(values.min()), float(values.max())
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return ""
    return f"is no ELF: its values lie between {low:.3g} and {high:.3g}, not between 0 and 1"


def fit_elf(
    examples: Sequence[Example],
    *,
    arguments: dict[str, Any] | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    rate: float | None = None,
    weight_decay: float = 1e-2,
    device: str = "auto",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
    on_step: Callable[[int, float], None] | None = None,
    stop: Callable[[], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[ELFPredictor, int]:
    """Train an `ELFPredictor` for a given time or number of steps.

    The losses are the weighted smooth L1 distance, the periodic gradients, and the distribution
    of values, balanced by learnt variances. Batches hold cells of one shape. Where kernels are
    measured in voxels, axes are exchanged and reversed at random; networks without such kernels
    treat turned crystals alike by construction, and all of them shifted ones. Noise is added to
    the inputs. AdamW with one cycle of the learning rate: up for 15 % of the training,
    then down to zero along a cosine.

    Parameters
    ----------
    examples
        Crystals, see `prepare_example`.
    arguments
        Of `ELFPredictor` beside the number of input channels.
    minutes, steps
        How long to train, whichever ends first, an interrupted training included; without either
        10 minutes.
    rate, weight_decay
        Of AdamW; by default the highest rate is the one that the network names.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ….
    seed
        Of the first parameters and of all chances: with the same number of steps the result is
        the same on one machine, also after an interruption.
    checkpoint
        Safetensors file to go on from, if it exists, and to write every minute and at the end.
    progress
        Called after each step with the steps done and the expected total; may raise `Cancelled`,
        which leaves the checkpoint behind.
    on_step
        Called after each step with its number and the mean absolute error of its batch.
    stop
        Asked before each step; True ends the training as if the time were up.
    clock
        Gives the seconds that `minutes` are counted in; `time.process_time` for processor time.

    Returns
    -------
    network : ELFPredictor
        On the CPU, in evaluation mode.
    steps : int
        Made in all.

    Raises
    ------
    ModelError
        If the checkpoint is of another network or seed.
    InferenceError
        If the device is not there, or a crystal does not fit in its memory.
    """
    place = choose_device(device)
    if minutes is None and steps is None:
        minutes = DEFAULT_MINUTES
    deviation = _deviation(examples)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ELFPredictor(in_ch=len(examples[0].inputs), **(arguments or {}))
        balance_inputs(network.net, deviation)
        network.to(place).train()
        highest = network.net.learning_rate if rate is None else rate
        optimizer = torch.optim.AdamW(_decayed(network, weight_decay), lr=highest)
        with TrainingLoop(
            network,
            optimizer,
            _cycle,
            rate=highest,
            minutes=minutes,
            steps=steps,
            seed=seed,
            checkpoint=checkpoint,
            progress=progress,
            on_step=on_step,
            stop=stop,
            clock=clock,
        ) as loop:
            batches = _batches(examples, seed, loop.done)
            for _ in loop:
                batch = next(batches)
                torch.manual_seed(_number(seed, loop.done))
                if network.net.knows_one_spacing:  # others treat turned crystals alike
                    batch = _turned(batch, random.Random(_number(seed, loop.done)))
                with _memory_explained(batch, place):
                    error = _step(network, loop, _noisy(batch, deviation), place)
                loop.report(error)
    return network.cpu().eval(), loop.done


@torch.no_grad()
def balance_inputs(network: nn.Module, deviation: Tensor) -> None:
    """Divide the first weights by (in_ch,) deviations: channels then count alike at first."""
    network.get_parameter("stem.0.weight").div_(deviation[:, None, None, None])


@contextmanager
def _memory_explained(batch: Example, place: torch.device) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        count, _, *shape = batch.elf.shape
        raise NotEnoughMemory(
            f"Training on {count} × {'×'.join(map(str, shape))} points does not fit in the memory "
            f"of {place}; leave such crystals out, or take a larger spacing or the small network."
        ) from error


def _decayed(network: ELFPredictor, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters for an optimiser; those of kernels that set frequencies are not decayed."""
    groups: dict[bool, list[Tensor]] = {False: [], True: []}
    for parameter in network.parameters():
        if parameter.requires_grad:
            groups[hasattr(parameter, "_no_weight_decay")].append(parameter)
    return [
        {"params": groups[False], "weight_decay": weight_decay},
        {"params": groups[True], "weight_decay": 0.0},
    ]


def _step(network: ELFPredictor, loop: TrainingLoop, batch: Example, place: torch.device) -> float:
    inputs, sad, elf, lattice = (
        tensor.to(place) for tensor in (batch.inputs, batch.sad, batch.elf, batch.lattice)
    )
    predicted, _ = network(inputs, lattice)
    terms = [
        losses.voxel_loss(predicted, elf, losses.density_weights(sad)),
        losses.gradient_loss(predicted, elf),
        losses.distribution_loss(predicted, elf),
    ]
    loop.descend(losses.balance(terms, [network.eta_vox, network.eta_grad, network.eta_hist]))
    return float((predicted.detach() - elf).abs().mean())


def _number(seed: int, step: int) -> int:
    """Seed of all chances of one step, so that a training goes on as if never interrupted."""
    return random.Random(f"{seed} {step}").getrandbits(32)


def _batches(examples: Sequence[Example], seed: int, first: int) -> Iterator[Example]:
    """Endless batches of cells of one shape, about 16,000 voxels each, from number `first` on."""
    shapes = defaultdict(list)
    for example in examples:
        shapes[example.elf.shape].append(example)
    for epoch in count():
        rng = random.Random(f"{seed} {epoch}")
        batches = []
        for alike in shapes.values():
            shuffled = rng.sample(alike, len(alike))
            size = max(1, _BATCH_VOXELS // alike[0].elf.numel())
            batches += [shuffled[n : n + size] for n in range(0, len(shuffled), size)]
        rng.shuffle(batches)
        for batch in batches[first:]:
            yield Example(
                torch.stack([example.inputs for example in batch]),
                torch.stack([example.sad for example in batch]),
                torch.stack([example.elf for example in batch]),
                torch.stack([example.lattice for example in batch]),
            )
        first = max(0, first - len(batches))


def _turned(batch: Example, rng: random.Random) -> Example:
    """The same crystals with other names and signs of their lattice vectors."""
    order = rng.sample(range(3), 3)
    signs = torch.tensor([rng.choice((1.0, -1.0)) for _ in order])
    backwards = [2 + axis for axis in range(3) if signs[axis] < 0]

    def turned(values: Tensor) -> Tensor:
        return values.permute(0, 1, *(2 + axis for axis in order)).flip(backwards)

    return Example(
        turned(batch.inputs),
        turned(batch.sad),
        turned(batch.elf),
        batch.lattice[:, order] * signs[:, None],
    )


def _noisy(batch: Example, deviation: Tensor) -> Example:
    noise = _NOISE * deviation[:, None, None, None] * torch.randn_like(batch.inputs)
    return Example(batch.inputs + noise, batch.sad, batch.elf, batch.lattice)


def _cycle(done: float) -> float:
    """Learning rate over its maximum, `done` running from 0 to 1."""
    if done < _WARM_UP:
        return done / _WARM_UP + 1e-3
    return (1 + cos(pi * (done - _WARM_UP) / (1 - _WARM_UP))) / 2


def _deviation(examples: Sequence[Example]) -> Tensor:
    """(channels,) standard deviation over all crystals; 1 where a channel is constant."""
    sample = torch.cat([example.inputs.flatten(1)[:, ::7] for example in examples], 1)
    deviation = sample.std(1)
    return torch.where(deviation > 0, deviation, 1.0)
