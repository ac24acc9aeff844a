"""Where every agent of a run is at one moment: its step, its return so far, whether it is still in the episode.

Agents of one stream act in one environment, whose episodes and steps they count alike: they are matched by these. Those
of another stream have an environment of their own, and are matched by the time of their steps. Decision 38 says why.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PySide6.QtCore import QObject

from telefabric.feed import Answer, Columns, RowOf, StepKey, StepsOf
from telefabric_gui.agent_stream import AgentStream
from telefabric_gui.model.asking import ANY_ID, Asker, Asking
from telefabric_gui.reduction import Floats
from telefabric_gui.rows import EVENT

WINDOW_ROWS = 10_000
"""Rows of the tail before and behind a moment in which the episode is looked for; else the store is asked."""
EPISODE_ROWS_MAX = 65_536
"""Steps of an episode that are read from the store: one question."""
AGAIN_S = 2.0
"""How often the store is asked again for an episode that goes on."""
_FIELDS = ["seq", "env_index", "episode_index", "step_index", "reward", "terminated", "truncated"]
_STEP = np.dtype([("n", "i8"), ("seq", "i8"), ("step", "i8"), ("reward", "f8"), ("ended", "u1")])
_TERMINATED, _TRUNCATED = 1, 2


class Moment(NamedTuple):
    """A step of the agent that the cursor is at."""

    stream_id: bytes
    seq: int
    env: int
    episode: int
    step: int
    time_ns: int


class Standing(NamedTuple):
    """The last step of an agent up to a moment."""

    seq: int
    n: int
    """The number of its row; -1 when only the tail has it."""
    env: int
    episode: int
    step: int
    reward: float
    so_far: float
    """The return of the episode up to it."""
    ended: str
    """``terminated``, ``truncated``, or empty while the agent goes on."""


def standing(course: Any, env: int, episode: int, step: int) -> Standing | None:
    """The last step up to a number, in the steps of one episode; None before the first."""
    done = course[course["step"] <= step]
    if not len(done):
        return None
    last = done[-1]
    ended = "terminated" if last["ended"] & _TERMINATED else "truncated" if last["ended"] else ""
    reward, so_far = float(last["reward"]), float(np.nansum(done["reward"]))
    return Standing(int(last["seq"]), int(last["n"]), env, episode, int(last["step"]), reward, so_far, ended)


def shares(returns: Sequence[float]) -> list[float]:
    """Each one's part of the sum of what all have won and lost, with its sign; zeros when that is nothing."""
    finite = [value if np.isfinite(value) else 0.0 for value in returns]
    whole = sum(map(abs, finite))
    return [value / whole if whole else 0.0 for value in finite]


