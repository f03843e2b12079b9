"""One GPU for each process: those of one machine agree by locked files."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from itertools import count
from pathlib import Path

_held: list[object] = []  # a lock lasts as long as its object, or its process


def own_device(device: str) -> str:
    """Device that this process computes on.

    ``"auto"`` and ``"cuda"`` become a GPU of this process's own, ``"cuda:N"``, if there are GPUs.
    The same process gets the same GPU each time. With more processes than GPUs, they are spread
    evenly. Any other device stays.
    """
    if device not in ("auto", "cuda"):
        return device
    return _own_gpu() or device


def claim(devices: Sequence[str], folder: Path) -> str:
    """Claim the device that fewest processes have, until this process ends.

    Parameters
    ----------
    devices
        Names to choose from.
    folder
        Where the lock files lie: the same for all processes of this machine.
    """
    from filelock import FileLock, Timeout

    for place in count():
        for device in devices:
            lock = FileLock(folder / f"{_hardware(device)}-{place}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            _held.append(lock)
            return device
    raise AssertionError


def _hardware(device: str) -> str:
    """Name of a device for all processes, whichever of the GPUs each of them can see."""
    kind, _, index = device.partition(":")
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    known = index.isdigit() and int(index) < len(visible) and visible[int(index)]
    return f"{kind}-{known or index}".replace("/", "-")


@cache
def _own_gpu() -> str | None:
    import torch

    from napari_vox3d.inference.device import available_devices

    gpus = [name for name in available_devices() if name.startswith("cuda:")]
    if not gpus:
        return None
    folder = Path(tempfile.gettempdir()) / f"napari-vox3d-{getpass.getuser()}"
    folder.mkdir(exist_ok=True)
    mine = claim(gpus, folder)
    torch.cuda.set_device(mine)
    return mine
