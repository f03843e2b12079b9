"""Loading PyTorch beside a window that goes on answering."""

from __future__ import annotations

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path


def open_torch_libraries() -> None:
    """Open PyTorch's libraries, so that importing it finds them open.

    Python holds its lock while it opens a library, a third of a second and more for these; a call
    of C's own ``dlopen`` does not. What cannot be opened is left to the import.
    """
    spec = None if "torch" in sys.modules or os.name != "posix" else find_spec("torch")
    if spec is None or spec.origin is None:
        return
    ending = "dylib" if sys.platform == "darwin" else "so"
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    # as PyTorch does: what all share first, and for all to see
    for name, seen in (("torch_global_deps", os.RTLD_GLOBAL), ("torch_python", os.RTLD_LOCAL)):
        path = Path(spec.origin).with_name("lib") / f"lib{name}.{ending}"
        dlopen(os.fsencode(path), os.RTLD_NOW | seen)
