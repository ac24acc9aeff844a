"""The worker: what a training loop calls. `emit` costs microseconds and never waits for a network or a disk."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Literal, NoReturn

import msgspec

from telefabric import __version__, limits
from telefabric.errors import ClosedError, UsageError
from telefabric.wire.control import StreamInfo
from telefabric_schemas import values
from telefabric_schemas.events import (
    CONTROL_MODES,
    NIL,
    PAYLOAD_VERSION,
    ControlMode,
    Episode,
    Event,
    Frame,
    Log,
    Metric,
    Outcome,
    RunCompleted,
    RunMetadata,
    RunStarted,
    Step,
)
from telefabric_workers.environment import WorkerEnvironment, default_worker_id, hostname
from telefabric_workers.frames import Moment, number
from telefabric_workers.outbox import Outbox, open_outbox, reset_after_fork
from telefabric_workers.repair import Problem, described, integer, name_of, raw, repair, said, text
from telefabric_workers.storedframes import BYTES_MAX, StoredFrames

log = logging.getLogger("telefabric.worker")

StepCallback = Callable[[Step], object]
EpisodeCallback = Callable[[Episode], object]

_REASON_CHARS_MAX = 4_000
"""Some exceptions print whole data sets."""

_NO_ARGUMENTS = ("self", "outbox", "stored", "ref")
"""Of the local names of `Worker.step`."""


class Worker:
    """One stream of events of one run. Made by `telefabric_workers.connect`. All methods are for any thread, and for
    signal handlers: a call that interrupts another one of its thread is carried out right after it.

    A value that cannot be used (not encodable, out of range, too large) is told once per kind and field, counted in
    `problems`, and the event goes on without it; with `strict` the call raises `UsageError` instead and nothing is
    emitted. Numpy scalars and arrays, bytes, nested maps and sequences are fine as actions, observations and infos.
    """

    def __init__(
        self,
        environment: WorkerEnvironment,
        *,
        metadata: Mapping[str, Any] | None = None,
        control_mode: ControlMode = "agent",
        strict: bool = False,
        on_fork: Literal["new", "off"] = "new",
    ) -> None:
        self.run_id = environment.run_id
        self.agent_id = environment.agent_id
        self.worker_id = environment.worker_id
        self.problems: Counter[str] = Counter()
        """Values that could not be used, by ``kind.field``; and as ``frame.thinned`` frames for which was no room."""
        self._environment = environment
        self._metadata = _as_mapping(metadata)
        self._control_mode: str = control_mode
        self._strict = strict or environment.mode == "dry-run"
        self._on_fork = on_fork
        self._on_step: list[StepCallback] = []
        self._on_episode: list[EpisodeCallback] = []
        self._told: set[str] = set()
        self._unsaid: list[tuple[str, str]] = []
        self._revival = threading.Lock()
        self._emitting = False
        """Looked at under the outbox's lock: true there means that this call interrupts another one of its thread."""
        self._deferred: deque[Callable[[], object]] = deque()
        """Calls that came from inside another one: from a signal handler, or from the caller's own objects."""
        self._unusual = ""
        """Why a call must not simply emit: closed, forked, off. Empty in the normal case."""
        self._begin()
        _workers.add(self)

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
        outbox = self._outbox
        if agent is None:
            agent = self.agent_id
        elif agent.__class__ is not str:
            agent = self._named(agent)
        if reward.__class__ is not float and isinstance(reward, float):
            reward = float(reward)  # numpy's float64 is one, and what most environments pay
        stored, ref = None, frame_ref
        if frame is not None and outbox.stored is not None:
            agent = self._named(agent)
            frame, stored = self._to_store(Moment(agent, env_index, episode, step, reward, False), frame)
            ref = _or(frame_ref, stored.frame_ref if stored else None)
        try:
            with outbox.lock:
                if self._unusual and not self._revive():  # closed by another thread just now
                    return
                if self._emitting:
                    call = {name: value for name, value in locals().items() if name not in _NO_ARGUMENTS}
                    self._deferred.append(partial(self.step, **call))
                    return
                self._emitting = True
                try:
                    seq = outbox.head + 1
                    steps = self._steps
                    if global_step is None:
                        global_step = steps.get(agent, -1) + 1
                        if not global_step:  # the first of an agent, or always of one whose name cannot be used
                            agent = self._named(agent)
                            global_step = steps.get(agent, -1) + 1
                    elif agent is not self.agent_id and agent not in steps:
                        agent = self._named(agent)
                    try:
                        mode: str | None = control_mode or self._control_mode
                    except Exception:  # noqa: BLE001  an array is neither true nor false
                        mode = control_mode
                    event = Step(
                        seq, agent, env_index, episode, step, global_step, reward, terminated, truncated,
                        time.time_ns(), time.monotonic_ns(), action, observation, mode,
                        policy_label, backend, render_hint, ref, PAYLOAD_VERSION, info,
                    )  # fmt: skip
                    plain = (
                        reward.__class__ is float
                        and episode.__class__ is int
                        and step.__class__ is int
                        and env_index.__class__ is int
                        and global_step.__class__ is int
                        and not (episode | step | env_index | global_step) >> 63  # within 64 bits, and not negative
                        and terminated.__class__ is bool
                        and truncated.__class__ is bool
                        and (policy_label is None or policy_label.__class__ is str)
                        and (control_mode is None or (control_mode.__class__ is str and control_mode in CONTROL_MODES))
                        and (backend is None or backend.__class__ is str)
                        and (ref is None or ref.__class__ is str)
                    )
                    outbox.append(seq, self._encode(event, plain))
                    if plain:
                        steps[agent] = global_step
                    else:
                        self._count_step(agent, global_step)
                    self._step_count += 1
                finally:
                    self._emitting = False
        except BaseException as error:  # noqa: BLE001  raised again by what it calls
            self._settle(error)
        if outbox.stored is not None:
            moment = Moment(agent, env_index, episode, step, reward, _or(terminated, truncated))
            self._store(outbox.stored, moment, stored)
        if frame is not None:
            self._show(Moment(agent, env_index, episode, step, reward, _or(terminated, truncated)), frame, hud)
        if self._on_step:
            self._call(self._on_step, event)
        if self._unsaid or self._deferred:
            self._catch_up()

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
        agent = self._named(agent)

        def make(seq: int) -> Episode:
            return Episode(
                seq, agent, env_index, episode, total_reward, length, self._at(agent, global_step),
                time.time_ns(), time.monotonic_ns(), end_reason, seed, _or(game_id, self._metadata.get("game_id")),
                _or(control_mode, self._control_mode), policy_label, metadata,
            )  # fmt: skip

        self._emit(make)

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
        agent = self._named(agent)

        def make(seq: int) -> Metric:
            at = self._at(agent, global_step)
            return Metric(seq, name, value, unit, at, agent, time.time_ns(), time.monotonic_ns())

        self._emit(make)

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
        agent = self._named(agent)
        self._emit(lambda seq: Log(seq, level, message, agent, time.time_ns(), time.monotonic_ns(), logger, fields))

    def set_metadata(self, metadata: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Tell more about the run; values replace earlier ones of the same name."""
        if self._unusual and not self._revive():
            return
        try:
            told = {**_as_mapping(metadata), **more}
        except UsageError as error:
            self._tell([Problem("run_metadata", "metadata", str(error))])
            told = more
        encoded, problems = _encode_metadata(told)
        self._tell(problems)

        def make(seq: int) -> RunMetadata:
            self._metadata.update(told)
            return RunMetadata(seq, msgspec.Raw(encoded), self.agent_id, time.time_ns(), time.monotonic_ns())

        self._emit(make)

    # -- hooks ---------------------------------------------------------------------------------------------------

    def register_on_step(self, callback: StepCallback) -> Callable[[], None]:
        """Call `callback(step)` after each emitted step, on the thread that emitted it; returns what ends that.

        What a callback raises is told once and counted, not raised, unless the worker is strict.
        """
        return _register(self._on_step, callback)

    def register_on_episode_end(self, callback: EpisodeCallback) -> Callable[[], None]:
        """Call `callback(episode)` after each emitted episode; as `register_on_step`."""
        return _register(self._on_episode, callback)

    # -- state ---------------------------------------------------------------------------------------------------

    @property
    def stream_id(self) -> bytes:
        return self._info.stream

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
        """Wait until everything emitted so far is stored; False when it is not within `timeout_s`.

        What was dropped is not waited for: `dropped` counts it. After `close` there is nothing to wait for, and the
        answer is what had been stored by then.
        """
        return self._outbox.complete or self._outbox.flush(timeout_s)

    # -- end -----------------------------------------------------------------------------------------------------

    def close(self, outcome: Outcome = "completed", reason: str | None = None) -> bool:
        """End the run, and wait at most ``exit_flush_s`` for acknowledgements.

        True when everything is stored; otherwise the rest stays in the spool and is delivered by a later worker on
        this machine, or by ``telefabric spool drain``. A second time it only gives that answer again. From inside
        another call of the same thread (a signal handler) it returns False at once, and happens when that call is over.
        """
        if self._unusual:
            _workers.discard(self)
            self._unusual = "closed"
            return self._outbox.complete

        self._outbox.end()
        with self._outbox.lock:
            if self._emitting:
                self._deferred.append(partial(self.close, outcome, reason))
                return False
            if self.closed:
                return self._outbox.complete
            earlier = bool(self._deferred)
            if not earlier:
                self._end(outcome, reason)
        try:
            self._catch_up()
        finally:
            stored = self.close(outcome, reason) if earlier else self._let_go()
        return stored

    def _end(self, outcome: Outcome, reason: str | None) -> None:
        """Append the last event, as `_append` does; the worker stays open when that fails."""

        def make(seq: int) -> RunCompleted:
            self._unusual = "closed"
            now = time.time_ns(), time.monotonic_ns()
            return RunCompleted(seq, outcome, reason, *now, self._step_count, self._episode_count)

        head = self._outbox.head
        try:
            self._append(make)
        except BaseException:
            if self._outbox.head == head:
                self._unusual = ""
            raise

    def _let_go(self) -> bool:
        _workers.discard(self)
        return self._outbox.close(self._environment.exit_flush_s)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(*outcome_of(error))

    # -- inside --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Open a stream of our own, with its first event."""
        started_ns = time.time_ns()
        metadata, problems = _encode_metadata(self._metadata)
        self._tell(problems)  # before anything is opened: it raises when strict
        self._info = StreamInfo(
            os.urandom(16), self.run_id, self.worker_id, self.agent_id, started_ns, self._control_mode,
            hostname(), os.getpid(), __version__, metadata,
        )  # fmt: skip
        self._steps: dict[str, int] = {}
        self._names: set[Any] = {self.agent_id}
        """Of agents, as they were given, that may be ids as they are."""
        self._step_count = 0
        self._episode_count = 0
        started = RunStarted(
            1, self.run_id, self.worker_id, self.agent_id, started_ns, time.monotonic_ns(),
            self._control_mode, msgspec.Raw(metadata), self._info.host, self._info.pid, __version__,
        )  # fmt: skip
        encoded = self._encode(started, plain=False)
        self._outbox: Outbox = open_outbox(self._environment, self._info)
        with self._outbox.lock:
            self._outbox.append(1, encoded)
        _close_at_exit()
        self._say()
        self._unusual = "off" if self._environment.mode == "off" else ""  # last: from here on other threads emit

    def _revive(self) -> bool:
        """The unusual cases of a call: True when it may go on."""
        if self._unusual == "forked" and self._on_fork == "new":
            with self._revival:
                if self._unusual == "forked":
                    self._begin()
            return not self._unusual
        if self._unusual == "closed":
            if self._strict:
                raise ClosedError("this worker is closed: connect() again for a new stream")
            self._tell([Problem("worker", "closed", "it was called after close(), and the call was ignored")])
            self._say()
        return False

    def _emit(self, make: Callable[[int], Event]) -> None:
        """Append the event that `make` gives for its seq; later, when this call interrupts one of the same thread."""
        try:
            with self._outbox.lock:
                if self._emitting:
                    self._deferred.append(partial(self._emit, make))
                    return
                if self._unusual and not self._revive():  # closed by another thread just now
                    return
                event = self._append(make)
        except BaseException as error:  # noqa: BLE001  raised again by what it calls
            self._settle(error)
        if self._on_episode and isinstance(event, Episode):
            self._call(self._on_episode, event)
        self._catch_up()

    def _append(self, make: Callable[[int], Event]) -> Event:
        """The caller holds the lock and has seen that no call is under way."""
        self._emitting = True
        try:
            event = make(self._outbox.head + 1)
            self._outbox.append(event.seq, self._encode(event, plain=False))
            self._episode_count += isinstance(event, Episode)
            return event
        finally:
            self._emitting = False

    def _catch_up(self) -> None:
        """What must not happen under the lock: calls that came from inside it, and the log, whose handler may emit."""
        while self._deferred:
            self._deferred.popleft()()
        self._say()

    def _settle(self, error: BaseException) -> NoReturn:
        """A call ends by `error`, such as a signal handler's `SystemExit`: those from inside it happen all the same."""
        try:
            if not self._emitting:
                self._catch_up()
        finally:
            raise error

    def _encode(self, event: Event, plain: bool) -> bytes:
        """The event's bytes; the slow way round when a field is not of its plain type, or a value is unusual."""
        if plain:
            try:
                encoded = _encoder.encode(event)
            except Exception:  # noqa: BLE001, S110  whatever the caller's own objects raise: repair tells it
                pass
            else:
                if len(encoded) <= limits.EVENT_BYTES_MAX:
                    return encoded
        encoded, problems = repair(event)
        if problems:
            self._tell(problems)
        return encoded

    def _tell(self, problems: list[Problem]) -> None:
        for problem in problems:
            name = problem.name(self.problems)
            if self._strict and problem.kind != "worker":
                raise UsageError(f"{name} cannot be used: {problem.why}")
            self.problems[name] += problem.times
            if name not in self._told:
                self._told.add(name)
                self._unsaid.append((name, problem.why))

    def _say(self) -> None:
        """Log what `_tell` noted: never under the lock, for a log handler may itself emit."""
        while self._unsaid:
            name, why = self._unsaid.pop(0)
            log.warning(
                "worker.value_left_out: %s goes without its value: %s (told once; counted in worker.problems)",
                name,
                why,
            )

    def _named(self, agent: Any) -> str:
        """An agent's name, as usable as the worker's own; that one when it has none."""
        if agent is None:
            return self.agent_id
        if agent.__class__ is str and agent in self._names:
            return agent
        try:
            given = text(agent)
        except Exception as error:  # noqa: BLE001  whatever the caller's object raises
            self._tell([Problem("event", "agent", f"its text cannot be had: {described(error)}")])
            return self.agent_id
        if given not in self._names:
            name = name_of(given)
            if not name or name != given:
                why = f"it should be printable text of 1 to {limits.NAME_BYTES_MAX} bytes"
                self._tell([Problem("event", "agent", why)])
                return name or self.agent_id
            self._names.add(given)
        return given

    def _count_step(self, agent: str, global_step: Any) -> None:
        """Go on counting from a step number of any type; one that cannot be used counts as one step."""
        try:
            self._steps[agent] = integer(global_step)
        except Exception:  # noqa: BLE001  whatever the caller's object raises
            self._steps[agent] = self._steps.get(agent, -1) + 1

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
        if not self._unusual or self._revive():
            agent = self.agent_id if agent is None else self._named(agent)
            self._show(Moment(agent, env_index, episode, step, reward, False), frame, hud)
            self._say()

    def _to_store(self, moment: Moment, frame: Any) -> tuple[Any, Frame | None]:
        """What was rendered if it had to be, and the frame as an event if it is to be stored."""
        rule = self._outbox.stored
        picture = frame
        try:
            if rule is None or not rule.wants(moment):
                return frame, None
            if callable(frame):
                picture = None
                picture = frame()
            return picture, None if picture is None else rule.encode(moment, picture)
        except ImportError:
            self._tell([Problem("step", "frame", "frames need: pip install 'telefabric[frames]'")])
        except Exception as error:  # noqa: BLE001  whatever the caller's own render raises
            self._tell([Problem("step", "frame", described(error))])
        return picture, None

    def _store(self, rule: StoredFrames, moment: Moment, frame: Frame | None) -> None:
        """Emit what the rule gives out after a step."""
        try:
            due = rule.stepped(moment._replace(reward=number(moment.reward)), frame)
        except Exception as error:  # noqa: BLE001  an index or a flag that is none; the event says so, too
            self._tell([Problem("step", "frame", said(error))])
            return
        if rule.thinned and not self.problems["frame.thinned"]:
            log.warning(
                "worker.frames_thinned: running episodes have more frames than %d MiB: of the largest every second one "
                "goes (told once; counted in worker.problems)", BYTES_MAX >> 20,
            )  # fmt: skip
        if rule.thinned:
            self.problems["frame.thinned"] = rule.thinned
        for one in due:
            self._emit(partial(_with_seq, one))

    def _show(self, moment: Moment, frame: Any, hud: Mapping[str, float] | None) -> None:
        """Offer a frame; whatever is wrong with it is told once."""
        try:
            self._outbox.show(moment, frame, hud or {})
        except ImportError:
            self._tell([Problem("step", "frame", "frames need: pip install 'telefabric[frames]'")])
        except Exception as error:  # noqa: BLE001  whatever the caller's own render raises
            self._tell([Problem("step", "frame", described(error))])

    def _at(self, agent: str, global_step: int | None) -> int | None:
        return self._steps.get(agent) if global_step is None else global_step

    def _call(self, callbacks: list[Any], event: Event) -> None:
        for callback in list(callbacks):
            try:
                callback(event)
            except Exception as error:
                if self._strict:
                    raise
                name = getattr(callback, "__qualname__", repr(callback))
                self._tell([Problem("callback", name, f"it raised {described(error)}")])
                self._say()

    def _after_fork(self) -> None:
        """In a forked child: nothing inherited is touched; the next call opens a stream of the child's own."""
        if not self._unusual:
            self._unusual = "forked"
            self._emitting = False
            self._deferred.clear()
            self._revival = threading.Lock()
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


def _or(value: Any, default: Any) -> Any:
    """`value or default`, also for a value such as an array, which is neither true nor false."""
    try:
        return value or default
    except Exception:  # noqa: BLE001  whatever the caller's own object raises
        return value


def _encode_metadata(metadata: Mapping[str, Any]) -> tuple[bytes, list[Problem]]:
    """Metadata as MessagePack, without what cannot be encoded or makes it too large."""
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
    return msgspec.msgpack.encode(usable), problems


def outcome_of(error: BaseException | None) -> tuple[Outcome, str | None]:
    """How a run ended whose program ended with `error`, and the reason to tell."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "completed", None
    if isinstance(error, KeyboardInterrupt):
        return "cancelled", "interrupted"
    if isinstance(error, GeneratorExit):
        return "cancelled", "its generator was closed"
    asyncio = sys.modules.get("asyncio.exceptions")  # where nobody has imported it, nothing can be its error
    if asyncio is not None and isinstance(error, asyncio.CancelledError):
        return "cancelled", "its task was cancelled"
    return "failed", described(error)[:_REASON_CHARS_MAX]


def _close_at_exit() -> None:
    """See to it that this process closes its workers when it ends by itself. A second time is harmless."""
    global _exit_seen_to
    if _exit_seen_to == os.getpid():
        return
    if not _exit_seen_to:
        atexit.register(_close_all)  # a forked child inherits it
    _exit_seen_to = os.getpid()
    multiprocessing = sys.modules.get("multiprocessing.util")
    if multiprocessing is not None and sys.modules["multiprocessing.process"].parent_process() is not None:
        multiprocessing.Finalize(None, _close_all, exitpriority=0)  # such a child ends without atexit


def _close_all() -> None:
    """End the workers that nobody closed: their run failed if the program ends by an exception."""
    ending = outcome_of(sys.exception() or getattr(sys, "last_value", None))
    with ExitStack() as stack:  # whatever one of them raises
        for worker in list(_workers):
            stack.callback(worker.close, *ending)


def _forked() -> None:
    reset_after_fork()
    for worker in list(_workers):
        worker._after_fork()


_encoder = msgspec.msgpack.Encoder(enc_hook=values.enc_hook)
_workers: set[Worker] = set()
"""Those that are not closed, also when their program has let go of them."""
_exit_seen_to = 0
"""The process that closes its workers at its end."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _with_seq(frame: Frame, seq: int) -> Frame:
    return msgspec.structs.replace(frame, seq=seq)
