import shlex
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Layer
from napari.settings import get_plugin_settings
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QFileDialog

import napari_vox3d as vox
from napari_vox3d.batch import Outcome
from napari_vox3d.gui.batch_widget import DASK, RunBatch
from napari_vox3d.gui.controls import choose
from napari_vox3d.gui.layers import structure_layers, volume_layer
from napari_vox3d.gui.settings import recall
from napari_vox3d.gui.tomograms import calibrate

SILICON = """Si2
 1.0
 0.000 2.715 2.715
 2.715 0.000 2.715
 2.715 2.715 0.000
 Si
 2
Direct
 0.00 0.00 0.00
 0.25 0.25 0.25
"""


@pytest.fixture(autouse=True)
def _own_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "models"))
    get_plugin_settings("napari-vox3d").reset()


@pytest.fixture
def tomograms(tmp_path):
    folder = tmp_path / "tomograms"
    folder.mkdir()
    values = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    for n in range(4):
        vox.write_volume(folder / f"TS_{n}.mrc", vox.Volume(values, 10.0))
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden.mrc").write_bytes(b"")
    return folder


@pytest.fixture
def batch(monkeypatch):
    """Stands in for the batch; the third file fails, the first is there already."""
    state = SimpleNamespace(calls=[], endless=False, error=None)

    def run(sources, folder, model, *, progress, on_outcome, **options):
        state.calls.append((list(sources), folder, model, options))
        if state.error is not None:
            raise state.error
        outcomes = []
        for n, source in enumerate(map(str, sources)):
            while state.endless and n == 1:
                progress(n * 1000, len(sources) * 1000)
                time.sleep(0.01)
            outcomes.append(
                Outcome(source, ("there.star",), 0, None, "skipped") if n == 0
                else Outcome(source, (), 0.5, None, "failed", f"{source}: is damaged.") if n == 2
                else Outcome(source, (f"{source}.star",), 1.5, 10 * n, "done")
            )  # fmt: skip
            on_outcome(outcomes[-1])
            progress((n + 1) * 1000, len(sources) * 1000)
        return outcomes

    monkeypatch.setitem(vars(vox), "pick_files", run)
    monkeypatch.setitem(vars(vox), "predict_elf_files", run)
    return state


@pytest.fixture
def window(qtbot):
    widget = RunBatch(ViewerModel())
    qtbot.addWidget(widget)
    return widget


def run(qtbot, window):
    window.run.press()
    qtbot.waitUntil(lambda: not window.run.running, timeout=60_000)


def texts(window):
    return [row.text(1) for row in window.files._rows.values()]


def names(window):
    return [path.name for path in window.files.paths]


def test_a_batch_tells_of_every_file(qtbot, window, tomograms, batch, errors):
    window.files.add([tomograms])
    assert names(window) == ["TS_0.mrc", "TS_1.mrc", "TS_2.mrc", "TS_3.mrc"]
    assert texts(window) == ["waiting"] * 4
    run(qtbot, window)
    assert not errors
    ((sources, folder, model, options),) = batch.calls
    assert sources == sorted(tomograms.glob("TS*"))
    assert folder == tomograms / "picks"  # suggested
    assert model == "unet-simulated"
    assert options == {"contrast": "auto"}
    assert texts(window) == ["skipped · is there", "done · 10 picks", "failed · is damaged.",
                             "done · 30 picks"]  # fmt: skip
    said = window.result.text()
    assert "2 done, 1 skipped, 1 failed, 40 picks" in said
    assert "is damaged" in said


def test_a_line_is_read_whole_when_it_is_chosen(qtbot, window, tomograms, batch):
    window.files.add([tomograms])
    run(qtbot, window)
    window.files.table.setCurrentItem(window.files._rows[tomograms / "TS_2.mrc"])
    assert window.result.text() == f"{tomograms / 'TS_2.mrc'}: is damaged."


def test_while_it_runs_one_file_runs_and_the_list_stays(qtbot, window, tomograms, batch):
    batch.endless = True
    window.files.add([tomograms])
    window.jobs.value = 2
    window.run.press()
    qtbot.waitUntil(lambda: "running…" in texts(window))
    assert texts(window) == ["skipped · is there", "running…", "running…", "waiting"]
    assert not window.task.enabled
    assert not window.files.remove.isEnabled()
    window.files.add([tomograms / "notes.txt"])
    assert "when the batch has ended" in window.result.text()
    started = time.monotonic()
    window.run.press()
    qtbot.waitUntil(lambda: not window.run.running)
    assert time.monotonic() - started < 1
    assert texts(window) == ["skipped · is there", "waiting", "waiting", "waiting"]
    assert "3 files are left" in window.result.text()
    assert window.task.enabled
    assert window.files.remove.isEnabled()


