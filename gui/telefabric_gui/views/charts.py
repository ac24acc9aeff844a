"""The charts of a page, one below the other on the same axis: they show the cursor and move it, by rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from PySide6.QtCore import QPoint, Qt, QTimer, Signal
from PySide6.QtGui import QContextMenuEvent, QDragEnterEvent, QDropEvent, QResizeEvent, QShowEvent
from PySide6.QtWidgets import QBoxLayout, QScrollArea, QVBoxLayout, QWidget

from telefabric_gui import theme
from telefabric_gui.agent_stream import METRIC, RETURN
from telefabric_gui.formatting import NONE, plural, real, short
from telefabric_gui.info import INFO
from telefabric_gui.item_models.series_tree import SERIES_MIME
from telefabric_gui.model.charting import Charting
from telefabric_gui.model.info_series import Read
from telefabric_gui.model.layout import AVERAGES, AXES, ChartPlan
from telefabric_gui.model.scale import Scale
from telefabric_gui.model.series import SeriesKey
from telefabric_gui.model.streams import Source
from telefabric_gui.reduction import NOTHING, Floats, Samples, single
from telefabric_gui.views.names import Name, Names
from telefabric_gui.views.painting import PEN_STYLES, line_colour
from telefabric_gui.views.plot import NO_GAPS, Curve, Plot
from telefabric_gui.views.styled import button, drop_menu, laid_out, menu_of, row

_NAME_CHARACTERS = 200
_NAMES_BESIDE_PX = 560
"""A narrower chart has its names above."""
_CHART_PX = 84
"""The lowest chart; more charts than fit are scrolled."""
_STORE_ANSWERS_S = 3.0
"""Without an answer of the store within this time, what is live is drawn alone."""
_ARRIVALS_MS = 40
"""Parts that the store sends within this time are drawn together."""
_AS_STEPS = Scale.of(np.array([[0.0, 0, 0, 0], [1.0, 1, 1, 1]]), np.empty((0, 4)))
"""Of a stream of which nothing is known: rows are steps."""


class _Shown(NamedTuple):
    """A run whose series are drawn."""

    source: Source
    scale: Scale
    gaps: Floats
    """Places on the axis before and behind what is missing."""


class _Placed(NamedTuple):
    """Samples of a series on an axis, and of what they were made."""

    of: Samples
    scale: Scale
    kind: str
    samples: Samples
    rising: bool
    height: tuple[float, float] | None
    """Lowest and highest value; None for no value."""


class _Line(NamedTuple):
    """One series of one run: what is drawn, and where it came from."""

    key: SeriesKey
    curve: Curve
    name: Name
    scale: Scale
    height: tuple[float, float] | None
    """Lowest and highest value of all of it."""
    left_out: int


class ChartsView(QScrollArea):
    """`show_source` gives the stream; then it draws whenever something comes or is chosen."""

    cursor_wanted = Signal(float)
    """A row."""
    sight_wanted = Signal(float, float)
    """First and last row in sight."""
    whole_wanted = Signal()
    selection_wanted = Signal(float, float)
    drawn = Signal()

    def __init__(self, charting: Charting) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(self.Shape.NoFrame)
        self.setObjectName("charts")
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._charting = charting
        self._own: Source | None = None
        self._drawn_of: bytes | None = None
        """The stream of which a picture has been drawn."""
        self._shown_s = 0.0
        self._sight: tuple[float, float] | None = None
        """First and last row; None for the whole run."""
        self._cursor: float | None = None
        self._selection: tuple[float, float] | None = None
        self._still = False
        self.charts: list[Chart] = []
        self.left_out = 0
        """Values in sight that cannot be drawn."""
        self._scale = _AS_STEPS
        self._on_axis: dict[SeriesKey, _Placed] = {}
        self._soon_all = False
        """All is to be drawn soon, and not the cursor alone."""
        self._read: dict[str, Read] = {}
        """How much was read of the parts of `info` that are in sight."""
        self._wanted_s: dict[SeriesKey, float] = {}
        """Since when a part of `info` is waited for, lest its axis change while it is read; 0 when no longer."""
        self._tails: dict[SeriesKey, tuple[int, Samples, int]] = {}
        self._column = QVBoxLayout()
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(0)
        self.setWidget(laid_out(self._column, "charts_body"))
        self.corner = row(spacing=12)
        self._axis = button("", self._offer_axes, "link", "The horizontal axis of all charts")
        self._average = button("", self._offer_averages, "link", "Moving average; the values stay visible, faint")
        self._more = button(
            "+ chart", charting.layout.add_chart, "link", "Another chart below, for series to be chosen"
        )
        for part in (self._average, self._axis, self._more):
            self.corner.addWidget(part)
        self._soon = QTimer(self, singleShot=True, interval=0)
        self._soon.timeout.connect(lambda: self.draw() if self._soon_all else self.mark())
        charting.layout.changed.connect(self.draw_soon)
        charting.overlay.changed.connect(self.draw_soon)
        self._later = QTimer(self, singleShot=True, interval=_ARRIVALS_MS)
        self._later.timeout.connect(self.draw_soon)
        for came in (charting.streams.changed, charting.data.arrived, charting.info.arrived):
            came.connect(self.draw_later)  # a bound method: Qt lets go of it with this view

    # -- what the page says --------------------------------------------------------------------------------------

    def show_source(self, own: Source) -> None:
        """The stream that is shown, with what came since."""
        if self._own is None or self._own.stream_id != own.stream_id:
            self._shown_s = time.monotonic()
        self._own = own
        self.draw()

    def set_still(self, still: bool) -> None:
        """Whether what comes live is left out, because one has paused."""
        self._still = still

    def show_cursor(self, at: float | None) -> None:
        """The cursor's row; None for none."""
        if at != self._cursor:
            self._cursor = at
            self._soon.start()

    def show_sight(self, sight: tuple[float, float] | None) -> None:
        """The rows in sight; None for the whole run."""
        if sight != self._sight:
            self._sight = sight
            self.draw_soon()

    def show_selection(self, rows: tuple[float, float] | None) -> None:
        self._selection = rows
        self._soon.start()

    def draw_soon(self, *what: object) -> None:
        """Once, however much has changed by then."""
        if self.isVisible():
            self._soon_all = True
            self._soon.start()

    def draw_later(self, *what: object) -> None:
        """Soon, with what comes until then."""
        if not self._later.isActive():
            self._later.start()

    @property
    def caption(self) -> str:
        """How the charts are drawn, in words."""
        parts = ["min/max per pixel"]
        if self.left_out:
            parts.append(f"{plural(self.left_out, 'value')} beyond all numbers not drawn")
        if unfit := sum(chart.plot.left_out for chart in self.charts):
            parts.append(f"{plural(unfit, 'value')} of 0 or less not drawn")
        parts += [f"{name_of(name)}: {read.words}" for name, read in self._read.items() if read.words]
        if problem := self._charting.data.problem or self._charting.info.problem:
            parts.append(problem)
        return " · ".join(parts)

    @property
    def title(self) -> str:
        """The name of the series, when there is only one."""
        charts = self._charting.layout.charts
        only = charts[0].series if len(charts) == 1 else []
        return "Charts" if len(only) != 1 else "Episode return" if only[0] == RETURN else short(name_of(only[0]))

    # -- drawing -------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        """Draw all charts with what there is, and ask for what there is not."""
        if self._own is None:
            return
        layout = self._charting.layout
        self._hold(len(layout.charts))
        self._axis.setText(f"by {layout.axis} \u25be")
        self._average.setText(f"EMA {layout.keep:g} \u25be" if layout.keep else "no average \u25be")
        self._own = self._charting.streams.found(self._own)
        shown = [self._show(one) for one in self._charting.sources(self._own) if one.stream_id is not None]
        self._scale = shown[0].scale if shown else _AS_STEPS
        sight = self._in_sight(shown)
        if self._waits(shown, sight):
            self.draw_later()
            return
        self.left_out = 0
        self._read.clear()
        for at, (chart, plan) in enumerate(zip(self.charts, layout.charts, strict=True)):
            chart.lines = [
                self._line(one, series, place, sight, chart.plot.pixels, len(shown) > 1)
                for place, series in enumerate(plan.series)
                for one in shown
            ]
            self.left_out += sum(line.left_out for line in chart.lines)
            chart.plot.sight = sight
            chart.plot.set_axis(layout.axis, bottom=at == len(self.charts) - 1)
            chart.draw(plan, layout.keep)
        self._soon_all = False
        self.mark()
        self.drawn.emit()

    def _waits(self, shown: list[_Shown], sight: tuple[float, float]) -> bool:
        """Whether the first picture has to wait for the store: without it, the axes would change when it answers."""
        own, layout = self._own, self._charting.layout
        if own is None or own.live is None or own.live.begins or self._drawn_of == own.stream_id:
            return False
        series = [series for chart in layout.charts for series in chart.series]
        lines = [self._line(shown[0], one, 0, sight, self.charts[0].plot.pixels, False) for one in series]
        known = self._charting.streams.known(own) and all(self._charting.known(line.key) for line in lines)
        if not known and time.monotonic() - self._shown_s < _STORE_ANSWERS_S:
            return True
        self._drawn_of = own.stream_id
        return False

    def mark(self) -> None:
        """Show the cursor, and the values there; the newest values where there is none."""
        kind, layout = self._charting.layout.axis, self._charting.layout
        at = None if self._cursor is None else float(self._scale.of_rows(kind, np.array([self._cursor]))[0])
        ends = self._scale.of_rows(kind, np.array(self._selection)) if self._selection else np.zeros(2)
        for number, chart in enumerate(self.charts):
            values = [self._value(line, at) for line in chart.lines]
            held = list(zip(chart.lines, values, strict=True))
            chart.plot.show_cursor(at, [(value, line.curve.colour) for line, (value, _) in held])
            chart.plot.show_selection(float(ends[0]), float(ends[1]))
            names = [line.name._replace(value=_said(value, exact=exact)) for line, (value, exact) in held]
            front = number == layout.front and len(self.charts) > 1
            chart.names.show_names(names, front=front, hint="Tick a series on the left, or drag one here.")
            chart.keep_room()

    def _show(self, source: Source) -> _Shown:
        streams, kind = self._charting.streams, self._charting.layout.axis
        scale = streams.scale(source)
        if scale is None:
            return _Shown(source, _AS_STEPS, NO_GAPS)
        gaps = streams.gaps(source)
        return _Shown(source, scale, scale.places(kind, gaps.ravel()).reshape(-1, 2))

    def _in_sight(self, shown: list[_Shown]) -> tuple[float, float]:
        """First and last place of the axis: of the rows in sight, or of all runs."""
        kind = self._charting.layout.axis
        if self._sight is not None:
            first, last = (float(one) for one in self._scale.of_rows(kind, np.array(self._sight)))
        else:
            ends = [one.scale.of_rows(kind, one.scale.row[[0, -1]]) for one in shown if one.scale is not _AS_STEPS]
            ends += [self._live_ends(one) for one in shown]
            found = np.concatenate([one for one in ends if len(one)] or [np.array([0.0, 1.0])])
            first, last = float(found.min()), float(found.max())
        return first, last if last > first else first + 1.0

    def _live_ends(self, shown: _Shown) -> Floats:
        """Where live values of the series that are drawn begin and end: there may be no steps at all."""
        series = [series for chart in self._charting.layout.charts for series in chart.series]
        held = [tail.x for tail in (self._tail(shown.source, one)[0] for one in series) if len(tail.x)]
        x = np.array([end for one in held for end in (one.min(), one.max())], np.float64)
        return shown.scale.places(self._charting.layout.axis, x)

    def _line(
        self, shown: _Shown, series: str, place: int, sight: tuple[float, float], pixels: int, several: bool
    ) -> _Line:
        layout, data, (source, scale, gaps) = self._charting.layout, self._charting.data, shown
        assert source.stream_id is not None
        key = SeriesKey(source.run_id, source.agent_id, source.stream_id, series)
        tail, infinite = self._tail(source, series)
        first, last = (float(one) for one in scale.steps(layout.axis, np.array(sight)))
        if series.startswith(INFO):
            samples = self._part(source, key, sight, scale, tail)
        else:
            data.want(key, first, last, pixels, tail, grows=source.grows)
            samples = data.samples(key, first, last, pixels, tail)
        placed = self._placed(key, scale, samples)
        slot = self._charting.overlay.slot(source.run_id) if several else layout.slot(series)
        style = PEN_STYLES[(place if several else slot // len(theme.active().series)) % len(PEN_STYLES)]
        letter = chr(ord("A") + slot) if several else ""
        tip = f"{name_of(series)} of {source.run_id}"
        colour = line_colour(slot)
        said = Name(name_of(series), colour, style, letter, "", tip)
        left_out = infinite + data.infinite(key)
        return _Line(
            key, Curve(placed.samples, colour, style, letter, placed.rising, gaps), said, scale, placed.height, left_out
        )

    def _part(self, source: Source, key: SeriesKey, sight: tuple[float, float], scale: Scale, tail: Samples) -> Samples:
        """What is held of a part of `info`, read as far as it is not live; a run without it is not asked for it."""
        info = self._charting.info
        tail_row = float(scale.rows_of_steps(tail.x[:1])[0]) if len(tail.x) else math.inf
        unknown = source.live is not None and not source.live.begins and not self._charting.streams.known(source)
        waits = unknown  # else the axis would change once it is known how many rows there are, and with each part
        if not unknown and scale is not _AS_STEPS and (source.live is None or key.name in source.live.series()):
            first, last = scale.rows(self._charting.layout.axis, np.array(sight)).tolist()
            rows = max(scale.row[0], first), min(scale.row[-1], last, tail_row - 1)
            read = self._read[key.name] = info.want(key, *rows, grows=source.grows)
            waits = not read.whole
        now_s = time.monotonic()
        if waits and now_s - self._wanted_s.setdefault(key, now_s) < _STORE_ANSWERS_S:
            return NOTHING
        self._wanted_s[key] = 0.0
        return info.samples(key, tail, tail_row)

    def _tail(self, source: Source, series: str) -> tuple[Samples, int]:
        """Live values, and how many are beyond all numbers."""
        if source.live is None or source.stream_id is None:
            return NOTHING, 0
        key = SeriesKey(source.run_id, source.agent_id, source.stream_id, series)
        held = self._tails.get(key)
        if held is None or (held[0] != source.live.version and not self._still):
            after = self._charting.streams.whole_from(source) if self._charting.data.known(key) else 0
            held = self._tails[key] = source.live.version, *single(*source.live.tail(series, after))
        return held[1:]

    def _placed(self, key: SeriesKey, scale: Scale, samples: Samples) -> _Placed:
        """Samples on the axis, made once as long as nothing changes."""
        kind = self._charting.layout.axis
        held = self._on_axis.get(key)
        if held is None or held.of is not samples or held.scale is not scale or held.kind != kind:
            placed = scale.placed(kind, samples)
            height = (float(samples.low.min()), float(samples.high.max())) if len(samples.x) else None
            held = self._on_axis[key] = _Placed(samples, scale, kind, placed, placed.rising, height)
        return held

    def _value(self, line: _Line, at: float | None) -> tuple[float, bool]:
        """The value at a place, else the newest; and whether it is that, and not the mean of several."""
        samples = line.curve.samples
        index = samples.before(math.inf if at is None else at)
        if index is None:
            return math.nan, True
        if samples.number[index] <= 1 or at is None:
            return float(samples.mean[index]), samples.number[index] <= 1
        step = float(line.scale.steps(self._charting.layout.axis, np.array([at]))[0])
        exact = self._charting.data.value_at(line.key, step)
        return (float(samples.mean[index]), False) if exact is None else (exact, True)

    def _hold(self, number: int) -> None:
        while len(self.charts) < number:
            chart = Chart(len(self.charts))
            self.charts.append(chart)
            self._column.addWidget(chart, 1)
            plot = chart.plot
            plot.clicked.connect(lambda place: self.cursor_wanted.emit(self._rows(place)[0]))
            plot.sight_wanted.connect(lambda *places: self.sight_wanted.emit(*self._rows(*places)))
            plot.selected.connect(lambda *places: self.selection_wanted.emit(*self._rows(*places)))
            plot.whole_wanted.connect(self.whole_wanted)
            plot.pointed.connect(self._point)
            chart.names.chosen.connect(partial(self._bring, chart))
            chart.dropped.connect(partial(self._drop, chart))
            chart.menu_wanted.connect(partial(self._offer_chart, chart))
        while len(self.charts) > number:
            gone = self.charts.pop()
            self._column.removeWidget(gone)
            gone.hide()
            gone.deleteLater()

    def _rows(self, *places: float) -> list[float]:
        found: list[float] = self._scale.rows(self._charting.layout.axis, np.array(places)).tolist()
        return found

    def _point(self, place: float | None) -> None:
        for chart in self.charts:
            chart.plot.show_pointer(place)

    def _bring(self, chart: Chart) -> None:
        self._charting.layout.bring(self.charts.index(chart))

    def _drop(self, chart: Chart, series: str) -> None:
        self._charting.layout.put(series, self.charts.index(chart))

    # -- menus ---------------------------------------------------------------------------------------------------

    def _offer_axes(self) -> None:
        layout = self._charting.layout
        drop_menu(self._axis, [(f"by {axis}", partial(layout.set_axis, axis)) for axis in AXES])

    def _offer_averages(self) -> None:
        layout = self._charting.layout
        named = [(f"EMA {keep:g}" if keep else "no average", partial(layout.set_keep, keep)) for keep in AVERAGES]
        drop_menu(self._average, named)

    def _offer_chart(self, chart: Chart, where: QPoint) -> None:
        layout, at = self._charting.layout, self.charts.index(chart)
        plan, menu = layout.charts[at], menu_of(self)
        choices: tuple[tuple[str, bool, Callable[[int, bool], None]], ...] = (
            ("Logarithmic scale", plan.log, layout.set_log),
            ("Fit the height to what is in sight", plan.fit, layout.set_fit),
        )
        for text, chosen, choose in choices:
            action = menu.addAction(text, partial(choose, at, not chosen))
            action.setCheckable(True)
            action.setChecked(chosen)
        menu.addSeparator()
        for series in plan.series:
            menu.addAction(f"Take out {name_of(series)}", partial(layout.remove, series))
        menu.addAction("Remove this chart", partial(layout.remove_chart, at))
        menu.popup(where)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.draw_soon()


class Chart(QWidget):
    """Names and the plot. Series can be dropped on it."""

    dropped = Signal(str)
    menu_wanted = Signal(QPoint)

    def __init__(self, number: int) -> None:
        super().__init__()
        self.setMinimumHeight(_CHART_PX)
        self.narrow = False
        self.setAccessibleName(f"Chart {number + 1}")
        self.setAcceptDrops(True)
        self.names, self.plot = Names(), Plot()
        self.lines: list[_Line] = []
        """What was drawn last."""
        self._parts = QBoxLayout(QBoxLayout.Direction.LeftToRight, self)
        self._parts.setContentsMargins(0, 0, 0, 0)
        self._parts.setSpacing(0)
        self._parts.addWidget(self.names)
        self._parts.addWidget(self.plot, 1)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        narrow = self.width() < _NAMES_BESIDE_PX
        self.narrow = narrow
        self.names.lie(above=narrow)
        directions = QBoxLayout.Direction
        self._parts.setDirection(directions.TopToBottom if narrow else directions.LeftToRight)

    def keep_room(self) -> None:
        """The plot has as much where the names lie above it."""
        self.setMinimumHeight(_CHART_PX + (self.names.height() if self.narrow else 0))

    def draw(self, plan: ChartPlan, keep: float) -> None:
        """Draw its lines, with an average that keeps so much."""
        heights = [end for line in self.lines if line.height for end in line.height]
        height = None if plan.fit or not heights else (min(heights), max(heights))
        self.plot.draw([line.curve for line in self.lines], height, keep=keep, log=plan.log)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        self.menu_wanted.emit(event.globalPos())

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if event.mimeData().hasFormat(SERIES_MIME):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        self.dropped.emit(bytes(event.mimeData().data(SERIES_MIME).data()).decode())
        event.acceptProposedAction()


def _said(value: float, *, exact: bool) -> str:
    return NONE if math.isnan(value) else ("" if exact else "\u2248 ") + real(value)


def name_of(series: str) -> str:
    """A series' name for readers; it is cut where it is drawn."""
    return short(series.removeprefix(METRIC).removeprefix(INFO), _NAME_CHARACTERS)
