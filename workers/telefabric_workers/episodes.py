"""Episodes of environments, for adapters: their numbers, lengths and returns, and what a worker records of them.

An adapter makes one `Recording` and, with it, one `EpisodeRecorder` for each environment. It hands the recorder what
`reset` and `step` of the environment return. `EpisodeTracker` counts and decides, without a worker. This module imports
no library of environments.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, NamedTuple, cast

from telefabric.errors import UsageError
from telefabric_workers import capture
from telefabric_workers.repair import real_or_same
from telefabric_workers.worker import Worker

log = logging.getLogger("telefabric.worker")

_FINAL_OBSERVATION = ("final_obs", "final_observation", "terminal_observation")
"""Gymnasium's names from 1.1 on and before, and that of stable-baselines3."""
_FINAL_INFO = "final_info"
_copies_told = False


class Autoreset(Enum):
    """When an environment whose episode has ended is reset without a call of `reset`."""

    NEXT_STEP = "next_step"
    """By the next call of `step`, which ignores its action and returns what the reset gave."""
    SAME_STEP = "same_step"
    """By the step that ends the episode, or nobody says when: the next step is one of the next episode."""
    DISABLED = "disabled"
    """Never: until it is reset, its steps mean nothing."""

    @classmethod
    def named(cls, given: object) -> Autoreset:
        """A mode by its name, in a text or in another library's enum. Raises `UsageError` for any other."""
        name = str(getattr(given, "name", given)).lower()
        for mode in cls:
            if name in (mode.value, mode.value.replace("_", "")):
                return mode
        raise UsageError(f"autoreset is {given!r} and should be one of {', '.join(mode.value for mode in cls)}")


@dataclass(slots=True)
class EpisodeTracker:
    """Where one environment is in its episodes."""

    autoreset: Autoreset = Autoreset.SAME_STEP
    number: int = 0
    """Of the episode, from 0. One without any step leaves its number to the next."""
    length: int = 0
    """Its steps so far; also the number of the next one."""
    total_reward: float | None = 0.0
    """None once one of its rewards was not a number."""
    seed: Any = None
    """The seed that was given to the reset which began it."""
    ended: bool = False
    """The last step ended an episode, and no reset has followed."""

    @property
    def next_call(self) -> Literal["step", "reset", "nothing"]:
        """What the environment's next call of `step` is."""
        if not self.ended or self.autoreset is Autoreset.SAME_STEP:
            return "step"
        return "reset" if self.autoreset is Autoreset.NEXT_STEP else "nothing"

    def begin(self, seed: Any = None) -> None:
        """A reset has given the first observation of the episode."""
        self.ended = False
        self.seed = seed

    def step(self, reward: Any, *, ends: bool) -> None:
        self.length += 1
        self.total_reward = (
            self.total_reward + reward if self.total_reward is not None and reward.__class__ is float else None
        )
        self.ended = ends

    def end(self) -> None:
        """The episode is over, by its last step or without one: what follows is of the next."""
        if self.length:
            self.number += 1
        self.length, self.total_reward, self.seed = 0, 0.0, None


class Final(NamedTuple):
    """What an environment reported of its last step when the same step has reset it."""

    observation: Any
    """The terminal one; None if it was not reported."""
    info: dict[Any, Any]
    info_of_reset: dict[Any, Any]

    @classmethod
    def of(cls, info: Mapping[Any, Any], reset_keys: Collection[Any]) -> Final:
        """`reset_keys`: what infos of resets have held. All that is neither theirs nor final is of the last step."""
        last: dict[Any, Any] = {}
        of_reset: dict[Any, Any] = {}
        for key, value in info.items():
            if key != _FINAL_INFO and key not in _FINAL_OBSERVATION:
                (of_reset if key in reset_keys else last)[key] = value
        last.update(info.get(_FINAL_INFO) or {})
        return cls(next((info[key] for key in _FINAL_OBSERVATION if key in info), None), last, of_reset)

    @staticmethod
    def is_in(info: Mapping[Any, Any]) -> bool:
        """Only a reset within a step makes something final."""
        return any(info.get(key) is not None for key in (*_FINAL_OBSERVATION, _FINAL_INFO))


class _SilentWorker:
    """Takes the place of a worker and records nothing."""

    closed = False
    captured: tuple[str, ...] = ()

    def nothing(self, **_: Any) -> None:
        return

    step = episode = reset = nothing


