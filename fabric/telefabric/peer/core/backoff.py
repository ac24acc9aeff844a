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

    def next_s(self) -> float:
        window_s = self._window_s
        self._window_s = min(window_s * 2, self._longest_s)
        return window_s * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._window_s = self._first_s
