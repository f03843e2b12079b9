from importlib.resources import as_file, files
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk
from napari.components import ViewerModel
from napari.layers import Image, Layer, Points, Shapes

import napari_vox3d as vox
from napari_vox3d.density import tsirelson_stash_elf
from napari_vox3d.gui import crystal_measures as measures
from napari_vox3d.gui import crystal_sections as pages
from napari_vox3d.gui.elf_tools_widget import ExploreCrystal
from napari_vox3d.gui.layers import volume_layers
from napari_vox3d.gui.pick_layers import picks_from_layer
from napari_vox3d.volume import Volume


@pytest.fixture(scope="module")
def silicon():
    """ELF of silicon with a maximum on each bond, in its primitive cell."""
    atoms = bulk("Si")
    density = vox.superpose_atoms(atoms, spacing=0.12)
    elf = tsirelson_stash_elf(density)
    return elf.with_values(elf.values, name="Si ELF", atoms=atoms)


@pytest.fixture
def opened(qtbot):
    """The widget on a viewer without a window, wired to the layers as napari wires it."""
    viewer = ViewerModel()
    widget = ExploreCrystal(viewer)
    qtbot.addWidget(widget)
    for name in ("inserted", "removed", "reordered", "renamed"):
        getattr(viewer.layers.events, name).connect(widget.reset_choices)
    return viewer, widget


@pytest.fixture
def with_silicon(opened, silicon):
    viewer, widget = opened
    add(viewer, volume_layers([silicon]))
    return viewer, widget


def add(viewer, layers):
    return [viewer.add_layer(Layer.create(*layer)) for layer in layers]


def wait(qtbot, run):
    run.press()
    qtbot.waitUntil(lambda: not run.running, timeout=60000)


def test_an_empty_window_says_what_to_do(opened, errors):
    _, widget = opened
    assert "Predict ELF" in widget.hint.text()
    assert not any(heading.isEnabled() for heading in widget.headings.values())
    widget.sections[pages.Surface].show_surface()
    assert [error.message for error in errors] == [widget.hint.text()]


def test_a_crystal_that_is_open_already_is_looked_at(qtbot, silicon):
    viewer = ViewerModel()
    add(viewer, volume_layers([silicon]))
    widget = ExploreCrystal(viewer)
    qtbot.addWidget(widget)
    assert widget.source.value is viewer.layers["Si ELF"]
    assert widget.sections[pages.Surface].level.value() == pytest.approx(0.7)


def test_only_crystals_are_offered_those_that_are_seen_first(with_silicon, silicon):
    viewer, widget = with_silicon
    viewer.add_image(np.zeros((4, 4, 4)))
    assert [layer.name for layer in widget.crystals()] == ["Si ELF"]
    hidden, *_ = volume_layers([silicon.with_values(silicon.values, name="hidden")])
    viewer.layers.insert(0, Layer.create(hidden[0], {**hidden[1], "visible": False}, hidden[2]))
    assert [layer.name for layer in widget.crystals()] == ["Si ELF", "hidden"]


def test_one_section_is_open(with_silicon):
    _, widget = with_silicon
    assert widget.open is pages.Maxima
    widget.headings[pages.Plane].click()
    shown = [kind for kind, section in widget.sections.items() if not section.isHidden()]
    assert shown == [pages.Plane]
    widget.headings[pages.Plane].click()
    assert all(section.isHidden() for section in widget.sections.values())


def test_maxima_become_points_with_a_legend(with_silicon, qtbot, silicon, tmp_path):
    viewer, widget = with_silicon
    page = widget.sections[pages.Maxima]
    page.prominence.setValue(0)
    wait(qtbot, page.run)
    found = vox.find_maxima(silicon, prominence=0)
    layer = viewer.layers["Si ELF maxima"]
    assert isinstance(layer, Points)
    places = silicon.to_index(layer.data * layer.scale) / silicon.shape
    expected = silicon.to_index(found.positions) / silicon.shape
    np.testing.assert_allclose((places - expected + 0.5) % 1, 0.5, atol=1e-6)
    for kind, count in found.counts().items():
        assert f"{count} {kind}, ELF" in page.legend.text()
    picks = picks_from_layer(layer)
    assert picks.labels.tolist() == found.labels.tolist()
    wait(qtbot, page.run)
    assert sum(isinstance(layer, Points) for layer in viewer.layers) == 2  # atoms and maxima


def test_maxima_of_a_density_are_refused_once(opened, qtbot, silicon, errors):
    viewer, widget = opened
    add(viewer, volume_layers([vox.superpose_atoms(silicon.atoms)]))
    wait(qtbot, widget.sections[pages.Maxima].run)
    assert len(errors) == 1
    assert "Maxima are found in the ELF" in errors[0].message


