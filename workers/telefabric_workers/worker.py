"""The worker: what a training loop calls. `emit` costs microseconds and never waits for a network or a disk.

The caller's values become raw MessagePack, or exact built-in types, before the outbox's lock is taken. Under it events
are numbered and appended, and no code of the caller runs: no conversion, no callback, no log handler.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Literal, NamedTuple, NoReturn, get_args

import msgspec

from telefabric import __version__, limits
from telefabric.errors import ClosedError, SpoolError, UsageError
from telefabric.wire.control import StreamInfo
from telefabric.wire.names import DEMAND
from telefabric_schemas import values
from telefabric_schemas.events import (
    CONTROL_MODES,
    NIL,
    PAYLOAD_VERSION,
    Episode,
    EpisodeVoided,
    Event,
    Frame,
    Log,
    Metric,
    Outcome,
    Reset,
    RunCompleted,
    RunMetadata,
    RunStarted,
    Step,
)
from telefabric_workers import capture, lifetime, lineage
from telefabric_workers.cells import Cell
from telefabric_workers.environment import WorkerEnvironment, default_worker_id, hostname
from telefabric_workers.frames import Moment
from telefabric_workers.lifetime import ending_of
from telefabric_workers.outbox import Nowhere, Outbox, open_outbox, reset_after_fork
from telefabric_workers.problems import Problem, Problems
from telefabric_workers.repair import coerce, described, name_of, raw, real, said, text
from telefabric_workers.storedframes import BYTES_MAX, StoredFrames
from telefabric_workers.system import SystemMetrics

StepCallback = Callable[[Step], object]
EpisodeCallback = Callable[[Episode], object]


_EVENT_BYTES_MAX = limits.EVENT_BYTES_MAX


class Terms(NamedTuple):
    """What a worker is opened with; also what it is pickled as, for another process to open a stream of its own."""

    environment: WorkerEnvironment
    metadata: dict[str, bytes]
    """Of the run, each value encoded."""
    control_mode: str
    strict: bool
    on_fork: Literal["new", "off"]
    on_error: Literal["raise", "off"]
    helps: bytes | None = None
    """The stream of a parent process that the worker's stream helps."""
    cell: Cell | None = None
    """The notebook cell that opens it."""


