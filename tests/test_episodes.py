"""Episode tracking for adapters: it works without gymnasium, in each autoreset mode."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from telefabric.errors import UsageError
from telefabric_schemas import Episode, Step
from telefabric_workers import Worker, connect
from telefabric_workers.episodes import Autoreset, EpisodeRecorder, EpisodeTracker, Final, Recording

NUMBERS_AND_LENGTHS = {Autoreset.NEXT_STEP: [(0, 2), (1, 2)], Autoreset.DISABLED: [(0, 2)]}


@pytest.fixture
def worker() -> Iterator[Worker]:
    with connect(mode="dry-run", run="test", agent="agent_0") as worker:
        yield worker


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, imported where no library of environments is installed."""
    for library in ("gymnasium", "gym", "pettingzoo", "stable_baselines3", "numpy"):
        monkeypatch.setitem(sys.modules, library, None)
    for module in ("telefabric_workers.episodes", "telefabric_workers.integrations.gym"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return import_module("telefabric_workers.episodes")


def test_without_gymnasium_an_adapter_records_whole_episodes(alone: ModuleType, worker: Worker) -> None:
    steps: list[Step] = []
    episodes: list[Episode] = []
    worker.register_on_step(steps.append)
    worker.register_on_episode_end(episodes.append)
    recorder = alone.EpisodeRecorder(alone.Recording(worker, "lines", "Maze"), env_index=3, agent="mouse")
    recorder.reset("start", {}, seed=7)
    recorder.step("left", "hall", 1, False, False, {})
    recorder.step("left", "exit", 2, True, False, {"episode": {"r": 3.0}}, ("start", {}))
    recorder.step("right", "hall", None, False, False, {})
    recorder.end("closed")
    recorder.end("closed")  # nothing has begun: nothing is told
    assert [(one.episode_index, one.step_index, one.observation, one.backend) for one in steps] == [
        (0, 0, "hall", "lines"), (0, 1, "exit", "lines"), (1, 0, "hall", "lines"),
    ]  # fmt: skip
    assert [
        (one.agent_id, one.env_index, one.episode_index, one.length, one.total_reward, one.end_reason, one.game_id)
        for one in episodes
    ] == [("mouse", 3, 0, 2, 3.0, "terminated", "Maze"), ("mouse", 3, 1, 1, None, "closed", "Maze")]
    assert [(one.seed, one.metadata) for one in episodes] == [(7, {"r": 3.0}), (None, None)]
    assert worker.emitted == 1 + 2 + 3 + 2  # the run, resets, steps, episodes


def test_a_tracker_numbers_episodes_and_sums_their_rewards() -> None:
    tracker = EpisodeTracker(number=5)
    tracker.begin(seed=1)
    tracker.step(1.5, ends=False)
    tracker.step(2.0, ends=True)
    assert (tracker.number, tracker.length, tracker.total_reward, tracker.seed) == (5, 2, 3.5, 1)
    tracker.end()
    assert (tracker.number, tracker.length, tracker.total_reward, tracker.seed) == (6, 0, 0.0, None)
    tracker.begin()
    tracker.end()  # without any step
    assert tracker.number == 6


def test_a_reward_that_is_not_a_number_costs_the_return_of_its_episode_alone() -> None:
    tracker = EpisodeTracker()
    for reward in (1.0, "much", 1.0):
        tracker.step(reward, ends=False)
    assert tracker.total_reward is None
    tracker.end()
    tracker.step(1.0, ends=False)
    assert tracker.total_reward == 1.0


@pytest.mark.parametrize(
    ("autoreset", "after_the_end"),
    [(Autoreset.NEXT_STEP, "reset"), (Autoreset.SAME_STEP, "step"), (Autoreset.DISABLED, "nothing")],
)
def test_what_follows_an_end_depends_on_the_mode(autoreset: Autoreset, after_the_end: str) -> None:
    tracker = EpisodeTracker(autoreset)
    assert tracker.next_call == "step"
    tracker.step(1.0, ends=True)
    tracker.end()
    assert tracker.next_call == after_the_end
    tracker.begin()
    assert tracker.next_call == "step"


@pytest.mark.parametrize("autoreset", NUMBERS_AND_LENGTHS)
def test_a_recorder_takes_the_call_after_an_end_as_its_mode_says(worker: Worker, autoreset: Autoreset) -> None:
    episodes: list[Episode] = []
    worker.register_on_episode_end(episodes.append)
    recorder = EpisodeRecorder(Recording(worker, "lines"), tracker=EpisodeTracker(autoreset))
    recorder.reset(0, {})
    for ends in (False, True, False, False, True):
        recorder.step(0, 0, 1.0, ends, False, {})
    assert [(one.episode_index, one.length) for one in episodes] == NUMBERS_AND_LENGTHS[autoreset]


@pytest.mark.parametrize("key", ["final_obs", "final_observation", "terminal_observation"])
def test_what_is_final_is_told_apart_from_what_a_reset_gave(key: str) -> None:
    info = {key: "exit", "final_info": {"t": 2}, "began": 1, "episode": {"r": 3.0}}
    assert Final.is_in(info)
    assert not Final.is_in({"began": 1})
    assert Final.of(info, {"began"}) == ("exit", {"episode": {"r": 3.0}, "t": 2}, {"began": 1})


@pytest.mark.parametrize("given", ["next_step", "NextStep", "NEXT_STEP", Autoreset.NEXT_STEP])
def test_a_mode_is_known_by_its_name(given: Any) -> None:
    assert Autoreset.named(given) is Autoreset.NEXT_STEP


def test_a_mode_or_a_worker_of_another_kind_is_refused() -> None:
    with pytest.raises(
        UsageError, match="autoreset is 'sometimes' and should be one of next_step, same_step, disabled"
    ):
        Autoreset.named("sometimes")
    with pytest.raises(UsageError, match="give what connect"):
        Recording(object(), "lines")  # type: ignore[arg-type]
