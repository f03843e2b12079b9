"""Windows of the plugin that other windows open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QDockWidget

from napari_vox3d.gui.settings import PLUGIN

if TYPE_CHECKING:
    import napari


def open_window(viewer: napari.viewer.Viewer, name: str) -> Any:
    """Open a window beside the others, or find it open, and bring it to the front.

    Parameters
    ----------
    viewer
        Whose window it is docked in.
    name
        Name of the window in the manifest, such as ``"Predict ELF"``.

    Returns
    -------
    QWidget
        The widget in the dock.
    """
    from npe2 import PluginManager

    manager = PluginManager.instance()
    manifest = manager.get_manifest(PLUGIN)
    # The menu knows windows by this title, which `add_plugin_dock_widget` does not give them: they
    # would be there twice.
    title = f"{name} ({manifest.display_name})"
    if title not in viewer.window.dock_widgets:
        (command,) = (w.command for w in manifest.contributions.widgets if w.display_name == name)
        widget = manager.commands.get(command)(viewer)
        viewer.window.add_dock_widget(widget, name=title, tabify=True)
    widget = viewer.window.dock_widgets[title]
    dock = widget.parent()
    while not isinstance(dock, QDockWidget):
        dock = dock.parent()
    dock.show()
    dock.raise_()
    return widget