@dataclass
class Recording:
    """What all environments of an adapter have in common. Raises `UsageError` unless `worker` is a `Worker`."""

    worker: Worker
    backend: str
    """The library of the environments."""
    game_id: str | None = None
    control_mode: str | None = None
    policy_label: str | None = None
    observations: bool = True
    infos: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.worker, Worker):
            raise UsageError(f"a {type(self.worker).__name__} was given for the worker: give what connect() returned")

    def __deepcopy__(self, memo: object) -> Recording:
        """A copy plays the same episodes on, such as a planner's: in the record they would be mixed with the others."""
        global _copies_told
        if not _copies_told:
            _copies_told = True
            log.warning(
                "worker.copy_silent: a deep copy of a recorded environment records nothing: "
                "wrap it again, with an env_index of its own, to record it too (logged once)"
            )
        silent = copy(self)
        silent.worker = cast("Worker", _SilentWorker())
        return silent

    def describe(self, env: Any) -> None:
        """Add an environment to the metadata of the run, unless it is there or a setting leaves it out.

        Its id is that of the game where none was given.
        """
        self.game_id = self.game_id or capture.id_of(env)
        worker = self.worker
        if "environment" in worker.captured and not worker.closed:
            more = capture.added(worker._metadata, "environment", capture.environment(env))
            if more:
                worker.set_metadata(more)


class Labels:
    """The labels that a training program may change while it runs; they hold from the next step on."""

    _recording: Recording

    @property
    def policy_label(self) -> str | None:
        """Which policy chooses the actions."""
        return self._recording.policy_label

    @policy_label.setter
    def policy_label(self, label: str | None) -> None:
        self._recording.policy_label = label

    @property
    def control_mode(self) -> str | None:
        """The actor: human, agent, multi_agent, hybrid or replay; None for the worker's own setting."""
        return self._recording.control_mode

    @control_mode.setter
    def control_mode(self, mode: str | None) -> None:
        self._recording.control_mode = mode


class EpisodeRecorder:
    """Emits the resets, steps and episodes of one environment. One thread."""

    def __init__(
        self, recording: Recording, env_index: int = 0, agent: str | None = None, tracker: EpisodeTracker | None = None
    ) -> None:
        self.tracker = tracker or EpisodeTracker()
        self.render: Callable[[], Any] | None = None
        """Draws the environment; called only while its picture is wanted."""
        self._recording = recording
        self._env_index = env_index
        self._agent = agent

    def reset(self, observation: Any, info: Any, seed: Any = None, options: Any = None) -> None:
        """Emit a reset: what it returned, and what it was given."""
        recording = self._recording
        self.tracker.begin(seed)
        recording.worker.reset(
            episode=self.tracker.number,
            observation=observation if recording.observations else None,
            info=info if recording.infos and info else None,
            seed=seed,
            options=options,
            env_index=self._env_index,
            agent=self._agent,
            control_mode=recording.control_mode,
        )

    def step(
        self,
        action: Any,
        observation: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        info: Any,
        reset: tuple[Any, Any] | None = None,
    ) -> None:
        """Emit what a call of the environment's `step` was: a step, with the episode that it ends, a reset, or nothing.

        `reset`: observation and info of the reset that the same step has made; the picture is then of that, too.
        """
        tracker, recording = self.tracker, self._recording
        if tracker.ended and tracker.next_call != "step":
            if tracker.next_call == "reset":
                self.reset(observation, info)
            return
        if reward.__class__ is not float:
            reward = real_or_same(reward)
        recording.worker.step(
            episode=tracker.number,
            step=tracker.length,
            action=action,
            observation=observation if recording.observations else None,
            reward=reward,
            terminated=bool(terminated),
            truncated=bool(truncated),
            env_index=self._env_index,
            agent=self._agent,
            info=info if recording.infos and info else None,
            control_mode=recording.control_mode,
            policy_label=recording.policy_label,
            backend=recording.backend,
            frame=self.render if reset is None else None,
        )
        ends = bool(terminated or truncated)
        tracker.step(reward, ends=ends)
        if ends:
            self.end("terminated" if terminated else "truncated", info)
        if reset is not None:
            self.reset(*reset)

    def end(self, reason: str, info: Any = None) -> None:
        """Emit the episode, unless it has no step. `info`: what its last step reported, with its statistics."""
        tracker, recording = self.tracker, self._recording
        if tracker.length:
            statistics = _statistics(info)
            recording.worker.episode(
                episode=tracker.number,
                total_reward=_return_in(statistics, tracker),
                length=tracker.length,
                env_index=self._env_index,
                agent=self._agent,
                end_reason=reason,
                seed=tracker.seed,
                game_id=recording.game_id,
                control_mode=recording.control_mode,
                policy_label=recording.policy_label,
                metadata=statistics if recording.infos else None,
            )
        tracker.end()


def _statistics(info: Any) -> Mapping[str, Any] | None:
    """The statistics that gymnasium's `RecordEpisodeStatistics` adds to the info of a last step."""
    found = info.get("episode") if isinstance(info, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _return_in(statistics: Mapping[str, Any] | None, tracker: EpisodeTracker) -> Any:
    """The return in the environment's own statistics, which knows the rewards before other wrappers have scaled them.

    The sum of the rewards where there are none, or where they are of another episode: one of several lives, for
    example, or of more steps than the wrappers outside of them have made.
    """
    if statistics is None or statistics.get("r") is None:
        return tracker.total_reward
    stated, length = real_or_same(statistics["r"]), real_or_same(statistics.get("l"))
    return stated if stated.__class__ is float and length == tracker.length else tracker.total_reward
