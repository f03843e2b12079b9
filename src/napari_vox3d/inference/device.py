"""Where and in which precision networks run, and how much memory there is."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Literal

import torch
from torch.nn import functional as F

from napari_vox3d.errors import InferenceError

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def available_devices() -> list[str]:
    """Names of the devices of this machine: ``"cpu"``, ``"cuda:0"``, …, ``"mps"``."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """Find a device.

    Parameters
    ----------
    name
        A name from `available_devices`; ``"cuda"`` for the first GPU; ``"auto"`` for the first
        NVIDIA or AMD GPU, else Apple's where it knows the operations that the networks need, else
        the processor.

    Raises
    ------
    InferenceError
        If this machine has no such device.
    """
    known = available_devices()
    wanted = str(name)
    if wanted == "auto":
        if "cuda:0" in known:
            return torch.device("cuda:0")
        return torch.device("mps" if "mps" in known and _mps_knows_3d() else "cpu")
    if wanted == "cuda":
        wanted = "cuda:0"
    if wanted not in known:
        raise InferenceError(
            f"There is no device {str(name)!r} on this machine; there is {', '.join(known)}."
        )
    return torch.device(wanted)


def choose_precision(name: str = "auto", device: str | torch.device = "cpu") -> torch.dtype:
    """Find the number type that convolutions on a device run in.

    Parameters
    ----------
    name
        ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: bfloat16 on GPUs with units
        for it (NVIDIA Ampere and later) and on processors with AMX tiles, where it is several
        times faster; float32 elsewhere. float16 is never chosen by itself: it overflows at 65504.
    device
        Where the network runs.

    Raises
    ------
    InferenceError
        If there is no such precision, or not on this device.
    """
    kind = torch.device(device).type
    fast_bfloat16 = _fast_bfloat16(torch.device(device))
    if name == "auto":
        return torch.bfloat16 if fast_bfloat16 else torch.float32
    offered = {"float32": torch.float32}
    if kind == "cpu" or fast_bfloat16:
        offered["bfloat16"] = torch.bfloat16
    if kind != "cpu":
        offered["float16"] = torch.float16
    if name not in offered:
        raise InferenceError(
            f"The precision {name!r} is not offered on {device}; choose auto, {', '.join(offered)}."
        )
    return offered[name]


def autocast(device: str | torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Context in which convolutions run in `dtype`; float32 changes nothing."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype)


def free_memory(device: str | torch.device = "cpu") -> None:
    """Give memory that nothing refers to any more back to a device."""
    gc.collect()
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.empty_cache()
    elif kind == "mps":
        torch.mps.empty_cache()


@contextmanager
def leave_a_core_free() -> Iterator[None]:
    """Compute on all processor cores but one, so that a window beside it stays responsive.

    Holds for the calling thread, as PyTorch's thread count does.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, (os.cpu_count() or 1) - 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
        return bool(has_amx and has_amx())
    return False


@cache
def _mps_knows_3d() -> bool:
    try:
        cube = torch.zeros(1, 1, 6, 6, 6, device="mps")
        F.max_pool3d(F.conv3d(cube, cube[..., :3, :3, :3]), 2)
    except RuntimeError:  # unknown operations are one kind of it
        return False
    return True
