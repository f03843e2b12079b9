"""Small pictures of numbers in a window: a line, or the bars of a histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QMouseEvent, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QWidget

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARGIN = 4  # pixels around the curve


class Plot(QWidget):
    """Picture of y over x, with the values under the mouse in words.

    Parameters
    ----------
    tooltip
        What is to be seen.
    """

    def __init__(self, tooltip: str):
        super().__init__(toolTip=tooltip)
        self.setMinimumHeight(150)
        self.setMouseTracking(True)
        self._x, self._y = np.zeros(0), np.zeros(0)
        self._words, self._bars = "", False
        self._pointed: int | None = None
        self.hide()

    def show_line(self, x: NDArray[np.float64], y: NDArray[np.float64], words: str) -> None:
        """Show a line; `words` formats the numbers ``{x}`` and ``{y}`` under the mouse."""
        self._set(x, y, words, bars=False)

    def show_bars(self, edges: NDArray[np.float64], y: NDArray[np.float64], words: str) -> None:
        """Show a histogram; `words` as in `show_line`, where x is the middle of a bar."""
        self._set((edges[1:] + edges[:-1]) / 2, y, words, bars=True)

    @property
    def caption(self) -> str:
        """The numbers under the mouse, or the range of both axes."""
        if self._pointed is not None:
            return self._words.format(x=self._x[self._pointed], y=self._y[self._pointed])
        return ""

    def _set(self, x: NDArray, y: NDArray, words: str, bars: bool) -> None:
        self._x, self._y, self._words, self._bars = x, y, words, bars
        self._pointed = None
        self.show()
        self.update()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Point at the value nearest to the mouse along x."""
        frame = self._frame()
        span = np.ptp(self._x) or 1
        x = self._x[0] + span * (event.position().x() - frame.left()) / frame.width()
        self._pointed = int(np.abs(self._x - x).argmin())
        self.update()

    def leaveEvent(self, _event: object) -> None:
        """Point at nothing."""
        self._pointed = None
        self.update()

    def _frame(self) -> QRectF:
        """Where the curve is: below it is a line for the numbers along x, above the caption."""
        line = self.fontMetrics().height() + MARGIN
        left = self.fontMetrics().horizontalAdvance("0.000") + MARGIN
        return QRectF(self.rect()).adjusted(left, line, -MARGIN, -line)

    def paintEvent(self, _event: object) -> None:
        """Draw axes, numbers and the curve."""
        if len(self._x) < 2:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().color(self.foregroundRole())
        faint = QPen(ink)
        faint.setColor(ink.darker(200))
        frame, whole = self._frame(), QRectF(self.rect())
        low = min(0.0, float(self._y.min()))
        high = float(self._y.max())
        if high <= low:
            high = low + 1
        x = frame.left() + frame.width() * (self._x - self._x[0]) / (np.ptp(self._x) or 1)
        y = frame.top() + frame.height() * (high - self._y) / (high - low)
        zero = frame.top() + frame.height() * high / (high - low)
        painter.setPen(faint)
        painter.drawRect(frame)
        painter.drawLine(QPointF(frame.left(), zero), QPointF(frame.right(), zero))
        if self._pointed is not None:
            at = x[self._pointed]
            painter.drawLine(QPointF(at, frame.top()), QPointF(at, frame.bottom()))
        align = Qt.AlignmentFlag
        painter.setPen(ink)
        painter.drawText(whole, int(align.AlignHCenter | align.AlignTop), self.caption)
        beside = QRectF(0, frame.top(), frame.left() - MARGIN, frame.height())
        painter.drawText(beside, int(align.AlignRight | align.AlignTop), f"{high:.3g}")
        painter.drawText(beside, int(align.AlignRight | align.AlignBottom), f"{low:.3g}")
        below = frame.adjusted(0, frame.height() + MARGIN, 0, whole.bottom() - frame.bottom())
        painter.drawText(below, int(align.AlignLeft | align.AlignTop), f"{self._x[0]:.3g}")
        painter.drawText(below, int(align.AlignRight | align.AlignTop), f"{self._x[-1]:.3g}")
        if self._bars:
            width = frame.width() / len(x)
            for left, top in zip(x, y, strict=True):
                painter.fillRect(QRectF(left - width / 2, top, width, zero - top), ink)
        else:
            painter.setPen(QPen(ink, 2))
            painter.drawPolyline(QPolygonF([QPointF(*point) for point in zip(x, y, strict=True)]))
