"""Picking in whole tomograms, beside windows one by one and MONAI's sliding window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np

from benchmarks.harness import Row, apart, compare, number, ratio, times

DENSE, WINDOWS, STRIDE, BATCH = (128, 512, 512), 16, 8, 8
TOMOGRAM = (184, 630, 630)
ROI, OVERLAP = 96, 0.25  # MONAI's window, and its usual overlap


def measure(quick: bool) -> Iterator[Row]:
    """Score and pick."""
    yield from _windowed((64, 96, 96) if quick else DENSE)
    yield from _sliding((32, 96, 96) if quick else TOMOGRAM)
    yield from _peaks((48, 96, 96) if quick else TOMOGRAM)


def _windowed(shape: tuple[int, ...]) -> Iterator[Row]:
    ours = apart(score_cryoet, shape)
    windows = apart(windows_of_cryoet, calls=2)
    count = prod(n // STRIDE for n in shape)
    peer = count / WINDOWS * windows.seconds[-1]
    yield Row(
        f"CryoET3DCNN over {_named(shape)}", f"64³ windows at every {STRIDE}th voxel, batched",
        peer / ours.typical, "×", 50, 150,
        said=f"{times(ours.typical)}, a score at every 4th voxel; {times(peer)} for {count} "
        f"windows, of which {WINDOWS} were timed",
    )  # fmt: skip


def _sliding(shape: tuple[int, ...]) -> Iterator[Row]:
    work, peer = f"default picker over {_named(shape)}", "MONAI sliding_window_inference"
    if find_spec("monai") is None:
        said = "MONAI is not installed: pip install monai"
        yield Row(work, peer, None, "×", 1, 2, said=said)
        yield Row(f"{work}, peak memory", peer, None, "×", 0.5, None, least=False, said=said)
        return
    found = compare({"ours": score_default, "monai": monai_default}, shape)
    ours, other = found["ours"], found["monai"]
    yield Row(
        work, peer, ratio(other, ours), "×", 1, 2,
        said=f"{times(ours.typical)} and {times(other.typical)}, windows of {ROI}³ with the usual "
        "overlap of a quarter",
    )  # fmt: skip
    yield Row(
        f"{work}, peak memory", peer, ours.memory / other.memory, "×", 0.5, None, least=False,
        said=f"{number(ours.memory / 1e6, 'MB')} and {number(other.memory / 1e6, 'MB')} beside the "
        "tomogram",
    )  # fmt: skip


def _peaks(shape: tuple[int, ...]) -> Iterator[Row]:
    found = compare({"ours": peaks_ours, "skimage": peaks_skimage}, shape, calls=2, rounds=2)
    ours, other = found["ours"], found["skimage"]
    assert ours.answer == other.answer, "other peaks"
    size = 4 * prod(shape)
    yield Row(
        f"peaks of a score map of {_named(shape)}", "skimage peak_local_max",
        ratio(other, ours), "×", 5, 20,
        said=f"{times(ours.typical)} and {times(other.typical)}; the same "
        f"{len(ours.answer)} peaks",
        floor=f"{number(size / 1e6, 'MB')} once from memory: {times(size / 10e9)}",
    )  # fmt: skip


def _named(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def noise(shape: list[int]) -> Any:
    """Tomogram of white noise, drawn plane by plane."""
    import napari_vox3d as vox

    values = np.empty(shape, np.float32)
    random = np.random.default_rng(0)
    for plane in values:
        plane[:] = random.standard_normal(plane.shape, np.float32)
    return vox.Volume(values, 10.0, name="noise")


def score_cryoet(shape: list[int]) -> Callable[[], Any]:
    """Score with CryoET3DCNN, as users do."""
    return _scoring(shape, "cryoet3dcnn-simulated")


def score_default(shape: list[int]) -> Callable[[], Any]:
    """Score with the default picker."""
    return _scoring(shape, "default")


def _scoring(shape: list[int], name: str) -> Callable[[], Any]:
    import napari_vox3d as vox

    model = vox.load_model(name, task="picking")
    vox.score_particles(noise([16, 16, 16]), model, device="cpu")  # reads the weights
    volume = noise(shape)
    return lambda: len(vox.score_particles(volume, model, device="cpu"))


def windows_of_cryoet() -> Callable[[], Any]:
    """Some windows through the same network, in batches."""
    import torch

    import napari_vox3d as vox

    network = vox.load_model("cryoet3dcnn-simulated", task="picking").network()
    windows = torch.rand(WINDOWS, 1, 64, 64, 64)

    def run() -> int:
        with torch.inference_mode():
            return sum(len(network(batch).softmax(1)) for batch in windows.split(BATCH))

    return run


def monai_default(shape: list[int]) -> Callable[[], Any]:
    """The default picker's network under MONAI's sliding window."""
    import torch
    from monai.inferers import sliding_window_inference

    import napari_vox3d as vox

    network = vox.load_model("default", task="picking").network()
    values = torch.from_numpy(noise(shape).values)[None, None]

    def run() -> float:
        with torch.inference_mode():
            logits = sliding_window_inference(values, 3 * (ROI,), 4, network, overlap=OVERLAP)
            return float(logits.softmax(1).mean())

    return run


def peaks_ours(shape: list[int]) -> Callable[[], Any]:
    """Local maxima as `find_particles` looks for them."""
    from napari_vox3d.inference.peaks import local_maxima

    scores = score_map(shape)
    return lambda: sorted(map(tuple, local_maxima(scores, 0.5).tolist()))


def peaks_skimage(shape: list[int]) -> Callable[[], Any]:
    """Those of scikit-image."""
    from skimage.feature import peak_local_max

    scores = score_map(shape)
    options = {"min_distance": 1, "threshold_abs": 0.5, "exclude_border": False}
    return lambda: sorted(map(tuple, peak_local_max(scores, **options).tolist()))


def score_map(shape: list[int]) -> Any:
    """Smooth blobs on a floor of low scores, as networks give."""
    random = np.random.default_rng(0)
    scores = np.empty(shape, np.float32)
    for plane in scores:
        plane[:] = 0.1 * random.random(plane.shape, np.float32)
    ball = np.stack(np.meshgrid(*3 * (np.arange(-5, 6),), indexing="ij"))
    blob = np.exp(-(ball**2).sum(0) / 12).astype(np.float32)
    for place in random.integers(5, np.array(shape) - 6, (prod(shape) // 40_000, 3)):
        box = tuple(slice(n - 5, n + 6) for n in place)
        scores[box] = np.maximum(scores[box], blob * random.uniform(0.3, 1, 1).astype(np.float32))
    return scores
