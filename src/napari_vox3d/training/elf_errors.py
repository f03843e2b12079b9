"""Teaching an ELF network how far off it is, and checking that it knows.

A head of two 1³ convolutions, a few hundred parameters, reads what the last layer of the network
reads, so that the band costs next to nothing at prediction; an ensemble of five would cost five
predictions. It is trained, everything else being fixed, on crystals that the network was *not*
trained on, whose errors are those of new crystals; on its own crystals a network is too sure. It
learns the 90th percentile of the error at each point (quantile loss). A factor from other crystals
again makes 90 % of their points lie within the band (split conformal prediction: Lei et al. 2018,
arXiv:1604.04173): so it does for new crystals on average, if they are of the same kind, and not
for every single one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_vox3d.errors import Vox3dError
from napari_vox3d.models import ErrorBand, KnownRange
from napari_vox3d.networks import ELFPredictor
from napari_vox3d.training.elf_examples import Prepared

SHARE = 0.9
_POINTS = 1000  # of each crystal
_STEPS, _BATCH, _RATE = 600, 16_384, 3e-3


def add_error_head(
    network: ELFPredictor,
    arguments: dict[str, Any],
    learning: Sequence[Prepared],
    checking: Sequence[Prepared],
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> tuple[ELFPredictor, ErrorBand]:
    """Give a network a calibrated error head.

    Parameters
    ----------
    network
        As fitted, on the CPU.
    arguments
        Of `ELFPredictor` beside the number of input channels, as given to `fit_elf`.
    learning, checking
        Crystals of compositions that it was not trained on: some to train the head, others to
        calibrate it.
    seed
        Of the head's first parameters, and of the points that are looked at.
    tick
        Called after each crystal and each step; what it raises ends the work.

    Returns
    -------
    network : ELFPredictor
        The same with a head; its ``arguments`` are those given and ``error_head=True``.
    band : ErrorBand
        For the card.

    Raises
    ------
    Vox3dError
        If either part holds no crystal.
    """
    if not learning or not checking:
        raise Vox3dError("An error head needs crystals to learn from and others to check it with.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        result = ELFPredictor(in_ch=_inputs(network), **arguments, error_head=True)
        result.load_state_dict(network.state_dict(), strict=False)
        assert result.error is not None
        features, errors = _points(network, learning, tick)
        _learn(result.error, features, errors, tick)
        features, errors = _points(network, checking, tick)
    with torch.no_grad():
        scale = _applied(result.error, features).clamp_min(1e-4)
    band = ErrorBand(
        share=SHARE,
        factor=float(np.quantile((errors / scale).numpy(), SHARE)),
        mean_error=float(errors.mean() / scale.mean()),
        data=f"{_POINTS} points of each of {len(checking)} crystals of compositions that neither "
        f"the network nor its head was trained on ({len(learning)} others trained the head)",
    )
    return result.eval(), band


def _inputs(network: ELFPredictor) -> int:
    return network.net.stem.get_parameter("0.weight").shape[1]


@torch.no_grad()
def _points(
    network: ELFPredictor, examples: Sequence[Prepared], tick: Callable[[], None]
) -> tuple[Tensor, Tensor]:
    """(channels, points) that the head sees, and (points,) absolute errors there."""
    features, errors = [], []
    for example in (each.load() for each in examples):
        seen = network.net.features(example.inputs[None], example.lattice[None])
        error = (network.answer(seen, example.inputs[None])[0] - example.elf).abs().flatten()
        chosen = torch.randint(len(error), (_POINTS,))
        features.append(seen[0].flatten(1)[:, chosen])
        errors.append(error[chosen])
        tick()
    return torch.cat(features, 1), torch.cat(errors)


def _applied(head: torch.nn.Module, features: Tensor) -> Tensor:
    return head(features[None, :, :, None, None]).flatten()


def _learn(
    head: torch.nn.Module, features: Tensor, errors: Tensor, tick: Callable[[], None]
) -> None:
    """Train the head to give the quantile of the errors."""
    optimizer = torch.optim.Adam(head.parameters(), lr=_RATE)
    for _ in range(_STEPS):
        chosen = torch.randint(len(errors), (min(_BATCH, len(errors)),))
        beyond = errors[chosen] - _applied(head, features[:, chosen])
        optimizer.zero_grad()
        torch.maximum(SHARE * beyond, (SHARE - 1) * beyond).mean().backward()
        optimizer.step()
        tick()


def known_range(examples: Iterable[Prepared], elements: Iterable[str]) -> KnownRange:
    """What a model has seen, for its card.

    Parameters
    ----------
    examples
        It was trained on.
    elements
        Symbols of all of them.
    """
    from ase.data import atomic_numbers

    lows, highs = [], []
    for example in examples:
        inputs = example.load().inputs.flatten(1)
        lows.append(inputs.amin(1))
        highs.append(inputs.amax(1))
    lowest, highest = torch.stack(lows).amin(0), torch.stack(highs).amax(0)
    return KnownRange(
        elements=sorted(set(elements), key=atomic_numbers.__getitem__),
        lowest=[round(value, 3) for value in lowest.tolist()],
        highest=[round(value, 3) for value in highest.tolist()],
    )
