"""The window: how long it does not answer while networks run, and how soon it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import pairwise
from statistics import median
from typing import Any

from benchmarks.harness import Row, compare, number, times

TICK = 5  # ms between two signs of life
PATIENCE = 300  # seconds for one run


def measure(quick: bool) -> Iterator[Row]:
    """Run networks in a window, import, and open widgets."""
    size = 16 if quick else 64
    for what, work in (("ELF", predict), ("picking", pick)):
        first, again = median_of(compare({"": work}, size, rounds=1 if quick else 3))
        yield Row(
            f"window during {what}: longest stall", "–", 1000 * again, "ms", 100, 50, least=False,
            said=f"from the press to the result, {TICK} ms between ticks; "
            f"{number(1000 * first, 'ms')} in the first run, which also imports PyTorch",
        )  # fmt: skip
    (seconds,) = median_of(compare({"": import_package}, rounds=7))
    yield Row("import napari_vox3d", "–", seconds, "s", 0.1, 0.03, least=False, said=times(seconds))
    for name in ("Predict ELF", "Pick particles"):
        (seconds,) = median_of(compare({"": open_widget}, name, rounds=3))
        yield Row(
            f"{name}: first time open", "–", seconds, "s", 1.5, 0.5, least=False,
            said=times(seconds),
        )  # fmt: skip


def median_of(found: Any) -> list[float]:
    """Median of each of the numbers that a work gives."""
    return [median(column) for column in zip(*found[""].answers, strict=True)]


def import_package() -> Callable[[], Any]:
    """Import the package into a bare Python."""

    def run() -> list[float]:
        start = time.perf_counter()
        import_module("napari_vox3d")
        return [time.perf_counter() - start]

    return run


def open_widget(name: str) -> Callable[[], Any]:
    """Open a widget from the menu of a window that is there."""
    viewer, settle = _window()

    def run() -> list[float]:
        start = time.perf_counter()
        viewer.window.add_plugin_dock_widget("napari-vox3d", name)
        settle()
        return [time.perf_counter() - start]

    return run


def predict(size: int) -> Callable[[], Any]:
    """Predict an ELF on size³ points from atoms, twice."""
    from ase.build import bulk

    from napari_vox3d.gui.layers import structure_layers

    crystal = bulk("MgO", "rocksalt", 4.21, cubic=True)
    return _stalls("Predict ELF", structure_layers(crystal), {"spacing": 4.21 / size})


def pick(size: int) -> Callable[[], Any]:
    """Pick in a tomogram of size × 4 size × 4 size voxels, twice."""
    from benchmarks.tomograms import noise
    from napari_vox3d.gui.layers import volume_layers

    return _stalls("Pick particles", volume_layers([noise([size, 4 * size, 4 * size])]), {})


def _stalls(name: str, layers: Any, settings: dict[str, Any]) -> Callable[[], Any]:
    from napari.layers import Layer
    from qtpy.QtCore import QEventLoop, Qt, QTimer

    viewer, settle = _window()
    for layer in layers:
        viewer.add_layer(Layer.create(*layer))
    _, widget = viewer.window.add_plugin_dock_widget("napari-vox3d", name)
    for setting, value in settings.items():
        getattr(widget, setting).value = value
    settle()
    clock = QTimer(interval=TICK, timerType=Qt.TimerType.PreciseTimer)

    def stall() -> float:
        loop, ticks = QEventLoop(), [time.perf_counter()]
        clock.timeout.connect(lambda: ticks.append(time.perf_counter()))
        widget.run.ended.connect(lambda: QTimer.singleShot(500, loop.quit))
        QTimer.singleShot(100, widget.run.press)
        QTimer.singleShot(1000 * PATIENCE, loop.quit)
        clock.start()
        loop.exec()
        clock.stop()
        assert not widget.run.running, "it did not end"
        return max(b - a for a, b in pairwise(ticks))

    return lambda: [stall(), stall()]


def _window() -> tuple[Any, Callable[[], None]]:
    import napari
    from napari.qt import get_qapp

    viewer = napari.Viewer(show=True)
    app = get_qapp()

    def settle() -> None:
        for _ in range(3):  # events that come from events
            app.processEvents()

    settle()
    return viewer, settle
