"""Gymnasium environments that tell a worker what happens in them: wrap one, and train as before.

`TelemetryWrapper` is for one environment, `VectorTelemetryWrapper` for a vector of them. Both number episodes and steps
from 0, in each environment by itself; the step number of the whole run (`global_step`) is counted by the worker for
each agent, so it counts over all environments that share an agent id.

An episode ends as ``terminated`` (also when it is truncated in the same step), ``truncated``, ``reset`` when it was
abandoned by a reset, or ``closed`` when the environment was closed in its midst. One without any step leaves no trace.

Everything is emitted on the thread that steps the environment, after the environment's own step. What the environment
returns is passed on untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsFloat, cast

import gymnasium
import numpy as np
from gymnasium.error import CustomSpaceError
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import iterate
from gymnasium.wrappers import Autoreset

from telefabric.errors import UsageError
from telefabric_workers.worker import Worker

if TYPE_CHECKING:
    _VectorWrapper = VectorWrapper[Any, Any, Any, Any, Any]
else:
    _VectorWrapper = VectorWrapper  # takes no type parameters in older versions


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
        """The seed that was given to the last reset."""
        self.render: Callable[[], Any] | None = None
        """What draws the environment for whoever looks; not called while nobody does."""
        self._total: float | None = 0.0

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

    def finish(self, end_reason: str, seed: Any) -> None:
        """Emit the episode, unless it has no step, and begin the next."""
        if self.step:
            teller = self._teller
            teller.worker.episode(
                episode=self.episode,
                total_reward=self._total,
                length=self.step,
                env_index=self._env_index,
                agent=self._agent,
                end_reason=end_reason,
                seed=seed,
                game_id=teller.game_id,
                control_mode=teller.control_mode,
                policy_label=teller.policy_label,
            )
            self.episode += 1
        self.step = 0
        self._total = 0.0


class _Teller:
    """What all episodes of a wrapper have in common."""

    def __init__(
        self,
        worker: Worker,
        game_id: str | None,
        control_mode: str | None,
        policy_label: str | None,
        observations: bool,
        infos: bool,
    ) -> None:
        self.worker = worker
        self.game_id = game_id
        self.control_mode = control_mode
        self.policy_label = policy_label
        self.observations = observations
        self.infos = infos


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
        """Who acts: human, agent, multi_agent, hybrid or replay; the worker's own when None."""
        return self._teller.control_mode

    @control_mode.setter
    def control_mode(self, mode: str | None) -> None:
        self._teller.control_mode = mode


