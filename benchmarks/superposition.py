"""Superposed atomic densities, beside a loop over the atoms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.harness import Row, compare, ratio, times

ATOMS, EDGE, POINTS = 200, 15.0, 96
SAMPLE = 10  # atoms that the loop is timed on
CUTOFF = 10.6  # Å: 20 bohr, where tables of atomic densities end


def measure(quick: bool) -> Iterator[Row]:
    """Superpose the atoms of a large cell."""
    points = 32 if quick else POINTS
    found = compare({"ours": ours, "loop": loop}, points, calls=2)
    share = ATOMS / SAMPLE
    peer, own = share * found["loop"].typical, found["ours"].typical
    work = ATOMS * points**3 / 2
    yield Row(
        f"SAD of {ATOMS} atoms on {points}³ points", "a loop over the atoms, as in ELFNet",
        share * ratio(found["loop"], found["ours"]), "×", 100, 500,
        said=f"{times(own)} and {times(peer)}, of which {SAMPLE} atoms were timed",
        floor=f"{work / 1e9:.2f} G complex multiply-adds: {times(work / 5e9)} at 40 GFLOP/s",
    )  # fmt: skip


def crystal() -> Any:
    """Two elements at random in a skewed cell."""
    from ase import Atoms

    places = np.random.default_rng(0).uniform(size=(ATOMS, 3))
    cell = EDGE * np.array([[1.0, 0, 0], [0.1, 1, 0], [0.05, 0.1, 1]])
    return Atoms("SiO" * (ATOMS // 2), scaled_positions=places, cell=cell, pbc=True)


def ours(points: int) -> Callable[[], Any]:
    """Superpose with this package."""
    import napari_vox3d as vox

    atoms = crystal()
    vox.superpose_atoms(atoms, (8, 8, 8))  # tables
    return lambda: float(vox.superpose_atoms(atoms, 3 * (points,)).values.mean())


def loop(points: int) -> Callable[[], Any]:
    """Superpose some atoms one after another, each at its nearest image over the whole grid.

    The table is made up; any takes the same time.
    """
    atoms = crystal()
    axis = np.arange(points) / points
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    radii = np.geomspace(0.08, CUTOFF, 100)
    table = np.exp(-radii)

    def superpose() -> float:
        density = np.zeros(len(grid))
        for place in atoms.get_scaled_positions()[:SAMPLE]:
            apart = (grid - place + 0.5) % 1 - 0.5
            distance = np.linalg.norm(apart @ atoms.cell.array, axis=1)
            near = distance <= CUTOFF
            density[near] += np.interp(distance[near], radii, table)
        return float(density.mean())

    return superpose
