"""The memory of the client: what its data take, and what is let go of when the client takes more than its limit.

Frames leave first, then pages of rows out of sight, then fine values of charts, then the oldest rows that came live.
All of them are in the store, and are read again when they are in sight again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import NamedTuple, Protocol

PROGRAM_BYTES = 192 * 2**20
"""The interpreter, Qt and an open window, where the system does not show how much memory a process has."""
_LOOKS_IN_VAIN = 10
"""Looks without another try when all that may leave was not enough: what is in sight would only flicker."""
_ROOM = 0.05
"""The part of the limit that is freed beyond what is needed: else something would have to leave at each look."""


class Sort(IntEnum):
    """In the order in which they are let go of."""

    FRAMES = 0
    PAGES = 1
    SERIES = 2
    ROWS = 3


class Part(NamedTuple):
    """Something that is held."""

    sort: Sort
    bytes: int
    let_go: Callable[[int], object] | None = None
    """Let go of about this many bytes, the oldest first; of fewer when others are in sight. None: all of it stays."""


class Holder(Protocol):
    def parts(self) -> list[Part]: ...


class MemoryBudget:
    """`keep` from time to time.

    `process_bytes` says what the whole process takes, 0 when the system does not tell. `give_back` hands freed memory
    back to the system.
    """

    def __init__(
        self, limit_bytes: int, process_bytes: Callable[[], int], give_back: Callable[[], object] = bool
    ) -> None:
        self.limit_bytes = limit_bytes
        self.held: dict[Sort, int] = dict.fromkeys(Sort, 0)
        """Bytes by sort, at the last look."""
        self.used_bytes = 0
        """Of the process, at the last look."""
        self._process_bytes, self._give_back = process_bytes, give_back
        self._in_vain = 0

    def keep(self, parts: Callable[[], Iterable[Part]]) -> None:
        """Look at what is held, and let go of what is too much."""
        over = self._look(parts())
        self._in_vain = max(self._in_vain - 1, 0)
        if over <= 0 or self._in_vain:
            return
        over += round(self.limit_bytes * _ROOM)
        for sort in Sort:
            for part in sorted(parts(), key=lambda part: part.bytes, reverse=True):
                if part.sort is sort and part.let_go is not None and over > 0:
                    before = self.held_bytes
                    part.let_go(over)
                    self._count(parts())
                    over -= before - self.held_bytes
        self._give_back()
        if self._look(parts()) > 0:
            self._in_vain = _LOOKS_IN_VAIN

    @property
    def held_bytes(self) -> int:
        return sum(self.held.values())

    def _count(self, parts: Iterable[Part]) -> None:
        self.held = dict.fromkeys(Sort, 0)
        for part in parts:
            self.held[part.sort] += part.bytes

    def _look(self, parts: Iterable[Part]) -> int:
        """How many bytes are too much."""
        self._count(parts)
        least = PROGRAM_BYTES + self.held_bytes
        self.used_bytes = self._process_bytes() or least
        return self.used_bytes - self.limit_bytes
