"""Windows whose layers are odd, or come and go, and that close, while a job runs."""

import time
from threading import Event

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Layer, Points
from napari.settings import get_plugin_settings
from qtpy.compat import isalive
from qtpy.QtWidgets import QApplication
from samples import MOLECULE
from test_robustness_numbers import NOISE, ODD, SHAPE
from test_robustness_vanishing import small_picker

import napari_vox3d as vox
from napari_vox3d.gui import review_widget
from napari_vox3d.gui.batch_widget import RunBatch
from napari_vox3d.gui.controls import choose
from napari_vox3d.gui.crystal_measures import LineProfile, Save, Supercell, Values
from napari_vox3d.gui.crystal_sections import Maxima, Plane, Surface
from napari_vox3d.gui.elf_tools_widget import ExploreCrystal
from napari_vox3d.gui.elf_training_widget import TrainELF
from napari_vox3d.gui.elf_widget import PredictELF
from napari_vox3d.gui.evaluation_widget import EvaluatePicks
from napari_vox3d.gui.layers import volume_layer, volume_layers
from napari_vox3d.gui.pick_layers import picks_layer
from napari_vox3d.gui.picking_widget import PickParticles
from napari_vox3d.gui.review_widget import ReviewPicks
from napari_vox3d.gui.settings import recall, remember
from napari_vox3d.gui.training_widget import TrainPicker
from napari_vox3d.models import Model, ModelCard
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

PATIENCE = 60_000  # ms


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("napari_vox3d.curation.saved.data_folder", lambda: tmp_path)
    get_plugin_settings("napari-vox3d").reset()
    small_picker().save(tmp_path / "models" / "random")


@pytest.fixture
def calm(qtbot, errors):
    """Nothing but sentences is told, and nothing is raised in an event."""
    with qtbot.capture_exceptions() as raised:
        yield
    assert not raised
    faults = [error.message for error in errors if not is_sentence(error.message)]
    assert not faults


def is_sentence(message):
    return message.rstrip().endswith((".", "?")) and "not foreseen" not in message


def opened(window, viewer):
    """A window on a viewer without one, wired to its layers as napari wires it."""
    widget = window(viewer)
    if hasattr(widget, "reset_choices"):
        for name in ("inserted", "removed", "reordered", "renamed"):
            getattr(viewer.layers.events, name).connect(widget.reset_choices)
    widget.show()
    return widget


def add(viewer, *layers):
    return [viewer.add_layer(Layer.create(*layer)) for layer in layers]


def scene(viewer):
    """A tomogram with picks, and an ELF with its atoms."""
    volume = Volume(NOISE, 10.0, name="tomogram")
    places = [[8, 10, 12], [4, 5, 6], [10, 14, 16]]
    picks = Picks.from_indices(places, "a", scores=[0.4, 0.6, 0.8], voxel_size=10.0,
                               shape=SHAPE, radii=60.0, tomogram="tomogram")  # fmt: skip
    add(viewer, volume_layer(volume), picks_layer(picks, volume, name="picks"),
        picks_layer(picks, volume, name="truth"))  # fmt: skip
    add(viewer, *volume_layers([crystal(np.abs(NOISE) % 1)]))


def crystal(values, quantity="elf", unit="", cell=MOLECULE.cell.array):
    atoms = MOLECULE.copy()
    atoms.set_cell(cell)
    return Volume.on_lattice(values, cell, quantity=quantity, unit=unit, atoms=atoms, name=quantity)


# --- while a job runs ----------------------------------------------------------------------------


class Held:
    """A function whose result comes when it is let go."""

    def __init__(self, function):
        self.function, self.started, self.go = function, Event(), Event()

    def __call__(self, *arguments, progress, **options):
        result = self.function(*arguments, progress=lambda *_: None, **options)
        self.started.set()
        while not self.go.wait(0.01):
            progress(1, 2)
        return result


