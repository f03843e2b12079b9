"""Make every picture of the documents and the README in the real napari window.

``python scripts/pictures.py`` makes all of them, ``python scripts/pictures.py NAME …`` those named;
without a display run it through ``scripts/with_virtual_display``. Each function below is one walk
through the window, with the clicks that the tutorials describe, and saves the pictures on its way.
Settings and models of the user stay out of the pictures and as they are.
"""
# ruff: noqa: E402  (napari reads where its settings are when it is imported)

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

SCRATCH = Path(tempfile.gettempdir()) / "vox3d"  # some windows show it
shutil.rmtree(SCRATCH, ignore_errors=True)
SCRATCH.mkdir()
os.environ["NAPARI_CONFIG"] = str(SCRATCH / "settings.yaml")
os.environ["NAPARI_VOX3D_MODELS"] = str(SCRATCH / "models")
os.environ["XDG_DATA_HOME"] = str(SCRATCH / "data")  # of reviews

import napari
import numpy as np
from demo import FOLDER, PATIENCE, press_and_wait, settle
from napari.utils.notifications import notification_manager
from numpy.typing import NDArray
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtGui import QAction, QImage
from qtpy.QtWidgets import QApplication, QFileDialog, QMenu, QMenuBar, QScrollArea, QWidget
from scipy.spatial import cKDTree

import napari_vox3d as vox

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
TUTORIALS = ROOT / "docs" / "tutorials"
WINDOW = (1320, 860)
HALF = (560, 640)  # of a picture that shows two views
CUBE = (15, 0, 75)  # a cubic cell seen slightly from above
RELION = "RELION 5 (*.star)"
COLOURS = 256  # of a palette: a third of the size, and nobody sees the difference


def main(names: list[str]) -> None:
    """Make the pictures named, or all."""
    IMAGES.mkdir(exist_ok=True)
    for name, walk in WALKS.items():
        if not names or name in names:
            walk()
            errors = [
                str(note) for note in notification_manager.records if note.severity == "error"
            ]
            if errors:  # a picture of a mishap is no picture for the documents
                raise SystemExit(f"{name}: {errors[0]}")
            print(name)


def pick_particles() -> None:
    """The tutorial on picking, click by click."""
    with window() as viewer:
        tomogram = "Simulated tomogram with known particles"
        open_menu(viewer, "File", "Open Sample", "vox3d", tomogram, save="picking_sample")
        viewer.open_sample("napari-vox3d", "simulated_tomogram")
        save(viewer, "picking_opened")
        widget = dock(viewer, "Pick particles")
        press_and_wait(widget.run)
        save(viewer, "pick_particles")
        threshold = next(row.threshold for row in widget._rows if row.kind.name == "thyroglobulin")
        suggested = threshold.value
        threshold.value = 0.9
        settle()
        save(viewer, "picking_threshold", part=widget)
        threshold.value = suggested
        settle()
        correct(viewer)
        save(viewer, "picking_corrected")
        in_3d(viewer, zoom=0.3, angles=(20, -35, 20))
        save(viewer, "picking_3d", canvas=True)


def correct(viewer: napari.Viewer) -> None:
    """Select a wrong pick, to be deleted, as a reader does by hand."""
    picks, truth = viewer.layers["simulated_tomogram picks"], viewer.layers["true particles"]
    nearest, _ = cKDTree(truth.data).query(picks.data)
    wrong = int(np.argmax(nearest))
    viewer.dims.set_point(0, picks.data_to_world(picks.data[wrong])[0])
    picks.mode = "select"
    picks.selected_data = {wrong}
    viewer.reset_view()
    settle()


def review() -> None:
    """How to review and evaluate picks."""
    with window() as viewer:
        viewer.open_sample("napari-vox3d", "simulated_tomogram")
        press_and_wait(dock(viewer, "Pick particles").run)
        reviewing = dock(viewer, "Review picks", alone=True)
        for button in ("keep", "back"):
            reviewing.buttons[button].click()
            settle()
        save(viewer, "review_picks")
        evaluating = dock(viewer, "Evaluate picks", alone=True)
        evaluating.evaluate.native.click()
        viewer.reset_view()
        settle()
        save(viewer, "evaluate_picks")


def find_similar() -> None:
    """How to find more like some picks: clusters, the odd ones of a class, and more of it."""
    with window() as viewer:
        viewer.open_sample("napari-vox3d", "simulated_tomogram")
        picks = viewer.layers["true particles"]
        picks.visible = True
        widget = dock(viewer, "Find similar")
        widget.count.value = 5
        press_and_wait(widget.cluster)
        select(picks, "ribosome")
        press_and_wait(widget.sort)
        widget.table.selectRow(0)
        save(viewer, "similar_sorted")
        select(picks, "apo-ferritin")
        press_and_wait(widget.find)
        save(viewer, "similar_found")


