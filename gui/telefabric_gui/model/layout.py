"""Which series are in which chart, and how charts are drawn: what the user chose, kept from start to start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from PySide6.QtCore import QObject, Signal

CHARTS_MAX = 12
SERIES_A_CHART_MAX = 16
AXES = ("step", "episode", "wall time", "relative time")
AVERAGES = (0.0, 0.6, 0.9, 0.99, 0.999)
"""How much an exponential moving average keeps of what it was; 0 draws the values alone."""
AT_FIRST = "return"
"""The series of the first chart."""


@dataclass
class ChartPlan:
    series: list[str] = field(default_factory=list)
    log: bool = False
    fit: bool = False
    """The height is that of what is in sight, not that of the whole run."""


@dataclass
class _Kept:
    """As it is kept. Anything else is no layout."""

    charts: list[ChartPlan]
    keep: float = 0.9
    axis: str = AXES[0]
    slots: dict[str, int] = field(default_factory=dict)


class Layout(QObject):
    """The charts from top to bottom, of which one is in front: what is chosen goes there."""

    changed = Signal()

    def __init__(self, kept: str = "", parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._kept = _Kept([ChartPlan([AT_FIRST])], slots={AT_FIRST: 0})
        self.front = 0
        if kept:
            try:
                self._kept = _checked(msgspec.json.decode(kept, type=_Kept))
            except (msgspec.DecodeError, ValueError):
                pass  # of another version, or edited by hand: begin as at the first start

    @property
    def text(self) -> str:
        """To be kept."""
        return msgspec.json.encode(self._kept).decode()

    @property
    def charts(self) -> list[ChartPlan]:
        return self._kept.charts

    @property
    def keep(self) -> float:
        """Of the moving average; 0 for none."""
        return self._kept.keep

    @property
    def axis(self) -> str:
        return self._kept.axis

    def chart_of(self, series: str) -> int | None:
        """The first chart that has a series."""
        return next((at for at, chart in enumerate(self.charts) if series in chart.series), None)

    def slot(self, series: str) -> int:
        """The number of a series' colour: it keeps it as long as it is in a chart."""
        return self._kept.slots.get(series, 0)

    # -- what the user does --------------------------------------------------------------------------------------

    def put(self, series: str, chart: int | None = None) -> None:
        """Draw a series in a chart, the one in front unless named, and in no other."""
        at = self.front if chart is None else chart
        if series in self.charts[at].series or len(self.charts[at].series) >= SERIES_A_CHART_MAX:
            return
        self._take_out(series)
        self.charts[at].series.append(series)
        if series not in self._kept.slots:
            self._kept.slots[series] = first_free(self._kept.slots.values())
        self.front = at
        self.changed.emit()

    def remove(self, series: str) -> None:
        self._take_out(series)
        self._kept.slots.pop(series, None)
        self.changed.emit()

    def show_alone(self, series: str) -> None:
        """Draw a series alone in the chart in front."""
        for other in list(self.charts[self.front].series):
            self._take_out(other)
            self._kept.slots.pop(other, None)
        self.put(series)

    def _take_out(self, series: str) -> None:
        for chart in self.charts:
            if series in chart.series:
                chart.series.remove(series)

    def add_chart(self) -> None:
        """An empty chart at the bottom, in front."""
        if len(self.charts) < CHARTS_MAX:
            self.charts.append(ChartPlan())
            self.bring(len(self.charts) - 1)

    def remove_chart(self, at: int) -> None:
        """The last one that is left is only emptied."""
        for series in list(self.charts[at].series):
            self._take_out(series)
            self._kept.slots.pop(series, None)
        if len(self.charts) > 1:
            del self.charts[at]
        self.front = min(self.front, len(self.charts) - 1)
        self.changed.emit()

    def bring(self, at: int) -> None:
        """A chart to the front."""
        self.front = at
        self.changed.emit()

    def set_log(self, at: int, log: bool) -> None:
        self.charts[at].log = log
        self.changed.emit()

    def set_fit(self, at: int, fit: bool) -> None:
        self.charts[at].fit = fit
        self.changed.emit()

    def set_keep(self, keep: float) -> None:
        self._kept.keep = keep
        self.changed.emit()

    def set_axis(self, axis: str) -> None:
        self._kept.axis = axis
        self.changed.emit()


def first_free(taken: Any) -> int:
    """The lowest number that is not taken."""
    held = set(taken)
    return next(number for number in range(len(held) + 1) if number not in held)


def _checked(kept: _Kept) -> _Kept:
    """Raises `ValueError` for what this program cannot draw."""
    if not 1 <= len(kept.charts) <= CHARTS_MAX or kept.axis not in AXES or kept.keep not in AVERAGES:
        raise ValueError("charts")
    for chart in kept.charts:
        if len(chart.series) > SERIES_A_CHART_MAX:
            raise ValueError("series")
    for series in (series for chart in kept.charts for series in chart.series):
        kept.slots.setdefault(series, first_free(kept.slots.values()))
    return kept
