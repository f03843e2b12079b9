"""Figures of the embedding: proteins that it never saw, beside plain correlation and chance."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from math import comb
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import napari_vox3d as vox
from napari_vox3d import Picks, Volume
from napari_vox3d.formats import write_aside
from napari_vox3d.inference.candidates import MeanParticle, in_memory
from napari_vox3d.inference.embedding import Embedder, cut_out, window
from napari_vox3d.inference.similarity import CANDIDATES, THRESHOLD
from napari_vox3d.inference.tiles import NetworkView
from napari_vox3d.models import MetricTable, Model
from napari_vox3d.training.evaluation import threshold_curve
from napari_vox3d.training.simulation import Template, simulate_tomogram

# 26S proteasome, fatty acid synthase, CCT, beta-galactosidase, CAND1 with a ubiquitin ligase
HELD_OUT = {"4cr2": 150.0, "2uv8": 150.0, "4v94": 165.0, "1f4a": 90.0, "1u6g": 80.0}  # Å
TEST_SNR = {9000: 0.05, 9001: 0.2, 9002: 0.02}  # by seed
SHAPE = (184, 256, 256)
NEAREST, EXAMPLES = 10, 10
Array = NDArray[np.float32]
Row = dict[str, str | int | float | None]


def figures(
    model: Model, unseen: dict[str, Array], known: dict[str, Array], run: Path
) -> list[MetricTable]:
    """Retrieval, clusters and searches on three tomograms of proteins that were held out."""
    rows: list[Row] = []
    for seed, snr in sorted(TEST_SNR.items(), key=lambda item: -item[1]):
        volume, truth = tomogram(unseen, known, seed, snr, run)
        embedder = Embedder(volume, model, device="cpu")
        described: dict[str, Callable[[], Array]] = {
            "this model": lambda v=volume, t=truth: vox.embed_picks(v, t, model, device="cpu"),
            "correlation, low-passed": lambda v=volume, t=truth: low_passed(v, t),
            "chance": lambda t=truth: np.random.default_rng(0).normal(size=(len(t), 32)),
        }
        for name, describe in described.items():
            rows.append({"projection SNR": snr, "method": name, **grouped(describe(), truth)})
            if name == "this model":
                rows[-1] |= searched(volume, truth, model)
            elif name != "chance":
                rows[-1] |= filtered(embedder, truth)
            print(rows[-1], flush=True)
    return [
        MetricTable(
            data="Three simulated tomograms of 184×256×256 voxels at 10 Å of five proteins that "
            "were held out (26S proteasome, fatty acid synthase, CCT, β-galactosidase, "
            "CAND1–CUL1–RBX1), with seven others as distractors. Precision of the "
            f"{NEAREST} nearest picks and purity and adjusted Rand index of five clusters: true "
            f"positions of the five. F1: particles like {EXAMPLES} random ones in the whole "
            "tomogram, the ten left out, at the default threshold and at the best one; picks "
            "match within half the radius; means over the five. Correlation: cubes of 15 Å "
            "voxels, smoothed by one of them; for F1, the mean of the examples as a filter. One "
            "training run, one tomogram for each SNR.",
            rows=rows,
        )
    ]


def tomogram(
    unseen: dict[str, Array], known: dict[str, Array], seed: int, snr: float, run: Path
) -> tuple[Volume, Picks]:
    """Simulate a tomogram of the proteins held out, once."""
    kept = run / f"test-{seed}.npz"
    if not kept.exists():
        particles = [Template(unseen[name], name, radius) for name, radius in HELD_OUT.items()]
        particles += [Template(density) for density in known.values()]
        volume, truth = simulate_tomogram(particles, shape=SHAPE, seed=seed, snr=snr, crowding=0.35)
        with write_aside(kept) as aside, aside.open("wb") as file:
            np.savez(file, values=volume.values, index=truth.indices, labels=truth.labels)
    with np.load(kept) as stored:
        volume = Volume(stored["values"], 10.0, name=f"simulated-{seed}")
        radii = [HELD_OUT[label] for label in stored["labels"].tolist()]
        truth = Picks.from_indices(
            stored["index"], stored["labels"], voxel_size=10.0, radii=radii, shape=volume.shape
        )
    return volume, truth


def low_passed(volume: Volume, picks: Picks) -> Array:
    """Smoothed cubes as vectors, whose products are their correlations."""
    view = NetworkView.of(volume, 15.0, "robust")
    soft = window(24)
    cubes = cut_out(view, view.from_index(picks.indices), 24)
    cubes = np.stack([gaussian_filter(cube, 1) for cube in cubes])
    means = (cubes * soft).sum(axis=(1, 2, 3), keepdims=True) / soft.sum()
    vectors = ((cubes - means) * soft).reshape(len(cubes), -1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def grouped(vectors: Array, truth: Picks) -> Row:
    """How well neighbours and clusters of vectors are proteins."""
    likeness = vectors @ vectors.T / np.linalg.norm(vectors, axis=1)
    np.fill_diagonal(likeness, -np.inf)
    nearest = np.argsort(-likeness, axis=1)[:, :NEAREST]
    right = (truth.labels[nearest] == truth.labels[:, None]).mean(axis=1)
    groups = vox.cluster_picks(vectors, len(HELD_OUT))
    table = np.array(
        [[np.sum((groups == n) & (truth.labels == name)) for name in HELD_OUT]
         for n in np.unique(groups)]
    )  # fmt: skip
    return {
        f"precision of {NEAREST}": round(
            float(np.mean([right[truth.labels == name].mean() for name in truth.classes])), 3
        ),
        "purity": round(float(table.max(axis=1).sum() / table.sum()), 3),
        "Rand": round(adjusted_rand(table), 3),
    }


def adjusted_rand(table: NDArray[np.integer]) -> float:
    """Adjusted Rand index of a table of counts, groups by classes."""
    both = sum(comb(int(n), 2) for n in table.ravel())
    rows = sum(comb(int(n), 2) for n in table.sum(axis=1))
    columns = sum(comb(int(n), 2) for n in table.sum(axis=0))
    expected = rows * columns / comb(int(table.sum()), 2)
    return (both - expected) / ((rows + columns) / 2 - expected)


def parted(truth: Picks) -> Iterator[tuple[str, Picks, Picks]]:
    """Ten random examples of each protein, and the rest."""
    rng = np.random.default_rng(0)
    for name in HELD_OUT:
        particles = truth.of_class(name)
        order = rng.permutation(len(particles))
        yield name, particles.select(order[:EXAMPLES]), particles.select(order[EXAMPLES:])


def searched(volume: Volume, truth: Picks, model: Model) -> Row:
    """F1 of searches from ten examples of each protein, and the seconds of one."""
    suggested, best, seconds = [], [], []
    for name, examples, rest in parted(truth):
        began = time.process_time()
        found = vox.find_similar(volume, examples, model, threshold=-np.inf, device="cpu")
        seconds.append(time.process_time() - began)
        sure = found.select(found.scores >= THRESHOLD)
        suggested.append(vox.evaluate_picks(sure, rest).classes[name].f)
        best.append(best_f1(found, rest))
        print(volume.name, name, len(rest), round(suggested[-1], 3), round(best[-1], 3), flush=True)
    return {
        "F1": round(float(np.mean(suggested)), 3),
        "best F1": round(float(np.mean(best)), 3),
        "CPU-s": round(float(np.mean(seconds)), 1),
    }


def filtered(embedder: Embedder, truth: Picks) -> Row:
    """Baseline: peaks of the mean example as a filter, and its answers as scores."""
    view = in_memory(embedder.view, lambda *_: None)
    best = []
    for name, examples, rest in parted(truth):
        mean = MeanParticle(view, view.from_index(examples.indices), embedder.edge)
        places = mean.peaks(1.5 * HELD_OUT[name] / embedder.voxel_size, CANDIDATES)
        found = Picks.from_indices(
            view.to_index(places),
            np.full(len(places), name),
            voxel_size=10.0,
            scores=mean.answers(places),
        )
        best.append(best_f1(found, rest))
    return {"best F1": round(float(np.mean(best)), 3)}


def best_f1(found: Picks, rest: Picks) -> float:
    """F1 at the best threshold."""
    curve = threshold_curve(found, rest, rest.classes[0])
    return 0.0 if curve is None else float(curve.f.max())
