"""One pass of an ELF network over a whole cell, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import InferenceError, is_out_of_memory
from napari_vox3d.progress import Progress

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_SLAB_WORK = 8e9  # multiply-adds of one slab on a CPU: about 0.3 s on two cores
_SLAB_WORK_DEVICE = 1e12
_SMALLER = 4  # a slab that did not fit is divided by this


def run_whole_cell(
    network: torch.nn.Module,
    inputs: torch.Tensor,
    dtype: torch.dtype,
    cell: NDArray[np.float64],
    report: Progress,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Run an ELF network on a whole cell in slabs that shrink until they fit.

    Parameters
    ----------
    network
        `ELFPredictor` on the device of the inputs.
    inputs
        (1, channels, D, H, W).
    dtype
        That autocast computes in.
    cell
        (3, 3) Å: edges of the cell along D, H, W, written (z, y, x).
    report
        Called with the convolutions done and to do.

    Returns
    -------
    elf : ndarray
        (D, H, W) float32.
    scale : ndarray or None
        What the error head says, likewise; None without one.

    Raises
    ------
    InferenceError
        If not even thin slabs fit in the memory.
    """
    import torch

    from napari_vox3d.inference.device import autocast, free_memory
    from napari_vox3d.networks.slabs import count_ticks, in_slabs

    net: Any = getattr(network, "net", network)
    device, shape = inputs.device, inputs.shape[2:]
    lattice = torch.from_numpy(cell.astype(np.float32))[None].to(device)
    work = _SLAB_WORK if device.type == "cpu" else _SLAB_WORK_DEVICE
    slab = max(1, int(work / net.work_per_voxel()))
    while True:
        total, done = count_ticks(network, shape, slab), 0

        def tick() -> None:
            nonlocal done
            report(done, total)  # noqa: B023 - used before the next round begins
            done += 1

        try:
            with in_slabs(network, slab, tick), autocast(device, dtype):
                main, aux = network(inputs, lattice)
            elf, *scale = (part[0, 0].float().cpu().numpy() for part in (main, *aux))
            return elf, scale[0] if scale else None
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_memory(device)
        if slab <= shape[1] * shape[2]:
            raise InferenceError(_what_fits(net, shape, cell, device))
        slab //= _SMALLER


def _what_fits(
    net: Any, shape: Sequence[int], cell: NDArray[np.float64], device: torch.device
) -> str:
    from napari_vox3d.networks.memory import available_memory

    need, have = net.peak_bytes(shape, 1), available_memory(device)
    spacing = float(np.linalg.norm(cell, axis=1).max() / max(shape))
    coarser = spacing * max(1.1, (need / max(have, 1)) ** (1 / 3))
    return (
        f"A grid of {'×'.join(map(str, shape))} points needs about {need / 1e9:.1f} GB and "
        f"{have / 1e9:.1f} GB are free on {device}; a spacing of {coarser:.2f} Å would fit."
    )
