"""One pass of an ELF network over a whole cell, in bounded memory."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
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
    memory: float | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Run an ELF network on a whole cell in slabs that shrink until they fit.

    Where not even thin slabs do, a `FlatResNet3D` keeps its activations in files.

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
    memory
        Bytes that the pass may take beside the inputs. Default: what is free.

    Returns
    -------
    elf : ndarray
        (D, H, W) float32.
    scale : ndarray or None
        What the error head says, likewise; None without one.

    Raises
    ------
    InferenceError
        If the memory does not suffice, or the disk for the files.
    """
    import torch

    from napari_vox3d.inference.device import autocast, free_memory
    from napari_vox3d.networks.memory import available_memory
    from napari_vox3d.networks.slabs import count_ticks, in_slabs

    net: Any = getattr(network, "net", network)
    device, shape = inputs.device, inputs.shape[2:]
    lattice = torch.from_numpy(cell.astype(np.float32))[None].to(device)
    work = _SLAB_WORK if device.type == "cpu" else _SLAB_WORK_DEVICE
    largest = slab = max(1, int(work / net.work_per_voxel()))
    have = available_memory(device) if memory is None else memory
    while slab:
        if net.peak_bytes(shape, slab) > have:
            slab = _smaller(slab, shape)
            continue
        total, done = count_ticks(network, shape, slab), 0

        def tick() -> None:
            nonlocal done
            report(done, total)  # noqa: B023 - used before the next round begins
            done += 1

        try:
            with in_slabs(network, slab, tick), autocast(device, dtype):
                main, aux = network(inputs, lattice)
            return _arrays(main, *aux)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_memory(device)
        slab = _smaller(slab, shape)
    return _streamed(network, net, inputs, dtype, cell, report, have, largest)


def _smaller(slab: int, shape: Sequence[int]) -> int:
    """Voxels of a smaller slab; 0 if this one is a single plane."""
    return 0 if slab <= shape[1] * shape[2] else slab // _SMALLER


def _arrays(
    main: torch.Tensor, error: torch.Tensor | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    elf, scale = (None if x is None else x[0, 0].float().cpu().numpy() for x in (main, error))
    assert elf is not None
    return elf, scale


def _streamed(
    network: Any,
    net: Any,
    inputs: torch.Tensor,
    dtype: torch.dtype,
    cell: NDArray[np.float64],
    report: Progress,
    have: float,
    largest: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Run a network with its activations in files, in slabs of the voxels that fit."""
    from napari_vox3d.inference.device import autocast, free_memory
    from napari_vox3d.networks import FlatResNet3D
    from napari_vox3d.networks.slabs import thickness
    from napari_vox3d.networks.streamed import stream, stream_bytes, stream_files

    shape, device = inputs.shape[2:], inputs.device
    if not isinstance(net, FlatResNet3D):
        raise InferenceError(_what_fits(net.peak_bytes(shape, 1), have, shape, cell, device))
    planes = min(shape[0], thickness(shape[1] * shape[2], largest))
    while planes and stream_bytes(net, shape, planes) > have:
        planes //= 2
    if not planes:
        raise InferenceError(_what_fits(stream_bytes(net, shape, 1), have, shape, cell, device))
    folder = scratch_folder()
    need, room = stream_files(net, shape), shutil.disk_usage(folder).free
    if need > room:
        raise InferenceError(
            f"{_what_fits(net.peak_bytes(shape, 1), have, shape, cell, device)} In files it would "
            f"need {need / 1e9:.1f} GB, and {room / 1e9:.1f} GB are free in {folder}."
        )
    while planes:
        try:
            with autocast(device, dtype):
                return _arrays(*stream(network, inputs, planes, folder, report))
        except OSError as error:
            raise InferenceError(
                f"Files of {need / 1e9:.1f} GB cannot be kept in {folder} ({error.strerror})."
            ) from error
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_memory(device)
        planes //= _SMALLER
    raise InferenceError(_what_fits(net.peak_bytes(shape, 1), have, shape, cell, device))


def scratch_folder() -> Path:
    """Folder for files that a calculation keeps while it runs; it exists."""
    from platformdirs import user_cache_path

    return user_cache_path("napari-vox3d", appauthor=False, ensure_exists=True)


def _what_fits(
    need: float, have: float, shape: Sequence[int], cell: NDArray[np.float64], device: torch.device
) -> str:
    spacing = float(np.linalg.norm(cell, axis=1).max() / max(shape))
    coarser = spacing * max(1.1, (need / max(have, 1)) ** (1 / 3))
    return (
        f"A grid of {'×'.join(map(str, shape))} points needs about {need / 1e9:.1f} GB and "
        f"{have / 1e9:.1f} GB are free on {device}; a spacing of {coarser:.2f} Å would fit."
    )
