import subprocess
import sys

import pytest

OPENED = """
import sys
from pathlib import Path
from napari_vox3d.gui.torch_loading import open_torch_libraries
open_torch_libraries()
assert "torch" not in sys.modules
assert "libtorch_cpu" in Path("/proc/self/maps").read_text()
import torch
assert float(torch.ones(3).sum()) == 3
open_torch_libraries()
"""
MISSING = """
import importlib.machinery, sys
from napari_vox3d.gui import torch_loading
spec = importlib.machinery.ModuleSpec("torch", None, origin="/nowhere/torch/__init__.py")
torch_loading.find_spec = lambda name: spec
torch_loading.open_torch_libraries()
torch_loading.find_spec = lambda name: None
torch_loading.open_torch_libraries()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("script", [OPENED, MISSING], ids=["opened", "missing"])
def test_libraries_are_open_before_the_import(script):
    subprocess.run([sys.executable, "-c", script], check=True, timeout=250)
