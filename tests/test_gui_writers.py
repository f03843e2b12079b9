from pathlib import Path

import numpy as np
import pytest
import starfile
from ase.build import bulk
from napari.components import ViewerModel
from napari.layers import Image, Layer, Points
from napari.utils.notifications import notification_manager

from napari_vox3d import Picks, Volume, Vox3dError, read_picks, read_volume
from napari_vox3d.formats.pick_formats import PICK_FORMATS, pick_format_by_name
from napari_vox3d.gui.layers import volume_layer, volume_layers
from napari_vox3d.gui.pick_layers import picks_layer
from napari_vox3d.gui.writers import write_image


@pytest.fixture(scope="module", autouse=True)
def _discovered():
    import npe2

    npe2.PluginManager.instance().discover(include_npe1=False)


@pytest.fixture
def tomogram():
    values = np.random.default_rng(0).normal(size=(8, 10, 12)).astype(np.float32)
    return Volume(values, (10, 12, 14), name="tomogram")


@pytest.fixture
def iron():
    atoms = bulk("Fe", "bcc", a=2.87)
    values = np.random.default_rng(0).random((10, 10, 10))
    return Volume.on_lattice(values, atoms.cell.array, atoms=atoms, quantity="electron density")


def save(path, *data):
    viewer = ViewerModel()
    layers = [viewer.add_layer(Layer.create(*one)) for one in data]
    written = viewer.layers.save(str(path), plugin="napari-vox3d")
    assert written
    return layers


def test_tomograms_are_saved_as_mrc(tmp_path, tomogram):
    save(tmp_path / "saved.mrc", volume_layer(tomogram))
    again = read_volume(tmp_path / "saved.mrc")
    np.testing.assert_array_equal(again.values, tomogram.values)
    np.testing.assert_allclose(again.voxel_size, (10, 12, 14), rtol=1e-6)


def test_the_scale_that_the_user_set_is_saved(tmp_path, tomogram):
    viewer = ViewerModel()
    layer = viewer.add_layer(Layer.create(*volume_layer(tomogram)))
    layer.scale = (5, 5, 5)
    viewer.layers.save(str(tmp_path / "saved.mrc"), plugin="napari-vox3d")
    np.testing.assert_allclose(read_volume(tmp_path / "saved.mrc").voxel_size, 5)


@pytest.mark.parametrize("name", ["Fe.vasp", "Fe.cube"])
def test_crystals_are_saved_on_their_native_grid(tmp_path, iron, name):
    image = volume_layers([iron])[0]
    save(tmp_path / name, image)
    again = read_volume(tmp_path / name)
    assert again.shape == (10, 10, 10)
    np.testing.assert_allclose(again.values, iron.values, rtol=1e-4)
    np.testing.assert_allclose(again.step, iron.step, atol=1e-5)


def test_images_of_others_are_saved_too(tmp_path):
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    viewer = ViewerModel()
    viewer.add_layer(Image(data, scale=(2, 2, 2), units="nm"))
    viewer.layers.save(str(tmp_path / "saved.mrc"), plugin="napari-vox3d")
    again = read_volume(tmp_path / "saved.mrc")
    np.testing.assert_array_equal(again.values, data)
    np.testing.assert_allclose(again.voxel_size, 20)