def test_what_is_set_goes_to_the_batch(qtbot, window, tomograms, batch, tmp_path):
    window.files.add([tomograms / "TS_1.mrc"])
    window.folder.value = tmp_path / "mine"
    window.files.add([tomograms / "TS_2.mrc"])
    choose(window.models["picking"].menu, "cryoet3dcnn-simulated")
    suggested = {kind.name: kind.threshold for kind in window.card.classes}
    window._thresholds["ribosome"].value = 0.9
    window.min_distance.value = 120
    window.contrast.value = "bright"
    window.flips.value = True
    choose(window.format, "csv")
    window.one_file.value = window.overwrite.value = True
    window.jobs.value = 3
    window.where.value = DASK
    window.address.value = "tcp://there:8786"
    choose(window.computing.precision, "float32")
    run(qtbot, window)
    ((sources, folder, model, options),) = batch.calls
    assert [path.name for path in sources] == ["TS_1.mrc", "TS_2.mrc"]
    assert (folder, model) == (tmp_path / "mine", "cryoet3dcnn-simulated")
    assert options == {
        "threshold": {**suggested, "ribosome": 0.9}, "min_distance": 120, "contrast": "bright",
        "flips": True,
        "format": "csv", "one_file": True, "overwrite": True, "jobs": 3,
        "scheduler": "tcp://there:8786", "precision": "float32",
    }  # fmt: skip
    assert recall("batch") == {"format": "csv", "jobs": 3, "where": DASK,
                               "address": "tcp://there:8786"}  # fmt: skip
    again = RunBatch(ViewerModel())
    qtbot.addWidget(again)
    assert (again.format.value, again.jobs.value, again.where.value) == ("csv", 3, DASK)
    assert again.models["picking"].card.name == "cryoet3dcnn-simulated"


def test_a_cluster_gets_its_settings(window, tomograms, tmp_path):
    window.files.add([tomograms])
    window.where.value = "SLURM"
    window.config.value = tmp_path / "cluster.yaml"
    assert window.current_run().arguments["scheduler"] == "slurm"
    assert window.current_run().arguments["cluster_config"] == str(tmp_path / "cluster.yaml")
    window.where.value = "this machine"
    assert "cluster_config" not in window.current_run().arguments


def test_only_what_matters_is_shown(window):
    def shown(control):
        return window._form.isRowVisible(getattr(control, "native", control))

    assert shown(window.thresholds)
    assert not shown(window.spacing)
    assert shown(window.one_file)
    choose(window.format, "imod")
    assert not shown(window.one_file)
    assert "copick" not in window.format.choices  # its files hold one class
    assert not shown(window.address)
    window.where.value = DASK
    assert shown(window.address)
    assert not shown(window.config)
    window.where.value = "PBS"
    assert shown(window.config)
    window.task.value = "elf"
    assert not shown(window.thresholds)
    assert shown(window.spacing)
    assert window.format.choices == ("ELFCAR", "cube", "xsf")


def test_copied_code_does_the_same(window, tomograms, batch):
    window.files.add([tomograms])
    window._thresholds["ribosome"].value = 0.9
    window.one_file.value = True
    made = window.current_run()
    assert "vox.pick_files(" in made.as_script()
    words = shlex.split(made.as_command())
    assert words[:2] == ["vox3d", "pick"]
    assert str(tomograms / "TS_0.mrc") in words
    assert "ribosome=0.9" in words
    assert "--one-file" in words
    assert made.missing == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda window: window.files.remove_chosen(), "Add files first"),
        (lambda window: setattr(window.folder.line_edit, "value", ""), "Choose a folder"),
        (lambda window: setattr(window.where, "value", DASK), "address of the dask scheduler"),
    ],
)
def test_what_is_missing_is_said(window, tomograms, batch, errors, change, words):
    window.files.add([tomograms])
    change(window)
    window.run.press()
    assert words in errors[0].message
    assert batch.calls == []


def test_a_batch_that_cannot_begin_says_why(qtbot, window, tomograms, batch, errors):
    batch.error = vox.Vox3dError("The scheduler does not answer.")
    window.files.add([tomograms])
    run(qtbot, window)
    assert errors[0].message == "The scheduler does not answer."
    assert texts(window) == ["waiting"] * 4
    assert window.task.enabled


def test_files_are_added_once_and_removed(window, tomograms, monkeypatch):
    window.files.add([tomograms, tomograms / "TS_0.mrc", tomograms / "notes.txt"])
    assert len(window.files.paths) == 4
    assert "notes.txt" in window.result.text()
    window.files.table.setCurrentItem(window.files._rows[tomograms / "TS_1.mrc"])
    window.files.remove.click()
    assert names(window) == ["TS_0.mrc", "TS_2.mrc", "TS_3.mrc"]
    assert window.files.empty.isHidden()
    window.files.table.clearSelection()
    window.files.remove.click()
    assert names(window) == []
    assert not window.files.empty.isHidden()
    chosen = [str(tomograms / "TS_3.mrc")]
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: (chosen, ""))
    window.files.files.click()
    assert names(window) == ["TS_3.mrc"]
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tomograms))
    window.files.folder.click()
    assert len(names(window)) == 4
    assert all((tomograms / name).exists() for name in names(window))


