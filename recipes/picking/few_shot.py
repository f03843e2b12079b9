"""Measure what a picker learns from a few clicks in one simulated tomogram.

    python recipes/picking/few_shot.py TEMPLATES --run FOLDER

TEMPLATES are those of `tomograms.py`. For each line of the table a picker is trained on clicks 10 Å
beside some particles of a tomogram, all the others of which count as unlabelled, and tested at
the threshold that it comes with: on the rest of that tomogram and on another of the same
signal-to-noise ratio. 26S proteasomes are a class that the default model does not have; ribosomes,
fatty acid synthases and TRiC of about the same size are around them, and 20S proteasomes, which the
default model was taught as one of the others.

Simulated tomograms and the figures of each training are kept in FOLDER; a second call goes on
with what is left, and FOLDER/more_clicks.svg shows F1 over the number of clicks. Minutes are those
of one processor core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from compare import write
from figures import TEST_SNR
from rich.console import Console
from rich.table import Table
from tomograms import CLASSES, NEVER_SHOWN, Example, keep, kept, read_templates, templates

import napari_vox3d as vox
from napari_vox3d import Picks, Volume
from napari_vox3d.models import Model
from napari_vox3d.training.simulation import Template, simulate_tomogram

SHAPE = (184, 256, 256)
SEEDS = {"easy": (9201, 9211), "medium": (9202, 9212), "hard": (9203, 9213)}  # of tomograms
RADII = {"ribosome": CLASSES["6qzp"].radius, "proteasome": 150.0}
CROWD = {"ribosome": 4, "proteasome": 2}  # times as many as of other particles
JITTER = 10.0  # Å: root mean square distance of clicks from particles


class Task(NamedTuple):
    """One line of the table."""

    particle: str
    clicks: int
    base: str  # model, or empty for random weights
    minutes: float


TASKS = (
    Task("ribosome", 10, "default", 1),
    Task("ribosome", 20, "default", 1),
    Task("ribosome", 50, "default", 1),
    Task("proteasome", 10, "default", 2),
    Task("proteasome", 20, "default", 2),
    Task("ribosome", 10, "", 2),
    Task("ribosome", 20, "", 2),
    Task("ribosome", 50, "", 2),
)


def main() -> None:
    """Train and measure what is left, print all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("templates", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="folder for what was measured")
    parser.add_argument("--particles", nargs="+", choices=tuple(RADII), default=tuple(RADII))
    parser.add_argument("--starts", nargs="+", choices=("default", "scratch"), default=("default",))
    parser.add_argument("--tomograms", nargs="+", choices=tuple(TEST_SNR), default=tuple(TEST_SNR))
    parser.add_argument("--seeds", type=int, default=3, help="trainings for each line and tomogram")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.run.mkdir(parents=True, exist_ok=True)
    tasks = [task for task in TASKS if task.particle in options.particles
             and (task.base or "scratch") in options.starts]  # fmt: skip
    runs = [(seed, task, name) for seed in range(options.seeds) for task in tasks
            for name in options.tomograms]  # fmt: skip
    files = {run: options.run / f"{file_stem(*run)}.json" for run in runs}
    for run in [run for run, file in files.items() if not file.exists()]:
        seed, task, name = run
        first, second = (tomogram(options, number, name, task.particle) for number in SEEDS[name])
        trained_on, other = (second, first) if seed % 2 else (first, second)
        figures = measure(task, trained_on, other, seed)
        write(files[run], figures)
        print(file_stem(*run), figures, flush=True)
    results = {run: json.loads(file.read_text()) for run, file in files.items()}
    show(results, tasks, options.tomograms)
    draw(results, options.run / "more_clicks.svg")


def file_stem(seed: int, task: Task, name: str) -> str:
    """Name of the file for one training."""
    return f"{task.particle}-{task.clicks}-{task.base or 'scratch'}-{name}-{seed}"


def tomogram(options: argparse.Namespace, seed: int, name: str, particle: str) -> Example:
    """Tomogram, simulated at its first use, and its particles of one class."""
    path = options.run / f"{seed}.npz"
    if not path.exists():
        volume, truth = simulate_tomogram(
            crowd(options.templates), shape=SHAPE, seed=seed, snr=TEST_SNR[name], crowding=0.35
        )
        keep(path, volume, truth)
    return kept(path, 10.0, {particle: RADII[particle]})


