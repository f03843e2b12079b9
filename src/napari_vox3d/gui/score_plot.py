"""Plots over scores with a threshold in them."""

from __future__ import annotations

from qtpy.QtCore import QPointF, Qt, Signal
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen

from napari_vox3d.gui.plots import Plot

MARK = QColor("#ffe600")


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
