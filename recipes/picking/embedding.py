"""Make the shipped embedding of particles, from density templates to weights and card.

    python recipes/picking/embedding.py TEMPLATES RUN_FOLDER [--minutes 20] [--ship]

TEMPLATES holds the 10 Å maps of polnet (https://github.com/anmartinezs/polnet, commit
73e613cc9162, data/templates/mrcs_10A, Apache-2.0). RUN_FOLDER keeps the crops of the simulated
tomograms, the checkpoint and the model, so that an interrupted run goes on where it was. With
--ship the model is put into the package.

The embedding learns from pairs of crops that show the same protein, turned otherwise and in other
noise (supervised contrastive loss, Khosla et al., https://arxiv.org/abs/2004.11362). Five proteins
are held out and with them what is a part of one; `embedding_figures.py` measures on those.

Version 1 of ``likeness-simulated`` had less time than that: 694 steps in 100 seconds of one core,
where it was stopped; 300 of them were planned for 4 minutes, the others for 2.6.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mrcfile
import numpy as np
import torch
from embedding_figures import HELD_OUT, figures
from numpy.typing import NDArray
from shapes import made_up
from torch import Tensor
from train import ship

from napari_vox3d import Picks, Volume
from napari_vox3d.formats import write_aside
from napari_vox3d.inference.embedding import cut_out, window
from napari_vox3d.inference.tiles import NetworkView
from napari_vox3d.models import EmbeddingInput, Model, ModelCard, NetworkSpec
from napari_vox3d.networks import build
from napari_vox3d.training.loop import TrainingLoop
from napari_vox3d.training.simulation import Template, simulate_tomogram

PARTS_OF_HELD_OUT = ("3j9i", "6utj")  # the core of 4cr2
TOO_SMALL = ("1s3x", "3gl1", "3h84", "3qm1")  # seen as one dot or not at all
SAME = {"4v4r": "ribosome", "5mrc": "ribosome", "6qzp": "ribosome"}
SHAPES, TOMOGRAMS = 150, 35
NETWORK = NetworkSpec(
    name="EncoderNet3d", arguments={"channel": 16, "layers": [1, 2], "out_length": 32}
)
INPUT = EmbeddingInput(voxel_size=30.0, normalisation="robust", edge=12)
CROP = 28  # voxels of half the size along an edge: room for shifts by half a voxel
TAPS = (0.25, 0.5, 0.25)  # make a voxel of three of half the size, as `NetworkView` would
NOTHING = -1  # label of places without a particle
KINDS, EACH, EMPTY = 14, 4, 6  # of a batch: kinds of particles, crops of each, empty places
TEMPERATURE, RATE, SEED = 0.1, 2e-3, 0
Array = NDArray[np.float32]


def templates(folder: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Densities to learn from and those held out, by name."""
    left_out = (*HELD_OUT, *PARTS_OF_HELD_OUT, *TOO_SMALL)
    maps = {path.stem: mrcfile.read(path) for path in sorted(folder.glob("*.mrc"))}
    known = {name: density for name, density in maps.items() if name not in left_out}
    return known, {name: maps[name] for name in HELD_OUT}


def plan(number: int, real: Sequence[str]) -> tuple[list[str], float]:
    """What a tomogram holds, four real proteins and ten made-up ones, and its projection SNR."""
    rng = np.random.default_rng([SEED, number])
    shapes = [f"shape-{n}" for n in range(SHAPES)]
    names = [*rng.choice(real, 4, replace=False), *rng.choice(shapes, 10, replace=False)]
    return [str(name) for name in names], float(10 ** rng.uniform(-1.7, -0.4))


def tomogram(densities: dict[str, Array], names: list[str], snr: float, seed: int
             ) -> tuple[Volume, Picks]:  # fmt: skip
    """One tomogram to learn from."""
    particles = [Template(densities[name], SAME.get(name, name), 100.0) for name in names]
    return simulate_tomogram(
        particles, shape=(112, 208, 208), seed=7000 + seed, snr=snr, crowding=0.35
    )


def crops(volume: Volume, picks: Picks, rng: np.random.Generator) -> tuple[Array, list[str]]:
    """Cubes around particles and at places without one, and their labels."""
    empty = rng.uniform(0, volume.shape, (400, 3)) * volume.voxel_size
    distance = np.linalg.norm(empty[:, None] - picks.positions, axis=2).min(1)
    empty = empty[distance > 150][:30]
    places = np.concatenate([picks.positions, empty])
    view = NetworkView.of(volume, INPUT.voxel_size / 2, INPUT.normalisation)
    values = cut_out(view, view.from_index(places / volume.voxel_size), CROP)
    return values, [*picks.labels.tolist(), *[""] * len(empty)]


def examples(folder: Path, run: Path) -> list[Scene]:
    """Crops of each tomogram, simulated once; those with the least noise first."""
    real, _ = templates(folder)
    shapes: dict[str, Array] = {}
    scenes = []
    for number in range(TOMOGRAMS):
        names, snr = plan(number, list(real))
        kept = run / f"crops-{number}.npz"
        if not kept.exists():
            shapes = shapes or made_up(real, SHAPES, SEED)
            volume, picks = tomogram(real | shapes, names, snr, number)
            values, labels = crops(volume, picks, np.random.default_rng(number))
            with write_aside(kept) as aside, aside.open("wb") as file:
                np.savez(file, values=values.astype(np.float16), labels=labels)
            print(f"tomogram {number + 1} of {TOMOGRAMS}: {len(labels)} crops", flush=True)
        with np.load(kept) as stored:
            scenes.append(Scene(stored["values"], stored["labels"], snr))
    return sorted(scenes, key=lambda scene: -scene.snr)


