import json
import shutil
import subprocess
import sys
from pathlib import Path

import npe2
import numpy as np
import pytest
import tifffile
import zarr
from napari.components import ViewerModel
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QTimer

from napari_vox3d import Picks, Volume, Vox3dError, write_picks, write_volume
from napari_vox3d.gui import readers
from napari_vox3d.gui.layers import volume_from_layer
from napari_vox3d.gui.pick_layers import picks_from_layer
from napari_vox3d.gui.readers import get_reader, read_layers

DATA = Path(__file__).parent / "data"
POSCAR = "NaCl\n5.6\n0 .5 .5\n.5 0 .5\n.5 .5 0\nNa Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"


@pytest.fixture(scope="module", autouse=True)
def _discovered():
    npe2.PluginManager.instance().discover(include_npe1=False)


@pytest.fixture
def notifications(monkeypatch):
    shown = []
    monkeypatch.setattr(notification_manager, "dispatch", lambda note: shown.append(note))
    return shown


@pytest.fixture
def tomogram(tmp_path):
    path = tmp_path / "tomogram.mrc"
    values = np.random.default_rng(0).normal(size=(8, 10, 12)).astype(np.float32)
    write_volume(path, Volume(values, 10.0))
    return path


@pytest.fixture
def open_tomogram(tomogram, monkeypatch):
    viewer = ViewerModel()
    viewer.open(tomogram, plugin="napari-vox3d")
    monkeypatch.setattr("napari.current_viewer", lambda: viewer)
    return viewer


def kinds(layers):
    return [kind for _, _, kind in layers]


def claims(name):
    found = npe2.PluginManager.instance().iter_compatible_readers([name])
    return any(reader.plugin_name == "napari-vox3d" for reader in found)


def test_a_density_opens_with_its_cell_and_atoms():
    layers = npe2.read([str(DATA / "vasp" / "CHGCAR_slash.gz")], stack=False)
    assert kinds(layers) == ["image", "surface", "points"]
    assert layers[0][1]["metadata"]["vox3d"].quantity == "electron density"


def test_a_tomogram_opens_mapped_to_its_file(tomogram):
    ((data, meta, kind),) = npe2.read([str(tomogram)], stack=False)
    assert kind == "image"
    assert isinstance(data, np.memmap)
    np.testing.assert_allclose(meta["scale"], 10)


@pytest.mark.parametrize("name", ["POSCAR", "CONTCAR_relaxed", "NaCl.vasp"])
def test_a_structure_opens_as_atoms_and_cell(tmp_path, name):
    (tmp_path / name).write_text(POSCAR)
    viewer = ViewerModel()
    cell, atoms = viewer.open(tmp_path / name, plugin="napari-vox3d")
    assert [type(cell).__name__, type(atoms).__name__] == ["Surface", "Points"]
    assert atoms.metadata["vox3d"].get_chemical_formula() == "ClNa"


def test_picks_open_on_the_tomogram_that_is_open(tmp_path, open_tomogram):
    path = tmp_path / "apo.coords"
    path.write_text("1 2 3\n4 5 6\n")
    (points,) = open_tomogram.open(path, plugin="napari-vox3d")
    np.testing.assert_allclose(points.data, [(3, 2, 1), (6, 5, 4)])
    np.testing.assert_allclose(points.scale, 10)
    assert open_tomogram.dims.thickness[0] > 0
    assert picks_from_layer(points).tomogram == "tomogram"


def test_picks_in_voxels_need_their_tomogram(tmp_path):
    path = tmp_path / "apo.coords"
    path.write_text("1 2 3\n")
    with pytest.raises(Vox3dError, match="tomogram"):
        read_layers(str(path))


@pytest.mark.parametrize("suffix", [".star", ".json", ".csv"])
def test_picks_that_we_write_we_read(tmp_path, suffix):
    picks = Picks.from_indices([(1, 2, 3)], ["apo"], voxel_size=10, shape=(8, 10, 12), scores=[0.5])
    for path in write_picks(tmp_path / f"picks{suffix}", picks):
        assert claims(str(path))
        ((data, meta, kind),) = get_reader(str(path))(str(path))
        assert kind == "points"
        np.testing.assert_allclose(data * meta["scale"], [(10, 20, 30)], atol=1e-3)


