"""Layers of every kind as input of the picking window; only the network is a stand-in."""

import json

import dask.array as da
import numpy as np
import pytest
import zarr
from napari.components import ViewerModel
from napari.layers import Image, Points
from napari.settings import get_plugin_settings

import napari_vox3d as vox
from napari_vox3d.gui.controls import choose
from napari_vox3d.gui.layers import volume_from_layer, volume_layer
from napari_vox3d.gui.pick_layers import picks_from_layer
from napari_vox3d.gui.tomograms import calibrate, is_picks, is_tomogram
from napari_vox3d.inference.tiles import NetworkView
from napari_vox3d.volume import Volume

CARD = {
    "name": "blobs",
    "title": "Blobs",
    "task": "picking",
    "input": {"voxel_size": 10.0},
    "classes": [{"name": "blob", "radius": 50.0, "colour": "#009e73", "threshold": 0.5}],
    "training": "None.",
    "licence": "BSD-3-Clause",
    "version": "1",
}
SHAPE = (24, 32, 40)
BLOB = np.array([9.5, 17.5, 5.5])  # its centre, in voxels
ANGSTROM = {"scale": (10, 10, 10), "units": "angstrom"}


@pytest.fixture(autouse=True)
def _model(tmp_path, monkeypatch):
    folder = tmp_path / "models" / "blobs"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps(CARD))
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "models"))
    get_plugin_settings("napari-vox3d").reset()


@pytest.fixture
def seen(monkeypatch):
    """Volumes that were scored; a score is what the network would see there."""
    volumes = []

    def score(volume, model, *, region=None, **_):
        volumes.append(volume)
        view = NetworkView.of(volume, 10.0, "zscore")
        box = view.read((0, 0, 0), view.shape)
        tomogram = {
            "name": volume.name,
            "shape": volume.shape,
            "voxel_size": volume.voxel_size.tolist(),
            "origin": volume.origin.tolist(),
            "region": [(0, n) for n in volume.shape],
        }
        about = {"radius": 50.0, "threshold": 0.5, "min_distance": 50.0, "tomogram": tomogram}
        return [
            Volume(
                np.clip(box / box.max(), 0.01, 0.99),
                volume.step * view.scale,
                volume.to_world(view.to_index(np.zeros(3))),
                quantity="score",
                name="blob",
                metadata={**about, "provenance": {}},
            )
        ]

    monkeypatch.setitem(vars(vox), "score_particles", score)
    return volumes


@pytest.fixture
def window(make_napari_viewer):
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-vox3d", "Pick particles")
    choose(widget.model.menu, "blobs")
    return viewer, widget


def tomogram(dtype="f4", centre=BLOB, shape=SHAPE):
    """A bell in weak noise."""
    distance = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - centre, axis=-1)
    noise = np.random.default_rng(0).integers(0, 3, shape)
    return (noise + 100 * np.exp(-((distance / 3) ** 2))).astype(dtype)


