"""Several processes that train one network together, as ``torchrun`` starts them.

    torchrun --nproc-per-node 4 --no-python vox3d train-elf …

starts four, one for each graphics card. Each makes its part of every batch; PyTorch's
`DistributedDataParallel` averages the gradients, so that all of them hold the same network.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from napari_vox3d.inference.device import choose_device


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, and which of them this one is; by default there is one.

    Parameters
    ----------
    number
        Of this process, from 0.
    count
        How many there are.
    """

    number: int = 0
    count: int = 1

    @classmethod
    def started(cls) -> Ranks:
        """The processes that ``torchrun`` started, also before they have joined."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and reports."""
        return self.number == 0

    def agree(self, value: float, place: torch.device) -> float:
        """Give what the first process said, so that all of them go the same way."""
        if self.count == 1:
            return value
        told = torch.tensor(value, dtype=torch.float32, device=place)
        distributed.broadcast(told, 0)
        return told.item()

    def meet(self) -> None:
        """Wait for all others."""
        if self.count > 1:
            distributed.barrier()

    def spread(self, network: nn.Module) -> nn.Module:
        """Network that averages its gradients over the processes; its parameters are the same."""
        return network if self.count == 1 else DistributedDataParallel(network)


@contextmanager
def joined_ranks(device: str) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the other processes, if ``torchrun`` started any; and choose the device of this one.

    Parameters
    ----------
    device
        As for `choose_device`; of several processes each takes a graphics card of its own if it is
        ``"auto"`` or ``"cuda"``.

    Raises
    ------
    InferenceError
        If there is no such device.
    """
    if Ranks.started().count == 1:
        yield Ranks(), choose_device(device)
        return
    if device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    place = choose_device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size()), place
    finally:
        distributed.destroy_process_group()


def kept_to_oneself(network: nn.Module) -> AbstractContextManager[object]:
    """Context in which the gradients of a network of `Ranks.spread` are not yet averaged."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return nullcontext()


def parted(weights: list[float], ranks: Ranks) -> list[tuple[int, float]]:
    """Which parts of a batch are this process's, and how much they count in its gradient.

    Parameters
    ----------
    weights
        Share of each part in the batch, 1 in all.
    ranks
        Of the processes; the gradients of all are averaged afterwards.

    Returns
    -------
    list of (int, float)
        At least one part, with weight 0 where there are fewer parts than processes.
    """
    own = [
        (n, weight * ranks.count)
        for n, weight in enumerate(weights)
        if n % ranks.count == ranks.number
    ]
    return own or [(0, 0.0)]
