"""The PettingZoo wrappers: agents that take turns and agents that step together, that die, come and go."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.classic.tictactoe import tictactoe
from pettingzoo.utils.conversions import parallel_to_aec
from plain import only, spooled

from telefabric_workers import Worker, connect
from telefabric_workers.integrations.pettingzoo import TelemetryAEC, TelemetryParallel

EPISODE = ("agent_id", "episode_index", "length", "total_reward", "end_reason")
STEP = ("agent_id", "episode_index", "step_index", "action", "observation", "reward", "terminated", "truncated")


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with connect("tcp://127.0.0.1:1", run="r", spool=tmp_path, exit_flush_s=0) as worker:
        yield worker


# -- agents that take turns --------------------------------------------------------------------------------------
class Turns(AECEnv[str, Any, Any]):
    """A plan says what each turn does: ``(agent, {agent: reward}, dead, gone, come)``. Observation: turns so far."""

    metadata: ClassVar[dict[str, Any]] = {"name": "turns_v0", "render_modes": ["rgb_array"]}
    possible_agents: ClassVar[list[str]] = ["a", "b", "c"]
    render_mode = "rgb_array"

    def __init__(self, *plan: tuple[str, Mapping[str, float], str, str, str], starts: str = "ab") -> None:
        self.plan = plan
        self.starts = starts
        self.drawn = 0

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete(100)

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Box(0, 1, (1,), np.float32)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self.turn = 0
        self.agents = []
        self.terminations, self.truncations, self.infos = {}, {}, {}
        self.rewards, self._cumulative_rewards = {}, {}
        for agent in self.starts:
            self._come(agent)
        self.agent_selection = self.plan[0][0]

    def _come(self, agent: str) -> None:
        self.agents.append(agent)
        self.terminations[agent] = self.truncations[agent] = False
        self.rewards[agent] = self._cumulative_rewards[agent] = 0.0
        self.infos[agent] = {}

    def observe(self, agent: str) -> int:
        return self.turn

    def step(self, action: Any) -> None:
        if self.terminations[self.agent_selection] or self.truncations[self.agent_selection]:
            self._was_dead_step(action)
        else:
            _, rewards, dead, gone, come = self.plan[self.turn]
            self.turn += 1
            self._cumulative_rewards[self.agent_selection] = 0.0
            for agent, reward in rewards.items():
                self._cumulative_rewards[agent] += reward
            for agent in dead:
                self.terminations[agent] = True
            for agent in gone:
                self.agents.remove(agent)
            for agent in come:
                self._come(agent)
        dead_ones = [agent for agent in self.agents if self.terminations[agent]]
        if dead_ones:
            self.agent_selection = dead_ones[0]
        elif self.turn < len(self.plan):
            self.agent_selection = self.plan[self.turn][0]

    def render(self) -> Any:
        self.drawn += 1
        return np.full((2, 2, 3), self.turn, np.uint8)


def play(env: Any, *, seed: int | None = None, actions: Callable[[str], Any] = lambda agent: 0) -> dict[str, float]:
    """An episode as everybody plays one; what ``last()`` returned to each agent, added up."""
    totals: dict[str, float] = defaultdict(float)
    env.reset(seed=seed)
    for agent in env.agent_iter(1_000):
        _, reward, terminated, truncated, _ = env.last()
        totals[agent] += reward
        env.step(None if terminated or truncated else actions(agent))
        if getattr(env.unwrapped, "turn", -1) == len(getattr(env.unwrapped, "plan", ())) and not any(
            env.terminations.values()
        ):
            break
    return totals


def test_the_reward_of_a_turn_is_what_came_until_the_agent_s_next_one(worker: Worker) -> None:
    plan = [("a", {"a": 1, "b": 5}, "", "", ""), ("b", {"a": 2, "b": 3}, "", "", ""), ("a", {"b": 4}, "ab", "", "")]
    env = TelemetryAEC(Turns(*plan), worker)
    totals = play(env, seed=3)
    events = spooled(worker, "reset", "step", "episode")
    assert only(events, "step", *STEP) == [
        ("a", 0, 0, 0, 2, 3.0, False, False),
        ("a", 0, 1, 0, 3, 0.0, True, False),
        ("b", 0, 0, 0, 3, 12.0, True, False),
    ]
    assert only(events, "reset", "agent_id", "observation", "seed") == [("a", 0, 3), ("b", 1, 3)]
    assert only(events, "episode", *EPISODE) == [("a", 0, 2, 3.0, "terminated"), ("b", 0, 1, 12.0, "terminated")]
    assert totals == {"a": 3.0, "b": 12.0}, "with the 5 from before its first turn"


def test_agents_that_have_acted_have_their_step_at_a_reset_and_at_the_end(worker: Worker) -> None:
    plan = [("a", {}, "", "", ""), ("b", {"a": 1, "b": 1}, "ab", "", "")]
    env = TelemetryAEC(Turns(*plan), worker)
    for _ in range(2):
        env.reset()
        for action in (7, 8):
            env.last()
            env.step(action)  # and nobody asks what came of it
    env.close()
    assert only(spooled(worker, "step"), "step", *STEP) == [
        (agent, episode, 0, action, 2, 1.0, True, False)
        for episode in range(2)
        for agent, action in (("a", 7), ("b", 8))
    ]


def test_agents_leave_without_having_died_and_come_back_in_one_episode(worker: Worker) -> None:
    plan = [
        ("a", {}, "", "", ""), ("b", {"a": 1}, "", "a", ""), ("b", {}, "", "", "ac"), ("c", {"c": 2}, "", "", ""),
        ("a", {}, "a", "", ""), ("b", {}, "", "", ""),
    ]  # fmt: skip
    env = TelemetryAEC(Turns(*plan), worker)
    for _ in range(2):
        play(env)
    env.close()
    episodes = only(spooled(worker, "episode"), "episode", *EPISODE)
    assert [one for one in episodes if one[0] == "a"] == [
        ("a", 0, 1, 1.0, "left"), ("a", 1, 1, 0.0, "terminated"),
        ("a", 2, 1, 1.0, "left"), ("a", 3, 1, 0.0, "terminated"),
    ]  # fmt: skip
    assert [one for one in episodes if one[0] == "c"] == [("c", 0, 1, 2.0, "reset"), ("c", 2, 1, 2.0, "closed")]
    assert len({one[:2] for one in episodes}) == len(episodes), "no number of an agent is used twice"


def test_an_action_that_is_changed_afterwards_is_recorded_as_it_was(worker: Worker) -> None:
    action = np.zeros(1, np.float32)  # one for both agents
    env = TelemetryAEC(Turns(("a", {}, "", "", ""), ("b", {}, "ab", "", "")), worker)

    def chosen(agent: str) -> Any:
        action[0] += 1
        return action

    play(env, actions=chosen)
    steps = only(spooled(worker, "step"), "step", "agent_id", "action")
    assert sorted(steps) == [("a", [1.0]), ("b", [2.0])]


@pytest.mark.parametrize("looks", ["with last", "with last, without its observation", "not at all"])
def test_an_environment_is_asked_once_for_what_an_agent_sees(worker: Worker, looks: str) -> None:
    asked: Counter[int] = Counter()

    class Asked(Turns):
        def observe(self, agent: str) -> int:
            asked[self.turn] += 1
            return self.turn

    env = TelemetryAEC(Asked(("a", {}, "", "", ""), ("a", {}, "a", "", ""), starts="a"), worker)
    env.reset()
    for action in (0, 0, None):
        if looks != "not at all":
            env.last(observe=looks == "with last")
        env.step(action)
    assert asked == {0: 1, 1: 1, 2: 1}
    assert only(spooled(worker, "step"), "step", "observation", "terminated") == [(1, False), (2, True)]


def test_a_real_game_ends_for_both_players(worker: Worker) -> None:
    env = TelemetryAEC(tictactoe.env(), worker, policy_label="first free")
    moves = iter([0, 1, 3, 4, 6])  # three in a row for the first player
    totals = play(env, actions=lambda agent: next(moves))
    events = spooled(worker, "reset", "step", "episode")
    assert sorted(only(events, "episode", *EPISODE)) == [
        ("player_1", 0, 3, 1.0, "terminated"), ("player_2", 0, 2, -1.0, "terminated"),
    ]  # fmt: skip
    assert totals == {"player_1": 1, "player_2": -1}
    assert {one["game_id"] for one in events if one["kind"] == "episode"} == {"tictactoe_v3"}
    assert {one["policy_label"] for one in events if one["kind"] == "step"} == {"first free"}


# -- agents that step together -----------------------------------------------------------------------------------
class Together(ParallelEnv[str, Any, Any]):
    """Steps of a plan: which agents die, leave without it, and come. Reward: 1; observation: steps so far."""

    metadata: ClassVar[dict[str, Any]] = {"name": "together_v0", "render_modes": ["rgb_array"]}
    possible_agents: ClassVar[list[str]] = ["a", "b", "c"]
    render_mode = "rgb_array"

    def __init__(self, *plan: tuple[str, str, str]) -> None:
        self.plan = plan
        self.drawn = 0

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete(100)

    action_space = observation_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        (options or {}).pop("secret", None)
        self.time, self.agents = 0, ["a", "b"]
        return dict.fromkeys(self.agents, 0), {agent: {"began": True} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        dead, gone, come = self.plan[self.time]
        self.time += 1
        before = [agent for agent in self.agents if agent not in gone]
        self.agents = [agent for agent in before if agent not in dead] + list(come)
        there = list(dict.fromkeys(before + self.agents))
        terminated = {agent: agent in dead and agent in before for agent in there}
        truncated = {agent: self.time == len(self.plan) for agent in there}
        if self.time == len(self.plan):
            self.agents = []
        return (
            dict.fromkeys(there, self.time),
            dict.fromkeys(there, 1.0),
            terminated,
            truncated,
            {agent: {} for agent in there},
        )

    def render(self) -> Any:
        self.drawn += 1
        return np.full((2, 2, 3), self.time, np.uint8)


PLAN = ("", "", ""), ("a", "", ""), ("", "b", "c"), ("", "", "a"), ("", "", "")


def play_together(env: Any, times: int = 1) -> None:
    for seed in range(times):
        env.reset(seed=seed, options={"secret": 1})
        while env.agents:
            env.step({"a": None, "b": None, "c": None} | {agent: ord(agent) for agent in env.agents})


def test_agents_die_leave_and_come_and_a_dead_one_has_no_step(worker: Worker) -> None:
    play_together(TelemetryParallel(Together(*PLAN), worker), 2)
    events = spooled(worker, "reset", "step", "episode")
    episodes = only(events, "episode", *EPISODE)
    assert sorted(episodes) == sorted([
        *((agent, number + more, *rest)
          for number in (0, 2)
          for agent, more, *rest in (("a", 0, 2, 2.0, "terminated"), ("b", 0, 3, 2.0, "left"),
                                     ("c", 0, 2, 2.0, "truncated"), ("a", 1, 1, 1.0, "truncated"))),
    ])  # fmt: skip
    assert all(one["action"] == ord(one["agent_id"]) for one in events if one["kind"] == "step")
    assert only(events, "reset", "agent_id", "episode_index", "observation", "seed", "options")[:4] == [
        ("a", 0, 0, 0, {"secret": 1}), ("b", 0, 0, 0, {"secret": 1}), ("c", 0, 3, 0, {"secret": 1}),
        ("a", 1, 4, 0, {"secret": 1}),
    ]  # fmt: skip


def test_an_agent_that_dies_and_comes_again_in_one_step_begins_a_new_episode(worker: Worker) -> None:
    play_together(TelemetryParallel(Together(("a", "", "a"), ("", "", "")), worker))
    events = spooled(worker, "reset", "step", "episode")
    assert [one for one in only(events, "episode", *EPISODE) if one[0] == "a"] == [
        ("a", 0, 1, 1.0, "terminated"), ("a", 1, 1, 1.0, "truncated"),
    ]  # fmt: skip
    assert only(events, "reset", "agent_id", "episode_index") == [("a", 0), ("b", 0), ("a", 1)]


def test_both_kinds_of_environment_tell_the_same_story(tmp_path: Path) -> None:
    told = []
    for wrap in (TelemetryParallel, lambda env, worker: TelemetryAEC(parallel_to_aec(env), worker)):
        with connect("tcp://127.0.0.1:1", run="r", spool=tmp_path, exit_flush_s=0) as worker:
            env = wrap(Together(("", "", ""), ("a", "", ""), ("", "", "")), worker)
            if isinstance(env, TelemetryParallel):
                play_together(env)
            else:
                play(env, seed=0, actions=ord)
            told.append(sorted(only(spooled(worker, "step"), "step", *STEP)))
    assert told[0] == told[1]
    assert len(told[0]) == 5


@pytest.mark.parametrize("kind", ["aec", "parallel"])
def test_generated_agents_have_every_action_and_every_reward(worker: Worker, kind: str) -> None:
    """The library's own example of agents that come and go; what a loop counts is what is stored."""
    acted: Counter[str] = Counter()
    earned: dict[str, float] = defaultdict(float)
    with warnings.catch_warnings(action="ignore"):  # the library's tests import its games by their older names
        examples = import_module("pettingzoo.test.example_envs")
    if kind == "aec":
        aec = TelemetryAEC(examples.generated_agents_env_v0.raw_env(max_cycles=30), worker)
        aec.reset(seed=1)
        for agent in aec.agent_iter():
            _, reward, terminated, truncated, _ = aec.last()
            earned[agent] += reward
            ended = terminated or truncated
            acted[agent] += not ended
            aec.step(None if ended else aec.action_space(agent).sample())
    else:
        env = TelemetryParallel(examples.generated_agents_parallel_v0.parallel_env(max_cycles=30), worker)
        env.reset(seed=1)
        for _ in range(60):  # it never ends by itself
            here = list(env.agents)
            acted.update(here)
            _, rewards, *_ = env.step({agent: env.action_space(agent).sample() for agent in here})
            for agent in here:
                earned[agent] += rewards[agent]
        env.close()
    events = spooled(worker, "reset", "step", "episode")
    assert Counter(one["agent_id"] for one in events if one["kind"] == "step") == +acted
    assert {one[0]: one[3] for one in only(events, "episode", *EPISODE)} == {one: earned[one] for one in +acted}
    assert len(acted) > 5, "some came later"
    assert {one[0] for one in only(events, "reset", "agent_id")} >= set(+acted)


