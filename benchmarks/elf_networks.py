"""ELF networks on a cubic cell, beside the plain module of FlatResNet3D in PyTorch.

The weights of the production size are random; they take the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from subprocess import TimeoutExpired
from typing import Any

import numpy as np

from benchmarks.harness import Row, apart, compare, number, ratio, times

EDGE, LARGE = 48, 128
LIMIT = 200e6  # bytes for a large cell, which are an eighth of what the plain module takes
CELL = 9.6  # Å
PATIENCE = 60  # seconds for bfloat16
CRYSTALS = {
    "MgO": ("rocksalt", 4.21), "Si": ("diamond", 5.43), "Cu": ("fcc", 3.61),
    "GaAs": ("zincblende", 5.65), "NaCl": ("rocksalt", 5.64), "TiC": ("rocksalt", 4.33),
}  # fmt: skip


def measure(quick: bool) -> Iterator[Row]:
    """Run the production size and the default model."""
    edge, large = (16, 32) if quick else (EDGE, LARGE)
    works = {"plain": plain, "float32": in_float32, "default": default}
    found = compare(works, edge, rounds=4, calls=2)
    with suppress(TimeoutExpired):  # for ever, on processors without units for it
        found |= compare({"bfloat16": in_bfloat16}, edge, rounds=4, limit=PATIENCE)
    module = found["plain"]
    work = 2 * 4.233e6 * edge**3
    for kind, must, aim in (("float32", 1.0, 1.3), ("bfloat16", 2.3, 3.0)):
        ours, reached = found.get(kind), peak_flops(kind)
        floor = (
            f"{work / 1e12:.2g} TFLOP: {times(work / reached)} at the {reached / 1e9:.0f} GFLOP/s "
            "that a product of matrices reaches here"
        )
        if ours is None:
            yield Row(
                f"FlatResNet3D production {edge}³, {kind}", "plain PyTorch module, float32",
                module.typical / PATIENCE, "×", must, aim,
                said=f"did not end within {PATIENCE} s", floor=floor,
            )  # fmt: skip
            continue
        if kind == "float32":
            change = f"ELF differs by {np.abs(np.array(ours.answer) - module.answer).max():.1g}"
        else:  # that of random weights jumps from 0 to 1 at the smallest change
            change = (
                f"ELF of the trained flat-resnet-small differs by {apart(half_the_bits).answer:.2g}"
                f" at most, in {', '.join(CRYSTALS)}"
            )
        yield Row(
            f"FlatResNet3D production {edge}³, {kind}", "plain PyTorch module, float32",
            ratio(module, ours), "×", must, aim,
            said=f"{times(ours.typical)} and {times(module.typical)}; {change}", floor=floor,
        )  # fmt: skip
    ours = found["default"]
    yield Row(
        f"default ELF model {edge}³, from the atoms", "FlatResNet3D production, plain",
        ratio(module, ours), "×", 5, 20,
        said=f"{times(ours.typical)} and {times(module.typical)}",
    )  # fmt: skip

    # activations do not add up over blocks, so one block has the peak of sixteen
    blocks = {"plain": plain_block, "ours": our_block, "limited": limited_block}
    found = compare(blocks, large, rounds=1)
    module, ours, limited = found["plain"], found["ours"], found["limited"]
    one = 4 * 32 * large**3
    yield Row(
        f"FlatResNet3D {large}³, peak memory", "plain PyTorch module",
        ours.memory / module.memory, "×", 0.6, None, least=False,
        said=f"{number(ours.memory / 1e6, 'MB')} and {number(module.memory / 1e6, 'MB')}",
        floor=f"two activations of {number(one / 1e6, 'MB')}",
    )  # fmt: skip
    change = np.abs(np.array(limited.answer) - module.answer).max()
    yield Row(
        f"FlatResNet3D {large}³ within {number(LIMIT / 1e6, 'MB')}, peak memory",
        "that limit", limited.memory / LIMIT, "×", None, 1.0, least=False,
        said=f"{number(limited.memory / 1e6, 'MB')}; ELF differs by {change:.1g}; one block in "
        f"{times(limited.typical)}, plain {times(module.typical)}",
        floor="16 bytes a voxel and a slab of one plane",
    )  # fmt: skip


def peak_flops(precision: str) -> float:
    """Floating-point operations a second of a large product of matrices."""
    import time

    import torch

    matrix = torch.rand(1536, 1536).to(getattr(torch, precision))
    lasted = []
    for _ in range(12):  # the fastest: other programs take their share of the rest
        start = time.perf_counter()
        matrix @ matrix
        lasted.append(time.perf_counter() - start)
    return 2 * 1536**3 / min(lasted)


def plain(edge: int) -> Callable[[], Any]:
    """One pass of the plain module."""
    return _plain_pass(edge, 16, 4)


def plain_block(edge: int) -> Callable[[], Any]:
    """One pass of one block."""
    return _plain_pass(edge, 1, 1)


def in_float32(edge: int) -> Callable[[], Any]:
    """One pass of ours, in slabs and with reports of progress, as `predict_elf` makes it."""
    return _our_pass(edge, "float32", 16, 4)


def in_bfloat16(edge: int) -> Callable[[], Any]:
    """The same in half the bits."""
    return _our_pass(edge, "bfloat16", 16, 4)


def our_block(edge: int) -> Callable[[], Any]:
    """One pass of one block."""
    return _our_pass(edge, "float32", 1, 1)


def limited_block(edge: int) -> Callable[[], Any]:
    """One pass of one block, whose activations are in files if they take more than the limit."""
    return _our_pass(edge, "float32", 1, 1, LIMIT)


def default(edge: int) -> Callable[[], Any]:
    """Predict with the default model, superposition of the atoms included."""
    from ase.build import bulk

    import napari_vox3d as vox

    crystal = bulk("MgO", "rocksalt", 4.21, cubic=True)
    return lambda: float(vox.predict_elf(crystal, shape=3 * (edge,)).values.mean())


def half_the_bits() -> Callable[[], Any]:
    """How far bfloat16 moves an ELF of trained weights at most."""
    from ase.build import bulk

    import napari_vox3d as vox

    def change() -> float:
        found = []
        for name, (structure, length) in CRYSTALS.items():
            crystal = bulk(name, structure, length)
            full, half = (
                vox.predict_elf(crystal, "flat-resnet-small", precision=precision).values
                for precision in ("float32", "bfloat16")
            )
            found.append(float(np.abs(half - full).max()))
        return max(found)

    return change


def _inputs(edge: int) -> Any:
    import torch

    torch.manual_seed(1)
    return torch.rand(1, 1, edge, edge, edge)


def _ours(blocks: int, every: int) -> Any:
    import torch

    from napari_vox3d.networks import ELFPredictor

    torch.manual_seed(0)
    return ELFPredictor(blocks=blocks, attention_every=every).eval()


def _our_pass(
    edge: int, precision: str, blocks: int, every: int, limit: float | None = None
) -> Callable[[], Any]:
    import torch

    from napari_vox3d.inference.elf_pass import run_whole_cell

    network, inputs = _ours(blocks, every), _inputs(edge)
    dtype = getattr(torch, precision)

    def run() -> list[float]:
        cell = np.eye(3) * CELL
        elf, _ = run_whole_cell(network, inputs, dtype, cell, lambda done, total: None, limit)
        return _sampled(elf)

    return run


def _plain_pass(edge: int, blocks: int, every: int) -> Callable[[], Any]:
    import torch

    from benchmarks.plain_flat_resnet import FlatResNet3D

    network, inputs = FlatResNet3D(blocks, every).eval(), _inputs(edge)
    network.load_state_dict(_ours(blocks, every).net.state_dict())

    def run() -> list[float]:
        with torch.no_grad():
            return _sampled(network(inputs)[0, 0].numpy())

    return run


def _sampled(elf: Any) -> list[float]:
    return elf.ravel()[:: max(1, elf.size // 4096)].tolist()
