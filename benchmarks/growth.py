"""How time and memory grow with the size of a volume: the plot of docs/performance.md."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import apart
from benchmarks.tomograms import score_cryoet, score_default
from benchmarks.vasp_files import make_chgcar, read_ours, write_ours

Curve = dict[str, Any]
CRYSTALS, TOMOGRAMS = (24, 32, 48, 64, 96), (64, 96, 128, 192, 256)  # edges of cubes
TEXT = (32, 64, 96, 128, 192)


def curves(quick: bool) -> Iterator[Curve]:
    """Name, points, seconds and bytes of each work."""
    some = slice(2) if quick else slice(None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "CHGCAR"

        def reading(edge: int) -> Any:
            make_chgcar(path, edge)
            return apart(read_ours, str(path), calls=3)

        yield _curve("read a CHGCAR", TEXT[some], reading)
        yield _curve(
            "write a CHGCAR",
            TEXT[some],
            lambda edge: apart(write_ours, "CHGCAR", folder, edge, calls=3),
        )
    yield _curve("superpose 64 atoms", CRYSTALS[some], lambda edge: apart(superpose, edge, calls=3))
    yield _curve(
        "predict an ELF, default model",
        CRYSTALS[some],
        lambda edge: apart(predict, edge, calls=2),
    )
    yield _curve(
        "pick, default model",
        TOMOGRAMS[some],
        lambda edge: apart(score_default, 3 * [edge], calls=2),
    )
    yield _curve(
        "pick, CryoET3DCNN",
        TOMOGRAMS[some][:-1],
        lambda edge: apart(score_cryoet, 3 * [edge], calls=2),
    )


def _curve(name: str, edges: tuple[int, ...], run: Callable[[int], Any]) -> Curve:
    found = [run(edge) for edge in edges]
    return {
        "name": name,
        "points": [edge**3 for edge in edges],
        "seconds": [each.seconds[-1] for each in found],
        "bytes": [each.grown[0] for each in found],
    }


def _crystal(edge: int) -> Any:
    """64 atoms with 0.2 Å between the points: the cell grows with the grid."""
    from ase.build import bulk

    crystal = bulk("MgO", "rocksalt", 4.21, cubic=True).repeat(2)
    crystal.set_cell(3 * [0.2 * edge], scale_atoms=True)
    return crystal


def superpose(edge: int) -> Callable[[], Any]:
    """Superpose atomic densities."""
    import napari_vox3d as vox

    atoms = _crystal(edge)
    return lambda: float(vox.superpose_atoms(atoms, 3 * (edge,)).values.mean())


def predict(edge: int) -> Callable[[], Any]:
    """Predict an ELF from atoms."""
    import napari_vox3d as vox

    atoms = _crystal(edge)
    vox.predict_elf(atoms, shape=(8, 8, 8))  # reads the weights
    return lambda: float(vox.predict_elf(atoms, shape=3 * (edge,)).values.mean())
