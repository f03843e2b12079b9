"""Train every ELF network for the same time and compare them on held-out chemical systems.

    python recipes/elf/compare.py PAIRS --reserved LIST --minutes 10 --run FOLDER

PAIRS, the split and the baselines are those of `train.py`. Each network is trained in its small
size on the same crystals for the same CPU time, and its figures are written to FOLDER/NETWORK.json
as soon as it is measured; a second call goes on with the networks that are left, from where an
interrupted training stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table
from train import NAMES, SPACING, Crystal, read_crystals, split

import napari_vox3d as vox
from napari_vox3d.formats import write_aside
from napari_vox3d.models import Model
from napari_vox3d.networks.catalogue import find_architecture
from napari_vox3d.training.elf import fitted_model
from napari_vox3d.training.elf_fit import Example, fit_elf, prepare_example

CHANNELS = ["invariants"]
TIMED = (48, 48, 48)


def main() -> None:
    """Train what is left, print all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--reserved", type=Path, help="list of compositions to leave out")
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument("--minutes", type=float, default=10, help="CPU time of each training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, required=True, help="folder for results and states")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.run.mkdir(parents=True, exist_ok=True)

    left = [name for name in options.networks if not result_file(options.run, name).exists()]
    baselines = options.run / "baselines.json"
    if left or not baselines.exists():
        training, held_out = split(read_crystals(options.pairs, options.reserved))
        if not baselines.exists():
            write(baselines, measure_baselines(training, held_out))
        examples = [
            prepare_example(crystal.elf, CHANNELS, SPACING)
            for crystal in track(training if left else [], "Preparing")
        ]
        for name in left:
            write(result_file(options.run, name), compare(name, examples, held_out, options))
    show(
        json.loads(baselines.read_text()),
        [json.loads(result_file(options.run, name).read_text()) for name in options.networks],
    )


def result_file(folder: Path, name: str) -> Path:
    """Where the figures of a network are."""
    return folder / f"{name}.json"


def write(path: Path, figures: Any) -> None:
    """Write JSON aside, then rename."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(figures, indent=2) + "\n")


def compare(
    name: str, examples: Sequence[Example], held_out: Sequence[Crystal], options: argparse.Namespace
) -> dict[str, Any]:
    """Train and measure one network."""
    arguments = find_architecture(name, "elf").arguments(options.size)
    with Progress() as bar:
        task = bar.add_task(name)
        network, steps = fit_elf(
            examples,
            arguments=arguments,
            minutes=options.minutes,
            clock=time.process_time,
            device="cpu",
            seed=options.seed,
            checkpoint=options.run / f"{name}.safetensors",
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    model = fitted_model(
        network,
        name=name,
        arguments=arguments,
        channels=CHANNELS,
        spacing=SPACING,
        training=f"{len(examples)} crystals, {options.minutes:g} minutes of processor time.",
    )
    errors = [error(model, crystal) for crystal in track(held_out, "Evaluating")]
    return {
        "network": name,
        "size": options.size,
        "arguments": arguments,
        "minutes": options.minutes,
        "threads": options.threads,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "steps": steps,
        "seconds at 48³": round(seconds(model), 3),
        **summary(errors),
    }


def error(model: Model | str, crystal: Crystal) -> float:
    """Mean absolute error over the points of the crystal's own grid."""
    predicted = vox.predict_elf(crystal.elf, model, device="cpu").values
    return float(np.abs(predicted - crystal.elf.values).mean())


def summary(errors: Sequence[float]) -> dict[str, float]:
    """Mean and median over crystals."""
    return {"MAE": round(float(np.mean(errors)), 4), "median": round(float(np.median(errors)), 4)}


def seconds(model: Model) -> float:
    """Time of the network alone on 48³ points of 0.2 Å, the faster of two passes."""
    inputs = torch.rand(1, model.card.network.arguments["in_ch"], *TIMED)
    lattice = 0.2 * TIMED[0] * torch.eye(3)[None]
    network, times = model.network(), []
    for _ in range(2):
        start = time.perf_counter()
        with torch.inference_mode():
            network(inputs, lattice)
        times.append(time.perf_counter() - start)
    return min(times)


def measure_baselines(
    training: Sequence[Crystal], held_out: Sequence[Crystal]
) -> dict[str, dict[str, float]]:
    """Errors of guesses that need no training; they do not depend on the networks."""
    median = np.median(np.concatenate([crystal.elf.values.ravel() for crystal in training]))
    constant = [float(np.abs(crystal.elf.values - median).mean()) for crystal in held_out]
    promolecular = [error("promolecule", crystal) for crystal in track(held_out, "Baselines")]
    return {"global median": summary(constant), "Tsirelson–Stash": summary(promolecular)}


def show(baselines: dict[str, dict[str, float]], results: Sequence[dict[str, Any]]) -> None:
    """Print one table."""
    table = Table(title="MAE of the ELF on held-out chemical systems")
    for column in ("predictor", "parameters", "steps", "MAE", "median", "seconds at 48³"):
        table.add_column(column, justify="left" if column == "predictor" else "right")
    for name, figures in baselines.items():
        table.add_row(name, "", "", f"{figures['MAE']:.4f}", f"{figures['median']:.4f}", "")
    for result in results:
        table.add_row(
            result["network"],
            f"{result['parameters']:,}",
            f"{result['steps']:,}",
            f"{result['MAE']:.4f}",
            f"{result['median']:.4f}",
            f"{result['seconds at 48³']:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