class Worker:
    """One stream of events of one run. Made by `telefabric_workers.connect`. All methods are for any thread, and for
    signal handlers: a call that interrupts another one of its thread is carried out right after it.

    A value, or the part of it, that cannot be used (not encodable, out of range, too large) is told once by its path,
    counted in `problems`, and the event goes on without it; with `strict` the call raises `UsageError` instead and
    nothing is emitted. Numpy scalars and arrays, bytes, nested maps and sequences are fine as actions, observations and
    infos.

    A worker that is pickled, as the arguments of a process that is spawned are, opens a stream of its own in the
    process that unpickles it, at its first call there; within one process it stays the same worker.
    """

    def __init__(self, terms: Terms) -> None:
        """Not open yet: `begin` opens it, or its first call."""
        environment = terms.environment
        self.run_id = environment.run_id
        self.agent_id = environment.agent_id
        self.worker_id = environment.worker_id or default_worker_id()
        self._terms = terms
        self._helps = terms.helps
        self._control_mode = terms.control_mode
        self._metadata = {name: msgspec.Raw(value) for name, value in terms.metadata.items()}
        self._strict = terms.strict or environment.mode == "dry-run"
        self._on_step: list[StepCallback] = []
        self._on_episode: list[EpisodeCallback] = []
        self._problems = Problems(strict=self._strict)
        self._unsaid = self._problems.unsaid
        self._revival = threading.RLock()
        self._emitting = False
        """Looked at under the outbox's lock: true there means that this call interrupts another one of its thread."""
        self._deferred: deque[Callable[[], object]] = deque()
        """Calls that came from inside another one: from a signal handler."""
        self._unusual = "unopened"
        """Why a call must not simply emit: unopened in this process, closed, off. Empty in the normal case."""
        self.captured = environment.captured
        """What of the program goes into the metadata; ``environment`` is told by a wrapper."""
        self._system: SystemMetrics | None = None
        self._info: StreamInfo | None = None
        self._outbox: Outbox = Nowhere()
        self._next_seq = 1
        """The seq that a step is encoded with before the lock is taken; stale when another thread emits meanwhile."""
        self._steps: dict[str, int] = {}
        self._names: set[Any] = {self.agent_id}
        """Of agents, as they were given, that may be ids as they are."""
        self._step_count = 0
        self._episode_count = 0
        self._error_before = 0

    @property
    def problems(self) -> Counter[str]:
        """Values that were not usable, by path (``step.info.bad``); as ``frame.thinned``, frames without room."""
        return self._problems.counts

    # -- what a loop emits ---------------------------------------------------------------------------------------

    def step(
        self,
        *,
        episode: int,
        step: int,
        action: Any = None,
        observation: Any = None,
        reward: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
        env_index: int = 0,
        agent: str | None = None,
        global_step: int | None = None,
        info: Mapping[str, Any] | None = None,
        control_mode: str | None = None,
        policy_label: str | None = None,
        backend: str | None = None,
        render_hint: Any = None,
        frame_ref: str | None = None,
        frame: Any = None,
        hud: Mapping[str, float] | None = None,
    ) -> None:
        """One environment step: the action, and the observation, reward and flags that it led to.

        `global_step` counts the steps of each agent from 0 unless it is given. Indexes are from 0. `frame` is a
        picture, uint8 of (height, width, 3) or (height, width), or a callable that renders one, which is not asked to
        while nobody looks. On this machine it goes through shared memory, at most 60 a second, with `hud`, named
        numbers to show over it; over the network to whoever watches, at most 20 a second; into the store as
        `store_frames` says.
        """
        if self._unusual and not self._revive():
            return
        if agent is None:
            agent = self.agent_id
        elif agent.__class__ is not str or agent not in self._names:
            agent = self._named(agent)
        if reward.__class__ is not float:
            reward = _float_or(reward)
        outbox = self._outbox
        seq = self._next_seq  # looked at before the count of steps, and written after it
        number = self._steps.get(agent, -1) + 1 if global_step is None else global_step
        event = Step(
            seq, agent, env_index, episode, step, number, reward, terminated, truncated,
            time.time_ns(), time.monotonic_ns(), action, observation,
            self._control_mode if control_mode is None else _or(control_mode, self._control_mode),
            policy_label, backend, render_hint, frame_ref, PAYLOAD_VERSION, info,
        )  # fmt: skip
        plain = (
            reward.__class__ is float
            and episode.__class__ is int
            and step.__class__ is int
            and env_index.__class__ is int
            and number.__class__ is int
            and not (episode | step | env_index | number) >> 63  # within 64 bits, and not negative
            and terminated.__class__ is bool
            and truncated.__class__ is bool
            and (policy_label is None or policy_label.__class__ is str)
            and (control_mode is None or (control_mode.__class__ is str and control_mode in CONTROL_MODES))
            and (backend is None or backend.__class__ is str)
            and (frame_ref is None or frame_ref.__class__ is str)
        )
        if not plain or frame is not None or outbox.stored is not None:
            self._step_slowly(event, event, global_step, frame, hud)
            return
        try:
            encoded = _encode(event)  # with the next numbers: nearly always nobody else has them meanwhile
        except Exception:  # noqa: BLE001  whatever the caller's own objects raise: the slow way tells it
            encoded = b""
        appended = False
        try:
            with outbox.lock:
                if (
                    seq == outbox.head + 1
                    and 0 < len(encoded) <= _EVENT_BYTES_MAX
                    and not self._emitting
                    and not self._unusual
                ):
                    self._emitting = True
                    try:
                        outbox.append(seq, encoded)
                        self._steps[agent] = number
                        self._step_count += 1
                        self._next_seq = seq + 1
                        appended = True
                    finally:
                        self._emitting = False
        except BaseException as error:  # noqa: BLE001  raised again by what it calls
            self._settle(error)
        if not appended:
            self._step_slowly(event, _steps.decode(encoded) if encoded else event, global_step, None, None)
            return
        if self._on_step:
            self._tell_callbacks(self._on_step, event)
        if self._deferred or self._unsaid:
            self._catch_up()

    def _step_slowly(
        self, given: Step, event: Step, global_step: Any, frame: Any, hud: Mapping[str, float] | None
    ) -> None:
        """A step of any values, or with a frame, or one whose numbers somebody else has taken.

        `given` has the caller's values, `event` is the same or what was encoded of it: no value is converted twice.
        """
        if event is given:
            given = _copy(event)
        event.global_step = global_step
        self._problems.note(coerce(event))
        moment = _moment_of(event)
        rule = self._outbox.stored
        stored = None
        if frame is not None and rule is not None:
            frame, stored = self._to_store(rule, moment, frame)
            if stored is not None:
                event.frame_ref = event.frame_ref or stored.frame_ref or None
        self._emit(event, given if self._on_step else None)
        if rule is not None:
            self._store(rule, moment, stored)
        if frame is not None:
            self._show(moment, frame, hud)
        self._problems.say()

    def reset(
        self,
        *,
        episode: int,
        observation: Any = None,
        info: Mapping[str, Any] | None = None,
        seed: Any = None,
        options: Mapping[str, Any] | None = None,
        env_index: int = 0,
        agent: str | None = None,
        control_mode: str | None = None,
    ) -> None:
        """The beginning of an episode: what the environment's reset gave, and what it was given."""
        if self._unusual and not self._revive():
            return
        self._send(Reset(
            0, self._named(agent), env_index, episode, time.time_ns(), time.monotonic_ns(), observation, info, seed,
            options, _or(control_mode, self._control_mode),
        ))  # fmt: skip

    def episode(
        self,
        *,
        episode: int,
        total_reward: float | None,
        length: int | None,
        env_index: int = 0,
        agent: str | None = None,
        global_step: int | None = None,
        end_reason: str | None = None,
        seed: Any = None,
        game_id: str | None = None,
        control_mode: str | None = None,
        policy_label: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """The end of an episode. `global_step` is the agent's last step's unless it is given."""
        if self._unusual and not self._revive():
            return
        self._send(Episode(
            0, self._named(agent), env_index, episode, total_reward, length, global_step,
            time.time_ns(), time.monotonic_ns(), end_reason, seed, _or(game_id, self._game_id),
            _or(control_mode, self._control_mode), policy_label, metadata,
        ))  # fmt: skip

    def void_episode(
        self, *, episode: int, env_index: int = 0, agent: str | None = None, reason: str | None = None
    ) -> None:
        """An episode does not count, such as one that a person took back: all that this worker has emitted for it so
        far stays in the record, and out of tables and exports."""
        if self._unusual and not self._revive():
            return
        now = time.time_ns(), time.monotonic_ns()
        self._send(EpisodeVoided(0, self._named(agent), env_index, episode, *now, reason))

    def metric(
        self,
        name: str,
        value: float | None,
        *,
        unit: str | None = None,
        global_step: int | None = None,
        agent: str | None = None,
    ) -> None:
        """One value of a named series. `global_step` is the agent's last step's unless it is given."""
        if self._unusual and not self._revive():
            return
        if value.__class__ is not float:
            value = _float_or(value)
        now = time.time_ns(), time.monotonic_ns()
        event = Metric(0, name, value, unit, global_step, self._named(agent), *now)
        if (
            name.__class__ is str
            and value.__class__ is float
            and (unit is None or unit.__class__ is str)
            and (global_step is None or (global_step.__class__ is int and not global_step >> 63))
        ):
            self._emit(event)
        else:
            self._send(event)

    def metrics(
        self, series: Mapping[str, float | None], *, global_step: int | None = None, agent: str | None = None
    ) -> None:
        """One value of each of several named series, as `metric` takes them."""
        for name, value in _as_mapping(series).items():
            self.metric(name, value, global_step=global_step, agent=agent)

    def log(
        self,
        message: str,
        *,
        level: str = "info",
        logger: str | None = None,
        fields: Mapping[str, Any] | None = None,
        agent: str | None = None,
    ) -> None:
        """One line of the run's log."""
        if self._unusual and not self._revive():
            return
        now = time.time_ns(), time.monotonic_ns()
        self._send(Log(0, level, message, self._named(agent), *now, logger, fields))

    def set_metadata(self, metadata: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Tell more about the run; values replace earlier ones of the same name."""
        if self._unusual and not self._revive():
            return
        try:
            told = {**_as_mapping(metadata), **more}
        except UsageError as error:
            self._problems.note([Problem("run_metadata", "metadata", str(error))])
            told = more
        usable, problems = _encode_metadata(told)
        self._problems.note(problems)
        self._metadata.update(usable)
        now = time.time_ns(), time.monotonic_ns()
        self._send(RunMetadata(0, msgspec.Raw(_encoder.encode(usable)), self.agent_id, *now))

    def frame(
        self,
        frame: Any,
        *,
        episode: int,
        step: int,
        reward: float = 0.0,
        env_index: int = 0,
        agent: str | None = None,
        hud: Mapping[str, float] | None = None,
    ) -> None:
        """A picture beside the steps, as `step` takes one: for a loop that draws at another rate than it steps.

        `reward` adds to the return that is shown with it.
        """
        if self._unusual and not self._revive():
            return
        place = Step(0, self._named(agent), env_index, episode, step, None, reward, False, False, 0, 0)
        self._make_plain(place)
        self._show(_moment_of(place), frame, hud)
        self._problems.say()

    # -- hooks ---------------------------------------------------------------------------------------------------

    def register_on_step(self, callback: StepCallback) -> Callable[[], None]:
        """Call `callback(step)` after each emitted step, on the thread that emitted it; returns what ends that.

        The step holds the values that the caller gave. What a callback raises is told once and counted, not raised,
        unless the worker is strict.
        """
        return _register(self._on_step, callback)

    def register_on_episode_end(self, callback: EpisodeCallback) -> Callable[[], None]:
        """Call `callback(episode)` after each emitted episode; as `register_on_step`."""
        return _register(self._on_episode, callback)

    @property
    def helps(self) -> bytes | None:
        """The stream of a parent process that this worker's stream helps; None for a stream of its own."""
        return self._helps

    # -- state ---------------------------------------------------------------------------------------------------

    @property
    def stream_id(self) -> bytes:
        """16 bytes. In a child process, until its first call, the stream of the parent's that it will help."""
        return self._info.stream if self._info is not None else self._helps or b""

    @property
    def emitted(self) -> int:
        """Events of this stream so far; also its newest seq."""
        return self._outbox.head

    @property
    def acknowledged(self) -> int:
        """The seq up to which everything is stored, as far as this worker knows."""
        return self._outbox.acked

    @property
    def dropped(self) -> int:
        """Events that a full spool or disk had to drop before they were stored; each is recorded as a gap."""
        return self._outbox.dropped_events

    @property
    def closed(self) -> bool:
        return self._unusual == "closed"

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything emitted so far is stored; False when it is not within `timeout_s`, or when some of it
        was dropped (`dropped` counts that, and nobody waits for it).

        That includes what child processes of this worker left that have ended. After `close` there is nothing to wait
        for, and the answer is what had been stored by then.
        """
        return self._outbox.flush(timeout_s)

    # -- end -----------------------------------------------------------------------------------------------------

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
            self._problems.note([Problem("run_completed", "outcome", f"{text(outcome)!r} is none of {words}")])
            outcome, reason = "failed", reason or f"ended as {text(outcome)!r}"
        event = RunCompleted(0, outcome, reason, time.time_ns(), time.monotonic_ns())
        self._make_plain(event)
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
        _workers.discard(self)
        lineage.retract(self.run_id, self.stream_id)
        return self._outbox.close(self._terms.environment.exit_flush_s)

    def _close_at_end(self) -> None:
        assert lifetime.program is not None
        self.close(*lifetime.program.ending(self._error_before))

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(*ending_of(error))

    # -- copies --------------------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Callable[[Terms, bytes, bool], Worker], tuple[Terms, bytes, bool]]:
        environment = self._terms.environment
        if self.worker_id == default_worker_id():
            environment = environment._replace(worker_id="")  # each process has its own
        metadata = {name: bytes(value) for name, value in self._metadata.items()}
        terms = self._terms._replace(environment=environment, metadata=metadata, helps=self.stream_id)
        return _inherit, (terms, self.stream_id, self.closed)

    def __copy__(self) -> Worker:
        return self

    def __deepcopy__(self, memo: object) -> Worker:
        return self

    # -- inside --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open a stream of our own, with its first event. Raises `telefabric.errors.SpoolError`."""
        started_ns = time.time_ns()
        metadata = _encoder.encode(_introducing(self._metadata))
        mode = self._terms.control_mode
        info = StreamInfo(
            os.urandom(16), self.run_id, self.worker_id, self.agent_id, started_ns, mode,
            hostname(), os.getpid(), __version__, metadata, self._helps,
        )  # fmt: skip
        started = RunStarted(
            1, self.run_id, self.worker_id, self.agent_id, started_ns, time.monotonic_ns(), mode,
            msgspec.Raw(metadata), info.host, info.pid, __version__, PAYLOAD_VERSION, self._helps,
        )  # fmt: skip
        coerce(started)
        outbox = open_outbox(self._terms.environment, info)
        with outbox.lock:
            outbox.append(1, _encoder.encode(started))
        self._outbox, self._info = outbox, info
        self._steps, self._step_count, self._episode_count = {}, 0, 0
        self._next_seq = 2
        self._error_before = lifetime.last_error()
        _workers.add(self)
        lifetime.at_end(_close_all)
        if self._terms.environment.mode == "off":
            self._unusual = "off"
            return
        lineage.announce(self.run_id, info.stream)
        self._unusual = ""  # from here on other threads emit
        if interval_s := self._terms.environment.system_metrics_s:
            self._system = SystemMetrics(self, interval_s, self._terms.environment.spool)

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

    def tell(self, problems: list[Problem]) -> None:
        """Count problems and log what is new among them; never under a lock. Raises `UsageError` when strict."""
        self._problems.note(problems)
        self._problems.say()

    def _make_plain(self, event: Event) -> None:
        """Bring every field to an exact built-in type or raw MessagePack; what cannot be is left out and told."""
        self._problems.note(coerce(event))

    def _send(self, event: Event) -> None:
        """Emit an event of the caller's values."""
        given = _copy(event) if self._on_episode and event.__class__ is Episode else None
        self._make_plain(event)
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
                self._next_seq = event.seq + 1
                return
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
            encoded = _encoder.encode(event)
            if len(encoded) <= limits.EVENT_BYTES_MAX:
                return encoded
        except (UnicodeEncodeError, OverflowError):
            pass  # a lone surrogate in a text, or an integer beyond 64 bits: they have another form
        self._problems.note(coerce(event))
        return _encoder.encode(event)

    def _catch_up(self) -> None:
        """What must not happen under the lock: calls that came from inside it, and the log, whose handler may emit."""
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

    @property
    def _game_id(self) -> Any:
        known = self._metadata.get("game_id")
        return None if known is None else values.decode(known)

    def _to_store(self, rule: StoredFrames, moment: Moment, frame: Any) -> tuple[Any, Frame | None]:
        """What was rendered if it had to be, and the frame as an event if it is to be stored."""
        picture = frame
        try:
            if not rule.wants(moment):
                return frame, None
            if callable(frame):
                picture = None
                picture = frame()
            return picture, None if picture is None else rule.encode(moment, picture)
        except ImportError:
            self._problems.note([Problem("step", "frame", "frames need: pip install 'telefabric[frames]'")])
        except Exception as error:  # noqa: BLE001  whatever the caller's own render raises
            self._problems.note([Problem("step", "frame", described(error))])
        return picture, None

    def _store(self, rule: StoredFrames, moment: Moment, frame: Frame | None) -> None:
        """Emit what the rule gives out after a step."""
        due = rule.stepped(moment, frame)
        if rule.thinned:
            self._problems.thinned(rule.thinned, BYTES_MAX >> 20)
        for one in due:
            self._emit(one)

    def _show(self, moment: Moment, frame: Any, hud: Mapping[str, float] | None) -> None:
        """Offer a frame; whatever is wrong with it is told once."""
        try:
            left = self._outbox.show(moment, frame, hud or {})
        except ImportError:
            self._problems.note([Problem("step", "frame", "frames need: pip install 'telefabric[frames]'")])
        except Exception as error:  # noqa: BLE001  whatever the caller's own render raises
            self._problems.note([Problem("step", "frame", described(error))])
        else:
            self._problems.note(left)

    def _tell_callbacks(self, callbacks: list[Any], given: Any) -> None:
        for callback in list(callbacks):
            try:
                callback(given)
            except Exception as error:
                if self._strict:
                    raise
                name = getattr(callback, "__qualname__", repr(callback))
                self._problems.note([Problem("callback", name, f"it raised {described(error)}")])

    def _after_fork(self) -> None:
        """In a forked child: nothing inherited is touched; the next call opens a stream of the child's own."""
        self._problems.forked()
        if not self._unusual:
            self._unusual = "unopened"
            self._helps = self.stream_id
            _heirs[self._helps] = self
            self._emitting = False
            self._deferred.clear()
            self._revival = threading.RLock()
            if self.worker_id.endswith(f"-{os.getppid()}"):
                self.worker_id = default_worker_id()
            self._outbox.disown()


def _register(callbacks: list[Any], callback: Any) -> Callable[[], None]:
    callbacks.append(callback)

    def unregister() -> None:
        if callback in callbacks:
            callbacks.remove(callback)

    return unregister


def _as_mapping(metadata: Any) -> dict[Any, Any]:
    """A copy of what a caller told about the run. Raises `UsageError` for what is no mapping."""
    try:
        return {} if metadata is None else dict(metadata)
    except Exception:  # noqa: BLE001  whatever the caller's own object raises
        given = type(metadata).__name__
        raise UsageError(f"metadata is of type {given} and should be a mapping of names to values") from None


def _introducing(metadata: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """As much of it as a stream is introduced with. A child's parent, whose it is, has told the store the rest."""
    found: dict[str, msgspec.Raw] = {}
    room = limits.METADATA_BYTES_MAX - 1_024
    for name, value in metadata.items():
        room -= len(bytes(value)) + len(name) * 4
        if room > 0:
            found[name] = value
    return found


def _or(value: Any, default: Any) -> Any:
    """`value or default`, also for a value such as an array, which is neither true nor false."""
    try:
        return value or default
    except Exception:  # noqa: BLE001  whatever the caller's own object raises
        return value


def _encode_metadata(metadata: Mapping[Any, Any]) -> tuple[dict[str, msgspec.Raw], list[Problem]]:
    """Metadata by name, each value encoded; without what cannot be encoded or makes it too large."""
    problems: list[Problem] = []
    usable: dict[str, msgspec.Raw] = {}
    size = 0
    for key, value in metadata.items():
        name = f"a {type(key).__name__}"
        try:
            name = text(key)
        except Exception as error:  # noqa: BLE001  whatever the caller's own objects raise
            problems.append(Problem("metadata", name, said(error)))
            continue
        encoded, left = raw(value, f"metadata.{values.path_part(name)}")
        problems += left
        if left and encoded == NIL:
            continue
        grown = size + len(bytes(encoded)) + len(name) * 4
        if grown > limits.METADATA_BYTES_MAX:
            why = f"metadata is over {limits.METADATA_BYTES_MAX} bytes"
            problems.append(Problem("metadata", values.path_part(name), why))
            continue
        size = grown
        usable[name] = encoded
    return usable, problems


def _float_or(value: Any) -> Any:
    """A number of any type as a float; what is none as it is, for `coerce` to tell."""
    try:
        return real(value)
    except Exception:  # noqa: BLE001  whatever the caller's own object raises
        return value


def _copy(event: Any) -> Any:
    """The same fields, to be numbered apart: the values themselves are the caller's."""
    return event.__class__(*(getattr(event, name) for name in event.__struct_fields__))


def _moment_of(event: Step) -> Moment:
    reward = 0.0 if event.reward is None else event.reward
    ended = event.terminated or event.truncated
    return Moment(event.agent_id, event.env_index, event.episode_index, event.step_index, reward, ended)


def open_worker(terms: Terms, metadata: Mapping[str, Any] | None) -> Worker:
    """A worker that is open. Raises `telefabric.errors.SpoolError`, and `UsageError` for what is unusable."""
    usable, problems = _encode_metadata(_as_mapping(metadata))
    program = capture.added(usable, "program", capture.program(terms.environment.captured))
    usable, more_problems = _encode_metadata({**usable, **program})
    problems += more_problems
    worker = Worker(terms._replace(metadata={name: bytes(value) for name, value in usable.items()}))
    worker.tell(problems)  # before anything is opened: it raises when strict
    worker.begin()
    return worker


def _inherit(terms: Terms, stream: bytes, closed: bool) -> Worker:
    """Unpickled: the worker itself where it lives, else this process's own worker of the same run."""
    with _guard:
        for worker in (_heirs.get(stream), *_workers):
            if worker is not None and stream in (worker.stream_id, worker.helps) and not worker.closed:
                return worker
        heir = Worker(terms)
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
    for worker in list(_workers):
        worker._after_fork()


_encoder = msgspec.msgpack.Encoder()
"""Without a hook: what it encodes is plain."""
_steps = msgspec.msgpack.Decoder(Step)
_encode = msgspec.msgpack.Encoder(enc_hook=values.enc_hook).encode
"""Runs the caller's code: never under a lock."""
_OUTCOMES = get_args(Outcome)
_guard = threading.RLock()
_workers: set[Worker] = set()
"""Those that are not closed, also when their program has let go of them."""
_heirs: dict[bytes, Worker] = {}
"""Workers that came to this process pickled, by the stream that they help."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
