"""`Picks`: particle positions with class and score, and the tomogram they live in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_vox3d.errors import Vox3dError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from napari_vox3d.volume import Volume

_MADE_ON = "made_on"  # in metadata: the grid that picks were on before they were moved
_COLUMNS = ("positions", "labels", "scores", "angles", "radii", "decisions")
ACCEPTED, REJECTED, UNDECIDED = "accepted", "rejected", ""
_PIXEL_SIZE = "tilt_series_pixel_size"

CLASS_COLOURS = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00",
    "#cc79a7", "#8da0ff", "#b3de69", "#fb8072", "#17becf",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Picks:
    """Columns of particle picks in the frame of one tomogram.

    Parameters
    ----------
    positions
        (N, 3) Å (z, y, x), relative to the centre of voxel (0, 0, 0).
    labels
        (N,) class names; one name serves all.
    scores
        (N,) confidence, larger is surer; NaN where unknown. Default: NaN.
    angles
        (N, 3) ZYZ Euler angles (rot, tilt, psi) in degrees, or None.
    radii
        (N,) particle radii in Å, or None.
    tomogram
        Name of the tomogram.
    shape
        (3,) voxels (z, y, x) of the tomogram, or None if unknown.
    voxel_size
        (3,) Å (z, y, x) of the tomogram; a scalar serves all axes; None if unknown.
    metadata
        Provenance.
    decisions
        (N,) what a person decided on each: ``"accepted"``, ``"rejected"`` or ``""``; None if
        nobody went through them.

    Raises
    ------
    Vox3dError
        If the columns differ in length.
    """

    positions: NDArray[np.float64]
    labels: NDArray[np.str_]
    scores: NDArray[np.float64] | None = None  # never None after construction
    angles: NDArray[np.float64] | None = None
    radii: NDArray[np.float64] | None = None
    tomogram: str = ""
    shape: tuple[int, int, int] | None = None
    voxel_size: NDArray[np.float64] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    decisions: NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        positions = np.asarray(self.positions, float).reshape(-1, 3)
        count = len(positions)
        columns: dict[str, Any] = {
            "labels": np.asarray(self.labels, str),
            "scores": np.asarray(np.nan if self.scores is None else self.scores, float),
        }
        if self.radii is not None:
            columns["radii"] = np.asarray(self.radii, float)
        if self.decisions is not None:
            columns["decisions"] = np.asarray(self.decisions, str)
        for name, column in columns.items():
            if column.ndim == 0:
                columns[name] = column = np.full(count, column)
            if column.shape != (count,):
                raise Vox3dError(f"{count} positions but {name} of shape {column.shape}.")
        columns["positions"] = positions
        if self.angles is not None:
            columns["angles"] = np.asarray(self.angles, float).reshape(-1, 3)
            if len(columns["angles"]) != count:
                raise Vox3dError(f"{count} positions but {len(columns['angles'])} angles.")
        if self.shape is not None:
            columns["shape"] = tuple(int(n) for n in self.shape)
        if self.voxel_size is not None:
            columns["voxel_size"] = np.broadcast_to(np.asarray(self.voxel_size, float), 3).copy()
        for name, column in columns.items():
            object.__setattr__(self, name, column)

    @classmethod
    def from_indices(cls, indices: ArrayLike, labels: ArrayLike, *, voxel_size: ArrayLike,
                     **fields: Any) -> Picks:  # fmt: skip
        """Make picks from (N, 3) voxel indices (z, y, x); the centre of the first voxel is 0."""
        size = np.broadcast_to(np.asarray(voxel_size, float), 3)
        positions = np.asarray(indices, float).reshape(-1, 3) * size
        return cls(positions, np.asarray(labels, str), voxel_size=size, **fields)

    @classmethod
    def concatenate(cls, parts: Sequence[Picks]) -> Picks:
        """Join picks of one tomogram; frame and metadata are those of the first part.

        Angles and radii are kept only if every part has them; without a decision picks are
        undecided.
        """
        if not parts:
            return cls(np.zeros((0, 3)), np.zeros(0, str))
        columns: dict[str, Any] = {}
        if any(part.decisions is not None for part in parts):
            parts = [part._judged() for part in parts]
        for name in _COLUMNS:
            present = [getattr(part, name) for part in parts]
            columns[name] = None if any(p is None for p in present) else np.concatenate(present)
        return replace(parts[0], **columns)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def indices(self) -> NDArray[np.float64]:
        """(N, 3) fractional voxel indices (z, y, x).

        Raises
        ------
        Vox3dError
            If the voxel size is unknown.
        """
        if self.voxel_size is None:
            raise Vox3dError("These picks carry no voxel size; open them with their tomogram.")
        return self.positions / self.voxel_size

    @property
    def classes(self) -> list[str]:
        """Class names in order of first appearance."""
        return list(dict.fromkeys(self.labels.tolist()))

    def counts(self) -> dict[str, int]:
        """Number of picks of each class."""
        return dict(Counter(self.labels.tolist()))

    def select(self, keep: ArrayLike) -> Picks:
        """Picks at a boolean mask or at integer positions, in that order."""
        chosen = np.asarray(keep)
        if not chosen.size:  # an empty list is an array of floats
            chosen = chosen.astype(int)
        columns: dict[str, Any] = {}
        for name in _COLUMNS:
            column = getattr(self, name)
            columns[name] = None if column is None else column[chosen]
        return replace(self, **columns)

    @property
    def kept(self) -> Picks:
        """Picks that nobody rejected."""
        return self if self.decisions is None else self.select(self.decisions != REJECTED)

    @property
    def rejected(self) -> Picks:
        """Picks that somebody rejected."""
        return self.select([] if self.decisions is None else self.decisions == REJECTED)

    def _judged(self) -> Picks:
        """The same, undecided where nobody went through them."""
        return self if self.decisions is not None else replace(
            self, decisions=np.full(len(self), UNDECIDED)
        )  # fmt: skip

    def of_class(self, name: str) -> Picks:
        """Picks of one class."""
        return self.select(self.labels == name)

    def fitting(self, volume: Volume) -> str:
        """Say how the grid that these picks were made on differs from a tomogram's.

        Grids fit if they are of the same extent in Å, as two binnings of one tomogram are. Where
        the picks do not know their shape, voxels have to be of the same size; where they know
        nothing, the picks have to lie inside.

        Returns
        -------
        str
            One sentence, or nothing if the picks fit.
        """
        if not self._on_grid_of(volume):
            own = _grid(self.shape, self.voxel_size)
            theirs = _grid(volume.shape, volume.voxel_size if volume.calibrated else None)
            return (
                f"The picks were made on {own}, and {volume.name or 'the tomogram'} has {theirs}."
            )
        index = self.positions / volume.voxel_size
        outside = int(((index < -0.5) | (index > np.array(volume.shape) - 0.5)).any(axis=1).sum())
        if outside:
            return f"{outside} of {len(self)} picks lie outside {volume.name or 'the tomogram'}."
        return ""

    def _on_grid_of(self, volume: Volume) -> bool:
        if self.voxel_size is None:
            return self.shape in (None, volume.shape)
        if np.allclose(self.voxel_size, volume.voxel_size, rtol=1e-3):
            return self.shape in (None, volume.shape)
        if self.shape is None or not volume.calibrated:
            return False
        extents = [np.array(grid.shape) * grid.voxel_size for grid in (self, volume)]
        tolerance = np.maximum(self.voxel_size, volume.voxel_size)  # binning rounds
        return bool(np.all(np.abs(extents[0] - extents[1]) < tolerance))

    def moved_to(self, volume: Volume, by: Literal["angstrom", "voxels"]) -> Picks:
        """Bring picks into the frame of a tomogram.

        Parameters
        ----------
        volume
            The tomogram: the result has its name, shape and voxel size.
        by
            What stays: ``"angstrom"`` keeps positions in Å, which is right for another binning;
            ``"voxels"`` keeps voxel indices, and scales all lengths by the ratio of voxel sizes,
            which is right where the size of the voxels was wrong or unknown.

        Returns
        -------
        Picks
            ``metadata["made_on"]`` tells the grid they were on if it was another, for `as_made`.

        Raises
        ------
        Vox3dError
            If voxel indices are to stay, and these picks carry no voxel size.
        """
        factor = np.ones(3)
        if by == "voxels":
            if self.voxel_size is None:
                raise Vox3dError("These picks carry no voxel size, so only Å can be kept.")
            factor = volume.voxel_size / self.voxel_size
        made_on = {} if self.voxel_size is None or self._on_grid_of(volume) else {
            _MADE_ON: {
                "voxel_size": self.voxel_size.tolist(),
                "shape": None if self.shape is None else list(self.shape),
                "tomogram": self.tomogram,
                "kept": by,
            }
        }  # fmt: skip
        moved = self._scaled(factor)
        return replace(
            moved,
            tomogram=volume.name or self.tomogram,
            shape=volume.shape,
            voxel_size=volume.voxel_size,
            metadata={**moved.metadata, **made_on},
        )

    def as_made(self) -> Picks:
        """Undo `moved_to`: the same picks on the grid that they were made on."""
        before = self.metadata.get(_MADE_ON)
        if before is None or self.voxel_size is None:
            return self
        kept_voxels = before["kept"] == "voxels"
        factor = np.array(before["voxel_size"]) / self.voxel_size if kept_voxels else np.ones(3)
        made = self._scaled(factor)
        return replace(
            made,
            tomogram=before["tomogram"],
            shape=before["shape"],
            voxel_size=before["voxel_size"],
            metadata={key: value for key, value in made.metadata.items() if key != _MADE_ON},
        )

    def _scaled(self, factor: NDArray[np.float64]) -> Picks:
        """Multiply lengths by (3,) factors."""
        if (factor == 1).all():
            return self
        mean = float(np.cbrt(factor.prod()))
        metadata = dict(self.metadata)
        if _PIXEL_SIZE in metadata:
            metadata[_PIXEL_SIZE] *= mean
        return replace(
            self,
            positions=self.positions * factor,
            radii=None if self.radii is None else self.radii * mean,
            metadata=metadata,
        )


def _grid(shape: tuple[int, ...] | None, voxel_size: NDArray[np.float64] | None) -> str:
    """``44 × 136 × 84 voxels of 10 Å``, or what is known of it."""
    count = "" if shape is None else " × ".join(map(str, shape)) + " "
    if voxel_size is None:
        return f"{count}voxels of unknown size"
    sizes = [f"{size:.4g}" for size in voxel_size]
    return f"{count}voxels of {sizes[0] if len(set(sizes)) == 1 else ' × '.join(sizes)} Å"
