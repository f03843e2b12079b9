"""Training of particle pickers from tomograms with known particles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from napari_vox3d.errors import ModelError, Vox3dError
from napari_vox3d.formats import write_aside
from napari_vox3d.inference.device import choose_device
from napari_vox3d.inference.picking import find_particles, outputs_of, score_particles
from napari_vox3d.inference.tiles import NetworkView
from napari_vox3d.models import (
    Model,
    ModelCard,
    NetworkSpec,
    ParticleClass,
    PickingInput,
    load_model,
)
from napari_vox3d.networks.cryoet_cnn import WINDOW, CryoET3DCNN, DenseCryoET3DCNN, factor
from napari_vox3d.picks import CLASS_COLOURS, Picks
from napari_vox3d.training.evaluation import evaluate_picks
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from torch.optim import Optimizer

Example = tuple[Volume, Picks]

RANK = 24  # of the factored first classifier layer
_DEFAULT_VOXEL_SIZE = 10.0  # Å
_CROP = 96  # voxels
_STRIDE = 8
_MARGIN = 2  # cells around the crop's features that windows may reach over
_WIDTH = 4.0  # voxels: standard deviation of the bell that a particle is in the target
_GAMMA = 2.0
_BACKGROUND = 3.0  # first logit of the background: most places are empty
_FOREGROUND = 4.0  # weight of particles against background
_CENTRED = 0.75  # share of crops that hold a given particle
_LEARNING_RATE, _FINE_TUNING_RATE = 2e-3, 3e-4
_MOMENTUM = 0.02  # of the running statistics
_FROZEN = 0.75  # share of the training after which the statistics stay what they are
_WARM_UP = 0.05  # share of the training
_SAVE_EVERY = 60.0  # seconds
_LOWEST = 0.05  # threshold that a class may get
_PLATEAU = 0.98  # share of the best F


def train_picker(
    examples: Sequence[Example],
    *,
    base: str | Path | Model | None = "default",
    classes: Sequence[ParticleClass] | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    checkpoint: str | Path | None = None,
    name: str = "my-picker",
) -> Model:
    """Train a `CryoET3DCNN` to find particles.

    The network is trained in its dense, factored form on crops, three in four of which hold a
    particle. Each crop is flipped along random axes (never turned, which would turn the missing
    wedge), scaled and given more noise. The target is a bell about each particle; the loss is the
    focal cross entropy (α 1, γ 2).

    With four or more examples every fifth is held out, and the thresholds and the figures in the
    card come from those; with fewer they come from the training data and the card says so.

    Parameters
    ----------
    examples
        Tomograms with all their particles of the classes to learn.
    base
        Model to start from: name, path or `Model`. None starts from random weights.
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
        Called after each step; may raise `Cancelled`, which leaves the checkpoint behind.
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
        If there is nothing to learn from.
    ModelError
        If the base is no `CryoET3DCNN`, or the checkpoint belongs to another training.
    InferenceError
        If the device is not there.
    """
    start = None if base is None else load_model(base, task="picking")
    kinds = list(classes) if classes is not None else _classes(examples, start)
    names = [kind.name for kind in kinds]
    if not any(np.isin(picks.labels, names).any() for _, picks in examples):
        raise Vox3dError("The examples hold no particles to learn from.")
    voxel_size = _DEFAULT_VOXEL_SIZE
    if start is not None and isinstance(start.card.input, PickingInput):
        voxel_size = start.card.input.voxel_size
    taken = PickingInput(voxel_size=voxel_size, normalisation="robust", contrast="dark")
    held_out = list(examples[4::5])
    tomograms = [
        _Tomogram.of(volume, picks, names, taken)
        for n, (volume, picks) in enumerate(examples)
        if n % 5 != 4
    ]
    where = choose_device(device)
    with _own_randomness(seed):
        trained = _Normalised(_network(kinds, start)).to(where)
        steps_done = _fit(
            trained,
            tomograms,
            minutes=10.0 if minutes is None and steps is None else minutes,
            steps=steps,
            rate=_LEARNING_RATE if start is None else _FINE_TUNING_RATE,
            normalise=start is None,  # the weights of a base have been folded already
            seed=seed,
            progress=progress,
            checkpoint=checkpoint,
        )
    network = trained.fold()
    card = ModelCard(
        name=name,
        title=name,
        task="picking",
        network=NetworkSpec(name="CryoET3DCNN", arguments={"num_classes": len(kinds) + 1}),
        input=taken,
        classes=kinds,
        background=len(kinds),
        training=_account(tomograms, steps_done, start, held_out),
        licence="that of its training data",
        version="1",
    )
    state = {key: value.cpu().half() for key, value in network.windowed_state().items()}
    model = Model(card, state)
    thresholds = estimate_thresholds(model, held_out or examples, device=device)
    kinds = [k.model_copy(update={"threshold": thresholds[k.name]}) for k in kinds]
    return model.with_card(card.model_copy(update={"classes": kinds}))


def estimate_thresholds(model: Model, examples: Sequence[Example], *, device: str = "auto",
                        beta: float = 1.0) -> dict[str, float]:  # fmt: skip
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

    Returns
    -------
    dict
        Threshold by class; the card's where no particle of a class is found.
    """
    found = [
        find_particles(score_particles(volume, model, device=device), threshold=_LOWEST)
        for volume, _ in examples
    ]
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
    true = [picks.select(picks.labels == kind.name) for picks in truth]
    scores = []
    for threshold in thresholds:
        kept = [p.select((p.labels == kind.name) & (p.scores >= threshold)) for p in found]
        score = evaluate_picks(kept, true, radius=0.5 * kind.radius, beta=beta).classes
        scores.append(score[kind.name].f if kind.name in score else 0.0)
    if not max(scores):
        return kind.threshold
    plateau = thresholds[np.array(scores) >= _PLATEAU * max(scores)]
    return round(float(plateau[len(plateau) // 2]), 3)


def focal_loss(logits: Tensor, target: Tensor, gamma: float = _GAMMA) -> Tensor:
    """Focal cross entropy against soft targets, −q (1 − p)^γ log p summed over classes.

    Parameters
    ----------
    logits
        (B, C, ...), the last class being the background.
    target
        Probabilities of the same shape.
    gamma
        0 is the plain cross entropy.

    Returns
    -------
    Tensor
        Scalar: mean over places, particles weighing four times the background.
    """
    log_p = F.log_softmax(logits, dim=1)
    terms = -target * (1 - log_p.exp()) ** gamma * log_p
    return (_FOREGROUND * terms[:, :-1].sum(1) + terms[:, -1]).mean()


class _Tomogram(NamedTuple):
    view: NetworkView
    positions: NDArray[np.floating]  # (N, 3) voxels of the view
    labels: NDArray[np.intp]  # (N,) indices of classes

    @classmethod
    def of(
        cls, volume: Volume, picks: Picks, names: Sequence[str], taken: PickingInput
    ) -> _Tomogram:
        view = NetworkView.of(volume, taken.voxel_size, taken.normalisation)
        known = picks.select(np.isin(picks.labels, names))
        labels = np.array([names.index(label) for label in known.labels], dtype=np.intp)
        return cls(view, view.from_index(known.positions / volume.voxel_size), labels)

    def crop(self, rng: np.random.Generator, outputs: int) -> tuple[Tensor, Tensor]:
        """Augmented crop (1, 96, 96, 96) and its target (C, 9, 9, 9)."""
        if len(self.labels) and rng.random() < _CENTRED:
            kind = rng.choice(np.unique(self.labels))  # rare classes as often as common ones
            centre = self.positions[rng.choice(np.flatnonzero(self.labels == kind))]
            start = np.rint(centre + rng.uniform(-24, 24, 3) - _CROP / 2).astype(int)
        else:
            start = rng.integers(-WINDOW // 2, np.maximum(self.view.shape, WINDOW) - WINDOW + 1)
        values = self.view.read(start, start + _CROP)
        positions = self.positions - start
        for axis in np.flatnonzero(rng.random(3) < 0.5).tolist():
            values = np.flip(values, axis)
            positions[:, axis] = _CROP - 1 - positions[:, axis]
        values = values * np.float32(rng.uniform(0.8, 1.25))
        values += np.float32(rng.uniform(0, 0.5)) * rng.standard_normal(values.shape, np.float32)
        target = _bells(positions, self.labels, outputs)
        return torch.from_numpy(values)[None], torch.from_numpy(target)


def _bells(
    positions: NDArray[np.floating], labels: NDArray[np.intp], outputs: int
) -> NDArray[np.float32]:
    """Soft target (C, 9, 9, 9): what sits at the centre of each window of a crop."""
    count = _CROP // _STRIDE + 2 * _MARGIN - WINDOW // _STRIDE + 1
    centres = (WINDOW - 1) / 2 + _STRIDE * (np.arange(count) - _MARGIN)
    target = np.zeros((outputs, count, count, count), np.float32)
    for position, label in zip(positions, labels, strict=True):
        z, y, x = (np.exp(-(((centres - p) / _WIDTH) ** 2) / 2) for p in position)
        bell = z[:, None, None] * y[:, None] * x
        np.maximum(target[label], bell, out=target[label])
    particles = target[:-1]
    particles *= particles == particles.max(axis=0)  # the nearest one counts
    target[-1] = 1 - particles.sum(axis=0)
    return target


def _fit(
    network: _Normalised,
    tomograms: Sequence[_Tomogram],
    *,
    minutes: float | None,
    steps: int | None,
    rate: float,
    normalise: bool,
    seed: int,
    progress: Callable[[int, int], None] | None,
    checkpoint: str | Path | None,
) -> int:
    """Train in place; gives the number of steps."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-3, eps=1e-7)
    bias = network.get_parameter("network.classifier.3.bias")
    outputs, where = len(bias), bias.device
    done, spent = _resume(checkpoint, network, optimizer, seed)
    began = saved = time.monotonic() - spent
    network.train()
    try:
        while (share := _share(done, steps, time.monotonic() - began, minutes)) < 1:
            rng = np.random.default_rng((seed, done))
            torch.manual_seed(int(rng.integers(2**31)))  # dropout, the same after going on
            crop, target = tomograms[int(rng.integers(len(tomograms)))].crop(rng, outputs)
            network.norms.train(normalise and share < _FROZEN)
            for group in optimizer.param_groups:
                group["lr"] = rate * _schedule(share)
            loss = focal_loss(network(crop[None].to(where)), target[None].to(where))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            done += 1
            if progress is not None:
                share = _share(done, steps, time.monotonic() - began, minutes)
                progress(done, max(done, round(done / share)))
            if checkpoint is not None and time.monotonic() - saved > _SAVE_EVERY:
                saved = time.monotonic()
                _save(checkpoint, network, optimizer, seed, done, saved - began)
    finally:
        if checkpoint is not None:
            _save(checkpoint, network, optimizer, seed, done, time.monotonic() - began)
    return done


def _share(done: int, steps: int | None, spent: float, minutes: float | None) -> float:
    """How much of the training is done, from 0 to 1."""
    by_steps = done / steps if steps else 0.0
    return max(by_steps, spent / (60 * minutes) if minutes else 0.0)


def _schedule(share: float) -> float:
    """Factor of the learning rate: a short rise, then half a cosine down to zero."""
    return min(1.0, (share + 1e-3) / _WARM_UP) * 0.5 * (1 + float(np.cos(np.pi * share)))


class _Normalised(nn.Module):
    """Training form of a network: outputs of layers are normalised over the crop.

    Plain layers hardly begin to learn from tomograms this noisy. `fold` puts the mean statistics
    into the weights and biases, which leaves the specified network.
    """

    def __init__(self, network: DenseCryoET3DCNN) -> None:
        super().__init__()
        self.network = network
        layers = [m for m in network.modules() if isinstance(m, nn.Conv3d)]
        *convolutions, spread, mix, _ = layers
        self._spread, self._layers = [spread], [*convolutions, mix]  # lists: registered only once
        self.norms = nn.ModuleList(
            nn.BatchNorm3d(layer.out_channels, affine=False, momentum=_MOMENTUM)
            for layer in self._layers
        )

    def forward(self, crops: Tensor) -> Tensor:
        """Logits of crops on the grid of `_bells`."""
        for layer, norm in zip(self._layers, self.norms, strict=True):
            if layer.kernel_size == (1, 1, 1):
                crops = F.conv3d(self._spread[0](F.pad(crops, (_MARGIN,) * 6)), layer.weight)
            else:
                crops = F.max_pool3d(F.conv3d(crops, layer.weight, padding=1), 2)
            crops = F.relu(norm(crops) + _bias(layer)[:, None, None, None])
        _, _, dropout, last = self.network.classifier
        return last(dropout(crops))

    @torch.no_grad()
    def fold(self) -> DenseCryoET3DCNN:
        """Give the plain network that computes the same with the mean statistics."""
        for layer, norm in zip(self._layers, self.norms, strict=True):
            mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            scale = (variance + cast("nn.BatchNorm3d", norm).eps).rsqrt()
            layer.weight.mul_(scale[:, None, None, None, None])
            _bias(layer).sub_(mean * scale)
        return self.network


def _bias(layer: nn.Conv3d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _save(path: str | Path, network: nn.Module, optimizer: Optimizer,
          seed: int, done: int, spent: float) -> None:  # fmt: skip
    from safetensors.torch import save_file

    tensors = {f"model.{key}": value for key, value in network.state_dict().items()}
    for key, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{key}.{name}": value for name, value in moments.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    state = {"seed": str(seed), "steps": str(done), "seconds": str(spent)}
    with write_aside(path) as aside:
        save_file(tensors, aside, metadata=state)


def _resume(path: str | Path | None, network: nn.Module, optimizer: Optimizer,
            seed: int) -> tuple[int, float]:  # fmt: skip
    """Load a checkpoint if there is one; gives its steps and seconds."""
    from safetensors import SafetensorError, safe_open

    if path is None or not Path(path).exists():
        return 0, 0.0
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if about["seed"] != str(seed):
            raise ModelError(f"{path}: belongs to a training with seed {about['seed']}.")
        network.load_state_dict(
            {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        )
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return int(about["steps"]), float(about["seconds"])
    except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
        raise ModelError(
            f"{path}: is not a checkpoint of this training. Remove it to begin anew."
        ) from error


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed torch, and put its state back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _network(kinds: Sequence[ParticleClass], start: Model | None) -> DenseCryoET3DCNN:
    """Dense network to train; outputs of classes that the base knows start from there."""
    network = DenseCryoET3DCNN(len(kinds) + 1, RANK)
    if start is None:
        _look_at_the_centre(network)
        network.get_parameter("classifier.3.bias").data[-1] = _BACKGROUND
        return network
    known = start.network()
    if not isinstance(known, CryoET3DCNN) or known.batch_norm:
        raise ModelError(
            f"Model {start.card.name!r} is no CryoET3DCNN that training can start from."
        )
    base = factor(known, RANK)
    assert base is not None
    rows = {k.name: r for r, k in zip(outputs_of(start.card), start.card.classes, strict=True)}
    state, new = base.state_dict(), network.state_dict()
    for key in ("classifier.3.weight", "classifier.3.bias"):
        for row, kind in enumerate(kinds):
            if kind.name in rows:
                new[key][row] = state[key][rows[kind.name]]
        if start.card.background is not None:
            new[key][-1] = state[key][start.card.background]
    network.load_state_dict({**state, **{k: new[k] for k in new if k.startswith("classifier.3.")}})
    return network


def _look_at_the_centre(network: DenseCryoET3DCNN) -> None:
    """Let the random weights of the 8³ convolution fade towards the border of the window."""
    cells = torch.arange(8) - 3.5
    bell = torch.exp(-((cells / 2) ** 2) / 2)
    envelope = bell[:, None, None] * bell[:, None] * bell
    with torch.no_grad():
        weight = network.get_parameter("classifier.0.0.weight")
        weight.mul_(envelope / envelope.square().mean().sqrt())


def _classes(examples: Sequence[Example], start: Model | None) -> list[ParticleClass]:
    """Classes that occur in the examples; the base's own are described as there."""
    known = {kind.name: kind for kind in start.card.classes} if start is not None else {}
    radii: dict[str, list[float]] = {}
    for _, picks in examples:
        for name in picks.classes:
            own = [] if picks.radii is None else picks.radii[picks.labels == name].tolist()
            radii.setdefault(name, []).extend(own)
    kinds = []
    for n, (name, measured) in enumerate(sorted(radii.items())):
        if name not in known and not measured:
            raise Vox3dError(f"The picks of {name!r} carry no radius; give classes= with one.")
        kinds.append(
            known.get(name)
            or ParticleClass(
                name=name,
                radius=float(np.median(measured)),
                colour=CLASS_COLOURS[n % len(CLASS_COLOURS)],
            )
        )
    return kinds


def _account(
    tomograms: Sequence[_Tomogram], steps: int, start: Model | None, held_out: Sequence[Example]
) -> str:
    """What the card says about the training."""
    particles = sum(len(tomogram.labels) for tomogram in tomograms)
    origin = "random weights" if start is None else f"the model {start.card.name!r}"
    tested = (
        f"thresholds from {len(held_out)} tomograms held out"
        if held_out
        else "thresholds from the training data themselves, so they may be too hopeful"
    )
    return (
        f"{steps} crops of {len(tomograms)} tomograms with {particles} particles, "
        f"starting from {origin}; {tested}."
    )
