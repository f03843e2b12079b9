"""Training of ELF models on crystals whose true ELF is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.density.grids import interpolate, nearest_shape
from napari_vox3d.errors import Vox3dError
from napari_vox3d.inference.elf import predict_elf
from napari_vox3d.models import ELFInput, MetricTable, Model, ModelCard, NetworkSpec, Source
from napari_vox3d.networks.catalogue import Size, find_architecture
from napari_vox3d.training.elf_errors import known_range
from napari_vox3d.training.elf_examples import ExampleStore, Prepared, prepare_example
from napari_vox3d.training.elf_fit import fit_elf
from napari_vox3d.training.loop import Progress
from napari_vox3d.training.losses import DEFAULT_TERMS
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from napari_vox3d.networks import ELFPredictor

_HOLD_OUT = 5  # one composition in so many


def train_elf(
    elfs: Sequence[Volume],
    *,
    network: str = "ckconv",
    size: Size = "small",
    channels: Sequence[str] = ("invariants",),
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

    training, held_out = _split(elfs)
    store = None if cache is None else ExampleStore(cache, channels, spacing)
    examples: list[Prepared] = []
    for elf in training:
        report(*last)
        examples.append(
            prepare_example(elf, channels, spacing) if store is None else store.prepare(elf)
        )
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
        known=known_range(examples, _elements(training)),
        training=_account(training, held_out, steps_made, spacing),
    )
    if not held_out:
        return model
    median = float(np.median(np.concatenate([e.load().elf.numpy().ravel() for e in examples])))
    table = _errors(model, held_out, median, spacing, device, lambda: report(*last))
    return model.with_card(model.card.model_copy(update={"metrics": [table]}))


def fitted_model(
    network: ELFPredictor,
    *,
    name: str,
    arguments: dict[str, Any],
    channels: Sequence[str],
    spacing: float,
    training: str,
    source: Source = "superposed atoms",
    **fields: Any,
) -> Model:
    """Give a network from `fit_elf` its card.

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
    **fields
        Further fields of `ModelCard`; the title is the name by default, the licence that of the
        training data.
    """
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
        **{"title": name, "licence": "that of its training data", "version": "1"} | fields,
    )
    return Model(card, network.state_dict())


def _split(elfs: Sequence[Volume]) -> tuple[list[Volume], list[Volume]]:
    """Hold out every fifth composition, in the order in which they come."""
    compositions = [_composition(elf) for elf in elfs]
    held = set(list(dict.fromkeys(compositions))[_HOLD_OUT - 1 :: _HOLD_OUT])
    pairs = list(zip(elfs, compositions, strict=True))
    return [elf for elf, c in pairs if c not in held], [elf for elf, c in pairs if c in held]


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
) -> MetricTable:
    """Mean absolute errors on crystals that were not trained on, and of two simple guesses."""
    # Held-out crystals are meant to be new to the model: nothing to be warned of.
    silent = model.with_card(model.card.model_copy(update={"known": None}))
    errors: list[tuple[float, float, float]] = []
    for elf in held_out:
        shape = nearest_shape(elf.lattice, spacing)
        true = interpolate(np.asarray(elf.values, np.float64), shape)
        predicted, promolecular = (
            predict_elf(elf, each, shape=shape, device=device, progress=lambda *_: tick()).values
            for each in (silent, "promolecule")
        )
        mean = [float(np.abs(guess - true).mean()) for guess in (predicted, promolecular, median)]
        errors.append((mean[0], mean[1], mean[2]))
    names = (model.card.name, "Tsirelson–Stash", "global median")
    return MetricTable(
        data=f"MAE of the ELF over the points of grids of {spacing:g} Å, mean over {len(held_out)} "
        f"crystals of {len({_composition(elf) for elf in held_out})} held-out compositions",
        rows=[
            {"predictor": name, "all": round(float(value), 4)}
            for name, value in zip(names, np.mean(errors, axis=0), strict=True)
        ],
    )


def _account(
    training: Sequence[Volume], held_out: Sequence[Volume], steps: int, spacing: float
) -> str:
    """What the card says about the training."""
    compositions = len({_composition(elf) for elf in training})
    tested = (
        f"{len(held_out)} crystals of other compositions were held out"
        if held_out
        else "nothing was held out, so how good it is is not known"
    )
    return (
        f"{steps} steps on {len(training)} crystals of {compositions} compositions, "
        f"grids of {spacing:g} Å; {tested}."
    )
