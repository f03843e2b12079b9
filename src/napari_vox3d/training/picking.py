"""Training of particle pickers from tomograms with known particles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_vox3d.errors import Vox3dError
from napari_vox3d.inference.device import choose_device
from napari_vox3d.inference.picking import find_particles, score_particles
from napari_vox3d.models import Model, ModelCard, ParticleClass, PickingInput, load_model
from napari_vox3d.networks.catalogue import Size, find_architecture
from napari_vox3d.picks import Picks
from napari_vox3d.progress import Progress
from napari_vox3d.training.evaluation import evaluate_picks
from napari_vox3d.training.inputs import Example, counted, known_radii, particle_classes
from napari_vox3d.training.loop import TrainingLoop
from napari_vox3d.training.picker_forms import TrainingForm, form_of, new_form
from napari_vox3d.training.picker_targets import Particles, Tomogram, focal_loss, varied

_DEFAULT_VOXEL_SIZE = 10.0  # Å
_DEFAULT_MINUTES = 10.0
_FINE_TUNING = 0.15  # of the rate of learning from random weights
_FROZEN = 0.75  # share of the training after which the statistics stay what they are
_WARM_UP = 0.05  # share of the training
_LOWEST = 0.05  # threshold that a class may get
_PLATEAU = 0.98  # share of the best F


def train_picker(
    examples: Sequence[Example],
    *,
    base: str | Path | Model | None = "default",
    network: str | None = None,
    size: Size = "small",
    classes: Sequence[ParticleClass] | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
    on_step: Callable[[int, float], None] | None = None,
    stop: Callable[[], bool] | None = None,
    checkpoint: str | Path | None = None,
    name: str = "my-picker",
) -> Model:
    """Train a network to find particles.

    It is trained on crops, three in four of which hold a particle. Each crop is flipped along
    random axes (never turned, which would turn the missing wedge), scaled and given more noise.
    The target is a ball in the middle of each particle, for `CryoET3DCNN` a bell; the loss is the
    focal cross entropy (α 1, γ 2).

    With five or more examples every fifth is held out, and the thresholds in the card come from
    those; with fewer they come from the training data and the card says so.

    Parameters
    ----------
    examples
        Tomograms with all their particles of the classes to learn.
    base
        Model to start from: name, path or `Model`. None starts from random weights.
    network
        Architecture to start with random weights, by its name in
        `napari_vox3d.networks.catalogue`; `base` then does not count. None with `base` None is
        ``"cryoet3dcnn"``.
    size
        ``"small"`` or ``"large"``, of `network`.
    classes
        Classes to learn. Default: the labels in the examples, with the radii of the picks.
    minutes, steps
        How long to train, whichever ends first; without either 10 minutes. The learning rate
        falls to zero by then.
    device
        As for `score_particles`.
    seed
        The same seed and number of steps give the same model on one machine.
    progress
        Called after each step, and while the thresholds are found; may raise `Cancelled`, which
        leaves the checkpoint behind.
    on_step
        Called after each step with its number, from 1, and its loss.
    stop
        Asked before each step; True ends the training as if the time were up.
    checkpoint
        Safetensors file to go on from, if it exists, and to write every minute.
    name
        Of the new model.

    Returns
    -------
    Model
        In memory; `Model.save` writes it.

    Raises
    ------
    Vox3dError
        If there is nothing to learn from, or nobody says how large a class is.
    ModelError
        If there is no such base, network or size, the base cannot be trained, or the checkpoint
        belongs to another training.
    InferenceError
        If the device is not there.
    """
    start = None if base is None or network is not None else load_model(base, task="picking")
    if classes is None:
        known = [] if start is None else start.card.classes
        classes = particle_classes(known_radii((picks for _, picks in examples), known), known)
    kinds = list(classes)
    names = [kind.name for kind in kinds]
    if not any(np.isin(picks.labels, names).any() for _, picks in examples):
        raise Vox3dError("The examples hold no particles to learn from.")
    taken = _input_like(start)
    held_out = list(examples[4::5])
    tomograms = [
        Tomogram.of(volume, picks, kinds, taken)
        for n, (volume, picks) in enumerate(examples)
        if n % 5 != 4
    ]
    where = choose_device(device)
    with _own_randomness(seed):
        if start is None:
            chosen = find_architecture(network or "cryoet3dcnn", "picking")
            form = new_form(chosen.network, chosen.arguments(size), kinds)
        else:
            form = form_of(start, kinds)
        done = _fit(
            form.to(where),
            tomograms,
            outputs=len(kinds) + 1,
            minutes=_DEFAULT_MINUTES if minutes is None and steps is None else minutes,
            steps=steps,
            fine_tuning=start is not None,
            seed=seed,
            progress=progress,
            on_step=on_step,
            stop=stop,
            checkpoint=checkpoint,
        )
    spec, state = form.finish()
    card = ModelCard(
        name=name,
        title=name,
        task="picking",
        network=spec,
        input=taken,
        classes=kinds,
        background=len(kinds),
        training=_account(tomograms, done * form.batch, start, held_out),
        licence="that of its training data",
        version="1",
    )
    model = Model(card, state)
    thresholds = estimate_thresholds(
        model,
        held_out or examples,
        device=device,
        progress=None if progress is None else lambda *_: progress(done, done),
    )
    kinds = [k.model_copy(update={"threshold": thresholds[k.name]}) for k in kinds]
    return model.with_card(card.model_copy(update={"classes": kinds}))


def estimate_thresholds(
    model: Model,
    examples: Sequence[Example],
    *,
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
    device
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
        score_particles(volume, model, device=device, progress=progress) for volume, _ in examples
    )
    found = [find_particles(scores, threshold=_LOWEST) for scores in maps]
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
    thresholds = np.linspace(_LOWEST, 0.95, 46)
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


def _fit(
    form: TrainingForm,
    tomograms: Sequence[Tomogram],
    *,
    outputs: int,
    fine_tuning: bool,
    seed: int,
    **calls: Any,
) -> int:
    """Train in place; gives the number of steps."""
    rate = form.rate * (_FINE_TUNING if fine_tuning else 1)
    optimizer = torch.optim.AdamW(form.parameters(), lr=rate, weight_decay=1e-3, eps=1e-7)
    where = next(form.parameters()).device
    form.train()
    with TrainingLoop(form, optimizer, _schedule, rate=rate, seed=seed, **calls) as loop:
        for share in loop:
            rng = np.random.default_rng((seed, loop.done))
            torch.manual_seed(int(rng.integers(2**31)))  # dropout, the same after going on
            crops, targets = _batch(form, tomograms, outputs, rng)
            # a base has statistics of more tomograms than there are now
            form.normalise(not fine_tuning and share < _FROZEN, loop.done)
            loss = focal_loss(form(crops.to(where)), targets.to(where))
            loop.descend(lambda: loss)  # noqa: B023 - called at once
            loop.report(loss.item())
    return loop.done


def _batch(
    form: TrainingForm, tomograms: Sequence[Tomogram], outputs: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Crops (B, 1, D, H, W) and their targets (B, outputs, d, h, w)."""
    crops, targets = [], []
    for _ in range(form.batch):
        tomogram = tomograms[int(rng.integers(len(tomograms)))]
        values, start = tomogram.crop(rng, form.edge, form.beyond)
        positions, labels, radii = tomogram.particles
        target = form.target(Particles(positions - start, labels, radii), outputs, form.centres)
        for axis, (begin, length) in enumerate(zip(start, tomogram.view.shape, strict=True)):
            beyond = np.abs(form.centres + begin - (length - 1) / 2) > length / 2
            np.moveaxis(target, axis + 1, 0)[beyond] = 0  # particles in the mirror are not told
        values, target = varied(values, target, rng)
        crops.append(torch.from_numpy(values)[None])
        targets.append(torch.from_numpy(target))
    return torch.stack(crops), torch.stack(targets)