def select(layer: Any, kind: str) -> None:
    """Select the first eight points of a class, as a reader does with Shift."""
    layer.selected_data = set(np.flatnonzero(layer.features["class"] == kind)[:8].tolist())
    settle()


def few_clicks() -> None:
    """The tutorial on picks from clicks: open, click ten, train, threshold, review, export."""
    with window() as viewer:
        viewer.open_sample("napari-vox3d", "simulated_tomogram")
        truth = viewer.layers["true particles"]
        widget = dock(viewer, "Train a picker")
        widget.particle.value = "ribosome"
        widget.click.click()
        clicks = viewer.layers["ribosome"]
        ribosomes = truth.data[truth.features["class"] == "ribosome"][:10]
        middle_last = np.argsort(-np.abs(ribosomes[:, 0] - viewer.layers[0].data.shape[0] / 2))
        for place in ribosomes[middle_last]:  # slice by slice, as a reader does
            viewer.dims.set_point(0, truth.data_to_world(place)[0])
            clicks.add(place)
        settle()
        save(viewer, "few_clicks_clicked")
        train_for(widget, minutes=1, steps=5)
        wait_until(lambda: widget.seen.text() != "")
        save(viewer, "few_clicks_training")
        wait_until(lambda: not widget.run.running)
        save(viewer, "few_clicks_trained", part=widget)
        clicks.visible = False
        widget.pick.click()
        picking = viewer.window.dock_widgets["Pick particles (vox3d)"]
        wait_until(lambda: not picking.run.running)
        settle()
        save(viewer, "few_clicks_picked")
        row = picking._rows[0]
        row.threshold.value = 0.2
        settle()
        save(viewer, "few_clicks_threshold", part=picking)
        row.threshold.value = row.kind.threshold
        settle()
        reviewing = dock(viewer, "Review picks", alone=True)
        for button in ("keep", "keep", "reject"):
            reviewing.buttons[button].click()
            settle()
        save(viewer, "few_clicks_reviewed")
        with answering(QFileDialog, "getSaveFileName", (str(SCRATCH / "ribosomes.star"), RELION)):
            reviewing.save.native.click()
        settle()
        save(viewer, "few_clicks_saved", part=reviewing)


def fit_picks() -> None:
    """Picks of another grid: the notice, and the window."""
    sample = vox.read_volume(FOLDER / "simulated_tomogram.mrc")
    truth = vox.read_picks(FOLDER / "simulated_tomogram_truth.star", sample)
    coarse = vox.Volume(sample.values[::2, ::2, ::2], 2.2 * sample.voxel_size)
    vox.write_volume(SCRATCH / "TS_01.mrc", coarse)
    vox.write_picks(SCRATCH / "TS_01_picks.csv", replace(truth, tomogram="TS_01"))
    with window() as viewer:
        dock(viewer, "Fit picks to tomogram")
        viewer.canvas.overlays.scale_bar.position = "bottom_left"  # the notice comes on the right
        viewer.open(SCRATCH / "TS_01.mrc", plugin="napari-vox3d")
        viewer.open(SCRATCH / "TS_01_picks.csv", plugin="napari-vox3d")
        settle()
        save(viewer, "fit_picks")


def predict_elf() -> None:
    """The tutorial on the ELF: silicon from a POSCAR."""
    poscar = SCRATCH / "POSCAR"
    poscar.write_text(tutorial_file("elf.md", "POSCAR"), encoding="utf-8")
    vox.predict_elf(poscar)  # loads PyTorch, which the time in the window should not tell of
    with window() as viewer:
        viewer.open(poscar, plugin="napari-vox3d")
        in_3d(viewer, zoom=62, angles=CUBE)
        save(viewer, "elf_structure")
        widget = dock(viewer, "Predict ELF")
        press_and_wait(widget.run)
        in_3d(viewer, zoom=62, angles=CUBE)
        viewer.layers["Si8 ELF"].iso_threshold = 0.8
        save(viewer, "elf_isosurface")
        explorer = dock(viewer, "Explore a crystal", alone=True)
        maxima = show_page(explorer, "Bonds, lone pairs, interstitial electrons")
        press_and_wait(maxima.run)
        surface = show_page(explorer, "Isosurface")
        surface.level.setValue(0.8)
        surface.show_surface()
        show_page(explorer, "Bonds, lone pairs, interstitial electrons")
        in_3d(viewer, zoom=62, angles=CUBE)
        save(viewer, "elf_maxima")


