"""Gymnasium environments that tell a worker what happens in them: wrap one, and train as before.

`TelemetryWrapper` is for one environment, `VectorTelemetryWrapper` for a vector of them. Both number episodes and steps
from 0, in each environment by itself; the step number of the whole run (`global_step`) is counted by the worker for
each agent, so it counts over all environments that share an agent id.

A reset is emitted with what it returned, and with the seed and options that it was given; one that the environment made
by itself has neither. An episode ends as ``terminated`` (also when it is truncated in the same step), ``truncated``,
``reset`` when it was abandoned by a reset, or ``closed`` when the environment was closed in its midst. One without any
step leaves its reset alone, and the next reset has the same number: the last one of a number is that of the episode.

Everything is emitted on the thread that steps the environment, after the environment's own step. What the environment
returns is passed on untouched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsFloat, cast

import gymnasium
import numpy as np
from gymnasium.error import CustomSpaceError
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import iterate
from gymnasium.wrappers import Autoreset

from telefabric.errors import UsageError
from telefabric_workers import capture
from telefabric_workers.repair import real
from telefabric_workers.worker import Worker

_copies_told = False

if TYPE_CHECKING:
    _VectorWrapper = VectorWrapper[Any, Any, Any, Any, Any]
else:
    _VectorWrapper = VectorWrapper  # takes no type parameters in older versions


log = logging.getLogger("telefabric.worker")

_FINAL_OBSERVATION = ("final_obs", "final_observation", "terminal_observation")
"""Gymnasium's names from 1.1 on and before, and that of stable-baselines3."""
_FINAL_INFO = "final_info"


class _Track:
    """Where one environment is in its episodes, and what it tells of them."""

    def __init__(self, teller: _Teller, env_index: int, agent: str | None, episode: int = 0) -> None:
        self._teller = teller
        self._env_index = env_index
        self._agent = agent
        self.episode = episode
        self.step = 0
        self.ended = False
        """The last step ended an episode, and no reset has followed."""
        self.seed: Any = None
        """The seed that was given to the last reset; the episode's."""
        self.render: Callable[[], Any] | None = None
        """Draws the environment; called only while its picture is wanted."""
        self._total: float | None = 0.0

    def begun(self, observation: Any, info: Any, seed: Any = None, options: Any = None) -> None:
        """Emit a reset: what it returned, and what it was given."""
        teller = self._teller
        self.ended = False
        self.seed = seed
        teller.worker.reset(
            episode=self.episode,
            observation=observation if teller.observations else None,
            info=info if teller.infos and info else None,
            seed=seed,
            options=options,
            env_index=self._env_index,
            agent=self._agent,
            control_mode=teller.control_mode,
        )

    def stepped(
        self,
        action: Any,
        observation: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        info: Mapping[str, Any],
        *,
        drawn: bool = True,
    ) -> None:
        """Emit a step. `drawn`: what `render` draws now is what the step led to."""
        teller = self._teller
        if reward.__class__ is not float:
            reward = _number(reward)
        teller.worker.step(
            episode=self.episode,
            step=self.step,
            action=action,
            observation=observation if teller.observations else None,
            reward=reward,
            terminated=bool(terminated),
            truncated=bool(truncated),
            env_index=self._env_index,
            agent=self._agent,
            info=info if teller.infos and info else None,
            control_mode=teller.control_mode,
            policy_label=teller.policy_label,
            backend="gymnasium",
            frame=self.render if drawn else None,
        )
        self.step += 1
        self._total = self._total + reward if self._total is not None and reward.__class__ is float else None

    def finish(self, end_reason: str, info: Any = None) -> None:
        """Emit the episode, unless it has no step, and begin the next. `info`: what its last step reported."""
        if self.step:
            teller = self._teller
            teller.worker.episode(
                episode=self.episode,
                total_reward=self._total,
                length=self.step,
                env_index=self._env_index,
                agent=self._agent,
                end_reason=end_reason,
                seed=self.seed,
                game_id=teller.game_id,
                control_mode=teller.control_mode,
                policy_label=teller.policy_label,
                metadata=_statistics(info) if teller.infos else None,
            )
            self.episode += 1
        self.seed = None
        self.step = 0
        self._total = 0.0


class _Nobody:
    """In the place of a worker: records nothing."""

    closed = False
    captured: tuple[str, ...] = ()

    def nothing(self, **_: Any) -> None:
        return

    step = episode = reset = nothing


