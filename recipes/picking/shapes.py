"""Density templates to learn likeness from: real proteins, and shapes that no protein has.

A handful of templates is too few to learn what makes two particles alike, so most of the classes
that the embedding learns from are made up: real ones stretched, halves of two real ones joined,
and rings and stacks of ellipsoids of the symmetries that proteins have.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

Array = NDArray[np.float32]
_EDGE = 52  # voxels of 10 Å
_RADII = 5.0, 17.0  # voxels that made-up shapes may have
_SYMMETRIES = (
    (1, 1),
    (1, 1),
    (2, 1),
    (3, 1),
    (2, 2),
    (3, 2),
    (4, 1),
    (4, 2),
    (6, 1),
    (7, 1),
    (7, 2),
)


def made_up(real: Mapping[str, Array], count: int, seed: int) -> dict[str, Array]:
    """Shapes of about the sizes of proteins, by name.

    Parameters
    ----------
    real
        Densities (z, y, x) to start from.
    count
        How many shapes.
    seed
        The same seed gives the same shapes.
    """
    rng = np.random.default_rng(seed)
    densities = [_boxed(density) for density in real.values()]
    shapes: dict[str, Array] = {}
    makers = (_stretched, _joined, _assembled)
    while len(shapes) < count:
        shape = makers[len(shapes) % len(makers)](densities, rng)
        if _RADII[0] < _radius(shape) < _RADII[1]:
            shapes[f"shape-{len(shapes)}"] = shape
    return shapes


def _boxed(density: Array) -> Array:
    """Density of maximum 1 about its centre of mass, in a cube of the edge of all shapes."""
    inside = density > 0.2 * density.max()
    centre = np.array(ndimage.center_of_mass(inside))
    grid = np.indices((_EDGE,) * 3) - (_EDGE - 1) / 2 + centre[:, None, None, None]
    box: Array = ndimage.map_coordinates(density / density.max(), grid, order=1)
    return box


def _radius(density: Array) -> float:
    inside = np.argwhere(density > 0.2 * density.max())
    return float(np.linalg.norm(inside - inside.mean(0), axis=1).max())


def _turned(density: Array, matrix: NDArray[np.float64]) -> Array:
    middle = np.full(3, (_EDGE - 1) / 2)
    turned: Array = ndimage.affine_transform(density, matrix, middle - matrix @ middle, order=1)
    return turned


def _stretched(densities: list[Array], rng: np.random.Generator) -> Array:
    """One of the densities, longer in some directions and shorter in others."""
    turn = Rotation.random(random_state=rng).as_matrix()
    scale = rng.uniform(0.75, 1.35) * np.exp(rng.uniform(-0.3, 0.3, 3))
    return _turned(densities[rng.integers(len(densities))], turn @ np.diag(1 / scale) @ turn.T)


def _joined(densities: list[Array], rng: np.random.Generator) -> Array:
    """One half of a stretched density and the other half of another."""
    halves = [_stretched(densities, rng) for _ in range(2)]
    here = np.arange(_EDGE) > (_EDGE - 1) / 2 + rng.uniform(-2, 2)
    return _boxed(np.where(here[:, None, None], *halves))


def _assembled(_: list[Array], rng: np.random.Generator) -> Array:
    """Ellipsoids about an axis, or in layers along it."""
    fold, layers = _SYMMETRIES[rng.integers(len(_SYMMETRIES))]
    reach = rng.uniform(2, 11)
    density = np.zeros((_EDGE,) * 3)
    grid = np.indices(density.shape) - (_EDGE - 1) / 2
    for _ in range(rng.integers(1, 4)):
        centre, size = rng.uniform(-1, 1, 3) * reach, rng.uniform(1.5, 5.5, 3)
        turn = Rotation.random(random_state=rng).as_matrix()
        for n in range(fold):
            for layer in range(layers):
                flip = np.diag([1, 1, 1]) if layer == 0 else np.diag([-1, -1, 1])
                about = Rotation.from_euler("x", 360 * n / fold, degrees=True).as_matrix() @ flip
                local = (about @ turn).T @ (grid.reshape(3, -1) - (about @ centre)[:, None])
                distance = np.sqrt(((local / size[:, None]) ** 2).sum(0)).reshape(density.shape)
                density = np.maximum(density, 1 / (1 + np.exp(8 * (distance - 1))))
    return _boxed(density.astype(np.float32))
