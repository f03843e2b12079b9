"""Commands of `vox3d` about training: train, train-elf, evaluate, networks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError
from napari_vox3d.formats.aside import write_csv
from napari_vox3d.formats.pick_formats import pick_format_by_name
from napari_vox3d.networks.catalogue import ARCHITECTURES, find_architecture
from napari_vox3d.terminal import (
    Device,
    VoxelSize,
    err,
    numbers_by_class,
    one_line_errors,
    out,
    print_rows,
    progress_bar,
)
from napari_vox3d.training.drafts import Draft, free_name
from napari_vox3d.training.evaluation import (
    CZII_RADII,
    czii_score,
    pair_tomograms,
    table_rows,
)
from napari_vox3d.training.inputs import (
    known_radii,
    particle_classes,
    read_examples,
    read_true_elfs,
)

if TYPE_CHECKING:
    from napari_vox3d.models import ModelCard, ParticleClass
    from napari_vox3d.training.inputs import Example


def _names(task: str) -> str:
    return ", ".join(entry.name for entry in ARCHITECTURES if entry.task == task)


Size = Annotated[
    str, typer.Option(help="small, for a laptop, or large, for a machine with a graphics card.")
]
Minutes = Annotated[
    float | None,
    typer.Option(min=0.01, help="How long to train. Default: 10, unless steps are given."),
]
Steps = Annotated[int | None, typer.Option(min=1, help="How many steps to train at most.")]
Seed = Annotated[
    int, typer.Option(help="The same seed and steps give the same model on one machine.")
]
Folder = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder of the new model. Default: among your models."),
]
Name = Annotated[
    str | None, typer.Option(help="Name of the new model. Default: the folder's, or a free one.")
]


def train(
    tomograms: Annotated[
        list[Path], typer.Argument(help="Tomograms whose particles are known.", show_default=False)
    ],
    picks: Annotated[
        list[Path],
        typer.Option(
            help="Pick file; repeat it for each tomogram in the same order, or give one file with "
            "the picks of all."
        ),
    ],
    labels: Annotated[
        Literal["all", "some"],
        typer.Option(
            help="all: unpicked places are empty; some: there may be particles there too, as "
            "after a few clicks."
        ),
    ] = "all",
    network: Annotated[
        str | None,
        typer.Option(help=f"Begin with this network and random weights: {_names('picking')}."),
    ] = None,
    size: Size = "small",
    base: Annotated[
        str | None,
        typer.Option(help="Begin with this model: name, folder or file. Default: default."),
    ] = None,
    radius: Annotated[
        list[str] | None,
        typer.Option(help="Radius in Å where the picks carry none, or CLASS=Å (repeat it)."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--class", help="Learn only this class (repeat for several)."),
    ] = None,
    contrast: Annotated[
        Literal["dark", "bright", "auto"] | None,
        typer.Option(help="How particles look; auto finds out. Default: as the base expects."),
    ] = None,
    voxel_size: VoxelSize = None,
    minutes: Minutes = None,
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = "auto",
    output: Folder = None,
    name: Name = None,
) -> None:
    """Train a picker on tomograms with known particles.

    Ctrl-C keeps what was learnt; the same command goes on from there.
    """
    if network is not None and base is not None:
        raise typer.BadParameter("--base and --network: give one of them.")
    radii = numbers_by_class(radius)
    with one_line_errors():
        draft = _draft(name, output, "my-picker")
        start: dict[str, Any] = {"base": base or "default"}
        known: list[ParticleClass] = []
        if network is None:
            known = vox.load_model(start["base"], task="picking").card.classes
        else:
            _check_network(network, "picking", size)
            start = {"network": network, "size": size}
        examples = read_examples(tomograms, picks, voxel_size)
        sizes = _radii(examples, known, radii)
        _check_classes(only or (), sizes)
        sizes = {name: size for name, size in sizes.items() if only is None or name in only}
        classes = particle_classes(sizes, known)
        _train(draft, vox.train_picker, examples, classes=classes, labels=labels, **start,
               contrast=contrast, minutes=minutes, steps=steps, seed=seed,
               device=device)  # fmt: skip


def train_elf(
    elfs: Annotated[
        list[Path],
        typer.Argument(
            help="True ELFs with atoms: ELFCAR or cube files, shards, or folders of them.",
            show_default=False,
        ),
    ],
    network: Annotated[str, typer.Option(help=f"Network to train: {_names('elf')}.")] = "ckconv",
    size: Size = "small",
    losses: Annotated[
        list[str] | None,
        typer.Option(
            help="What is minimised: voxel, gradient, cdf or soft-cdf, peak; or NAME=WEIGHT "
            "(repeat it). Default: voxel, gradient, cdf and peak."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for prepared crystals, if they are too many for the memory."),
    ] = None,
    minutes: Minutes = None,
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = "auto",
    output: Folder = None,
    name: Name = None,
) -> None:
    """Train an ELF model on crystals whose true ELF is known.

    Ctrl-C keeps what was learnt; the same command goes on from there. Over several graphics cards:
    torchrun --nproc-per-node 4 --no-python vox3d train-elf …
    """
    with one_line_errors():
        draft = _draft(name, output, "my-elf")
        _check_network(network, "elf", size)
        options: dict[str, Any] = {"network": network, "size": size, "minutes": minutes,
                                   "steps": steps, "seed": seed, "device": device}  # fmt: skip
        if losses:
            options["losses"] = _weights(losses)
        if cache is not None:
            options["cache"] = cache
        volumes = read_true_elfs(elfs)
        if os.environ.get("RANK", "0") != "0":  # torchrun started it to help the first process
            vox.train_elf(volumes, checkpoint=draft.checkpoint, name=draft.name, **options)
            return
        _train(draft, vox.train_elf, volumes, **options)


def _weights(losses: list[str]) -> dict[str, float]:
    """Weights by name, from NAME or NAME=WEIGHT."""
    weights = {}
    for text in losses:
        name, _, weight = text.partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise typer.BadParameter(f"{text!r}: give NAME or NAME=WEIGHT.") from None
    return weights


def evaluate(
    picks: Annotated[
        Path, typer.Argument(help="Picks to judge: a file of any number of tomograms, or a folder.")
    ],
    truth: Annotated[Path, typer.Argument(help="Picks that are known to be true, likewise.")],
    radius: Annotated[
        list[str] | None,
        typer.Option(
            help="Å within which a pick is right, or CLASS=Å (repeat it). Default: half the "
            "radius that the true picks carry."
        ),
    ] = None,
    beta: Annotated[float, typer.Option(help="Weight of recall in F; 4 for the CZII score.")] = 1.0,
    czii: Annotated[
        bool, typer.Option("--czii", help="Radii and β of the CZII challenge, and its score.")
    ] = False,
    volume: Annotated[
        Path | None, typer.Option(help="Their tomogram, if the files need its voxel size or name.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the table, as CSV.")
    ] = None,
) -> None:
    """Compare picks with the truth: precision, recall and F of each class.

    Tomograms of several are paired by name; counts are summed over them.
    """
    if czii and radius:
        raise typer.BadParameter("--czii and --radius: give one of them.")
    radii = numbers_by_class(radius)
    if czii:
        radii, beta = {name: size / 2 for name, size in CZII_RADII.items()}, 4.0
    with one_line_errors():
        tomogram = None if volume is None else vox.read_volume(volume)
        found, true = pair_tomograms(*(_to_judge(path, tomogram) for path in (picks, truth)))
        scores = vox.evaluate_picks(found, true, radius=radii, beta=beta)
        rows = table_rows(scores)
        print_rows([
            {name: f"{value:.3f}" if isinstance(value, float) else value
             for name, value in row.items()}
            for row in rows[:-1]
        ])  # fmt: skip
        out.print(f"mean F{beta:g} {scores.mean_f:.3f}", highlight=False)
        if beta == 4 and CZII_RADII.keys() & scores.classes.keys():
            out.print(f"CZII score {czii_score(found, true):.3f}", highlight=False)
        if output is not None:
            write_csv(output, [rows[0], *(row.values() for row in rows)])


def _to_judge(path: Path, tomogram: vox.Volume | None) -> list[vox.Picks]:
    """Picks of one tomogram, or of each that a file or the files of a folder hold."""
    if tomogram is not None:
        return [vox.read_picks(path, tomogram)]
    if not path.is_dir():
        return vox.read_pick_collection(path)
    files = [file for file in sorted(path.iterdir()) if pick_format_by_name(file)]
    if not files:
        raise Vox3dError(f"There are no pick files in {path}.")
    parts = [
        part if part.tomogram else replace(part, tomogram=file.stem)
        for file in files
        for part in vox.read_pick_collection(file)
    ]
    by_name: dict[str, list[vox.Picks]] = {}  # formats of one class have a file for each
    for part in parts:
        by_name.setdefault(part.tomogram, []).append(part)
    return [vox.Picks.concatenate(same) for same in by_name.values()]


def networks() -> None:
    """List the networks that can be trained."""
    table = Table("name", "for", "network", "when to take it")
    for entry in ARCHITECTURES:
        table.add_row(entry.name, entry.task, entry.title, entry.about)
    out.print(table)


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "train-elf": train_elf,
    "evaluate": evaluate,
    "networks": networks,
}


def _draft(name: str | None, folder: Path | None, stem: str) -> Draft:
    if name is None:
        name = free_name(stem) if folder is None else folder.resolve().name
    return Draft.named(name, folder)


def _check_network(name: str, task: Literal["elf", "picking"], size: Any) -> None:
    """Refuse what is not there before anything is read."""
    find_architecture(name, task).arguments(size)


def _check_classes(names: Iterable[str], known: Mapping[str, object]) -> None:
    if unknown := set(names).difference(known):
        these, others = ", ".join(sorted(unknown)), ", ".join(known)
        raise Vox3dError(f"There are no picks of {these}; the classes are {others}.")


def _radii(
    examples: list[Example], known: list[ParticleClass], given: float | dict[str, float] | None
) -> dict[str, float | None]:
    """Radius of each class: the one given for it, else what is known, else the one for all."""
    radii = known_radii((picks for _, picks in examples), known)
    if isinstance(given, dict):
        _check_classes(given, radii)
        return {**radii, **given}
    return {name: radius or given for name, radius in radii.items()}


def _train(draft: Draft, function: Callable[..., vox.Model], *args: Any, **kwargs: Any) -> None:
    if draft.checkpoint.exists():
        err.print(f"Going on from {draft.checkpoint}.", highlight=False, soft_wrap=True)
    try:
        with progress_bar(f"Training {draft.name}") as bar:
            model = draft.train(function, *args, progress=bar, on_step=bar.on_step, **kwargs)
    except KeyboardInterrupt:
        kept = draft.checkpoint.exists()
        said = f"what was learnt is kept in {draft.checkpoint}; give the same command to go on"
        err.print(f"Stopped; {said if kept else 'nothing had been learnt yet'}.",
                  highlight=False, soft_wrap=True)  # fmt: skip
        raise typer.Exit(130) from None
    _print_result(model.card, draft)


def _print_result(card: ModelCard, draft: Draft) -> None:
    if card.classes:
        print_rows([{"class": kind.name, "radius (Å)": kind.radius, "threshold": kind.threshold}
                    for kind in card.classes])  # fmt: skip
    for table in card.metrics:
        print_rows(list(table.rows), table.data)
    out.print(card.training, highlight=False)
    listed = draft.folder == vox.models.user_folder() / draft.name
    command = "pick" if card.task == "picking" else "elf"
    use = f"vox3d {command} --model {draft.name if listed else draft.folder} …"
    out.print(f"Saved in {draft.folder}. Use it: {use}", highlight=False, soft_wrap=True)
