"""Opening a 4 GB tomogram in a napari window, beside mrcfile and napari by hand.

The file is sparse: it takes no room on disk, and its planes come through the page cache as those
of any file that was read before.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.harness import Row, compare, number, resident, times

SIDE, SLICES = 1024, 50


def measure(quick: bool) -> Iterator[Row]:
    """Show a tomogram and go through it."""
    side = 256 if quick else SIDE
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tomogram.mrc"
        write_sparse(path, side)
        what = f"{path.stat().st_size / 1e9:.1f} GB MRC"
        found = compare({"ours": show_ours, "hand": show_by_hand}, str(path), rounds=3)
    shown, extra, slices, last = np.median(found["ours"].answers, axis=0)
    hand = np.median(found["hand"].answers, axis=0)
    peer = "mrcfile and napari by hand"
    yield Row(
        f"open {what}: layer shown", peer, shown, "s", 1, 0.4, least=False,
        said=f"{times(shown)} and {times(hand[0])}; again {times(last)} and {times(hand[3])}",
        floor="what napari itself takes for a first layer, which it imports much for",
    )  # fmt: skip
    yield Row(
        f"open {what}: more memory", peer, extra / 1e6, "MB", 200, None, least=False,
        said=f"{number(extra / 1e6, 'MB')} and {number(hand[1] / 1e6, 'MB')}",
    )  # fmt: skip
    yield Row(
        f"{what}: {SLICES} random slices", peer, 1000 * slices, "ms", 50, None, least=False,
        said=f"median {times(slices)} and {times(hand[2])}",
    )  # fmt: skip


def show_ours(path: str) -> Callable[[], Any]:
    """Open with this package's reader."""
    return _show(lambda viewer: viewer.open(path, plugin="napari-vox3d"))


def show_by_hand(path: str) -> Callable[[], Any]:
    """Open as one would in a notebook."""
    import mrcfile

    def add(viewer: Any) -> None:
        file = mrcfile.mmap(path, mode="r")
        size = float(file.voxel_size.x)
        viewer.add_image(file.data, scale=3 * (size,), name="tomogram")

    return _show(add)


def _show(add: Callable[[Any], Any]) -> Callable[[], Any]:
    import napari
    from napari.qt import get_qapp

    viewer = napari.Viewer(show=True)
    canvas = viewer.window._qt_viewer.canvas._scene_canvas

    def draw() -> None:
        get_qapp().processEvents()
        canvas.render()

    def opened() -> float:
        start = time.perf_counter()
        add(viewer)
        draw()
        return time.perf_counter() - start

    def show() -> list[float]:
        before = resident()
        first = opened()
        extra = resident() - before
        viewer.layers.clear()
        again = opened()
        lasted = []
        depth = viewer.layers[0].data.shape[0]
        for z in np.random.default_rng(0).integers(0, depth, SLICES):
            start = time.perf_counter()
            viewer.dims.set_current_step(0, int(z))
            draw()
            lasted.append(time.perf_counter() - start)
        return [first, extra, median(lasted), again]

    draw()
    return show


def write_sparse(path: Path, side: int) -> None:
    """Write the header of a float32 tomogram with 10 Å voxels, and its data as a hole."""
    import mrcfile

    with mrcfile.new_mmap(path, (1, 8, 8), mrc_mode=2) as file:
        file.header.nz = file.header.mz = side
        file.header.ny = file.header.my = file.header.nx = file.header.mx = side
        file.header.cella = (side * 10.0,) * 3
    os.truncate(path, 1024 + 4 * side**3)
