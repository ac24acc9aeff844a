"""What is known of the episode at the cursor: return and length, and loss and epsilon where there are such metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
from PySide6.QtCore import QObject

from telefabric.feed import Answer, EpisodeKey, EpisodesOf, Points, SeriesOf
from telefabric_gui.agent_stream import METRIC
from telefabric_gui.formatting import NONE, count, real
from telefabric_gui.model.asking import ANY_ID, Asker, Asking
from telefabric_gui.model.cursor import Subject

BEFORE_STEPS = 10_000
"""A metric is that of an episode when it is at most this much older than the episode's end."""
_POINTS = 10_000
_NAMES = {
    "loss": re.compile(r"(^|[/_.])loss$", re.IGNORECASE),
    "epsilon": re.compile(r"(^|[/_.])(epsilon|eps|exploration_rate)$", re.IGNORECASE),
}


def series_of(kind: str, names: Iterable[str]) -> str | None:
    """The metric for ``loss`` or ``epsilon``: the shortest name that ends in it."""
    return min((name for name in names if _NAMES[kind].search(name)), key=lambda name: (len(name), name), default=None)


class EpisodeFacts(QObject):
    """Asks for an episode when the cursor comes to it. GUI thread."""

    def __init__(self, feed: Asker, subject: Subject, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._subject = subject
        self._asking = Asking(feed, self)
        self._metrics: dict[str, str] | None = None
        """What is meant → the metric; None before the store has listed them."""
        self._place: tuple[int, int] | None = None
        self.facts: list[tuple[str, str]] | None = None
        """Names and values, none of an episode that has not ended; None before the store has answered."""

    def close(self) -> None:
        self._asking.close()

    def look(self, env: int, episode: int) -> None:
        """The cursor is in this episode."""
        if (env, episode) == self._place:
            return
        self._asking.forget()
        self._place, self.facts = (env, episode), None
        if self._metrics is None:
            self._asking.ask(SeriesOf(self._subject.run_id), self._take_names)
        else:
            self._ask_episode(env, episode)

    def _ask_episode(self, env: int, episode: int) -> None:
        run_id, agent_id, stream_id, _ = self._subject
        after = EpisodeKey(agent_id, env, episode - 1, ANY_ID)
        self._asking.ask(EpisodesOf(run_id, agent_id, after, 1, stream_id or None), self._take_episode)

    def _take_names(self, answer: Answer) -> None:
        if answer.page is not None:
            mine = (row.series for row in answer.page.rows if row.agent_id == self._subject.agent_id)
            names = [name.removeprefix(METRIC) for name in mine if name.startswith(METRIC)]
            self._metrics = {kind: name for kind in _NAMES if (name := series_of(kind, names)) is not None}
        if self._place is not None:
            self._ask_episode(*self._place)

    def _take_episode(self, answer: Answer) -> None:
        if answer.page is None:
            return
        row = next(iter(answer.page.rows), None)
        if row is None or (row.env_index, row.episode_index) != self._place:
            self.facts = []
            return
        length = NONE if row.length is None else count(row.length)
        self.facts = [("return", real(row.total_reward)), ("length", length)]
        if row.global_step is None:
            return
        for kind, name in (self._metrics or {}).items():
            _, agent_id, stream_id, _ = self._subject
            first, last = max(0, row.global_step - BEFORE_STEPS), row.global_step
            question = Points(stream_id, agent_id, METRIC + name, first, last, 0, _POINTS)
            self._asking.ask(question, partial(self._take_points, kind))

    def _take_points(self, kind: str, answer: Answer) -> None:
        chunks: list[Any] = answer.page.rows if answer.page is not None else []
        values = [np.frombuffer(chunk.points, "<f8").reshape(-1, 2)[:, 1] for chunk in chunks]
        found = np.concatenate(values) if values else np.empty(0)
        if len(found):
            self.facts = [*(self.facts or []), (kind, real(float(found[-1]), 4))]
