"""Settings that a widget remembers.

From napari 0.9 on they are the plugin's settings, which its Preferences show too; before, they go
to a file of the same name and form beside napari's own settings.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakMethod

from qtpy.QtCore import QTimer

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.aside import make_folder, write_aside
from napari_vox3d.models.preferences import SETTINGS_FILE, follow_settings, read_settings

PLUGIN = "napari-vox3d"


def recall(section: str) -> dict[str, Any]:
    """Values last remembered under `section`, by name; empty if there are none."""
    stored = _plugin_settings()
    if stored is not None:
        return getattr(stored, section).model_dump()
    return read_settings(_own_file()).get(section, {})


def remember(section: str, **values: Any) -> None:
    """Keep `values` under `section` for the next time.

    Where settings cannot be written, on a full disk say, they hold until napari ends.

    Parameters
    ----------
    section
        A configuration in the manifest.
    **values
        Its properties.
    """
    stored = _plugin_settings()
    if stored is not None:
        for name, value in values.items():
            with suppress(OSError):
                setattr(getattr(stored, section), name, value)
        return
    path = _own_file()
    if path is not None:
        everything = read_settings(path)
        everything[section] = {**everything.get(section, {}), **values}
        with suppress(FormatError):
            make_folder(path.parent)
            with write_aside(path) as aside:  # JSON is YAML too, so that a later napari reads it
                aside.write_text(json.dumps(everything, indent=2), encoding="utf-8")


def watch(section: str, name: str, changed: Callable[[], None]) -> None:
    """Call `changed` when a setting got another value, in the Preferences or in a window.

    Parameters
    ----------
    section, name
        The setting.
    changed
        A bound method; it is not kept alive. Before napari 0.9 it is never called.
    """
    stored = _plugin_settings()
    if stored is None:
        return
    method = WeakMethod(changed)

    def tell() -> None:
        if (alive := method()) is not None:
            alive()

    # Soon, because napari writes its file only after the event.
    getattr(getattr(stored, section).events, name).connect(lambda _: QTimer.singleShot(0, tell))


def _plugin_settings() -> Any:
    try:
        from napari.settings import get_plugin_settings

        stored = get_plugin_settings(PLUGIN)
    except (ImportError, KeyError):  # napari before 0.9, or the plugin is not registered
        return None
    if stored.config_path is not None:
        _announce(stored.config_path)
    return stored


def _own_file() -> Path | None:
    from napari.settings import get_settings

    path = get_settings().config_path
    if path is None:
        return None
    own = Path(path).parent / SETTINGS_FILE
    _announce(own)
    return own


@cache
def _announce(path: Path) -> None:
    follow_settings(path)