def pyramid(values):
    blocks = values.reshape([m for n in values.shape for m in (n // 2, 2)])
    return [values, blocks.mean(axis=(1, 3, 5)).astype(values.dtype)]


def press_and_wait(qtbot, widget):
    widget.run.press()
    qtbot.waitUntil(lambda: not widget.run.running, timeout=20000)


def found(viewer):
    """World positions of all picks, in Å along z, y, x."""
    (layer,) = (layer for layer in viewer.layers if isinstance(layer, Points))
    assert set(map(str, layer.units)) == {"angstrom"}
    return np.array([layer.data_to_world(point) for point in layer.data])


LAYERS = {
    "numpy": (lambda: tomogram(), {}),
    "int8": (lambda: tomogram("i1"), {}),
    "uint16": (lambda: tomogram("u2"), {}),
    "float16": (lambda: tomogram("f2"), {}),
    "big-endian": (lambda: tomogram(">i2"), {}),
    "float64": (lambda: tomogram("f8"), {}),
    "dask": (lambda: da.from_array(tomogram(), chunks=(8, 32, 13)), {}),
    "zarr": (lambda: zarr.array(tomogram("i2"), chunks=(16, 16, 16)), {}),
    "one channel": (lambda: tomogram()[None], {"scale": (1, 10, 10, 10)}),
    "one channel, zarr": (
        lambda: zarr.array(tomogram()[None], chunks=(1, 16, 16, 16)), {"scale": (1, 10, 10, 10)},
    ),
    "channel and time": (lambda: tomogram()[None, None], {"scale": (1, 1, 10, 10, 10)}),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_every_kind_are_picked(window, seen, qtbot, errors, kind):
    viewer, widget = window
    make, more = LAYERS[kind]
    viewer.add_image(make(), **{**ANGSTROM, "name": "tomogram", **more})
    press_and_wait(qtbot, widget)
    assert [error.message for error in errors] == []
    assert seen[0].shape == SHAPE
    np.testing.assert_allclose(found(viewer), [BLOB * 10], atol=5)


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr", "with a channel"])
def test_of_multiscale_layers_the_level_of_the_model_is_read(window, seen, qtbot, errors, kind):
    viewer, widget = window
    levels = pyramid(tomogram(shape=(48, 64, 80), centre=BLOB))
    levels = {
        "numpy": lambda: levels,
        "dask": lambda: [da.from_array(level, chunks=16) for level in levels],
        "zarr": lambda: [zarr.array(level, chunks=(16, 16, 16)) for level in levels],
        "with a channel": lambda: [level[None] for level in levels],
    }[kind]()
    scale = (1, 5, 5, 5) if kind == "with a channel" else (5, 5, 5)
    viewer.add_image(levels, multiscale=True, scale=scale, units="angstrom", name="pyramid")
    press_and_wait(qtbot, widget)
    assert [error.message for error in errors] == []
    assert seen[0].shape == (48, 64, 80)
    assert seen[0].level_for(10).shape == (24, 32, 40)
    np.testing.assert_allclose(found(viewer), [BLOB * 5], atol=5)


def test_of_a_time_series_the_volume_shown_is_picked(window, seen, qtbot, errors, tmp_path):
    viewer, widget = window
    places = [BLOB, BLOB + 8]
    series = da.stack([da.from_array(tomogram(centre=place)) for place in places])
    viewer.add_image(series, scale=(3, 10, 10, 10), name="series",
                     units=("s", "angstrom", "angstrom", "angstrom"))  # fmt: skip
    for time, place in enumerate(places):
        viewer.dims.set_point(0, 3 * time)
        press_and_wait(qtbot, widget)
        assert [error.message for error in errors] == []
        assert seen[-1].name == f"series [{time}]"
        np.testing.assert_allclose(found(viewer), [place * 10], atol=5)
    widget.save_picks(tmp_path / "picks.csv")
    picks = vox.read_picks(tmp_path / "picks.csv")
    assert picks.tomogram == "series [1]"
    np.testing.assert_allclose(picks.positions, [places[1] * 10], atol=5)


def test_a_series_in_pixels_can_be_given_a_voxel_size(window, seen, qtbot, errors):
    viewer, widget = window
    layer = viewer.add_image(np.stack([tomogram(), tomogram()]), scale=(3, 1, 1, 1))
    assert widget.voxel_size.native.isVisibleTo(widget)
    widget.voxel_size.value = 10
    np.testing.assert_array_equal(layer.scale, (3, 10, 10, 10))
    press_and_wait(qtbot, widget)
    assert [error.message for error in errors] == []
    np.testing.assert_allclose(found(viewer), [BLOB * 10], atol=5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rotate": (0, 0, 30)}, "'odd' is rotated, mirrored or sheared"),
        ({"shear": (0.1, 0, 0)}, "'odd' is rotated, mirrored or sheared"),
        ({"scale": (10, -10, 10)}, "'odd' is rotated, mirrored or sheared"),
        ({"affine": np.eye(4)[[0, 2, 1, 3]]}, "'odd' is rotated, mirrored or sheared"),
        ({"axis_labels": ("x", "y", "z")}, "'odd' has its axes in the order x, y, z; transpose"),
    ],
)
def test_turned_layers_are_refused_in_a_sentence(window, qtbot, errors, more, message):
    viewer, widget = window
    data = da.from_array(tomogram())
    viewer.add_image(data, **{**ANGSTROM, "name": "odd", **more})
    press_and_wait(qtbot, widget)
    assert message in errors[-1].message
    assert len(viewer.layers) == 1


def test_which_layers_are_tomograms():
    several = Image(np.zeros((2, 4, 4, 4)))
    assert not is_tomogram(several)
    assert is_tomogram(several, several=True)
    assert is_tomogram(Image(np.zeros((1, 4, 4, 4))))
    assert not is_tomogram(Image(np.zeros((4, 4))))
    assert not is_tomogram(Image(np.zeros((4, 4, 3)), rgb=True))
    assert not is_picks(Points(np.zeros((2, 2))))


def test_volumes_with_levels_go_to_layers_and_back():
    fine, coarse = pyramid(tomogram())
    volume = Volume(fine, 10.0, (1, 2, 3), name="t",
                    coarser=(Volume(coarse, 20.0, (6, 7, 8)),))  # fmt: skip
    viewer = ViewerModel()
    data, meta, kind = volume_layer(volume)
    layer = viewer._add_layer_from_data(data, meta, kind)[0]
    assert layer.multiscale
    assert volume_from_layer(layer) is volume
    calibrate(viewer, layer, 5.0)
    changed = volume_from_layer(layer)
    np.testing.assert_allclose(changed.voxel_size, 5)
    np.testing.assert_allclose([level.voxel_size[0] for level in changed.coarser], [10])
    assert changed.coarser[0].values is coarse
    points = viewer.add_points([(1, 1, 1)], **ANGSTROM)
    picks = picks_from_layer(points, changed)
    np.testing.assert_allclose(picks.positions, [(9, 8, 7)])
    assert picks.shape == SHAPE
