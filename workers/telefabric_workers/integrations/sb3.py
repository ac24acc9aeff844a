"""Stable-Baselines3 as a worker: give `TelemetryCallback` to `learn`, and train as before. Tried with 2.9.2.

It records what the environments of the trainer's vec env return, of on-policy and off-policy algorithms, and what the
trainer logs. A vec env resets an environment in the step that ends its episode: the last observation is then in the
info, as ``terminal_observation``, and so is whether a time limit has ended it, as ``TimeLimit.truncated``.

Observations are those that the policy sees, stacked or normalized. Rewards are the environments' own, also under
`VecNormalize`, and actions those that the environments were given, clipped to their space.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, KVWriter, filter_excluded_keys

from telefabric.errors import UsageError
from telefabric_workers.episodes import EpisodeRecorder, EpisodeTracker, Labels, Recording
from telefabric_workers.problems import Problem
from telefabric_workers.repair import real_or_same
from telefabric_workers.worker import Worker

FORMAT = "telefabric"
"""The name of this output in ``logger.record(…, exclude=…)``."""


class TelemetryCallback(Labels, BaseCallback):  # type: ignore[misc]  # the library is not there for the type checker
    """Emits the resets, steps and episodes of each environment, and a metric for each number that the trainer logs.

    Episodes are numbered on from one `learn` to the next, also with another callback of the same worker. The first
    episodes of a model have its seed, plus the index of their environment; later resets are given none.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        agent: str | None = None,
        game_id: str | None = None,
        control_mode: str | None = None,
        policy_label: str | None = None,
        observations: bool = True,
        infos: bool = True,
        frames: bool | None = None,
        verbose: int = 0,
    ) -> None:
        """
        :param agent: agent id of the events; the worker's own by default.
        :param game_id: environment id; that of the first environment's ``spec`` by default.
        :param policy_label: which policy chooses the actions; the name of the algorithm, such as PPO, by default.
        :param observations: whether steps carry their observations.
        :param infos: whether steps carry what their environment reports in its info.
        :param frames: whether steps carry what their environments render; by default if the render mode is rgb_array.
        """
        super().__init__(verbose)
        self._recording = Recording(worker, "gymnasium", game_id, control_mode, policy_label, observations, infos)
        self._agent = agent
        self._frames = frames
        self._history = _histories.setdefault(worker, History())
        self._recorders: list[EpisodeRecorder] = []
        self._pictures: Any = None
        """What the vec env rendered after this step."""

    def _on_training_start(self) -> None:
        env, model, history = self.training_env, self.model, self._history
        self.policy_label = self.policy_label or type(model).__name__
        self._recording.describe(_as_vector(env))
        trackers = [history.trackers.setdefault((self._agent, i), EpisodeTracker()) for i in range(env.num_envs)]
        self._recorders = [
            EpisodeRecorder(self._recording, index, self._agent, tracker) for index, tracker in enumerate(trackers)
        ]
        if self._frames or (self._frames is None and env.render_mode == "rgb_array"):
            for index, recorder in enumerate(self._recorders):
                recorder.render = partial(self._render, index)
        seed = None if model in history.models else model.seed
        history.models.add(model)
        if model._last_obs is not history.seen:
            for index, recorder in enumerate(self._recorders):
                recorder.end("reset")
                observation, info = _part(model._last_obs, index), self._info_of_reset(index)
                recorder.reset(observation, info, None if seed is None else seed + index)
        self._stop_metrics()
        model.logger.output_formats.append(Metrics(self._recording.worker, self._agent))

    def _on_step(self) -> bool:
        given = self.locals
        if "new_obs" not in given:
            raise UsageError(
                f"{type(self.model).__name__} does not hand its steps to callbacks: wrap its environments in "
                "telefabric_workers.integrations.gym.TelemetryWrapper instead"
            )
        observations, actions = given["new_obs"], given.get("clipped_actions", given["actions"])
        normalized = self.model.get_vec_normalize_env()
        rewards = given["rewards"] if normalized is None else normalized.get_original_reward()
        self._pictures = None
        for index, recorder in enumerate(self._recorders):
            info, done = dict(given["infos"][index]), bool(given["dones"][index])
            last_observation = info.pop("terminal_observation", None)
            truncated = bool(info.pop("TimeLimit.truncated", False)) and done
            observation, reset = _part(observations, index), None
            if done:
                reset = observation, self._info_of_reset(index)
                observation = last_observation
            action = _part(actions, index)
            recorder.step(action, observation, rewards[index], done and not truncated, truncated, info, reset)
        self._history.seen = observations
        return True

    def _on_training_end(self) -> None:
        """What the last update has logged is written after the next rollout, which only a logger of the user's sees."""
        logger = self.model.logger
        for output in self._stop_metrics():
            if not self.model._custom_logger:
                output.write(logger.name_to_value, logger.name_to_excluded, self.num_timesteps)

    def _stop_metrics(self) -> list[Metrics]:
        """Take this worker's output out of a logger that is used by one `learn` after the other."""
        outputs, worker = self.model.logger.output_formats, self._recording.worker
        ours = [one for one in outputs if isinstance(one, Metrics) and one.worker is worker]
        outputs[:] = [one for one in outputs if one not in ours]
        return ours

    def _info_of_reset(self, index: int) -> Any:
        infos = getattr(self.training_env.unwrapped, "reset_infos", None)
        return infos[index] if infos else None

    def _render(self, index: int) -> Any:
        base = self.training_env.unwrapped
        if hasattr(base, "envs"):
            return base.envs[index].render()
        if self._pictures is None:
            self._pictures = base.get_images()
        return self._pictures[index]


