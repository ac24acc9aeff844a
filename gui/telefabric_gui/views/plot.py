"""One plot: series reduced per pixel before pyqtgraph sees them, a cursor with dots, and a pointer."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyqtgraph as pg  # type: ignore[import-untyped]
from PySide6.QtCore import QEvent, QPointF, Qt, Signal
from PySide6.QtGui import QColor, QMouseEvent, QPaintEvent, QWheelEvent
from PySide6.QtWidgets import QApplication

from telefabric_gui import theme
from telefabric_gui.formatting import MINUS, count, real
from telefabric_gui.model.scale import WALL_TIME
from telefabric_gui.reduction import Floats, Samples, columns, cut_at, dots, in_sight, smoothed, strokes, taps, unit_of
from telefabric_gui.views.painting import reported

_RAW_OPACITY = 0.28
_FLAT = 1e-12
"""Share of a value below which floats cannot be distinguished on an axis."""
_WIDE_MAX = 4
"""Lines of two pixels; with more, a pixel each, which take a quarter of the time to paint."""
_TICKS_WIDTH = 56
_TICK_PX, _TICKS_MAX = 80, 100
"""From tick to tick at least, and most of them."""
_TICK_UP_PX = 16, 36
"""From figure to figure beside a low plot and a high one."""
_OVER_PX = 8
"""By so much a figure may be above or below a low plot: else none would be beside it."""
_TIME_STEPS_S = (
    0.001, 0.01, 0.1, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200, 86_400,
)  # fmt: skip
_DAY_S = 86_400
_WHEEL_ZOOM, _WHEEL_SHIFT = 1.2, 0.1
"""One notch of the wheel: a factor, and with Shift a share of what is in sight."""
NO_GAPS: Floats = np.empty((0, 2))


class Curve(NamedTuple):
    """A series as it is drawn: all of it that is held, on the axis of the chart."""

    samples: Samples
    colour: str
    style: Qt.PenStyle
    letter: str
    """At the line's end, where several runs are compared."""
    rising: bool
    """Whether its places do."""
    gaps: Floats
    """Places before and behind what is missing, in a row of an array."""


