"""Crystals with ELF and density in a few small files.

A shard is a ZIP file (LZMA) of three members: ``crystals.json``, ``elf.npy`` and ``change.npy``;
the last two hold the grids of all its crystals one after another, axes c, b, a.

* ELF: its values at the points of the grid, by cubic splines, in steps of `ELF_STEP`.
* Density: what the superposed atoms lack of it, Δ = ρ − SAD, by its waves. Near nuclei ρ is far too
  sharp for such a grid and Δ is not: of copper's density at 0.2 Å the waves of ρ lose 10 %, those
  of Δ 3 %. Stored is asinh(Δ / `FAINT`) in steps of `CHANGE_STEP`, so that large values keep 1 % of
  themselves and small ones `FAINT` of that.

Both are differenced along the three axes, modulo the integer's range, for smaller files.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from recipes.elf_data.structures import Structure, from_record, to_record

from napari_vox3d import Volume
from napari_vox3d.density import superpose_atoms
from napari_vox3d.density.grids import interpolate, nearest_shape, resample_waves
from napari_vox3d.formats import write_aside
from napari_vox3d.training.elf_shards import CHANGE_STEP, ELF_STEP, FAINT, read_shard

SPACING = 0.2  # Å
CRYSTALS_IN_A_SHARD = 250

Codes = NDArray[np.int16]


@dataclass(frozen=True)
class Crystal:
    """A structure with its ELF, and with Δ = ρ − SAD (e/Å³) on the same grid, axes c, b, a."""

    structure: Structure
    elf: Volume
    change: Volume

    def density(self, shape: tuple[int, int, int] | None = None) -> Volume:
        """Valence electron density, e/Å³.

        Parameters
        ----------
        shape
            Points along c, b, a; the grid of the ELF if None. A finer grid sees sharper cores,
            because the atoms that are superposed are known exactly.
        """
        superposed = superpose_atoms(self.structure.atoms, shape or self.elf.shape)
        values = superposed.values + resample_waves(self.change.values, superposed.shape)
        return superposed.with_values(values, quantity="electron density")


def sample(structure: Structure, rho: NDArray[np.floating], elf: NDArray[np.floating]) -> Crystal:
    """Bring ρ (e/Å³) and ELF, axes a, b, c, from a calculation's grid to the common spacing."""
    lattice = structure.atoms.cell.array
    shape = nearest_shape(lattice, SPACING)
    change = rho.T - superpose_atoms(structure.atoms, rho.shape[::-1]).values
    return _crystal(structure, interpolate(elf.T, shape).clip(0, 1), resample_waves(change, shape))


def _crystal(
    structure: Structure, elf: NDArray[np.floating], change: NDArray[np.floating]
) -> Crystal:
    """Crystal of two grids; the mean of Δ is nothing, as the atoms are neutral."""
    atoms = structure.atoms
    return Crystal(
        structure,
        Volume.on_lattice(elf, atoms.cell.array, quantity="elf", atoms=atoms),
        Volume.on_lattice(change - change.mean(), atoms.cell.array, unit="e/Å³", atoms=atoms),
    )


def write_shard(path: Path, crystals: Sequence[Crystal]) -> None:
    """Write crystals to one file."""
    records = [{**to_record(crystal.structure), "shape": crystal.elf.shape} for crystal in crystals]
    grids = {
        "elf": [_encoded(crystal.elf.values / ELF_STEP) for crystal in crystals],
        "change": [
            _encoded(np.arcsinh(crystal.change.values / FAINT) / CHANGE_STEP)
            for crystal in crystals
        ],
    }
    with (
        write_aside(path) as aside,
        zipfile.ZipFile(aside, "w", zipfile.ZIP_LZMA) as archive,
    ):
        archive.writestr("crystals.json", json.dumps(records))
        for name, codes in grids.items():
            buffer = BytesIO()
            np.save(buffer, np.concatenate(codes))
            archive.writestr(f"{name}.npy", buffer.getvalue())


def read_shards(paths: Iterable[Path]) -> Iterator[Crystal]:
    """Read the crystals of some shards, one after another."""
    for path in paths:
        for record, elf, change in read_shard(path):
            yield _crystal(from_record(record), elf, change)


def _encoded(values: NDArray[np.floating]) -> Codes:
    """Whole numbers, each as its difference to the neighbours before it, flat."""
    codes = np.rint(values).astype(np.int16)
    for axis in range(3):
        codes = np.diff(codes, axis=axis, prepend=np.int16(0))
    return codes.ravel()


def pack(results: Sequence[Path], folder: Path) -> None:
    """Write what `__main__` calculated to ``elf_data-000.zip`` and so on in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(results), CRYSTALS_IN_A_SHARD)):
        crystals = [_result(path) for path in results[start : start + CRYSTALS_IN_A_SHARD]]
        write_shard(folder / f"elf_data-{number:03d}.zip", crystals)


def _result(path: Path) -> Crystal:
    with np.load(path) as result:
        structure = from_record(json.loads(str(result["record"])))
        return sample(structure, result["rho"].astype(float), result["elf"] / 65535)