# -- both --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["aec", "parallel"])
def test_a_step_is_drawn_once_for_all_who_look(worker: Worker, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    shown: list[tuple[str, int]] = []
    emit = worker.step

    def step(*, frame: Any, **given: Any) -> None:
        shown.append((given["agent"], int(frame()[0, 0, 0])))
        emit(**given)

    monkeypatch.setattr(worker, "step", step)
    if kind == "aec":
        play(TelemetryAEC(Turns(("a", {}, "", "", ""), ("b", {}, "ab", "", "")), worker))
        assert shown == [("a", 2), ("b", 2)]
    else:
        env = Together(("", "", ""), ("", "", ""))
        play_together(TelemetryParallel(env, worker))
        assert shown == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
        assert env.drawn == 2


def test_the_environment_is_described_with_a_space_for_each_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELEFABRIC_CAPTURE", "environment")
    with connect("tcp://127.0.0.1:1", run="r", spool=tmp_path, exit_flush_s=0) as worker:
        TelemetryParallel(Together(*PLAN), worker)
        ((metadata,),) = only(spooled(worker, "run_metadata"), "run_metadata", "metadata")
    described = metadata["environment"]
    assert described["id"] == "together_v0"
    assert described["class"].endswith("test_pettingzoo.Together")
    assert set(json.loads(described["observation_space"])["subspaces"]) == {"a", "b", "c"}
    assert described["left_out"] == []


@pytest.mark.parametrize("kind", ["aec", "parallel"])
def test_a_deep_copy_plays_on_and_records_nothing(worker: Worker, kind: str) -> None:
    env: Any = (
        TelemetryAEC(Turns(("a", {}, "", "", ""), ("a", {}, "a", "", ""), starts="a"), worker)
        if kind == "aec"
        else TelemetryParallel(Together(*PLAN), worker)
    )
    env.reset()
    emitted = worker.emitted
    (play if kind == "aec" else play_together)(copy.deepcopy(env))
    assert worker.emitted == emitted
    (play if kind == "aec" else play_together)(env)
    assert worker.emitted > emitted


def test_the_program_of_the_page_records_a_game(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = Path(__file__).parent.parent / "docs" / "pettingzoo.md"
    (program,) = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for name, value in (("CONNECT", "tcp://127.0.0.1:1"), ("SPOOL", str(tmp_path)), ("EXIT_FLUSH_S", "0")):
        monkeypatch.setenv(f"TELEFABRIC_{name}", value)
    names: dict[str, Any] = {}
    exec(program, names)
    assert names["worker"].closed
    assert names["worker"]._episode_count == 2


def test_the_environment_may_be_closed_after_the_worker(worker: Worker) -> None:
    env = TelemetryParallel(Together(*PLAN), worker)
    env.reset()
    env.step({"a": 1, "b": 2})
    env.policy_label = "late"
    worker.close()
    env.close()
