"""Where napari's Preferences say that models are kept, for programs that do not import napari.

napari keeps the settings of a plugin in a file of each of its environments. The window leaves a
note of where that file is, and scripts and commands look into it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

SETTINGS_FILE = "napari-vox3d.yaml"


def data_folder() -> Path:
    """Folder of the user's application data; it need not exist."""
    from platformdirs import user_data_path

    return user_data_path("napari-vox3d", appauthor=False)


def preferred_folder() -> Path | None:
    """Folder chosen in the Preferences under *Models*; None if there is none."""
    models = read_settings(_settings_file()).get("models")
    folder = models.get("folder") if isinstance(models, dict) else None
    return Path(folder).expanduser() if isinstance(folder, str) and folder.strip() else None


def follow_settings(path: Path) -> None:
    """Let scripts and commands know the file of the plugin's settings.

    Where ``NAPARI_CONFIG`` names napari's settings no note is needed, nor wanted: it is often
    set for one run alone.
    """
    note = _note()
    if "NAPARI_CONFIG" in os.environ or _read(note) == str(path):
        return
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(str(path), encoding="utf-8")
    except OSError:  # without a home the window still works by itself
        return


def read_settings(path: Path | None) -> dict[str, Any]:
    """Settings in a file of napari's, by section; empty if it is missing or damaged."""
    import yaml

    try:
        stored = yaml.safe_load(_read(path))
    except (ValueError, RecursionError, yaml.YAMLError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _settings_file() -> Path | None:
    config = os.environ.get("NAPARI_CONFIG")
    if config is not None:
        return Path(config).parent / SETTINGS_FILE if config else None
    noted = _read(_note())
    return Path(noted) if noted else None


def _note() -> Path:
    return data_folder() / "settings-file.txt"


def _read(path: Path | None) -> str:
    try:
        return "" if path is None else path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
