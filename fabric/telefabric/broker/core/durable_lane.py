"""The durable lane: one queue of batches, and a cursor into it for each durable subscriber.

A batch stays until every required subscriber has been sent it; the worker's spool holds it until it is acknowledged.
Behind that, some of the newest batches stay for subscribers that are not required. Whoever of them falls further back
is moved on, and `skipped` says what it has to read from the store.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from telefabric import limits


class _Batch(NamedTuple):
    message: bytes
    stream: bytes
    last_seq: int


@dataclass(slots=True)
class Cursor:
    """How far one subscriber has been served since it attached."""

    position: int
    required: bool
    missed: int = 0
    """Batches that it was not sent; only a subscriber that is not required misses any."""
    sent: int = 0
    """Batches."""
    skipped: OrderedDict[bytes, int] = field(default_factory=OrderedDict)
    """Stream → last seq that a subscriber that is not required was not sent and has not reported."""

    def skip(self, stream: bytes, last_seq: int) -> None:
        """It will not be sent a stream up to this seq. The oldest are forgotten."""
        if last_seq > self.skipped.get(stream, 0):
            self.skipped[stream] = last_seq
            self.skipped.move_to_end(stream)
        if len(self.skipped) > limits.STREAMS_KNOWN_MAX:
            self.skipped.popitem(last=False)

    def reported(self, stream: bytes, seq: int) -> None:
        """It has the stream up to this seq."""
        if self.skipped.get(stream, seq + 1) <= seq:
            del self.skipped[stream]


class DurableLane:
    """Bounded: for required subscribers by the credit that was lent, for the others by `tail_bytes_max`."""

    def __init__(self, tail_bytes_max: int = limits.LANE_TAIL_BYTES_MAX) -> None:
        self._tail_bytes_max = tail_bytes_max
        self._batches: dict[int, _Batch] = {}
        """Place in the queue → batch, without withdrawn ones: from `_first`, with `_owed` the first that a required
        subscriber waits for."""
        self._first = self._owed = self._end = 0
        self.cursors: dict[str, Cursor] = {}
        self.bytes = 0
        """Bytes of batches that a required subscriber was not sent yet."""
        self.tail_bytes = 0
        """Bytes of batches that only other subscribers wait for."""

    def attach(self, name: str, *, required: bool) -> Cursor:
        """(Re)place a subscriber at the end of the queue."""
        cursor = self.cursors[name] = Cursor(self._end, required)
        self._trim()
        return cursor

    def detach(self, name: str) -> None:
        self.cursors.pop(name, None)
        self._trim()

    def push(self, message: bytes, stream: bytes, last_seq: int) -> None:
        self._batches[self._end] = _Batch(message, stream, last_seq)
        self._end += 1
        self.bytes += len(message)
        self._trim()

    def peek(self, name: str) -> bytes | None:
        """The next batch for a subscriber."""
        cursor = self.cursors.get(name)
        while cursor is not None and cursor.position < self._end:
            batch = self._batches.get(cursor.position)
            if batch is not None:
                return batch.message
            cursor.position += 1
        return None

    def sent(self, name: str) -> None:
        """ZeroMQ took what `peek` gave."""
        cursor = self.cursors[name]
        cursor.position += 1
        cursor.sent += 1
        self._trim()

    def withdraw(self, stream: bytes, expected: int) -> None:
        """A stream begins again at this seq: withdraw what waits for required subscribers and ends after it.

        It will be sent again. Left in the queue, it would leave no room for the new copies. All of them have the events
        of such a batch that are before that seq.
        """
        gone = [
            place
            for place, batch in self._batches.items()
            if place >= self._owed and batch.stream == stream and batch.last_seq >= expected
        ]
        for place in gone:
            self.bytes -= len(self._batches.pop(place).message)
            for cursor in self.cursors.values():
                if not cursor.required and cursor.position <= place:
                    cursor.skip(stream, expected - 1)
        self._trim()

    def pending(self, name: str) -> int:
        """How many batches wait for a subscriber."""
        return sum(place >= self.cursors[name].position for place in self._batches)

    def _trim(self) -> None:
        owed = min((cursor.position for cursor in self.cursors.values() if cursor.required), default=self._end)
        while self._owed < owed:
            if batch := self._batches.get(self._owed):
                self.bytes -= len(batch.message)
                self.tail_bytes += len(batch.message)
            self._owed += 1
        slowest = min((cursor.position for cursor in self.cursors.values()), default=self._end)
        while self._first < self._owed and (self._first < slowest or self.tail_bytes > self._tail_bytes_max):
            self._let_go(self._batches.pop(self._first, None))

    def _let_go(self, batch: _Batch | None) -> None:
        """Of the first place: without a batch if it was withdrawn."""
        self.tail_bytes -= len(batch.message) if batch is not None else 0
        for cursor in self.cursors.values():
            if cursor.position == self._first:
                cursor.position += 1
                if batch is not None:
                    cursor.missed += 1
                    cursor.skip(batch.stream, batch.last_seq)
        self._first += 1
