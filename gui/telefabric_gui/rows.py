"""Rows of a table: events of one kind, with what is missing among them, in bounded numpy columns.

Rows are in order of arrival; within a stream their seqs rise. What comes late, because a hole is filled, goes to its
place. A hole and a gap are rows too, of all the seqs that they cover. When there are more than `rows_max`, the oldest
leave; encoded events are kept up to `raw_bytes_max`, so that large observations cannot fill the memory. GUI thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

EVENT, HOLE, GAP = 0, 1, 2
_HEAD: list[tuple[str, str]] = [("mark", "u1"), ("stream", "i4"), ("seq", "i8"), ("last_seq", "i8")]
_FIRST_ROOM = 1_024
_GROUPS_MAX = 16
"""Changes at more places than this are one reset for listeners."""

STEP_ROW = np.dtype([
    *_HEAD, ("env", "i8"), ("episode", "i8"), ("step", "i8"), ("global_step", "i8"), ("reward", "f8"),
    ("terminated", "?"), ("truncated", "?"), ("time_ns", "i8"), ("reset", "?"),
])  # fmt: skip
EPISODE_ROW = np.dtype([
    *_HEAD, ("env", "i8"), ("episode", "i8"), ("total", "f8"), ("length", "i8"), ("global_step", "i8"),
    ("time_ns", "i8"),
])  # fmt: skip
NO_STEP = -1
"""In `global_step` and `length`: the event does not say."""


class Mark(NamedTuple):
    """Seqs of a stream that are missing: a hole, which the store may still fill, or a gap, which is for good."""

    first: int
    last: int
    kind: int
    reason: str = ""


class Listener(Protocol):
    """Called before and after each change, as item models need it. `first` and `count` are positions, oldest 0."""

    def inserting(self, first: int, count: int) -> None: ...
    def inserted(self) -> None: ...
    def removing(self, first: int, count: int) -> None: ...
    def removed(self) -> None: ...
    def resetting(self) -> None: ...
    def reset(self) -> None: ...


class EventRows:
    """Rows by position, oldest first. `dtype` begins with the columns of `_HEAD`."""

    def __init__(self, dtype: np.dtype[Any], rows_max: int, raw_bytes_max: int) -> None:
        self.rows_max = rows_max
        self.events = 0
        """Events that ever came in, those that have left included, and but for resets and what is void."""
        self.listener: Listener | None = None
        self._raw_bytes_max = raw_bytes_max
        self._table: npt.NDArray[Any] = np.zeros(_FIRST_ROOM, dtype)
        self._raws: npt.NDArray[Any] = np.empty(_FIRST_ROOM, object)
        self._start = self._end = 0
        self._raw_first = 0
        """Position of the oldest row whose event is still held."""
        self._raw_bytes = 0
        self._newest: dict[int, int] = {}
        self._marks: dict[int, frozenset[Mark]] = {}
        self._reasons: dict[tuple[int, int], str] = {}

    def __len__(self) -> int:
        return self._end - self._start

    def column(self, name: str) -> npt.NDArray[Any]:
        """A view, valid until the next change."""
        found: npt.NDArray[Any] = self._table[self._start : self._end][name]
        return found

    def row(self, position: int) -> Any:
        """One row as a numpy record; a negative position counts from the end."""
        return self._table[self._end + position if position < 0 else self._start + position]

    def raw(self, position: int) -> bytes | None:
        """The encoded event; None for a mark, and if it is not in memory any more."""
        found: bytes | None = self._raws[self._end + position if position < 0 else self._start + position]
        return found

    def reason(self, position: int) -> str:
        """Why the seqs of a gap are lost."""
        row = self.row(position)
        return self._reasons.get((int(row["stream"]), int(row["seq"])), "")

    @property
    def held(self) -> int:
        """Events among the rows, but for resets."""
        resets = np.count_nonzero(self.column("reset")) if "reset" in (self._table.dtype.names or ()) else 0
        return int(np.count_nonzero(self.column("mark") == EVENT) - resets)

    def frozen(self) -> EventRows:
        """A copy that nothing changes, for a paused table."""
        copy = EventRows(self._table.dtype, self.rows_max, self._raw_bytes_max)
        copy._table = self._table[self._start : self._end].copy()
        copy._raws = self._raws[self._start : self._end].copy()
        copy._end = len(copy._table)
        copy.events = self.events
        copy._reasons = dict(self._reasons)
        return copy

    # -- changes -------------------------------------------------------------------------------------------------

    def apply(
        self,
        rows: Sequence[tuple[Any, ...]],
        raws: Sequence[bytes],
        marks: dict[int, Iterable[Mark]] | None = None,
        *,
        resets: int = 0,
    ) -> int:
        """Take in events, as tuples in the order of the dtype, and for some streams all that is missing now.

        `resets` of them are shown and are no steps.
        Returns how many events were new; one that is there already is left out.
        """
        wanted = {stream: frozenset(given) for stream, given in (marks or {}).items()}
        for stream, given in wanted.items():
            self._remove_marks(stream, self._marks.get(stream, frozenset()) - given)
        taken = self._take(rows, raws)
        for stream, given in wanted.items():
            self._insert_marks(stream, given - self._marks.get(stream, frozenset()))
            self._marks[stream] = given
        self._evict()
        self.events += taken - resets
        return taken

    def remove_episode(self, env: int, episode: int, before: int) -> None:
        """Take out what came of an episode before this seq."""
        table = self._table[self._start : self._end]
        found = (table["env"] == env) & (table["episode"] == episode) & (table["seq"] < before)
        positions = np.flatnonzero(found & (table["mark"] == EVENT))
        if len(positions):
            before_it = self.held
            self._remove_many(positions.tolist())
            self.events -= before_it - self.held

    def clear_listener(self) -> None:
        self.listener = None

    def _take(self, rows: Sequence[tuple[Any, ...]], raws: Sequence[bytes]) -> int:
        if not rows:
            return 0
        newest = self._newest
        block = np.array(rows, self._table.dtype)
        if self._goes_on(block):
            newest[rows[0][1]] = rows[-1][2]
            self._insert(len(self), block, raws)
            return len(rows)
        tail, tail_raws, late = [], [], []
        for place, row in enumerate(rows):
            stream, seq = row[1], row[2]
            if seq > newest.get(stream, 0):
                newest[stream] = seq
                tail.append(row)
                tail_raws.append(raws[place])
            else:
                late.append(place)
        if tail:
            self._insert(len(self), np.array(tail, self._table.dtype), tail_raws)
        return len(tail) + (self._fill([rows[place] for place in late], [raws[place] for place in late]) if late else 0)

    def _goes_on(self, block: npt.NDArray[Any]) -> bool:
        """Whether these are of one stream, in order, and newer than all that came of it: the common case."""
        streams, seqs = block["stream"], block["seq"]
        one = bool((streams == streams[0]).all() and (seqs[1:] > seqs[:-1]).all())
        return one and int(seqs[0]) > self._newest.get(int(streams[0]), 0)

    def _fill(self, rows: list[tuple[Any, ...]], raws: list[bytes]) -> int:
        """Events that belong between others, or before all."""
        places: list[tuple[int, int, int]] = []
        for stream in {row[1] for row in rows}:
            own = np.flatnonzero(self.column("stream") == stream)
            seqs, kinds = self.column("seq")[own], self.column("mark")[own]
            wanted = {row[2]: place for place, row in enumerate(rows) if row[1] == stream}
            asked = np.array(sorted(wanted))
            for seq, at in zip(asked.tolist(), np.searchsorted(seqs, asked).tolist(), strict=True):
                there = at
                while there < len(seqs) and seqs[there] == seq and kinds[there] != EVENT:
                    there += 1
                if there < len(seqs) and seqs[there] == seq:
                    continue
                position = int(own[at]) if at < len(own) else int(own[-1]) + 1 if len(own) else 0
                places.append((position, seq, wanted[seq]))
        full = len(self) >= self.rows_max  # then what is older than all rows would leave at once
        self._insert_at(
            [(position, rows[place], raws[place]) for position, _, place in sorted(places) if position or not full]
        )
        return len(places)

    def _insert_marks(self, stream: int, marks: Iterable[Mark]) -> None:
        found: list[tuple[int, tuple[Any, ...], bytes | None]] = []
        own = np.flatnonzero(self.column("stream") == stream)
        seqs = self.column("seq")[own]
        for mark in sorted(marks):
            at = int(np.searchsorted(seqs, mark.first))
            position = int(own[at]) if at < len(own) else int(own[-1]) + 1 if len(own) else 0
            if mark.first > self._newest.get(stream, 0):
                self._newest[stream] = mark.first
                position = len(self)
            row = np.zeros((), self._table.dtype)
            row["mark"], row["stream"], row["seq"], row["last_seq"] = mark.kind, stream, mark.first, mark.last
            if mark.reason:
                self._reasons[stream, mark.first] = mark.reason
            found.append((position, row.item(), None))
        self._insert_at(found)

    def _remove_marks(self, stream: int, marks: Iterable[Mark]) -> None:
        gone = {(mark.kind, mark.first) for mark in marks}
        if not gone:
            return
        table = self._table[self._start : self._end]
        candidates = np.flatnonzero((table["mark"] != EVENT) & (table["stream"] == stream))
        found = [at for at in candidates.tolist() if (int(table[at]["mark"]), int(table[at]["seq"])) in gone]
        if len(found) > _GROUPS_MAX:
            self._remove_many(found)
        else:
            for position in reversed(found):
                self._remove(position, 1)
        for _, first in gone:
            self._reasons.pop((stream, first), None)

    def _evict(self) -> None:
        if (over := len(self) - self.rows_max) > 0:
            self._remove(0, over)
        while self._raw_bytes > self._raw_bytes_max and self._raw_first < len(self):
            at = self._start + self._raw_first
            if self._raws[at] is not None:
                self._raw_bytes -= len(self._raws[at])
                self._raws[at] = None
            self._raw_first += 1

    # -- moving rows ---------------------------------------------------------------------------------------------

    def _insert_at(self, found: list[tuple[int, tuple[Any, ...], bytes | None]]) -> None:
        """Rows with their positions before any of them is in, in rising order."""
        groups: list[tuple[int, list[tuple[Any, ...]], list[bytes | None]]] = []
        for position, row, raw in found:
            if not groups or groups[-1][0] != position:
                groups.append((position, [], []))
            groups[-1][1].append(row)
            groups[-1][2].append(raw)
        if len(groups) > _GROUPS_MAX:
            self._insert_many(found)
            return
        for position, rows, raws in reversed(groups):
            self._insert(position, np.array(rows, self._table.dtype), raws)

    def _insert_many(self, found: list[tuple[int, tuple[Any, ...], bytes | None]]) -> None:
        """Rows at many places, as one reset."""
        at = np.array([position for position, _, _ in found])
        raws = np.empty(len(found), object)
        raws[:] = [None if position < self._raw_first else raw for position, _, raw in found]
        block = np.array([row for _, row, _ in found], self._table.dtype)
        self._replace(
            np.insert(self._table[self._start : self._end], at, block),
            np.insert(self._raws[self._start : self._end], at, raws),
            self._raw_first + int(np.count_nonzero(at < self._raw_first)),
        )
        self._raw_bytes += sum(map(len, filter(None, raws)))

    def _remove_many(self, positions: list[int]) -> None:
        """Rows at many places, as one reset."""
        gone = self._raws[self._start : self._end][positions]
        self._raw_bytes -= sum(map(len, filter(None, gone)))
        self._replace(
            np.delete(self._table[self._start : self._end], positions),
            np.delete(self._raws[self._start : self._end], positions),
            self._raw_first - sum(position < self._raw_first for position in positions),
        )

    def _replace(self, table: npt.NDArray[Any], raws: npt.NDArray[Any], raw_first: int) -> None:
        if self.listener:
            self.listener.resetting()
        self._table, self._raws, self._raw_first = table, raws, raw_first
        self._start, self._end = 0, len(table)
        if self.listener:
            self.listener.reset()

    def _insert(self, position: int, block: npt.NDArray[Any], raws: Sequence[bytes | None]) -> None:
        count = len(block)
        if self.listener:
            self.listener.inserting(position, count)
        self._make_room(count)
        at = self._start + position
        if position < len(self):
            self._table[at + count : self._end + count] = self._table[at : self._end]
            self._raws[at + count : self._end + count] = self._raws[at : self._end]
        self._table[at : at + count] = block
        if position < self._raw_first:
            self._raw_first += count
            self._raws[at : at + count] = None
        else:
            self._raws[at : at + count] = raws
            self._raw_bytes += sum(map(len, filter(None, raws)))
        self._end += count
        if self.listener:
            self.listener.inserted()

    def _remove(self, position: int, count: int) -> None:
        if self.listener:
            self.listener.removing(position, count)
        at = self._start + position
        self._raw_bytes -= sum(map(len, filter(None, self._raws[at : at + count])))
        self._raw_first -= min(max(0, self._raw_first - position), count)
        if position == 0:
            self._raws[at : at + count] = None
            self._start += count
        else:
            self._table[at : self._end - count] = self._table[at + count : self._end]
            self._raws[at : self._end - count] = self._raws[at + count : self._end]
            self._raws[self._end - count : self._end] = None
            self._end -= count
        if self.listener:
            self.listener.removed()

    def _make_room(self, count: int) -> None:
        """Room for `count` rows after the last: to the front of the arrays first, larger arrays else."""
        size, needed = len(self), len(self) + count
        if self._end + count <= len(self._table):
            return
        table, raws = self._table, self._raws
        if needed > len(table) // 2:
            room = max(2 * needed, _FIRST_ROOM)
            self._table, self._raws = np.zeros(room, table.dtype), np.empty(room, object)
        self._table[:size] = table[self._start : self._end]
        self._raws[:size] = raws[self._start : self._end]
        self._raws[size : self._end] = None
        self._start, self._end = 0, size
