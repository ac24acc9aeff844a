"""The mappings of rows to steps and moments.

Every 1,024th row of a stream, kind and agent is known exactly (the store's places); between two of them the mapping is
a straight line. An inverse of values that go back, such as a step that is counted again, takes the first row at or
behind the value.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from telefabric.feed import Place

Reals = npt.NDArray[np.float64]


class By(Enum):
    """What an axis counts."""

    STEP = "step"
    EPISODE = "episode"
    WALL = "wall time"
    RELATIVE = "relative time"


class Axis:
    """Rows of a subject, and their seqs, steps and moments (ns since 1970). Rising rows; never changed once made."""

    def __init__(self, places: Iterable[Place] = ()) -> None:
        known = sorted({place.n: place for place in places}.values(), key=lambda place: place.n)
        self.n = np.array([place.n for place in known], np.float64)
        self.seq = np.array([place.seq for place in known], np.float64)
        steps = [place.n if place.global_step is None else place.global_step for place in known]
        self.step = np.array(steps, np.float64)
        self.start_ns = known[0].time_ns if known else 0
        self.relative_s = np.array([(place.time_ns - self.start_ns) / 1e9 for place in known], np.float64)

    def __bool__(self) -> bool:
        return len(self.n) > 0

    def steps(self, rows: Any) -> Reals:
        """The steps of rows."""
        return self._at(rows, self.n, self.step)

    def rows_of_steps(self, steps: Any) -> Reals:
        return self._at(steps, np.maximum.accumulate(self.step), self.n)

    def seconds(self, rows: Any) -> Reals:
        """Seconds since the first row."""
        return self._at(rows, self.n, self.relative_s)

    def rows_of_seconds(self, seconds: Any) -> Reals:
        return self._at(seconds, np.maximum.accumulate(self.relative_s), self.n)

    def rows_of_seqs(self, seqs: Any) -> Reals:
        return self._at(seqs, self.seq, self.n)

    def time_ns(self, row: float) -> int:
        return self.start_ns + round(float(self.seconds(row)) * 1e9)

    def density(self, first: float, last: float, bins: int) -> Reals:
        """Rows a second in equal parts of a range of rows; 0 where nothing is known."""
        edges = np.linspace(first, last, bins + 1)
        if len(self.n) < 2:
            return np.zeros(bins)
        seconds = np.diff(self.seconds(edges))
        rates = np.where(seconds > 0, np.diff(edges) / np.where(seconds > 0, seconds, 1), 0.0)
        return np.where(edges[1:] <= self.n[-1] + 1, rates, 0.0)

    def _at(self, values: Any, known: Reals, wanted: Reals) -> Reals:
        """Interpolated; beyond the ends, with the slope of the whole."""
        at = np.asarray(values, np.float64)
        if len(known) == 0:
            return at.copy()
        slope = (wanted[-1] - wanted[0]) / (known[-1] - known[0]) if known[-1] > known[0] else 1.0
        found = np.interp(at, known, wanted)
        found = np.where(at > known[-1], wanted[-1] + (at - known[-1]) * slope, found)
        return np.asarray(np.where(at < known[0], wanted[0] + (at - known[0]) * slope, found), np.float64)
