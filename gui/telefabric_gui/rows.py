"""The tail of a table: the newest events of one kind of one stream, with what is missing among them, in numpy.

Rows are in rising seq; what comes late, because a hole is filled, goes to its place. A hole and a gap are rows too, of
all the seqs that they cover. A voided event keeps its row, because the store counts it, too. When there are more than
`rows_max`, the oldest leave; encoded events are kept up to `raw_bytes_max`, so that large observations cannot fill the
memory. GUI thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from telefabric_schemas import Episode, Reset, Step

EVENT, HOLE, GAP, VOID = 0, 1, 2, 3
NO_STEP = -1
"""In `global_step` and `length`: the event does not say."""
KEPT_ROWS = 128
"""The newest rows stay when memory is short: they fill the tallest table."""
RAW_MORE_BYTES = 170
"""What an encoded event takes beside its bytes: two objects and a place in a dictionary."""
_FIRST_ROOM = 1_024
_GROUPS_MAX = 16
"""With more changed places than this, the table is reset rather than changed at each."""

_EVENT_COLUMNS: list[tuple[str, str]] = [
    ("mark", "u1"), ("seq", "i8"), ("last_seq", "i8"), ("reset", "?"), ("time_ns", "i8"), ("env", "i8"),
    ("episode", "i8"), ("global_step", "i8"),
]  # fmt: skip
STEP_ROW = np.dtype([*_EVENT_COLUMNS, ("step", "i8"), ("reward", "f8"), ("terminated", "?"), ("truncated", "?")])
EPISODE_ROW = np.dtype([*_EVENT_COLUMNS, ("total", "f8"), ("length", "i8")])
_SEQ, _RESET = (_EVENT_COLUMNS.index(column) for column in (("seq", "i8"), ("reset", "?")))

Row = tuple[Any, ...]
"""An event in the order of the columns, and at the end its bytes."""


class Mark(NamedTuple):
    """Seqs of a stream that are missing: a hole, which the store may still fill, or a gap, which is for good."""

    first: int
    last: int
    kind: int
    reason: str = ""


class EventRows:
    """Rows by position, oldest first. `dtype` begins with `_EVENT_COLUMNS`."""

    def __init__(self, dtype: np.dtype[Any], rows_max: int, raw_bytes_max: int) -> None:
        self.rows_max = rows_max
        self.events = 0
        """Events that ever came in, those that have left included, and but for resets and what is void."""
        self.voided = 0
        """Counted events among the rows that are not shown."""
        self.dropped = 0
        """Counted events, see `counted`, that have left because there are newer ones."""
        self.begun = 0
        """How often other rows began, which do not follow on those before."""
        self.listeners: list[Callable[[], object]] = []
        """Called after each change."""
        self._raw_bytes_max = raw_bytes_max
        self._table: npt.NDArray[Any] = np.zeros(_FIRST_ROOM, dtype)
        self._start = self._end = 0
        self._raws: dict[int, bytes] = {}
        """Encoded events by seq. No column: objects would make moving rows ten times as slow."""
        self._raw_from = 0
        """The lowest seq whose encoded event may be held."""
        self._raw_bytes = 0
        self._marks: frozenset[Mark] = frozenset()

    def __len__(self) -> int:
        return self._end - self._start

    def column(self, name: str) -> npt.NDArray[Any]:
        """A view, valid until the next change."""
        found: npt.NDArray[Any] = self._rows[name]
        return found

    @property
    def records(self) -> npt.NDArray[Any]:
        """A view of all rows, valid until the next change."""
        return self._rows

    def row(self, position: int) -> Any:
        """One row as a numpy record; a negative position counts from the end."""
        return self._rows[position]

    def raw(self, row: Any) -> bytes | None:
        """The encoded event of a row; None in a mark, and when it is not in memory any more."""
        return self.raw_of(int(row["seq"])) if row["mark"] == EVENT else None

    def raw_of(self, seq: int) -> bytes | None:
        """The encoded event of a seq, while it is in memory."""
        return self._raws.get(seq)

    @property
    def raw_from(self) -> int:
        """The seq before which no encoded event is held any more."""
        return self._raw_from

    @property
    def marks(self) -> frozenset[Mark]:
        """What is missing now."""
        return self._marks

    def reason(self, first: int) -> str:
        """Why the seqs of the gap that begins here are lost."""
        return next((mark.reason for mark in self._marks if mark.first == first and mark.kind == GAP), "")

    @property
    def bytes_held(self) -> int:
        return self._table.nbytes + self._raw_bytes + RAW_MORE_BYTES * len(self._raws)

    @property
    def held(self) -> int:
        """Events among the rows, but for resets."""
        return int(np.count_nonzero((self.column("mark") == EVENT) & ~self.column("reset")))

    # -- changes -------------------------------------------------------------------------------------------------

    def apply(self, events: Iterable[Row], marks: Iterable[Mark] | None = None) -> None:
        """Take in events, but for those that are there already, and all that is missing now, if that has changed."""
        given = self._marks if marks is None else frozenset(marks)
        self._remove_marks(self._marks - given)
        self._take(events)
        self._insert_marks(given - self._marks)
        self._marks = given
        self._evict()
        self._tell()

    def void_episode(self, env: int, episode: int, before: int) -> None:
        """What came of an episode before this seq is not shown any more."""
        held = self.held
        found = of_episode(self._rows, env, episode, before)
        if found.any():
            self._forget(*self._rows["seq"][found].tolist())
            self._rows["mark"][found] = VOID
            self.events -= held - self.held
            self._tell()

    def let_go(self, number: int) -> None:
        """Have the oldest rows leave, so that about this many bytes are free; the newest stay."""
        self.leave(min(len(self), len(self) * number // self.bytes_held + 1))

    def leave(self, rows: int, keep: int = KEPT_ROWS) -> None:
        """Have the oldest rows leave, but for the newest `keep`."""
        if (gone := min(rows, len(self) - keep)) > 0:
            self._leave(gone)
            self._replace(self._rows.copy())
            self._tell()

    def begin_again(self) -> None:
        """What comes next does not follow on what is here."""
        self.begun += 1
        self.leave(len(self), keep=0)

    def _leave(self, rows: int) -> None:
        self.dropped += int(np.count_nonzero(counted(self._rows[:rows])))
        self._remove(0, rows)

    def _tell(self) -> None:
        self.voided = int(np.count_nonzero((self.column("mark") == VOID) & ~self.column("reset")))
        for listener in self.listeners:
            listener()

    def _take(self, events: Iterable[Row]) -> None:
        newest = self._rows[-1]["seq"] if len(self) else 0
        tail: list[Row] = []
        late: dict[int, Row] = {}
        for event in events:
            if event[_SEQ] > newest:
                newest = event[_SEQ]
                tail.append(event)
            else:
                late[event[_SEQ]] = event
        if tail:
            self._insert(len(self), tail)
        fresh = self._new_ones(late) if late else []
        oldest = self.row(0)["seq"] if len(self) >= self.rows_max else 0  # what is older would leave at once
        self._insert_sorted([event for event in fresh if event[_SEQ] > oldest])
        self.events += sum(not event[_RESET] and event[0] == EVENT for event in (*tail, *fresh))

    def _new_ones(self, events: dict[int, Row]) -> list[Row]:
        """Those by seq of which no row is there, in rising seq."""
        there = self.column("seq")[is_event(self._rows)]
        seqs = np.array(sorted(events))
        return [events[seq] for seq in seqs[~np.isin(seqs, there)].tolist()]

    def _insert_marks(self, marks: Iterable[Mark]) -> None:
        found: list[Row] = []
        for mark in sorted(marks):
            if mark.kind == GAP:
                self._remove_lost(mark)
            row = np.zeros((), self._table.dtype)
            row["mark"], row["seq"], row["last_seq"] = mark.kind, mark.first, mark.last
            found.append((*row.item(), b""))
        self._insert_sorted(found)

    def _remove_lost(self, gap: Mark) -> None:
        """What came live and did not reach the store, which now has a gap there, is in no count of the run."""
        held = self.held
        first, last = np.searchsorted(self.column("seq"), [gap.first, gap.last + 1]).tolist()
        if last > first:
            self._remove(first, last - first)
            self.events -= held - self.held

    def _remove_marks(self, marks: Iterable[Mark]) -> None:
        gone = {(mark.kind, mark.first) for mark in marks}
        if not gone:
            return
        candidates = np.flatnonzero(~is_event(self._rows)).tolist()
        found = [at for at in candidates if (self.row(at)["mark"], self.row(at)["seq"]) in gone]
        if len(found) > _GROUPS_MAX:
            self._replace(np.delete(self._rows, found))
            return
        for position in reversed(found):
            self._remove(position, 1)

    def _evict(self) -> None:
        if (over := len(self) - self.rows_max) > 0:
            self._leave(over)
        if self._raw_bytes > self._raw_bytes_max:
            for seq in map(int, self.column("seq")[np.searchsorted(self.column("seq"), self._raw_from) :]):
                if self._raw_bytes <= self._raw_bytes_max:
                    break
                self._forget(seq)
                self._raw_from = seq + 1

    def _forget(self, *seqs: int) -> None:
        """Let encoded events go."""
        for seq in seqs:
            self._raw_bytes -= len(self._raws.pop(seq, b""))

    # -- moving rows ---------------------------------------------------------------------------------------------

    @property
    def _rows(self) -> npt.NDArray[Any]:
        return self._table[self._start : self._end]

    def _insert_sorted(self, rows: list[Row]) -> None:
        """Rows in rising seq to their places, each before the rows that are there of the same seq."""
        if not rows:
            return
        places = np.searchsorted(self.column("seq"), [row[_SEQ] for row in rows]).tolist()
        groups: dict[int, list[Row]] = {}
        for position, row in zip(places, rows, strict=True):
            groups.setdefault(position, []).append(row)
        if len(groups) > _GROUPS_MAX:
            self._replace(np.insert(self._rows, places, self._block(rows)))
            return
        for position in reversed(groups):
            self._insert(position, groups[position])

    def _block(self, rows: Sequence[Row]) -> npt.NDArray[Any]:
        """The columns of rows that come in; their encoded events are kept apart."""
        kept = {row[_SEQ]: row[-1] for row in rows if row[-1] and row[_SEQ] >= self._raw_from}
        self._raws |= kept
        self._raw_bytes += sum(map(len, kept.values()))
        return np.array([row[:-1] for row in rows], self._table.dtype)

    def _replace(self, table: npt.NDArray[Any]) -> None:
        self._table, self._start, self._end = table, 0, len(table)

    def _insert(self, position: int, rows: Sequence[Row]) -> None:
        block, count = self._block(rows), len(rows)
        self._make_room(count)
        at = self._start + position
        self._table[at + count : self._end + count] = self._table[at : self._end]
        self._table[at : at + count] = block
        self._end += count

    def _remove(self, position: int, count: int) -> None:
        at = self._start + position
        gone = self._table[at : at + count]
        self._forget(*gone["seq"][gone["mark"] == EVENT].tolist())
        if position == 0:
            self._start += count
        else:
            self._table[at : self._end - count] = self._table[at + count : self._end]
            self._end -= count

    def _make_room(self, count: int) -> None:
        """Room for `count` rows after the last: to the front of the table first, a larger table else."""
        if self._end + count <= len(self._table):
            return
        rows, size, needed = self._rows, len(self), len(self) + count
        if needed > len(self._table) // 2:
            self._table = np.zeros(max(2 * needed, _FIRST_ROOM), rows.dtype)
        self._table[:size] = rows
        self._start, self._end = 0, size


def is_event(rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which rows are of one event, rather than of missing ones."""
    found: npt.NDArray[np.bool_] = (rows["mark"] == EVENT) | (rows["mark"] == VOID)
    return found


