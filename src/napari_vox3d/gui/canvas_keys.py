"""Keys that a window has on the canvas as long as it is open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from napari.utils.key_bindings import coerce_keybinding
from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QWidget

if TYPE_CHECKING:
    from napari.components import ViewerModel


class CanvasKeys:
    """Keys of a window: in the window itself always, on the canvas between `take` and `give_back`.

    Keys of the layer that is selected go before, as everywhere in napari.

    Parameters
    ----------
    viewer
        Viewer with the canvas.
    window
        The window.
    acts
        What each key does, such as ``"Shift+U"``.
    """

    def __init__(self, viewer: ViewerModel, window: QWidget, acts: Mapping[str, Callable[[], Any]]):
        self._viewer, self._acts = viewer, acts
        self._before: dict[str, Any] | None = None
        for key, act in acts.items():
            context = Qt.ShortcutContext.WidgetWithChildrenShortcut
            QShortcut(QKeySequence(key), window, context=context, activated=act)

    @property
    def taken(self) -> bool:
        """Whether the canvas has the keys."""
        return self._before is not None

    def take(self) -> None:
        """Bind the keys on the canvas."""
        if self._before is None:
            self._before = {}
            for key, act in self._acts.items():
                bound = str(coerce_keybinding(key))
                self._before[bound] = self._viewer.bind_key(
                    bound, lambda _viewer, act=act: act(), overwrite=True
                )

    def give_back(self) -> None:
        """Bind what the keys were bound to before."""
        for key, before in (self._before or {}).items():
            self._viewer.bind_key(key, before, overwrite=True)
        self._before = None