def test_a_surface_follows_the_level_in_the_true_cell(with_silicon, qtbot, silicon):
    viewer, widget = with_silicon
    page = widget.sections[pages.Surface]
    level = page.level.value()
    assert silicon.values.min() < level < silicon.values.max()
    page.show_surface()
    layer = viewer.layers["Si ELF surface"]
    assert viewer.dims.ndisplay == 3
    assert not viewer.layers["Si ELF"].visible
    vertices = np.asarray(layer.data_to_world(layer.vertices[0]))
    np.testing.assert_allclose(vertices, vox.isosurface(silicon, level).vertices[0], atol=1e-6)
    before = len(layer.vertices)
    page.level.setValue(0.8 * level)
    qtbot.waitUntil(lambda: len(layer.vertices) != before)
    assert viewer.layers["Si ELF surface"] is layer
    assert len(layer.vertex_values) == len(layer.vertices)


def test_a_surface_is_coloured_by_another_volume(with_silicon, silicon):
    viewer, widget = with_silicon
    density = vox.superpose_atoms(silicon.atoms)
    add(viewer, volume_layers([density.with_values(density.values, name="rho")]))
    page = widget.sections[pages.Surface]
    page.show_surface()
    page.colour_by.value = viewer.layers["rho"]
    page.show_surface()
    layer = viewer.layers["Si ELF surface by rho"]
    assert "Si ELF surface" not in viewer.layers
    assert layer.vertex_values.std() > 0
    assert layer.colormap.name == "magma"
    page.level.setValue(0.9 * page.level.value())
    page.show_surface()
    assert len(layer.vertex_values) == len(layer.vertices)


def test_a_level_without_surface_is_one_message(with_silicon, errors):
    _, widget = with_silicon
    page = widget.sections[pages.Surface]
    page.level.setValue(page.level.maximum())
    page.show_surface()
    assert "no surface at" in errors[0].message


def test_a_plane_lies_in_its_place_and_is_faced(with_silicon, qtbot, silicon):
    viewer, widget = with_silicon
    page = widget.sections[pages.Plane]
    for box, index in zip(page.hkl, (1, -1, 2), strict=True):
        box.setValue(index)
    reciprocal = np.linalg.inv(silicon.lattice) @ (1, -1, 2)
    spacing = 1 / np.linalg.norm(reciprocal)
    assert page.height.maximum() == pytest.approx(spacing, abs=0.01)
    page.show_plane()
    layer = viewer.layers["Si ELF (1 -1 2)"]

    def heights():
        places = np.array([layer.data_to_world(vertex) for vertex in layer.vertices[::97]])
        return places[:, ::-1] @ reciprocal * spacing

    np.testing.assert_allclose(heights(), 0, atol=1e-6)
    page.height.setValue(0.5)
    qtbot.waitUntil(lambda: not np.allclose(heights(), 0, atol=1e-3))
    np.testing.assert_allclose(heights(), 0.5, atol=1e-3)
    page.look()
    direction = np.array(viewer.camera.view_direction)[::-1]
    assert abs(direction @ reciprocal * spacing) == pytest.approx(1, abs=1e-4)


def test_a_plane_without_indices_is_one_message(with_silicon, errors):
    _, widget = with_silicon
    page = widget.sections[pages.Plane]
    for box in page.hkl:
        box.setValue(0)
    page.show_plane()
    assert "not all zero" in errors[0].message


def test_a_profile_is_drawn_and_plotted(with_silicon, errors):
    viewer, widget = with_silicon
    page = widget.sections[measures.LineProfile]
    page.show_profile()
    assert "2.351 Å" in page.result.text()
    line = viewer.layers["Si ELF profile"]
    assert isinstance(line, Shapes)
    np.testing.assert_allclose(np.linalg.norm(np.diff(line.data[0], axis=0)), 2.351, atol=0.001)
    page.ends[1].setText("0.5 0.5 0.5")
    page.show_profile()
    assert page.result.text().startswith("4.70")
    page.ends[1].setText("here")
    page.show_profile()
    page.ends[1].setText("7")
    page.show_profile()
    assert "three fractions" in errors[0].message
    assert "There is no atom 7" in errors[1].message


def test_two_clicked_atoms_give_the_profile(with_silicon):
    viewer, widget = with_silicon
    page = widget.sections[measures.LineProfile]
    page.pick.setChecked(True)
    assert page.take_click in viewer.mouse_drag_callbacks
    atoms = next(layer for layer in viewer.layers if isinstance(layer, Points))
    viewer.dims.ndisplay = 3
    for place in atoms.data * atoms.scale:
        event = SimpleNamespace(
            position=tuple(place - (5, 0, 0)),
            view_direction=np.array([1.0, 0.0, 0.0]),
            dims_displayed=[0, 1, 2],
        )
        page.take_click(viewer, event)
    assert not page.pick.isChecked()
    assert page.take_click not in viewer.mouse_drag_callbacks
    assert [end.text() for end in page.ends] == ["0 0 0", "0.25 0.25 0.25"]
    assert "2.351 Å" in page.result.text()


