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
    x: Floats
    """The step by which the store's overview goes: the agent's own count, or else the seq."""
    step: Floats
    """The step that readers see: the agent's own count, or else the row."""
    seq: Floats
    time_s: Floats
    ended: Floats
    """Rows at which episodes ended."""
    episode: Floats
    """How many had ended by then."""

    @classmethod
    def of(cls, rows: Floats, ends: Floats) -> Scale:
        """From columns of row, seq, step and time of steps and of episodes; NaN is a step that the events do not tell.

        What goes back is passed over by the highest before it.
        """
        row, seq, step, time_s = rows.T
        known = ~np.isnan(step)
        x, shown = np.where(known, step, seq), np.where(known, step, row)
        row, x, shown, seq, time_s = (_rising(one) for one in (row, x, shown, seq, time_s))
        shown = x if known.all() else shown
        ended = _along(ends[:, 1], seq, row)
        return cls(row, x, shown, seq, time_s, _rising(ended), ends[:, 0] + 1.0)

    def places(self, kind: str, x: Floats) -> Floats:
        """Where steps of the overview are on an axis."""
        return x if self._same(kind) else self.of_rows(kind, self.rows_of_steps(x))

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
        """The steps of the overview of places on an axis."""
        return places if self._same(kind) else _along(self.rows(kind, places), self.row, self.x)

    def steps_of_seqs(self, seqs: Floats) -> Floats:
        """The steps of the overview at these seqs."""
        return _along(seqs, self.seq, self.x)

    def rows_of_steps(self, x: Floats) -> Floats:
        """The rows, with fractions, of steps of the overview."""
        return _along(x, self.x, self.row)

    def _same(self, kind: str) -> bool:
        return kind == STEP and self.step is self.x

    def placed(self, kind: str, samples: Samples) -> Samples:
        """Samples on an axis."""
        if self._same(kind):
            return samples
        single = samples.end is samples.x or bool((samples.end == samples.x).all())
        x = self.places(kind, samples.x)
        return samples._replace(x=x, end=x if single else np.maximum(x, self.places(kind, samples.end)))


def _rising(values: Floats) -> Floats:
    return np.maximum.accumulate(values) if len(values) else values


def _along(values: Floats, of: Floats, to: Floats) -> Floats:
    """From one column to another, beyond the ends as between the ends; the same when there is nothing to go by."""
    if len(of) < 2 or of[-1] <= of[0]:
        return values if not len(of) else values - of[0] + to[0]
    slope = (to[-1] - to[0]) / (of[-1] - of[0])
    found: Floats = np.interp(values, of, to)
    found += np.where(values < of[0], (values - of[0]) * slope, 0.0)
    found += np.where(values > of[-1], (values - of[-1]) * slope, 0.0)
    return found