def test_what_a_format_cannot_hold_is_refused(tmp_path, iron, tomogram):
    with pytest.raises(Vox3dError, match="oblique"):
        save(tmp_path / "iron.mrc", volume_layer(iron))
    with pytest.raises(Vox3dError, match="atoms"):
        save(tmp_path / "tomogram.vasp", volume_layer(tomogram))
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*classes")
@pytest.mark.parametrize(
    "suffix",
    [".star", ".json", ".csv", ".coords", ".tbl", ".mod", ".txt", ".cbox", ".ndjson", "_info.json"],
)
def test_picks_are_saved_as_the_user_left_them(tmp_path, tomogram, suffix):
    frame = {
        "voxel_size": (10, 12, 14),
        "shape": tomogram.shape,
        "tomogram": "tomogram",
        "radii": [60, 60],
    }
    picks = Picks.from_indices([(1, 2, 3), (4, 5, 6)], ["apo", "apo"], scores=[0.5, 0.6], **frame)
    viewer = ViewerModel()
    layer = viewer.add_layer(Layer.create(*picks_layer(picks, tomogram)))
    layer.selected_data = {0}
    layer.remove_selected()
    layer.data = layer.data + np.ones(3)
    written, *_ = viewer.layers.save(str(tmp_path / f"picks{suffix}"), plugin="napari-vox3d")
    known = PICK_FORMATS[pick_format_by_name(Path(written))]
    again = read_picks(written, tomogram)
    np.testing.assert_allclose(again.indices, [(5, 6, 7)], atol=1e-3)
    if known.classes == "names":
        assert again.labels.tolist() == ["apo"]
    if known.scores:
        np.testing.assert_allclose(again.scores, [0.6], atol=1e-4)
    if known.radii:
        np.testing.assert_allclose(again.radii, [60], atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*classes")
@pytest.mark.parametrize("suffix", [".star", "_info.json", ".tbl", ".mod"])
def test_points_clicked_in_a_new_layer_are_in_the_open_tomogram(
    tmp_path, tomogram, suffix, monkeypatch
):
    viewer = ViewerModel()
    monkeypatch.setattr("napari.current_viewer", lambda: viewer)
    image = viewer.add_layer(Layer.create(*volume_layer(tomogram)))
    points = viewer.add_points(ndim=3, scale=image.scale, units=image.units)
    for index in ((1, 2, 3), (7, 9, 11)):
        points.add(index)
    written, *_ = viewer.layers.save(
        str(tmp_path / f"mine{suffix}"), selected=True, plugin="napari-vox3d"
    )
    again = read_picks(written, tomogram)
    np.testing.assert_allclose(again.indices, [(1, 2, 3), (7, 9, 11)], atol=1e-3)
    if suffix == ".star":
        assert starfile.read(written)["rlnTomoName"].tolist() == ["tomogram"] * 2


def test_the_save_dialog_of_napari_offers_every_suffix(tmp_path, tomogram):
    from napari._qt.qt_viewer import _npe2_decode_selected_filter
    from napari.plugins._npe2 import file_extensions_string_for_layers

    picks = Picks.from_indices([(1, 2, 3)], ["1"], voxel_size=10, shape=(8, 10, 12))
    viewer = ViewerModel()
    layer = viewer.add_layer(Layer.create(*picks_layer(picks)))
    filters, writers = file_extensions_string_for_layers([layer])
    (ours,) = [one for one in filters.split(";;") if "RELION" in one]
    for known in PICK_FORMATS.values():
        assert f"*{Path('a' + known.suffix).suffix}" in ours
    writer = _npe2_decode_selected_filter(filters, ours, writers)
    assert viewer.layers.save(str(tmp_path / "p.tbl"), _writer=writer)
    assert (tmp_path / "p.tbl").is_file()


def test_flat_points_are_refused(tmp_path):
    viewer = ViewerModel()
    viewer.add_layer(Points(np.zeros((2, 2))))
    with pytest.raises(Vox3dError, match="2 axes"):
        viewer.layers.save(str(tmp_path / "picks.star"), plugin="napari-vox3d")


@pytest.mark.parametrize("name", ["a.mrc", "a.rec", "a.tif", "a.tiff", "a.ome.tif", "a.mrc.gz"])
def test_napari_saves_a_tomogram_by_its_suffix(tmp_path, tomogram, name):
    save(tmp_path / name, volume_layer(tomogram))
    again = read_volume(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(again.values), tomogram.values)
    np.testing.assert_allclose(again.voxel_size, (10, 12, 14), rtol=1e-6)


@pytest.mark.parametrize("name", ["Fe_CHGCAR", "CHGCAR", "a.vasp", "a.cube", "a.xsf"])
def test_a_crystal_is_written_by_its_name(tmp_path, iron, name):
    write_image(str(tmp_path / name), *volume_layers([iron])[0][:2])
    again = read_volume(tmp_path / name)
    np.testing.assert_allclose(again.values, iron.values, rtol=1e-4)
    np.testing.assert_allclose(again.step, iron.step, atol=1e-5)


def test_what_a_format_cannot_keep_is_a_notification(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(notification_manager, "dispatch", shown.append)
    precise = Volume(np.random.default_rng(0).random((3, 4, 5)), 10.0)
    save(tmp_path / "saved.mrc", volume_layer(precise))
    assert "float64 becomes float32" in shown[0].message


def test_one_channel_is_saved_and_several_are_refused(tmp_path):
    one = np.arange(60, dtype=np.int16).reshape(1, 3, 4, 5)
    save(tmp_path / "one.mrc", (one, {"scale": (1, 2, 2, 2), "units": "nm"}, "image"))
    np.testing.assert_array_equal(read_volume(tmp_path / "one.mrc").values, one[0])
    with pytest.raises(Vox3dError, match="several volumes"):
        save(tmp_path / "two.mrc", (np.concatenate([one, one]), {}, "image"))