class Peer(QObject):
    """One agent. GUI thread."""

    def __init__(self, stream: AgentStream, feed: Asker | None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.stream = stream
        self._asking = Asking(feed, self)
        self._stored: tuple[tuple[int, int], Any, float] = (-1, -1), np.zeros(0, _STEP), 0.0
        """An episode, its steps in the store, and when they were asked for."""
        self._asked: object = None
        """What the store is asked for and has not answered."""
        self._failed_s = -AGAIN_S
        """When the store last gave no answer."""
        self._at_time: tuple[int, tuple[int, int, int] | None] = -1, None
        """A time, and the place of the last step before it."""
        self._raw: tuple[int, bytes | None] = -1, None
        """The seq of a step, and its event from the store."""

    def close(self) -> None:
        self._asking.close()

    def at(self, moment: Moment) -> Standing | None:
        """Where the agent is; None while that is being read, and when it is in no such episode."""
        place = self._place_at(moment)
        if place is None:
            return None
        env, episode, step = place
        return standing(self._course(env, episode, moment), env, episode, step)

    @property
    def reading(self) -> bool:
        """The store has been asked and has not answered."""
        return self._asked is not None

    def raw(self, found: Standing) -> bytes | None:
        """The encoded step; None while it is being read."""
        if (raw := self.stream.steps.raw_of(found.seq)) is not None:
            return raw
        if self._raw[0] == found.seq:
            return self._raw[1]
        before, stream = StepKey(found.step - 1, ANY_ID), self.stream
        question = StepsOf(*stream.key, found.env, found.episode, before, 1, stream.stream_id, voided=True)
        self._ask(question, partial(self._take_raw, found.seq))
        return None

    # -- the episode and step of a moment ------------------------------------------------------------------------

    def _place_at(self, moment: Moment) -> tuple[int, int, int] | None:
        if moment.stream_id == self.stream.stream_id:
            return moment.env, moment.episode, moment.step
        records = self.stream.steps.records
        at = int(np.searchsorted(records["time_ns"], moment.time_ns, "right"))
        near = records[max(0, at - WINDOW_ROWS) : at]
        near = near[(near["mark"] == EVENT) & ~near["reset"]]
        if len(near):
            return int(near["env"][-1]), int(near["episode"][-1]), int(near["step"][-1])
        if self._at_time[0] != moment.time_ns:
            question = RowOf(self.stream.stream_id, "step", self.stream.key.agent_id, "time_ns", moment.time_ns)
            self._ask(question, partial(self._take_time, moment.time_ns))
        return self._at_time[1]

    def _take_time(self, time_ns: int, answer: Answer) -> None:
        """The row at or behind a time is known: the step before it is wanted, or itself when it is the first."""
        for place in answer.page.rows if answer.page is not None else []:
            question = self._columns(max(place.n - 1, 0), 1)
            self._ask(question, partial(self._take_place, time_ns))

    def _take_place(self, time_ns: int, answer: Answer) -> None:
        for chunk in answer.page.rows if answer.page is not None else []:
            _, env, episode, step, *_ = (int(column[0]) for column in _numbers(chunk))
            self._at_time = time_ns, (env, episode, step)

    # -- the steps of an episode ---------------------------------------------------------------------------------

    def _course(self, env: int, episode: int, moment: Moment) -> Any:
        """All that is known of an episode's steps, in their order."""
        tail, whole = self._of_tail(env, episode, moment)
        if whole:
            return tail
        of, stored, asked_s = self._stored
        ended = len(stored) and stored["ended"][-1]
        if of != (env, episode) or (not ended and time.monotonic() - asked_s > AGAIN_S):
            question = RowOf(self.stream.stream_id, "step", self.stream.key.agent_id, "episode", episode, env)
            self._ask(question, partial(self._take_first, (env, episode)))
        if of != (env, episode):
            return tail[:0]
        return np.concatenate((stored, tail[tail["seq"] > (stored["seq"][-1] if len(stored) else 0)]))

    def _of_tail(self, env: int, episode: int, moment: Moment) -> tuple[Any, bool]:
        """Steps of an episode in the tail, and whether these begin with its first."""
        records = self.stream.steps.records
        by, value = ("seq", moment.seq) if moment.stream_id == self.stream.stream_id else ("time_ns", moment.time_ns)
        at = int(np.searchsorted(records[by], value))
        near = records[max(0, at - WINDOW_ROWS) : at + WINDOW_ROWS]
        near = near[(near["mark"] == EVENT) & (near["env"] == env)]
        mine = near[near["episode"] == episode]
        steps = mine[~mine["reset"]]
        course = np.zeros(len(steps), _STEP)
        course["n"] = -1
        for name in ("seq", "step", "reward"):
            course[name] = steps[name]
        course["ended"] = steps["terminated"] * _TERMINATED + steps["truncated"] * _TRUNCATED
        begins = len(mine) > 0 and bool(mine["reset"].any() or mine["step"][0] <= 0 or near["episode"][0] != episode)
        return course, begins

    def _take_first(self, of: tuple[int, int], answer: Answer) -> None:
        """The row of the first step is known."""
        if answer.page is not None and answer.page.rows:
            question = self._columns(answer.page.rows[0].n, EPISODE_ROWS_MAX)
            self._ask(question, partial(self._take_steps, of, np.zeros(0, _STEP)))
        elif answer.page is not None:
            self._stored = of, np.zeros(0, _STEP), time.monotonic()

    def _take_steps(self, of: tuple[int, int], before: Any, answer: Answer) -> None:
        """A page may end before the episode does: then ask on."""
        env, episode = of
        for chunk in answer.page.rows if answer.page is not None else []:
            columns = _numbers(chunk)
            seq, envs, episodes, step, reward, terminated, truncated = columns
            found = np.zeros(len(seq), _STEP)
            found["n"] = chunk.first + np.arange(len(seq))
            found["seq"], found["step"], found["reward"] = seq, step, reward
            found["ended"] = terminated * _TERMINATED + truncated * _TRUNCATED
            mine = (envs == env) & (episodes == episode) & (seq >= self.stream.voided.get(of, 0))
            course = np.concatenate((before, found[mine]))
            left = EPISODE_ROWS_MAX - len(course)
            if answer.page is not None and answer.page.more and episodes[-1] == episode and left > 0:
                self._ask(self._columns(answer.page.last, left), partial(self._take_steps, of, course))
            else:
                self._stored = of, course, time.monotonic()

    def _take_raw(self, seq: int, answer: Answer) -> None:
        if answer.page is not None:
            self._raw = seq, next((row.event for row in answer.page.rows), None)

    # -- asking --------------------------------------------------------------------------------------------------

    def _columns(self, first: int, rows: int) -> Columns:
        return Columns(self.stream.stream_id, "step", self.stream.key.agent_id, first, rows, _FIELDS)

    def _ask(self, question: Any, then: Any) -> None:
        """One question at a time: what is wanted then is asked for with the next tick."""
        if self._asked is None and self._asking.can_ask and time.monotonic() - self._failed_s > AGAIN_S:
            self._asked = question
            self._asking.ask(question, partial(self._take, then), urgent=True)

    def _take(self, then: Any, answer: Answer) -> None:
        self._asked = None
        self._failed_s = time.monotonic() if answer.page is None else -AGAIN_S
        then(answer)


def _numbers(chunk: Any) -> list[Floats]:
    return [np.frombuffer(column, "<f8") for column in chunk.columns]