class _Teller:
    """The settings of a wrapper, common to all its episodes."""

    def __init__(
        self,
        worker: Worker,
        game_id: str | None,
        control_mode: str | None,
        policy_label: str | None,
        observations: bool,
        infos: bool,
    ) -> None:
        if not isinstance(worker, Worker):
            raise UsageError(f"a {type(worker).__name__} was given for the worker: give what connect() returned")
        self.worker = worker
        self.game_id = game_id
        self.control_mode = control_mode
        self.policy_label = policy_label
        self.observations = observations
        self.infos = infos

    def __deepcopy__(self, memo: object) -> _Teller:
        """A copy plays the same episodes on, such as a planner's: in the record they would be mixed with the others."""
        global _copies_told
        if not _copies_told:
            _copies_told = True
            log.warning(
                "worker.copy_silent: a deep copy of a recorded environment records nothing: "
                "wrap it again, with an env_index of its own, to record it too (logged once)"
            )
        teller = copy(self)
        teller.worker = cast("Worker", _Nobody())
        return teller

    def tell_environment(self, env: Any) -> None:
        """Add an environment to the metadata of the run, unless it is there or a setting leaves it out."""
        worker = self.worker
        if "environment" in worker.captured and not worker.closed:
            more = capture.added(worker._metadata, "environment", capture.environment(env))
            if more:
                worker.set_metadata(more)


class _Labels:
    """The labels that a training program may change while it runs; they hold from the next step on."""

    _teller: _Teller

    @property
    def policy_label(self) -> str | None:
        """Which policy chooses the actions."""
        return self._teller.policy_label

    @policy_label.setter
    def policy_label(self, label: str | None) -> None:
        self._teller.policy_label = label

    @property
    def control_mode(self) -> str | None:
        """The actor: human, agent, multi_agent, hybrid or replay; None for the worker's own setting."""
        return self._teller.control_mode

    @control_mode.setter
    def control_mode(self, mode: str | None) -> None:
        self._teller.control_mode = mode


