"""napari reader: files to layers, over the functions of `napari_vox3d.formats`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from napari_vox3d.errors import FormatError, Vox3dError
from napari_vox3d.formats import kind_of, ome_zarr, read_atoms, read_picks, read_volumes, tiff
from napari_vox3d.formats.frame import GridWarning, SeveralTomograms, name_in
from napari_vox3d.gui import layers, pick_layers

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_vox3d.gui.layers import LayerData
    from napari_vox3d.volume import Volume

Paths = str | Sequence[str]

# Files with these general suffixes are picks only if their name says so, or if the first 64 kB
# hold one of these words.
PICK_NAMES = ("*_info.json", "*picks*.json", "*picks*.csv")
PICK_MARKS = {
    ".json": (b"pickable_object_name", b'"pickable_objects"', b'"boxes_3d"'),
    ".csv": (b"z_angstrom", b"z_px", b"axis-2", b"run_name", b"particle_type"),
}


def get_reader(path: Paths) -> Callable[[Paths], list[LayerData]] | None:
    """Offer to read a file or several; the hook that npe2 calls.

    Parameters
    ----------
    path
        File or OME-Zarr folder, or several to open one after another.

    Returns
    -------
    callable or None
        `read_layers`, or None if one of them is not for us: a flat, colour or label image, a
        time series, or any other file.
    """
    return read_layers if all(_is_ours(Path(one)) for one in _listed(path)) else None


def read_layers(path: Paths) -> list[LayerData]:
    """Read volumes, structures and picks as layers.

    Warnings of the formats, such as an unknown voxel size, become napari notifications. So do
    errors while the window is in use, where napari would hide them behind its own sentence.

    Parameters
    ----------
    path
        File or files.

    Returns
    -------
    list of LayerData
        For each file: its grids, cell and atoms, or its picks; ``[(None,)]``, napari's sign for
        nothing to show, after an error in the window.

    Raises
    ------
    Vox3dError
        If a file cannot be read, except when the window is in use.
    """
    from napari.utils.notifications import show_error

    shown: list[LayerData] = []
    with warnings_as_notifications():
        try:
            for one in _listed(path):
                shown += _read_one(Path(one))
        except Vox3dError as error:
            if not _window_in_use():
                raise
            show_error(str(error))
    return shown or [(None,)]


@contextmanager
def warnings_as_notifications() -> Iterator[None]:
    """Show what the formats warn of in napari, every time."""
    from napari.utils.notifications import show_warning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        show_warning(str(warning.message))


def _read_one(path: Path) -> list[LayerData]:
    kind = kind_of(path)
    if kind == "picks":
        return _read_picks(path)
    if kind == "structure":
        return layers.structure_layers(read_atoms(path), name=path.name, source=str(path))
    return layers.volume_layers(read_volumes(path))


def _read_picks(path: Path) -> list[LayerData]:
    """Picks of the open tomogram; of a file of several, of each that is open or that is chosen."""
    import napari

    viewer = napari.current_viewer()
    opened = [] if viewer is None else _open_tomograms(viewer)
    tomogram = None if viewer is None else _open_tomogram(viewer)
    try:
        if len(opened) > 1:
            _refuse_several(path)  # the active tomogram is not the only one that has picks in it
        return [_picks_on(viewer, path, path.stem, tomogram)]
    except SeveralTomograms as several:
        volumes = _named(several.names, opened, viewer)
        if volumes:
            return [_picks_on(viewer, path, f"{path.stem} {v.name}", v) for v in volumes]
        if not _window_in_use():
            raise
        chosen = _ask_which(several)
        if not chosen:
            return []
        return [_picks_on(viewer, Path(f"{path}::{chosen}"), f"{path.stem} {chosen}", tomogram)]


def _refuse_several(path: Path) -> None:
    """Raise `SeveralTomograms` if a file holds picks of several."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read_picks(path)
        except SeveralTomograms:
            raise
        except FormatError:
            pass  # it is read with a tomogram next, and says then what is wrong


def _named(
    names: Sequence[str], opened: Sequence[Image], viewer: layers.ViewerModel | None
) -> list[Volume]:
    """Open tomograms of these names; of two of one tilt series the active, or the first."""
    found: dict[str, Image] = {}
    for layer in opened:
        name = name_in(names, layer.metadata["vox3d"].name)
        if name and (name not in found or layer is viewer.layers.selection.active):
            found[name] = layer
    return [layers.volume_from_layer(layer) for layer in found.values()]


def _picks_on(
    viewer: layers.ViewerModel | None, path: Path, name: str, tomogram: Volume | None
) -> LayerData:
    """Picks of one tomogram; where they were made on another grid, a notice offers to refit."""
    with warnings.catch_warnings():
        if viewer is not None:
            warnings.simplefilter("ignore", GridWarning)
        picks = read_picks(path, tomogram)
    if viewer is not None:
        pick_layers.show_whole_spheres(viewer, picks)
        if tomogram is not None and "made_on" in picks.metadata:
            from napari_vox3d.gui import frame_notice

            frame_notice.tell(viewer, picks, tomogram)
    return pick_layers.picks_layer(picks, tomogram, name=name)


def _ask_which(several: SeveralTomograms) -> str:
    """Name of a tomogram that the user chooses, or nothing."""
    from qtpy.QtWidgets import QApplication, QInputDialog

    chosen, agreed = QInputDialog.getItem(
        QApplication.activeWindow(), "Picks of which tomogram?",
        f"{Path(several.path).name} {several.reason}.\nShow the picks of:", several.names, 0, False,
    )  # fmt: skip
    return chosen if agreed else ""


def _open_tomogram(viewer: layers.ViewerModel) -> Volume | None:
    """Tomogram that picks are dropped on: the active image layer, or the only one."""
    tomograms = _open_tomograms(viewer)
    active = viewer.layers.selection.active
    if active in tomograms or len(tomograms) == 1:
        return layers.volume_from_layer(active if active in tomograms else tomograms[0])
    return None


def _open_tomograms(viewer: layers.ViewerModel) -> list[Image]:
    return [
        layer
        for layer in viewer.layers
        if isinstance(layer.metadata.get("vox3d"), layers.Volume)
        and layer.metadata["vox3d"].quantity == "density"
        and layer.metadata["vox3d"].is_orthogonal
    ]


def _is_ours(path: Path) -> bool:
    if path.is_dir():
        return ome_zarr.is_zarr(path) and not ome_zarr.is_for_others(path)
    if path.suffix.lower() in (".tif", ".tiff"):
        return path.is_file() and tiff.holds_volume(path)
    marks = PICK_MARKS.get(path.suffix.lower())
    if marks is not None:
        named = any(fnmatch(path.name.lower(), pattern) for pattern in PICK_NAMES)
        return (named and path.is_file()) or _starts_with_any(path, marks)
    try:
        kind_of(path)
    except FormatError as error:
        # An empty or forbidden file deserves its own sentence rather than "no reader".
        return path.is_file() and "no known kind" not in error.reason
    return True


def _starts_with_any(path: Path, marks: Sequence[bytes]) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError:
        return False
    return any(mark in head for mark in marks)


def _listed(path: Paths) -> list[str]:
    return [path] if isinstance(path, str | Path) else list(path)


def _window_in_use() -> bool:
    """Whether a user works with the window, so that an error has somebody to be shown to."""
    import napari

    if napari.current_viewer() is None:
        return False
    from qtpy.QtCore import QThread

    return QThread.currentThread().loopLevel() > 0
