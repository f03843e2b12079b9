"""Training of ELF networks on crystals whose true ELF is known."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_vox3d.density import superpose_atoms
from napari_vox3d.density.grids import interpolate, nearest_shape, resample_waves
from napari_vox3d.errors import ModelError, Vox3dError
from napari_vox3d.formats import write_aside
from napari_vox3d.inference.elf import network_inputs
from napari_vox3d.networks import ELFPredictor
from napari_vox3d.training import losses
from napari_vox3d.volume import Volume

Progress = Callable[[int, int], None]

_FINER = 3  # the density is superposed on a grid this much finer than the network's
_BATCH_VOXELS = 16_384
_WARM_UP = 0.15  # of the training time
_NOISE = 0.1  # of the deviation of each input channel
_SAVE_EVERY = 60.0  # seconds
_STEPS_SHOWN = 1000


@dataclass(frozen=True)
class Example:
    """One crystal on the grid of the network.

    Parameters
    ----------
    inputs
        (channels, D, H, W) float32.
    sad
        (1, D, H, W) e/Å³: where the density is, for the weights of the loss.
    elf
        (1, D, H, W) the true ELF.
    """

    inputs: Tensor
    sad: Tensor
    elf: Tensor


def prepare_example(elf: Volume, channels: list[str], spacing: float) -> Example:
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
        If the ELF has no atoms, or one of an element without an atomic density.
    """
    if elf.atoms is None:
        raise Vox3dError(f"{elf.name or 'An ELF to train on'} carries no atoms.")
    shape = nearest_shape(elf.lattice, spacing)
    c, b, a = (_FINER * n for n in shape)
    sad = superpose_atoms(elf.atoms, (c, b, a))
    # Naming the lattice vectors in another order changes nothing, and lets cells share a batch.
    order = [0, *(1 + np.argsort(shape, kind="stable"))]

    def tensor(values: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values.transpose(order), np.float32))

    return Example(
        inputs=tensor(network_inputs(sad, shape, channels)),
        sad=tensor(resample_waves(sad.values, shape)[None].clip(0)),
        elf=tensor(interpolate(np.asarray(elf.values, np.float64), shape)[None].clip(0, 1)),
    )


def train_elf(
    examples: Sequence[Example],
    *,
    arguments: dict[str, Any] | None = None,
    minutes: float = 20.0,
    rate: float = 3e-3,
    weight_decay: float = 1e-2,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> ELFPredictor:
    """Train an `ELFPredictor` for a given time.

    The losses are the weighted smooth L1 distance, the periodic gradients, and the distribution
    of values, balanced by learnt variances. Batches hold cells of one shape; axes are exchanged
    and reversed at random (the network treats shifted cells alike by construction), and noise is
    added to the inputs. AdamW with one cycle of the learning rate: up for 15 % of the time, then
    down to zero along a cosine.

    Parameters
    ----------
    examples
        Crystals, see `prepare_example`.
    arguments
        Of `ELFPredictor` beside the number of input channels.
    minutes
        How long to train, the time before an interruption included.
    rate, weight_decay
        Of AdamW.
    seed
        Of the first parameters and of all chances.
    checkpoint
        File that the state is written to every minute; if it exists, training goes on from it.
    progress
        Called after each step with (per mille of the time, 1000); may raise `Cancelled`.

    Returns
    -------
    ELFPredictor
        In evaluation mode.

    Raises
    ------
    ModelError
        If the checkpoint is of another network.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    network = ELFPredictor(in_ch=len(examples[0].inputs), **(arguments or {}))
    deviation = _deviation(examples)
    with torch.no_grad():  # channels of different size then count alike at the start
        first: Any = network.net.stem[0]
        first.weight /= deviation[None, :, None, None, None]
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=weight_decay)
    before = _resume(checkpoint, network, optimizer)
    start = saved = time.monotonic()
    for batch in _batches(examples, rng):
        now = time.monotonic()
        done = (before + now - start) / (60 * minutes)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate * _cycle(done)
        _step(network, optimizer, _turned(batch, rng), deviation)
        if progress is not None:
            progress(int(_STEPS_SHOWN * done), _STEPS_SHOWN)
        if checkpoint is not None and now - saved > _SAVE_EVERY:
            _save(checkpoint, network, optimizer, before + now - start)
            saved = now
    if checkpoint is not None:
        _save(checkpoint, network, optimizer, 60 * minutes)
    return network.eval()


def _step(
    network: ELFPredictor, optimizer: torch.optim.Optimizer, batch: Example, deviation: Tensor
) -> None:
    noise = _NOISE * deviation[:, None, None, None] * torch.randn_like(batch.inputs)
    predicted, _ = network(batch.inputs + noise)
    terms = [
        losses.voxel_loss(predicted, batch.elf, losses.density_weights(batch.sad)),
        losses.gradient_loss(predicted, batch.elf),
        losses.distribution_loss(predicted, batch.elf),
    ]
    loss = losses.balance(terms, [network.eta_vox, network.eta_grad, network.eta_hist])
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def _batches(examples: Sequence[Example], rng: random.Random) -> Iterator[Example]:
    """Endless batches of cells of one shape, about 16,000 voxels each."""
    shapes = defaultdict(list)
    for example in examples:
        shapes[example.elf.shape].append(example)
    while True:
        epoch = []
        for alike in shapes.values():
            shuffled = rng.sample(alike, len(alike))
            size = max(1, _BATCH_VOXELS // alike[0].elf.numel())
            epoch += [shuffled[n : n + size] for n in range(0, len(shuffled), size)]
        rng.shuffle(epoch)
        for batch in epoch:
            columns = ([getattr(e, name) for e in batch] for name in ("inputs", "sad", "elf"))
            yield Example(*(torch.stack(column) for column in columns))


def _turned(batch: Example, rng: random.Random) -> Example:
    """The same crystals with other names and signs of their lattice vectors."""
    order = [0, 1, *rng.sample([2, 3, 4], 3)]
    reversed_axes = [axis for axis in (2, 3, 4) if rng.random() < 0.5]
    return Example(
        *(t.permute(order).flip(reversed_axes) for t in (batch.inputs, batch.sad, batch.elf))
    )


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


def _save(
    path: Path, network: ELFPredictor, optimizer: torch.optim.Optimizer, seconds: float
) -> None:
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "seconds": seconds,
    }
    with write_aside(path) as aside:
        torch.save(state, aside)


def _resume(path: Path | None, network: ELFPredictor, optimizer: torch.optim.Optimizer) -> float:
    """Load a checkpoint if there is one; seconds of training that it holds."""
    if path is None or not path.exists():
        return 0.0
    try:
        state = torch.load(path, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        return float(state["seconds"])
    except Exception as error:
        raise ModelError(
            f"{path}: training cannot go on from here ({error}). Delete the file to start anew."
        ) from error
