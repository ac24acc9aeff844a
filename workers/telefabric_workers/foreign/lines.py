"""One line of a program's output: the events that it is, or why it is none.

A line is an event when it is a JSON object whose ``type``, ``event``, ``event_type`` or ``kind`` is one of `KINDS`.
What such a line has beyond the fields of its kind goes into the event's own map: ``info``, ``metadata`` or ``fields``.
Without input and output: the caller gives the time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from telefabric_schemas.events import Episode, Event, Log, Metric, Reset, Step
from telefabric_workers.foreign.fields import BadValue, Fields, may_be_object, object_in, why_unreadable
from telefabric_workers.program import Ending

_KIND_NAMES = ("type", "event_type", "event", "kind")
_DUMPED = "payload_version"
"""A line that has it is an event that `telefabric dump` has written."""
_ENVELOPE = (_DUMPED, "worker_id", "stream_id", "id", "seq", "mono_ns")
"""What the fabric itself says of each event in a dump."""
_AGENT = ("agent_id", "agent")
LOGGER = "stdout"
"""The logger of log events that are a line of text."""
_BAD_KEPT = 20
_OUTCOMES: dict[str, tuple[str, ...]] = {
    "completed": ("completed", "complete", "success", "succeeded", "successful", "done", "finished", "ok", "true"),
    "failed": ("failed", "failure", "error", "errored", "crashed", "faulted", "false"),
    "cancelled": ("cancelled", "canceled", "aborted", "interrupted", "stopped", "terminated"),
}


@dataclass
class BadLines:
    """Lines that name a kind of event, and what is wrong with them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, number: int, reason: str) -> None:
        self.count += 1
        if self.count <= _BAD_KEPT:
            self.first.append(f"line {number}: {reason}")

    def sentences(self) -> list[str]:
        more = self.count - len(self.first)
        return [*self.first, *([f"and {more} more"] if more else [])]


class Now(NamedTuple):
    """The time at which a line was read: wall clock and monotonic, as in events."""

    time_ns: int
    mono_ns: int


class Line(NamedTuple):
    """What a line is. All are empty for one that is no event, such as a line of text."""

    events: tuple[Event, ...] = ()
    metadata: dict[str, Any] | None = None
    """Of the run."""
    ending: Ending | None = None
    """The run has ended, and so."""
    reason: str = ""
    """Why a line of one of the kinds is no event."""

    @property
    def is_event(self) -> bool:
        return bool(self.events or self.metadata is not None or self.ending)

    def apart_from(self, mono_ns: int) -> int:
        """The monotonic time of its events; another than that of the line before, which may name the same time."""
        found = 0
        for event in self.events:
            event.mono_ns += event.mono_ns == mono_ns  # type: ignore[attr-defined]
            found = event.mono_ns  # type: ignore[attr-defined]
        return found


@dataclass
class _Place:
    """Where an environment of an agent is, for lines that do not number their episodes and steps."""

    episode: int = 0
    step: int = 0
    told: int = 0
    """Episodes that episode lines have told of."""


