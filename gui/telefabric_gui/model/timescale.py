"""Rows along a line: by step, episode, wall or relative time, between two rows in sight."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from telefabric_gui.formatting import clock, count
from telefabric_gui.model.axis import Axis, By, Reals
from telefabric_gui.model.whole_run import Episodes

_TICKS = (1, 2, 5, 10)
_DAY_S = 86_400
_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200, _DAY_S)


class TimeScale:
    """Maps rows to pixels 0 to `width` and back. Made again for each change of what is in sight."""

    def __init__(self, axis: Axis, episodes: Episodes, by: By, sight: tuple[float, float], width: float) -> None:
        self._axis, self._by = axis, by
        self._first, self._last = sight
        self._width = max(width, 1.0)
        order = np.argsort(episodes.row, kind="stable")
        self._ends = np.maximum.accumulate(episodes.row[order] + 1) if len(order) else np.empty(0)
        self._low, self._high = (float(self._units(row)) for row in sight)

    def x(self, rows: Any) -> Reals:
        """Pixels of rows."""
        span = self._high - self._low
        share = (self._units(rows) - self._low) / span if span > 0 else np.zeros_like(np.asarray(rows, np.float64))
        return np.asarray(share * self._width, np.float64)

    def rows(self, pixels: Any) -> Reals:
        """Rows at pixels."""
        units = self._low + np.asarray(pixels, np.float64) / self._width * (self._high - self._low)
        if self._by in (By.WALL, By.RELATIVE):
            return self._axis.rows_of_seconds(units)
        if self._by is By.EPISODE and len(self._ends):
            known = np.concatenate([[0.0], self._ends])
            return np.asarray(np.interp(units, np.arange(len(known)), known), np.float64)
        return np.asarray(units, np.float64)

    def ticks(self, apart_px: float) -> list[tuple[float, str]]:
        """Round places that are at least so far apart, as pixels, and what is written there."""
        if self._by is By.STEP:
            low, high = (float(self._axis.steps(row)) for row in (self._first, self._last))
            if high <= low:
                low, high = self._first, self._last
            places = _round_places(low, high, self._width / apart_px)
            rows = self._axis.rows_of_steps(places) if high > low else places
            return list(zip(self.x(rows).tolist(), [count(round(place)) for place in places], strict=True))
        if self._by is By.EPISODE:
            places = [place for place in _round_places(self._low, self._high, self._width / apart_px) if place % 1 == 0]
            return [(self._share(place), f"ep {count(round(place))}") for place in places]
        wall = self._by is By.WALL
        start_s = self._axis.start_ns / 1e9
        base = start_s - start_s % _DAY_S if wall else 0.0
        shift = start_s - base if wall else 0.0
        low, high = self._low + shift, self._high + shift
        places = _round_seconds(low, high, self._width / apart_px)
        texts = [clock(int((base + place) * 1e9)) if wall else _span(place) for place in places]
        return [
            (self._share(place - shift), text[:8] if wall else text) for place, text in zip(places, texts, strict=True)
        ]

    def _units(self, rows: Any) -> Reals:
        if self._by in (By.WALL, By.RELATIVE):
            return self._axis.seconds(rows)
        if self._by is By.EPISODE and len(self._ends):
            known = np.concatenate([[0.0], self._ends])
            return np.asarray(np.interp(rows, known, np.arange(len(known))), np.float64)
        return np.asarray(rows, np.float64)

    def _share(self, unit: float) -> float:
        return (unit - self._low) / max(self._high - self._low, 1e-9) * self._width


def _round_places(low: float, high: float, number: float) -> list[float]:
    least = max((high - low) / max(number, 1.0), 1e-9)
    size = 10.0 ** math.floor(math.log10(least))
    step = max(1.0, next(size * tick for tick in _TICKS if size * tick >= least))
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _round_seconds(low: float, high: float, number: float) -> list[float]:
    least = (high - low) / max(number, 1.0)
    if least < 1:
        size = 10.0 ** math.floor(math.log10(max(least, 1e-3)))
        step = next(size * tick for tick in _TICKS if size * tick >= min(least, 1.0) or tick == 10)
    else:
        step = next((one for one in _SECONDS if one >= least), math.ceil(least / _DAY_S) * _DAY_S)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _span(seconds: float) -> str:
    """0:00, 12:30, 2:05:00, or tenths of short ones."""
    if seconds % 1:
        return f"{seconds:.3g} s"
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