def trained(*_, name, checkpoint, **__):
    checkpoint.write_bytes(b"state")
    card = ModelCard(name=name, title=name, task="elf", input={}, training="None.",
                     licence="BSD-3-Clause", version="1")  # fmt: skip
    return Model(card)


def start_picking(widget, _folder=None):
    choose(widget.model.menu, "random")
    widget.run.press()


def start_elf(widget, _folder=None):
    choose(widget.model.menu, "promolecule")
    widget.run.press()


def start_batch(widget, folder):
    vox.write_volume(folder / "a.vasp", crystal(NOISE, "electron density", "e/Å³"))
    widget.task.value = "elf"
    choose(widget.models["elf"].menu, "promolecule")
    widget.files.add([folder / "a.vasp"])
    widget.run.press()


def start(widget, _folder):
    widget.run.press()


JOBS = {
    "Pick particles": (PickParticles, "score_particles", vox.score_particles, start_picking),
    "Predict ELF": (PredictELF, "predict_elf", vox.predict_elf, start_elf),
    "Explore a crystal": (ExploreCrystal, "find_maxima", vox.find_maxima,
                          lambda widget, _: widget.sections[Maxima].run.press()),
    "Train a picker": (TrainPicker, "train_picker", trained, start),
    "Train an ELF model": (TrainELF, "train_elf", trained, start),
    "Batch": (RunBatch, "predict_elf_files", vox.predict_elf_files, start_batch),
    "Review picks": (ReviewPicks, "on_extremes", review_widget.on_extremes, lambda *_: None),
}  # fmt: skip


def remove(viewer, _widget):
    viewer.layers.clear()


def rename(viewer, _widget):
    for layer in viewer.layers:
        layer.name = "another name"


def change(viewer, _widget):
    for layer in viewer.layers:
        if isinstance(layer, Image):
            layer.data = np.asarray(layer.data)[:5, :6, :7]
        elif isinstance(layer, Points):
            layer.data = layer.data[:1]


def mix(viewer, _widget):
    add(viewer, volume_layer(Volume(NOISE[:4], 3.0, name="tomogram")))
    viewer.layers.move(0, len(viewer.layers))
    viewer.dims.ndisplay = 3


def close(_viewer, widget):
    widget.close()
    widget.deleteLater()


MISCHIEF = {
    "removed": remove, "renamed": rename, "changed": change, "mixed": mix, "closed": close
}  # fmt: skip


def put_away(*widgets):
    for widget in widgets:
        if isalive(widget):
            widget.close()
            widget.deleteLater()
    QApplication.processEvents()


def running(widget):
    if not isalive(widget):
        return False
    if isinstance(widget, ExploreCrystal):
        return widget.sections[Maxima].run.running
    return widget._job is not None if isinstance(widget, ReviewPicks) else widget.run.running


@pytest.mark.parametrize("what", MISCHIEF)
@pytest.mark.parametrize("window", JOBS)
def test_layers_and_windows_may_go_while_a_job_runs(
    qtbot, monkeypatch, calm, tmp_path, window, what
):
    kind, name, function, begin = JOBS[window]
    held = Held(function)
    if kind is ReviewPicks:
        monkeypatch.setattr(review_widget, name, held)
    else:
        monkeypatch.setitem(vars(vox), name, held)
    viewer = ViewerModel()
    scene(viewer)
    widget = opened(kind, viewer)
    begin(widget, tmp_path)
    qtbot.waitUntil(held.started.is_set, timeout=PATIENCE)
    MISCHIEF[what](viewer, widget)
    qtbot.wait(30)
    held.go.set()
    qtbot.waitUntil(lambda: not running(widget), timeout=PATIENCE)
    qtbot.wait(150)  # timers that follow
    put_away(widget)
    viewer.layers.clear()
    qtbot.wait(10)


