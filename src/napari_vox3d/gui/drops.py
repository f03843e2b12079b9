"""Files and folders that are dropped on a part of a window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QAbstractScrollArea, QWidget


class FileDrops(QObject):
    """Takes files and folders that are dropped on a widget, so that napari does not open them.

    Parameters
    ----------
    target
        The widget.
    then
        Called with the paths.
    """

    def __init__(self, target: QWidget, then: Callable[[list[Path]], None]):
        super().__init__(target)
        self._then = then
        surface = target.viewport() if isinstance(target, QAbstractScrollArea) else target
        target.setAcceptDrops(True)
        surface.setAcceptDrops(True)
        surface.installEventFilter(self)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        """Take drags of local files; Qt calls this."""
        kinds = (QEvent.Type.DragEnter, QEvent.Type.DragMove, QEvent.Type.Drop)
        if event.type() not in kinds:
            return False
        paths = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
        if not paths:
            return False
        event.acceptProposedAction()
        if event.type() == QEvent.Type.Drop:
            self._then(paths)
        return True
