"""Memory that a forward pass needs, compared with what there is before it begins."""

from __future__ import annotations

import torch

from napari_vox3d.errors import NotEnoughMemory


def available_memory(device: str | torch.device = "cpu") -> int:
    """Bytes that a computation on a device can still take, PyTorch's own cache included."""
    device = torch.device(device)
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    import psutil

    return int(psutil.virtual_memory().available)


def require_memory(need: int, device: torch.device, what: str, hint: str) -> None:
    """Refuse a computation that would not fit.

    Parameters
    ----------
    need
        Bytes that it takes at its peak.
    device
        Where it would run.
    what
        Subject of the sentence, such as ``"UNet on 128×128×128 voxels"``.
    hint
        What to do instead, a sentence.

    Raises
    ------
    NotEnoughMemory
        If less than `need` is free on `device`.
    """
    if torch.compiler.is_compiling():
        return
    have = available_memory(device)
    if need > have:
        raise NotEnoughMemory(
            f"{what} needs about {need / 1e9:.1f} GB and {have / 1e9:.1f} GB are free on "
            f"{device}. {hint}"
        )
