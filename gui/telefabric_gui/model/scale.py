"""Steps of a stream as places on the axis of a chart: step, episode, wall or relative time, and as rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from telefabric_gui.model.layout import AXES
from telefabric_gui.reduction import Floats, Samples

STEP, EPISODE, WALL_TIME, RELATIVE_TIME = AXES


class Scale(NamedTuple):
    """Every 1,024th row of a stream and its last: between them, rows, steps and moments are in proportion."""

    row: Floats
    step: Floats
    """At the agent's own count, or else the seq: as in the store's overview."""
    time_s: Floats
    episode: Floats
    """How many episodes have ended at each row of `ended`."""
    ended: Floats

    @classmethod
    def of(cls, rows: Floats, steps: Floats, times_s: Floats) -> Scale:
        """What goes back is passed over by the highest before it."""
        nothing = np.empty(0, np.float64)
        row, step, time_s = (np.maximum.accumulate(one) if len(one) else one for one in (rows, steps, times_s))
        return cls(row, step, time_s, nothing, nothing)

    def with_ends(self, episodes: Floats, steps: Floats) -> Scale:
        """With the episodes that ended at these steps."""
        return self._replace(episode=episodes + 1.0, ended=np.maximum.accumulate(_along(steps, self.step, self.row)))

    def places(self, kind: str, steps: Floats) -> Floats:
        """Where steps are on an axis."""
        return steps if kind == STEP else self.of_rows(kind, _along(steps, self.step, self.row))

    def of_rows(self, kind: str, rows: Floats) -> Floats:
        """Where rows are on an axis."""
        if kind == STEP:
            return _along(rows, self.row, self.step)
        if kind == EPISODE:
            return _along(rows, self.ended, self.episode)
        times = _along(rows, self.row, self.time_s)
        return times - self.time_s[0] if kind == RELATIVE_TIME and len(self.time_s) else times

    def rows(self, kind: str, places: Floats) -> Floats:
        """The rows, with fractions, of places on an axis."""
        if kind == STEP:
            return _along(places, self.step, self.row)
        if kind == EPISODE:
            return _along(places, self.episode, self.ended)
        begin = self.time_s[0] if kind == RELATIVE_TIME and len(self.time_s) else 0.0
        return _along(places + begin, self.time_s, self.row)

    def steps(self, kind: str, places: Floats) -> Floats:
        """The steps of places on an axis."""
        return places if kind == STEP else _along(self.rows(kind, places), self.row, self.step)

    def placed(self, kind: str, samples: Samples) -> Samples:
        """Samples on an axis."""
        if kind == STEP:
            return samples
        single = samples.end is samples.x or bool((samples.end == samples.x).all())
        x = self.places(kind, samples.x)
        return samples._replace(x=x, end=x if single else np.maximum(x, self.places(kind, samples.end)))


def _along(values: Floats, of: Floats, to: Floats) -> Floats:
    """From one column to another, beyond the ends as between the ends; the same when there is nothing to go by."""
    if len(of) < 2 or of[-1] <= of[0]:
        return values if not len(of) else values - of[0] + to[0]
    slope = (to[-1] - to[0]) / (of[-1] - of[0])
    found: Floats = np.interp(values, of, to)
    found += np.where(values < of[0], (values - of[0]) * slope, 0.0)
    found += np.where(values > of[-1], (values - of[-1]) * slope, 0.0)
    return found
