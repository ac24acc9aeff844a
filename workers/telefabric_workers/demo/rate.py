"""Holding a step rate."""

from __future__ import annotations

import time

_CATCH_UP_S = 1.0
"""A program that was suspended does not hurry through more than this afterwards."""


class Rate:
    """Paces a loop at `per_s` turns a second; None for as fast as it goes. One thread.

    By deadline: a turn that took long is followed by shorter waits, so the mean rate holds and errors do not add up.
    """

    def __init__(self, per_s: float | None) -> None:
        self._interval_s = 1.0 / per_s if per_s else 0.0
        self._due_s: float | None = None

    def wait(self) -> None:
        """Called once a turn: return when the next one is due. The first is due at once."""
        if not self._interval_s:
            return
        now_s = time.monotonic()
        if self._due_s is None:
            self._due_s = now_s
        elif now_s < self._due_s:
            time.sleep(self._due_s - now_s)
        self._due_s = max(self._due_s, now_s - _CATCH_UP_S) + self._interval_s
