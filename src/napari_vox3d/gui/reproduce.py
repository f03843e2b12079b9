"""Buttons that copy what a window is set to do, as a script or as a command of the shell."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QApplication, QGridLayout, QPushButton, QWidget

from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.controls import note
from napari_vox3d.gui.workers import show_problem
from napari_vox3d.provenance import Run
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from napari.layers import Image


def reading_arguments(layer: Image, volume: Volume) -> dict[str, Any]:
    """Arguments of a run that make a volume of a file be what its layer is.

    Parameters
    ----------
    layer
        Image layer.
    volume
        What `volume_from_layer` gives for it.

    Returns
    -------
    dict
        ``"voxel_size"`` if the file does not say the same, ``"member"`` if it holds several.

    Raises
    ------
    Vox3dError
        If the voxel size differs from the file's and along the axes.
    """
    native = layer.metadata.get("vox3d")
    arguments = {key: volume.metadata[key] for key in ("member",) if key in volume.metadata}
    if isinstance(native, Volume) and native.calibrated:
        levels = (native, *native.coarser)
        if any(np.allclose(volume.step, level.step) for level in levels):
            return arguments
    size = volume.voxel_size
    if not np.allclose(size, size[0]):
        raise Vox3dError(
            f"The voxels of {layer.name!r} are not cubes, and its file does not say so; save the "
            "layer as .mrc, and open that, for a script to know."
        )
    return {**arguments, "voxel_size": round(float(size[0]), 6)}


def crystal_arguments(volume: Volume) -> dict[str, Any]:
    """Arguments of a run that make a crystal's volume be there.

    Parameters
    ----------
    volume
        What `volume_from_layer` gives for a layer.

    Returns
    -------
    dict
        ``"source"``, a path or a name; ``"member"`` if it is not the first volume of its file, or
        ``"made_by"``, the `Run` that predicts it, if it is no file's.
    """
    run = Run.from_metadata(volume.metadata)
    if run is not None and volume.source in ("", run.source):
        return {"source": run.source, "made_by": run.as_metadata()["run"]}
    tiled = volume.metadata.get("provenance", {}).get("method") == "supercell"
    member = {"member": volume.metadata["member"]} if volume.metadata.get("member") else {}
    return {"source": "" if tiled else volume.source, **member}


class CopyButtons(QWidget):
    """*Copy as script* and *Copy as command*, and a line on what is left to fill in.

    Parameters
    ----------
    make_run
        Gives the run that the window is set to now. A `Vox3dError` it raises is shown.
    """

    def __init__(self, make_run: Callable[[], Run]):
        super().__init__()
        self._make_run = make_run
        self.script = QPushButton(
            "Copy as script", toolTip="Copy Python that does what this window is set to now."
        )
        self.command = QPushButton(
            "Copy as command", toolTip="Copy a vox3d command that does the same in a terminal."
        )
        self.said = note()
        self.said.hide()
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.script, 0, 0)
        layout.addWidget(self.command, 0, 1)
        layout.addWidget(self.said, 1, 0, 1, 2)
        self.script.clicked.connect(lambda: self._copy("script", Run.as_script))
        self.command.clicked.connect(lambda: self._copy("command", Run.as_command))

    def _copy(self, what: str, write: Callable[[Run], str]) -> None:
        self.said.hide()
        try:
            run = self._make_run()
            text = write(run)
        except Vox3dError as error:
            show_problem(error)
            return
        QApplication.clipboard().setText(text)
        missing = ", ".join(f"“{name}”" for name in run.missing)
        gap = f" Put a path into it for {missing}, which is no file." if missing else ""
        self.said.setText(f"Copied the {what}.{gap}")
        self.said.show()
