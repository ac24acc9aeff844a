"""Lines of a table of a whole run: where row n is, when resets and missing ranges have lines of their own.

A row is a step or an episode by its number in the store. Parts of the run are in memory, as `Segment`s; there, what
came between two rows has lines before the later one, and a voided row has none. Elsewhere each row counts as one line.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from telefabric_gui.rows import VOID, counted

Raws = Callable[[Any], bytes | None]
"""The encoded event of a record, while it is held."""


class Found(NamedTuple):
    """A line that is in memory."""

    row: int
    """The number of its row; of what lies between two rows, the later one's."""
    record: Any
    raw: bytes | None


class Segment:
    """Consecutive rows from number `first` on, as records in rising seq, with what came before each of them."""

    def __init__(self, first: int, records: npt.NDArray[Any], raws: Raws) -> None:
        self.first, self.records, self.raws = first, records, raws
        rows = counted(records)
        self._places = np.flatnonzero(rows)
        self._shown = np.flatnonzero(records["mark"] != VOID)
        self._numbers: npt.NDArray[np.int64] = np.cumsum(rows) - rows
        self.rows = len(self._places)
        self.lines = len(self._shown)

    def line_of(self, row: int) -> int:
        """The line of a row in this segment; of a voided one, the next."""
        return int(np.searchsorted(self._shown, self._places[row - self.first]))

    def at(self, line: int) -> Found:
        place = self._shown[line]
        record = self.records[place]
        return Found(self.first + int(self._numbers[place]), record, self.raws(record))

    def row(self, row: int) -> Found:
        record = self.records[self._places[row - self.first]]
        return Found(row, record, self.raws(record))

    @property
    def events(self) -> npt.NDArray[Any]:
        """The records of the rows, without those between them."""
        return self.records[self._places]

    def row_of_seq(self, seq: int) -> int | None:
        """The number of the row of an event; None when it is not here."""
        place = int(np.searchsorted(self.records["seq"], seq))
        there = place < len(self.records) and self.records["seq"][place] == seq
        return self.first + int(self._numbers[place]) if there else None

    def until(self, seq: int) -> Segment:
        """The part before a seq."""
        return Segment(self.first, self.records[: np.searchsorted(self.records["seq"], seq)], self.raws)


class Lines:
    """The lines of `rows` rows, oldest first, of which some segments are in memory; these do not overlap."""

    def __init__(self, rows: int = 0, segments: Iterable[Segment] = ()) -> None:
        self.rows = rows
        self._segments = sorted(segments, key=lambda one: one.first)
        self._firsts = [one.first for one in self._segments]
        self._more = [0, *accumulate(one.lines - one.rows for one in self._segments)]
        """How many more lines than rows there are before each segment."""
        self._starts = [one.first + more for one, more in zip(self._segments, self._more, strict=False)]

    def __len__(self) -> int:
        return self.rows + self._more[-1]

    def at(self, line: int) -> Found | int:
        """What a line shows; the number of its row while that is not in memory."""
        place = bisect_right(self._starts, line) - 1
        while place >= 0 and self._segments[place].lines == 0:
            place -= 1
        if place >= 0 and line - self._starts[place] < self._segments[place].lines:
            return self._segments[place].at(line - self._starts[place])
        return line - self._more[bisect_right(self._starts, line)]

    def row(self, row: int) -> Found | None:
        """A row, if it is in memory."""
        place = self._segment(row)
        return None if place is None else self._segments[place].row(row)

    @property
    def tail(self) -> Segment | None:
        """The last segment in memory."""
        return self._segments[-1] if self._segments else None

    def before(self, row: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Records in memory without a break from that of a row backwards, segment by segment with the number of its
        first row. If the run's first row is reached, no records come last."""
        place = self._segment(row)
        while place is not None and place >= 0:
            first = self._firsts[place]
            yield first, self._segments[place].records
            place = place - 1 if place and first == self._firsts[place - 1] + self._segments[place - 1].rows else None
            if place is None and first == 0:
                yield 0, self._segments[0].records[:0]

    def line_of(self, row: int) -> int:
        """The line of a row."""
        place = self._segment(row)
        if place is not None:
            return self._starts[place] + self._segments[place].line_of(row)
        return row + self._more[bisect_right(self._firsts, row)]

    def _segment(self, row: int) -> int | None:
        """The place of the segment that has a row."""
        place = bisect_right(self._firsts, row) - 1
        while place >= 0 and self._segments[place].rows == 0:
            place -= 1
        return place if place >= 0 and row - self._firsts[place] < self._segments[place].rows else None
