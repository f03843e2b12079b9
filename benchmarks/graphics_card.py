"""Both networks on a graphics card, in half the bits, beside eager float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.harness import Row, compare, number, ratio, times

EDGE_ELF, EDGE_PICK = 96, 256


def measure(quick: bool) -> Iterator[Row]:
    """Run both networks, if there is a card."""
    import torch

    works = {"FlatResNet3D production": elf, "default picker": picker}
    for name, work in works.items():
        peer = "itself, eager float32"
        if not torch.cuda.is_available():
            yield Row(f"{name} on a GPU, bfloat16", peer, None, "×", 3, 6, said="no GPU here")
            continue
        plain, fast = ({"": work} for _ in range(2))
        before = compare(plain, "float32", quick, calls=4, rounds=1)[""]
        after = compare(fast, "bfloat16", quick, calls=4, rounds=1)[""]
        share = after.answer / after.typical / 1e12
        yield Row(
            f"{name} on a GPU, bfloat16", peer, ratio(before, after), "×", 3, 6,
            said=f"{times(after.typical)} and {times(before.typical)} on "
            f"{torch.cuda.get_device_name()}; {number(share, 'TFLOP/s')}",
        )  # fmt: skip


def elf(precision: str, quick: bool) -> Callable[[], Any]:
    """One pass over a cell; gives its floating-point operations."""
    from napari_vox3d.networks import ELFPredictor

    return _pass(ELFPredictor(), 32 if quick else EDGE_ELF, precision)


def picker(precision: str, quick: bool) -> Callable[[], Any]:
    """One pass over a tile."""
    import napari_vox3d as vox

    network = vox.load_model("default", task="picking").network()
    return _pass(network, 64 if quick else EDGE_PICK, precision)


def _pass(network: Any, edge: int, precision: str) -> Callable[[], Any]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from napari_vox3d.inference.device import autocast

    device = torch.device("cuda")
    network = network.eval().to(device)
    values = torch.rand(1, 1, edge, edge, edge, device=device)
    if precision != "float32":
        network = network.to(memory_format=torch.channels_last_3d)
        values = values.to(memory_format=torch.channels_last_3d)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(values)
    compiled = network if precision == "float32" else torch.compile(network)

    def run() -> float:
        with torch.inference_mode(), autocast(device, getattr(torch, precision)):
            compiled(values)
        torch.cuda.synchronize()
        return float(counter.get_total_flops())

    run()
    return run
