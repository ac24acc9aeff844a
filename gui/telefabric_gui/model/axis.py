"""The mappings of rows to steps and moments.

Of a short run every row is known exactly, of a long one every 1,024th (the store's places) and the newest; between two
of them the mapping is a straight line. An inverse of values that go back, such as a step that is counted again, takes
the first row at or behind the value.
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
    """Rows of a subject, rising, with their seqs, steps and moments (ns since 1970); float64 arrays of one length.

    A step that is NaN is its row. It does not change once it is made.
    """

    def __init__(self, n: Any = (), seq: Any = (), step: Any = (), time_ns: Any = ()) -> None:
        self.n, self.seq, steps, times = (np.asarray(one, np.float64) for one in (n, seq, step, time_ns))
        self.step = np.where(np.isnan(steps), self.n, steps)
        self.start_ns = int(times[0]) if len(times) else 0
        self.relative_s = (times - self.start_ns) / 1e9

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

    def rates(self, edges: Reals) -> Reals:
        """Rows a second between each two of these rows; 0 where it is not known."""
        if len(self.n) < 2:
            return np.zeros(max(0, len(edges) - 1))
        rows, seconds = np.diff(edges), np.diff(self.seconds(edges))
        known = (seconds > 0) & (edges[:-1] <= self.n[-1])
        return np.where(known, rows / np.where(known, seconds, 1.0), 0.0)

    def _at(self, values: Any, known: Reals, wanted: Reals) -> Reals:
        """Interpolated; beyond the ends, with the slope of the whole."""
        at = np.asarray(values, np.float64)
        if len(known) == 0:
            return at.copy()
        slope = (wanted[-1] - wanted[0]) / (known[-1] - known[0]) if known[-1] > known[0] else 1.0
        found = np.interp(at, known, wanted)
        found = np.where(at > known[-1], wanted[-1] + (at - known[-1]) * slope, found)
        return np.asarray(np.where(at < known[0], wanted[0] + (at - known[0]) * slope, found), np.float64)


def columns_of(places: Iterable[Place]) -> Reals:
    """The columns of an `Axis`, of places in any order; the last one of a row counts."""
    known = sorted({place.n: place for place in places}.values(), key=lambda place: place.n)
    rows = [(one.n, one.seq, np.nan if one.global_step is None else one.global_step, one.time_ns) for one in known]
    return np.array(rows, np.float64).reshape(-1, 4).T
