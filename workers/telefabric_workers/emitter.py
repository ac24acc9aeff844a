"""Emitting: one stream's lock, its next number, and what happens to a call that comes from inside another.

The caller's values become raw MessagePack, or exact built-in types, before the outbox's lock is taken. Under it events
are numbered and appended, and no code of the caller runs: no conversion, no callback, no log handler.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import msgspec

from telefabric import limits
from telefabric.wire.names import DEMAND
from telefabric_schemas.events import Episode, Event, Metric, Step
from telefabric_workers.outbox import Outbox
from telefabric_workers.problems import Problem, Problems
from telefabric_workers.repair import coerce, described, name_of, text

StepCallback = Callable[[Step], object]
EpisodeCallback = Callable[[Episode], object]

PLAIN = msgspec.msgpack.Encoder()
"""Without a hook: what it encodes is plain."""


class Emitter(ABC):
    """The part of a worker that numbers and appends. Any thread; see the module for the lock."""

    def __init__(self, agent_id: str, *, strict: bool) -> None:
        self.agent_id = agent_id
        self._strict = strict
        self._on_step: list[StepCallback] = []
        self._on_episode: list[EpisodeCallback] = []
        self._problems = Problems(strict=strict)
        self.problems = self._problems.counts
        """Values that were not usable, by path (``step.info.bad``); as ``frame.thinned``, frames without room."""
        self._unsaid = self._problems.unsaid
        self._emitting = False
        """Looked at under the outbox's lock: true there means that this call interrupts another one of its thread."""
        self._unusual = "unopened"
        """Why a call must not simply emit: unopened in this process, closed, off. Empty in the normal case."""
        self._outbox = Outbox()
        self._deferred = self._outbox.deferred
        """Calls that a signal handler made inside another one, and calls that the link asks for."""
        self._next_seq = 1
        """The seq that a step is encoded with before the lock is taken; stale when another thread emits meanwhile."""
        self._steps: dict[str, int] = {}
        self._step_count = 0
        self._episode_count = 0
        self._names: set[Any] = {agent_id}
        """Names of agents, as given, that are valid ids unchanged."""

    @abstractmethod
    def _revive(self) -> bool:
        """The unusual cases of a call: True when it may go on. Never under the outbox's lock."""

    def emit(self, event: Event) -> None:
        """Emit an event that was made elsewhere, such as by an adapter; its fields may hold any values.

        It gets its `seq` here. A `global_step` of None becomes the agent's next for a step, its last for other events.
        """
        if not self._unusual or self._revive():
            self._send(event)

    def tell(self, problems: list[Problem]) -> None:
        """Count problems and log what is new among them; never under a lock. Raises `UsageError` when strict."""
        self._problems.note(problems)
        self._problems.say()

    def _send(self, event: Event) -> None:
        """Emit an event of the caller's values."""
        given = copy_of(event) if self._on_episode and event.__class__ is Episode else None
        self._problems.note(coerce(event))
        self._emit(event, given)

    def _emit(self, event: Event, given: Step | Episode | None = None) -> None:
        """Number a plain event and append it; later, when this call interrupts one of the same thread.

        `given`: the same with the caller's values, for callbacks.
        """
        try:
            with self._outbox.lock:
                if self._emitting:
                    self._deferred.append(partial(self._emit, event, given))
                    return
                late = self._unusual
                if not late:
                    self._append(event)
        except BaseException as error:  # noqa: BLE001  raised again by what it calls
            self._settle(error)
        if late:  # another thread has closed the worker just now
            self._revive()
            return
        if given is not None:
            assert isinstance(event, (Step, Episode))
            given.seq, given.global_step = event.seq, event.global_step
            self._tell_callbacks(self._on_step if event.__class__ is Step else self._on_episode, given)
        if self._deferred or self._unsaid:
            self._catch_up()

    def _append(self, event: Event) -> None:
        """The caller holds the lock and has seen that no call is under way."""
        self._emitting = True
        try:
            outbox = self._outbox
            event.seq = outbox.head + 1
            if isinstance(event, Step):
                if event.global_step is None:
                    event.global_step = self._steps.get(event.agent_id, -1) + 1
                outbox.append(event.seq, self._encode(event))
                self._steps[event.agent_id] = event.global_step
                self._step_count += 1
            else:
                if isinstance(event, (Episode, Metric)) and event.global_step is None:
                    event.global_step = self._steps.get(event.agent_id)
                outbox.append(event.seq, self._encode(event))
                self._episode_count += isinstance(event, Episode)
            self._next_seq = event.seq + 1
        finally:
            self._emitting = False

    def _encode(self, event: Event) -> bytes:
        """The bytes of an event of plain fields. Fields that are too large, or texts that are not UTF-8, go now."""
        try:
            encoded = PLAIN.encode(event)
            if len(encoded) <= limits.EVENT_BYTES_MAX:
                return encoded
        except (UnicodeEncodeError, OverflowError):
            pass  # a lone surrogate in a text, or an integer beyond 64 bits: they have another form
        self._problems.note(coerce(event))
        return PLAIN.encode(event)

    def _catch_up(self) -> None:
        """Do what must not happen under the lock: deferred calls, and log lines, whose handler may emit."""
        while self._deferred:
            try:
                call = self._deferred.popleft()
            except IndexError:  # another thread carries it out
                break
            call()
        self._problems.say()

    def _settle(self, error: BaseException) -> NoReturn:
        """A call ends by `error`, such as a signal handler's `SystemExit`: those from inside it happen all the same."""
        try:
            if not self._emitting:
                self._catch_up()
        finally:
            raise error

    def _named(self, agent: Any) -> str:
        """An agent's name, as usable as the worker's own; that one when it has none."""
        if agent is None:
            return self.agent_id
        if agent.__class__ is str and agent in self._names:
            return agent
        try:
            given = text(agent)
        except Exception as error:  # noqa: BLE001  whatever the caller's object raises
            self._problems.note([Problem("event", "agent", f"its text cannot be had: {described(error)}")])
            return self.agent_id
        if given not in self._names:
            name = name_of(given)
            if not name or name != given:
                self._problems.note([Problem("event", "agent", f"it should be {DEMAND}")])
                return name or self.agent_id
            self._names.add(given)
        return given

    def _tell_callbacks(self, callbacks: list[Any], given: Any) -> None:
        for callback in list(callbacks):
            try:
                callback(given)
            except Exception as error:
                if self._strict:
                    raise
                name = getattr(callback, "__qualname__", repr(callback))
                self._problems.note([Problem("callback", name, f"it raised {described(error)}")])


def copy_of(event: Any) -> Any:
    """The same fields, to be numbered apart: the values themselves are the caller's."""
    return event.__class__(*(getattr(event, name) for name in event.__struct_fields__))
