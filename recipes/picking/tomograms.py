"""Simulated tomograms that the shipped pickers learn from: as varied as microscopes are.

    python recipes/picking/tomograms.py TEMPLATES FOLDER [--first N] [--step N]

TEMPLATES holds the 10 Å maps of polnet (https://github.com/anmartinezs/polnet, commit
73e613cc9162, data/templates/mrcs_10A, Apache-2.0). Every tomogram has its own signal-to-noise
ratio, crowding, thickness, voxel size, defocus, tilts, dose, misalignment and sharpness, drawn by
its number. Each takes some eight seconds of one core; FOLDER keeps them, and what it holds is not
made again. Several processes share the work with ``--first 0 --step 2`` and ``--first 1 --step 2``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from napari_vox3d import Picks, Volume
from napari_vox3d.formats import write_aside
from napari_vox3d.models import ParticleClass
from napari_vox3d.training.simulation import Template, simulate_tomogram

CLASSES = {
    "6pxm": ParticleClass(name="apo-ferritin", radius=60, colour="#e69f00"),
    "1f4a": ParticleClass(name="beta-galactosidase", radius=90, colour="#f0e442"),
    "6qzp": ParticleClass(name="ribosome", radius=150, colour="#56b4e9"),
    "7n4y": ParticleClass(name="thyroglobulin", radius=130, colour="#009e73"),
    "8tux": ParticleClass(name="virus-like-particle", radius=135, colour="#cc79a7"),
}
ALSO_RIBOSOMES = ("4v4r", "5mrc")  # as other particles they would contradict the labels
NEVER_SHOWN = "4cr2"  # the 26S proteasome: what somebody may click whom no model has seen
SMALLEST = 50.0  # Å: radius from which on another protein is a class of its own
OFTENER = 3  # how many times as often as others the five are put in
COUNT = 120  # tomograms, of which every fifth is held out
_VOXEL_SIZE = 10.0  # Å of the templates
_SHAPE = (112, 208, 208)  # voxels of 10 Å
Example = tuple[Volume, Picks]


def read_templates(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Densities by name, without the other ribosomes."""
    missing = set(CLASSES) - {path.stem for path in folder.glob("*.mrc")}
    if missing:
        sys.exit(f"{folder} lacks the templates {', '.join(sorted(missing))}.")
    paths = [path for path in sorted(folder.glob("*.mrc")) if path.stem not in ALSO_RIBOSOMES]
    return {path.stem: mrcfile.read(path) for path in paths}


def templates(folder: Path) -> list[Template]:
    """Templates to measure with: the five labelled, the others as distractors."""
    found = []
    for name, density in read_templates(folder).items():
        kind = CLASSES.get(name)
        found.append(Template(density, *((kind.name, kind.radius) if kind else ("", 0.0))))
    return found


def all_classes(folder: Path) -> list[ParticleClass]:
    """Classes to learn at first: the five, then every other protein that is not too small."""
    five = list(CLASSES.values())
    known = {kind.name for kind in five}
    return five + [
        ParticleClass(name=each.label, radius=each.radius, colour="#999999")
        for each in training_templates(folder)
        if each.label not in known and each.radius >= SMALLEST
    ]


def _radius(density: NDArray[np.float32]) -> float:
    """Å from the middle within which nine tenths of a particle lie, in steps of 5."""
    inside = np.argwhere(density > 0.2 * density.max())
    distances = np.linalg.norm(inside - inside.mean(0), axis=1) * _VOXEL_SIZE
    return float(5 * np.ceil(np.percentile(distances, 90) / 5))


def training_templates(folder: Path) -> list[Template]:
    """Templates to train with, all labelled but the one never shown."""
    found = []
    for name, density in read_templates(folder).items():
        kind = CLASSES.get(name)
        if kind is not None:
            found += [Template(density, kind.name, kind.radius, _VOXEL_SIZE)] * OFTENER
        elif name != NEVER_SHOWN:
            found.append(Template(density, name, _radius(density), _VOXEL_SIZE))
    return found


def conditions(number: int) -> tuple[dict[str, Any], float]:
    """Arguments of `simulate_tomogram` for a tomogram, and how far it is blurred afterwards (Å)."""
    rng = np.random.default_rng((5, number))

    def at_times(share: float, low: float, high: float, otherwise: float) -> float:
        value = rng.uniform(low, high)
        return float(value) if rng.random() < share else otherwise

    voxel_size = at_times(0.25, 7.5, 13.0, _VOXEL_SIZE)
    steepest = int(rng.integers(48, 67))
    depth = _SHAPE[0] * _VOXEL_SIZE
    settings = {
        "seed": 10_000 + number,
        "snr": float(10 ** rng.uniform(-1.85, 0.1)),
        "crowding": float(rng.uniform(0.2, 0.5)),
        "shape": tuple(round(n * _VOXEL_SIZE / voxel_size) for n in _SHAPE),
        "voxel_size": voxel_size,
        "tilts": range(-steepest, steepest + 1, int(rng.choice([2, 3, 3]))),
        "thickness": at_times(0.5, 0.5 * depth, depth, depth),
        "defocus": float(rng.uniform(20_000, 60_000)),
        "phases_flipped": bool(rng.random() < 0.4),
        "misalignment": at_times(0.5, 0, 12, 0),
        "dose": at_times(0.5, 60, 140, 0),
    }
    return settings, at_times(0.4, 3, 10, 0)


def tomogram(particles: Sequence[Template], number: int, folder: Path) -> Example:
    """One of the tomograms, simulated at its first use."""
    path = folder / f"{number}.npz"
    settings, blur = conditions(number)
    if not path.exists():
        volume, picks = simulate_tomogram(particles, **settings)
        values = ndimage.gaussian_filter(volume.values, blur / settings["voxel_size"])
        keep(path, volume.with_values(values), picks)
    return kept(path, settings["voxel_size"], {t.label: t.radius for t in particles})


def keep(path: Path, volume: Volume, picks: Picks) -> None:
    """Write a tomogram in half precision, and its particles."""
    values = volume.values.astype(np.float16)
    with write_aside(path) as aside, aside.open("wb") as file:
        np.savez(file, values=values, positions=picks.positions, labels=picks.labels)


def kept(path: Path, voxel_size: float, radii: dict[str, float]) -> Example:
    """Read what `keep` wrote: the particles of the labels that have a radius."""
    with np.load(path) as stored:
        labels, positions = stored["labels"], stored["positions"]
        chosen = np.isin(labels, list(radii))
        volume = Volume(stored["values"], voxel_size, name=path.stem)
    picks = Picks(
        positions[chosen],
        labels[chosen],
        radii=np.array([radii[label] for label in labels[chosen]]),
        voxel_size=voxel_size,
        tomogram=path.stem,
        shape=volume.shape,
    )
    return volume, picks


def tomograms(folder: Path, cache: Path, count: int = COUNT) -> list[Example]:
    """All tomograms to train on, every fifth of which is held out."""
    particles = training_templates(folder)
    return [tomogram(particles, number, cache) for number in range(count)]


def main() -> None:
    """Simulate those that are not there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("templates", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--step", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    particles = training_templates(options.templates)
    for number in range(options.first, COUNT, options.step):
        _, picks = tomogram(particles, number, options.folder)
        settings, blur = conditions(number)
        print(f"{number}: {len(picks)} particles, SNR {settings['snr']:.3f}, blur {blur:.1f} Å",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
