"""napari writers: image layers to volume files, points layers to pick files."""

from __future__ import annotations

from typing import Any

from napari_vox3d.formats import write_picks, write_volume
from napari_vox3d.gui.layers import volume_from_layer
from napari_vox3d.gui.pick_layers import picks_from_layer
from napari_vox3d.gui.readers import warnings_as_notifications
from napari_vox3d.gui.tomograms import is_tomogram


def write_image(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write an image layer as MRC, TIFF, VASP, cube or XSF, whichever the name says.

    Parameters
    ----------
    path
        File to write: .mrc .map .rec, .tif, .ome.tif, .vasp, CHGCAR, ELFCAR, LOCPOT, .cube or
        .xsf. What a format cannot keep is told as a notification.
    data
        Values of the layer.
    meta
        Its attributes. The native grid is written, not the box that is shown of it.

    Returns
    -------
    list of str
        The file written.

    Raises
    ------
    Vox3dError
        If the layer is not one volume or the format cannot hold it.
    """
    with warnings_as_notifications():
        write_volume(path, volume_from_layer(_layer(data, meta, "image")))
    return [path]


def write_points(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write a points layer in any of the formats of `napari_vox3d.formats.PICK_FORMATS`.

    Points that were clicked in a new layer take the frame of the tomogram, if one is open.

    Parameters
    ----------
    path
        File to write; its suffix is the format, and the first of those that share it.
    data
        (N, 3) positions of the layer.
    meta
        Its attributes.

    Returns
    -------
    list of str
        The files written.

    Raises
    ------
    Vox3dError
        If the points are not three-dimensional or the format lacks something it needs.
    """
    layer = _layer(data, meta, "points")
    picks = picks_from_layer(layer)
    if picks.shape is None and (tomogram := _tomogram_of(layer)) is not None:
        picks = picks_from_layer(layer, tomogram)
    with warnings_as_notifications():
        written = write_picks(path, picks)
    return [str(file) for file in written]


def _tomogram_of(points: Any) -> Any:
    """Layer of the tomogram that points were clicked in: the one that is open, if it is one."""
    import napari

    viewer = napari.current_viewer()
    tomograms = [] if viewer is None else [one for one in viewer.layers if is_tomogram(one)]
    return tomograms[0] if len(tomograms) == 1 and points.ndim == 3 else None


def _layer(data: Any, meta: dict[str, Any], layer_type: str) -> Any:
    from napari.layers import Layer

    return Layer.create(data, meta, layer_type)