def crowd(folder: Path) -> list[Template]:
    """Templates, the proteasome among the labelled ones, some several times."""
    unseen = read_templates(folder)[NEVER_SHOWN]
    found = [
        replace(each, label="proteasome", radius=RADII["proteasome"])
        if np.array_equal(each.density, unseen)
        else each
        for each in templates(folder)
    ]
    for label, times in CROWD.items():
        found += [each for each in found if each.label == label] * (times - 1)
    return found


def measure(task: Task, trained_on: Example, other: Example, seed: int) -> dict[str, Any]:
    """F1 after a training on a few clicks, at its own and at the best threshold."""
    volume, truth = trained_on
    rng = np.random.default_rng(seed + 17)
    chosen = np.isin(np.arange(len(truth)), rng.choice(len(truth), task.clicks, replace=False))
    places = truth.positions[chosen]
    places = places + rng.normal(size=places.shape) * JITTER / np.sqrt(3)
    clicks = replace(truth.select(chosen), positions=places)
    began = time.process_time()
    model = vox.train_picker(
        [(volume, clicks)],
        base=task.base or None,
        network=None if task.base else "unet",
        labels="some",
        minutes=task.minutes,
        clock=time.process_time,
        device="cpu",
        seed=seed,
    )
    seconds = time.process_time() - began
    own, best = f_of(model, volume, truth.select(~chosen), clicks)
    own_other, best_other = f_of(model, *other)
    return {
        "rest": own,
        "rest, best threshold": best,
        "other": own_other,
        "other, best threshold": best_other,
        "threshold": model.card.classes[0].threshold,
        "CPU seconds": round(seconds, 1),
    }


def f_of(
    model: Model, volume: Volume, truth: Picks, clicks: Picks | None = None
) -> tuple[float, float]:
    """F1 at the model's threshold and at the best one; picks at clicks do not count."""
    found = vox.find_particles(vox.score_particles(volume, model, device="cpu"), threshold=0.02)
    kind = model.card.classes[0]
    if clicks is not None:
        apart = np.linalg.norm(found.positions[:, None] - clicks.positions, axis=-1).min(axis=1)
        found = found.select(apart >= 0.5 * kind.radius)

    def f(threshold: float) -> float:
        kept = found.select(found.scores >= threshold)
        return vox.evaluate_picks(kept, truth).classes[kind.name].f

    return round(f(kind.threshold), 3), round(max(map(f, np.unique(found.scores)), default=0.0), 3)


Results = dict[tuple[int, Task, str], dict[str, Any]]


def show(results: Results, tasks: Sequence[Task], names: Sequence[str]) -> None:
    """Print means over seeds, and the lowest."""
    table = Table("particle", "clicks", "start", "minutes", "tomogram", "rest", "lowest", "at best",
                  "other", "lowest", "at best")  # fmt: skip
    for task in tasks:
        for name in names:
            rows = list(of_line(results, task, name))
            cells = []
            for where in ("rest", "other"):
                own = [row[where] for row in rows]
                best = [row[f"{where}, best threshold"] for row in rows]
                cells += [np.mean(own), np.min(own), np.mean(best)]
            about = (str(task.clicks), task.base or "random weights", f"{task.minutes:g}", name)
            table.add_row(task.particle, *about, *(f"{cell:.2f}" for cell in cells))
    Console(width=140).print(table)


def of_line(results: Results, task: Task, name: str) -> Iterator[dict[str, Any]]:
    """Figures of all seeds for a task and a tomogram."""
    for (_, other, where), figures in results.items():
        if (other, where) == (task, name):
            yield figures


def draw(results: Results, path: Path) -> None:
    """F1 over the number of clicks, for the rest of the tomogram and for another one."""
    from matplotlib import pyplot

    starts = dict.fromkeys((task.particle, task.base) for _, task, _ in results)
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for axis, where in zip(axes, ("rest", "other"), strict=True):
        for particle, base in starts:
            points: dict[int, list[float]] = {}
            for (_, task, _), figures in results.items():
                if (task.particle, task.base) == (particle, base):
                    points.setdefault(task.clicks, []).append(figures[where])
            clicks = sorted(points)
            label = f"{particle}, {base or 'random weights'}"
            axis.plot(clicks, [np.mean(points[n]) for n in clicks], "o-", label=label)
        axis.set(xlabel="clicks", ylabel="F1", ylim=(0, 1), title=f"{where} tomogram")
    axes[0].set_title("rest of the tomogram")
    axes[0].legend(loc="lower right", fontsize="small")
    figure.savefig(path)


if __name__ == "__main__":
    main()
