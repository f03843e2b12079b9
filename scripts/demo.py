"""The main job on the samples: predict ELFs, pick particles, and show both in napari.

Writes the ELFCARs, the picks and a screenshot of each window into ``demo/`` and prints what was
done and how long it took. With ``--show`` the last window of each kind stays open.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
from qtpy.QtWidgets import QApplication, QDockWidget
from rich.console import Console
from rich.table import Table

import napari_vox3d as vox
from napari_vox3d.gui.elf_widget import PredictELF
from napari_vox3d.gui.picking_widget import PickParticles
from napari_vox3d.gui.samples import FOLDER

OUTPUT = Path("demo")
PATIENCE = 600  # seconds for one prediction


def main() -> None:
    """Run the two workflows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", action="store_true", help="leave the windows open")
    show = parser.parse_args().show
    OUTPUT.mkdir(exist_ok=True)
    report = Table("what", "result", "seconds")

    for sample in ("Fe_CHGCAR.gz", "graphite_ELFCAR.gz"):
        target = OUTPUT / f"{sample.split('_')[0]}_ELFCAR"
        run(report, f"ELF of {sample}", lambda s=sample, t=target: write_elf(FOLDER / s, t))
    tomogram = FOLDER / "simulated_tomogram.mrc"
    run(report, f"picks in {tomogram.name}", lambda: write_picks(tomogram, OUTPUT / "picks.star"))
    run(report, "Predict ELF window", lambda: elf_window(FOLDER / "graphite_ELFCAR.gz"))
    run(report, "Pick particles window", lambda: picking_window(tomogram))
    Console().print(report)
    if show:
        napari.run()
    else:
        napari.Viewer.close_all()


def run(report: Table, what: str, work: Callable[[], str]) -> None:
    """Do one thing and note its result and its time."""
    start = time.perf_counter()
    result = work()
    report.add_row(what, result, f"{time.perf_counter() - start:.1f}")


def write_elf(source: Any, target: Path) -> str:
    """Predict on the grid of a sample and write the ELFCAR."""
    elf = vox.predict_elf(source)
    vox.write_volume(target, elf)
    return f"{target}: {elf.values.min():.2f} … {elf.values.max():.2f}"


def write_picks(source: Any, target: Path) -> str:
    """Pick in the sample, write the picks, and compare with what is known to be there."""
    tomogram = vox.read_volume(source)
    picks = vox.pick_particles(tomogram)
    vox.write_picks(target, picks)
    truth = vox.read_picks(FOLDER / "simulated_tomogram_truth.star", tomogram)
    scores = vox.evaluate_picks(picks, truth)
    return f"{target}: {len(picks)} picks of {len(truth)} particles, mean F1 {scores.mean_f:.2f}"


def elf_window(source: Any) -> str:
    """Open a sample, press *Predict ELF*, and take a picture in 3D."""
    viewer = run_in_window(source, PredictELF, "Predict ELF")
    viewer.dims.ndisplay = 3
    settle()
    viewer.reset_view()
    viewer.scene.camera.angles = (20, 60, 10)
    viewer.scene.camera.zoom = 72  # pixels for one Å; the cell is 8.7 Å long
    return screenshot(viewer, OUTPUT / "predict_elf.png")


def picking_window(source: Any) -> str:
    """Open the tomogram, press *Pick particles*, and take a picture of the middle slice."""
    viewer = run_in_window(source, PickParticles, "Pick particles")
    return screenshot(viewer, OUTPUT / "pick_particles.png")


def run_in_window(source: Any, widget: type, name: str) -> napari.Viewer:
    """Open a file in a new window, dock a widget as the Plugins menu does, and press Run."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    viewer.open(source, plugin="napari-vox3d")
    docked = widget(viewer)
    dock_widget: QDockWidget = viewer.window.add_dock_widget(docked, name=name, area="right")
    dock_widget.setMinimumWidth(380)
    press_and_wait(docked.run)
    return viewer


def press_and_wait(control: Any) -> None:
    """Press the Run button and handle events until the work is done."""
    control.press()
    deadline = time.monotonic() + PATIENCE
    while control.running and time.monotonic() < deadline:
        QApplication.processEvents()
        time.sleep(0.02)
    if control.running:
        raise TimeoutError(f"{control.button.text()} did not end within {PATIENCE} s")


def settle() -> None:
    """Give napari half a second to draw."""
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        QApplication.processEvents()


def screenshot(viewer: napari.Viewer, target: Path) -> str:
    """Save a picture of the whole window."""
    viewer.canvas.overlays.scale_bar.visible = True
    settle()
    viewer.screenshot(str(target), canvas_only=False)
    return str(target)


if __name__ == "__main__":
    main()