def test_a_difference_to_a_layer_on_another_grid(with_silicon, qtbot, silicon):
    viewer, widget = with_silicon
    coarse = tsirelson_stash_elf(vox.superpose_atoms(silicon.atoms, spacing=0.15))
    add(viewer, volume_layers([coarse.with_values(coarse.values + 0.1, name="coarse")]))
    page = widget.sections[measures.Compare]
    page.reference.value = viewer.layers["coarse"]
    wait(qtbot, page.run)
    said = float(page.result.text().split()[3].rstrip(","))
    assert said == pytest.approx(0.1, abs=0.002)
    layer = viewer.layers["Si ELF − coarse"]
    assert layer.contrast_limits[0] == -layer.contrast_limits[1]
    assert layer.metadata["vox3d"].quantity == "difference"
    assert not viewer.layers["Si ELF"].visible


def test_a_difference_to_a_file(with_silicon, qtbot, silicon, tmp_path, errors):
    _, widget = with_silicon
    page = widget.sections[measures.Compare]
    page.reference.value = measures.FILE
    wait(qtbot, page.run)
    assert "Choose a reference" in errors[0].message
    vox.write_volume(tmp_path / "ELFCAR", silicon.with_values(silicon.values * 0.5))
    page.file.value = tmp_path / "ELFCAR"
    wait(qtbot, page.run)
    assert f"{silicon.values.mean() / 2:.4g}," in page.result.text()


def test_a_supercell_is_looked_at(with_silicon, silicon):
    viewer, widget = with_silicon
    page = widget.sections[measures.Supercell]
    for box, count in zip(page.repeats, (2, 1, 3), strict=True):
        box.setValue(count)
    page.tile()
    assert widget.source.value is viewer.layers["Si ELF 2×1×3"]
    assert len(viewer.layers["Si ELF 2×1×3 atoms"].data) == 12
    assert not viewer.layers["Si ELF"].visible
    assert not viewer.layers["Si ELF atoms"].visible
    assert widget.volume().shape == (3 * silicon.shape[0], silicon.shape[1], 2 * silicon.shape[2])


def test_values_and_electrons(opened, silicon):
    viewer, widget = opened
    add(viewer, volume_layers([vox.superpose_atoms(silicon.atoms)]))
    widget.toggle(measures.Values)
    page = widget.sections[measures.Values]
    assert "Electrons: 8.000" in page.text.text()
    page.plot._pointed = 0
    assert "% of the volume" in page.plot.caption


@pytest.mark.parametrize("name", ["ELFCAR", "elf.cube", "elf.xsf"])
def test_the_native_grid_is_saved(with_silicon, silicon, name, tmp_path):
    _, widget = with_silicon
    page = widget.sections[measures.Save]
    assert page.file.value.name == "ELFCAR"
    page.file.value = tmp_path / name
    page.save()
    again = vox.read_volume(tmp_path / name)
    assert again.shape == silicon.shape
    np.testing.assert_allclose(again.values, silicon.values, atol=2e-5)
    np.testing.assert_allclose(again.lattice, silicon.lattice, atol=2e-5)


def test_all_channels_of_a_file_are_saved(opened, tmp_path):
    viewer, widget = opened
    with as_file(files("napari_vox3d.gui") / "sample_data" / "graphite_ELFCAR.gz") as path:
        volumes = vox.read_volumes(path)
    add(viewer, volume_layers(volumes))
    page = widget.sections[measures.Save]
    page.file.value = tmp_path / "ELFCAR"
    page.save()
    assert "2 channels" in page.result.text()
    assert len(vox.read_volumes(tmp_path / "ELFCAR")) == 2
    widget.source.value = viewer.layers[1]
    page.file.value = tmp_path / "ELFCAR"
    page.save()
    assert len(vox.read_volumes(tmp_path / "ELFCAR")) == 1


def test_a_name_of_no_format_is_one_message(with_silicon, errors, tmp_path):
    _, widget = with_silicon
    page = widget.sections[measures.Save]
    page.file.value = tmp_path / "elf.doc"
    page.save()
    assert "name of a volume file" in errors[0].message
    assert list(tmp_path.iterdir()) == []


def test_a_volume_of_equal_values_does_no_harm(opened, silicon, errors):
    viewer, widget = opened
    flat = Volume.on_lattice(
        np.full((6, 6, 6), 0.5), silicon.lattice, quantity="elf", atoms=silicon.atoms, name="flat"
    )
    add(viewer, volume_layers([flat]))
    widget.sections[pages.Surface].show_surface()
    assert "no surface" in errors[0].message
    for kind in widget.sections:
        widget.toggle(kind)


