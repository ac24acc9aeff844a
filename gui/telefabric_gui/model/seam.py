"""The seam between the store and the tail: which numbers the rows of the tail have, and from which one on it is whole.

The store says how many rows it has, and the seq of the last one. Behind that seq the tail's rows are the next ones, and
before it the tail's rows are counted back from there, as far as none of them can be missing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from telefabric_gui.model.lines import Segment
from telefabric_gui.rows import HOLE, EventRows, counted, is_event

_ENDS_KEPT = 8
"""The tail may not have come as far as the store's newest answers."""


class End(NamedTuple):
    """The store has this many rows, and the last one has this seq."""

    rows: int
    seq: int


class Seam:
    def __init__(self) -> None:
        self._ends: list[End] = []
        self._base: tuple[End, int] | None = None
        """An end, and the number of the first row that ever came to the tail."""
        self._begun = 0

    @property
    def stored(self) -> int | None:
        """Rows that the store has; None before it has said so."""
        return self._ends[-1].rows if self._ends else None

    @property
    def stored_seq(self) -> int:
        """The seq of the last of them; 0 before it has said so."""
        return self._ends[-1].seq if self._ends else 0

    def note(self, end: End) -> None:
        self._ends = [*self._ends, end][-_ENDS_KEPT:]

    def segment(self, tail: EventRows, whole_from: int = 0) -> Segment | None:
        """The part of the tail that is joined with the store; None while its numbers cannot be known.

        What the store has before the seq `whole_from` is left to it: there the tail may have only some of the rows, and
        no holes, or rows without their encoded events.
        """
        records = tail.records
        if not self._ends:
            return Segment(0, records, tail.raw)
        seqs, rows = records["seq"], counted(records)
        came = seqs[is_event(records)]
        newest = int(came[-1]) if len(came) else 0
        end = next((one for one in reversed(self._ends) if one.seq <= newest or one.rows == 0), None)
        if end is None:
            return None
        before = np.concatenate(([0], np.cumsum(rows)))
        behind = int(np.searchsorted(seqs, end.seq, "right"))
        if self._begun != tail.begun:
            self._begun, self._base = tail.begun, None
        if (tail.dropped == tail.begun == 0) or (len(seqs) and seqs[0] <= end.seq):
            self._base = end, end.rows - int(before[behind]) - tail.dropped
        if self._base is None or self._base[0] != end:
            return None
        first = self._base[1] + tail.dropped
        holes = records[:behind][records["mark"][:behind] == HOLE]
        hole_end = min(int(holes["last_seq"].max()), end.seq) if len(holes) else 0
        if first == 0 and not hole_end and not tail.raw_from:
            return Segment(0, records, tail.raw)
        start = int(max(np.searchsorted(seqs, hole_end, "right"), np.searchsorted(seqs, min(whole_from, end.seq))))
        first += int(before[start])
        places = np.flatnonzero(rows[start:])
        if first < 0 or not len(places):
            return None
        start += int(places[0])  # what lies before the first row may not be whole
        return Segment(first, records[start:], tail.raw)