def test_each_task_has_its_files(window, tomograms, tmp_path):
    window.files.add([tomograms])
    (tmp_path / "POSCAR").write_text(SILICON)
    window.task.value = "elf"
    assert names(window) == []
    window.files.add([tmp_path / "POSCAR"])
    assert window.folder.value == tmp_path / "elf"
    assert window.current_run().model == "default"  # it may be another for a CHGCAR
    choose(window.models["elf"].menu, "promolecule")
    assert window.current_run().model == "promolecule"
    window.task.value = "picking"
    assert len(names(window)) == 4
    window.files.add([tmp_path / "POSCAR"])
    assert len(names(window)) == 4


def test_open_layers_are_added_if_their_file_holds_them(window, tomograms, tmp_path):
    viewer = window._viewer
    window.files.layers.click()
    assert "Nothing is open" in window.result.text()
    for n in range(3):
        volume = vox.read_volume(tomograms / f"TS_{n}.mrc")
        viewer.add_layer(Layer.create(*volume_layer(volume)))
    calibrate(viewer, viewer.layers[2], 7.5)
    viewer.add_layer(Layer.create(*volume_layer(vox.Volume(np.zeros((4, 4, 4)), 10.0, name="new"))))
    viewer.add_layer(Image(np.zeros((4, 4)), name="flat"))
    window.files.layers.click()
    assert names(window) == ["TS_0.mrc", "TS_1.mrc"]
    assert "Save these layers first" in window.result.text()
    assert viewer.layers[2].name in window.result.text()
    assert "new" in window.result.text()
    (tmp_path / "POSCAR").write_text(SILICON)
    atoms = vox.formats.read_atoms(tmp_path / "POSCAR")
    for layer in structure_layers(atoms, source=str(tmp_path / "POSCAR")):
        viewer.add_layer(Layer.create(*layer))
    window.task.value = "elf"
    window.files.layers.click()
    assert "POSCAR" in names(window)


def test_a_real_batch_and_its_results(qtbot, window, tmp_path, errors):
    for name in ("one", "two"):
        (tmp_path / f"{name}.vasp").write_text(SILICON)
    (tmp_path / "bad.vasp").write_text(SILICON.replace("Direct", "Nonsense").replace("0.25", "x"))
    window.task.value = "elf"
    window.files.add([tmp_path / f"{name}.vasp" for name in ("one", "bad", "two")])
    choose(window.models["elf"].menu, "promolecule")
    window.spacing.value = 0.8
    run(qtbot, window)
    assert not errors
    assert [text.split(" ")[0] for text in texts(window)] == ["done", "failed", "done"]
    written = tmp_path / "elf" / "one.vasp.ELFCAR"
    assert written.is_file()
    before = written.stat().st_mtime_ns
    run(qtbot, window)
    assert [text.split(" ")[0] for text in texts(window)] == ["skipped", "failed", "skipped"]
    assert written.stat().st_mtime_ns == before
    row = window.files._rows[tmp_path / "one.vasp"]
    window.files.table.itemDoubleClicked.emit(row, 0)
    assert any(layer.metadata["vox3d"].quantity == "elf" for layer in window._viewer.layers
               if isinstance(layer, Image))  # fmt: skip


def test_picks_are_shown_on_their_tomogram(window, tomograms, errors):
    source = tomograms / "TS_0.mrc"
    picks = vox.Picks([[10, 20, 30]], "ribosome", 0.5, voxel_size=10, shape=(8, 9, 10))
    vox.write_picks(tomograms / "TS_0.star", picks)
    outcome = Outcome(str(source), (str(tomograms / "TS_0.star"),), 1, 1, "done")
    window.files.add([source])
    window.files.show_outcome(outcome)
    window.files.table.itemDoubleClicked.emit(window.files._rows[source], 1)
    kinds = [type(layer).__name__ for layer in window._viewer.layers]
    assert kinds == ["Image", "Points"]
    window.files.table.itemDoubleClicked.emit(window.files._rows[source], 1)
    assert [type(layer).__name__ for layer in window._viewer.layers].count("Image") == 1
    Path(outcome.targets[0]).unlink()
    window.files.table.itemDoubleClicked.emit(window.files._rows[source], 1)
    assert "TS_0.star" in errors[0].message


def test_states_have_colours(window, tomograms):
    window.files.add([tomograms])
    path = window.files.paths[0]
    window.files.show_state(path, "failed", "failed · x", "x")
    row = window.files._rows[path]
    assert row.foreground(1).color().name() == "#f07178"
    window.files.show_state(path, "waiting")
    assert row.data(1, Qt.ItemDataRole.ForegroundRole) is None
    window.files.show_state(Path("elsewhere"), "done")
    QApplication.processEvents()


def test_the_button_stays_in_sight_in_a_low_window(window):
    window.resize(360, 600)
    window.show()
    seen = window.run.button.visibleRegion().boundingRect()
    assert seen.size() == window.run.button.size()
