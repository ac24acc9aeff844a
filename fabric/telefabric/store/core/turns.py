"""Whose question is next: everybody's next one comes before anybody's second."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """What waits, by who brought it."""

    def __init__(self) -> None:
        self._lines: dict[bytes, deque[T]] = {}
        """Whoever had a turn goes to the end."""

    def add(self, peer: bytes, item: T) -> None:
        self._lines.setdefault(peer, deque()).append(item)

    def waiting(self, peer: bytes) -> int:
        return len(self._lines.get(peer, ()))

    def take(self, fits: Callable[[T], bool] = lambda item: True) -> T | None:
        """The next one that fits, in the order in which each peer brought them; None without one."""
        for peer, line in self._lines.items():
            for item in line:
                if fits(item):
                    line.remove(item)
                    del self._lines[peer]
                    if line:
                        self._lines[peer] = line
                    return item
        return None
