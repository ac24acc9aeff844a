"""Which runs rest: nobody has them in sight, so nothing of them need come to this client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

REST_S = 0.5
"""Time out of sight before a run rests: looking through the tabs then ends no subscription."""


class Sight:
    """Runs in sight, and when the others last were. `now_s` is a monotonic clock."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._seen_s: dict[str, float] = {}

    def resting(self, runs: Iterable[str], in_sight: frozenset[str]) -> frozenset[str]:
        """Those of the runs that rest now; call it with each tick."""
        now_s = self._now_s()
        self._seen_s = {run_id: now_s if run_id in in_sight else self._seen_s.get(run_id, now_s) for run_id in runs}
        return frozenset(run_id for run_id, seen_s in self._seen_s.items() if now_s - seen_s >= REST_S)
