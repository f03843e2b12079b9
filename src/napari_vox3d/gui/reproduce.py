"""Buttons that copy what a window is set to do, as a script or as a command of the shell."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtWidgets import QApplication, QGridLayout, QPushButton, QWidget

from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.controls import note
from napari_vox3d.gui.workers import show_problem
from napari_vox3d.provenance import Run


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