def test_the_viewer_may_close_while_every_window_is_at_work(
    make_napari_viewer, qtbot, monkeypatch, calm, tmp_path
):
    viewer = make_napari_viewer()
    scene(viewer)
    jobs = []
    for window, (kind, name, function, begin) in JOBS.items():
        held = Held(function)
        if kind is ReviewPicks:
            monkeypatch.setattr(review_widget, name, held)
        else:
            monkeypatch.setitem(vars(vox), name, held)
        _, widget = viewer.window.add_plugin_dock_widget("napari-vox3d", window)
        begin(widget, tmp_path)
        jobs.append((held, widget))
    # As many work as there are cores; the others wait.
    qtbot.waitUntil(lambda: any(held.started.is_set() for held, _ in jobs), timeout=PATIENCE)
    viewer.close()
    for held, _ in jobs:
        held.go.set()
    qtbot.waitUntil(lambda: not any(running(widget) for _, widget in jobs), timeout=PATIENCE)
    qtbot.wait(100)


def test_a_file_that_is_cut_short_is_told_of_in_the_window(qtbot, tmp_path, errors):
    vox.write_volume(tmp_path / "a.mrc", Volume(np.tile(NOISE, (8, 4, 4)), 10.0))
    viewer = ViewerModel()
    add(viewer, volume_layer(vox.read_volume(tmp_path / "a.mrc")))
    widget = opened(PickParticles, viewer)
    (tmp_path / "a.mrc").write_bytes((tmp_path / "a.mrc").read_bytes()[:9000])
    start_picking(widget)
    qtbot.waitUntil(lambda: not widget.run.running, timeout=PATIENCE)
    put_away(widget)
    assert [error.message for error in errors] == [
        f"{tmp_path / 'a.mrc'}: was made shorter by another program while it was open. Open it "
        "again."
    ]


# --- odd layers ----------------------------------------------------------------------------------


def odd_images():
    """Layers of other readers: data, and keyword arguments of `napari.layers.Image`."""
    import dask.array

    plain = {"scale": (10, 10, 10), "units": "angstrom"}
    found = {kind: (values, plain) for kind, values in ODD.items() if min(values.shape)}
    turned = np.diag([1.0, 1, 1, 1])
    turned[1:3, 1:3] = [[0.8, -0.6], [0.6, 0.8]]
    return found | {
        "mirrored": (NOISE, {"scale": (10, -10, 10), "units": "angstrom"}),
        "turned": (NOISE, {"affine": turned}),
        "axes x, y, z": (NOISE, {**plain, "axis_labels": ("x", "y", "z")}),
        "without units": (NOISE, {}),
        "in seconds": (NOISE, {"units": ("second", "second", "second")}),
        "in nm": (NOISE, {"units": "nm"}),
        "tiny": (NOISE, {**plain, "scale": (1e-9,) * 3}),
        "huge": (NOISE, {**plain, "scale": (1e9,) * 3}),
        "flat": (NOISE[0], {}),
        "several": (np.stack([NOISE, -NOISE]), {}),
        "colours": (np.abs(NOISE)[..., None].repeat(3, -1) % 1, {"rgb": True}),
        "dask": (dask.array.from_array(NOISE, chunks=8), plain),
        "levels": ([NOISE, NOISE[::2, ::2, ::2]], {**plain, "multiscale": True}),
        "half": (NOISE.astype("f2"), plain),
    }


FEW = ("nan", "one infinite", "zeros", "i1", "u2", "bool", "one voxel", "mirrored",
       "axes x, y, z", "without units", "huge", "several", "levels")  # fmt: skip


def wait_for(widget, qtbot):
    qtbot.waitUntil(lambda: not running(widget), timeout=PATIENCE)


