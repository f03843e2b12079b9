"""Shards of crystals with their ELF, as `recipes/elf_data` packs them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.compression import PLENTY, RATIO
from napari_vox3d.volume import Volume

ELF_STEP = 1 / 500
CHANGE_STEP = 0.02
FAINT = 1e-3  # e/Å³

Grid = NDArray[np.float64]


def read_shard(path: str | Path) -> Iterator[tuple[dict[str, Any], Grid, Grid]]:
    """Read the crystals of a shard, one after another.

    A shard is a ZIP file of ``crystals.json``, ``elf.npy`` and ``change.npy``; the last two hold
    the grids of all its crystals, axes c, b, a, each number as its difference to the neighbours
    before it. The ELF comes in steps of 1/500. The change is what the superposed atoms of
    `napari_vox3d.superpose_atoms` lack of the valence density, stored as asinh(Δ / 0.001 e/Å³) in
    steps of 0.02.

    Yields
    ------
    record : dict
        ``symbols``, ``cell`` and ``positions`` in Å, and what else is said of the crystal.
    elf : ndarray
    change : ndarray
        e/Å³.

    Raises
    ------
    FormatError
        If the file is no shard.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
            if unpacked > max(PLENTY, RATIO * Path(path).stat().st_size):
                raise ValueError(f"it unpacks to {unpacked} bytes")
            records = json.loads(archive.read("crystals.json"))
            elf, change = (
                np.load(BytesIO(archive.read(f"{name}.npy"))) for name in ("elf", "change")
            )
            ends = np.cumsum([int(np.prod(record["shape"])) for record in records]).tolist()
    except OSError as error:
        raise FormatError(path, f"cannot be read ({error.strerror or error})") from error
    except Exception as error:  # damage shows in the archive, in JSON, or in NumPy
        raise FormatError(path, f"is no shard of crystals ({error})") from error
    for record, first, last in zip(records, [0, *ends], ends, strict=False):
        shape = tuple(record.pop("shape"))
        try:
            grids = (
                _decoded(elf[first:last], shape) * ELF_STEP,
                np.sinh(_decoded(change[first:last], shape) * CHANGE_STEP) * FAINT,
            )
        except (TypeError, ValueError) as error:
            raise FormatError(path, f"holds a grid of impossible shape ({error})") from error
        yield record, *grids


def shard_elfs(path: str | Path) -> Iterator[Volume]:
    """ELFs of a shard with their atoms.

    Raises
    ------
    FormatError
        If the file is no shard.
    """
    from ase import Atoms

    for record, elf, _ in read_shard(path):
        try:
            atoms = Atoms(record["symbols"], record["positions"], cell=record["cell"], pbc=True)
            volume = Volume.on_lattice(
                elf, atoms.cell.array, quantity="elf", atoms=atoms, name=str(record["name"])
            )
        except Exception as error:  # ASE raises whatever goes wrong in it
            raise FormatError(path, f"holds a crystal that cannot be built ({error!r})") from error
        yield volume


def _decoded(codes: NDArray[np.int16], shape: tuple[int, ...]) -> Grid:
    values = codes.reshape(shape)
    for axis in range(3):
        values = np.cumsum(values, axis=axis, dtype=np.int16)
    return values.astype(np.float64)
