"""How things look: colours of classes, contrast of volumes, the tubes of a unit cell."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.picks import CLASS_COLOURS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.volume import Volume

DIVERGING = {  # black at the centre, as the canvas is
    "name": "blue-black-orange",
    "colors": [(0.6, 0.85, 1), (0.1, 0.4, 0.95), (0, 0, 0), (0.95, 0.4, 0.05), (1, 0.9, 0.5)],
}


def class_colours(classes: Iterable[str]) -> dict[str, str]:
    """Colour of each class: the same order of names always gives the same colours."""
    names = dict.fromkeys(classes)
    return {name: CLASS_COLOURS[n % len(CLASS_COLOURS)] for n, name in enumerate(names)}


def volume_look(volume: Volume, shown: Any) -> dict[str, Any]:
    """Colormap, contrast limits and 3D rendering that suit a quantity.

    Crystals are isosurfaces in 3D; a tomogram is a plane through its middle, because noise hides
    all else in projections.

    Parameters
    ----------
    volume
        What is shown.
    shown
        (z, y, x) values of it that napari gets; only a few planes of them are read.

    Returns
    -------
    dict
        Keyword arguments of `napari.layers.Image`.
    """
    if not volume.periodic and volume.quantity == "density":
        middle = [n // 2 for n in shown.shape]
        return {
            "colormap": "gray",
            "contrast_limits": _limits(*np.percentile(_planes(shown), (0.5, 99.5))),
            "depiction": "plane",
            "plane": {"position": middle, "normal": (1, 0, 0), "thickness": 4},
            "rendering": "average",
        }
    sample = _thinned(volume.values) if volume.periodic else _planes(shown)
    colormap: Any = "viridis"
    if volume.quantity in ("elf", "score"):
        limits, level = (0.0, 1.0), min(0.7, 0.9 * float(sample.max()))
    elif volume.quantity == "uncertainty":
        # A tenth of an ELF is much: bright is doubtful in every crystal, and dark is safe.
        colormap, limits = "inferno", (0.0, max(0.1, float(np.percentile(sample, 99))))
        level = float(np.percentile(sample, 90))
    elif volume.quantity == "potential":
        # Only differences of a potential mean something, and the wells at the nuclei drown them.
        centre, level = map(float, np.percentile(sample, (50, 90)))
        width = float(np.percentile(np.abs(sample - centre), 90))
        colormap, limits = DIVERGING, _limits(centre - width, centre + width)
    elif volume.quantity in ("spin density", "difference"):
        spin = np.abs(sample)
        width, level = _strong(spin), _level_above(spin, 0.5)
        colormap, limits = DIVERGING, _limits(-width, width)
    else:
        # Half of the electrons lie above the isosurface. Percentiles of the volume alone would
        # depend on how much vacuum there is.
        colormap, level = "magma", _level_above(sample, 0.5)
        limits = _limits(min(0.0, float(np.percentile(sample, 0.1))), _strong(sample))
    return {
        "colormap": colormap,
        "contrast_limits": limits,
        "rendering": "iso",
        "iso_threshold": level,
        "interpolation2d": "linear",
    }


def _level_above(values: NDArray[np.float64], share: float) -> float:
    """Value above which the larger values add up to `share` of the sum of all."""
    falling = np.sort(np.clip(values, 0, None))[::-1]
    sums = np.cumsum(falling)
    return float(falling[min(np.searchsorted(sums, share * sums[-1]), len(falling) - 1)])


def _strong(values: NDArray[np.float64]) -> float:
    return max(_level_above(values, 0.4), float(np.percentile(values, 98)))


def _limits(low: float, high: float) -> tuple[float, float]:
    return float(low), float(high) if high > low else float(low) + 1


def cell_tubes(
    cell: NDArray[np.float64], radius: float, sides: int = 6
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Make prisms around the twelve edges of a cell.

    Parameters
    ----------
    cell
        (3, 3) Å: rows are the edges, (z, y, x).
    radius
        Å.
    sides
        Number of sides of each prism.

    Returns
    -------
    vertices
        (24·sides, 3) Å (z, y, x).
    faces
        (24·sides, 3) indices of the corners of triangles.
    """
    corners = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
    angle = np.arange(sides) * 2 * np.pi / sides
    side = np.arange(sides)
    after = (side + 1) % sides
    prism = np.concatenate([
        np.stack([side, after, side + sides], axis=1),
        np.stack([after, after + sides, side + sides], axis=1),
    ])  # fmt: skip
    vertices, faces = [], []
    for axis, corner in product(range(3), corners):
        start, edge = np.insert(corner, axis, 0) @ cell, cell[axis]
        across = np.linalg.svd(edge[None])[2][1:]
        ring = radius * (np.outer(np.cos(angle), across[0]) + np.outer(np.sin(angle), across[1]))
        faces.append(prism + sum(map(len, vertices)))
        vertices.append(np.concatenate([start + ring, start + edge + ring]))
    return np.concatenate(vertices), np.concatenate(faces)


def _planes(values: Any, count: int = 5) -> NDArray[np.float64]:
    """Finite values of a few planes, for which a file is not loaded."""
    if isinstance(values, np.ndarray):  # planes that lie together in the file
        values = values.transpose(np.argsort(values.strides)[::-1])
    planes = np.unique(np.linspace(0, values.shape[0] - 1, count + 2).round().astype(int)[1:-1])
    thin = [max(1, n // 256) for n in values.shape[1:]]
    return _finite([values[k, :: thin[0], :: thin[1]] for k in planes])


def _thinned(values: Any, count: int = 500_000) -> NDArray[np.float64]:
    """Finite values on a coarser grid over the whole cell, for atoms may lie in few planes."""
    stride = max(1, round((np.prod(values.shape) / count) ** (1 / 3)))
    return _finite([values[::stride, ::stride, ::stride]])


def _finite(parts: list[Any]) -> NDArray[np.float64]:
    sample = np.concatenate([np.abs(p).ravel() if np.iscomplexobj(p) else np.ravel(p)
                             for p in map(np.asarray, parts)]).astype(float)  # fmt: skip
    finite = sample[np.isfinite(sample)]
    return finite if finite.size else np.zeros(1)
