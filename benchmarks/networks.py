"""Parameters, seconds and peak memory of every network at 64³ and 128³.

    python benchmarks/networks.py [NAME...] [--edges 64 128] [--devices cpu cuda] [--threads N]

Those of `networks/catalogue.py` in both sizes, and the plain building blocks. Each runs in a
process of its own, with random weights, in eval mode and without gradients. Seconds are the median
of three passes after a first one; if that one took more than ``--patience`` seconds it stands
alone, and after ``--limit`` seconds a row is given up. Memory is what the process grew by at its
peak (on CUDA: what PyTorch allocated), weights and input not counted; next to it what the network
itself estimates, where it does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from napari_vox3d.networks.catalogue import ARCHITECTURES

SPACING = 0.2  # Å: the cell of an ELF network is a cube of this many Å for each voxel
TWO_LEVELS = {"in_channels": 1, "channels": 8, "heads": 8}
WINDOWED = {"window": [1, 8, 8], "patch": [1, 2, 2]}

PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "EncoderNet3d 16 [2,2,2,2]": (
        "EncoderNet3d",
        {"channel": 16, "layers": [2, 2, 2, 2], "in_planes": 1, "out_length": 32},
    ),
    "UNet3d 8 [2,2,2]": ("UNet3d", {"channel": 8, "layers": [2, 2, 2], "in_planes": 1}),
    "CKConvND circular 16": (
        "CKConvND",
        {"data_dim": 3, "hidden_dim": 16, "padding": "circular"},
    ),
    "UNet C3": ("UNet", {**TWO_LEVELS, "blocks": ["C3"]}),
    "HRNet C3": ("HRNet", {**TWO_LEVELS, "blocks": ["C3"]}),
    "SOANet C3": ("SOANet", {**TWO_LEVELS, "blocks": ["C3"]}),
    "UNet T1L1G1": ("UNet", {**TWO_LEVELS, **WINDOWED, "blocks": ["T1L1G1"]}),
    "HRNet T1L1G1": ("HRNet", {**TWO_LEVELS, **WINDOWED, "blocks": ["T1L1G1"]}),
    "SOANet S3Sh 4³": ("SOANet", {**TWO_LEVELS, "window": [4, 4, 4], "blocks": ["S3Sh"]}),
    "SOANet S3Sh 8³": ("SOANet", {**TWO_LEVELS, "window": [8, 8, 8], "blocks": ["S3Sh"]}),
    "SOANet V3V3 8³": ("SOANet", {**TWO_LEVELS, "window": [8, 8, 8], "blocks": ["V3V3"]}),
}
NEED_SHAPE = set("GV")  # cells that are made for one size


def cases() -> dict[str, tuple[str, dict[str, Any]]]:
    """Networks to measure, by name: name and arguments for `networks.build`."""
    listed = {
        f"{entry.name} {size}": (entry.network, entry.arguments(size))
        for entry in ARCHITECTURES
        for size in ("small", "large")
        if size == "small" or entry.large != entry.small
    }
    return listed | PLAIN


def measure(
    network: str, arguments: dict[str, Any], edge: int, device: str, patience: float
) -> Any:
    """Seconds and bytes of a pass at edge³, in this process."""
    import psutil
    import torch

    from napari_vox3d import networks
    from napari_vox3d.errors import NotEnoughMemory

    torch.manual_seed(0)
    if set(json.dumps(arguments.get("blocks"))) & NEED_SHAPE:
        arguments = {**arguments, "shape": [edge] * 3}
    module = networks.build(network, **arguments).eval()
    parameters = sum(p.numel() for p in module.parameters())
    if network == "CryoET3DCNN":
        module = module.dense().eval()
    module = module.to(device)
    channels = arguments["hidden_dim"] if network == "CKConvND" else arguments.get("in_ch", 1)
    inputs = [torch.rand(1, channels, edge, edge, edge, device=device)]
    if network == "ELFPredictor":
        inputs.append(edge * SPACING * torch.eye(3, device=device)[None])
    estimate = module.peak_bytes((edge,) * 3) if hasattr(module, "peak_bytes") else None
    result = {"parameters": parameters, "estimate": estimate}
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    before = (
        torch.cuda.memory_allocated() if device != "cpu" else psutil.Process().memory_info().rss
    )
    seconds: list[float] = []
    try:
        with torch.inference_mode():
            while len(seconds) < 4 and max(seconds, default=0) < patience:
                start = time.perf_counter()
                module(*inputs)
                if device != "cpu":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - start)
    except NotEnoughMemory as refusal:
        return result | {"refused": str(refusal)}
    after = torch.cuda.max_memory_allocated() if device != "cpu" else _highest_resident()
    return result | {"seconds": statistics.median(seconds[1:] or seconds), "peak": after - before}


def _highest_resident() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure_apart(case: dict[str, Any], threads: int, limit: float) -> dict[str, Any]:
    """`measure` in a fresh process."""
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--measure", json.dumps(case)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"no pass within {limit:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]}
    return json.loads(done.stdout)


def row(result: dict[str, Any]) -> list[str]:
    """Cells of the table for one result."""
    if "failed" in result:
        return ["", "failed", "", ""]
    estimate = _gigabytes(result["estimate"]) if result["estimate"] else ""
    parameters = f"{result['parameters']:,}"
    if "refused" in result:
        return [parameters, "refused", "", estimate]
    return [parameters, f"{result['seconds']:.2f}", _gigabytes(result["peak"]), estimate]


def _gigabytes(size: float) -> str:
    return f"{max(size, 0) / 1e9:.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of names; default: all")
    parser.add_argument("--edges", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--devices", nargs="+", default=None, help="default: all there are")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--patience", type=float, default=30, help="seconds")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one row")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(**json.loads(options.measure))))
        return
    import torch

    devices = options.devices or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    table = Table("network", "size", "device", title=f"{options.threads} CPU threads, float32")
    for heading in ("parameters", "seconds", "peak, GB", "estimated, GB"):
        table.add_column(heading, justify="right")
    console = Console()
    failures = []
    with console.status("") as status:
        for name, (network, arguments) in cases().items():
            if options.names and not any(part in name for part in options.names):
                continue
            for edge in options.edges:
                for device in devices:
                    status.update(f"{name}, {edge}³, {device}")
                    case = {
                        "network": network,
                        "arguments": arguments,
                        "edge": edge,
                        "device": device,
                        "patience": options.patience,
                    }
                    result = measure_apart(case, options.threads, options.limit)
                    table.add_row(name, f"{edge}³", device, *row(result))
                    if "failed" in result:
                        failures.append(f"{name}, {edge}³, {device}: {result['failed']}")
    console.print(table)
    for failure in failures:
        console.print(failure)


if __name__ == "__main__":
    main()
