"""Where the client is in a run's time, decided without Qt and without a clock.

A row is the number of a step among those of one agent in one stream, 0 first. Position, range in sight and selection
are rows; step, episode and wall time are mappings of them (`telefabric_gui.model.axis`).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

SPEEDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
SIGHT_ROWS_MIN = 10.0
"""Nobody reads a time line of fewer rows."""


class Mode(Enum):
    FOLLOW = "follow"
    """The position is the newest row."""
    PAUSED = "paused"
    """The position stays; what is new is still received."""
    REPLAY = "replay"
    """The position runs."""


class Subject(NamedTuple):
    """The run that is looked at."""

    run_id: str
    agent_id: str
    stream_id: bytes
    env_index: int | None = None
    """None for all environments of the agent."""


class CursorRules:
    """Position, mode, range in sight and selection of one subject."""

    def __init__(self) -> None:
        self.total = 0
        """Rows that are known, stored and live."""
        self.live = False
        """More rows are expected: replay that has come to the newest one follows."""
        self.mode = Mode.FOLLOW
        self.speed = 1.0
        self.looping = False
        """Replay goes back to the beginning of the selection at its end."""
        self.selection: tuple[int, int] | None = None
        """First and last row."""
        self._row = 0
        self._followed = 0
        """Rows that were known when the position was last the newest one."""
        self._part = 0.0
        """What replay has run beyond the row, of one row."""
        self.held = False
        """Paused where it followed, and not moved since."""
        self._sight: tuple[float, float] | None = None

    @property
    def row(self) -> int | None:
        """The position; None while there is no row."""
        return self._row if self.total else None

    @property
    def new(self) -> int:
        """Rows that came since the position left the newest one."""
        return self.total - self._followed

    @property
    def sight(self) -> tuple[float, float]:
        """First and last row in sight, the whole run unless somebody zoomed in."""
        return self._sight or (0.0, max(1.0, self.total - 1.0))

    @property
    def sees_all(self) -> bool:
        return self._sight is None

    def grow(self, total: int) -> None:
        """This is how many rows are known now. They become fewer with another subject only."""
        more = max(total - self.total, 0)
        self.total += more
        if not self.live:
            self._followed += more  # those of a run that has ended are read, and none of them is new
        if self.mode is Mode.FOLLOW:
            self._row, self._followed = max(0, self.total - 1), self.total
            if self._sight is not None and more > 0:
                first, last = self._sight
                self._sight = (first + self._row - last, float(self._row))

    def follow(self) -> None:
        self.mode, self.held = Mode.FOLLOW, False
        self._row, self._followed = max(0, self.total - 1), self.total
        self._bring_into_sight()

    def pause(self) -> None:
        self.held = self.held or self.mode is Mode.FOLLOW
        self.mode = Mode.PAUSED

    def toggle(self) -> None:
        """Pause what runs, and let it run on: a live run is followed again, unless the position was moved meanwhile."""
        if self.mode is Mode.PAUSED and self.held and self.live:
            self.follow()
        elif self.mode is Mode.REPLAY or (self.mode is Mode.FOLLOW and self.live):
            self.pause()
        else:
            self.replay()

    def replay(self) -> None:
        """Run from the position on. From outside the loop, or from the end of the run, that is from the beginning.

        Of a live run there is nothing to replay at its end: the position follows.
        """
        first, last = self._bounds()
        if self.live and not self.looping and self._row >= last:
            self.follow()
            return
        if self.mode is not Mode.REPLAY:
            self._part = 0.0
        if not first <= self._row < last:
            self._row = first
        self.mode, self.held = Mode.REPLAY, False
        self._bring_into_sight()

    def go_to(self, row: int) -> None:
        """Move to a row, the nearest there is. What follows is paused then; replay runs on from there."""
        if self.mode is Mode.FOLLOW:
            self.mode = Mode.PAUSED
        self._row, self.held = min(max(row, 0), max(0, self.total - 1)), False
        self._part = 0.0
        self._bring_into_sight()

    def advance(self, rows: float) -> None:
        """Replay by these many rows. At the end the loop begins again; without one, a live run is followed."""
        if self.mode is not Mode.REPLAY:
            return
        first, last = self._bounds()
        at = max(self._row + self._part, first) + rows
        if at >= last:
            if self.looping and last > first:
                at = first + (at - last) % (last - first)
            elif self.live:
                self.follow()
                return
            else:
                at = float(last)
                self.mode = Mode.PAUSED
        self._row = int(at)
        self._part = at - self._row
        self._bring_into_sight()

    def renumber(self, row: int) -> None:
        """The row at the position has another number by now: rows before it have come."""
        if self.mode is not Mode.FOLLOW:
            self._row = min(max(row, 0), max(0, self.total - 1))

    def select(self, first: int, last: int) -> None:
        """Select the rows between two, both included."""
        low, high = sorted((first, last))
        end = max(0, self.total - 1)
        self.selection = (min(max(low, 0), end), min(max(high, 0), end))

    def select_nothing(self) -> None:
        self.selection, self.looping = None, False

    def see(self, first: float, last: float) -> None:
        """Bring a range of rows into sight; all of the run, or more, is the whole run from then on."""
        span = max(last - first, SIGHT_ROWS_MIN)
        end = max(1.0, self.total - 1.0)
        if span >= end:
            self._sight = None
            return
        first = min(max(first, 0.0), end - span)
        self._sight = (first, first + span)

    def see_all(self) -> None:
        self._sight = None

    def zoom(self, factor: float, at: float) -> None:
        """Multiply the span in sight, with the row `at` where it is."""
        first, last = self.sight
        span = max((last - first) * factor, SIGHT_ROWS_MIN)
        share = (at - first) / (last - first) if last > first else 0.5
        self.see(at - span * share, at + span * (1 - share))

    def _bounds(self) -> tuple[int, int]:
        """First and last row of replay."""
        if self.selection is not None and self.looping:
            return self.selection
        return 0, max(0, self.total - 1)

    def _bring_into_sight(self) -> None:
        if self._sight is None:
            return
        first, last = self._sight
        if not first <= self._row <= last:
            span = last - first
            self.see(self._row - span / 2, self._row + span / 2)
