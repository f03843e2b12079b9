"""Train an ELF network on the shards of `recipes.elf_data`, and write it with its card.

    python -m recipes.elf.train SHARDS OUTPUT --network ckconv --minutes 60 --threads 2

It runs from the root of the repository. OUTPUT gets the prepared crystals (``prepared/``, about
0.3 MB each), the checkpoint, and in the end card and weights; the run can be stopped and started
again with the same options. Over several graphics cards:

    torchrun --nproc-per-node 4 -m recipes.elf.train SHARDS OUTPUT …

Compositions are split by `recipes.elf.crystals.part_of`: some are tested on, some calibrate the
uncertainty, and two pairs of elements never meet in training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from recipes.elf.crystals import DATA, PAIRS, SPACING, Part, prepare, read_parts
from recipes.elf.evaluation import Baselines, evaluate
from rich.progress import Progress, track

from napari_vox3d.inference.device import choose_device
from napari_vox3d.models import MetricTable, Model, Source
from napari_vox3d.networks.catalogue import ARCHITECTURES, find_architecture
from napari_vox3d.training.distributed import Ranks
from napari_vox3d.training.elf import CHANNELS, fitted_model
from napari_vox3d.training.elf_errors import known_range
from napari_vox3d.training.elf_examples import ExampleStore, StoredExample
from napari_vox3d.training.elf_fit import BATCH_VOXELS, fit_elf
from napari_vox3d.training.inputs import counted
from napari_vox3d.training.losses import DEFAULT_TERMS, TERMS, Objective

NAMES = [entry.name for entry in ARCHITECTURES if entry.task == "elf"]
INPUTS: dict[str, Source] = {"atoms": "superposed atoms", "density": "electron density"}


def parser(description: str) -> argparse.ArgumentParser:
    """Options that every training takes."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("shards", type=Path, help="folder with the shards of recipes.elf_data")
    result.add_argument("output", type=Path, help="folder for everything that is made")
    result.add_argument("--size", choices=("small", "large"), default="small")
    result.add_argument("--channels", nargs="+", default=list(CHANNELS))
    result.add_argument("--input", choices=INPUTS, default="atoms", help="what it predicts from")
    result.add_argument("--losses", nargs="+", choices=TERMS, default=list(DEFAULT_TERMS))
    result.add_argument("--fixed-weights", action="store_true", help="losses are simply summed")
    result.add_argument("--pairs", nargs="*", default=PAIRS, help="like Sr-H; none: no pairs")
    result.add_argument("--minutes", type=float, default=30)
    result.add_argument("--threads", type=int, default=1)
    result.add_argument("--device", default="auto")
    result.add_argument("--precision", default="auto")
    result.add_argument("--batch-voxels", type=int, default=BATCH_VOXELS)
    result.add_argument("--rate", type=float, help="highest rate of learning")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--prepared", type=Path, help="folder for prepared crystals")
    return result


def main() -> None:
    """Prepare, train, evaluate, write."""
    options = parser(__doc__.split("\n\n")[0])
    options.add_argument("--network", choices=NAMES, default="ckconv")
    options.add_argument("--set", nargs="*", default=[], metavar="NAME=NUMBER", help="of the net")
    options.add_argument("--name", help="of the model; default: network and size")
    options.add_argument("--default", action="store_true", help="mark as the default model")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    given.output.mkdir(parents=True, exist_ok=True)

    training, elements = prepared(given, "training")
    print(f"{len(training)} crystals to train on")
    architecture = find_architecture(given.network, "elf")
    arguments = architecture.arguments(given.size) | {
        name: int(number) if number.isdecimal() else float(number)
        for name, _, number in (setting.partition("=") for setting in given.set)
    }
    name = given.name or f"{given.network}-{given.size}"
    fitted = fit(given, training, arguments, given.output / "checkpoint.safetensors")
    if fitted is None:
        return
    network, steps = fitted
    learning, checking = (prepared(given, part)[0] for part in ("errors", "calibration"))
    model = fitted_model(
        network,
        name=name,
        arguments=arguments,
        channels=given.channels,
        spacing=SPACING,
        source=INPUTS[given.input],
        learning=learning,
        checking=checking,
        seed=given.seed,
        known=known_range(training, elements),
        training=account(given, len(training), steps),
        title=f"{architecture.title}, {given.size}",
        default=given.default,
        licence="BSD-3-Clause",
        description="Not a VASP ELFCAR: pseudopotentials, valence electrons only, no spin.",
    )
    measured(model, given).save(given.output)


def prepared(given: argparse.Namespace, part: Part) -> tuple[list[StoredExample], set[str]]:
    """Prepare what is not yet prepared of some crystals; and the elements that they have."""
    store = ExampleStore(given.prepared or given.output / "prepared", given.channels, SPACING)
    elements: set[str] = set()
    examples = []
    for crystal in track(read_parts(given.shards, [part], given.pairs), f"Preparing {part}"):
        examples.append(prepare(store, crystal, INPUTS[given.input]))
        elements.update(crystal.structure.atoms.get_chemical_symbols())
    return examples, elements


def fit(
    given: argparse.Namespace,
    training: list[StoredExample],
    arguments: dict[str, object],
    checkpoint: Path,
    **more: object,
) -> tuple[torch.nn.Module, int] | None:
    """Train; None in all processes but the first."""
    with Progress(disable=not Ranks.started().first) as bar:
        task = bar.add_task("Training")

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        fitted = fit_elf(
            training,
            arguments=arguments,
            minutes=given.minutes,
            rate=given.rate,
            losses=given.losses,
            learnt_weights=not given.fixed_weights,
            batch_voxels=given.batch_voxels,
            precision=given.precision,
            device=given.device,
            seed=given.seed,
            checkpoint=checkpoint,
            progress=show,
            **more,
        )
    return fitted if Ranks.started().first else None


def account(given: argparse.Namespace, crystals: int, steps: int) -> str:
    """What the card says about the training."""
    objective = Objective(given.losses, not given.fixed_weights)
    pairs = f", none with both elements of {' or '.join(given.pairs)}" if given.pairs else ""
    return (
        f"{crystals} crystals{pairs}: {DATA}. {steps} steps in {given.minutes:g} minutes on "
        f"{choose_device(given.device)} ({counted(given.threads, 'thread')}); losses: {objective}."
    )


def measured(model: Model, given: argparse.Namespace) -> Model:
    """Model whose card holds its figures beside those of the baselines."""
    baselines = Baselines.of_training(given.shards, given.pairs)
    tables: list[MetricTable] = []
    for part, which in (
        ("test", "compositions held out"),
        ("pairs", f"with both elements of {' or '.join(given.pairs)}, never together in training"),
    ):
        crystals = list(read_parts(given.shards, [part], given.pairs))
        if crystals:
            tables += evaluate(model, crystals, baselines, which)
    for table in tables:
        print(table.data, *table.rows, sep="\n  ")
    return model.with_card(model.card.model_copy(update={"metrics": tables}))


if __name__ == "__main__":
    main()
