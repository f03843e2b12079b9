"""Open a 4 GB tomogram in a napari window: time, memory, and slices per second.

Run it with a display, or under ``xvfb-run -a -s '-screen 0 1600x1200x24'``. The file is sparse, so
that it takes no room on disk; its planes are read through the page cache as those of any file,
and count as memory once they are mapped. The first layer in a window also pays for what napari
itself imports then (pint, scipy.ndimage); the second opening shows what opening costs.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

SIDE = 1024


def write_sparse(path: Path) -> None:
    """Write the header of a SIDE³ float32 tomogram with 10 Å voxels, and its data as a hole."""
    import mrcfile

    with mrcfile.new_mmap(path, (1, 8, 8), mrc_mode=2) as file:
        file.header.nz = file.header.mz = SIDE
        file.header.ny = file.header.my = file.header.nx = file.header.mx = SIDE
        file.header.cella = (SIDE * 10.0,) * 3
    os.truncate(path, 1024 + 4 * SIDE**3)


def megabytes() -> float:
    """Resident memory of this process, mapped pages of files included."""
    return psutil.Process().memory_info().rss / 1e6


def main() -> None:
    """Print seconds, extra megabytes and milliseconds a slice."""
    os.environ.setdefault("NAPARI_CONFIG", str(Path(tempfile.mkdtemp()) / "settings.yaml"))
    import napari
    from napari.qt import get_qapp

    viewer = napari.Viewer(show=True)
    app = get_qapp()
    canvas = viewer.window._qt_viewer.canvas._scene_canvas

    def draw() -> None:
        app.processEvents()
        canvas.render()

    draw()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tomogram.mrc"
        write_sparse(path)
        size = path.stat().st_size / 1e9
        for attempt in ("first", "again"):
            before, start = megabytes(), time.perf_counter()
            (layer,) = viewer.open(path, plugin="napari-vox3d")
            draw()
            seconds = time.perf_counter() - start
            extra = megabytes() - before
            print(f"{size:.1f} GB, {attempt}: shown in {seconds:.2f} s, {extra:.0f} MB more memory")
            if attempt == "first":
                viewer.layers.clear()
        lasted = []
        for z in np.random.default_rng(0).integers(0, SIDE, 50):
            start = time.perf_counter()
            viewer.dims.set_current_step(0, int(z))
            draw()
            lasted.append(1000 * (time.perf_counter() - start))
        print(
            f"50 random slices: median {np.median(lasted):.0f} ms, slowest {max(lasted):.0f} ms, "
            f"{megabytes() - before:.0f} MB more memory"
        )
        assert isinstance(layer.data, np.memmap)
        viewer.close()


if __name__ == "__main__":
    main()