def test_several_files_open_one_after_another(tomogram):
    iron = str(DATA / "vasp" / "CHGCAR_slash.gz")
    paths = [iron, str(tomogram)]
    assert kinds(get_reader(paths)(paths)) == ["image", "surface", "points", "image"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", "hello"),
        ("README", "hello"),
        ("settings.json", json.dumps({"points": 3})),
        ("table.csv", "a,b\n1,2\n"),
        ("missing.csv", None),
        ("missing.mrc", None),
    ],
)
def test_files_of_others_are_declined(tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    assert get_reader(str(path)) is None


def test_folders_are_declined(tmp_path):
    assert get_reader(str(tmp_path)) is None


@pytest.mark.parametrize("name", ["empty.mrc", "CHGCAR", "broken.cube", "picks.star"])
def test_damaged_files_raise_one_clear_sentence(tmp_path, name):
    path = tmp_path / name
    path.write_text("" if name == "empty.mrc" else "nonsense\n" * 3)
    with pytest.raises(Vox3dError, match=name):
        get_reader(str(path))(str(path))


def test_errors_in_the_window_are_notifications(tmp_path, monkeypatch, notifications):
    monkeypatch.setattr(readers, "_window_in_use", lambda: True)
    path = tmp_path / "empty.mrc"
    path.touch()
    assert ViewerModel().open(path, plugin="napari-vox3d") == []
    (note,) = notifications
    assert "empty.mrc" in note.message
    assert note.severity.value == "error"


def test_a_file_dropped_on_the_window_gives_one_sentence(
    tmp_path, make_napari_viewer, qtbot, notifications
):
    viewer = make_napari_viewer()
    path = tmp_path / "empty.mrc"
    path.touch()
    done = []

    def drop():
        viewer.window._qt_viewer._qt_open([str(path)], stack=False)
        done.append(True)

    QTimer.singleShot(0, drop)
    qtbot.waitUntil(lambda: bool(done))
    assert [note.message for note in notifications] == [f"{path}: is empty."]


def test_an_unknown_voxel_size_is_told_every_time(tmp_path, notifications):
    path = tmp_path / "raw.mrc"
    write_volume(path, Volume(np.ones((3, 4, 5), np.float32), 1.0))
    for count in (1, 2):
        ((_, meta, _),) = read_layers(str(path))
        assert "voxel size unknown" in meta["name"]
        assert len(notifications) == count
        assert "voxel size" in notifications[-1].message


@pytest.mark.parametrize(
    "name",
    [
        *(
            "CHGCAR",
            "CHG",
            "CHGCAR.gz",
            "CHG.bz2",
            "CHGCAR_spin",
            "CHGCAR.spin",
            "CHGCAR.nospin.gz",
        ),
        *(
            "LOCPOT.vasp642.gz",
            "ELFCAR_test",
            "AECCAR0",
            "AECCAR2.gz",
            "PARCHG.0132.ALLK",
            "LOCPOT",
        ),
        *("LOCPOT.xz", "POSCAR", "CONTCAR", "POSCAR_relaxed", "POSCAR.orig", "mp-149.CHGCAR"),
        *("Si_CHGCAR", "CHGCAR_mag", "ELFCAR_diff", "CHGCAR_final", "CHGCAR.ncl", "Fe.chgcar"),
        *("a.mrc", "A.MRC", "a.rec", "a.map.gz", "a.ali", "a.st", "a.mrcs", "a.ccp4", "a.mrc.bz2"),
        *("a.tif", "a.ome.tif", "DAPI.TIFF", "a.cub", "a.cube", "a.cube.gz", "a.vasp"),
        *("a.vasp.xz", "a.cif", "a.star", "a.json", "a.coords"),
        *("a.tbl", "a.mod", "a.cbox", "a.ndjson", "TS_01_info.json", "my_points.txt"),
    ],
)
def test_the_manifest_claims_the_names_that_we_read(name):
    assert claims(name)


@pytest.mark.parametrize(
    "name",
    [
        *("SAMPLE.png", "IMG_0001.jpg", "STACK.czi"),
        *("SCREENSHOT.jpeg", "MYDATA.npy", "EXPERIMENT_2.lif", "table.csv", "notes.txt"),
    ],
)
def test_the_manifest_leaves_images_to_their_readers(name):
    assert not claims(name)


def test_offering_to_read_costs_no_heavy_import(tmp_path):
    shutil.copy(DATA / "vasp" / "CHGCAR_slash.gz", tmp_path / "CHGCAR.gz")
    code = (
        "import sys; from napari_vox3d.gui.readers import get_reader;"
        f"assert get_reader({str(tmp_path / 'CHGCAR.gz')!r});"
        "heavy = {'torch', 'napari', 'ase', 'scipy', 'pandas', 'qtpy'} & sys.modules.keys();"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def ome_zarr(path, shape=(8, 10, 12), axes="zyx", **attributes):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    datasets = []
    for level in (0, 1):
        named = zip(axes, shape, strict=True)
        size = tuple(n >> level if axis in "zyx" else n for axis, n in named)
        array = group.create_array(str(level), shape=size, chunks=size, dtype="f4")
        array[...] = np.random.default_rng(level).normal(size=size)
        scale = [10.0 * 2**level if axis in "zyx" else 1.0 for axis in axes]
        steps = [{"type": "scale", "scale": scale}]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    kinds = {"c": {"type": "channel"}, "t": {"type": "time"}}
    space = {"type": "space", "unit": "angstrom"}
    described = [{"name": axis, **kinds.get(axis, space)} for axis in axes]
    image = {"version": "0.4", "axes": described, "datasets": datasets}
    group.attrs.update({"multiscales": [image], **attributes})
    return path


def test_ome_zarr_opens_with_its_levels(tmp_path):
    path = ome_zarr(tmp_path / "TS_01.zarr")
    assert claims(str(path))
    viewer = ViewerModel()
    (layer,) = viewer.open(path, plugin="napari-vox3d")
    assert layer.multiscale
    assert layer.name == "TS_01"
    assert [level.shape for level in layer.data] == [(8, 10, 12), (4, 5, 6)]
    np.testing.assert_allclose(layer.scale, 10)
    assert set(map(str, layer.units)) == {"angstrom"}
    again = volume_from_layer(layer)
    assert not isinstance(again.values, np.ndarray)  # its chunks stay where they are
    assert again.level_for(20).shape == (4, 5, 6)


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_tiff_opens_mapped_with_its_voxel_size(tmp_path, name):
    values = np.random.default_rng(0).normal(size=(8, 10, 12)).astype(np.float32)
    write_volume(tmp_path / name, Volume(values, (10, 12, 14)))
    assert claims(str(tmp_path / name))
    viewer = ViewerModel()
    (layer,) = viewer.open(tmp_path / name, plugin="napari-vox3d")
    assert isinstance(layer.data, np.memmap)
    np.testing.assert_array_equal(layer.data, values)
    np.testing.assert_allclose(layer.scale, (10, 12, 14), rtol=1e-6)


def channels(path):
    return ome_zarr(path / "a.zarr", (2, 8, 10, 12), "czyx")


def test_channels_open_as_layers(tmp_path):
    layers = read_layers(str(channels(tmp_path)))
    assert [meta["name"] for _, meta, _ in layers] == ["a c0", "a c1"]
    assert [meta["visible"] for _, meta, _ in layers] == [True, False]


def plane(path):
    return ome_zarr(path / "a.zarr", (10, 12), "yx")


def film(path):
    return ome_zarr(path / "a.zarr", (2, 8, 10, 12), "tzyx")


def label_image(path):
    return ome_zarr(path / "a.zarr", **{"image-label": {"version": "0.4"}})


def flat_array(path):
    zarr.save_array(str(path / "a.zarr"), np.zeros((10, 12)))
    return path / "a.zarr"


def test_a_bare_zarr_array_opens(tmp_path):
    zarr.save_array(str(tmp_path / "a.zarr"), np.zeros((8, 10, 12), np.float32))
    read = get_reader(str(tmp_path / "a.zarr"))
    ((data, _, kind),) = read(str(tmp_path / "a.zarr"))
    assert (data.shape, kind) == ((8, 10, 12), "image")


def test_a_zarr_group_without_an_image_names_what_is_inside(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("VoxelSpacing10", shape=(8, 10, 12), dtype="f4")
    read = get_reader(str(tmp_path / "a.zarr"))
    with pytest.raises(Vox3dError, match=r"no OME-Zarr image\. Open .*: VoxelSpacing10"):
        read(str(tmp_path / "a.zarr"))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("TS_01_info.json", '{"boxes_3d": [[1', "JSON"),
        ("TS_01_info.json", '{"apix": 3}', "boxes"),
        ("picks.json", "{}", "picks"),
        ("picks.csv", "x,y,z\n1,2,3\n", "column"),
    ],
)
def test_files_named_as_picks_say_what_is_wrong_with_them(tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    read = get_reader(str(tmp_path / name))
    with pytest.raises(Vox3dError, match=sentence):
        read(str(tmp_path / name))


def flat_tiff(path):
    tifffile.imwrite(path / "a.tif", np.zeros((9, 8), np.uint8))
    return path / "a.tif"


def colour_tiff(path):
    tifffile.imwrite(path / "a.tif", np.zeros((9, 8, 3), np.uint8), photometric="rgb")
    return path / "a.tif"


def film_tiff(path):
    values = np.zeros((2, 3, 9, 8), np.uint8)
    tifffile.imwrite(path / "a.tif", values, imagej=True, metadata={"axes": "TZYX"})
    return path / "a.tif"


def label_tiff(path):
    tifffile.imwrite(path / "a.tif", np.zeros((5, 9, 8), np.int32))
    return path / "a.tif"


def no_tiff(path):
    (path / "a.tif").write_text("hello")
    return path / "a.tif"


@pytest.mark.parametrize(
    "make",
    [plane, film, label_image, flat_array, flat_tiff, colour_tiff, film_tiff, label_tiff, no_tiff],
)
def test_images_that_are_no_volumes_are_declined(tmp_path, make):
    assert get_reader(str(make(tmp_path))) is None
