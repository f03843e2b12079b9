"""Training of particle pickers from tomograms with known particles."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_vox3d.errors import Vox3dError
from napari_vox3d.inference.contrast import ContrastChoice, contrast_of
from napari_vox3d.inference.device import autocast, choose_device, choose_precision
from napari_vox3d.inference.tiles import Contrast
from napari_vox3d.models import Model, ModelCard, ParticleClass, PickingInput, load_model
from napari_vox3d.networks.catalogue import Size, find_architecture
from napari_vox3d.progress import Progress
from napari_vox3d.training.glimpses import Glimpses
from napari_vox3d.training.inputs import (
    Example,
    Labels,
    counted,
    known_radii,
    particle_classes,
)
from napari_vox3d.training.loop import TrainingLoop
from napari_vox3d.training.picker_forms import TrainingForm, form_of, new_form
from napari_vox3d.training.picker_targets import Tomogram, focal_loss, varied
from napari_vox3d.training.thresholds import estimate_thresholds
from napari_vox3d.training.unlabelled import LOOKS, Unlabelled

_DEFAULT_VOXEL_SIZE = 10.0  # Å
_DEFAULT_MINUTES = 10.0
_FINE_TUNING = 0.15  # of the rate of learning from random weights
_UNFAMILIAR = 0.5  # the same, where some particles of a new class are all there is
_GOING_ON = 0.4  # the same, with as much data and time as the base had
_FROZEN = 0.75  # share of the training after which the statistics stay what they are
_WARM_UP = 0.05  # share of the training
_HEAD_BATCHES, _HEAD_STEPS, _HEAD_RATE = 12, 150, 3e-2  # of a last layer that learns by itself


def train_picker(
    examples: Sequence[Example],
    *,
    base: str | Path | Model | None = "default",
    network: str | None = None,
    size: Size = "small",
    classes: Sequence[ParticleClass] | None = None,
    labels: Labels = "all",
    fine_tune: bool = True,
    contrast: ContrastChoice | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
    on_step: Callable[[int, float], None] | None = None,
    stop: Callable[[], bool] | None = None,
    glimpse: Callable[[Model], None] | None = None,
    checkpoint: str | Path | None = None,
    name: str = "my-picker",
    clock: Callable[[], float] = time.monotonic,
) -> Model:
    """Train a network to find particles.

    It is trained on crops, three in four of which hold a particle. Each crop is flipped along
    random axes (never turned, which would turn the missing wedge), scaled and given more noise.
    The target is a ball in the middle of each particle, for `CryoET3DCNN` a bell; the loss is the
    focal cross entropy (α 1, γ 2).

    With ``labels="some"`` a few particles of a tomogram are enough. What is not labelled is then
    not taken for empty: see `napari_vox3d.training.unlabelled`.

    With five or more examples every fifth is held out, and the thresholds in the card come from
    those; with fewer they come from the training data and the card says so.

    Parameters
    ----------
    examples
        Tomograms with their particles of the classes to learn.
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
    labels
        ``"all"``: the examples tell all particles of these classes, other places are empty;
        ``"some"``: they tell some of them, as clicks do, five or more of each class.
    fine_tune
        Learn gently from a base, as suits few tomograms and minutes: at 0.15 of the rate for random
        weights, and with the statistics of its layers as they are. False goes on at 0.4 of that
        rate with new statistics, which wants as much as random weights do.
    contrast
        How particles look in all tomograms: ``"dark"``, ``"bright"``, or ``"auto"``, which finds
        out for each. Default: as in those of the base; for a new network dark.
    minutes, steps
        How long to train, whichever ends first; without either 10 minutes. The learning rate
        falls to zero by then.
    device
        As for `score_particles`. Convolutions run in bfloat16 where that is faster, see
        `napari_vox3d.inference.device.choose_precision`.
    seed
        The same seed and number of steps give the same model on one machine.
    progress
        Called after each step, and while the thresholds are found; may raise `Cancelled`, which
        leaves the checkpoint behind.
    on_step
        Called after each step with its number, from 1, and its loss.
    stop
        Asked before each step; True ends the training within seconds, in which the rate of
        learning falls to zero.
    glimpse
        Called every twelve seconds, or more rarely if it takes long, with the model as it is then.
    checkpoint
        Safetensors file to go on from, if it exists, and to write every minute.
    name
        Of the new model.
    clock
        Gives the seconds that `minutes` are counted in; `time.process_time` those of the processor.

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
    taken = _input_like(start, contrast_of(examples[0][0], contrast, "dark"))
    held_out = list(examples[4::5]) if labels == "all" else []
    where = choose_device(device)
    reports = _Reports(progress)
    beside: Unlabelled | None = None
    if labels == "some":
        beside = Unlabelled(examples, kinds, taken, contrast, device, reports.wait)
        tomograms = beside.tomograms
    else:
        tomograms = [
            Tomogram.of(*example, kinds, taken, contrast)
            for n, example in enumerate(examples)
            if n % 5 != 4
        ]
    looks: Sequence[float] = ()
    slower = 1.0 if start is None else _FINE_TUNING if fine_tune else _GOING_ON
    with _own_randomness(seed):
        if start is None:
            chosen = find_architecture(network or "cryoet3dcnn", "picking")
            form = new_form(chosen.network, chosen.arguments(size), kinds)
        else:
            alike = None if beside is None else beside.likeness(start)
            form = form_of(start, kinds, alike)
        if beside is not None:
            looks = (0.0, *LOOKS) if beside.familiar else LOOKS
            if start is not None and not beside.familiar:
                slower = _UNFAMILIAR
            form.narrow(max(kind.radius for kind in kinds) / taken.voxel_size)

        def now() -> Model:
            return _model(form, name, kinds if beside is None else beside.kinds, taken)

        if glimpse is not None:
            on_step = Glimpses(lambda: glimpse(now()), on_step)
        form.to(where).train()
        if form.fresh:
            _fit_head(form, tomograms, len(kinds) + 1, seed, reports.wait)
        done = _fit(
            form,
            tomograms,
            outputs=len(kinds) + 1,
            look=None if beside is None else lambda: beside.look(now()),
            looks=looks,
            minutes=_DEFAULT_MINUTES if minutes is None and steps is None else minutes,
            steps=steps,
            slower=slower,
            anew=start is None or not fine_tune,
            seed=seed,
            progress=reports.tell,
            on_step=on_step,
            stop=stop,
            checkpoint=checkpoint,
            clock=clock,
        )
    model = now()
    if beside is not None:
        beside.judge(model)
        thresholds = {kind.name: kind.threshold for kind in beside.kinds}
    else:
        thresholds = estimate_thresholds(
            model, held_out or examples, contrast=contrast, device=device, progress=reports.wait
        )
    about = _account(tomograms, done * form.batch, start, held_out, labels)
    card = model.card.with_thresholds(thresholds)
    return model.with_card(card.model_copy(update={"training": about}))