class TelemetryWrapper(_Labels, gymnasium.Wrapper[Any, Any, Any, Any]):
    """Emits a step for each `step` of the environment, and an episode at its end. One environment, one thread.

    The seed of an episode is the one given to its `reset`; without one it is the environment's `np_random_seed`, of
    which the episode is a later one, or null when the environment does not know it.

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
        game_id = game_id or _spec_id(env)
        self._teller = _Teller(worker, game_id, control_mode, policy_label, observations, infos)
        self._track = _Track(self._teller, env_index, agent, first_episode)
        if frames or (frames is None and env.render_mode == "rgb_array"):
            self._track.render = env.render
        self._autoreset = any(isinstance(layer, Autoreset) for layer in _layers(env))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._end("reset")
        self._track.ended = False
        self._track.seed = seed
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        track = self._track
        if track.ended and self._autoreset:
            track.ended = False
            track.seed = None
            return result
        track.stepped(action, *result)
        _, _, terminated, truncated, _ = result
        if terminated or truncated:
            track.ended = True
            self._end("terminated" if terminated else "truncated")
        return result

    def close(self) -> None:
        """Emits an episode that has begun; the worker stays open."""
        if not self._teller.worker.closed:
            self._end("closed")
        self.env.close()

    def _end(self, reason: str) -> None:
        track = self._track
        if track.step:
            track.finish(reason, _known_seed(self.env.unwrapped) if track.seed is None else track.seed)


class VectorTelemetryWrapper(_Labels, _VectorWrapper):
    """Emits the steps and episodes of each environment of a vector env, in all autoreset modes. One thread.

    - next step: the call that follows an end resets that environment; it ignores the action, and is not emitted.
    - same step: the observation and info of a last step are those in ``final_obs`` and ``final_info``.
    - disabled: an environment that has ended tells nothing until it is reset, alone (``options={"reset_mask": mask}``,
      bool, shape (num_envs,)) or with all.

    Episodes carry the seed of their environment: what was given to `reset` (a number n means n + env_index to
    gymnasium's own vector envs), else the environment's `np_random_seed`.

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
    ) -> None:
        """Raises `telefabric.errors.UsageError` unless there are as many agents as environments.

        :param agents: an agent id for each environment; the worker's own for all by default.
        :param game_id: environment id; from ``env.spec`` or the first environment's by default.
        :param observations: whether steps carry their observations.
        :param infos: whether steps carry what their environment reports in its info.
        :param frames: whether steps carry what their environments render; by default if the render mode is rgb_array.
            gymnasium's `SyncVectorEnv` draws those that are looked at, any other vector env all of them at once.
        """
        if agents is not None and len(agents) != env.num_envs:
            raise UsageError(f"{len(agents)} agents for {env.num_envs} environments: name one for each")
        super().__init__(env)
        game_id = game_id or _spec_id(env)
        self._teller = _Teller(worker, game_id, control_mode, policy_label, observations, infos)
        self._tracks = [_Track(self._teller, i, agents[i] if agents else None) for i in range(env.num_envs)]
        self._mode = _autoreset_mode(env)
        self._rng_seeds: Sequence[int | None] | None = None
        """Seeds of the generators in other processes; asked for once after each `reset`, for the round trips."""
        self._pictures: Sequence[Any] | None = None
        """What the vector env rendered after this step."""
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
            self._end(index, "reset")
        result = self.env.reset(seed=cast(Any, seed), options=options)
        self._rng_seeds = None
        for index in chosen:
            track = self._tracks[index]
            track.ended = False
            track.seed = self._given_seed(seed, index)
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
                track.ended = self._mode is not AutoresetMode.NEXT_STEP  # this call was the reset
                continue
            terminated, truncated = each_terminated[index], each_truncated[index]
            ends = bool(terminated or truncated)
            observation = each_observation[index]
            info = _info_of(infos, index, self.num_envs) if self._teller.infos or ends else {}
            begun = ends and self._mode is AutoresetMode.SAME_STEP
            if begun:  # the rest, and what is drawn, is of the episode that has begun
                observation, info = info.get("final_obs"), info.get("final_info") or {}
            track.stepped(
                each_action[index], observation, each_reward[index], terminated, truncated, info, drawn=not begun
            )
            if ends:
                self._end(index, "terminated" if terminated else "truncated")
                track.ended = self._mode is not AutoresetMode.SAME_STEP
        return result

    def close(self, **kwargs: Any) -> None:
        """Emits the episodes that have begun; the worker stays open."""
        if not self._teller.worker.closed and not self.env.closed:
            for index in range(self.num_envs):
                self._end(index, "closed")
        self.env.close(**kwargs)

    def _end(self, index: int, reason: str) -> None:
        track = self._tracks[index]
        if track.step:
            track.finish(reason, self._rng_seed(index) if track.seed is None else track.seed)

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

    def _rng_seed(self, index: int) -> int | None:
        base = self.unwrapped
        if isinstance(base, SyncVectorEnv):
            return _known_seed(base.envs[index].unwrapped)
        if not isinstance(base, AsyncVectorEnv):
            return _known_seed(base)
        if self._rng_seeds is None:
            self._rng_seeds = base.np_random_seed
        return _known(self._rng_seeds[index])


def _number(reward: Any) -> Any:
    """A reward as a float; one that is none as it came, for the worker to tell."""
    try:
        return float(reward)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        return reward


def _layers(env: gymnasium.Env[Any, Any]) -> Iterator[gymnasium.Env[Any, Any]]:
    """An environment, and those that it wraps."""
    yield env
    while isinstance(env, gymnasium.Wrapper):
        env = env.env
        yield env


def _spec_id(env: Any) -> str | None:
    spec = env.spec
    if spec is None and isinstance(env.unwrapped, SyncVectorEnv):
        spec = env.unwrapped.envs[0].spec
    return None if spec is None else spec.id


def _known_seed(env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> int | None:
    """The seed of the environment's generator, if it has drawn from it. The property would make one up."""
    return _known(getattr(env, "_np_random_seed", None))


def _known(seed: int | None) -> int | None:
    """Gymnasium's word for a generator of unknown seed is -1."""
    return None if seed == -1 else seed


def _autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """The vector env's own word first: before gymnasium 1.2 several vector envs of a kind shared their metadata."""
    found = getattr(env.unwrapped, "autoreset_mode", None) or env.metadata.get("autoreset_mode")
    return AutoresetMode.NEXT_STEP if found is None else AutoresetMode(found)


def _each(space: gymnasium.Space[Any], batch: Any, count: int) -> Sequence[Any]:
    """The part of each environment in a batch of actions or observations; None where it cannot be told apart."""
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
    """What one environment reported: where the mask ``_key`` names it, or, without a mask, its part of an array."""
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