def graphite() -> None:
    """A VASP file, and its prediction beside it."""
    with window() as viewer:
        viewer.open_sample("napari-vox3d", "graphite")
        show_atoms(viewer)
        viewer.scene.camera.zoom *= 0.8
        settle()
        slice_ = middle(viewer.screenshot(flash=False), *HALF)
        in_3d(viewer, zoom=58, angles=(20, 60, 10))
        space = middle(viewer.screenshot(flash=False), *HALF)
        store(side_by_side(slice_, space), "graphite_elf")
        widget = dock(viewer, "Predict ELF")
        press_and_wait(widget.run)
        in_3d(viewer, zoom=58, angles=(20, 60, 10))
        predicted = middle(viewer.screenshot(flash=False), *HALF)
        store(side_by_side(space, predicted), "elf_compared")
        explorer = dock(viewer, "Explore a crystal", alone=True)
        explorer.choose(viewer.layers["C4 ELF"])
        compare = show_page(explorer, "Compare")
        compare.reference.value = viewer.layers["C4 ELFCAR up"]
        press_and_wait(compare.run)
        viewer.dims.ndisplay = 2
        show_atoms(viewer)
        viewer.reset_view()
        save(viewer, "elf_difference")


def show_atoms(viewer: napari.Viewer) -> None:
    """Go to the slice of the first atom."""
    atoms = next(layer for layer in viewer.layers if layer.name.endswith("atoms"))
    viewer.dims.set_point(0, atoms.data_to_world(atoms.data[0])[0])
    viewer.canvas.overlays.scale_bar.visible = True
    settle()


def show_page(explorer: Any, title: str) -> Any:
    """Open a part of *Explore a crystal*."""
    page = next(kind for kind in explorer.sections if kind.title == title)
    if explorer.open is not page:
        explorer.headings[page].click()
    settle()
    return explorer.sections[page]


def batch() -> None:
    """Three tomograms picked by the batch window."""
    tomogram = vox.read_volume(FOLDER / "simulated_tomogram.mrc")
    folder = SCRATCH / "tomograms"
    folder.mkdir()
    for n, z in enumerate((0, 32), start=1):
        part = vox.Volume(tomogram.values[z : z + 64], tomogram.voxel_size)
        vox.write_volume(folder / f"TS_{n:02}.mrc", part)
    (folder / "TS_03.mrc").write_bytes(b"cut short")
    with window() as viewer:
        widget = dock(viewer, "Batch")
        widget.files.add(sorted(folder.glob("*.mrc")))
        press_and_wait(widget.run)
        settle()
        assert "2 done, 1 failed" in widget.result.text(), widget.result.text()
        save(viewer, "batch", part=widget)


def models() -> None:
    """The list of models with the card of the default picker."""
    with window() as viewer:
        widget = dock(viewer, "Models")
        widget.setMinimumWidth(440)  # for the table of classes
        widget.choose("unet-simulated")
        save(viewer, "models", part=widget)


def train_picker() -> None:
    """Training on the points of the sample, stopped halfway."""
    with window() as viewer:
        viewer.open_sample("napari-vox3d", "simulated_tomogram")
        viewer.layers["true particles"].visible = True
        widget = dock(viewer, "Train a picker")
        train_for(widget, minutes=3, steps=25)
        save(viewer, "train_picker")
        stop(widget)


def train_elf() -> None:
    """Training on the ELF of the sample, stopped halfway."""
    with window() as viewer:
        viewer.open_sample("napari-vox3d", "graphite")
        show_atoms(viewer)
        widget = dock(viewer, "Train an ELF model")
        train_for(widget, minutes=3, steps=25)
        save(viewer, "train_elf")
        stop(widget)


