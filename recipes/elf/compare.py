"""Train every ELF network for the same time and compare them on held-out compositions.

    python -m recipes.elf.compare SHARDS FOLDER --minutes 10

Crystals, parts and baselines are those of `recipes.elf.train`, whose options it takes. Each network
is trained in one size on the same crystals for the same CPU time, and its figures are written to
FOLDER/NETWORK.json as soon as it is measured; a second call goes on with the networks that are
left, from where an interrupted training stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from recipes.elf.crystals import SPACING, read_parts
from recipes.elf.evaluation import Baselines, evaluate
from recipes.elf.train import INPUTS, NAMES, account, fit, parser, prepared
from recipes.elf_data.shards import Crystal
from rich.console import Console
from rich.table import Table

from napari_vox3d.formats import write_aside
from napari_vox3d.models import Model
from napari_vox3d.networks.catalogue import find_architecture
from napari_vox3d.training.elf import fitted_model
from napari_vox3d.training.elf_examples import StoredExample

TIMED = (48, 48, 48)


def main() -> None:
    """Train what is left, print all."""
    options = parser(__doc__.split("\n\n")[0])
    options.add_argument("--networks", nargs="+", choices=NAMES, default=NAMES)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    given.output.mkdir(parents=True, exist_ok=True)

    left = [name for name in given.networks if not result_file(given.output, name).exists()]
    if left:
        training, _ = prepared(given, "training")
        baselines = Baselines.of_training(given.shards, given.pairs)
        held_out = list(read_parts(given.shards, ["test"], given.pairs))
        for name in left:
            figures = compare(name, training, held_out, baselines, given)
            with write_aside(result_file(given.output, name)) as aside:
                aside.write_text(json.dumps(figures, indent=2) + "\n")
    show([json.loads(result_file(given.output, name).read_text()) for name in given.networks])


def result_file(folder: Path, name: str) -> Path:
    """Where the figures of a network are."""
    return folder / f"{name}.json"


def compare(
    name: str,
    training: list[StoredExample],
    held_out: Sequence[Crystal],
    baselines: Baselines,
    given: argparse.Namespace,
) -> dict[str, Any]:
    """Train and measure one network."""
    arguments = find_architecture(name, "elf").arguments(given.size)
    checkpoint = given.output / f"{name}.safetensors"
    fitted = fit(given, training, arguments, checkpoint, clock=time.process_time)
    assert fitted is not None
    network, steps = fitted
    model = fitted_model(
        network,
        name=name,
        arguments=arguments,
        channels=given.channels,
        spacing=SPACING,
        source=INPUTS[given.input],
        training=account(given, len(training), steps),
    )
    table, *_ = evaluate(model, held_out, baselines, "compositions held out")
    return {
        "network": name,
        "size": given.size,
        "arguments": arguments,
        "minutes": given.minutes,
        "threads": given.threads,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "steps": steps,
        "seconds at 48³": round(seconds(model), 3),
        "data": table.data,
        "rows": table.rows,
    }


def seconds(model: Model) -> float:
    """Time of the network alone on 48³ points of 0.2 Å, the faster of two passes."""
    assert model.card.network is not None
    inputs = torch.rand(1, model.card.network.arguments["in_ch"], *TIMED)
    lattice = 0.2 * TIMED[0] * torch.eye(3)[None]
    network, times = model.network(), []
    for _ in range(2):
        start = time.perf_counter()
        with torch.inference_mode():
            network(inputs, lattice)
        times.append(time.perf_counter() - start)
    return min(times)


def show(results: Sequence[dict[str, Any]]) -> None:
    """Print one table."""
    table = Table(title="MAE of the ELF on held-out compositions")
    for column in ("predictor", "parameters", "steps", "MAE", "median", "seconds at 48³"):
        table.add_column(column, justify="left" if column == "predictor" else "right")
    for row in results[0]["rows"][:-1]:
        table.add_row(row["predictor"], "", "", f"{row['all']:.4f}", f"{row['median']:.4f}", "")
    for result in results:
        own = result["rows"][-1]
        table.add_row(
            result["network"],
            f"{result['parameters']:,}",
            f"{result['steps']:,}",
            f"{own['all']:.4f}",
            f"{own['median']:.4f}",
            f"{result['seconds at 48³']:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
