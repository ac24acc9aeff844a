"""The worker: what a training loop calls. A call costs microseconds and never waits for a network or a disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from telefabric import limits
from telefabric.errors import UsageError
from telefabric_schemas import Decoder, Episode, EpisodeVoided, Frame, Log, Metric, Reset, RunMetadata, Step, values
from telefabric_schemas.events import CONTROL_MODES, PAYLOAD_VERSION
from telefabric_workers import capture
from telefabric_workers.emitter import PLAIN, EpisodeCallback, StepCallback, copy_of
from telefabric_workers.frames import Moment, StoredFrames
from telefabric_workers.frames.stored import BYTES_MAX
from telefabric_workers.lifetime import Lifetime, Terms
from telefabric_workers.metadata import as_mapping, encode_metadata
from telefabric_workers.problems import Problem
from telefabric_workers.repair import coerce, described, encode_payloads, real_or_same
from telefabric_workers.system import SystemMetrics

_EVENT_BYTES_MAX = limits.EVENT_BYTES_MAX


class Worker(Lifetime):
    """One stream of events of one run. Made by `telefabric_workers.connect`. All methods are for any thread, and for
    signal handlers: a call that interrupts another one of its thread is carried out right after it.

    A value, or the part of it, that cannot be used (not encodable, out of range, too large) is logged once by its path,
    counted in `problems`, and the event goes on without it; with `strict` the call raises `UsageError` instead and
    nothing is emitted. Numpy scalars and arrays, bytes, nested maps and sequences are fine as actions, observations and
    infos.

    A worker that is pickled, as the arguments of a process that is spawned are, opens a stream of its own in the
    process that unpickles it, at its first call there; within one process it stays the same worker.
    """

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._control_mode = terms.control_mode
        self.captured = terms.environment.captured
        """What the metadata record about the program; a wrapper adds ``environment``."""

    def begin(self) -> None:
        super().begin()
        settings = self._terms.environment
        if settings.system_metrics_s and not self._unusual:
            self._system = SystemMetrics(self.metrics, lambda: self.emitted, settings.system_metrics_s, settings.spool)

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
        numbers to show below it; over the network to clients that watch, at most 20 a second; into the store as
        `store_frames` says.
        """
        if self._unusual and not self._revive():
            return
        if agent is None:
            agent = self.agent_id
        elif agent.__class__ is not str or agent not in self._names:
            agent = self._named(agent)
        if reward.__class__ is not float:
            reward = real_or_same(reward)
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
        if not plain or outbox.stored is not None:
            self._step_slowly(event, event, global_step, frame, hud, plain=plain)
            return
        try:  # with the next numbers: nearly always nobody else has them meanwhile
            encoded = values.encode_quickly(event)
        except Exception:  # noqa: BLE001  a value of another type than that knows: the slow way converts it
            encoded = b""
        appended = False
        try:
            with outbox.lock:
                fits = 0 < len(encoded) <= _EVENT_BYTES_MAX
                if fits and seq == outbox.head + 1 and not self._emitting and not self._unusual:
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
            encoded_event = _steps.decode(encoded) if encoded else event
            self._step_slowly(event, encoded_event, global_step, frame, hud, plain=True)
            return
        if self._on_step:
            self._tell_callbacks(self._on_step, event)
        if frame is not None:
            self._show(_moment_of(event), frame, hud)
        if self._deferred or self._unsaid:
            self._catch_up()

    def _step_slowly(
        self, given: Step, event: Step, global_step: Any, frame: Any, hud: Mapping[str, float] | None, *, plain: bool
    ) -> None:
        """A step of any values, or one whose frame may be stored, or whose numbers somebody else has taken.

        `given` has the caller's values, `event` is the same or what was encoded of it: no value is converted twice.
        `plain`: all of its fields but the payloads have exact built-in types.
        """
        if event is given:
            given = copy_of(event)
        event.global_step = global_step
        self._problems.note(encode_payloads(event) if plain else coerce(event))
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
        mode = _or(control_mode, self._control_mode)
        self._send_now(Reset(0, self._named(agent), env_index, episode, 0, 0, observation, info, seed, options, mode))

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
        self._send_now(Episode(
            0, self._named(agent), env_index, episode, total_reward, length, global_step, 0, 0, end_reason, seed,
            _or(game_id, self._game_id), _or(control_mode, self._control_mode), policy_label, metadata,
        ))  # fmt: skip

    def void_episode(
        self, *, episode: int, env_index: int = 0, agent: str | None = None, reason: str | None = None
    ) -> None:
        """An episode does not count, such as one that a person took back: all that this worker has emitted for it so
        far stays in the record, and out of tables and exports."""
        self._send_now(EpisodeVoided(0, self._named(agent), env_index, episode, 0, 0, reason))

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
            value = real_or_same(value)
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
        try:
            found = as_mapping(series)
        except UsageError:
            self.tell([Problem("metric", "series", f"metrics of type {type(series).__name__} should be a mapping")])
            return
        for name, value in found.items():
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
        self._send_now(Log(0, level, message, self._named(agent), 0, 0, logger, fields))

    def set_metadata(self, metadata: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Tell more about the run; values replace earlier ones of the same name."""
        if self._unusual and not self._revive():
            return
        try:
            told = {**as_mapping(metadata), **more}
        except UsageError as error:
            self._problems.note([Problem("run_metadata", "metadata", str(error))])
            told = more
        usable, problems = encode_metadata(told)
        self._problems.note(problems)
        self._metadata.update(usable)
        self._send_now(RunMetadata(0, msgspec.Raw(PLAIN.encode(usable)), self.agent_id, 0, 0))

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
        self._problems.note(coerce(place))
        self._show(_moment_of(place), frame, hud)
        self._problems.say()

    # -- hooks ---------------------------------------------------------------------------------------------------

    def register_on_step(self, callback: StepCallback) -> Callable[[], None]:
        """Call `callback(step)` after each emitted step, on the thread that emitted it; returns what ends that.

        The step holds the values that the caller gave. An error in a callback is logged once and counted, not raised,
        unless the worker is strict.
        """
        return _register(self._on_step, callback)

    def register_on_episode_end(self, callback: EpisodeCallback) -> Callable[[], None]:
        """Call `callback(episode)` after each emitted episode; as `register_on_step`."""
        return _register(self._on_episode, callback)

    # -- state ---------------------------------------------------------------------------------------------------

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

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def _game_id(self) -> Any:
        known = self._metadata.get("game_id")
        return None if known is None else values.decode(known)

    def _send_now(self, event: Episode | EpisodeVoided | Log | Reset | RunMetadata) -> None:
        """Emit an event of the caller's values, at this time."""
        if not self._unusual or self._revive():
            event.time_ns, event.mono_ns = time.time_ns(), time.monotonic_ns()
            self._send(event)

    def _to_store(self, rule: StoredFrames, moment: Moment, frame: Any) -> tuple[Any, Frame | None]:
        """The picture, if it had to be rendered, and the frame as an event, if it is to be stored."""
        picture = frame
        try:
            if not rule.wants(moment):
                return frame, None
            if callable(frame):
                picture = None
                picture = frame()
            return picture, None if picture is None else rule.encode(moment, picture)
        except Exception as error:  # noqa: BLE001  whatever the caller's own render raises
            self._problems.note([_problem_of_frame(error)])
        return picture, None

    def _store(self, rule: StoredFrames, moment: Moment, frame: Frame | None) -> None:
        """Emit what the rule gives out after a step."""
        due = rule.stepped(moment, frame)
        if rule.thinned:
            self._problems.thinned(rule.thinned, BYTES_MAX >> 20)
        for one in due:
            self._emit(one)

    def _show(self, moment: Moment, frame: Any, hud: Mapping[str, float] | None) -> None:
        """Offer a frame; each kind of fault in it is logged once."""
        try:
            left = self._outbox.show(moment, frame, hud or {})
        except Exception as error:  # noqa: BLE001  whatever the caller's own render raises
            self._problems.note([_problem_of_frame(error)])
        else:
            self._problems.note(left)


def _problem_of_frame(error: Exception) -> Problem:
    missing = isinstance(error, ImportError)
    return Problem("step", "frame", "frames need: pip install 'telefabric[frames]'" if missing else described(error))


def _register(callbacks: list[Any], callback: Any) -> Callable[[], None]:
    callbacks.append(callback)

    def unregister() -> None:
        if callback in callbacks:
            callbacks.remove(callback)

    return unregister


def _or(value: Any, default: Any) -> Any:
    """`value or default`, also for a value such as an array, which is neither true nor false."""
    try:
        return value or default
    except Exception:  # noqa: BLE001  whatever the caller's own object raises
        return value


def _moment_of(event: Step) -> Moment:
    reward = 0.0 if event.reward is None else event.reward
    ended = event.terminated or event.truncated
    return Moment(event.agent_id, event.env_index, event.episode_index, event.step_index, reward, ended)


def open_worker(terms: Terms, metadata: Mapping[str, Any] | None) -> Worker:
    """A worker that is open. Raises `telefabric.errors.SpoolError`, and `UsageError` for what is unusable."""
    usable, problems = encode_metadata(as_mapping(metadata))
    program = capture.added(usable, "program", capture.program(terms.environment.captured))
    usable, more_problems = encode_metadata({**usable, **program})
    problems += more_problems
    worker = Worker(terms._replace(metadata={name: bytes(value) for name, value in usable.items()}))
    worker.tell(problems)  # before anything is opened: it raises when strict
    worker.begin()
    return worker


_steps: Decoder[Step] = Decoder(Step)
