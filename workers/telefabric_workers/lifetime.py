"""The lifetime of a worker: opened, unopened in each fork and wherever it is unpickled, closed with its program.

A child process that uses a worker has a stream of its own from its first call on, which helps that of its parent.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Literal, NamedTuple, Self, get_args

import msgspec

from telefabric import __version__
from telefabric.errors import ClosedError, SpoolError
from telefabric.wire.control import StreamInfo
from telefabric_schemas.events import PAYLOAD_VERSION, Outcome, RunCompleted, RunStarted
from telefabric_workers import parent_stream, program
from telefabric_workers.emitter import PLAIN, Emitter
from telefabric_workers.environment import WorkerEnvironment, default_worker_id, hostname
from telefabric_workers.metadata import introducing
from telefabric_workers.notebook import Cell
from telefabric_workers.outbox import open_outbox, reset_after_fork
from telefabric_workers.problems import Problem
from telefabric_workers.program import ending_of
from telefabric_workers.repair import coerce, text
from telefabric_workers.system import SystemMetrics


class Terms(NamedTuple):
    """The arguments of a worker; also its pickled form, with which another process opens a stream of its own."""

    environment: WorkerEnvironment
    metadata: dict[str, bytes]
    """The run's metadata, each value encoded."""
    control_mode: str
    strict: bool
    on_fork: Literal["new", "off"]
    on_error: Literal["raise", "off"]
    helps: bytes | None = None
    """The stream of a parent process that the worker's stream helps."""
    cell: Cell | None = None
    """The notebook cell that opens it."""


