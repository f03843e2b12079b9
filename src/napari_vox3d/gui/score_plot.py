"""Plots with a threshold in them, and small pictures of planes through a tomogram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QPointF, Qt, Signal
from qtpy.QtGui import QColor, QImage, QMouseEvent, QPainter, QPaintEvent, QPen, QPixmap
from qtpy.QtWidgets import QHBoxLayout, QLabel, QWidget

from napari_vox3d.gui.plots import Plot

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARK = QColor("#ffe600")
PICTURE = 96  # pixels
_NAMES = ("across z", "across y", "across x")


class ThresholdPlot(Plot):
    """Plot over scores with a line at the threshold, which the mouse moves.

    Attributes
    ----------
    moved
        Qt signal, emitted with the threshold while the line is dragged.
    dropped
        Qt signal, emitted with the threshold when the line is let go.
    """

    moved = Signal(float)
    dropped = Signal(float)

    def __init__(self, tooltip: str):
        super().__init__(tooltip)
        self.threshold: float | None = None
        self._dragged = False

    def mark(self, threshold: float | None) -> None:
        """Draw the line at a score; None for no line."""
        self.threshold = threshold
        self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Take the line to the mouse."""
        if event.button() == Qt.MouseButton.LeftButton and self.threshold is not None:
            self._dragged = True
            self._drag(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Drag the line, or point at values."""
        if self._dragged:
            self._drag(event)
        elif len(self._x):
            super().mouseMoveEvent(event)

    def mouseReleaseEvent(self, _event: QMouseEvent) -> None:
        """Let the line go."""
        if self._dragged:
            self._dragged = False
            self.dropped.emit(self.threshold)

    def _drag(self, event: QMouseEvent) -> None:
        frame = self._frame()
        share = (event.position().x() - frame.left()) / frame.width()
        low, high = self._range()
        self.mark(round(low + min(max(share, 0.0), 1.0) * (high - low), 3))
        self.moved.emit(self.threshold)

    def _range(self) -> tuple[float, float]:
        if len(self._x) < 2:
            return 0.0, 1.0
        return float(self._x[0]), float(self._x[-1])

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the plot, and the line above it."""
        super().paintEvent(event)
        if self.threshold is None or len(self._x) < 2:
            return
        frame, (low, high) = self._frame(), self._range()
        share = (self.threshold - low) / ((high - low) or 1)
        painter = QPainter(self)
        painter.setPen(QPen(MARK, 2))
        at = frame.left() + min(max(share, 0.0), 1.0) * frame.width()
        painter.drawLine(QPointF(at, frame.top()), QPointF(at, frame.bottom()))


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
        """Show planes of `ReviewedLayer.closeups` between two values; none clear the pictures."""
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
