"""Small pictures of planes through a pick."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QPointF, Qt
from qtpy.QtGui import QImage, QPainter, QPen, QPixmap
from qtpy.QtWidgets import QHBoxLayout, QLabel, QWidget

from napari_vox3d.gui.score_plot import MARK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.volume import Volume

PICTURE = 96  # pixels
_NAMES = ("across z", "across y", "across x")


def planes_through(
    volume: Volume, position: NDArray[np.float64], radius: float
) -> list[NDArray[np.float64]]:
    """Three planes through a particle, across z, y and x, three times as wide as it.

    Parameters
    ----------
    volume
        Tomogram.
    position
        (3,) Å (z, y, x) from the centre of its first voxel.
    radius
        Å.

    Returns
    -------
    list of array
        (rows, columns) mean of the slices within a sixth of the radius; NaN outside the tomogram.
    """
    level = volume.level_for(radius / 12)
    index = level.to_index(volume.origin + position)
    half = np.maximum(2, np.round(1.5 * radius / level.voxel_size)).astype(int)
    thick = np.round(radius / 6 / level.voxel_size).astype(int)
    middle = np.round(index).astype(int)
    planes = []
    for axis in range(3):
        reach = half.copy()
        reach[axis] = thick[axis]
        box = _box(level.values, middle - reach, middle + reach + 1)
        with warnings.catch_warnings():  # a plane may lie outside altogether
            warnings.simplefilter("ignore", RuntimeWarning)
            planes.append(np.nanmean(box, axis=axis))
    return planes


class Closeups(QWidget):
    """Three small pictures of planes through a pick, with a circle of the particle's size."""

    def __init__(self) -> None:
        super().__init__(
            toolTip="The pick in the planes across z, y and x; the circle is its size."
        )
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self.pictures = [QLabel(alignment=Qt.AlignmentFlag.AlignCenter) for _ in _NAMES]
        for picture, name in zip(self.pictures, _NAMES, strict=True):
            picture.setFixedSize(PICTURE, PICTURE)
            picture.setToolTip(f"Plane {name}")
            row.addWidget(picture)
        row.addStretch(1)

    def show_planes(
        self, planes: Sequence[NDArray[np.float64]], limits: tuple[float, float]
    ) -> None:
        """Show planes of `planes_through` between two values; none clear the pictures."""
        self.setVisible(bool(planes))
        for picture, plane in zip(self.pictures, planes, strict=False):
            picture.setPixmap(_picture(plane, limits))


def _picture(plane: NDArray[np.float64], limits: tuple[float, float]) -> QPixmap:
    low, high = limits
    inside = np.isfinite(plane)
    grey = np.zeros(plane.shape, np.uint8)
    share = (plane[inside] - low) / ((high - low) or 1)
    grey[inside] = np.clip(255 * share, 0, 255).astype(np.uint8)
    height, width = plane.shape
    image = QImage(grey.tobytes(), width, height, width, QImage.Format.Format_Grayscale8)
    pixmap = QPixmap.fromImage(image).scaled(
        PICTURE,
        PICTURE,
        Qt.AspectRatioMode.KeepAspectRatio,
        Qt.TransformationMode.SmoothTransformation,
    )
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(MARK, 1))
    radius = min(pixmap.width(), pixmap.height()) / 3  # the planes are three times as wide
    painter.drawEllipse(QPointF(pixmap.width() / 2, pixmap.height() / 2), radius, radius)
    painter.end()
    return pixmap


def _box(values: Any, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values in a box, NaN where it leaves the array."""
    box = np.full(high - low, np.nan)
    inner_low, inner_high = np.maximum(low, 0), np.minimum(high, values.shape)
    if (inner_high > inner_low).all():
        place = tuple(map(slice, inner_low - low, inner_high - low))
        box[place] = np.asarray(values[tuple(map(slice, inner_low, inner_high))])
    return box
