"""Train an ELF network on pairs of structure and ELF, and write it with its card.

    python recipes/elf/train.py PAIRS OUTPUT --network ckconv --minutes 13

PAIRS is a folder of NAME.npz files with `symbols`, `cell` (rows a, b, c in Å), `frac` and `elf`
(uint16 along a, b, c; 65535 is an ELF of 1), and `index.tsv` with the columns stem, composition and
prototype. Chemical systems (sets of elements) are held out whole, so that no strained copy of a
test crystal is trained on. The run can be stopped and started again.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from pymatgen.core import Composition, Element
from rich.progress import Progress, track

import napari_vox3d as vox
from napari_vox3d.models import MetricTable, Model
from napari_vox3d.networks.catalogue import ARCHITECTURES, find_architecture
from napari_vox3d.training.elf import fitted_model
from napari_vox3d.training.elf_fit import fit_elf, prepare_example

SPACING = 0.25  # Å
NAMES = [entry.name for entry in ARCHITECTURES if entry.task == "elf"]
DATA = "valence-only GTH-PBE pseudopotentials, not spin-polarised, Quantum ESPRESSO 6.7"
FAMILIES = ("metal", "ionic", "covalent", "molecular", "hydride", "electride")


@dataclass(frozen=True)
class Crystal:
    """A structure with its true ELF, and how it counts."""

    stem: str
    elf: vox.Volume
    system: tuple[str, ...]
    family: str


def main() -> None:
    """Read, train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("output", type=Path, help="folder for checkpoint, card and weights")
    parser.add_argument("--reserved", type=Path, help="list of compositions to leave out")
    parser.add_argument("--network", choices=NAMES, default="ckconv")
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument("--name", help="of the model; default: network and size")
    parser.add_argument("--channels", nargs="+", default=["invariants"])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--default", action="store_true", help="mark as the default model")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    crystals = read_crystals(options.pairs, options.reserved)
    training, held_out = split(crystals)
    print(f"{len(training)} crystals to train on, {len(held_out)} held out")
    examples = [
        prepare_example(crystal.elf, options.channels, SPACING)
        for crystal in track(training, "Preparing")
    ]
    architecture = find_architecture(options.network, "elf")
    arguments = architecture.arguments(options.size)
    with Progress() as bar:
        task = bar.add_task("Training")
        network, _ = fit_elf(
            examples,
            arguments=arguments,
            minutes=options.minutes,
            seed=options.seed,
            device="cpu",
            checkpoint=options.output / "checkpoint.safetensors",
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    model = fitted_model(
        network,
        name=options.name or f"{options.network}-{options.size}",
        arguments=arguments,
        channels=options.channels,
        spacing=SPACING,
        training=f"{len(training)} crystals: {DATA}. {options.minutes:g} minutes on one CPU core.",
        title=f"{architecture.title}, {options.size}",
        default=options.default,
        licence="BSD-3-Clause",
        description=(
            f"A {options.size} configuration of {architecture.title}, trained briefly: a first "
            "model, not the production one. Not a VASP ELFCAR: cores are absent. Poor for "
            "electrides, hydrides, and elements it has not seen."
        ),
    )
    tables = evaluate(model, training, held_out)
    for table in tables:
        print(table.data, *table.rows, sep="\n  ")
    model.with_card(model.card.model_copy(update={"metrics": tables})).save(options.output)


def read_crystals(pairs: Path, reserved: Path | None) -> list[Crystal]:
    """Read all crystals but the reserved compositions and hP4 sodium."""
    left_out = set()
    if reserved is not None:
        lines = (line.split("#")[0].strip() for line in reserved.read_text().splitlines())
        left_out = {Composition(line).reduced_formula for line in lines if line}
    crystals = []
    with (pairs / "index.tsv").open() as index:
        for row in csv.DictReader(index, delimiter="\t"):
            if (
                Composition(row["composition"]).reduced_formula in left_out
                or "hP4" in row["prototype"]
            ):
                continue
            crystals.append(read_crystal(pairs / f"{row['stem']}.npz", row["prototype"]))
    return crystals


def read_crystal(path: Path, prototype: str) -> Crystal:
    """Read one pair."""
    with np.load(path, allow_pickle=False) as pair:
        atoms = Atoms(
            [str(s) for s in pair["symbols"]],
            cell=pair["cell"],
            scaled_positions=pair["frac"],
            pbc=True,
        )
        values = pair["elf"].T / np.float64(65535)
    elf = vox.Volume.on_lattice(values, atoms.cell.array, quantity="elf", atoms=atoms)
    system = tuple(sorted(set(atoms.get_chemical_symbols())))
    return Crystal(path.stem, elf, system, family(system, prototype))


def family(system: Sequence[str], prototype: str) -> str:
    """Kind of bonding that a chemist would expect."""
    if "electride" in prototype:
        return "electride"
    if "H" in system:
        return "hydride"
    elements = [Element(symbol) for symbol in system]
    if prototype == "molecular" or all(e.is_noble_gas for e in elements):
        return "molecular"
    if all(e.is_metal for e in elements):
        return "metal"
    pull = [float(e.X) for e in elements]
    return "ionic" if max(pull) - min(pull) > 1.5 else "covalent"


def split(crystals: Sequence[Crystal]) -> tuple[list[Crystal], list[Crystal]]:
    """Hold out every fifth chemical system."""
    systems = sorted({crystal.system for crystal in crystals})
    random.Random(5).shuffle(systems)
    held = set(systems[: len(systems) // 5])
    return [c for c in crystals if c.system not in held], [c for c in crystals if c.system in held]


def evaluate(
    model: Model, training: Sequence[Crystal], held_out: Sequence[Crystal]
) -> list[MetricTable]:
    """Mean absolute errors on held-out crystals, the baselines beside them."""
    rows = {name: [] for name in ("global median", "table of the SAD", "Tsirelson–Stash",
                                  "table of SAD and Tsirelson–Stash", model.card.name)}  # fmt: skip
    seen = [baseline_inputs(crystal) for crystal in track(training[::3], "Baselines")]
    sad, promolecular, true = (np.concatenate(column) for column in zip(*seen, strict=True))
    median = np.median(true)
    by_sad = table(true, sad_bin(sad), 40)
    by_both = table(true, 40 * elf_bin(promolecular) + sad_bin(sad), 1600)
    for crystal in track(held_out, "Evaluating"):
        sad, promolecular, true = baseline_inputs(crystal)
        predicted = vox.predict_elf(crystal.elf, model, device="cpu").values.ravel()
        guesses = (median, by_sad[sad_bin(sad)], promolecular,
                   by_both[40 * elf_bin(promolecular) + sad_bin(sad)], predicted)  # fmt: skip
        for name, guess in zip(rows, guesses, strict=True):
            rows[name].append(float(np.abs(guess - true).mean()))
    families = np.array([crystal.family for crystal in held_out])
    found = [name for name in FAMILIES if name in families]
    figures = [
        {"predictor": name, "all": round(float(np.mean(errors)), 4),
         "median": round(float(np.median(errors)), 4)}
        | {f: round(float(np.mean(np.array(errors)[families == f])), 4) for f in found}
        for name, errors in rows.items()
    ]  # fmt: skip
    counts = ", ".join(f"{(families == f).sum()} {f}" for f in found)
    return [
        MetricTable(
            data=f"MAE of the ELF over all grid points, mean over {len(held_out)} held-out "
            f"crystals ({counts}); whole chemical systems held out, though they helped to "
            f"choose size and rate of learning; {DATA}",
            rows=figures,
        )
    ]


def baseline_inputs(crystal: Crystal) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Superposed density, its Tsirelson–Stash ELF, and the true ELF, point by point."""
    elf = crystal.elf
    sad = vox.superpose_atoms(elf.atoms, elf.shape)
    promolecular = vox.predict_elf(elf, "promolecule")
    return sad.values.ravel(), promolecular.values.ravel(), elf.values.ravel()


def sad_bin(sad: np.ndarray) -> np.ndarray:
    """Forty bins from 10⁻⁴ to 10 e/Å³."""
    return np.clip((np.log10(np.maximum(sad, 1e-4)) + 4) * 8, 0, 39).astype(int)


def elf_bin(elf: np.ndarray) -> np.ndarray:
    """Forty bins of an ELF."""
    return np.clip(elf * 40, 0, 39).astype(int)


def table(true: np.ndarray, bins: np.ndarray, count: int) -> np.ndarray:
    """Median of `true` in each bin, the overall median where there is none."""
    order = np.argsort(bins, kind="stable")
    edges = np.searchsorted(bins[order], np.arange(count + 1))
    overall = np.median(true)
    parts = (true[order[a:b]] for a, b in pairwise(edges))
    return np.array([np.median(part) if part.size else overall for part in parts])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