def counted(rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which rows the store counts as of the table's kind: voided ones too, resets not."""
    found: npt.NDArray[np.bool_] = is_event(rows) & ~rows["reset"]
    return found


def of_episode(rows: npt.NDArray[Any], env: int, episode: int, before: int) -> npt.NDArray[np.bool_]:
    """Which rows are events of an episode before a seq."""
    found: npt.NDArray[np.bool_] = rows["episode"] == episode
    found &= (rows["env"] == env) & (rows["seq"] < before) & (rows["mark"] == EVENT)
    return found


def _event_columns(seq: int, event: Step | Reset | Episode, global_step: int | None) -> Row:
    """The columns that all rows of events begin with."""
    place = event.env_index, event.episode_index, _or_no_step(global_step)
    return (EVENT, seq, seq, type(event) is Reset, event.time_ns, *place)


def step_row(seq: int, event: Step | Reset, raw: bytes) -> Row:
    """A reset is the step before the first."""
    if isinstance(event, Reset):
        return (*_event_columns(seq, event, None), -1, math.nan, False, False, raw)
    common = _event_columns(seq, event, event.global_step)
    reward = math.nan if event.reward is None else event.reward
    return (*common, event.step_index, reward, event.terminated, event.truncated, raw)


def episode_row(seq: int, event: Episode, raw: bytes) -> Row:
    total = math.nan if event.total_reward is None else event.total_reward
    return (*_event_columns(seq, event, event.global_step), total, _or_no_step(event.length), raw)


def _or_no_step(number: int | None) -> int:
    return NO_STEP if number is None else number
