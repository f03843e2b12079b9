"""Train every picking network for the same time and compare them on tomograms never seen.

    python recipes/picking/compare.py TEMPLATES --minutes 10 --run FOLDER

TEMPLATES and the tomograms to train on are the first of those of `tomograms.py`; the test
tomograms are of seeds of their own. Each network is trained in one size on the same tomograms for
the same CPU time, and its figures are written to FOLDER/NETWORK.json as soon as it is measured; a
second call goes on with the networks that are left, from where an interrupted training stopped.
Simulated tomograms are kept in FOLDER too.
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
from figures import PLAIN, TEST_SNR, Row, Tests, measure, unseen
from rich.console import Console
from rich.table import Table
from tomograms import CLASSES, Example, tomograms

import napari_vox3d as vox
from napari_vox3d import Volume
from napari_vox3d.errors import Cancelled
from napari_vox3d.formats import write_aside
from napari_vox3d.models import Model
from napari_vox3d.networks.catalogue import ARCHITECTURES

NAMES = [entry.name for entry in ARCHITECTURES if entry.task == "picking"]
TESTED = 7000  # seed of the first test tomogram
LEARNT = 25  # tomograms of `tomograms.py`, every fifth of them held out
TIMED = 8  # steps from which the time of a step is taken, the first two left out


def main() -> None:
    """Train and measure what is left, print all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("templates", type=Path)
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument("--minutes", type=float, default=10, help="CPU time of each training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", type=Path, required=True, help="folder for results and states")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.run.mkdir(parents=True, exist_ok=True)

    left = [name for name in options.networks if not result_file(options.run, name).exists()]
    if left:
        kept = options.run / "tomograms"
        kept.mkdir(exist_ok=True)
        examples = tomograms(options.templates, kept, LEARNT)
        tests = unseen(options.templates, kept, TESTED, **PLAIN)
        for name in left:
            model, about = train(name, examples, options)
            figures = {**about, **figures_of(model, tests)}
            write(result_file(options.run, name), figures)
    show([json.loads(result_file(options.run, name).read_text()) for name in options.networks])


def train(
    name: str, examples: list[Example], options: argparse.Namespace
) -> tuple[Model, dict[str, Any]]:
    """Train a network for as many steps as fit in the CPU time."""
    plan = options.run / f"{name}.plan.json"
    checkpoint = options.run / f"{name}.safetensors"

    def fit(steps: int, **calls: Any) -> Model:
        return vox.train_picker(
            examples,
            network=name,
            size=options.size,
            classes=list(CLASSES.values()),
            steps=steps,
            device="cpu",
            checkpoint=checkpoint,
            name=name,
            **calls,
        )

    if not plan.exists():
        seconds = seconds_of_a_step(fit)
        steps = max(TIMED, round(60 * options.minutes / seconds))
        write(plan, {"network": name, "steps": steps, "CPU seconds per step": round(seconds, 3)})
    about = json.loads(plan.read_text())
    losses: list[float] = []

    def note(step: int, loss: float) -> None:
        losses.append(loss)
        if step % 50 == 0:
            print(f"{name}: step {step} of {about['steps']}, loss {np.mean(losses[-50:]):.4f}")

    model = fit(about["steps"], on_step=note)
    parameters = sum(weight.numel() for weight in model.network().parameters())
    return model, {**about, "parameters": parameters}


def seconds_of_a_step(fit: Any) -> float:
    """CPU seconds of a step; the steps taken meanwhile are the first of the training."""
    times: list[float] = []

    def tick(_step: int, _loss: float) -> None:
        times.append(time.process_time())
        if len(times) == TIMED:
            raise Cancelled

    try:
        fit(10**6, on_step=tick)
    except Cancelled:
        return (times[-1] - times[1]) / (TIMED - 2)
    raise AssertionError("a training of a million steps was not cancelled")


def figures_of(model: Model, tests: Tests) -> dict[str, Any]:
    """F, CZII score and time on the tests, at the thresholds that the model comes with."""
    seconds: list[float] = []

    def score(volume: Volume) -> list[Volume]:
        began = time.process_time()
        maps = vox.score_particles(volume, model, device="cpu")
        seconds.append(time.process_time() - began)
        return maps

    chosen = {kind.name: kind.threshold for kind in model.card.classes}
    rows: list[Row] = list(measure(score, tests, {1.0: chosen, 4.0: chosen}))
    return {
        "CPU seconds per tomogram": round(float(np.mean(seconds)), 2),
        "mean F1": [row["mean"] for row in rows if "mean" in row],
        "CZII score": [row["CZII score"] for row in rows if "CZII score" in row],
        "rows": rows,
    }


def result_file(folder: Path, name: str) -> Path:
    """Where the figures of a network are."""
    return folder / f"{name}.json"


def write(path: Path, figures: Any) -> None:
    """Write JSON aside, then rename."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(figures, indent=2) + "\n")


def show(results: Sequence[dict[str, Any]]) -> None:
    """Print one row for each network."""
    table = Table("network", "parameters", "steps", *(f"F1 {n}" for n in TEST_SNR),
                  *(f"CZII {n}" for n in TEST_SNR), "CPU-s per tomogram")  # fmt: skip
    for result in results:
        table.add_row(
            result["network"],
            f"{result['parameters']:,}",
            str(result["steps"]),
            *(f"{figure:.2f}" for what in ("mean F1", "CZII score") for figure in result[what]),
            f"{result['CPU seconds per tomogram']:.1f}",
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
