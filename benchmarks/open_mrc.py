"""Opening a 4 GB tomogram in a napari window, beside mrcfile and napari by hand.

The file is sparse: it takes no room on disk, and its planes come through the page cache as those
of any file that was read before.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
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
        found |= compare({"first": show_first, "first by hand": show_first_by_hand}, str(path))
    shown, extra, slices = np.median(found["ours"].answers, axis=0)
    hand = np.median(found["hand"].answers, axis=0)
    first, first_by_hand = (found[name].typical for name in ("first", "first by hand"))
    peer = "mrcfile and napari by hand"
    yield Row(
        f"open {what}: layer shown", peer, shown, "s", 1, 0.4, least=False,
        said=f"{times(shown)} and {times(hand[0])}",
        floor="what napari takes to make and paint a layer",
    )  # fmt: skip
    yield Row(
        f"open {what}: first layer of a session", peer, first, "s", 1, 0.4, least=False,
        said=f"{times(first)} and {times(first_by_hand)}",
        floor="what napari imports for its first layer",
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
    """Open with this package's reader, and go through it."""
    return _Window(used=True).going_through(_add_ours(path))


def show_by_hand(path: str) -> Callable[[], Any]:
    """Open as one would in a notebook, and go through it."""
    return _Window(used=True).going_through(_add_by_hand(path))


def show_first(path: str) -> Callable[[], Any]:
    """Open with this package's reader, in a window that has shown no layer yet."""
    return _Window().opening(_add_ours(path))


def show_first_by_hand(path: str) -> Callable[[], Any]:
    """The same by hand."""
    return _Window().opening(_add_by_hand(path))


def _add_ours(path: str) -> Callable[[Any], Any]:
    return lambda viewer: viewer.open(path, plugin="napari-vox3d")


def _add_by_hand(path: str) -> Callable[[Any], Any]:
    import mrcfile

    def add(viewer: Any) -> None:
        file = mrcfile.mmap(path, mode="r")
        size = float(file.voxel_size.x)
        viewer.add_image(file.data, scale=3 * (size,), name="tomogram")

    return add


class _Window:
    """A napari window, `used` if it has shown a layer, for which napari imports much."""

    def __init__(self, used: bool = False) -> None:
        import napari

        self._viewer, self._painted = napari.Viewer(show=True), 0
        self._canvas = self._viewer.window._qt_viewer.canvas._scene_canvas
        self._canvas.events.draw.connect(self._count)
        if used:
            self._seconds(lambda: self._viewer.add_image(np.eye(8)))
            self._viewer.layers.clear()

    def _count(self, event: Any) -> None:
        self._painted += 1

    def _seconds(self, change: Callable[[], Any]) -> float:
        """Seconds until a change is painted and the window answers again."""
        from napari.qt import get_qapp

        get_qapp().processEvents()
        start = time.perf_counter()
        change()
        self._canvas.update()  # one with what the change asked for
        before = self._painted
        while self._painted == before:
            get_qapp().processEvents()
        return time.perf_counter() - start

    def opening(self, add: Callable[[Any], Any]) -> Callable[[], Any]:
        """Seconds of opening a file."""
        return lambda: self._seconds(lambda: add(self._viewer))

    def going_through(self, add: Callable[[Any], Any]) -> Callable[[], Any]:
        """Seconds of opening, bytes it takes, and seconds of a slice."""

        def show() -> list[float]:
            before = resident()
            opened = self._seconds(lambda: add(self._viewer))
            extra = resident() - before
            depth, dims = self._viewer.layers[0].data.shape[0], self._viewer.dims
            lasted = [
                self._seconds(partial(dims.set_current_step, 0, z))
                for z in np.random.default_rng(0).integers(0, depth, SLICES).tolist()
            ]
            return [opened, extra, median(lasted)]

        return show


def write_sparse(path: Path, side: int) -> None:
    """Write the header of a float32 tomogram with 10 Å voxels, and its data as a hole."""
    import mrcfile

    with mrcfile.new_mmap(path, (1, 8, 8), mrc_mode=2) as file:
        file.header.nz = file.header.mz = side
        file.header.ny = file.header.my = file.header.nx = file.header.mx = side
        file.header.cella = (side * 10.0,) * 3
    os.truncate(path, 1024 + 4 * side**3)
