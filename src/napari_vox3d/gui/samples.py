"""Sample data of File › Open Sample: small, real or honestly simulated, in the package."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from napari_vox3d.formats import read_picks, read_volumes
from napari_vox3d.gui import layers, pick_layers

if TYPE_CHECKING:
    from napari_vox3d.gui.layers import LayerData

FOLDER = files("napari_vox3d.gui") / "sample_data"


def iron() -> list[LayerData]:
    """Charge density of body-centred cubic iron, computed with VASP; a rhombohedral cell."""
    return layers.volume_layers(read_volumes(_path("Fe_CHGCAR.gz")))


def graphite() -> list[LayerData]:
    """ELF of hexagonal graphite, spin up and down, computed with VASP."""
    return layers.volume_layers(read_volumes(_path("graphite_ELFCAR.gz")))


def microtubule() -> list[LayerData]:
    """Microtubule of 13 protofilaments in a real cryo-electron tomogram, 10.52 Å voxels."""
    return layers.volume_layers(read_volumes(_path("microtubule.mrc")))


def simulated_tomogram() -> list[LayerData]:
    """Tomogram simulated from known structures; the particles that are in it are a hidden layer."""
    import napari

    tomogram = read_volumes(_path("simulated_tomogram.mrc"))
    truth = read_picks(_path("simulated_tomogram_truth.star"), tomogram[0])
    viewer = napari.current_viewer()
    if viewer is not None:
        pick_layers.show_whole_spheres(viewer, truth)
    return [
        *layers.volume_layers(tomogram),
        pick_layers.picks_layer(truth, tomogram[0], name="true particles", visible=False),
    ]


def _path(name: str) -> Path:
    with as_file(FOLDER / name) as path:
        return path