@dataclass
class Lines:
    """The lines of one program, read in order."""

    agent: str
    control_mode: str = "agent"
    game_id: str | None = None
    steps: dict[str, int] = field(default_factory=dict)
    """The newest global step of each agent."""
    places: dict[str, _Place] = field(default_factory=dict)

    def read(self, line: bytes, now: Now) -> Line:
        found = object_in(line)
        if found is None:
            meant = _MEANT.search(line) if may_be_object(line) else None
            return Line(reason=f"{meant[1].decode()}: {why_unreadable(line)}" if meant else "")
        named = {name: kind for name in _KIND_NAMES if isinstance(kind := found.get(name), str) and kind in _MAKERS}
        if not named:
            return Line()
        name, kind = next(iter(named.items()))
        if isinstance(found.get("payload"), dict):  # lifecycle lines of some have all in it
            found = _joined(found.pop("payload"), found, "payload")
        fields = Fields(found)
        try:
            at = _moment(fields.time_ns(), now)
            fields.drop((name, "run_id", *(_ENVELOPE if _DUMPED in found else ())))
            return _MAKERS[kind](self, fields, at)
        except BadValue as error:
            return Line(reason=f"{kind}: {error}")

    # -- the kinds -----------------------------------------------------------------------------------------------

    def _step(self, fields: Fields, at: Now) -> Line:
        agent, env, place = self._where(fields)
        episode, step = fields.whole("episode_index", "episode"), fields.whole("step_index", "step", "time_step")
        if episode is not None and episode != place.episode:
            place.episode, place.step = episode, 0
        if step is not None:
            place.step = step
        terminated, truncated = fields.flag("terminated", "done"), fields.flag("truncated")
        reward = fields.real("reward") if "reward" in fields else 0.0  # null is a number that JSON has no word for
        event = Step(
            0, agent, env, place.episode, place.step, self._count(agent, fields), reward,
            terminated, truncated, *at, fields.take("action"), fields.take("observation", "obs", "next_state"),
            fields.mode() or self.control_mode, fields.text("policy_label"), fields.text("backend"),
            fields.take("render_hint"), fields.text("frame_ref"),
        )  # fmt: skip
        event.info = _joined(fields.map("info"), fields.rest(), "info") or None
        place.step += 1
        if terminated or truncated:
            place.episode, place.step = place.episode + 1, 0
        return Line((event,))

    def _episode(self, fields: Fields, at: Now) -> Line:
        agent, env, place = self._where(fields)
        episode = fields.whole("episode_index", "episode")
        episode = place.told if episode is None else episode
        place.told = episode + 1
        if place.episode <= episode:
            place.episode, place.step = episode + 1, 0
        told = fields.map("metadata")
        also = Fields(told)  # some have all that is worth knowing in it
        why = "terminated" if fields.flag("terminated", "done") else None
        why = "truncated" if fields.flag("truncated") and why is None else why
        event = Episode(
            0, agent, env, episode, fields.real("total_reward", "episode_reward", "return", "reward"),
            fields.whole("length", "steps", "episode_length"), self._newest(agent, fields), *at,
            fields.text("end_reason") or why, _first(fields.take("seed"), also.take("seed")),
            fields.text("game_id", "env_id") or also.text("game_id", "env_id") or self.game_id,
            fields.mode() or also.mode() or self.control_mode,
            fields.text("policy_label") or also.text("policy_label"),
        )  # fmt: skip
        event.metadata = _joined(told, fields.rest(), "metadata") or None
        return Line((event,))

    def _reset(self, fields: Fields, at: Now) -> Line:
        agent, env, place = self._where(fields)
        episode = fields.whole("episode_index", "episode")
        if episode is None:
            episode = place.episode + (place.step > 0)
        place.episode, place.step = episode, 0
        event = Reset(
            0, agent, env, episode, *at, fields.take("observation", "obs", "state"), None, fields.take("seed"),
            fields.take("options"), fields.mode() or self.control_mode,
        )  # fmt: skip
        event.info = _joined(fields.map("info"), fields.rest(), "info") or None
        return Line((event,))

    def _metric(self, fields: Fields, at: Now) -> Line:
        agent = self._agent(fields)
        name, unit = fields.text("name", "metric", "tag"), fields.text("unit")
        if name is not None:
            values = {name: fields.real("value", "scalar")}
            step = self._newest(agent, fields, "step", "iteration")
            rest = fields.rest()
        else:
            step = self._newest(agent, fields)
            series = Fields(_joined(fields.map("metrics", "values", "scalars"), fields.rest(), "metrics"))
            names = [name for name, value in series.rest().items() if type(value) in (int, float)]
            values = {name: series.real(name) for name in names}
            rest = series.rest()
        if not values:
            raise BadValue("it has neither a name and a value nor numbers by name")
        metrics = [Metric(0, name, value, unit, step, agent, *at) for name, value in values.items()]
        # a metric has no map for what else its line has
        return Line((*metrics, *([Log(0, "debug", ", ".join(values), agent, *at, "metric", rest)] if rest else [])))

    def _log(self, fields: Fields, at: Now) -> Line:
        agent = self._agent(fields)
        level = (fields.text("level", "levelname", "severity") or "info").lower()
        message = fields.text("message", "msg", "text") or ""
        level = {"warn": "warning", "fatal": "critical"}.get(level, level)
        event = Log(0, level, message, agent, *at, fields.text("logger"))
        event.fields = _joined(fields.map("fields"), fields.rest(), "fields") or None
        return Line((event,))

    def _run_started(self, fields: Fields, at: Now) -> Line:
        fields.drop(_AGENT)
        told = _joined(fields.map("metadata"), fields.rest(), "metadata")
        config = told.get("config")
        known = Fields({**(config if isinstance(config, dict) else {}), **told})
        self.game_id = known.text("game_id", "env_id") or self.game_id
        if self.game_id is not None:
            told.setdefault("game_id", self.game_id)
        return Line(metadata=told)

    def _run_completed(self, fields: Fields, at: Now, outcome: str = "completed") -> Line:
        fields.drop(_AGENT)
        given = fields.text("outcome", "status", "state", "success")
        if given is not None:
            outcome = next((word for word, known in _OUTCOMES.items() if given.lower() in known), "")
            if not outcome:
                raise BadValue(f"outcome is {given[:80]!r} and should be one of {', '.join(_OUTCOMES)}")
        reason = fields.text("reason", "error", "error_message", "message")
        return Line(metadata=fields.rest() or None, ending=Ending(outcome, reason))  # type: ignore[arg-type]

    # -- what kinds have in common -------------------------------------------------------------------------------

    def _agent(self, fields: Fields) -> str:
        return fields.text(*_AGENT) or self.agent

    def _where(self, fields: Fields) -> tuple[str, int, _Place]:
        agent, env = self._agent(fields), fields.whole("env_index", "vector_index") or 0
        return agent, env, self.places.setdefault(f"{env} {agent}", _Place())

    def _count(self, agent: str, fields: Fields) -> int:
        """The number of a step: its own, or the next of its agent."""
        given = fields.whole("global_step")
        self.steps[agent] = self.steps.get(agent, -1) + 1 if given is None else given
        return self.steps[agent]

    def _newest(self, agent: str, fields: Fields, *names: str) -> int | None:
        given = fields.whole("global_step", *names)
        return self.steps.get(agent) if given is None else given