class _Axis(pg.AxisItem):  # type: ignore[misc]
    """Ticks as figures are written everywhere else."""

    unit = 1.0
    """The divisor of the values."""
    kind = "step"

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        if self.logMode:
            return [f"{10**value:.4g}" for value in values]
        if self.kind.endswith("time"):
            return [_moment(value * self.unit, spacing * self.unit, self.kind) for value in values]
        if self.unit != 1.0:
            exponent = round(math.log10(self.unit))
            return [f"{value:.4g}e{exponent:+d}" if value else "0" for value in values]
        if self.orientation == "bottom":
            return [count(int(value)) if value == int(value) else "" for value in values]
        digits = 0 if spacing >= 1 else 1 if spacing >= 0.1 else 2 if spacing >= 0.01 else 4
        return [real(value, digits) for value in values]

    def tickValues(self, low: float, high: float, size: float) -> list[tuple[float, list[float]]]:
        if self.logMode:
            return [(1.0, _decades(low, high))]
        along = self.orientation == "bottom"
        low_px, high_px = _TICK_UP_PX
        apart_px = _TICK_PX if along else min(max(low_px, size / 4), high_px)
        wanted = (high - low) * self.unit * (apart_px / max(1.0, size))
        if not math.isfinite(10 * wanted):
            return []  # beyond all measure
        shift = 0.0
        if not along or not self.kind.endswith("time"):
            power = 10.0 ** math.floor(math.log10(max(wanted, 1e-300)))
            step = max(next(power * part for part in (1, 2, 5, 10) if power * part >= wanted * 0.999), float(along))
        else:
            step = next((one for one in _TIME_STEPS_S if one >= wanted), math.ceil(wanted / _DAY_S) * _DAY_S)
            shift = _utc_offset_s(high * self.unit) if self.kind == WALL_TIME else 0.0
        first = math.ceil((low * self.unit + shift) / step) * step - shift
        number = min(int((high * self.unit - first) / step) + 1, _TICKS_MAX)
        return [(step / self.unit, [(first + at * step) / self.unit for at in range(number)])]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten, and parts of them when there are few."""
    parts = (1, 2, 5) if high - low < 2 else (1,)
    every = max(1, math.ceil((high - low) / 8))
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [power + math.log10(part) for power in powers if power % every == 0 for part in parts]
    return [value for value in found if low <= value <= high]


def _utc_offset_s(value_s: float) -> float:
    try:
        offset = datetime.fromtimestamp(value_s).astimezone().utcoffset()
    except (OverflowError, ValueError, OSError):
        return 0.0
    return offset.total_seconds() if offset else 0.0


def _moment(value_s: float, spacing_s: float, kind: str) -> str:
    digits = 3 if spacing_s < 0.1 else 1 if spacing_s < 1 else 0
    if kind == WALL_TIME:
        try:
            then = datetime.fromtimestamp(value_s)
        except (OverflowError, ValueError, OSError):
            return ""
        if spacing_s >= _DAY_S:
            return f"{then:%d %b}"
        return f"{then:%H:%M}" if spacing_s >= 60 else f"{then:%H:%M:%S}" + f"{then:.%f}"[: digits + 1 if digits else 0]
    sign, value_s = (MINUS if value_s < 0 else ""), abs(round(value_s, digits))
    minutes, seconds = divmod(value_s, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{sign}{hours}:{minutes:02}:{seconds:0{3 + digits if digits else 2}.{digits}f}"


class Plot(pg.PlotWidget):  # type: ignore[misc]
    """Shows a range that it is given, and tells what the mouse wants; nothing moves by itself."""

    clicked = Signal(float)
    """A place on the axis."""
    pointed = Signal(object)
    """A place on the axis; None when the pointer has left."""
    sight_wanted = Signal(float, float)
    whole_wanted = Signal()
    selected = Signal(float, float)

    def __init__(self) -> None:
        axes = {side: _Axis(side) for side in ("right", "bottom")}
        super().__init__(axisItems=axes, background=None)
        self._axes = axes
        self.setObjectName("chart")
        self.setFrameShape(self.Shape.NoFrame)
        self.setMouseTracking(True)
        self.sight = 0.0, 1.0
        """First and last place on the axis."""
        self.left_out = 0
        """Values in sight that have no place on a logarithmic axis."""
        self._units = 1.0, 1.0
        self._log = False
        self._pressed: tuple[QPointF, tuple[float, float], bool] | None = None
        """Where, with what in sight, and whether it is to select."""
        self._dragged = False
        plot: Any = self.getPlotItem()
        plot.hideButtons()
        plot.setMenuEnabled(False)
        plot.hideAxis("left")
        plot.showAxis("right")
        plot.setContentsMargins(0, 4, 8, 0)
        plot.showGrid(x=False, y=True, alpha=0.12)
        self._plot, self._view = plot, plot.getViewBox()
        self._view.setMouseEnabled(x=False, y=False)
        self._view.enableAutoRange(x=False, y=False)
        self._raws: list[Any] = []
        self._lines: list[Any] = []
        self._letters: list[Any] = []
        self._dots = pg.ScatterPlotItem(size=5, pen=None)
        self._at_cursor = pg.ScatterPlotItem(size=7)
        self._cursor, self._pointer = (pg.InfiniteLine(angle=90, movable=False) for _ in range(2))
        for item, z in ((self._dots, 5), (self._pointer, 8), (self._cursor, 9), (self._at_cursor, 10)):
            item.setZValue(z)
            plot.addItem(item, ignoreBounds=True)
        self._selection = pg.LinearRegionItem(movable=False)
        self._selection.setZValue(-5)
        plot.addItem(self._selection, ignoreBounds=True)
        for hidden in (self._cursor, self._pointer, self._selection):
            hidden.hide()
        self.dress()

    # -- drawing -------------------------------------------------------------------------------------------------

    @property
    def pixels(self) -> int:
        """Columns of the plot."""
        return max(50, int(self._view.width()))

    def set_axis(self, kind: str, *, bottom: bool) -> None:
        """What the axis is of, and whether it is written here."""
        self._axes["bottom"].kind = kind
        self._axes["bottom"].setStyle(showValues=bottom)
        self._axes["bottom"].setHeight(24 if bottom else 4)

    def draw(self, curves: list[Curve], height: tuple[float, float] | None, *, keep: float, log: bool = False) -> None:
        """Curves in sight, with an average that keeps so much. A height of None is that of what is in sight."""
        if log != self._log:
            self._log = log
            self._axes["right"].setLogMode(False, log)
        self._hold(len(curves))
        self.left_out, found, spots = 0, [], []
        unit = unit_of(np.array(height if height else [_largest(curve.samples) for curve in curves], np.float64))
        unit = 1.0 if log else unit
        self._units = unit_of(np.array(self.sight)), unit
        for axis, one in zip((self._axes["bottom"], self._axes["right"]), self._units, strict=True):
            axis.unit = one
        wide = 2.0 if len(curves) <= _WIDE_MAX else 1.0
        for curve, *items in zip(curves, self._raws, self._lines, self._letters, strict=True):
            low, high, seen = self._draw_one(curve, items, keep, wide)
            found += [low, high]
            spots += seen
        if spots or len(self._dots.data):
            self._dots.setData(spots)
        known = [value for value in found if math.isfinite(value)]
        if height is None or log:
            height = (min(known), max(known)) if known else (0.0, 1.0)
        else:
            height = height[0] / unit, height[1] / unit
        self._fit(height)

    def _draw_one(
        self, curve: Curve, items: list[Any], keep: float, wide: float
    ) -> tuple[float, float, list[dict[str, Any]]]:
        """One curve; its lowest and highest value in sight, and its dots."""
        raw, line, letter = items
        x_unit, unit = self._units
        first, last = self.sight
        pixel = (last - first) / self.pixels
        seen = cut_at(in_sight(curve.samples, first, last, taps(keep), rising=curve.rising), curve.gaps)
        if unit != 1.0:
            seen = seen._replace(low=seen.low / unit, high=seen.high / unit, mean=seen.mean / unit)
        found = columns(seen, first, last, self.pixels)
        average = smoothed(found.mean, found.number, keep) if keep else found.mean
        shown = (found.x >= first - 2 * pixel) | np.append(found.x[1:] >= first, False)[: len(found.x)]
        if self._log:
            self.left_out += int(found.number[(found.high <= 0) & (found.x >= first) & (found.x <= last)].sum())
            shown &= found.high > 0
        kept = np.flatnonzero(shown)
        found, average = found.at(kept), average[kept]
        found = found._replace(cut=found.cut | (np.diff(kept, prepend=-1) > 1))
        if self._log:
            least = float(found.high.min(initial=1.0)) * 1e-3
            low, high, mean, average = (
                np.log10(np.maximum(one, least)) for one in (found.low, found.high, found.mean, average)
            )
            found = found._replace(low=low, high=high, mean=mean)
        faint, full = QColor(curve.colour), QColor(curve.colour)
        faint.setAlphaF(_RAW_OPACITY if keep else 1.0)
        raw.setPen(pg.mkPen(faint, width=1))
        along, up = strokes(found, pixel)
        raw.setData(along / x_unit, up, connect="pairs")
        line.setVisible(bool(keep))
        if keep:
            line.setPen(pg.mkPen(full, width=wide, style=curve.style))
            goes_on = np.append(~found.cut[1:], False)[: len(found.x)]
            line.setData(found.x / x_unit, average, connect=goes_on.astype(np.int32))
        letter.setVisible(bool(curve.letter and (ends := np.flatnonzero(found.x <= last)).size))
        if letter.isVisible():
            letter.setText(f" {curve.letter} ", color=theme.active().on_accent)
            letter.fill = pg.mkBrush(full)
            letter.setPos(found.x[ends[-1]] / x_unit, average[ends[-1]])
        brush = pg.mkBrush(full)
        seen_dots = np.flatnonzero(dots(found, self.pixels))
        spots = [{"pos": (found.x[at] / x_unit, found.mean[at]), "brush": brush} for at in seen_dots.tolist()]
        return float(found.low.min(initial=math.inf)), float(found.high.max(initial=-math.inf)), spots

    def _fit(self, height: tuple[float, float]) -> None:
        low, high = height
        flat = high - low <= _FLAT * max(abs(low), abs(high))
        margin = max(0.5, abs(low) * 0.05) if flat else (high - low) * 0.06
        x_unit = self._units[0]
        first, last = self.sight[0] / x_unit, self.sight[1] / x_unit
        wide = last if last > first else first + max(1.0, abs(first) * 1e-9)
        self._view.setRange(xRange=(first, wide), yRange=(low - margin, high + margin), padding=0)

    def _hold(self, number: int) -> None:
        while len(self._raws) < number:
            raw, line = (self._plot.plot(skipFiniteCheck=True, antialias=smooth) for smooth in (False, True))
            for drawn in (raw, line):
                drawn.curve.setSegmentedLineMode("on")  # as one path it takes ten times as long to paint
            self._raws.append(raw)
            self._lines.append(line)
            letter = pg.TextItem(anchor=(1.0, 0.5))
            letter.setFont(theme.text_font(10, bold=True))
            letter.textItem.document().setDocumentMargin(1)
            letter.setZValue(7)
            self._plot.addItem(letter, ignoreBounds=True)
            self._letters.append(letter)
        while len(self._raws) > number:
            for items in (self._raws, self._lines, self._letters):
                self._plot.removeItem(items.pop())

    # -- cursor, pointer, selection ------------------------------------------------------------------------------

    def show_cursor(self, at: float | None, values: list[tuple[float, str]]) -> None:
        """The cursor's place, and dots at these values in these colours."""
        self._place(self._cursor, at)
        spots = []
        for value, colour in values if at is not None else ():
            high = value / self._units[1]
            if self._log:
                high = math.log10(high) if high > 0 else math.nan
            if math.isfinite(high):
                spots.append({"pos": (self._cursor.value(), high), "brush": pg.mkBrush(colour)})
        if spots or len(self._at_cursor.data):
            self._at_cursor.setData(spots)

    def show_pointer(self, at: float | None) -> None:
        self._place(self._pointer, at)

    def show_selection(self, first: float, last: float) -> None:
        """A selection; none when it is empty."""
        self._selection.setVisible(last > first)
        self._selection.setRegion((first / self._units[0], last / self._units[0]))

    def _place(self, line: Any, at: float | None) -> None:
        line.setVisible(at is not None)
        if at is not None:
            line.setValue(at / self._units[0])

    # -- mouse ---------------------------------------------------------------------------------------------------

    def place_at(self, x: float) -> float:
        """The place on the axis of a pixel of the widget."""
        box = self._view.sceneBoundingRect()
        first, last = self.sight
        return first + (x - float(box.left())) / max(1.0, float(box.width())) * (last - first)

    def pixel_of(self, place: float) -> float:
        """The pixel of a place on the axis."""
        box = self._view.sceneBoundingRect()
        first, last = self.sight
        return float(box.left()) + (place - first) / (last - first) * float(box.width())

    def wheelEvent(self, event: QWheelEvent) -> None:
        first, last = self.sight
        notches = event.angleDelta().y() / 120
        if event.modifiers() & Qt.KeyboardModifier.ShiftModifier or not notches:
            shift = -(event.angleDelta().x() / 120 or notches) * _WHEEL_SHIFT * (last - first)
            self.sight_wanted.emit(first + shift, last + shift)
        else:
            at, factor = self.place_at(event.position().x()), _WHEEL_ZOOM**-notches
            self.sight_wanted.emit(at - (at - first) * factor, at + (last - at) * factor)
        event.accept()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            shift = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
            self._pressed, self._dragged = (event.position(), self.sight, shift), False
            event.accept()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self.pointed.emit(self.place_at(event.position().x()))
        if self._pressed is None:
            return
        begin, (first, last), selects = self._pressed
        self._dragged |= (event.position() - begin).manhattanLength() >= QApplication.startDragDistance()
        if self._dragged and selects:
            self.selected.emit(*sorted(self.place_at(place.x()) for place in (begin, event.position())))
        elif self._dragged:
            shift = (begin.x() - event.position().x()) / self.pixels * (last - first)
            self.sight_wanted.emit(first + shift, last + shift)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        pressed, self._pressed = self._pressed, None
        if pressed and not self._dragged:
            self.clicked.emit(self.place_at(event.position().x()))

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self.whole_wanted.emit()
        event.accept()

    def leaveEvent(self, event: QEvent) -> None:
        self.pointed.emit(None)
        super().leaveEvent(event)

    # -- as a widget ---------------------------------------------------------------------------------------------

    def dress(self) -> None:
        """Take the colours of the theme."""
        colours = theme.active()
        self._cursor.setPen(pg.mkPen(colours.text, width=1.5))
        self._pointer.setPen(pg.mkPen(colours.faint, width=1))
        self._at_cursor.setPen(pg.mkPen(colours.panel, width=1))
        ground = QColor(colours.accent)
        ground.setAlphaF(0.14)
        self._selection.setBrush(pg.mkBrush(ground))
        for line in self._selection.lines:
            line.setPen(pg.mkPen(colours.accent, width=1.5))
        for axis in self._axes.values():
            axis.setPen(pg.mkPen(colours.line))
            axis.setTickPen(pg.mkPen(colours.faint))
            axis.setTextPen(pg.mkPen(colours.dim))
            axis.setStyle(tickFont=theme.text_font(11), tickLength=0, tickTextOffset=6, maxTickLevel=0)
        self._axes["right"].setWidth(_TICKS_WIDTH)
        self._axes["right"].setStyle(hideOverlappingLabels=_OVER_PX)
        self._axes["bottom"].setTickPen(pg.mkPen(None))

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.StyleChange and hasattr(self, "_selection"):
            self.dress()

    def paintEvent(self, event: QPaintEvent) -> None:
        with reported():
            super().paintEvent(event)


def _largest(samples: Samples) -> float:
    return float(max(np.abs(samples.low).max(initial=0.0), np.abs(samples.high).max(initial=0.0)))
