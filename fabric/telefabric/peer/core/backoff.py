"""Waiting times between attempts: doubling from the first to the longest, with jitter."""

from __future__ import annotations

from random import Random

from telefabric import limits


class Backoff:
    """Successive delays in seconds, each drawn from the upper half of a doubling window so that herds spread out."""

    def __init__(
        self, random: Random, first_s: float = limits.RECONNECT_MIN_S, longest_s: float = limits.RECONNECT_MAX_S
    ) -> None:
        self._random = random
        self._first_s = first_s
        self._longest_s = longest_s
        self._window_s = first_s
        self._due_ns = 0

    def next_s(self) -> float:
        window_s = self._window_s
        self._window_s = min(window_s * 2, self._longest_s)
        return window_s * self._random.uniform(0.5, 1.0)

    def begin(self, now_ns: int) -> float:
        """Wait for the next delay from now on; how long that is."""
        wait_s = self.next_s()
        self._due_ns = now_ns + int(wait_s * 1e9)
        return wait_s

    def left_s(self, now_ns: int) -> float:
        """How much of the wait is left; 0.0 when the next attempt is due."""
        return max(self._due_ns - now_ns, 0) / 1e9

    def reset(self) -> None:
        self._window_s = self._first_s
