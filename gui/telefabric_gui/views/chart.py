"""A chart of one series: the raw line faint, the smoothed one over it. Reduced per pixel before pyqtgraph sees it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyqtgraph as pg  # type: ignore[import-untyped]
from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QColor, QPaintEvent

from telefabric_gui import theme
from telefabric_gui.agent_stream import Points
from telefabric_gui.formatting import count, real
from telefabric_gui.reduction import Floats, extremes, means, smoothed, unit_of
from telefabric_gui.views.painting import reported

_RAW_OPACITY = 0.28
_FLAT = 1e-12
"""Share of a value below which floats cannot be distinguished on an axis."""
_EMPTY = np.empty(0, np.float64)


class _StepAxis(pg.AxisItem):  # type: ignore[misc]
    """Ticks as figures are written everywhere else."""

    unit = 1.0
    """The divisor of the values."""

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        if self.unit != 1.0:
            exponent = round(math.log10(self.unit))
            return [f"{value:.4g}e{exponent:+d}" if value else "0" for value in values]
        if self.orientation == "bottom":
            return [count(int(value)) if value == int(value) else "" for value in values]
        digits = 0 if spacing >= 1 else 1 if spacing >= 0.1 else 2 if spacing >= 0.01 else 4
        return [real(value, digits) for value in values]


class SeriesChart(pg.PlotWidget):  # type: ignore[misc]
    """Follows its data until one zooms or drags; a double click shows all again."""

    def __init__(self) -> None:
        axes = {side: _StepAxis(side) for side in ("left", "bottom")}
        super().__init__(axisItems=axes, background=None)
        self._axes = axes
        self.setObjectName("chart")
        self.setFrameShape(self.Shape.NoFrame)
        self._points = Points(_EMPTY, _EMPTY)
        self._smooth: Floats = _EMPTY
        plot: Any = self.getPlotItem()
        plot.hideButtons()
        plot.setMenuEnabled(False)
        plot.setContentsMargins(8, 4, 16, 4)
        plot.showGrid(x=False, y=True, alpha=0.12)
        self._raw = plot.plot(skipFiniteCheck=True)
        self._line = plot.plot(skipFiniteCheck=True, antialias=True)
        self._line.curve.setSegmentedLineMode("on")  # a wide line as one path takes ten times as long to paint
        self._end = pg.InfiniteLine(angle=90, movable=False)
        plot.addItem(self._end, ignoreBounds=True)
        self._view: Any = plot.getViewBox()
        self._view.setDefaultPadding(0.03)
        self._view.setMouseEnabled(x=True, y=False)
        self._view.enableAutoRange(x=False, y=False)
        self.following = True
        """Whether all of the series is in sight, and stays so."""
        self._view.sigRangeChangedManually.connect(self._on_moved)
        self._view.sigXRangeChanged.connect(self._on_range)
        self._view.sigResized.connect(self._on_range)
        self.dress()

    def show_points(self, points: Points) -> None:
        """Draw these from now on, in units in which they have a common size."""
        axes = self._axes["bottom"], self._axes["left"]
        for axis, values in zip(axes, points[:2], strict=True):
            axis.unit = unit_of(values)
        points = self._points = Points(points.x / axes[0].unit, points.y / axes[1].unit)
        self._smooth = smoothed(points.y)
        if self.following:
            self._show_all()
        self._redraw()

    def follow(self) -> None:
        """Show all of the series, and go on so."""
        self.following = True
        self._show_all()
        self._redraw()

    def dress(self) -> None:
        """Take the colours of the theme."""
        colours = theme.active()
        faint = QColor(colours.series[0])
        faint.setAlphaF(_RAW_OPACITY)
        self._raw.setPen(pg.mkPen(faint, width=1))
        self._line.setPen(pg.mkPen(colours.series[0], width=2))
        self._end.setPen(pg.mkPen(colours.series[0], width=1, style=Qt.PenStyle.DashLine))
        for axis in self._axes.values():
            axis.setPen(pg.mkPen(colours.line))
            axis.setTickPen(pg.mkPen(colours.faint))
            axis.setTextPen(pg.mkPen(colours.dim))
            axis.setStyle(tickFont=theme.text_font(11), tickLength=0, tickTextOffset=6, maxTickLevel=0)
        self._axes["left"].setTickDensity(1.6)
        self._axes["left"].setWidth(52)
        self._axes["bottom"].setHeight(24)

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.StyleChange and hasattr(self, "_end"):
            self.dress()

    def paintEvent(self, event: QPaintEvent) -> None:
        with reported():
            super().paintEvent(event)

    def mouseDoubleClickEvent(self, event: Any) -> None:
        self.follow()
        event.accept()

    def _show_all(self) -> None:
        x, y, _ = self._points
        if not len(x):
            return
        low, high = float(y.min()), float(y.max())
        flat = high - low <= _FLAT * max(abs(low), abs(high))
        margin = max(0.5, abs(low) * 0.05) if flat else (high - low) * 0.04
        first, last = float(x[0]), float(x[-1])
        self._view.setRange(xRange=(first, last if last > first else first + 1), yRange=(low - margin, high + margin),
                            padding=0)  # fmt: skip

    def _redraw(self) -> None:
        x, y, _ = self._points
        first, last = self._view.viewRange()[0]
        pixels = max(50, int(self._view.width()))
        raw = extremes(x, y, first, last, pixels)
        # One line a column, so that none is drawn over another and all are equally faint.
        self._raw.setData(*raw, connect="pairs" if len(raw[0]) < len(x) else "all")
        self._line.setData(*means(x, self._smooth, first, last, pixels))
        self._end.setVisible(bool(len(x)))
        if len(x):
            self._end.setValue(float(x[-1]))

    def _on_moved(self, *what: object) -> None:
        self.following = False

    def _on_range(self, *what: object) -> None:
        if not self.following:
            self._redraw()