def text_event(raw: bytes, number: int, reason: str, agent: str, now: Now) -> Log | None:
    """The log event of a line that is no other, with what a terminal would show of it in the end; None for a blank."""
    shown = raw.rstrip(b"\r\n").rpartition(b"\r")[2]
    if not shown.strip():
        return None
    fields = {"line": number, **({"not_recorded": reason} if reason else {})}
    message = shown.decode("utf-8", "backslashreplace")
    return Log(0, "warning" if reason else "info", message, agent, *now, LOGGER, fields)


def run_named_in(line: bytes) -> tuple[str | None, bool]:
    """The run that a line names, and whether it is an object at all."""
    found = object_in(line)
    named = None if found is None else found.get("run_id")
    return named if isinstance(named, str) else None, found is not None


def _joined(own: dict[str, Any], rest: dict[str, Any], name: str) -> dict[str, Any]:
    """A map of a line, with what else the line has. If a name has one value here and another there, both are kept."""
    differ = any(key in rest and rest[key] != value for key, value in own.items())
    return {**own, **rest, **({name: own} if differ else {})}


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _moment(given_ns: int | None, now: Now) -> Now:
    return now if given_ns is None else Now(given_ns, max(now.mono_ns + given_ns - now.time_ns, 0))


def _ended(outcome: str) -> Callable[[Lines, Fields, Now], Line]:
    return lambda lines, fields, at: lines._run_completed(fields, at, outcome)


_MAKERS: dict[str, Callable[[Lines, Fields, Now], Line]] = {
    "step": Lines._step,
    "episode": Lines._episode,
    "reset": Lines._reset,
    "metric": Lines._metric,
    "log": Lines._log,
    "run_started": Lines._run_started,
    "run_completed": Lines._run_completed,
    "run_failed": _ended("failed"),
    "run_cancelled": _ended("cancelled"),
}
KINDS = frozenset(_MAKERS)
_MEANT = re.compile(rf"""["'](?:{"|".join(_KIND_NAMES)})["']\s*:\s*["']({"|".join(_MAKERS)})["']""".encode())
"""What a line has that was to be an event, such as one with the ``nan`` that C prints, or one of Python's ``print``."""