def test_every_control_has_a_tooltip(opened):
    _, widget = opened
    assert all(heading.toolTip() for heading in widget.headings.values())
    for section in widget.sections.values():
        for row in range(1, section.form.rowCount()):
            item = section.form.itemAt(row, section.form.ItemRole.FieldRole)
            field = None if item is None else item.widget()
            if field is not None and not isinstance(field, type(widget.hint)):
                run = getattr(field, "button", field)
                assert run.toolTip() or field.toolTip(), type(section)


def test_the_explorer_opens_from_a_prediction(make_napari_viewer, silicon):
    from napari_vox3d.gui.elf_tools_widget import open_explorer

    viewer = make_napari_viewer()
    image, *_ = add(viewer, volume_layers([silicon]))
    open_explorer(viewer, image)
    (widget,) = (
        dock for dock in viewer.window.dock_widgets.values() if isinstance(dock, ExploreCrystal)
    )
    assert widget.source.value is image
    assert isinstance(image, Image)
    open_explorer(viewer, image)
    assert sum(isinstance(d, ExploreCrystal) for d in viewer.window.dock_widgets.values()) == 1


def test_a_slice_shows_the_volume_and_space_what_lies_in_it(qtbot, with_silicon):
    viewer, widget = with_silicon
    image = viewer.layers["Si ELF"]
    wait(qtbot, widget.sections[pages.Maxima].run)
    assert image.visible
    viewer.dims.ndisplay = 3
    assert not image.visible
    widget.sections[pages.Surface].show_surface()
    surface = viewer.layers["Si ELF surface"]
    viewer.dims.ndisplay = 2
    assert image.visible
    assert not surface.visible
    viewer.dims.ndisplay = 3
    assert surface.visible
    assert not image.visible
    viewer.layers.remove(surface)
    viewer.layers.remove("Si ELF maxima")
    image.visible = True
    viewer.dims.ndisplay = 2
    viewer.dims.ndisplay = 3
    assert image.visible  # there is nothing else to see


def test_a_supercell_is_not_covered_by_what_was_made_of_one_cell(qtbot, with_silicon):
    viewer, widget = with_silicon
    wait(qtbot, widget.sections[pages.Maxima].run)
    widget.sections[measures.Supercell].tile()
    assert not viewer.layers["Si ELF maxima"].visible
    assert viewer.layers["Si ELF 2×2×2"].visible


def test_pages_are_copied_as_scripts_that_run(opened, tmp_path, monkeypatch, silicon):
    viewer, widget = opened
    monkeypatch.chdir(tmp_path)
    vox.write_volume("ELFCAR", silicon)
    add(viewer, volume_layers(vox.read_volumes(tmp_path / "ELFCAR")))
    other = silicon.with_values(silicon.values * 0.9, name="other", source="")
    add(viewer, volume_layers([other]))
    widget.sections[measures.Compare].reference.value = viewer.layers["other"]
    widget.sections[measures.LineProfile].ends[1].setText("0.5 0.25 0.1")
    widget.sections[pages.Plane].height.setValue(0.5)
    for kind, section in widget.sections.items():
        widget.open = kind
        if not section.function:
            continue
        run = widget.current_run()
        assert run.source == str(tmp_path / "ELFCAR")
        if kind is measures.Compare:
            assert run.missing == ["other"]
            continue
        exec(run.as_script(save_as=f"{run.function}.csv" if "max" in run.function else "a.cube"))


def test_what_is_predicted_is_copied_with_its_prediction(opened, tmp_path, monkeypatch):
    viewer, widget = opened
    monkeypatch.chdir(tmp_path)
    bulk("Si").write("POSCAR")
    elf = vox.predict_elf(tmp_path / "POSCAR", "promolecule", spacing=0.5)
    add(viewer, volume_layers([elf]))
    run = widget.current_run()
    assert run.missing == []
    assert "predict_elf" in run.as_script()
    first, second = run.as_command().split(" && ")
    assert first.startswith("vox3d elf")
    assert "promolecule" in first
    assert second == "vox3d maxima POSCAR.ELFCAR -o POSCAR_maxima.csv"
    exec(run.as_script(save_as="found.csv"))
    assert (tmp_path / "found.csv").is_file()


def test_commands_say_what_they_cannot_do(with_silicon):
    _, widget = with_silicon
    widget.open = pages.Surface
    with pytest.raises(vox.Vox3dError, match="copy the script"):
        widget.current_run().as_command()
    widget.open = pages.Plane
    assert "--hkl '1 1 0' --through '0 0 0'" in widget.current_run().as_command()
