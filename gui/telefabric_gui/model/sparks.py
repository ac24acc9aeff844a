"""The shape of the return of runs, over all of each run, from the store's overview."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
from PySide6.QtCore import QObject, Signal

from telefabric.feed import Answer, Bucket, Buckets, RunView
from telefabric_gui.model.asking import Asker, Asking

AGAIN_S = 5.0
"""A run that goes on is asked for again after this time."""
_LEVEL, _FINER = 2, 1
"""Buckets of 65,536 and of 256 steps."""
_FEW = 8
"""With at most this many buckets, finer ones are asked for: at most 256 times as many."""
_ROWS_MAX = 2_000
_AT_ONCE = 6
_ALL = 2**63 - 1


class Sparks(QObject):
    """Asks for the runs in sight, a few at once. GUI thread."""

    came = Signal(str, object)
    """A run, and the values of its return in the order of steps."""

    def __init__(self, asker: Asker, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._asking = Asking(asker, self)
        self._asked: dict[str, tuple[int | None, float]] = {}
        """Run → its end when it was asked for, and the time; no end when there was no answer."""
        self.known: set[str] = set()
        """Runs whose return the store has in more than a few points."""
        self._waiting: set[str] = set()

    def want(self, runs: Iterable[RunView]) -> None:
        """These are in sight. What is known of them still holds, or is asked for now or at a later call."""
        now_s = time.monotonic()
        for run in runs:
            end_ns, asked_s = self._asked.get(run.run_id, (None, -AGAIN_S))
            holds = now_s - asked_s < AGAIN_S or (end_ns is not None and end_ns == run.finished_ns)
            if holds or not run.agents or run.run_id in self._waiting or len(self._waiting) >= _AT_ONCE:
                continue
            self._asked[run.run_id] = run.finished_ns, now_s
            self._waiting.add(run.run_id)
            self._ask(run, _LEVEL)

    def forget(self, run_ids: Iterable[str]) -> None:
        """These are gone, or another feed is shown."""
        for run_id in run_ids:
            self._asked.pop(run_id, None)
            self.known.discard(run_id)
            self._waiting.discard(run_id)

    def _ask(self, run: RunView, level: int) -> None:
        question = Buckets(run.run_id, None, run.agents[0], "return", level, -_ALL, _ALL, None, _ROWS_MAX)
        self._asking.ask(question, lambda answer: self._take(run, level, answer))

    def _take(self, run: RunView, level: int, answer: Answer) -> None:
        if run.run_id not in self._waiting:
            return
        if level == _LEVEL and answer.page is not None and len(answer.page.rows) <= _FEW:
            self._ask(run, _FINER)
            return
        self._waiting.discard(run.run_id)
        if answer.page is None:
            self._asked[run.run_id] = None, time.monotonic()
        elif answer.page.rows:
            if len(answer.page.rows) > _FEW:
                self.known.add(run.run_id)
            self.came.emit(run.run_id, values_of(answer.page.rows))


def values_of(buckets: Sequence[Bucket]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The mean of each bucket, of few ones their ends, too; those of several streams side by side count as one."""
    if not buckets:
        return np.empty(0)
    if len(buckets) <= 2:
        return np.array([value for one in buckets for value in (one.first, one.last)])
    place = np.array([one.bucket for one in buckets])
    number = np.array([one.count for one in buckets], np.float64)
    total = np.array([one.last * one.count if one.total is None else one.total for one in buckets])
    _, group = np.unique(place, return_inverse=True)
    means = np.bincount(group, total) / np.bincount(group, number)
    return means[np.isfinite(means)]