def _schedule(share: float) -> float:
    """Factor of the learning rate: a short rise, then half a cosine down to zero."""
    return min(1.0, (share + 1e-3) / _WARM_UP) * 0.5 * (1 + float(np.cos(np.pi * share)))


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed torch, and put its state back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _input_like(start: Model | None) -> PickingInput:
    voxel_size = _DEFAULT_VOXEL_SIZE
    if start is not None and isinstance(start.card.input, PickingInput):
        voxel_size = start.card.input.voxel_size
    return PickingInput(voxel_size=voxel_size, normalisation="robust", contrast="dark")


def _account(
    tomograms: Sequence[Tomogram], crops: int, start: Model | None, held_out: Sequence[Example]
) -> str:
    """What the card says about the training."""
    particles = sum(len(tomogram.particles.labels) for tomogram in tomograms)
    origin = "random weights" if start is None else f"the model {start.card.name!r}"
    tested = (
        f"thresholds from {counted(len(held_out), 'tomogram')} held out"
        if held_out
        else "thresholds from the training data themselves, so they may be too hopeful"
    )
    return (
        f"{counted(crops, 'crop')} of {counted(len(tomograms), 'tomogram')} "
        f"with {counted(particles, 'particle')}, "
        f"starting from {origin}; {tested}."
    )