class TelemetryWrapper(_Labels, gymnasium.Wrapper[Any, Any, Any, Any]):
    """Emits a step for each `step` of the environment, and an episode at its end. One environment, one thread.

    The seed of an episode is the one given to its `reset`. Its metadata are the statistics that gymnasium's
    `RecordEpisodeStatistics` reports in the info of its last step.

    A step that follows an end without a reset begins the next episode, unless the environment has gymnasium's
    `Autoreset` wrapper: then that step is the reset itself, and is not emitted.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        worker: Worker,
        *,
        agent: str | None = None,
        env_index: int = 0,
        first_episode: int = 0,
        game_id: str | None = None,
        control_mode: str | None = None,
        policy_label: str | None = None,
        observations: bool = True,
        infos: bool = True,
        frames: bool | None = None,
    ) -> None:
        """
        :param agent: agent id of the events; the worker's own by default.
        :param frames: whether steps carry what the environment renders; by default if its render mode is rgb_array.
        :param env_index: index of this environment among those of the agent.
        :param first_episode: index of the first episode, for a run that continues an earlier one.
        :param game_id: environment id; from ``env.spec`` by default.
        :param observations: whether steps carry their observations.
        :param infos: whether steps carry what the environment reports in its info.
        """
        super().__init__(env)
        game_id = game_id or getattr(capture.spec_of(env), "id", None)
        self._teller = _Teller(worker, game_id, control_mode, policy_label, observations, infos)
        self._teller.tell_environment(env)
        self._track = _Track(self._teller, env_index, agent, first_episode)
        if frames or (frames is None and env.render_mode == "rgb_array"):
            self._track.render = env.render
        self._autoreset = any(isinstance(layer, Autoreset) for layer in _layers(env))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._track.finish("reset")
        given = None if options is None else dict(options)  # before anybody takes out what is meant for it
        result = self.env.reset(seed=seed, options=options)
        self._track.begun(*result, seed, given)
        return result

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        track = self._track
        if track.ended and self._autoreset:
            track.begun(result[0], result[4])
            return result
        track.stepped(action, *result)
        _, _, terminated, truncated, info = result
        if terminated or truncated:
            track.ended = True
            track.finish("terminated" if terminated else "truncated", info)
        return result

    def close(self) -> None:
        """Emits an episode that has begun; the worker stays open."""
        if not self._teller.worker.closed:
            self._track.finish("closed")
        self.env.close()


class VectorTelemetryWrapper(_Labels, _VectorWrapper):
    """Emits the steps and episodes of each environment of a vector env, in all autoreset modes. One thread.

    - next step: the call that follows an end resets that environment; it ignores the action, and is not emitted.
    - same step: the observation and info of a last step are those in ``final_obs`` and ``final_info``; what else the
      infos have then is of the reset if a reset has reported it before, and else of the last step, as what a vector
      wrapper such as `RecordEpisodeStatistics` adds.
    - disabled: an environment that has ended tells nothing until it is reset, alone (``options={"reset_mask": mask}``,
      bool, shape (num_envs,)) or with all.

    A vector env that does not name its mode is taken as same step once it reports a final observation or info, and as
    next step otherwise, which is warned of; `autoreset` names it.

    Episodes carry the seed that was given to the `reset` which began them: a number n means n + env_index to
    gymnasium's own vector envs.

    All environments share one agent id unless `agents` names one for each, so `global_step` counts over all of them.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        worker: Worker,
        *,
        agents: Sequence[str] | None = None,
        game_id: str | None = None,
        control_mode: str | None = None,
        policy_label: str | None = None,
        observations: bool = True,
        infos: bool = True,
        frames: bool | None = None,
        autoreset: AutoresetMode | str | None = None,
    ) -> None:
        """Raises `telefabric.errors.UsageError` unless there are as many agents as environments.

        :param agents: an agent id for each environment; the worker's own for all by default.
        :param game_id: environment id; from ``env.spec`` or the first environment's by default.
        :param observations: whether steps carry their observations.
        :param infos: whether steps carry what their environment reports in its info.
        :param frames: whether steps carry what their environments render; by default if the render mode is rgb_array.
            gymnasium's `SyncVectorEnv` draws those that are looked at, any other vector env all of them at once.
        :param autoreset: ``next_step``, ``same_step`` or ``disabled``, for a vector env that does not say it.
        """
        if agents is not None and len(agents) != env.num_envs:
            raise UsageError(f"{len(agents)} agents for {env.num_envs} environments: name one for each")
        super().__init__(env)
        game_id = game_id or getattr(capture.spec_of(env), "id", None)
        self._teller = _Teller(worker, game_id, control_mode, policy_label, observations, infos)
        self._teller.tell_environment(env)
        self._tracks = [_Track(self._teller, i, agents[i] if agents else None) for i in range(env.num_envs)]
        mode = _autoreset_mode(env, autoreset)
        self._mode = mode or AutoresetMode.NEXT_STEP
        self._mode_is_known = mode is not None
        self._warned = False
        self._reset_keys: set[Any] = set()
        """The infos of resets."""
        self._pictures: Sequence[Any] | None = None
        """The pictures that the vector env rendered after this step."""
        if frames or (frames is None and env.render_mode == "rgb_array"):
            for index, track in enumerate(self._tracks):
                track.render = partial(self._render, index)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,  # as SyncVectorEnv
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        mask = None if options is None else options.get("reset_mask")
        chosen = range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist()
        for index in chosen:
            self._tracks[index].finish("reset")
        given = None if options is None else dict(options)  # before anybody takes out what is meant for it
        result = self.env.reset(seed=cast(Any, seed), options=options)
        observations, infos = result
        each_observation = _each(self.env.observation_space, observations, self.num_envs)
        for index in chosen:
            info = _info_of(infos, index, self.num_envs)
            self._reset_keys.update(info)
            self._tracks[index].begun(each_observation[index], info, self._given_seed(seed, index), given)
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        result = self.env.step(actions)
        self._pictures = None
        observations, rewards, terminations, truncations, infos = result
        each_action = _each(self.env.action_space, actions, self.num_envs)
        each_observation = _each(self.env.observation_space, observations, self.num_envs)
        each_reward, each_terminated, each_truncated = _list(rewards), _list(terminations), _list(truncations)
        for index, track in enumerate(self._tracks):
            if track.ended:
                if self._mode is AutoresetMode.NEXT_STEP:  # this call was the reset
                    track.begun(each_observation[index], _info_of(infos, index, self.num_envs))
                continue
            terminated, truncated = each_terminated[index], each_truncated[index]
            ends = bool(terminated or truncated)
            observation = each_observation[index]
            info = _info_of(infos, index, self.num_envs) if self._teller.infos or ends else {}
            if ends and not self._mode_is_known:
                self._look_for_the_mode(info)
            begun = ends and self._mode is AutoresetMode.SAME_STEP
            info_of_reset: dict[Any, Any] = {}
            if begun:  # the rest, and what is drawn, is of the episode that has begun
                observation, info, info_of_reset = self._final(info)
            track.stepped(
                each_action[index], observation, each_reward[index], terminated, truncated, info, drawn=not begun
            )
            if ends:
                track.ended = True
                track.finish("terminated" if terminated else "truncated", info)
            if begun:
                track.begun(each_observation[index], info_of_reset)
        return result

    def close(self, **kwargs: Any) -> None:
        """Emits the episodes that have begun; the worker stays open."""
        if not self._teller.worker.closed and not self.env.closed:
            for index in range(self.num_envs):
                self._tracks[index].finish("closed")
        self.env.close(**kwargs)

    def _final(self, info: Mapping[Any, Any]) -> tuple[Any, dict[Any, Any], dict[Any, Any]]:
        """Last observation and info of an environment that was reset in its last step, and the reset's info."""
        last: dict[Any, Any] = {}
        of_reset: dict[Any, Any] = {}
        for key, value in info.items():
            if key != _FINAL_INFO and key not in _FINAL_OBSERVATION:
                (of_reset if key in self._reset_keys else last)[key] = value
        last.update(info.get(_FINAL_INFO) or {})
        return next((info[key] for key in _FINAL_OBSERVATION if key in info), None), last, of_reset

    def _look_for_the_mode(self, info: Mapping[Any, Any]) -> None:
        """An environment of a vector env that does not name its mode has ended: only a reset makes something final."""
        if any(info.get(key) is not None for key in (*_FINAL_OBSERVATION, _FINAL_INFO)):
            self._mode = AutoresetMode.SAME_STEP
            self._mode_is_known = True
            for track in self._tracks:
                track.ended = False
        elif not self._warned:
            self._warned = True
            log.warning(
                "worker.autoreset_unknown: %s does not say when it resets an environment that has ended, and is taken "
                "to do so in the next step, which is not recorded: name it with "
                "VectorTelemetryWrapper(..., autoreset='next_step', 'same_step' or 'disabled')",
                type(self.unwrapped).__name__,
            )

    def _render(self, index: int) -> Any:
        base = self.unwrapped
        if isinstance(base, SyncVectorEnv):
            return base.envs[index].render()
        if self._pictures is None:
            rendered = self.env.render()
            self._pictures = [None] * self.num_envs if rendered is None else cast("Sequence[Any]", rendered)
        return self._pictures[index]

    def _given_seed(self, seed: Any, index: int) -> Any:
        if isinstance(seed, (Sequence, np.ndarray)):
            return seed[index]
        if seed is not None and isinstance(self.unwrapped, (SyncVectorEnv, AsyncVectorEnv)):
            return seed + index
        return seed


