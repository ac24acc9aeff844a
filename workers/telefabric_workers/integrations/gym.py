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
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, SupportsFloat, cast

import gymnasium
import numpy as np
from gymnasium.error import CustomSpaceError
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import iterate
from gymnasium.wrappers import Autoreset as AutoresetWrapper

from telefabric.errors import UsageError
from telefabric_workers.episodes import Autoreset, EpisodeRecorder, EpisodeTracker, Final, Labels, Recording
from telefabric_workers.worker import Worker

log = logging.getLogger("telefabric.worker")


class TelemetryWrapper(Labels, gymnasium.Wrapper[Any, Any, Any, Any]):
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
        self._recording = Recording(worker, "gymnasium", game_id, control_mode, policy_label, observations, infos)
        self._recording.describe(env)
        by_itself = _autoreset_layers(env)
        autoreset = Autoreset.NEXT_STEP if by_itself else Autoreset.SAME_STEP
        self._recorder = EpisodeRecorder(self._recording, env_index, agent, EpisodeTracker(autoreset, first_episode))
        if frames or (frames is None and env.render_mode == "rgb_array"):
            self._recorder.render = env.render

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._recorder.end("reset")
        given = None if options is None else dict(options)  # before anybody takes out what is meant for it
        result = self.env.reset(seed=seed, options=options)
        self._recorder.reset(*result, seed, given)
        return result

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        self._recorder.step(action, *result)
        tracker = self._recorder.tracker
        if tracker.ended and tracker.autoreset is Autoreset.NEXT_STEP:
            # an end that a wrapper outside of `Autoreset` has made is not seen there: the next call is a step
            tracker.ended = any(layer.autoreset for layer in _autoreset_layers(self.env))
        return result

    def close(self) -> None:
        """Emits an episode that has begun; the worker stays open."""
        if not self._recording.worker.closed:
            self._recorder.end("closed")
        self.env.close()


class VectorTelemetryWrapper(Labels, VectorWrapper):
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
        self._recording = Recording(worker, "gymnasium", game_id, control_mode, policy_label, observations, infos)
        self._recording.describe(env)
        self._autoreset = _autoreset_of(env, autoreset)
        """None until it is known."""
        self._warned = False
        mode = self._autoreset or Autoreset.NEXT_STEP
        self._recorders = [
            EpisodeRecorder(self._recording, index, agent, EpisodeTracker(mode))
            for index, agent in enumerate([None] * env.num_envs if agents is None else agents)
        ]
        self._reset_keys: set[Any] = set()
        """The infos of resets."""
        self._pictures: Sequence[Any] | None = None
        """The pictures that the vector env rendered after this step."""
        if frames or (frames is None and env.render_mode == "rgb_array"):
            for index, recorder in enumerate(self._recorders):
                recorder.render = partial(self._render, index)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,  # as SyncVectorEnv
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        mask = None if options is None else options.get("reset_mask")
        chosen = range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist()
        for index in chosen:
            self._recorders[index].end("reset")
        given = None if options is None else dict(options)  # before anybody takes out what is meant for it
        result = self.env.reset(seed=cast(Any, seed), options=options)
        observations, infos = result
        each_observation = _each(self.env.observation_space, observations, self.num_envs)
        for index in chosen:
            info = _info_of(infos, index, self.num_envs)
            self._reset_keys.update(info)
            self._recorders[index].reset(each_observation[index], info, self._given_seed(seed, index), given)
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        result = self.env.step(actions)
        self._pictures = None
        observations, rewards, terminations, truncations, infos = result
        each_action = _each(self.env.action_space, actions, self.num_envs)
        each_observation = _each(self.env.observation_space, observations, self.num_envs)
        each_reward, each_terminated, each_truncated = _list(rewards), _list(terminations), _list(truncations)
        for index, recorder in enumerate(self._recorders):
            is_step = recorder.tracker.next_call == "step"
            observation, terminated, truncated = each_observation[index], each_terminated[index], each_truncated[index]
            ends = is_step and bool(terminated or truncated)
            info = _info_of(infos, index, self.num_envs) if self._recording.infos or ends else {}
            reset = None
            if ends and self._autoreset is None:
                self._look_for_the_mode(info)
            if ends and self._autoreset is Autoreset.SAME_STEP:
                last = Final.of(info, self._reset_keys)
                reset = observation, last.info_of_reset
                observation, info = last.observation, last.info
            recorder.step(each_action[index], observation, each_reward[index], terminated, truncated, info, reset)
        return result

    def close(self, **kwargs: Any) -> None:
        """Emits the episodes that have begun; the worker stays open."""
        if not self._recording.worker.closed and not self.env.closed:
            for recorder in self._recorders:
                recorder.end("closed")
        self.env.close(**kwargs)

    def _look_for_the_mode(self, info: Mapping[Any, Any]) -> None:
        """An environment of a vector env that does not name its mode has ended: only a reset makes something final."""
        if Final.is_in(info):
            self._autoreset = Autoreset.SAME_STEP
            for recorder in self._recorders:
                recorder.tracker.autoreset = Autoreset.SAME_STEP
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


def _autoreset_layers(env: gymnasium.Env[Any, Any]) -> list[AutoresetWrapper[Any, Any]]:
    """The wrappers that reset an environment by themselves, among it and those that it wraps."""
    found = [env] if isinstance(env, AutoresetWrapper) else []
    return found + (_autoreset_layers(env.env) if isinstance(env, gymnasium.Wrapper) else [])


def _autoreset_of(env: VectorEnv[Any, Any, Any], given: AutoresetMode | str | None) -> Autoreset | None:
    """The vector env's own word before its metadata's, which several of a kind shared before gymnasium 1.2.

    None if neither names it. Raises `UsageError` for a word that is not a mode.
    """
    found = given or getattr(env.unwrapped, "autoreset_mode", None) or env.metadata.get("autoreset_mode")
    return None if found is None else Autoreset.named(found)


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
