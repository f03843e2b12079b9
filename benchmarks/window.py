"""The window: how long it stands still for networks and their results, how soon it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from statistics import median
from typing import Any

import numpy as np

from benchmarks.harness import Measured, Row, compare, number, times

TICK = 5  # ms between two signs of life
PATIENCE = 300  # seconds for one run


def measure(quick: bool) -> Iterator[Row]:
    """Run networks in a window, import, and open widgets."""
    size, rounds = (16, 1) if quick else (64, 3)
    for what, work, result, hand in (
        ("ELF", predict, "an ELF and its error", add_images),
        ("picking", pick, "picks", add_points),
    ):
        found = compare({"plugin": work, "hand": hand}, size, rounds=rounds)
        first, running, showing = median_of(found["plugin"])
        (by_hand,) = median_of(found["hand"])
        yield Row(
            f"window during {what}: longest stall", "–", 1000 * running, "ms", 100, 50, least=False,
            said=f"from the press to the end of the network, {TICK} ms between ticks; "
            f"{number(1000 * first, 'ms')} in the first run, which also imports PyTorch",
        )  # fmt: skip
        yield Row(
            f"window showing {result}: longest stall", "napari by hand", 1000 * showing, "ms",
            least=False, said=f"{times(showing)} and {times(by_hand)}",
            floor="what napari takes to make and paint the layers",
        )  # fmt: skip
    (seconds,) = median_of(compare({"": import_package}, rounds=7)[""])
    yield Row("import napari_vox3d", "–", seconds, "s", 0.1, 0.03, least=False, said=times(seconds))
    for name in ("Predict ELF", "Pick particles"):
        (seconds,) = median_of(compare({"": open_widget}, name, rounds=3)[""])
        yield Row(
            f"{name}: first time open", "–", seconds, "s", 1.5, 0.5, least=False,
            said=times(seconds),
        )  # fmt: skip


def median_of(found: Measured) -> list[float]:
    """Median of each of the numbers that a work gives."""
    return [median(column) for column in zip(*found.answers, strict=True)]


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


def add_images(size: int) -> Callable[[], Any]:
    """Add two images of size³ voxels to a window, one after another."""
    viewer, settle = _window()
    volume = np.random.default_rng(0).random((size,) * 3, np.float32)

    def run() -> list[float]:
        viewer.add_image(volume)  # what it makes but once is not counted
        settle()
        return [max(_seconds(viewer.add_image, volume, settle) for _ in range(2))]

    return run


def add_points(size: int) -> Callable[[], Any]:
    """Add a hundred points to a window, in a class each."""
    viewer, settle = _window()
    rng = np.random.default_rng(0)
    places = rng.uniform(0, size, (100, 3))
    look = {"features": {"class": rng.choice(["a", "b"], 100)}, "face_color": "class"}

    def run() -> list[float]:
        viewer.add_points(places, **look)
        settle()
        return [_seconds(partial(viewer.add_points, **look), places, settle)]

    return run


def _seconds(add: Callable[[Any], Any], data: Any, settle: Callable[[], None]) -> float:
    start = time.perf_counter()
    add(data)
    settle()
    return time.perf_counter() - start


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

    def stalls() -> tuple[float, float]:
        """While the network runs, and while its result is shown."""
        loop, ended = QEventLoop(), False
        longest, last = [0.0, 0.0], time.perf_counter()

        def tick() -> None:
            nonlocal last
            now = time.perf_counter()
            shown = widget.run.showing or ended
            longest[shown] = max(longest[shown], now - last)
            last = now

        def end() -> None:
            nonlocal ended
            ended = True
            QTimer.singleShot(500, loop.quit)

        clock.timeout.connect(tick)
        widget.run.ended.connect(end)
        QTimer.singleShot(100, widget.run.press)
        QTimer.singleShot(1000 * PATIENCE, loop.quit)
        clock.start()
        loop.exec()
        clock.stop()
        clock.timeout.disconnect(tick)
        widget.run.ended.disconnect(end)
        assert not widget.run.running, "it did not end"
        return longest[0], longest[1]

    def run() -> list[float]:
        first = max(stalls())
        return [first, *stalls()]

    return run


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
