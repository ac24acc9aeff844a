"""The time line: the whole run along the bottom, and the one place that shows what is stored of it and what is missing.

Density, spans and bands are painted into a pixmap when they change; cursor, selection and pointer on top of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PySide6.QtCore import QEvent, QPoint, QPointF, QRectF, Qt, Signal
from PySide6.QtGui import (
    QBrush,
    QColor,
    QContextMenuEvent,
    QFontMetricsF,
    QHelpEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QPolygonF,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QToolTip, QWidget

from telefabric_gui import theme
from telefabric_gui.formatting import clock, count, plural, real, short
from telefabric_gui.model.axis import By
from telefabric_gui.model.cursor import Cursor
from telefabric_gui.model.timescale import TimeScale
from telefabric_gui.model.whole_run import Alert, Span, WholeRun
from telefabric_gui.views.painting import fill_with, painting, write

NAMES_PX, RIGHT_PX = 64, 16
_GAP = 4
_MARKS, _EVENTS, _SPAN, _BAND, _AXIS, _RUN = 14, 20, 12, 14, 16, 8
_LEGEND = ("stored", "live only", "missing", "not loaded")
_LEGEND_PX = 300
"""Right of the run."""
_LEGEND_FROM_PX = 560
_MARK_PX = 6.0
"""The least width of a missing range: it has no rows of its own."""
_GRAB_PX = 5
_LINES = {False: Qt.PenStyle.SolidLine, True: Qt.PenStyle.DashLine}
"""Under the mark of a bookmark, and of an alert."""
_TICK_PX, _EDGE_PX, _APART_PX = 110, 40, 6
_ENDS_PX = 4
"""Ends of episodes are marked when they are on average so far apart."""
_ZOOM = 1.25


def _rows(band: tuple[float, float, str]) -> float:
    return band[1] - band[0]


class _Lane(NamedTuple):
    name: str
    top: int
    height: int

    @property
    def rect(self) -> tuple[int, int]:
        return self.top, self.top + self.height


class TimeLine(QWidget):
    """Shows and moves a cursor over a `WholeRun`. Drag scrubs, the wheel zooms, Shift and drag selects."""

    menu_wanted = Signal(QPoint, int)
    """At this place of the screen, for a row."""

    def __init__(self) -> None:
        super().__init__()
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setAccessibleName("Time line")
        self._cursor: Cursor | None = None
        self._whole: WholeRun | None = None
        self._by = By.STEP
        self._lanes: list[_Lane] = []
        self._still: QPixmap | None = None
        self._drag = ""
        """What the pointer drags: cursor, selection, first or last end of it, frame."""
        self._anchor = 0.0
        self._pointer: float | None = None
        self._lay_out()

    # -- what it shows -------------------------------------------------------------------------------------------

    def show_run(self, cursor: Cursor | None, whole: WholeRun | None) -> None:
        """Show another cursor and its run, or nothing."""
        if cursor is self._cursor and whole is self._whole:
            return
        if self._cursor is not None:
            for signal in (self._cursor.moved, self._cursor.selection_changed):
                signal.disconnect(self.update)
            self._cursor.sight_changed.disconnect(self._changed)
        if self._whole is not None:
            self._whole.changed.disconnect(self._changed)
        self._cursor, self._whole, self._drag = cursor, whole, ""
        if cursor is not None:
            for signal in (cursor.moved, cursor.selection_changed):
                signal.connect(self.update)
            cursor.sight_changed.connect(self._changed)
        if whole is not None:
            whole.changed.connect(self._changed)
        self._changed()

    def show_axis(self, by: By) -> None:
        self._by = by
        self._changed()

    @property
    def scale(self) -> TimeScale:
        """Rows to pixels right of the names."""
        assert self._cursor is not None
        assert self._whole is not None
        return TimeScale(self._whole.axis, self._whole.episodes, self._by, self._cursor.sight, self._room)

    @property
    def _room(self) -> float:
        return max(1.0, self.width() - NAMES_PX - RIGHT_PX)

    @property
    def _run_room(self) -> float:
        """For the whole run below, beside the legend."""
        return self._room - _LEGEND_PX if self._room >= _LEGEND_FROM_PX else self._room

    def _changed(self) -> None:
        self._still = None
        self._lay_out()
        self.update()

    def _lay_out(self) -> None:
        """The lanes from top to bottom; a run of one mode and no named policy has no bands of it."""
        bands = self._whole.bands if self._whole is not None else []
        names = [("marks", _MARKS), ("events", _EVENTS), ("span", _SPAN), ("mode", _BAND)]
        if any(band.policy_label for band in bands):
            names.append(("policy", _BAND))
        top, lanes = 0, []
        for name, height in [*names, ("axis", _AXIS), ("run", _RUN)]:
            lanes.append(_Lane(name, top, height))
            top += height + _GAP
        self._lanes = lanes
        if self.minimumHeight() != top + 2 * _GAP:
            self.setFixedHeight(top + 2 * _GAP)

    # -- painting ------------------------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        with painting(self) as painter:
            if self._cursor is None or self._whole is None or not self._cursor.total:
                return
            if self._still is None:
                self._still = self._paint_still()
            painter.drawPixmap(0, 0, self._still)
            self._paint_moving(painter, self.scale)

    def _paint_still(self) -> QPixmap:
        ratio = self.devicePixelRatioF()
        still = QPixmap(round(self.width() * ratio), round(self.height() * ratio))
        still.setDevicePixelRatio(ratio)
        still.fill(QColor(theme.active().panel))
        scale = self.scale
        with painting(still) as painter:
            for lane in self._lanes:
                if lane.name in ("events", "span", "mode", "policy", "run"):
                    area = QRectF(14, lane.top + lane.height / 2 - 8, NAMES_PX - 14, 16)
                    write(painter, area, lane.name, theme.active().dim, theme.text_font(theme.CAPTION_PX))
            painter.save()
            painter.setClipRect(QRectF(NAMES_PX, 0, self._room, self.height()))
            painter.translate(NAMES_PX, 0)
            for lane in self._lanes:
                getattr(self, f"_paint_{lane.name}")(painter, lane, scale)
            painter.restore()
        return still

    def _paint_marks(self, painter: QPainter, lane: _Lane, scale: TimeScale) -> None:
        """Flags of bookmarks and triangles of alerts, with their words where there is room."""
        colours = theme.active()
        free = -1.0
        for mark in self._marks():
            x = float(scale.x(mark.row))
            colour = getattr(colours, mark.tone) if mark.tone else colours.text
            foot = lane.top + lane.height + (_GAP + _EVENTS if mark.tone else 0)
            painter.setPen(QPen(QColor(colour if mark.tone else colours.dim), 1, _LINES[bool(mark.tone)]))
            painter.drawLine(QPointF(x, lane.top), QPointF(x, foot))
            fill_with(painter, colour)
            shape = ((-5, 9), (5, 9), (0, 0)) if mark.tone else ((0, 0), (7, 3), (0, 6))
            painter.drawPolygon(QPolygonF([QPointF(x + right, lane.top + down) for right, down in shape]))
            if x > free:
                area = QRectF(x + 10, lane.top - 1, 140, lane.height)
                write(painter, area, mark.label, colour if mark.tone else colours.dim, theme.text_font(11))
                free = x + 14 + 6 * len(mark.label)

    def _marks(self) -> list[Alert]:
        """Alerts, and bookmarks as marks without a tone."""
        assert self._whole is not None
        names = [(row, short(one.label) or "bookmark") for row, one in self._whole.bookmarks]
        return sorted([*(Alert(row, name, name, "") for row, name in names), *self._whole.alerts])

    def _paint_events(self, painter: QPainter, lane: _Lane, scale: TimeScale) -> None:
        """Rows a second as bars, of the highest in sight, and the ends of episodes below where they are few."""
        assert self._whole is not None
        colours, bars = theme.active(), max(1, int(self._room // 4))
        rates = self._whole.axis.rates(scale.rows(np.linspace(0, self._room, bars + 1)))
        most = float(rates.max()) if len(rates) else 0.0
        fill_with(painter, theme.mixed(colours.faint, colours.panel, 0.6))
        if most > 0:
            for n in np.flatnonzero(rates).tolist():
                height = max(1.0, float(rates[n]) / most * lane.height)
                painter.drawRect(QRectF(n * 4, lane.top + lane.height - height, 3, height))
        ends = scale.x(self._whole.episodes.row + 1)
        ends = ends[(ends >= 0) & (ends <= self._room)]
        if len(ends) * _ENDS_PX < self._room:
            painter.setPen(QPen(QColor(colours.accent), 1))
            for x in ends:
                painter.drawLine(QPointF(x, lane.top + lane.height - 1), QPointF(x, lane.top + lane.height + 2))

    def _paint_span(self, painter: QPainter, lane: _Lane, scale: TimeScale) -> None:
        assert self._whole is not None
        fill_with(painter, span_colour("not loaded"))
        painter.drawRoundedRect(QRectF(0, lane.top, self._room, lane.height), 3, 3)
        for span in self._whole.spans():
            paint_span(painter, self._area(span, lane, scale), span.kind)

    def _area(self, span: Span, lane: _Lane, scale: TimeScale) -> QRectF:
        first, last = (float(x) for x in scale.x([span.first, span.last]))
        if span.kind == "missing":
            first, last = first - _MARK_PX / 2, max(last, first) + _MARK_PX / 2
        first, last = max(first, -8.0), min(last, self._room + 8)
        return QRectF(first, lane.top, max(0.0, last - first), lane.height)

    def _paint_mode(self, painter: QPainter, lane: _Lane, scale: TimeScale) -> None:
        colours = theme.active()
        for first, last, mode in sorted(self._bands("control_mode"), key=_rows, reverse=True):  # short ones on top
            self._paint_band(painter, lane, scale, first, last, mode or "unknown", colours.mode(mode))

    def _paint_policy(self, painter: QPainter, lane: _Lane, scale: TimeScale) -> None:
        colours = theme.active()
        for n, (first, last, policy) in enumerate(self._bands("policy_label")):
            if policy:
                self._paint_band(painter, lane, scale, first, last, policy, (colours.faint, colours.dim)[n % 2])

    def _bands(self, item: str) -> list[tuple[float, float, str]]:
        """Neighbours that have the same mode, or policy, are one band."""
        assert self._whole is not None
        found: list[tuple[float, float, str]] = []
        for band in self._whole.bands:
            value = getattr(band, item) or ""
            if found and found[-1][2] == value:
                continue
            if found:
                found[-1] = found[-1][0], float(band.n), found[-1][2]
            found.append((float(band.n), float(self._whole.stored.rows if self._whole.stored else 0), value))
        return found

    def _paint_band(
        self, painter: QPainter, lane: _Lane, scale: TimeScale, first: float, last: float, text: str, colour: str
    ) -> None:
        low, high = (float(x) for x in scale.x([first, last]))
        low, high = max(low, 0.0), min(max(high, low + 1.0), self._room)
        if high <= low:
            return
        colours = theme.active()
        fill_with(painter, theme.mixed(colour, colours.panel, 0.26))
        painter.drawRect(QRectF(low, lane.top, high - low, lane.height - 1.5))
        fill_with(painter, colour)
        painter.drawRect(QRectF(low, lane.top + lane.height - 1.5, high - low, 1.5))
        if high - low > 7 * len(text) + 12:
            area = QRectF(low + 6, lane.top - 1, high - low - 8, lane.height)
            write(painter, area, text, colours.text, theme.text_font(11))

    def _paint_axis(self, painter: QPainter, lane: _Lane, scale: TimeScale) -> None:
        colours = theme.active()
        metrics, end = QFontMetricsF(theme.figure_font(11)), -math.inf
        for x, text in scale.ticks(_TICK_PX):
            painter.setPen(QPen(QColor(colours.line), 1))
            painter.drawLine(QPointF(x, lane.top - 2), QPointF(x, lane.top + 2))
            area, alignment = QRectF(x - 60, lane.top + 2, 120, lane.height), theme.CENTRED
            if x < _EDGE_PX:
                area.moveLeft(x)
                alignment = theme.LEFT
            elif x > self._room - _EDGE_PX:
                area.moveRight(x)
                alignment = theme.RIGHT
            wide = metrics.horizontalAdvance(text)
            left = {theme.LEFT: x, theme.CENTRED: x - wide / 2, theme.RIGHT: x - wide}[alignment]
            if left < end + _APART_PX:
                continue  # where rows are missing, steps far from each other are beside each other
            end = left + wide
            write(painter, area, text, colours.dim, theme.figure_font(11), alignment)

    def _paint_run(self, painter: QPainter, lane: _Lane, scale: TimeScale) -> None:
        """All of the run, and a frame around what is in sight."""
        assert self._whole is not None
        assert self._cursor is not None
        all_of_it, room = max(1.0, float(self._whole.rows)), self._run_room
        fill_with(painter, span_colour("not loaded"))
        painter.drawRoundedRect(QRectF(0, lane.top + 1, room, lane.height - 2), 3, 3)
        for span in self._whole.spans():
            low, high = (x / all_of_it * room for x in (span.first, span.last))
            if span.kind == "missing":
                low, high = low - 1.5, high + 1.5
            paint_span(painter, QRectF(low, lane.top + 1, high - low, lane.height - 2), span.kind)
        if not self._cursor.sees_all:
            first, last = (row / all_of_it * room for row in self._cursor.sight)
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(QColor(theme.active().text), 1.5))
            painter.drawRoundedRect(QRectF(first, lane.top, max(6.0, last - first), lane.height), 2, 2)
        if room < self._room:
            self._paint_legend(painter, lane.top + lane.height / 2)

    def _paint_legend(self, painter: QPainter, middle: float) -> None:
        font, right = theme.text_font(11), self._room
        for kind in reversed(_LEGEND):
            wide = QFontMetricsF(font).horizontalAdvance(kind)
            write(painter, QRectF(right - wide, middle - 8, wide + 2, 16), kind, theme.active().dim, font)
            paint_span(painter, QRectF(right - wide - 18, middle - 4, 12, 8), kind)
            right -= wide + 32

    def _paint_moving(self, painter: QPainter, scale: TimeScale) -> None:
        assert self._cursor is not None
        colours, last = theme.active(), next(lane for lane in self._lanes if lane.name == "axis")
        painter.setClipRect(QRectF(NAMES_PX - 6, 0, self._room + 12, self.height()))
        painter.translate(NAMES_PX, 0)
        if self._cursor.selection is not None:
            low, high = (float(x) for x in scale.x(self._cursor.selection))
            shade = QColor(colours.accent)
            shade.setAlphaF(0.25)
            fill_with(painter, shade)
            painter.drawRect(QRectF(low, 0, high - low, last.top - _GAP))
            fill_with(painter, colours.accent)
            for x in (low, high):
                painter.drawRect(QRectF(x - 1, 0, 2, last.top - _GAP))
                painter.drawRoundedRect(QRectF(x - 3, 0, 6, 10), 2, 2)
        if self._pointer is not None and not self._drag:
            painter.setPen(QPen(QColor(colours.faint), 1))
            painter.drawLine(QPointF(self._pointer, 0), QPointF(self._pointer, last.top - _GAP))
        if self._cursor.row is not None:
            x = float(scale.x(self._cursor.row))
            painter.setPen(QPen(QColor(colours.text), 1.5))
            painter.drawLine(QPointF(x, 4), QPointF(x, last.top - _GAP))
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            fill_with(painter, colours.text)
            painter.drawEllipse(QPointF(x, 5), 4.5, 4.5)

    # -- pointer -------------------------------------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() is not Qt.MouseButton.LeftButton or self._cursor is None or not self._cursor.total:
            return
        x = event.position().x() - NAMES_PX
        row, selection = float(self.scale.rows(x)), self._cursor.selection
        ends = self.scale.x(selection).tolist() if selection is not None else []
        self._anchor = row
        lane = self._lane_at(event.position().y())
        if lane == "run":
            self._drag = "frame"
        elif lane == "marks" and (marked := self._flag_at(x)) is not None:
            self._cursor.go_to(marked)
            return
        elif event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            self._drag = "selection"
        elif selection is not None and min(abs(end - x) for end in ends) <= _GRAB_PX:
            self._drag = "selection"
            self._anchor = float(selection[0] if abs(ends[1] - x) <= _GRAB_PX else selection[1])
        else:
            self._drag = "cursor"
        self._dragged(x)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        x = event.position().x() - NAMES_PX
        self._pointer = x if 0 <= x <= self._room else None
        if self._drag:
            self._dragged(x)
        self.update()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._drag = ""
        self.update()

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        x, lane = event.pos().x() - NAMES_PX, self._lane_at(event.pos().y())
        if self._cursor is not None and self._cursor.total and lane != "run" and 0 <= x <= self._room:
            marked = self._flag_at(x) if lane == "marks" else None
            row = round(float(self.scale.rows(x))) if marked is None else marked
            self.menu_wanted.emit(event.globalPos(), min(row, self._cursor.total - 1))

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        if self._cursor is not None:
            self._cursor.see_all()

    def leaveEvent(self, event: QEvent) -> None:
        self._pointer = None
        self.update()

    def wheelEvent(self, event: QWheelEvent) -> None:
        if self._cursor is None or not self._cursor.total:
            return
        notches = event.angleDelta().y() / 120
        if notches:
            x = event.position().x() - NAMES_PX
            self._cursor.zoom(_ZOOM**-notches, float(self.scale.rows(min(max(x, 0.0), self._room))))
        elif sideways := event.angleDelta().x() / 120:
            first, last = self._cursor.sight
            by = -sideways * (last - first) / 10
            self._cursor.see(first + by, last + by)

    def _dragged(self, x: float) -> None:
        assert self._cursor is not None
        row = round(float(self.scale.rows(min(max(x, 0.0), self._room))))
        if self._drag == "cursor":
            self._cursor.go_to(row)
        elif self._drag == "selection":
            self._cursor.select(round(self._anchor), row)
        elif self._drag == "frame":
            first, last = self._cursor.sight
            at = min(max(x / self._run_room, 0.0), 1.0) * self._cursor.total
            if self._cursor.sees_all:
                self._cursor.go_to(round(at))
            else:
                self._cursor.see(at - (last - first) / 2, at + (last - first) / 2)

    def _flag_at(self, x: float) -> int | None:
        """The row of the bookmark or alert at a pixel."""
        near = [(abs(float(self.scale.x(one.row)) + (0 if one.tone else 3) - x), one.row) for one in self._marks()]
        return min(near)[1] if near and min(near)[0] <= _GRAB_PX else None

    def _lane_at(self, y: float) -> str:
        return next((lane.name for lane in self._lanes if lane.top <= y < lane.top + lane.height + _GAP), "")

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            said = self.sentence_at(event.pos().x(), event.pos().y())
            QToolTip.showText(event.globalPos(), said, self) if said else QToolTip.hideText()
            return True
        return super().event(event)

    def sentence_at(self, x: float, y: float) -> str:
        """What is under the pointer, in words."""
        if self._cursor is None or self._whole is None or not self._cursor.total:
            return ""
        x -= NAMES_PX
        scale, lane = self.scale, self._lane_at(y)
        row = float(scale.rows(x))
        axis = self._whole.axis
        step = count(round(float(axis.steps(row))))
        if lane == "marks":
            near = [one.sentence for one in self._marks() if abs(float(scale.x(one.row)) - x) <= _GRAB_PX]
            return "\n".join(near)
        if lane in ("span", "run"):
            place = row if lane == "span" else x / self._run_room * self._whole.rows
            grab = (
                float(scale.rows(x + _MARK_PX) - scale.rows(x))
                if lane == "span"
                else self._whole.rows / self._run_room * 3
            )
            spans = self._whole.spans()
            near_by = [one for one in spans if one.kind == "missing" and abs(one.first - place) <= grab]
            here = [one for one in spans if one.kind != "missing" and one.first <= place <= one.last]
            return "\n".join(f"{one.kind}: {one.sentence}" for one in (near_by or here))
        if lane in ("mode", "policy"):
            band = self._whole.band_at(row)
            return "" if band is None else f"{band.control_mode}, policy {band.policy_label or 'not named'}"
        if lane == "events":
            rate = axis.rates(scale.rows(np.array([x - 2, x + 2])))
            return f"step {step} · {clock(axis.time_ns(row))} · {real(float(rate[0]), 0)} steps/s" if axis else ""
        return f"step {step} of {plural(self._whole.rows, 'row')}"

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._changed()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() in (QEvent.Type.StyleChange, QEvent.Type.PaletteChange):
            self._still = None
        super().changeEvent(event)


def span_colour(kind: str) -> str:
    """Of the spans' legend and painting; a missing one is hatched, too."""
    colours = theme.active()
    return {"stored": colours.stored, "live only": colours.live_only, "missing": colours.missing}.get(
        kind, colours.line
    )


def paint_span(painter: QPainter, area: QRectF, kind: str) -> None:
    fill_with(painter, span_colour(kind))
    if kind == "missing":
        fill_with(painter, theme.active().panel)
        painter.drawRect(area)
        painter.setBrush(QBrush(QColor(span_colour(kind)), Qt.BrushStyle.BDiagPattern))
        painter.setPen(QPen(QColor(span_colour(kind)), 1))
    painter.drawRect(area)
