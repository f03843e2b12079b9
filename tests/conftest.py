"""Tests run with a display, with a virtual one, and with none at all."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

WITHOUT_DISPLAY = sys.platform == "linux" and not (
    os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
)
if WITHOUT_DISPLAY:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp(prefix="napari-")) / "settings.yaml")
os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="vox3d-")  # of reviews and clicks
os.environ["NAPARI_ENSURE_PLUGIN_MAIN_THREAD"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _float32():
    """Let ``auto`` choose float32 on processors with AMX too: figures are the same everywhere."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
        yield


@pytest.fixture(autouse=True)
def _no_graphics(request, monkeypatch):
    """Let viewers open where Qt has no OpenGL context to ask for its limits."""
    if not WITHOUT_DISPLAY or "make_napari_viewer" not in request.fixturenames:
        return
    import napari._vispy.canvas
    import napari._vispy.layers.image  # noqa: F401

    stand_ins = {
        "get_gl_extensions": lambda: "GL_ARB_texture_float",
        "get_max_texture_sizes": lambda: (16384, 2048),
    }
    for module in [m for name, m in sys.modules.items() if name.startswith("napari._vispy")]:
        for name, stand_in in stand_ins.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, stand_in)


@pytest.fixture
def errors():
    """Error notifications that napari shows meanwhile."""
    from napari.utils.notifications import notification_manager

    caught = []

    def catch(notification):
        if notification.severity == "error":
            caught.append(notification)

    notification_manager.notification_ready.connect(catch)
    yield caught
    notification_manager.notification_ready.disconnect(catch)