def _number(reward: Any) -> Any:
    """A reward as a float; any other value unchanged, so that the worker reports it."""
    try:
        return real(reward)
    except Exception:  # noqa: BLE001  whatever the environment's own object raises
        return reward


def _statistics(info: Any) -> Mapping[str, Any] | None:
    """The statistics that gymnasium's `RecordEpisodeStatistics` adds to the info of a last step."""
    found = info.get("episode") if isinstance(info, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _layers(env: gymnasium.Env[Any, Any]) -> Iterator[gymnasium.Env[Any, Any]]:
    """An environment, and those that it wraps."""
    yield env
    while isinstance(env, gymnasium.Wrapper):
        env = env.env
        yield env


def _autoreset_mode(env: VectorEnv[Any, Any, Any], given: AutoresetMode | str | None) -> AutoresetMode | None:
    """The vector env's own word before its metadata's, which several of a kind shared before gymnasium 1.2.

    None if neither names it. Raises `UsageError` for a word that is not a mode.
    """
    found = given or getattr(env.unwrapped, "autoreset_mode", None) or env.metadata.get("autoreset_mode")
    if found is None or isinstance(found, AutoresetMode):
        return found
    for mode in AutoresetMode:
        if str(found).lower() in (mode.name.lower(), mode.value.lower()):
            return mode
    raise UsageError(f"autoreset is {found!r} and should be one of next_step, same_step, disabled")


def _each(space: gymnasium.Space[Any], batch: Any, count: int) -> Sequence[Any]:
    """The part of each environment in a batch of actions or observations; None if it cannot be separated."""
    if isinstance(batch, np.ndarray):
        parts: Any = batch
    else:
        try:
            parts = list(iterate(space, batch))
        except (TypeError, KeyError, ValueError, CustomSpaceError):
            parts = batch
    return parts if _is_of_all(parts, count) else [None] * count


def _list(batch: Any) -> list[Any]:
    """Rewards and flags as plain numbers, from an array of any library."""
    return batch.tolist() if hasattr(batch, "tolist") else list(batch)


def _info_of(infos: Any, index: int, count: int) -> dict[str, Any]:
    """One environment's value: if the mask ``_key`` includes it, or, without a mask, its part of an array."""
    if not isinstance(infos, Mapping):  # a list with one for each, as the wrapper DictInfoToList makes
        return cast("dict[str, Any]", infos[index])
    found: dict[str, Any] = {}
    for key, value in infos.items():
        if str(key).startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}")
        if mask is not None and not mask[index]:
            continue
        if isinstance(value, Mapping):
            found[key] = _info_of(value, index, count)
        elif _is_of_all(value, count):
            found[key] = value[index]
    return found


def _is_of_all(value: Any, count: int) -> bool:
    """One item for each environment."""
    if isinstance(value, (list, tuple)):
        return len(value) == count
    shape: Sequence[int] = getattr(value, "shape", ())
    return bool(shape) and int(shape[0]) == count
