import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from elf_models import density
from elf_models import model as tiny
from napari.components import ViewerModel
from napari.layers import Layer
from napari.settings import get_plugin_settings

import napari_vox3d as vox
from napari_vox3d.errors import InferenceError
from napari_vox3d.gui import controls
from napari_vox3d.gui.controls import DEFAULT, choose
from napari_vox3d.gui.elf_widget import FILE, PredictELF
from napari_vox3d.gui.layers import structure_layers, volume_layers
from napari_vox3d.gui.settings import recall, remember
from napari_vox3d.inference import device
from napari_vox3d.models import KnownRange, load_model, registry
from napari_vox3d.volume import Volume

CARD = {
    "name": "simple",
    "title": "Simple ELF",
    "task": "elf",
    "input": {},
    "training": "None.",
    "licence": "BSD-3-Clause",
    "version": "1",
    "description": "Mean error 0.1 on held-out crystals.",
    "metrics": [{"data": "Held-out crystals", "rows": [{"crystal": "Si", "MAE": 0.123456}]}],
}


@pytest.fixture(autouse=True)
def model(tmp_path, monkeypatch):
    for name in ("simple", "other"):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "card.json").write_text(json.dumps({**CARD, "name": name}))
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "models"))


@pytest.fixture(autouse=True)
def _fresh_settings():
    get_plugin_settings("napari-vox3d").reset()


@pytest.fixture
def inference(monkeypatch):
    """Stands in for the network: remembers its arguments and does what it is told."""
    state = SimpleNamespace(calls=[], error=None, endless=False)

    def predict(source, model, *, spacing, device, precision, progress):
        state.calls.append((source, model, spacing, device, precision))
        progress(0, 4)
        while state.endless:
            progress(1, 4)
            time.sleep(0.01)
        if state.error is not None:
            raise state.error
        fields = {
            "quantity": "elf",
            "name": "new ELF",
            "metadata": {"provenance": {"input": "superposed atomic densities"}},
        }
        if isinstance(source, Volume):
            return source.with_values(np.full(source.shape, 0.5, np.float32), **fields)
        atoms = source if isinstance(source, Atoms) else vox.formats.read_atoms(source)
        values = np.full((8, 6, 6), 0.25, np.float32)
        return Volume.on_lattice(values, atoms.cell.array, atoms=atoms, **fields)

    monkeypatch.setitem(vars(vox), "predict_elf", predict)
    return state


@pytest.fixture
def opened(qtbot):
    """The widget on a viewer without a window, wired to the layers as napari wires it."""
    viewer = ViewerModel()
    widget = PredictELF(viewer)
    qtbot.addWidget(widget)
    for name in ("inserted", "removed", "reordered", "renamed"):
        getattr(viewer.layers.events, name).connect(widget.reset_choices)
    choose(widget.model.menu, "simple")
    return viewer, widget


@pytest.fixture
def docked(make_napari_viewer):
    """The widget in a window, by the way of the manifest."""
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-vox3d", "Predict ELF")
    choose(widget.model.menu, "simple")
    return viewer, widget


def magnesium():
    atoms = bulk("Mg")  # hexagonal: shown on an orthogonal box
    values = np.random.default_rng(0).random((10, 6, 6)).astype(np.float32)
    return Volume.on_lattice(
        values, atoms.cell.array, atoms=atoms, quantity="electron density", name="Mg CHGCAR"
    )


def add(viewer, layers):
    return [viewer.add_layer(Layer.create(*layer)) for layer in layers]


def press_and_wait(qtbot, widget):
    widget.run.press()
    qtbot.waitUntil(lambda: not widget.run.running, timeout=20000)