@pytest.mark.parametrize("kind", odd_images())
def test_odd_images_are_picked_in_and_learnt_from_or_refused(qtbot, monkeypatch, long, calm, kind):
    if not long and kind not in FEW:
        pytest.skip("only in the long form")
    monkeypatch.setitem(vars(vox), "train_picker", trained)
    viewer = ViewerModel()
    data, options = odd_images()[kind]
    try:
        layer = viewer.add_image(data, name=kind, **options)
    except Exception:
        pytest.skip("napari refuses it")
    points = viewer.add_points([[3, 4, 5], [8, 9, 10.0]], name="points")
    if layer.ndim > 2:
        points.scale, points.units = layer.scale[-3:], layer.units[-3:]
    picking = opened(PickParticles, viewer)
    choose(picking.volume, layer)
    start_picking(picking)
    wait_for(picking, qtbot)
    training = opened(TrainPicker, viewer)
    training.training.minutes.value = 0.1
    training.run.press()
    wait_for(training, qtbot)
    review = opened(ReviewPicks, viewer)
    choose(review.volume, layer)
    wait_for(review, qtbot)
    review.decide("accepted")
    review.step(1)
    evaluation = opened(EvaluatePicks, viewer)
    evaluation._evaluate()
    qtbot.wait(150)
    put_away(picking, training, review, evaluation)


def odd_crystals():
    left = MOLECULE.cell.array[[1, 0, 2]]
    skewed = MOLECULE.cell.array + np.array([[0, 1.0, 0.5], [0, 0, 1], [0, 0, 0]])
    found = {kind: (values, {}) for kind, values in ODD.items() if min(values.shape)}
    some = np.abs(NOISE) % 1
    return found | {
        "left-handed": (some, {"cell": left}),
        "mirrored": (some, {"cell": -MOLECULE.cell.array}),
        "oblique": (some, {"cell": skewed}),
        "tiny cell": (some, {"cell": 1e-4 * MOLECULE.cell.array}),
        "huge cell": (some, {"cell": 1e5 * MOLECULE.cell.array}),
    }


FEW_CRYSTALS = ("nan", "one infinite", "largest float32", "zeros", "one voxel", "plane", "i1",
                "left-handed", "mirrored", "tiny cell", "huge cell")  # fmt: skip


@pytest.mark.parametrize("quantity", ["elf", "electron density"])
@pytest.mark.parametrize("kind", odd_crystals())
def test_odd_crystals_are_explored_and_predicted_or_refused(
    qtbot, monkeypatch, long, calm, tmp_path, kind, quantity
):
    if not long and (kind not in FEW_CRYSTALS or quantity != "elf"):
        pytest.skip("only in the long form")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(vox), "train_elf", trained)
    viewer = ViewerModel()
    values, options = odd_crystals()[kind]
    unit = {"elf": ""}.get(quantity, "e/Å³")
    add(viewer, *volume_layers([crystal(values, quantity, unit, **options)]))
    explorer = opened(ExploreCrystal, viewer)
    explorer.sections[Maxima].run.press()
    wait_for(explorer, qtbot)
    acts = {Surface: "show_surface", Plane: "show_plane", LineProfile: "show_profile",
            Values: "opened", Save: "save"}  # fmt: skip
    for page, act in acts.items():
        getattr(explorer.sections[page], act)()
    prediction = opened(PredictELF, viewer)
    if "huge" not in kind:  # no end of points
        start_elf(prediction)
        wait_for(prediction, qtbot)
    training = opened(TrainELF, viewer)
    training.run.press()
    wait_for(training, qtbot)
    explorer.sections[Supercell].tile()
    qtbot.wait(150)
    put_away(explorer, prediction, training)


def test_two_windows_of_a_kind_work_at_the_same_time(qtbot, calm):
    viewer = ViewerModel()
    scene(viewer)
    windows = [opened(PickParticles, viewer) for _ in range(2)]
    windows.append(opened(PredictELF, viewer))
    for widget in windows:
        start_elf(widget) if isinstance(widget, PredictELF) else start_picking(widget)
    deadline = time.monotonic() + PATIENCE / 1000
    while any(map(running, windows)) and time.monotonic() < deadline:
        qtbot.wait(20)
    assert any(layer.name.startswith("tomogram picks") for layer in viewer.layers)
    qtbot.wait(150)
    put_away(*windows)


def test_settings_that_cannot_be_written_stop_nothing(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(get_plugin_settings("napari-vox3d")), "save", full)
    remember("picking", min_distance=33.0)
    assert recall("picking")["min_distance"] == 33.0
