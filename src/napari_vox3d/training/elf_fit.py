"""Fitting an ELF network to crystals that have been brought to its grid."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import cos, pi, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_vox3d.errors import NotEnoughMemory, is_out_of_memory
from napari_vox3d.inference.device import autocast, choose_precision
from napari_vox3d.networks import ELFPredictor
from napari_vox3d.progress import Progress
from napari_vox3d.training.distributed import joined_ranks, parted
from napari_vox3d.training.elf_examples import (
    Example,
    Prepared,
    endless_batches,
    noisy,
    redescribed,
    stacked,
)
from napari_vox3d.training.loop import TrainingLoop
from napari_vox3d.training.losses import DEFAULT_TERMS, Objective

DEFAULT_MINUTES = 10.0
BATCH_VOXELS = 16_384
_WARM_UP = 0.15  # of the training
_NOISE = 0.1  # of the deviation of each input channel
_SAMPLE = 256  # crystals that the deviations are taken from


def fit_elf(
    examples: Sequence[Prepared],
    *,
    arguments: dict[str, Any] | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    rate: float | None = None,
    weight_decay: float = 1e-2,
    losses: Sequence[str] | Mapping[str, float] = DEFAULT_TERMS,
    learnt_weights: bool = True,
    batch_voxels: int = BATCH_VOXELS,
    precision: str = "auto",
    device: str = "auto",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
    on_step: Callable[[int, float], None] | None = None,
    stop: Callable[[], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[ELFPredictor, int]:
    """Train an `ELFPredictor` for a given time or number of steps.

    A step goes along the mean gradient of some crystals, those of one shape computed at once.
    Networks whose kernels are measured in voxels see each crystal with another origin and other
    names and signs of its lattice vectors every time; the others treat all of these alike by
    construction. Noise is added to the inputs. AdamW with one cycle of the learning rate: up for
    15 % of the training, then down to zero along a cosine.

    Processes that ``torchrun`` started train one network together, see
    `napari_vox3d.training.distributed`; a step is then of so many times more crystals.

    Parameters
    ----------
    examples
        Crystals, see `prepare_example` and `ExampleStore`.
    arguments
        Of `ELFPredictor` beside the number of input channels.
    minutes, steps
        How long to train, whichever ends first, an interrupted training included; without either
        10 minutes.
    rate, weight_decay
        Of AdamW; by default the highest rate is the one that the network names.
    losses, learnt_weights
        What is minimised, see `napari_vox3d.training.losses.Objective`.
    batch_voxels
        Voxels of one step in each process; a crystal of more has a step of its own.
    precision
        ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``, see
        `napari_vox3d.inference.device.choose_precision`. Parameters and losses stay float32.
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
    Vox3dError
        If there is no such loss.
    ModelError
        If the checkpoint is of another network or seed.
    InferenceError
        If the device is not there, or a crystal does not fit in its memory.
    """
    if minutes is None and steps is None:
        minutes = DEFAULT_MINUTES
    objective = Objective(losses, learnt_weights)
    deviation = _deviation(examples)
    with joined_ranks(device) as (ranks, place), torch.random.fork_rng():
        dtype = choose_precision(precision, place)
        torch.manual_seed(seed)
        network = ELFPredictor(in_ch=len(deviation), **(arguments or {}))
        balance_inputs(network.net, deviation)
        objective.prepare(network)
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
            ranks=ranks,
            half=dtype == torch.float16,
        ) as loop:
            batches = endless_batches(examples, seed, loop.done, batch_voxels, ranks.count)
            for _ in loop:
                parts = next(batches)
                errors: list[float] = []

                def loss(number: int, weight: float) -> Tensor:
                    chances = _number(seed, loop.done, number)
                    batch = _drawn(parts[number][0], network, deviation, chances).to(place)  # noqa: B023
                    with autocast(place, dtype):
                        predicted, _ = loop.parallel(batch.inputs, batch.lattice)
                    predicted = predicted.float()
                    errors.append(weight * float((predicted.detach() - batch.elf).abs().mean()))  # noqa: B023
                    return weight * objective(network, predicted, batch.elf, batch.sad)

                own = parted([weight for _, weight in parts], ranks)
                with _memory_explained([members for members, _ in parts], place):
                    loop.descend(*(partial(loss, *part) for part in own))
                loop.report(sum(errors))
    return network.cpu().eval(), loop.done


def _drawn(
    members: Sequence[Prepared], network: ELFPredictor, deviation: Tensor, chances: int
) -> Example:
    """Crystals of one shape as they are shown this time."""
    torch.manual_seed(chances)
    batch = stacked(members)
    if network.net.knows_one_spacing:  # others treat redescribed crystals alike
        batch = redescribed(batch, random.Random(chances))
    amounts = _NOISE * deviation
    if network.residual is not None:  # what is added to must be right
        amounts[network.residual] = 0
    return noisy(batch, amounts)


@torch.no_grad()
def balance_inputs(network: nn.Module, deviation: Tensor) -> None:
    """Divide the first weights by (in_ch,) deviations: channels then count alike at first."""
    network.get_parameter("stem.0.weight").div_(deviation[:, None, None, None])


@contextmanager
def _memory_explained(parts: Sequence[Sequence[Prepared]], place: torch.device) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        largest = max(parts, key=lambda members: len(members) * prod(members[0].shape))
        points = "×".join(map(str, largest[0].shape))
        raise NotEnoughMemory(
            f"Training on {len(largest)} × {points} points does not fit in the memory "
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


def _number(seed: int, step: int, part: int) -> int:
    """Seed of the chances of a part of a step, the same after an interruption and everywhere."""
    return random.Random(f"{seed} {step} {part}").getrandbits(32)


def _cycle(done: float) -> float:
    """Learning rate over its maximum, `done` running from 0 to 1."""
    if done < _WARM_UP:
        return done / _WARM_UP + 1e-3
    return (1 + cos(pi * (done - _WARM_UP) / (1 - _WARM_UP))) / 2


def _deviation(examples: Sequence[Prepared]) -> Tensor:
    """(channels,) standard deviation over many crystals; 1 where a channel is constant."""
    some = random.Random(0).sample(examples, min(len(examples), _SAMPLE))
    sample = torch.cat([example.load().inputs.flatten(1)[:, ::7] for example in some], 1)
    deviation = sample.std(1)
    return torch.where(deviation > 0, deviation, 1.0)
