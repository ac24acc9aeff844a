"""PettingZoo environments that tell a worker what happens in them: wrap one, and train as before. Tried with 1.27.0.

`TelemetryAEC` is for environments whose agents take turns, `TelemetryParallel` for those whose agents step together.
Each agent of the environment is an agent of the record, with resets, steps and episodes of its own; all episodes that
begin by one reset of the environment have the same number. An agent that comes later begins with what it sees first.
Its episode ends when it dies (``terminated``, ``truncated``), when it is gone without having died (``left``), by a
``reset`` of the environment, or when that is ``closed``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pettingzoo.utils import BaseParallelWrapper, BaseWrapper

from telefabric_workers.episodes import EpisodeRecorder, EpisodeTracker, Labels, Recording
from telefabric_workers.worker import Worker


@dataclass
class _Agent:
    recorder: EpisodeRecorder
    here: bool = False
    """Its episode has begun and not ended."""
    acted: bool = False
    """It has not seen yet what came of its action."""
    action: Any = None
    early: Any = 0.0
    """Its rewards from before its first turn."""


class _Telemetry(Labels):
    """What both wrappers do: the agents of an environment, and the number of its episode."""

    env: Any

    def __init__(
        self,
        env: Any,
        worker: Worker,
        *,
        env_index: int = 0,
        first_episode: int = 0,
        game_id: str | None = None,
        control_mode: str | None = None,
        policy_label: str | None = None,
        observations: bool = True,
        infos: bool = True,
        frames: bool | None = None,
    ) -> None:
        """The options are those of the Gymnasium wrappers; `game_id` is the name in the metadata by default."""
        super().__init__(env)  # type: ignore[call-arg]  # the library's wrapper
        self._recording = Recording(worker, "pettingzoo", game_id, control_mode, policy_label, observations, infos)
        self._recording.describe(env)
        self._env_index = env_index
        self._episode = first_episode
        self._given: dict[str, Any] = {}
        """Seed and options of the newest reset."""
        self._agents: dict[Any, _Agent] = {}
        self._frames = getattr(env, "render_mode", None) == "rgb_array" if frames is None else frames
        self._picture: Any = None
        """Of this step, drawn once for all agents."""

    def close(self) -> None:
        """Emits the episodes that have begun; the worker stays open."""
        if not self._recording.worker.closed:
            self._end_all("closed")
        self.env.close()

    def _restart(self, seed: Any, options: Any) -> None:
        self._end_all("reset")
        self._given = {"seed": seed, "options": deepcopy(options)}  # before anybody takes out what is meant for it
        self._picture = None

    def _end_all(self, reason: str) -> None:
        """The environment's episode is over: the next one has a number that none of the agents has used."""
        for agent in self._agents.values():
            agent.recorder.end(reason)
        self._episode = max([self._episode, *(one.recorder.tracker.number for one in self._agents.values())])
        self._agents.clear()

    def _comes(self, name: Any, observation: Any, info: Any) -> _Agent:
        if name not in self._agents:
            tracker = EpisodeTracker(number=self._episode)
            self._agents[name] = _Agent(EpisodeRecorder(self._recording, self._env_index, str(name), tracker))
        agent = self._agents[name]
        agent.recorder.render = self._draw if self._frames else None
        agent.here = True
        agent.recorder.reset(observation, info, **self._given)
        return agent

    def _leave(self) -> None:
        """Agents whose episodes run and who are no longer in the environment are gone without having died."""
        for name, agent in self._agents.items():
            if agent.here and name not in self.env.agents:
                agent.here = False
                agent.recorder.end("left")

    def _draw(self) -> Any:
        if self._picture is None:
            self._picture = self.env.render()
        return self._picture


class TelemetryAEC(_Telemetry, BaseWrapper):  # type: ignore[misc]  # the library has no types
    """Emits a step of an agent when its next turn comes: what ``last()`` returns then, with all rewards since its turn.

    A reward from before its first turn belongs to its first step, so that the rewards of an episode add up to those
    that ``last()`` has returned. The None of an agent that has died is no step. An agent that has acted and has no
    further turn has its step at the next reset or at `close`.
    """

    _looked = False
    """What the agent sees in this turn is recorded."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self._restart(seed, options)
        self._looked = False
        self.env.reset(seed=seed, options=options)

    def last(self, observe: bool = True) -> Any:
        result = self.env.last(observe)
        if observe or not self._recording.observations:
            self._look(result)
        return result

    def step(self, action: Any) -> None:
        env = self.env
        if not self._looked:
            self._look(env.last(self._recording.observations))
        agent = self._agents.get(env.agent_selection)
        taken = deepcopy(action)  # the caller may use its array again before the agent's next turn
        env.step(action)
        self._looked, self._picture = False, None
        if agent is not None and agent.here:
            agent.acted, agent.action = True, taken
        self._settle([name for name, one in self._agents.items() if one.acted and name not in env.agents])
        self._leave()

    def _end_all(self, reason: str) -> None:
        self._settle(self._agents)
        super()._end_all(reason)

    def _look(self, seen: tuple[Any, ...]) -> None:
        if not self._looked:
            self._looked = True
            self._sees(self.env.agent_selection, *seen)

    def _sees(self, name: Any, observation: Any, reward: Any, terminated: bool, truncated: bool, info: Any) -> None:
        agent, ends = self._agents.get(name), terminated or truncated
        if agent is not None and agent.acted:
            reward, agent.early, agent.acted = reward + agent.early, 0.0, False
            agent.recorder.step(agent.action, observation, reward, terminated, truncated, info)
        elif not ends and (agent is None or not agent.here):
            agent = self._comes(name, observation, info)
            agent.early = reward
        if ends and agent is not None:
            agent.here, agent.early = False, 0.0

    def _settle(self, names: Collection[Any]) -> None:
        """These agents have no further turn in this episode: what they would see is there already."""
        env = self.env
        for name in names:
            if self._agents[name].acted:
                seen = env.observe(name) if self._recording.observations and name in env.agents else None
                ends = env.terminations.get(name, False), env.truncations.get(name, False)
                self._sees(name, seen, env._cumulative_rewards.get(name, 0.0), *ends, env.infos.get(name))


class TelemetryParallel(_Telemetry, BaseParallelWrapper):  # type: ignore[misc]  # as above
    """Emits a step for each agent that was alive, whatever its action, and a reset for each that has come."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._restart(seed, options)
        result = self.env.reset(seed=seed, options=options)
        self._meet(*result)
        return result

    def step(self, actions: Mapping[Any, Any]) -> Any:
        result = self.env.step(actions)
        self._picture = None
        observations, rewards, terminations, truncations, infos = result
        for name, agent in self._agents.items():
            if agent.here:
                ends = terminations.get(name, False), truncations.get(name, False)
                seen = observations.get(name), rewards.get(name, 0.0), *ends, infos.get(name)
                agent.recorder.step(actions.get(name), *seen)
                agent.here = not any(ends)
        self._leave()
        self._meet({name: observations[name] for name in self.env.agents if name in observations}, infos)
        return result

    def _meet(self, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> None:
        for name, observation in observations.items():
            if name not in self._agents or not self._agents[name].here:
                self._comes(name, observation, infos.get(name))
