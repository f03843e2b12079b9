"""Saving picks of a window to a file that the user names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QWidget

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError
from napari_vox3d.formats import PICK_FORMATS
from napari_vox3d.formats.pick_formats import pick_format_by_name
from napari_vox3d.gui.workers import show_problem
from napari_vox3d.picks import Picks

FILE_FORMATS = {f"{known.title} (*{known.suffix})": name for name, known in PICK_FORMATS.items()}


def write_by_class(path: str | Path, picks: Picks, format: str | None = None) -> list[Path]:
    """Write picks; where a file holds one class, as copick's does, each class gets a file.

    Parameters
    ----------
    path, format
        As for `napari_vox3d.write_picks`; names of classes are added to that of `path`.
    picks
        Of any number of classes.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    Vox3dError
        If the file cannot be written.
    """
    known = PICK_FORMATS.get(format or pick_format_by_name(Path(path)) or "")
    if known is None or known.classes != "one" or len(picks.classes) < 2:
        return vox.write_picks(path, picks, format=format)
    written = []
    for label in picks.classes:
        one = Path(path).with_stem(f"{Path(path).stem}_{label}")
        written += vox.write_picks(one, picks.of_class(label), format=format)
    return written


def ask_and_save(parent: QWidget, start: str, save: Callable[[str, str], list[Path]]) -> list[Path]:
    """Ask for a file and a format, and save there.

    Parameters
    ----------
    parent
        Window that asks.
    start
        Name that is proposed.
    save
        Called with path and format; gives the files written. A `Vox3dError` is shown.

    Returns
    -------
    list of Path
        The files written; none if the user or the format refused.
    """
    path, chosen = QFileDialog.getSaveFileName(parent, "Save picks", start, ";;".join(FILE_FORMATS))
    if not path:
        return []
    suffix = PICK_FORMATS[FILE_FORMATS[chosen]].suffix
    if FILE_FORMATS[chosen] == "copick-project" and Path(path).is_file():
        suffix = Path(path).suffix  # a project of any name is written into
    if not path.lower().endswith(suffix):  # a_info.json also of a.json
        path = path.removesuffix("." + suffix.rpartition(".")[2]) + suffix
    try:
        return save(path, FILE_FORMATS[chosen])
    except Vox3dError as error:
        show_problem(error)
        return []
