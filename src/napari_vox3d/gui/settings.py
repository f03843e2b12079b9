"""Settings that a widget remembers.

From napari 0.9 on they are the plugin's settings, which its Preferences show too; before, they go
to a JSON file beside napari's own settings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from napari_vox3d.formats import write_aside

PLUGIN = "napari-vox3d"


def recall(section: str) -> dict[str, Any]:
    """Values last remembered under `section`, by name; empty if there are none."""
    stored = _plugin_settings()
    if stored is not None:
        return getattr(stored, section).model_dump()
    return _read_json().get(section, {})


def remember(section: str, **values: Any) -> None:
    """Keep `values` under `section` for the next time.

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
            setattr(getattr(stored, section), name, value)
        return
    path = _json_path()
    if path is not None:
        everything = _read_json()
        everything[section] = {**everything.get(section, {}), **values}
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_aside(path) as aside:
            aside.write_text(json.dumps(everything, indent=2))


def _plugin_settings() -> Any:
    try:
        from napari.settings import get_plugin_settings

        return get_plugin_settings(PLUGIN)
    except (ImportError, KeyError):  # napari before 0.9, or the plugin is not registered
        return None


def _json_path() -> Path | None:
    from napari.settings import get_settings

    path = get_settings().config_path
    return None if path is None else Path(path).parent / f"{PLUGIN}.json"


def _read_json() -> dict[str, Any]:
    path = _json_path()
    try:
        return json.loads(path.read_text()) if path is not None else {}
    except (OSError, ValueError):
        return {}