class Lifetime(Emitter):
    """The part of a worker that begins and ends its streams."""

    def __init__(self, terms: Terms) -> None:
        """Not open yet: `begin` opens it, or its first call."""
        environment = terms.environment
        super().__init__(environment.agent_id, strict=terms.strict or environment.mode == "dry-run")
        self.run_id = environment.run_id
        self.worker_id = environment.worker_id or default_worker_id()
        self._terms = terms
        self.helps = terms.helps
        """The stream of a parent process that this worker's stream helps; None for a stream of its own."""
        self._metadata = {name: msgspec.Raw(value) for name, value in terms.metadata.items()}
        self._revival = threading.RLock()
        self._system: SystemMetrics | None = None
        self._info: StreamInfo | None = None
        self._error_before = 0

    @property
    def stream_id(self) -> bytes:
        """16 bytes. In a child process, until its first call, the stream of the parent's that it will help."""
        return self._info.stream if self._info is not None else self.helps or b""

    @property
    def closed(self) -> bool:
        return self._unusual == "closed"

    def begin(self) -> None:
        """Open a stream of our own, with its first event. Raises `telefabric.errors.SpoolError`."""
        started_ns = time.time_ns()
        metadata = PLAIN.encode(introducing(self._metadata))
        mode = self._terms.control_mode
        info = StreamInfo(
            os.urandom(16), self.run_id, self.worker_id, self.agent_id, started_ns, mode,
            hostname(), os.getpid(), __version__, metadata, self.helps,
        )  # fmt: skip
        started = RunStarted(
            1, self.run_id, self.worker_id, self.agent_id, started_ns, time.monotonic_ns(), mode,
            msgspec.Raw(metadata), info.host, info.pid, __version__, PAYLOAD_VERSION, self.helps,
        )  # fmt: skip
        coerce(started)
        outbox = open_outbox(self._terms.environment, info)
        with outbox.lock:
            outbox.append(1, PLAIN.encode(started))
        self._outbox, self._deferred, self._info = outbox, outbox.deferred, info
        self._steps, self._step_count, self._episode_count = {}, 0, 0
        self._next_seq = 2
        self._error_before = program.last_error()
        _workers.add(self)
        program.at_end(_close_all)
        if self._terms.environment.mode == "off":
            self._unusual = "off"
            return
        parent_stream.announce(self.run_id, info.stream)
        self._unusual = ""  # last: from here on other threads emit

    def _revive(self) -> bool:
        """The unusual cases of a call: True when it may go on. Never under the outbox's lock."""
        if self._unusual == "unopened":
            with self._revival:
                if self._unusual == "unopened":
                    self._begin_in_child()
            return not self._unusual
        if self._unusual == "closed":
            if self._strict:
                raise ClosedError("this worker is closed: connect() again for a new stream")
            self._problems.note([Problem("worker", "closed", "it was called after close(), and the call was ignored")])
            self._problems.say()
        return False

    def _begin_in_child(self) -> None:
        if self._terms.on_fork == "off":
            self._unusual = "off"
            return
        try:
            self.begin()
        except SpoolError as error:
            if self._terms.on_error == "raise":
                raise
            self._unusual = "off"
            self._problems.note([Problem("worker", "off", f"nothing is recorded: {error}")])

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything emitted so far is stored; False when it is not within `timeout_s`, or when some of it
        was dropped (`dropped` counts that, and nobody waits for it).

        That includes what child processes of this worker left that have ended. After `close` there is nothing to wait
        for, and the answer is what had been stored by then.
        """
        return self._outbox.flush(timeout_s)

    def close(self, outcome: Outcome = "completed", reason: str | None = None) -> bool:
        """End the run, and wait at most ``exit_flush_s`` for acknowledgements.

        True only when every event that was emitted is stored; otherwise a warning says how many are not. What was not
        dropped stays in the spool and is delivered by a later worker on this machine, or by ``telefabric spool
        drain``. A second time it only gives that answer again. From inside another call of the same thread (a signal
        handler) it returns False at once, and happens when that call is over.
        """
        if self._unusual:
            _workers.discard(self)
            self._unusual = "closed"
            return self._outbox.stored_all

        if self._system is not None:
            self._system.stop()
        end = self._last_event(outcome, reason)
        self._outbox.end()
        with self._outbox.lock:
            if self._emitting:
                self._deferred.append(partial(self.close, outcome, reason))
                return False
            if self.closed:
                return self._outbox.stored_all
            earlier = bool(self._deferred)
            if not earlier:
                self._end(end)
        try:
            self._catch_up()
        finally:
            stored = self.close(outcome, reason) if earlier else self._let_go()
        return stored

    def _last_event(self, outcome: str, reason: str | None) -> RunCompleted:
        if outcome not in _OUTCOMES:
            words = ", ".join(_OUTCOMES)
            self._problems.note([Problem("run_completed", "outcome", f"{text(outcome)!r} is not one of {words}")])
            outcome, reason = "failed", reason or f"ended as {text(outcome)!r}"
        event = RunCompleted(0, outcome, reason, time.time_ns(), time.monotonic_ns())
        self._problems.note(coerce(event))
        return event

    def _end(self, event: RunCompleted) -> None:
        """Append the last event, under the lock; the worker stays open when that fails."""
        head = self._outbox.head
        try:
            self._unusual = "closed"
            event.steps, event.episodes = self._step_count, self._episode_count
            self._append(event)
        except BaseException:
            if self._outbox.head == head:
                self._unusual = ""
            raise

    def _let_go(self) -> bool:
        parent_stream.retract(self.run_id, self.stream_id)
        stored = self._outbox.close(self._terms.environment.exit_flush_s)
        _workers.discard(self)  # last: a child that is forked meanwhile lets go of the outbox, too
        return stored

    def _close_at_end(self) -> None:
        assert program.program is not None
        self.close(*program.program.ending(self._error_before))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.close(*ending_of(error))

    def __reduce__(self) -> tuple[Callable[..., Lifetime], tuple[type[Lifetime], Terms, bytes, bool]]:
        metadata = {name: bytes(value) for name, value in self._metadata.items()}
        terms = self._terms._replace(metadata=metadata, helps=self.stream_id)
        return _inherit, (type(self), terms, self.stream_id, self.closed)

    def __deepcopy__(self, memo: object = None) -> Self:
        return self

    __copy__ = __deepcopy__

    def _after_fork(self) -> None:
        """In a forked child: nothing inherited is touched; the next call opens a stream of the child's own.

        Also a worker that is not open here: another thread of the parent may have been about to open or close it.
        """
        self._problems.forked()
        self._revival = threading.RLock()
        self.worker_id = self._terms.environment.worker_id or default_worker_id()
        self._outbox.disown()
        if not self._unusual:
            self._unusual = "unopened"
            self.helps = self.stream_id
            _heirs[self.helps] = self
            self._emitting = False
            self._deferred.clear()


def _inherit(kind: type[Lifetime], terms: Terms, stream: bytes, closed: bool) -> Lifetime:
    """Unpickled: the worker itself where it lives, else this process's own worker of the same run."""
    with _guard:
        for worker in (_heirs.get(stream), *_workers):
            if worker is not None and stream in (worker.stream_id, worker.helps) and not worker.closed:
                return worker
        heir = kind(terms)
        if closed:
            heir._unusual = "closed"
        else:
            _heirs[stream] = heir
        return heir


def _close_all() -> None:
    """End the workers that nobody closed, as their program ends."""
    with ExitStack() as stack:  # whatever one of them raises
        for worker in list(_workers):
            stack.callback(worker._close_at_end)


def close_earlier(cell: Cell, environment: WorkerEnvironment) -> None:
    """End what an earlier execution of a notebook cell opened, for the same run or when both have a made-up name."""
    for worker in list(_workers):
        earlier = worker._terms.environment
        same = not (earlier.run_named or environment.run_named) or earlier.run_id == environment.run_id
        if same and earlier.agent_id == environment.agent_id and cell.is_again(worker._terms.cell):
            worker.close("cancelled", "its notebook cell was run again")


def _forked() -> None:
    global _guard
    _guard = threading.RLock()
    reset_after_fork()
    for worker in {*_workers, *_heirs.values()}:
        worker._after_fork()


_OUTCOMES = get_args(Outcome)
_guard = threading.RLock()
_workers: set[Lifetime] = set()
"""The workers that are not closed, also those that their program does not reference any more."""
_heirs: dict[bytes, Lifetime] = {}
"""Workers that came to this process pickled, by the stream that they help."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
