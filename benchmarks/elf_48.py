"""Time of an ELF at 48³: promolecular, the default model, and FlatResNet3D in production size.

    python benchmarks/elf_48.py

The production network has random weights, which take the same time. Its peer is the same module
in one plain pass of PyTorch. Medians of several runs that alternate; ratios are against the peer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from ase.build import bulk
from rich.console import Console
from rich.table import Table

import napari_vox3d as vox
from napari_vox3d.inference.elf_inputs import network_inputs
from napari_vox3d.models import ELFInput, Model, ModelCard, NetworkSpec
from napari_vox3d.networks import ELFPredictor

SHAPE = (48, 48, 48)
REPEATS = 3


def main() -> None:
    """Measure and print."""
    crystal = bulk("MgO", "rocksalt", 4.21, cubic=True)
    network = ELFPredictor().eval()
    card = ModelCard(
        name="production",
        title="FlatResNet3D, production size",
        task="elf",
        network=NetworkSpec(name="ELFPredictor"),
        input=ELFInput(channels=["log_sad"], spacing=4.21 / 48),
        training="none: random weights",
        licence="none",
        version="0",
    )
    production = Model(card, network.state_dict())
    sad = vox.superpose_atoms(crystal, SHAPE)
    inputs = torch.from_numpy(network_inputs(sad, SHAPE, ["log_sad"]))[None]
    works: dict[str, Callable[[], object]] = {
        "plain PyTorch pass": lambda: network.predict_elf(inputs),
        "production size": lambda: vox.predict_elf(crystal, production, shape=SHAPE),
        "default model": lambda: vox.predict_elf(crystal, shape=SHAPE),
        "promolecular": lambda: vox.predict_elf(crystal, "promolecule", shape=SHAPE),
        "SAD alone": lambda: vox.superpose_atoms(crystal, SHAPE),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(REPEATS + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if repeat:  # the first round loads weights and warms up
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    peer = medians["plain PyTorch pass"]
    table = Table("MgO, 8 atoms, 48³", "median s", "times as fast as the plain pass")
    for name, value in medians.items():
        table.add_row(name, f"{value:.3f}", f"{peer / value:.1f}")
    Console().print(table, f"{torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