class _Reports:
    """Progress of the steps, told again while something else takes time."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._told = progress, (0, 1)

    def tell(self, done: int, total: int) -> None:
        self._told = done, total
        self.wait()

    def wait(self, *_: int) -> None:
        if self._progress is not None:
            self._progress(*self._told)


def _model(
    form: TrainingForm, name: str, kinds: Sequence[ParticleClass], taken: PickingInput
) -> Model:
    """Give the model of a network as it is now."""
    spec, state = copy.deepcopy(form).finish()
    outputs = [list(group) for group in form.groups]
    alone = spec.arguments["num_classes"] == len(kinds) + 1  # nothing else is told apart
    classes = [
        kind.model_copy(update={"outputs": None if alone else own})
        for kind, own in zip(kinds, outputs, strict=True)
    ]
    card = ModelCard(
        name=name,
        title=name,
        task="picking",
        network=spec,
        input=taken,
        classes=classes,
        background=len(kinds) if alone else None,
        training="Not finished.",
        licence="that of its training data",
        version="1",
    )
    return Model(card, state)


def _fit(
    form: TrainingForm,
    tomograms: Sequence[Tomogram],
    *,
    outputs: int,
    look: Callable[[], Sequence[Tomogram]] | None,
    looks: Sequence[float],
    slower: float,
    anew: bool,
    seed: int,
    **calls: Any,
) -> int:
    """Train in place, and look at the tomograms anew now and then; gives the number of steps."""
    rate = slower * form.rate
    optimizer = torch.optim.AdamW(form.parameters(), lr=rate, weight_decay=1e-3, eps=1e-7)
    where = next(form.parameters()).device
    dtype = choose_precision("auto", where)
    with TrainingLoop(form, optimizer, _schedule, rate=rate, seed=seed, **calls) as loop:
        for share in loop:
            if look is not None and looks and share >= looks[0]:
                looks = [later for later in looks if later > share]
                tomograms = look()
            rng = np.random.default_rng((seed, loop.done))
            torch.manual_seed(int(rng.integers(2**31)))  # dropout, the same after going on
            crops, targets = _batch(form, tomograms, outputs, rng)
            # a base has statistics of more tomograms than there are for fine tuning
            form.normalise(anew and share < _FROZEN, loop.done)
            with autocast(where, dtype):
                logits = form(crops.to(where))
            loss = focal_loss(form.grouped(logits.float()), targets.to(where))
            loop.descend(lambda: loss)  # noqa: B023 - called at once
            loop.report(loss.item())
    return loop.done


def _fit_head(
    form: TrainingForm,
    tomograms: Sequence[Tomogram],
    outputs: int,
    seed: int,
    wait: Callable[[], None],
) -> None:
    """Let the last layer learn classes that it does not know, from features as they are.

    Seconds of this replace the first half minute of training, in which a random output would
    spoil the features.
    """
    rng = np.random.default_rng((seed, 0, 0))
    where = next(form.parameters()).device
    head = form.network.get_submodule(form.head)
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    targets = []
    form.normalise(False, 0)
    with torch.no_grad():
        for _ in range(_HEAD_BATCHES):
            crops, target = _batch(form, tomograms, outputs, rng)
            form(crops.to(where))
            targets.append(target)
            wait()
    hook.remove()
    features, target = torch.cat(seen), torch.cat(targets).to(where)
    optimizer = torch.optim.AdamW(head.parameters(), lr=_HEAD_RATE, weight_decay=1e-3)
    for _ in range(_HEAD_STEPS):
        optimizer.zero_grad()
        focal_loss(form.grouped(head(features)), target).backward()
        optimizer.step()
        wait()


def _batch(
    form: TrainingForm, tomograms: Sequence[Tomogram], outputs: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Crops (B, 1, D, H, W) and their targets (B, outputs, d, h, w)."""
    crops, targets = [], []
    for _ in range(form.batch):
        tomogram = tomograms[int(rng.integers(len(tomograms)))]
        values, start = tomogram.crop(rng, form.edge, form.beyond)
        target = tomogram.target(form.target, start, outputs, form.centres)
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


def _input_like(start: Model | None, contrast: Contrast) -> PickingInput:
    voxel_size = _DEFAULT_VOXEL_SIZE
    if start is not None and isinstance(start.card.input, PickingInput):
        voxel_size, contrast = start.card.input.voxel_size, start.card.input.contrast
    return PickingInput(voxel_size=voxel_size, normalisation="robust", contrast=contrast)


def _account(
    tomograms: Sequence[Tomogram],
    crops: int,
    start: Model | None,
    held_out: Sequence[Example],
    labels: Labels,
) -> str:
    """What the card says about the training."""
    particles = sum(tomogram.known for tomogram in tomograms)
    origin = "random weights"
    if start is not None:
        origin = f"version {start.card.version} of the model {start.card.name!r}"
    if labels == "some":
        tested = "thresholds from every fourth of them, which it was not shown"
    elif held_out:
        tested = f"thresholds from {counted(len(held_out), 'tomogram')} held out"
    else:
        tested = "thresholds from the training data themselves, so they may be too hopeful"
    return (
        f"{counted(crops, 'crop')} of {counted(len(tomograms), 'tomogram')} "
        f"with {counted(particles, 'particle')}{' known among others' * (labels == 'some')}, "
        f"starting from {origin}; {tested}."
    )
