"""The last live batches of watched runs, for subscribers that come later."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain

from telefabric import limits
from telefabric.broker.core.live_queue import drop_order

_RECENT_WINDOW_BYTES = limits.LIVE_RECENT_BYTES // 4
_WINDOW_OVERHEAD_BYTES = 1_536
"""An empty deque, a name and their places: names cost strangers nothing."""
_RECENT_BYTES_MAX = limits.LIVE_QUEUE_BYTES_MAX


@dataclass(slots=True)
class _Window:
    """Batches of one run and kind, each with the number of its arrival."""

    batches: deque[tuple[int, bytes]] = field(default_factory=deque)
    size: int = _WINDOW_OVERHEAD_BYTES
    """In bytes, with what Python takes beside them."""

    def push(self, arrival: int, message: bytes) -> None:
        self.batches.append((arrival, message))
        self.size += len(message) + limits.BATCH_OVERHEAD_BYTES
        while len(self.batches) > limits.LIVE_RECENT_BATCHES or self.size > _RECENT_WINDOW_BYTES:
            self.size -= len(self.batches.popleft()[1]) + limits.BATCH_OVERHEAD_BYTES


class RecentWindow:
    """The last batches of each run and kind, in bounds, for subscribers that come later."""

    def __init__(self) -> None:
        self.size = 0
        """In bytes."""
        self._arrivals = 0
        self._windows: dict[tuple[str, str], _Window] = {}
        """The one that was fed last comes last."""

    def push(self, run: str, kind: str, message: bytes) -> None:
        if len(message) > _RECENT_WINDOW_BYTES:
            return
        self._arrivals += 1
        window = self._windows.pop((run, kind), None) or _Window()
        self._windows[run, kind] = window
        self.size -= window.size if window.batches else 0
        window.push(self._arrivals, message)
        self.size += window.size
        while self.size > _RECENT_BYTES_MAX:
            self.size -= self._windows.pop(next(iter(self._windows))).size

    def batches(self, takes: Callable[[str, str], bool]) -> list[bytes]:
        """The recent batches of the wanted runs and kinds, oldest first; the most valuable if not all have room."""
        wanted = [(kind, window) for (run, kind), window in self._windows.items() if takes(run, kind)]
        wanted.sort(key=lambda one: drop_order(one[0]), reverse=True)
        found: list[tuple[int, bytes]] = []
        room = limits.LIVE_RECENT_BYTES
        for arrival, message in chain.from_iterable(reversed(window.batches) for _, window in wanted):
            if len(message) <= room:
                found.append((arrival, message))
                room -= len(message)
        return [message for _, message in sorted(found)]

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Forget all other runs."""
        self._windows = {key: window for key, window in self._windows.items() if wanted(key[0])}
        self.size = sum(window.size for window in self._windows.values())