def test_importing_the_widgets_needs_no_torch():
    code = (
        "import sys, napari_vox3d.gui.elf_widget, napari_vox3d.gui.picking_widget;"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_empty_window_says_what_to_do(opened, qtbot, errors, inference):
    _, widget = opened
    assert widget.source.value == FILE
    assert "Open Sample" in widget.result.text()
    press_and_wait(qtbot, widget)
    assert [error.message for error in errors] == [
        "Choose a file to predict from: a POSCAR, CIF or CHGCAR."
    ]
    assert inference.calls == []


def test_predicting_in_a_window(docked, qtbot, inference):
    viewer, widget = docked
    add(viewer, volume_layers([magnesium()]))
    press_and_wait(qtbot, widget)
    assert "new ELF" in viewer.layers


def test_a_prediction_can_be_explored(docked, qtbot, inference):
    viewer, widget = docked
    add(viewer, volume_layers([magnesium()]))
    assert widget.explore.isHidden()
    press_and_wait(qtbot, widget)
    widget.explore.click()
    explorer = viewer.window.dock_widgets["Explore a crystal (vox3d)"]  # as the menu names it
    assert explorer.source.value is viewer.layers["new ELF"]


def test_every_control_has_a_tooltip(opened):
    _, widget = opened
    controls = (widget.source, widget.file, widget.spacing)
    assert all(control.tooltip for control in controls)
    assert "0.123" in widget.model.toolTip()
    assert widget.model.about.text().startswith(CARD["description"])


def test_result_lies_on_its_source(opened, qtbot, inference):
    viewer, widget = opened
    volume = magnesium()
    source, *_ = add(viewer, volume_layers([volume]))
    assert widget.source.value is source
    count = len(viewer.layers)
    press_and_wait(qtbot, widget)
    assert len(viewer.layers) == count + 1
    assert list(viewer.layers)[:2] == [source, viewer.layers["new ELF"]]  # below atoms and cell
    elf = viewer.layers["new ELF"]
    assert elf.visible
    assert not source.visible
    for name in ("scale", "translate"):
        assert np.array_equal(getattr(elf, name), getattr(source, name))
    assert elf.data.shape == source.data.shape
    assert elf.units == source.units
    assert elf.axis_labels == source.axis_labels
    held = elf.metadata["vox3d"]
    assert np.array_equal(held.step, volume.step)
    assert inference.calls == [(volume, "simple", None, "auto", "auto")]
    assert "ELF of Mg2 on 10×6×6 points, from 0.500 to 0.500" in widget.result.text()
    assert "superposed atomic densities" in widget.result.text()


def test_an_earlier_prediction_makes_way(opened, qtbot, inference):
    viewer, widget = opened
    viewer.add_layer(Layer.create(*volume_layers([magnesium()])[0]))
    for _ in range(2):
        widget.run.press()
        qtbot.waitUntil(lambda: not widget.run.running, timeout=60000)
    seen = [
        layer.name for layer in viewer.layers if type(layer).__name__ == "Image" and layer.visible
    ]
    assert seen == ["new ELF [1]"]


def test_a_structure_layer_is_a_source(opened, qtbot, inference):
    viewer, widget = opened
    atoms = bulk("Si")
    *_, source = add(viewer, structure_layers(atoms, "silicon"))
    assert widget.source.value is source
    widget.spacing.value = 0.25
    press_and_wait(qtbot, widget)
    assert inference.calls == [(atoms, "simple", 0.25, "auto", "auto")]
    assert "new ELF" in viewer.layers


def test_a_file_brings_atoms_and_cell(opened, qtbot, inference, tmp_path):
    viewer, widget = opened
    write(tmp_path / "POSCAR", bulk("Si"))
    widget.file.value = tmp_path / "POSCAR"
    press_and_wait(qtbot, widget)
    assert inference.calls[0][0] == tmp_path / "POSCAR"
    assert [layer.name for layer in viewer.layers] == [
        "new ELF", "new ELF cell", "new ELF atoms"
    ]  # fmt: skip


def test_layers_that_are_no_crystals_are_not_offered(opened):
    viewer, widget = opened
    viewer.add_image(np.zeros((4, 4, 4)))
    viewer.add_points(np.zeros((1, 3)))
    assert widget.source.choices == (FILE,)


def test_an_error_of_the_core_is_shown_once(opened, qtbot, errors, inference):
    viewer, widget = opened
    add(viewer, volume_layers([magnesium()]))
    inference.error = InferenceError("There is no atomic density for element Xx.")
    press_and_wait(qtbot, widget)
    assert [error.message for error in errors] == ["There is no atomic density for element Xx."]
    assert widget.run.button.isEnabled()
    inference.error = None
    press_and_wait(qtbot, widget)
    assert "new ELF" in viewer.layers


def test_cancel_adds_nothing(opened, qtbot, errors, inference):
    viewer, widget = opened
    add(viewer, volume_layers([magnesium()]))
    count = len(viewer.layers)
    inference.endless = True
    widget.run.press()
    qtbot.waitUntil(lambda: bool(inference.calls))
    press_and_wait(qtbot, widget)
    assert len(viewer.layers) == count
    assert errors == []


def test_the_source_may_go_while_running(opened, qtbot, errors, inference):
    viewer, widget = opened
    add(viewer, volume_layers([magnesium()]))
    inference.endless = True
    widget.run.press()
    qtbot.waitUntil(lambda: bool(inference.calls))
    viewer.layers.clear()
    inference.endless = False
    qtbot.waitUntil(lambda: not widget.run.running)
    assert [layer.name for layer in viewer.layers] == ["new ELF"]
    assert errors == []


def test_the_viewer_may_close_while_running(docked, qtbot, errors, inference):
    viewer, widget = docked
    add(viewer, volume_layers([magnesium()]))
    inference.endless = True
    widget.run.press()
    qtbot.waitUntil(lambda: bool(inference.calls))
    viewer.close()
    with qtbot.capture_exceptions() as raised:
        qtbot.waitUntil(lambda: not widget.run.running)
    assert raised == []
    assert errors == []


def test_settings_are_remembered(opened, qtbot, inference):
    viewer, widget = opened
    add(viewer, volume_layers([magnesium()]))
    choose(widget.model.menu, "other")
    widget.spacing.value = 0.3
    choose(widget.computing.precision, "float32")
    press_and_wait(qtbot, widget)

    again = PredictELF(viewer)
    qtbot.addWidget(again)
    assert again.model.menu.value == "other"
    assert again.spacing.value == 0.3
    assert again.computing.precision.value == "float32"


def test_a_default_model_is_not_nailed_down(opened, qtbot, inference):
    viewer, widget = opened
    add(viewer, volume_layers([magnesium()]))
    widget.model.menu.value = DEFAULT
    press_and_wait(qtbot, widget)
    assert recall("elf")["model"] == ""


def test_devices_are_listed_when_the_window_is_there(qtbot, monkeypatch):
    monkeypatch.setattr(device, "available_devices", lambda: ["cpu", "cuda:0"])
    controls._devices.cache_clear()
    remember("computing", device="cuda:7")  # a card that is gone
    widget = PredictELF(ViewerModel())
    qtbot.addWidget(widget)
    menu = widget.computing.device
    assert menu.value == "cuda:7"
    qtbot.waitUntil(lambda: menu.choices == ("auto", "cpu", "cuda:0"))
    assert menu.value == "auto"
    controls._devices.cache_clear()


@pytest.mark.parametrize("name", ["promolecule", load_model(task="elf").card.name])
def test_shipped_models_on_a_hexagonal_crystal(opened, qtbot, errors, name):
    viewer, widget = opened
    source, *_ = add(viewer, volume_layers([magnesium()]))
    widget.model.menu.value = name
    press_and_wait(qtbot, widget)
    assert errors == []
    elf = viewer.layers["Mg2 ELF"]
    assert np.array_equal(elf.scale, source.scale)
    assert np.array_equal(elf.translate, source.translate)
    assert elf.data.shape == source.data.shape
    assert 0 <= elf.data.min() < elf.data.max() <= 1
    assert elf.metadata["vox3d"].metadata["run"]["model"] == name


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Two default models, one of them for densities; both can say how far off they may be."""
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "own"))
    monkeypatch.setattr(registry, "SHIPPED", tmp_path / "none")
    known = KnownRange(elements=["Si"], lowest=[-99.0] * 24, highest=[99.0] * 24)
    for name, options in {
        "atoms": {"default": True, "head": True, "known": known},
        "density": {"default": True, "head": True, "source": "electron density"},
        "silent": {},
        "published": {"channels": ("sad",), "elfnet": True},
    }.items():
        tiny(name, **options).save(tmp_path / "own" / name)


def test_uncertainty_is_a_hidden_layer_and_a_number(installed, opened, qtbot, errors):
    viewer, widget = opened
    choose(widget.model.menu, "atoms")
    add(viewer, volume_layers([density(bulk("Mg"), shape=(20, 12, 12))]))
    widget.uncertainty.value = True
    assert widget.current_run().arguments["uncertainty"] is True
    press_and_wait(qtbot, widget)
    assert errors == []
    elf, band = (viewer.layers[name] for name in ("Mg2 ELF", "Mg2 ELF uncertainty"))
    assert (elf.visible, band.visible) == (True, False)
    assert viewer.layers.index(band) == viewer.layers.index(elf) + 1
    for name in ("scale", "translate"):
        assert np.array_equal(getattr(elf, name), getattr(band, name))
    assert elf.data.shape == band.data.shape
    assert elf.colormap.name != band.colormap.name
    held = band.metadata["vox3d"]
    assert held.quantity == "uncertainty"
    assert f"90 % band ±{held.values.mean():.3f} (means" in widget.result.text()
    assert "Expected error 0." in widget.result.text()
    assert "Show the layer “Mg2 ELF uncertainty”" in widget.result.text()
    assert recall("elf")["uncertainty"] is True
    command = widget.current_run().as_command()
    assert "--uncertainty" in command


def test_what_a_model_has_never_seen_is_a_visible_warning(installed, opened, qtbot, errors):
    viewer, widget = opened
    choose(widget.model.menu, "atoms")
    add(viewer, volume_layers([density(bulk("Mg"), shape=(20, 12, 12))]))
    assert widget.warning.isHidden()
    press_and_wait(qtbot, widget)
    assert not widget.warning.isHidden()
    assert widget.warning.text().startswith("⚠ The model has never seen Mg;")
    viewer.layers.clear()
    add(viewer, volume_layers([density(shape=(16, 16, 16))]))
    press_and_wait(qtbot, widget)
    assert widget.warning.isHidden()
    assert errors == []


def test_the_menu_says_which_model_default_is(installed, opened, qtbot, errors):
    viewer, widget = opened
    menu = widget.model.menu

    def default():
        return menu.native.itemText(0)

    assert menu.value == "default"
    assert default() == "Default: atoms"
    assert "Default unless the file holds the electron density" in widget.model.about.text()
    *_, structure = add(viewer, structure_layers(bulk("Si"), "silicon"))
    assert default() == "Default: atoms"
    assert "because there is no electron density" in widget.model.about.text()
    image, *_ = add(viewer, volume_layers([density(shape=(16, 16, 16), name="CHGCAR")]))
    widget.source.value = image
    assert default() == "Default: density"
    assert "predicts from the electron density of this layer" in widget.model.about.text()
    assert widget.current_run().model == "default"
    press_and_wait(qtbot, widget)
    assert "by “density”" in widget.result.text()
    assert "Input: the electron density of the source" in widget.result.text()
    choose(menu, "atoms")  # it is taken, though it is a default too
    assert widget.current_run().model == "atoms"
    press_and_wait(qtbot, widget)
    assert "by “atoms”" in widget.result.text()
    assert "Input: superposed atomic densities" in widget.result.text()
    assert recall("elf")["model"] == "atoms"
    widget.source.value = structure
    assert default() == "Default: atoms"
    assert menu.value == "atoms"
    assert errors == []


def test_what_a_model_cannot_do_is_not_offered(installed, opened, qtbot, errors, tmp_path):
    viewer, widget = opened
    add(viewer, structure_layers(bulk("Si"), "silicon"))
    widget.uncertainty.value = True
    rows = widget._form
    for name, knows, needs in (
        ("default", True, False), ("silent", False, False), ("published", False, True)
    ):  # fmt: skip
        widget.model.menu.value = name
        assert widget.uncertainty.enabled is knows
        assert rows.isRowVisible(widget.tables.native) is needs
        assert ("uncertainty" in widget.current_run().arguments) is knows
    press_and_wait(qtbot, widget)
    assert "name ELFNet's folder neutral_densities" in errors[0].message
    (tmp_path / "neutral_densities").mkdir()
    widget.tables.value = tmp_path / "neutral_densities"
    assert widget.current_run().arguments["tables"] == str(tmp_path / "neutral_densities")
    press_and_wait(qtbot, widget)
    assert "Si.pkl: cannot be read" in errors[1].message
    again = PredictELF(viewer)
    qtbot.addWidget(again)
    assert again.tables.value == tmp_path / "neutral_densities"
    assert again.uncertainty.value is True
