"""How good a picker is on tomograms that it never saw, and how good a simple method would be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tomograms import CLASSES, Example, keep, kept, templates

import napari_vox3d as vox
from napari_vox3d import Volume
from napari_vox3d.inference.tiles import NetworkView
from napari_vox3d.models import MetricTable, Model, ParticleClass
from napari_vox3d.training.simulation import simulate_tomogram
from napari_vox3d.training.thresholds import best_threshold

TEST_SNR = {"easy": 0.2, "medium": 0.05, "hard": 0.02}
PLAIN: dict[str, Any] = {}
STRANGE: dict[str, Any] = {
    "tilts": range(-54, 55, 2),
    "defocus": 25_000.0,
    "phases_flipped": True,
    "misalignment": 8.0,
    "dose": 120.0,
    "thickness": 1200.0,
}
_EACH = 3  # tomograms of each signal-to-noise ratio
_SHAPE = (184, 256, 256)
Row = dict[str, str | int | float | None]
Tests = dict[str, list[Example]]


def unseen(folder: Path, cache: Path, first: int = 6000, **settings: Any) -> Tests:
    """Tomograms to test with, by difficulty, simulated at their first use.

    Parameters
    ----------
    folder
        Templates; all that are not of the five classes are distractors.
    cache
        Where the tomograms are kept.
    first
        Seed of the first one.
    **settings
        `PLAIN` or `STRANGE`: how they were taken.
    """
    radii = {kind.name: kind.radius for kind in CLASSES.values()}
    found: Tests = {}
    for n, (name, snr) in enumerate(TEST_SNR.items()):
        found[name] = []
        for seed in range(first + n, first + n + 10 * _EACH, 10):
            path = cache / f"test-{seed}.npz"
            if not path.exists():
                keep(path, *simulate_tomogram(
                    templates(folder), shape=_SHAPE, seed=seed, snr=snr, crowding=0.35, **settings
                ))  # fmt: skip
            found[name].append(kept(path, 10.0, radii))
    return found


def tables(model: Model, plain: Tests, strange: Tests) -> list[MetricTable]:
    """What the card tells of a model: both kinds of tomograms, at the thresholds of the card."""
    about = (
        "Simulated tomograms of 184×256×256 voxels at 10 Å, three of each signal-to-noise ratio, "
        "from seeds not trained on but from the same templates and simulator{}; picks match "
        "within half the radius; thresholds as shipped. Real tomograms are harder."
    )
    another = (
        ", taken as none was for training: tilts of ±54° in 2° steps, 2.5 µm underfocus with "
        "phases flipped, 8 Å of misalignment, 120 e/Å², 120 nm of ice"
    )
    return [
        MetricTable(data=about.format(how), rows=list(rows(model, found)))
        for how, found in (("", plain), (another, strange))
    ]


def rows(model: Model, found: Tests) -> Iterator[Row]:
    """F1, F4 and CZII score of a model and of a simple method."""
    kinds = model.card.classes

    def by_model(volume: Volume) -> list[Volume]:
        return vox.score_particles(volume, model, device="cpu")

    def by_blobs(volume: Volume) -> list[Volume]:
        return dark_blobs(volume, kinds)

    chosen = {kind.name: kind.threshold for kind in kinds}
    for row in measure(by_model, found, {1.0: chosen, 4.0: chosen}):
        yield {"method": "this model", **row}
    easiest = [by_blobs(volume) for volume, _ in found["easy"]]
    true = [picks for _, picks in found["easy"]]
    blobs = [vox.find_particles(maps, threshold=0.05) for maps in easiest]
    best = {beta: {k.name: best_threshold(blobs, true, k, beta) for k in kinds}
            for beta in (1.0, 4.0)}  # fmt: skip
    for row in measure(by_blobs, found, best):
        yield {"method": "dark blobs (LoG), thresholds best for the easy ones", **row}


def measure(
    score: Callable[[Volume], list[Volume]],
    found: Tests,
    thresholds: dict[float, dict[str, float]],
) -> Iterator[Row]:
    """F by class, their mean or the CZII score, for each beta and difficulty."""
    maps = {name: [score(volume) for volume, _ in examples] for name, examples in found.items()}
    for beta, chosen in thresholds.items():
        for name, examples in found.items():
            picks = [vox.find_particles(each, threshold=chosen) for each in maps[name]]
            truth = [true.select(np.isin(true.labels, list(chosen))) for _, true in examples]
            scores = vox.evaluate_picks(picks, truth, beta=beta)
            row: Row = {
                "tomograms": f"{name} (projection SNR {TEST_SNR[name]})",
                "measure": f"F{beta:.0f}",
            }
            row |= {kind: round(score.f, 3) for kind, score in sorted(scores.classes.items())}
            if beta == 1 or set(chosen) != {kind.name for kind in CLASSES.values()}:
                row["mean"] = round(scores.mean_f, 3)
            else:
                row["CZII score"] = round(scores.weighted_f(), 3)
            yield row


def dark_blobs(volume: Volume, kinds: Sequence[ParticleClass]) -> list[Volume]:
    """Baseline: scale-normalised Laplacian of Gaussian at each class's radius, as score maps."""
    view = NetworkView.of(volume, 10, "robust")
    cells = [n // 4 for n in volume.shape]
    blocks = view.read((0, 0, 0), [4 * n for n in cells])
    blocks = blocks.reshape(cells[0], 4, cells[1], 4, cells[2], 4).mean((1, 3, 5))
    maps = []
    for kind in kinds:
        width = kind.radius / 40 / np.sqrt(3)
        response = ndimage.gaussian_laplace(blocks, width) * width**2
        score = 1 / (1 + np.exp(-response / response.std() + 3))
        maps.append(score_map(volume, score, kind, 40.0))
    return maps


def score_map(
    volume: Volume, score: NDArray[np.floating], kind: ParticleClass, cell: float
) -> Volume:
    """Scores of a class in cubic cells of `cell` Å of a tomogram of 10 Å, for `find_particles`."""
    tomogram = {
        "name": volume.name,
        "shape": volume.shape,
        "voxel_size": volume.voxel_size.tolist(),
        "origin": [0, 0, 0],
        "region": [(0, n) for n in volume.shape],
    }
    metadata = {"radius": kind.radius, "threshold": 0.5, "min_distance": kind.radius,
                "tomogram": tomogram, "provenance": {}}  # fmt: skip
    return Volume(score.astype(np.float32), np.eye(3) * cell, np.full(3, (cell - 10) / 2), "score",
                  name=kind.name, metadata=metadata)  # fmt: skip


def as_particles(example: Example, name: str, radius: float) -> Example:
    """The same tomogram with all its particles of one class."""
    volume, picks = example
    labels = np.full(len(picks), name)
    return volume, replace(picks, labels=labels, radii=np.full(len(picks), radius))
