"""The return of an episode up to a step: from the rows in memory, and of what is before them from the store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PySide6.QtCore import QObject

from telefabric.feed import Answer, ColumnChunk, Columns, RowOf
from telefabric_gui.model.asking import Asker, Asking
from telefabric_gui.model.cursor import Subject
from telefabric_gui.model.lines import Found, Lines
from telefabric_gui.rows import EVENT

_FIELDS = ["seq", "env_index", "episode_index", "reward"]
_AGAIN_S = 2.0
_AT_ONCE = 8
"""Environments that are asked for at once: of a grid there may be many."""


class Sum(NamedTuple):
    """The rewards of an episode up to a row."""

    episode: int
    row: int
    seq: int
    total: float


class Returns(QObject):
    """Of the step at the cursor of one page. GUI thread."""

    def __init__(
        self, feed: Asker | None, subject: Subject, voided: Mapping[tuple[int, int], int], parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._asking = Asking(feed, self)
        self._subject = subject
        self._voided = voided
        self._known: dict[int, Sum] = {}
        """The last one of each environment."""
        self._asked_s: dict[int, float] = {}
        """The time of the question that waits, by environment."""

    def so_far(self, lines: Lines, found: Found) -> float | None:
        """The return up to a step; None while the beginning of its episode is not known."""
        env, episode, seq = (int(found.record[part]) for part in ("env", "episode", "seq"))
        known = self._known.get(env)
        if known is not None and (known.episode != episode or known.seq > seq):
            known = None
        total = return_so_far(lines, found, known)
        if total is not None:
            self._known[env] = Sum(episode, found.row, seq, total)
        else:
            now_s = time.monotonic()
            self._asked_s = {one: asked_s for one, asked_s in self._asked_s.items() if now_s - asked_s < _AGAIN_S}
            if env not in self._asked_s and len(self._asked_s) < _AT_ONCE:
                self._asked_s[env] = now_s
                self._ask(env, episode, found.row)
        return total

    def close(self) -> None:
        self._asking.close()

    def _ask(self, env: int, episode: int, row: int) -> None:
        """Ask for the first row of the episode, then for its rewards up to a row."""
        _, agent_id, stream_id, _ = self._subject

        def begin(answer: Answer) -> None:
            if answer.page is not None and answer.page.rows:
                self._add(env, Sum(episode, answer.page.rows[0].n - 1, 0, 0.0), row)

        self._asking.ask(RowOf(stream_id, "step", agent_id, "episode", episode, env), begin, urgent=True)

    def _add(self, env: int, known: Sum, row: int) -> None:
        """Add the rewards of the rows behind what is known, page by page; the last ones may not be stored yet."""
        _, agent_id, stream_id, _ = self._subject

        def take(answer: Answer) -> None:
            if answer.page is None or not answer.page.rows[0].rows:
                return
            grown = _grown(known, env, answer.page.rows[0], self._voided)
            if answer.page.more and grown.row < row:
                self._add(env, grown, row)
            else:
                self._known[env] = grown
                self._asked_s.pop(env, None)

        self._asking.ask(
            Columns(stream_id, "step", agent_id, known.row + 1, row - known.row, _FIELDS), take, urgent=True
        )


def _grown(known: Sum, env: int, chunk: ColumnChunk, voided: Mapping[tuple[int, int], int]) -> Sum:
    """With the rewards of the next rows."""
    seq, envs, episodes, rewards = (np.frombuffer(column) for column in chunk.columns)
    of = (envs == env) & (episodes == known.episode) & (seq >= voided.get((env, known.episode), 0))
    return Sum(known.episode, known.row + chunk.rows, int(seq[-1]), known.total + _sum(rewards[of]))


def return_so_far(lines: Lines, found: Found, known: Sum | None = None) -> float | None:
    """Sum of the rewards of the episode of a step, up to that step; None if its beginning is not in memory.

    The rows behind a known sum are enough.
    """
    record, total, after = found.record, 0.0 if known is None else known.total, 0 if known is None else known.seq
    for first, records in lines.before(found.row):
        env = records[(records["env"] == record["env"]) & (records["mark"] == EVENT)]
        same = (env["episode"] == record["episode"]) & (env["seq"] <= record["seq"]) & (env["seq"] > after)
        total += _sum(env["reward"][same])
        if not len(records) or env["reset"][same].any() or (len(env) and env["episode"][0] != record["episode"]):
            return total
        if known is not None and first <= known.row + 1:
            return total
    return None


def _sum(rewards: Any) -> float:
    with np.errstate(over="ignore", invalid="ignore"):  # the sum of what users pay may well be infinite
        return float(np.nansum(rewards))