@contextmanager
def window() -> Iterator[napari.Viewer]:
    """An empty napari window, closed at the end."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*WINDOW)
    settle()
    yield viewer
    viewer.close()


def dock(viewer: napari.Viewer, name: str, alone: bool = False) -> Any:
    """Open a window of the plugin from the Plugins menu, closing the others if `alone`."""
    if alone:
        viewer.window.remove_dock_widget("all")
    menu: Any = viewer.window._qt_window.menuBar()
    for step in ("Plugins", "vox3d"):
        menu = _entry(menu, step).menu()
    _entry(menu, f"{name} (vox3d)").trigger()
    settle()
    return viewer.window.dock_widgets[f"{name} (vox3d)"]


def open_menu(viewer: napari.Viewer, *path: str, save: str) -> None:
    """Walk into a menu down to an entry, and save the menus that are open then."""
    bar = viewer.window._qt_window.menuBar()
    menus, place = [], bar.mapToGlobal(bar.rect().bottomLeft())
    menu = _entry(bar, path[0]).menu()
    for name in path[1:]:
        menu.popup(place)
        settle()
        menus.append(menu)
        entry = _entry(menu, name)
        menu.setActiveAction(entry)
        settle()
        place = menu.mapToGlobal(menu.actionGeometry(entry).topRight())
        menu = entry.menu()
    screen = QApplication.primaryScreen().grabWindow(0)
    corners = [menu.geometry().bottomRight() for menu in menus]
    right, low = (max(corner.x() for corner in corners), max(corner.y() for corner in corners))
    store(pixels(screen.toImage())[: low + 2, : right + 2], save)
    for menu in reversed(menus):
        menu.close()


def _entry(menu: QMenu | QMenuBar, name: str) -> QAction:
    return next(action for action in menu.actions() if action.text().replace("&", "") == name)


def in_3d(
    viewer: napari.Viewer, zoom: float, angles: tuple[float, float, float] = (10, 30, 40)
) -> None:
    """Press the 2D/3D button and turn the view; zoom in screen pixels for one Å."""
    viewer.dims.ndisplay = 3
    settle()
    viewer.reset_view()
    viewer.scene.camera.angles = angles
    viewer.scene.camera.zoom = zoom
    settle()


def train_for(widget: Any, minutes: float, steps: int) -> None:
    """Press Train and wait until the curve of the loss has some steps."""
    widget.training.minutes.value = minutes
    widget.run.press()
    deadline = time.monotonic() + PATIENCE
    while widget.run.running and len(widget.training.curve.losses) < steps:
        assert time.monotonic() < deadline, "training is too slow"
        settle()


def wait_until(done: Callable[[], bool]) -> None:
    """Handle events until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, "that takes too long"
        settle()


@contextmanager
def answering(kind: type, question: str, answer: Any) -> Iterator[None]:
    """Answer a dialog at once, which no walk could press a button of."""
    asked = getattr(kind, question)
    setattr(kind, question, lambda *_, **__: answer)
    try:
        yield
    finally:
        setattr(kind, question, asked)


def stop(widget: Any) -> None:
    """Press Cancel and wait until the training has ended."""
    press_and_wait(widget.run)


def save(
    viewer: napari.Viewer, name: str, part: QWidget | None = None, canvas: bool = False
) -> None:
    """Save the window, one widget of it with all that it scrolls over, or the canvas alone."""
    viewer.canvas.overlays.scale_bar.visible = True
    settle()
    if part is not None:
        area = part.findChild(QScrollArea, options=Qt.FindChildOption.FindDirectChildrenOnly)
        if area is not None:  # as high as it must be to show all
            area.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
            needed = area.widget().layout().totalHeightForWidth(area.viewport().width())
            part.resize(part.width(), part.height() + needed - area.viewport().height())
        store(without_margin(pixels(part.grab().toImage())), name)
    else:
        store(viewer.screenshot(canvas_only=canvas, flash=False), name)


def pixels(image: QImage) -> NDArray[np.uint8]:
    """(y, x, RGBA) of a Qt image."""
    image = image.convertToFormat(QImage.Format.Format_RGBA8888)
    raw = np.frombuffer(image.constBits().asarray(image.sizeInBytes()), np.uint8)
    # A copy, because the image is gone when this returns.
    return raw.reshape(image.height(), image.bytesPerLine() // 4, 4)[:, : image.width()].copy()


def without_margin(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture without the rows of one colour at its bottom, but for ten."""
    told = np.flatnonzero((picture != picture[-1:, -1:]).any(axis=(1, 2)))
    return picture[: told[-1] + 10]


def middle(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The middle of a picture."""
    y, x = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[y : y + height, x : x + width]


def side_by_side(*pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures of one height in a row, with a white line between them."""
    line = np.full((len(pictures[0]), 6, pictures[0].shape[2]), 255, np.uint8)
    return np.concatenate([part for one in pictures for part in (one, line)][:-1], axis=1)


def store(picture: NDArray[np.uint8], name: str) -> None:
    """Write a PNG with a palette."""
    rgb = Image.fromarray(np.ascontiguousarray(picture[..., :3]))
    # The default method drops small spots of colour, such as the dots of the classes.
    palette = rgb.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)
    palette.save(IMAGES / f"{name}.png", optimize=True)


def tutorial_file(page: str, name: str) -> str:
    """Text of the file that a tutorial asks the reader to save."""
    found = re.search(rf'title="{name}"\n(.*?)```', (TUTORIALS / page).read_text("utf-8"), re.S)
    assert found, f"{page} has no file {name}"
    return found[1]


WALKS = {
    walk.__name__: walk
    for walk in (
        pick_particles,
        review,
        find_similar,
        few_clicks,
        fit_picks,
        predict_elf,
        graphite,
        batch,
        models,
        train_picker,
        train_elf,
    )
}


if __name__ == "__main__":
    main(sys.argv[1:])
