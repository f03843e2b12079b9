"""Whether the particles of a tomogram are dark or bright."""

from __future__ import annotations

from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np

from napari_vox3d.inference.tiles import Contrast, NetworkView
from napari_vox3d.volume import Volume

_VOXEL_SIZE = 10.0  # Å, as fine as it is looked at
_GRAIN = 2.0  # voxels: coarse enough to rise above the noise, and finer than any particle
_SURROUNDINGS = 3.0  # grains that a grain is compared with
_LOOKED_AT = (64, 192, 192)  # voxels in the middle of the tomogram, at most
_CERTAIN = 0.1  # skewness from which on it says something; that of noise is 0.02

ContrastChoice = Contrast | Literal["auto"]

_known: WeakKeyDictionary[Volume, Contrast | None] = WeakKeyDictionary()


def detect_contrast(volume: Volume) -> Contrast | None:
    """Find out whether particles are darker or brighter than the solvent.

    Protein, membranes, gold and carbon all scatter more than the solvent, and they fill the
    smaller part of a tomogram: the values of a smoothed tomogram have their long tail to that
    side.

    Parameters
    ----------
    volume
        Tomogram; the middle of it is read, once.

    Returns
    -------
    str or None
        ``"dark"`` or ``"bright"``; None where the tail is no longer than by chance.

    Raises
    ------
    InferenceError
        If the tomogram has no spread of values or cannot be seen by a network, see `NetworkView`.
    """
    if volume not in _known:
        _known[volume] = _detect(volume)
    return _known[volume]


def contrast_of(volume: Volume, contrast: ContrastChoice | None, expected: Contrast) -> Contrast:
    """How the particles of a tomogram look.

    Parameters
    ----------
    volume
        Tomogram.
    contrast
        What is said of them; ``"auto"`` looks, see `detect_contrast`.
    expected
        What it is if nothing is said, or nothing can be seen for sure.
    """
    return (detect_contrast(volume) if contrast == "auto" else contrast) or expected


def _detect(volume: Volume) -> Contrast | None:
    from scipy.ndimage import gaussian_filter

    view = NetworkView.of(volume, _VOXEL_SIZE, "robust")
    size = np.minimum(view.shape, _LOOKED_AT)
    start = (np.array(view.shape) - size) // 2
    values = view.read(start.tolist(), (start + size).tolist())
    grains = gaussian_filter(values, _GRAIN)
    grains -= gaussian_filter(grains, _SURROUNDINGS * _GRAIN)
    grains -= np.median(grains)
    skewness = float((grains**3).mean() / (grains**2).mean() ** 1.5)
    if abs(skewness) < _CERTAIN:
        return None
    return "dark" if skewness < 0 else "bright"