class Scene(NamedTuple):
    """Crops of one tomogram, some wider than the network takes, and what each shows."""

    values: NDArray[np.float16]
    labels: NDArray[np.str_]
    snr: float

    def batch(self, rng: np.random.Generator) -> tuple[Array, NDArray[np.intp]]:
        """Some crops of each of some kinds, shifted and mirrored, and their kinds.

        A batch is of one tomogram: what tells its crops apart is then neither its noise nor its
        defocus. Mirrors leave the missing wedge where it is, and so does an exchange of x and y
        if it is that of all.
        """
        kinds, counts = np.unique(self.labels[self.labels != ""], return_counts=True)
        kinds = rng.permutation(kinds[counts >= 2])[:KINDS]
        chosen = [self._some(rng, kind, EACH) for kind in kinds] + [self._some(rng, "", EMPTY)]
        labels = [np.full(len(part), n) for n, part in enumerate(chosen[:-1])]
        labels.append(np.full(len(chosen[-1]), NOTHING))
        turned = rng.random() < 0.5
        cubes = [self._varied(n, rng, turned) for n in np.concatenate(chosen)]
        return np.stack(cubes), np.concatenate(labels)

    def _some(self, rng: np.random.Generator, label: str, most: int) -> NDArray[np.intp]:
        return rng.permutation(np.flatnonzero(self.labels == label))[:most]

    def _varied(self, number: int, rng: np.random.Generator, turned: bool) -> Array:
        size = 2 * INPUT.edge
        part = self.values[number].astype(np.float32)
        for axis, begin in enumerate(rng.integers(0, CROP - size, 3)):
            along = np.moveaxis(part, axis, 0)
            taps = [tap * along[begin + n : begin + n + size : 2] for n, tap in enumerate(TAPS)]
            part = np.moveaxis(sum(taps), 0, axis)
        part = np.flip(part, np.flatnonzero(rng.random(3) < 0.5))
        return part.swapaxes(1, 2) if turned else part


def contrastive(vectors: Tensor, labels: Tensor) -> Tensor:
    """How far from sure it is, for each particle, that its nearest ones are of its own kind."""
    likeness = vectors @ vectors.T / TEMPERATURE
    likeness.fill_diagonal_(-1e4)
    same = (labels[:, None] == labels) & (labels != NOTHING)
    same.fill_diagonal_(False)
    chances = likeness.log_softmax(1)
    each = (chances * same).sum(1) / same.sum(1).clamp(min=1)
    return -each[same.any(1)].mean()


def train(scenes: Sequence[Scene], run: Path, minutes: float) -> Model:
    """Train the network for some minutes of one CPU core."""
    torch.manual_seed(SEED)
    network = build(NETWORK.name, **NETWORK.arguments)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    losses: list[float] = []

    def note(step: int, loss: float) -> None:
        losses.append(loss)
        if step % 25 == 0:
            print(f"step {step}, loss {np.mean(losses[-25:]):.3f}", flush=True)

    loop = TrainingLoop(
        network, optimizer, lambda share: min(1, 20 * share) * (1 - share), rate=RATE,
        minutes=minutes, steps=None, seed=SEED, checkpoint=run / "checkpoint.safetensors",
        progress=None, on_step=note, stop=None, clock=time.process_time,
    )  # fmt: skip
    weights = torch.from_numpy(window(INPUT.edge))
    with loop:
        for share in loop:
            rng = np.random.default_rng([SEED, loop.done])
            # Noise comes in by and by: what is hardly seen teaches nothing at first.
            allowed = round(len(scenes) * min(1.0, 0.25 + 1.5 * share))
            cubes, labels = scenes[rng.integers(allowed)].batch(rng)
            pictures = (torch.from_numpy(cubes) * weights)[:, None]
            kinds = torch.from_numpy(labels)
            loss = contrastive(torch.nn.functional.normalize(network(pictures)), kinds)
            loop.descend(lambda: loss)  # noqa: B023 - called at once
            loop.report(loss.item())
    return Model(card(loop.done), network.state_dict())


def card(steps: int) -> ModelCard:
    """What the model is, without figures."""
    return ModelCard(
        name="likeness-simulated",
        title="Likeness of particles, simulated data",
        task="embedding",
        default=True,
        network=NETWORK,
        input=INPUT,
        training=f"{TOMOGRAMS} simulated tomograms only (112×208×208 voxels at 10 Å, projection "
        "SNR 0.02–0.4) of seven polnet 10 Å templates (Apache-2.0: 2cg9, 4v4r, 5mrc, 6pxm, 6qzp, "
        f"7n4y, 8tux) and {SHAPES} made-up shapes; supervised contrastive loss, {steps} steps.",
        licence="BSD-3-Clause",
        version="1",
        description="Vectors that are near each other for particles that look alike, for the "
        "window Find similar. It has seen no real tomogram.",
    )


def main() -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("templates", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0, help="of one CPU core")
    parser.add_argument("--ship", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.run.mkdir(parents=True, exist_ok=True)
    model = train(examples(options.templates, options.run), options.run, options.minutes)
    known, unseen = templates(options.templates)
    metrics = figures(model, unseen, known, options.run)
    model = model.with_card(model.card.model_copy(update={"metrics": metrics}))
    model.save(options.run / "model")
    if options.ship:
        ship(options.run / "model")


if __name__ == "__main__":
    main()
