import json

import npe2
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.notifications import notification_manager

from napari_vox3d import Picks, Volume, Vox3dError, write_pick_collection, write_picks, write_volume
from napari_vox3d.gui import readers
from napari_vox3d.gui.frame_notice import FitPicks, refit
from napari_vox3d.gui.layers import volume_from_layer
from napari_vox3d.gui.pick_layers import picks_from_layer, picks_layer

SHAPE = (44, 136, 84)
INDICES = np.array([[1.0, 2, 3], [43, 135, 83]])


def picks(tomogram="TS_01", voxel_size=10.0):
    frame = {"voxel_size": voxel_size, "shape": SHAPE, "tomogram": tomogram, "radii": [50, 50]}
    return Picks.from_indices(INDICES, ["apo", "ribosome"], **frame)


@pytest.fixture
def notices(monkeypatch):
    shown = []
    monkeypatch.setattr(notification_manager, "dispatch", lambda note: shown.append(note))
    return shown


@pytest.fixture
def viewer(monkeypatch):
    npe2.PluginManager.instance().discover(include_npe1=False)
    viewer = ViewerModel()
    monkeypatch.setattr("napari.current_viewer", lambda: viewer)
    return viewer


def open_tomogram(viewer, folder, name="TS_01", voxel_size=20.0):
    path = folder / f"{name}.mrc"
    write_volume(path, Volume(np.zeros(SHAPE, "f4"), voxel_size))
    return viewer.open(path, plugin="napari-vox3d")[0]


def open_picks(viewer, folder, made=None):
    (path,) = write_picks(folder / "picks.star", made or picks())
    return viewer.open(path, plugin="napari-vox3d")[0]


def test_a_notice_offers_the_other_way(tmp_path, viewer, notices):
    open_tomogram(viewer, tmp_path)
    points = open_picks(viewer, tmp_path)
    (note,) = notices
    assert "made on 44 × 136 × 84 voxels of 10 Å, and TS_01 has" in note.message
    np.testing.assert_allclose(points.data, INDICES, atol=1e-4)
    np.testing.assert_allclose(points.scale, 20)
    ((text, action),) = note.actions
    assert text == "Keep Å instead"
    action()
    np.testing.assert_allclose(points.data, INDICES / 2, atol=1e-4)
    np.testing.assert_allclose(points.data * points.scale, INDICES * 10, atol=1e-3)
    np.testing.assert_allclose(np.array(points.size) * 20, 100)


def test_the_window_is_about_the_selected_picks(tmp_path, qtbot, viewer, notices):
    open_tomogram(viewer, tmp_path)
    viewer.add_points(INDICES, name="others", scale=(20, 20, 20))
    points = open_picks(viewer, tmp_path)
    window = FitPicks(viewer)
    qtbot.addWidget(window)
    assert window.picks.value is points
    assert "made on" in window.said.text()


def test_several_open_tomograms_get_their_picks_of_one_file(tmp_path, viewer, notices):
    for name in ("TS_01", "TS_02", "TS_04", "TS_02_bin4"):
        layer = open_tomogram(viewer, tmp_path, name, voxel_size=10.0)
    viewer.layers.selection.active = layer
    several = [picks(name) for name in ("TS_01", "TS_02", "TS_03")]
    (path,) = write_pick_collection(tmp_path / "all.star", several)
    opened = viewer.open(path, plugin="napari-vox3d")
    assert [layer.name for layer in opened] == ["all TS_01", "all TS_02_bin4"]
    assert [picks_from_layer(layer).tomogram for layer in opened] == ["TS_01", "TS_02"]


def test_picks_that_fit_open_without_a_word(tmp_path, viewer, notices):
    open_tomogram(viewer, tmp_path, voxel_size=10.0)
    open_picks(viewer, tmp_path)
    assert notices == []


def test_edits_go_along_when_picks_are_refitted(tmp_path, viewer, notices):
    image = open_tomogram(viewer, tmp_path)
    points = open_picks(viewer, tmp_path)
    points.add([10, 20, 30])
    points.selected_data = {0}
    points.remove_selected()
    volume = volume_from_layer(image)
    refit(points, volume, "angstrom")
    np.testing.assert_allclose(points.data, [INDICES[1] / 2, [5, 10, 15]], atol=1e-4)
    assert points.features["class"].tolist()[0] == "ribosome"
    refit(points, volume, "voxels")
    np.testing.assert_allclose(points.data, [INDICES[1], [10, 20, 30]], atol=1e-4)
    assert picks_from_layer(points).shape == SHAPE


def test_the_window_says_what_differs_and_mends_it(tmp_path, viewer, notices, qtbot):
    window = FitPicks(viewer)
    qtbot.addWidget(window)
    assert "Open a tomogram first" in window.said.text()
    assert not window.fit.enabled
    open_tomogram(viewer, tmp_path)
    window.reset_choices()
    assert window.said.text() == "Open picks first."
    # Picks of another plugin, opened before the tomogram: nothing but a scale is known.
    data, looks, _ = picks_layer(picks())
    points = viewer.add_points(data, **looks)
    window.reset_choices()
    assert "voxels of 10 Å, and TS_01 has 44 × 136 × 84 voxels of 20 Å" in window.said.text()
    assert window.keep.value == "voxels"
    window.fit.native.click()
    np.testing.assert_allclose(points.data * points.scale, INDICES * 20, atol=1e-3)
    assert window.said.text().endswith("Now voxel indices are kept.")
    window.keep.value = "angstrom"
    window.fit.native.click()
    np.testing.assert_allclose(points.data * points.scale, INDICES * 10, atol=1e-3)


def test_a_file_of_several_tomograms_shows_those_that_are_open(tmp_path, viewer, notices):
    parts = [picks(name, 20.0) for name in ("TS_01", "TS_02", "TS_03")]
    (path,) = write_pick_collection(tmp_path / "particles.star", parts)
    with pytest.raises(Vox3dError, match="3 tomograms"):
        viewer.open(path, plugin="napari-vox3d")
    open_tomogram(viewer, tmp_path, "TS_02")
    (points,) = viewer.open(path, plugin="napari-vox3d")
    assert picks_from_layer(points).tomogram == "TS_02"
    open_tomogram(viewer, tmp_path, "TS_03")
    viewer.layers.selection.clear()
    opened = viewer.open(path, plugin="napari-vox3d")
    assert [layer.name for layer in opened] == ["particles TS_02", "particles TS_03"]


def test_the_user_is_asked_which_tomogram_is_meant(tmp_path, viewer, notices, monkeypatch):
    parts = [picks(name, 20.0) for name in ("TS_01", "TS_02")]
    (path,) = write_pick_collection(tmp_path / "particles.star", parts)
    open_tomogram(viewer, tmp_path, "denoised")
    monkeypatch.setattr(readers, "_window_in_use", lambda: True)
    asked = []
    monkeypatch.setattr(readers, "_ask_which", lambda several: asked.append(several) or "TS_02")
    (points,) = viewer.open(path, plugin="napari-vox3d")
    assert asked[0].names == ["TS_01", "TS_02"]
    assert "none of them 'denoised'" in asked[0].reason
    assert points.name == "particles TS_02"
    np.testing.assert_allclose(points.data, INDICES, atol=1e-4)
    monkeypatch.setattr(readers, "_ask_which", lambda several: "")
    assert viewer.open(path, plugin="napari-vox3d") == []


def test_a_project_of_copick_is_offered_to_the_reader(tmp_path):
    path = tmp_path / "my_project.json"
    path.write_text(json.dumps({"config_type": "filesystem", "pickable_objects": []}))
    assert readers.get_reader(str(path)) is not None
