"""`Volume`: numbers on a regular grid, with the geometry and the units they live in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import Vox3dError

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import ArrayLike, NDArray

_SLAB_BYTES = 1 << 24
_LAYER_BYTES = 1 << 28  # at most, of chunks that would else be decompressed again for each slab


def level_for(sizes: Sequence[float], voxel_size: float | None) -> int:
    """Which level of a multiscale image to compute on: the finest that is not wastefully fine.

    Parameters
    ----------
    sizes
        Å, the voxel size of each level.
    voxel_size
        Å, the voxel size of the model; None for the finest level of all.

    Returns
    -------
    int
        The finest level with voxels of at least 0.8 of that size; the coarsest if all are finer.
    """
    fine_first = sorted(range(len(sizes)), key=lambda level: sizes[level])
    least = 0.0 if voxel_size is None else 0.8 * voxel_size
    return next((level for level in fine_first if sizes[level] >= least), fine_first[-1])


@dataclass(frozen=True, eq=False)
class Volume:
    """Values on a regular three-dimensional grid.

    Voxel ``(k, j, i)`` of `values` has its centre at ``origin + k*step[0] + j*step[1] +
    i*step[2]``. Every vector is written (z, y, x) and measured in Å.

    Parameters
    ----------
    values
        (z, y, x) array: numpy, memory-mapped, dask or zarr; real or complex. For crystals the
        axes run along the lattice vectors c, b, a.
    step
        (3, 3) Å: row *n* is the displacement (z, y, x) of one index step along array axis *n*.
        A scalar or three numbers give an orthogonal grid of that voxel size.
    origin
        (3,) Å: centre of voxel (0, 0, 0).
    quantity
        What the values are: ``"density"`` (tomograms, maps), ``"electron density"``,
        ``"superposed atomic density"``, ``"spin density"``, ``"elf"``, ``"uncertainty"`` (of an
        ELF), ``"potential"``, ``"difference"`` or ``"score"``.
    unit
        Unit of the values, e.g. ``"e/Å³"`` or ``"eV"``; empty when they have none.
    periodic
        True for crystals: index N is index 0 again.
    calibrated
        False when the source did not say how large a voxel is; `step` is then 1 Å by convention.
    atoms
        `ase.Atoms` in the same frame (Cartesian x, y, z there), or None.
    name
        Short name for layers and tables.
    source
        Path the values came from, or an empty string.
    metadata
        Provenance, and what a format wants back on writing.
    coarser
        The same data on coarser grids over the same box, finest first: the further levels of a
        multiscale file.

    Raises
    ------
    Vox3dError
        If `values` is not three-dimensional, or the grid vectors are not finite and independent.
    """

    values: Any
    step: NDArray[np.float64]
    origin: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    quantity: str = "density"
    unit: str = ""
    periodic: bool = False
    calibrated: bool = True
    atoms: Atoms | None = None
    name: str = ""
    source: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    coarser: tuple[Volume, ...] = ()

    def __post_init__(self) -> None:
        if getattr(self.values, "ndim", None) != 3:
            shape = getattr(self.values, "shape", ())
            raise Vox3dError(f"A volume has three axes (z, y, x), not {len(shape)}: {shape}.")
        step = np.asarray(self.step, float)
        if step.ndim < 2:
            step = np.diag(np.broadcast_to(step, 3))
        origin = np.asarray(self.origin, float)
        if step.shape != (3, 3) or origin.shape != (3,):
            raise Vox3dError("A volume needs a (3, 3) step and an origin of three numbers, in Å.")
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite([np.linalg.det(step), *np.linalg.norm(step, axis=1), *origin])
        if not (finite.all() and np.linalg.det(step)):
            raise Vox3dError("The grid vectors of a volume must be finite and independent.")
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "origin", origin)

    @classmethod
    def on_lattice(cls, values: Any, lattice: ArrayLike, **fields: Any) -> Volume:
        """Make a periodic volume from lattice vectors.

        Parameters
        ----------
        values
            (c, b, a) array over one cell, no repeated end point.
        lattice
            (3, 3) Å: rows a, b, c in Cartesian x, y, z, as ASE and VASP write them.
        **fields
            Other fields of `Volume`.

        Returns
        -------
        Volume
            Periodic, with its origin at zero unless `fields` say otherwise.
        """
        cell = np.asarray(lattice, float)[::-1, ::-1]
        step = cell / np.array(values.shape, float)[:, None]
        return cls(values, step, **{"periodic": True, **fields})

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (z, y, x)."""
        return tuple(int(n) for n in self.values.shape)  # type: ignore[return-value]

    @property
    def voxel_size(self) -> NDArray[np.float64]:
        """(3,) Å: length of one index step along each array axis."""
        return np.linalg.norm(self.step, axis=1)

    @property
    def cell(self) -> NDArray[np.float64]:
        """(3, 3) Å: edges of the whole grid, row *n* along array axis *n*, written (z, y, x)."""
        return self.step * np.array(self.shape, float)[:, None]

    @property
    def lattice(self) -> NDArray[np.float64]:
        """(3, 3) Å: the same edges as rows a, b, c in Cartesian x, y, z (the order of ASE)."""
        return self.cell[::-1, ::-1]

    @property
    def volume(self) -> float:
        """Å³ that the grid covers."""
        return float(abs(np.linalg.det(self.cell)))

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) matrix from voxel indices (z, y, x, 1) to Å."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.step.T
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def is_orthogonal(self) -> bool:
        """True if array axes run along +z, +y, +x, so that a scale says all (to 1e-6 of a step)."""
        size = np.diag(self.step)
        return bool(
            (size > 0).all() and np.allclose(self.step, np.diag(size), atol=1e-6 * size.min())
        )

    def to_world(self, indices: ArrayLike) -> NDArray[np.float64]:
        """Å (z, y, x) of voxel indices, (..., 3) to (..., 3)."""
        return np.asarray(indices, float) @ self.step + self.origin

    def to_index(self, world: ArrayLike) -> NDArray[np.float64]:
        """Fractional voxel indices of points in Å (z, y, x), (..., 3) to (..., 3)."""
        return (np.asarray(world, float) - self.origin) @ np.linalg.inv(self.step)

    def with_values(self, values: Any, **changes: Any) -> Volume:
        """Copy with other values on the same grid: geometry, atoms and source stay.

        Coarser levels do not, because they show the old values.
        """
        if tuple(values.shape) != self.shape:
            raise Vox3dError(
                f"The grid has shape {self.shape}, the values have {tuple(values.shape)}."
            )
        return replace(self, **{"values": values, "coarser": (), **changes})

    def level_for(self, voxel_size: float) -> Volume:
        """Level to compute on with a model for voxels of `voxel_size` Å; see `level_for`.

        The volume itself if it is not calibrated or has no coarser levels.
        """
        levels = (self, *self.coarser)
        sizes = [abs(float(np.linalg.det(level.step))) ** (1 / 3) for level in levels]
        return levels[level_for(sizes, voxel_size)] if self.calibrated else self

    def slabs(self) -> Iterator[slice]:
        """Ranges along z to read one after another, so that a large array is never whole.

        Of about 16 MB; of an array in chunks at least a whole layer of them, if that is not more
        than 256 MB.
        """
        depth, height, width = self.shape
        plane = max(1, self.values.dtype.itemsize * height * width)
        edges = _chunk_edges(self.values)
        thickness = max(1, _SLAB_BYTES // plane)
        if edges is not None:
            layer = max(b - a for a, b in pairwise(edges[0]))
            thickness = layer * (thickness // layer) or min(layer, max(1, _LAYER_BYTES // plane))
        for start in range(0, depth, thickness):
            yield slice(start, min(start + thickness, depth))

    def pieces(self) -> Iterator[tuple[slice, slice, slice]]:
        """Boxes that cover the array once and cost least to read: its chunks, or else planes."""
        edges = _chunk_edges(self.values)
        if edges is None:
            depth, height, width = self.shape
            edges = [range(depth + 1), (0, height), (0, width)]
        for z, y, x in product(*(list(pairwise(along)) for along in edges)):
            yield slice(*z), slice(*y), slice(*x)


def _chunk_edges(values: Any) -> list[Sequence[int]] | None:
    """Where the chunks of a dask or zarr array begin and end along each axis; None for others."""
    chunks = getattr(values, "chunks", None)
    if not chunks:
        return None
    if isinstance(chunks[0], int):
        return [
            [*range(0, length, size), length]
            for length, size in zip(values.shape, chunks, strict=True)
        ]
    return [np.cumsum((0, *sizes)).tolist() for sizes in chunks]