@dataclass
class History:
    """What the callbacks of a worker have recorded so far."""

    trackers: dict[tuple[str | None, int], EpisodeTracker] = field(default_factory=dict)
    """Agent and index of an environment → where it is in its episodes."""
    models: WeakSet[Any] = field(default_factory=WeakSet)
    seen: Any = None
    """The observations of the newest step. A trainer that goes on without a reset has the same object."""


_histories: WeakKeyDictionary[Worker, History] = WeakKeyDictionary()


class Metrics(KVWriter):  # type: ignore[misc]  # as above
    """The trainer's log as metrics of a worker, each at the agent's last step.

    A text becomes a line of the run's log, and hyperparameters (`HParam`) become metadata. Other values (`Video`,
    `Figure`, `Image`, arrays of several numbers) are left out; the worker logs each name once and counts it.
    """

    def __init__(self, worker: Worker, agent: str | None = None) -> None:
        self.worker = worker
        self._agent = agent

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        for name, value in filter_excluded_keys(key_values, key_excluded, FORMAT).items():
            number = real_or_same(value)
            if isinstance(value, str):
                self.worker.log(value, logger=name, fields={"num_timesteps": step}, agent=self._agent)
            elif isinstance(number, float):
                self.worker.metric(name, number, agent=self._agent)
            elif isinstance(value, HParam):  # its metrics only say which ones are worth comparing
                self.worker.set_metadata(hyperparameters=dict(value.hparam_dict))
            else:
                self.worker.tell([Problem("metric", name, f"{type(value).__name__} is not one number")])

    def close(self) -> None:
        """The worker is closed by the program that opened it."""


def _part(batch: Any, index: int) -> Any:
    """What one environment has of a batch of observations or actions."""
    if isinstance(batch, dict):
        return {key: part[index] for key, part in batch.items()}
    return tuple(part[index] for part in batch) if isinstance(batch, tuple) else batch[index]


def _as_vector(env: Any) -> Any:
    """A vec env as a vector env of gymnasium, to be described."""
    try:
        spec = env.get_attr("spec")[0]
    except (AttributeError, NotImplementedError):
        spec = None
    return SimpleNamespace(
        spec=spec, unwrapped=env.unwrapped, metadata=env.metadata, num_envs=env.num_envs,
        observation_space=env.observation_space, action_space=env.action_space,
    )  # fmt: skip
