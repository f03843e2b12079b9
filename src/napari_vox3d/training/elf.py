"""Training of ELF models on crystals whose true ELF is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.density.grids import interpolate, nearest_shape
from napari_vox3d.errors import Vox3dError
from napari_vox3d.inference.elf import predict_elf
from napari_vox3d.models import ELFInput, MetricTable, Model, ModelCard, NetworkSpec, Source
from napari_vox3d.networks.catalogue import Size, find_architecture
from napari_vox3d.progress import Progress
from napari_vox3d.training.elf_errors import add_error_head, known_range
from napari_vox3d.training.elf_examples import ExampleStore, Prepared, prepare_example
from napari_vox3d.training.elf_fit import fit_elf
from napari_vox3d.training.inputs import counted
from napari_vox3d.training.losses import DEFAULT_TERMS
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from napari_vox3d.networks import ELFPredictor

CHANNELS = ("invariants", "owners")
"""What networks are given unless somebody asks for something else."""
_HOLD_OUT = 5  # one composition in so many
_FOR_A_BAND = 8  # compositions held out that suffice to learn errors from some and check on others


def train_elf(
    elfs: Sequence[Volume],
    *,
    network: str = "ckconv",
    size: Size = "small",
    channels: Sequence[str] = CHANNELS,
    spacing: float = 0.25,
    losses: Sequence[str] | Mapping[str, float] = DEFAULT_TERMS,
    minutes: float | None = None,
    steps: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    cache: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    on_step: Callable[[int, float], None] | None = None,
    stop: Callable[[], bool] | None = None,
    checkpoint: str | Path | None = None,
    name: str = "my-elf",
) -> Model:
    """Train a network to predict the ELF of crystals from their superposed atomic densities.

    With five or more compositions every fifth is held out, all its crystals together, and the
    card's table holds the mean absolute errors on those: of the model, of the Tsirelson–Stash ELF
    and of the median of all values trained on. With fewer the card says that nothing was held out.
    With forty or more, half of those held out are not tested on: a quarter teaches the model how
    far off it may be, and a quarter calibrates that; see `add_error_head`. With fewer the model
    cannot say, and the card says so.

    Parameters
    ----------
    elfs
        True ELFs, periodic and with their atoms, such as read from ELFCAR or cube files.
    network
        Name from `napari_vox3d.networks.catalogue.ARCHITECTURES`: ``"flat-resnet"`` or
        ``"ckconv"``.
    size
        ``"small"`` for a machine without a graphics card, ``"large"`` for one with.
    channels
        What the network is given, see `napari_vox3d.inference.elf_inputs.network_inputs`.
    spacing
        Å between the points of the grids it is trained on.
    losses
        What is minimised, balanced by learnt weights: names, or weights to begin with by name, see
        `napari_vox3d.training.losses.Objective`.
    minutes, steps
        How long to train, whichever ends first; without either 10 minutes. The learning rate
        falls to zero by then.
    device
        As for `napari_vox3d.predict_elf`; under ``torchrun`` each process takes a graphics card.
    precision
        As for `fit_elf`.
    cache
        Folder for prepared crystals: for more of them than memory holds, or to prepare them once
        for several trainings.
    seed
        The same seed and number of steps give the same model on one machine.
    progress
        Called while crystals are prepared, after each step and between the evaluations, with the
        steps done and the expected total; may raise `Cancelled`, which leaves the checkpoint.
    on_step
        Called after each step with its number and the mean absolute error of its batch.
    stop
        Asked before each step: True ends training as if the time were up.
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
        If there is nothing to learn from, an ELF has no atoms, is not periodic or does not lie
        between 0 and 1, an element has no atomic density, or there is no such loss.
    ModelError
        If there is no such network, size or channel, or the checkpoint belongs to another
        training.
    InferenceError
        If the device is not there, or a crystal does not fit in its memory.
    """
    arguments = find_architecture(network, "elf").arguments(size)
    if not elfs:
        raise Vox3dError("There are no ELFs to learn from.")
    if not (np.isfinite(spacing) and spacing > 0):
        raise Vox3dError(f"The grid spacing must be a positive length in Å, not {spacing}.")
    last = (0, steps or 1)

    def report(done: int, total: int) -> None:
        nonlocal last
        last = done, total
        if progress is not None:
            progress(done, total)

    parts = _split(elfs)
    store = None if cache is None else ExampleStore(cache, channels, spacing)

    def prepared(some: Sequence[Volume]) -> list[Prepared]:
        examples: list[Prepared] = []
        for elf in some:
            report(*last)
            examples.append(
                prepare_example(elf, channels, spacing) if store is None else store.prepare(elf)
            )
        return examples

    examples = prepared(parts.training)
    trained, steps_made = fit_elf(
        examples,
        arguments=arguments,
        losses=losses,
        minutes=minutes,
        steps=steps,
        device=device,
        precision=precision,
        seed=seed,
        checkpoint=checkpoint,
        progress=report,
        on_step=on_step,
        stop=stop,
    )
    model = fitted_model(
        trained,
        name=name,
        arguments=arguments,
        channels=channels,
        spacing=spacing,
        learning=prepared(parts.learning),
        checking=prepared(parts.checking),
        seed=seed,
        tick=lambda: report(*last),
        known=known_range(examples, _elements(parts.training)),
        training=_account(parts, steps_made, spacing),
    )
    if not parts.test:
        return model
    median = float(np.median(np.concatenate([e.load().elf.numpy().ravel() for e in examples])))
    tables = _errors(model, parts.test, median, spacing, device, lambda: report(*last))
    return model.with_card(model.card.model_copy(update={"metrics": tables}))


def fitted_model(
    network: ELFPredictor,
    *,
    name: str,
    arguments: dict[str, Any],
    channels: Sequence[str],
    spacing: float,
    training: str,
    source: Source = "superposed atoms",
    learning: Sequence[Prepared] = (),
    checking: Sequence[Prepared] = (),
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
    **fields: Any,
) -> Model:
    """Give a network from `fit_elf` its card, and an error head if there are crystals for it.

    Parameters
    ----------
    network
        As fitted.
    name
        Of the model.
    arguments
        Of the network beside the number of input channels, as given to `fit_elf`.
    channels, spacing
        What the examples were prepared with. The card asks for that spacing only if the network
        knows no other.
    training
        What it was trained on, honestly.
    source
        What the channels were computed from.
    learning, checking, seed, tick
        As for `add_error_head`. Without crystals in both, the model cannot say how far off it may
        be.
    **fields
        Further fields of `ModelCard`; the title is the name by default, the licence that of the
        training data.
    """
    band = None
    if learning and checking:
        network, band = add_error_head(network, arguments, learning, checking, seed, tick)
        arguments = {**arguments, "error_head": True}
    inputs = network.net.stem.get_parameter("0.weight").shape[1]
    card = ModelCard(
        name=name,
        task="elf",
        network=NetworkSpec(name="ELFPredictor", arguments={"in_ch": inputs, **arguments}),
        input=ELFInput(
            spacing=spacing if network.net.knows_one_spacing else None,
            channels=list(channels),
            source=source,
        ),
        training=training,
        uncertainty=band,
        **{"title": name, "licence": "that of its training data", "version": "1"} | fields,
    )
    return Model(card, network.state_dict())


@dataclass(frozen=True)
class _Parts:
    """What is trained on, tested on, and what an error head learns from and is checked with."""

    training: list[Volume]
    test: list[Volume]
    learning: list[Volume]
    checking: list[Volume]


def _split(elfs: Sequence[Volume]) -> _Parts:
    """Hold out every fifth composition, in the order in which they come."""
    compositions = [_composition(elf) for elf in elfs]
    held = list(dict.fromkeys(compositions))[_HOLD_OUT - 1 :: _HOLD_OUT]
    learning, checking = (held[1::4], held[3::4]) if len(held) >= _FOR_A_BAND else ([], [])
    test = [each for each in held if each not in (*learning, *checking)]

    def of(chosen: Sequence[str]) -> list[Volume]:
        return [elf for elf, c in zip(elfs, compositions, strict=True) if c in chosen]

    training = [each for each in dict.fromkeys(compositions) if each not in held]
    return _Parts(of(training), of(test), of(learning), of(checking))


def _elements(elfs: Sequence[Volume]) -> set[str]:
    return {s for elf in elfs if elf.atoms is not None for s in elf.atoms.get_chemical_symbols()}


def _composition(elf: Volume) -> str:
    """Reduced formula, the elements in one order."""
    if elf.atoms is None:
        return ""  # refused when it is prepared
    reduced, _ = elf.atoms.symbols.formula.reduce()
    return str(reduced.convert("hill"))


def _errors(
    model: Model,
    held_out: Sequence[Volume],
    median: float,
    spacing: float,
    device: str,
    tick: Callable[[], None],
) -> list[MetricTable]:
    """Mean absolute errors on crystals that were not trained on, and of two simple guesses.

    A second table tells what the band around the ELF covers, if there is one.
    """
    silent = model.without_known_range()
    errors: list[tuple[float, float, float]] = []
    covered: list[float] = []
    for elf in held_out:
        shape = nearest_shape(elf.lattice, spacing)
        true = interpolate(np.asarray(elf.values, np.float64), shape)
        run: Callable[..., Any] = partial(
            predict_elf, elf, shape=shape, device=device, progress=lambda *_: tick()
        )
        if silent.card.uncertainty is None:
            predicted = run(silent)
        else:
            predicted, band = run(silent, uncertainty=True)
            covered.append(float((np.abs(predicted.values - true) <= band.values).mean()))
        guesses = (predicted.values, run("promolecule").values, median)
        mean = [float(np.abs(guess - true).mean()) for guess in guesses]
        errors.append((mean[0], mean[1], mean[2]))
    names = (model.card.name, "Tsirelson–Stash", "global median")
    crystals = (
        f"{counted(len(held_out), 'crystal')} of "
        f"{counted(len({_composition(elf) for elf in held_out}), 'held-out composition')}"
    )
    table = MetricTable(
        data=f"MAE of the ELF over the points of grids of {spacing:g} Å, mean over {crystals}",
        rows=[
            {"predictor": name, "all": round(float(value), 4)}
            for name, value in zip(names, np.mean(errors, axis=0), strict=True)
        ],
    )
    if not covered:
        return [table]
    share = round(float(np.mean(covered)), 3)
    inside = MetricTable(
        data=f"The 90 % band, mean over {crystals}", rows=[{"share of the points within": share}]
    )
    return [table, inside]


def _account(parts: _Parts, steps: int, spacing: float) -> str:
    """What the card says about the training."""
    compositions = len({_composition(elf) for elf in parts.training})
    others = parts.test + parts.learning + parts.checking
    tested = (
        f"{counted(len(others), 'crystal')} of other compositions held out"
        if others
        else "nothing was held out, so how good it is is not known"
    )
    band = (
        ""
        if parts.learning
        else " It cannot say how far off it may be at a point: that takes "
        f"{_FOR_A_BAND * _HOLD_OUT} compositions."
    )
    return (
        f"{counted(steps, 'step')} on {counted(len(parts.training), 'crystal')} of "
        f"{counted(compositions, 'composition')}, grids of {spacing:g} Å; {tested}.{band}"
    )
