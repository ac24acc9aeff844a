"""The durable lane: one queue of batches, and a cursor into it for each durable subscriber.

A batch stays until every required subscriber has been sent it; the worker's spool holds it until it is acknowledged.
A subscriber that is not required never keeps a batch here: it is moved on, and its misses are counted.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class _Cursor:
    position: int
    required: bool
    missed: int = 0


class DurableLane:
    """Bounded by the credit that was lent, not by itself."""

    def __init__(self) -> None:
        self._queue: deque[bytes] = deque()
        self._first = 0
        self._cursors: dict[str, _Cursor] = {}
        self.bytes = 0

    def attach(self, name: str, *, required: bool) -> None:
        """(Re)place a subscriber at the end of the queue."""
        self._cursors[name] = _Cursor(self._end, required)
        self._trim()

    def detach(self, name: str) -> None:
        self._cursors.pop(name, None)
        self._trim()

    def push(self, message: bytes) -> None:
        self._queue.append(message)
        self.bytes += len(message)
        self._trim()

    def peek(self, name: str) -> bytes | None:
        """The next batch for a subscriber."""
        cursor = self._cursors.get(name)
        if cursor is None or cursor.position >= self._end:
            return None
        return self._queue[cursor.position - self._first]

    def sent(self, name: str) -> None:
        """ZeroMQ took what `peek` gave."""
        self._cursors[name].position += 1
        self._trim()

    def pending(self, name: str) -> int:
        cursor = self._cursors.get(name)
        return self._end - cursor.position if cursor else 0

    def missed(self, name: str) -> int:
        cursor = self._cursors.get(name)
        return cursor.missed if cursor else 0

    @property
    def _end(self) -> int:
        return self._first + len(self._queue)

    def _trim(self) -> None:
        keep_from = min((cursor.position for cursor in self._cursors.values() if cursor.required), default=self._end)
        while self._first < keep_from:
            self.bytes -= len(self._queue.popleft())
            self._first += 1
        for cursor in self._cursors.values():
            if cursor.position < self._first:
                cursor.missed += self._first - cursor.position
                cursor.position = self._first
