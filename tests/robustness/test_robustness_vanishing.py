"""Files that another program removes, replaces or cuts short while they are open here."""

import os
from pathlib import Path

import numpy as np
import pytest
from test_robustness_writing import done

from napari_vox3d import read_volume, volume_statistics, write_volume
from napari_vox3d.errors import Vox3dError
from napari_vox3d.volume import Volume

pytestmark = pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "fork"), reason="Windows lets nobody touch an open file"
)
SHAPE = (40, 100, 120)


def values():
    return np.random.default_rng(0).normal(size=SHAPE).astype("f4")


def warm():
    import torch  # noqa: F401
    import zarr  # noqa: F401
    from napari.components import ViewerModel  # noqa: F401


def make(path, kind):
    import tifffile

    volume = Volume(values(), 10.0)
    if kind == "compressed TIFF":
        tifffile.imwrite(path, volume.values, compression="zlib", photometric="minisblack")
    elif kind == "TIFF of channels":
        both = np.stack([volume.values, volume.values], 1)
        tifffile.imwrite(path, both, metadata={"axes": "ZCYX"}, ome=True, photometric="minisblack")
    elif kind == "MRC, long header":
        write_volume(path, volume)
        content = bytearray(path.read_bytes())
        content[92:96] = np.array(131072, "<i4").tobytes()
        path.write_bytes(content[:1024] + bytes(131072) + content[1024:])
    elif kind == "OME-Zarr":
        import zarr

        group = zarr.open_group(path, mode="w", zarr_format=2)
        group.create_array("0", shape=SHAPE, chunks=(20, 100, 120), dtype="f4")[:] = volume.values
        group.attrs["multiscales"] = [{
            "version": "0.4",
            "axes": [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"],
            "datasets": [{"path": "0", "coordinateTransformations":
                          [{"type": "scale", "scale": [10.0] * 3}]}],
        }]  # fmt: skip
    else:
        write_volume(path, volume)


def cut(path):
    if path.is_dir():
        for file in path.rglob("*"):
            if file.is_file() and not file.name.startswith("."):  # a chunk
                os.truncate(file, 100)
    else:
        os.truncate(path, 5000)


def remove(path):
    import shutil

    shutil.rmtree(path) if path.is_dir() else path.unlink()


def rewrite(path):
    """As a program that writes the file anew, and has not come far."""
    if path.is_dir():
        return cut(path)
    with path.open("wb") as file:
        file.write(bytes(2048))


def replace(path):
    """As a program that writes aside and renames."""
    other = path.with_name("other")
    if path.is_dir():
        path.rename(other)
    other.write_bytes(b"something else") if not other.exists() else None
    if other.is_file():
        other.replace(path)


HOW = {"cut": cut, "removed": remove, "written anew": rewrite, "replaced": replace}
NAMES = {
    "MRC": "a.mrc", "MRC, long header": "a.mrc", "TIFF": "a.tif", "OME-TIFF": "a.ome.tif",
    "TIFF of channels": "a.ome.tif", "compressed TIFF": "a.tif", "OME-Zarr": "a.zarr",
    "MRC, gzip": "a.mrc.gz",
}  # fmt: skip


def look(path, how):
    """Look at a file, let it be spoiled, and look again in several ways; what came of each."""
    import warnings

    warnings.simplefilter("ignore")
    path, expected = Path(path), values()
    volume = read_volume(path)
    found = volume.values
    np.testing.assert_array_equal(found[3], expected[3])
    layer = image_layer(volume)
    HOW[how](path)
    written = path.with_name("copy.mrc")
    ways = {
        "plane": lambda: np.asarray(found[7]) == expected[7],
        "across": lambda: np.asarray(found[:, 20]) == expected[:, 20],
        "along": lambda: np.asarray(found[:, :, -1]) == expected[:, :, -1],
        "voxel": lambda: found[-1, -1, -1] == expected[-1, -1, -1],
        "box": lambda: np.asarray(found[2:30, 5:90:2, 7:60]) == expected[2:30, 5:90:2, 7:60],
        "statistics": lambda: np.isclose(normalisation(volume).centre, np.median(expected), 0.1),
        "slices": lambda: slide(layer),
        "written": lambda: write_volume(written, volume) or written.exists(),
    }
    if how not in ("cut", "written anew"):  # a whole map is read without asking
        ways["whole"] = lambda: np.asarray(volume_statistics(volume).not_numbers == 0)
    return {way: outcome(attempt, path.name) for way, attempt in ways.items()}


def outcome(attempt, name):
    try:
        return "right" if np.all(attempt()) else "wrong"
    except Vox3dError as error:
        return "refused" if name in str(error) and "\n" not in str(error) else f"says {error}"


def normalisation(volume):
    from napari_vox3d.inference.tiles import Normalisation

    return Normalisation.of(volume, "robust")


def image_layer(volume):
    from napari.components import ViewerModel
    from napari.layers import Layer

    from napari_vox3d.gui.layers import volume_layer

    viewer = ViewerModel()
    viewer.add_layer(Layer.create(*volume_layer(volume)))
    return viewer


def slide(viewer):
    """Move the slider, look at values under the mouse, and turn to 3D and back."""
    viewer.dims.set_current_step(0, 11)
    layer = viewer.layers[0]
    layer.get_value((110, 200, 300), world=True)
    viewer.dims.ndisplay = 3
    viewer.dims.ndisplay = 2
    viewer.dims.set_current_step(0, 30)
    layer.refresh()
    return True


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", NAMES)
def test_a_spoiled_file_is_told_of_and_ends_nothing(nursery, cases, tmp_path, kind, how):
    path = tmp_path / NAMES[kind]
    make(path, kind)
    life = nursery.do(look, path, how)
    found = done(life)
    in_memory = kind == "MRC, gzip"
    mapped = kind in ("MRC", "MRC, long header", "TIFF", "OME-TIFF", "TIFF of channels")
    stays = in_memory or (mapped and how in ("removed", "replaced"))
    allowed = {"right"} if stays else {"refused"}
    assert set(found.values()) <= allowed, found
    cases(life)


def pick_while_it_is_cut(path, models):
    import torch

    from napari_vox3d.inference.picking import pick_particles
    from napari_vox3d.inference.tiled import DensePass

    torch.set_num_threads(1)
    DensePass._edges = lambda self: np.full(3, 24)
    calls = []

    def progress(done, total):
        calls.append(done)
        if 0 < done < total and path.exists() and path.stat().st_size > 5000:
            cut(path)

    path = Path(path)
    picker = small_picker()
    return len(pick_particles(read_volume(path), picker, device="cpu", progress=progress))


def small_picker(normalisation="robust"):
    import torch

    from napari_vox3d.models import Model, ModelCard, NetworkSpec, ParticleClass, PickingInput
    from napari_vox3d.networks import build

    torch.manual_seed(0)
    arguments = {"backbone": "UNet", "channels": 4, "levels": 2, "blocks": ["C3"], "num_classes": 3}
    kinds = [ParticleClass(name=name, radius=60, colour="#000000", threshold=0.3) for name in "ab"]
    card = ModelCard(
        name="random", title="Random", task="picking", classes=kinds, background=0,
        network=NetworkSpec(name="DensePicker", arguments=arguments),
        input=PickingInput(voxel_size=10, normalisation=normalisation),
        training="None.", licence="BSD-3-Clause", version="1",
    )  # fmt: skip
    return Model(card, build("DensePicker", **arguments).state_dict())


def test_a_tomogram_that_is_cut_while_it_is_picked(nursery, cases, tmp_path):
    make(tmp_path / "a.mrc", "MRC")
    life = nursery.do(pick_while_it_is_cut, tmp_path / "a.mrc", tmp_path)
    assert life.ended_well, life.error
    assert "a.mrc: was made shorter by another program" in life.refused
    cases(life)


def write_over_itself(path):
    path = Path(path)
    volume = read_volume(path)
    write_volume(path, volume.with_values(volume.values))
    again = read_volume(path)
    return bool(np.all(volume.values[5] == values()[5]) and np.all(again.values[5] == values()[5]))


@pytest.mark.parametrize("kind", ["MRC", "TIFF", "OME-TIFF"])
def test_a_file_may_be_written_over_while_it_is_open(nursery, cases, tmp_path, kind):
    make(tmp_path / NAMES[kind], kind)
    life = nursery.do(write_over_itself, tmp_path / NAMES[kind])
    assert done(life)
    cases(life)
