"""Opens, computes and closes in napari again and again; prints what is held after each round.

``python tests/robustness/cycles.py ROUNDS`` needs a display; each line of its output is JSON.
"""

import gc
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

PATIENCE = 120  # seconds that a run may take


def main(rounds):
    folder = Path(tempfile.mkdtemp())
    os.environ["NAPARI_CONFIG"] = str(folder / "settings.yaml")
    os.environ["NAPARI_VOX3D_MODELS"] = str(folder / "models")
    from ase.build import bulk

    import napari_vox3d as vox
    from napari_vox3d import Volume, write_volume

    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    from test_robustness_vanishing import small_picker

    small_picker().save(folder / "models" / "random")
    values = np.random.default_rng(0).normal(size=(48, 128, 128)).astype("f4")
    write_volume(folder / "tomogram.mrc", Volume(values, 10.0))
    density = vox.superpose_atoms(bulk("Si"), (32, 32, 32))
    write_volume(folder / "CHGCAR", density)

    import napari
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    viewer = napari.Viewer()
    for number in range(rounds):
        pick(viewer, folder) if number % 2 else explore(viewer, folder)
        for _ in range(5):  # deletions come with the events
            QApplication.processEvents()
            QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
            gc.collect()
        print(json.dumps({"round": number, **held()}), flush=True)
    viewer.close()


def pick(viewer, folder):
    """Open a tomogram, find particles, write them, and close it all."""
    from napari_vox3d.gui.controls import choose

    viewer.open(folder / "tomogram.mrc", plugin="napari-vox3d")
    dock, widget = viewer.window.add_plugin_dock_widget("napari-vox3d", "Pick particles")
    choose(widget.model.menu, "random")
    run(widget.run)
    widget.save_picks(folder / "picks.star")
    close(viewer, dock)


def explore(viewer, folder):
    """Open a density, predict its ELF, find the maxima of that, and close it all."""
    viewer.open(folder / "CHGCAR", plugin="napari-vox3d")
    dock, widget = viewer.window.add_plugin_dock_widget("napari-vox3d", "Predict ELF")
    widget.model.menu.value = "promolecule"
    run(widget.run)
    close(viewer, dock, clear=False)
    dock, widget = viewer.window.add_plugin_dock_widget("napari-vox3d", "Explore a crystal")
    from napari_vox3d.gui.crystal_sections import Maxima

    run(widget.sections[Maxima].run)
    close(viewer, dock)


def run(control):
    from qtpy.QtWidgets import QApplication

    control.press()
    deadline = time.monotonic() + PATIENCE
    while control.running:
        if time.monotonic() > deadline:
            raise TimeoutError
        QApplication.processEvents()
        time.sleep(0.005)


def close(viewer, dock, clear=True):
    viewer.window.remove_dock_widget(dock)
    if clear:
        viewer.layers.clear()


def held():
    """Bytes of memory that are this process's own, threads, handles and widgets."""
    from qtpy.QtWidgets import QApplication

    status = Path("/proc/self/status").read_text()
    anonymous = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return {
        "memory": 1024 * int(anonymous.split()[1]),
        "threads": threading.active_count(),
        "tasks": len(list(Path("/proc/self/task").iterdir())),
        "handles": len(list(Path("/proc/self/fd").iterdir())),
        "widgets": len(QApplication.allWidgets()),
    }


if __name__ == "__main__":
    main(int(sys.argv[1]))
