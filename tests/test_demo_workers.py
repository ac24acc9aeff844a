"""The demo workers really learn, do the same for the same seed, and hold their rate."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import msgspec
import pytest
from slowness import patience

from telefabric_schemas import Episode, Step
from telefabric_workers import connect
from telefabric_workers.demo import cartpole, frozenlake, training
from telefabric_workers.demo.training import Rate, Score

LABELS = {frozenlake: "q-table", cartpole: "linear"}


class FakeTime:
    """A clock that only sleeping and working move, each by a little more than asked for."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.slept_s: list[float] = []
        self.late_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept_s.append(seconds)
        self.now_s += seconds + self.late_s


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(training, "time", fake)
    return fake


def record(task: Any, **options: Any) -> tuple[Score, list[Step], list[Episode]]:
    steps: list[Step] = []
    episodes: list[Episode] = []
    with connect(mode="dry-run") as worker:
        worker.register_on_step(steps.append)
        worker.register_on_episode_end(episodes.append)
        return task.train(worker, **options), steps, episodes


# -- learning ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_frozenlake_is_learned(seed: int) -> None:
    result, steps, episodes = record(frozenlake, episodes=500, seed=seed)
    assert result.success_rate > 0.7
    assert result.success_rate == sum((episode.total_reward or 0) > 0 for episode in episodes[-100:]) / 100
    assert sum((episode.total_reward or 0) > 0 for episode in episodes[:20]) < 14, "not from the start"
    assert (result.episodes, result.steps) == (500, len(steps)) == (len(episodes), len(steps))


def test_the_default_run_learns_and_takes_seconds() -> None:
    result, steps, _ = record(frozenlake)
    assert result.success_rate > 0.9
    assert result.episodes == frozenlake.EPISODES
    assert len(steps) < 50_000


@pytest.mark.parametrize("seed", [0, 1])
def test_cartpole_improves(seed: int) -> None:
    result, _, episodes = record(cartpole, episodes=200, seed=seed)
    first = sum(episode.total_reward or 0 for episode in episodes[:20]) / 20
    assert result.mean_return > 400
    assert result.mean_return > 2 * first
    assert result.success_rate > 0.5


@pytest.mark.parametrize("task", [frozenlake, cartpole], ids=["frozenlake", "cartpole"])
def test_the_same_seed_gives_the_same_run(task: Any) -> None:
    def story(seed: int) -> Any:
        result, steps, episodes = record(task, episodes=15, seed=seed)
        actions = [(step.episode_index, step.step_index, step.action, str(step.observation)) for step in steps]
        return result, actions, [episode.total_reward for episode in episodes]

    assert story(3) == story(3)
    assert story(3) != story(4)


@pytest.mark.parametrize("task", [frozenlake, cartpole], ids=["frozenlake", "cartpole"])
def test_what_a_demo_tells(task: Any) -> None:
    _, steps, episodes = record(task, episodes=30, seed=1)
    assert {step.policy_label for step in steps} == {LABELS[task]}
    assert {step.control_mode for step in steps} == {"agent"}
    assert {episode.game_id for episode in episodes} == {task.GAME_ID}
    assert [episode.seed for episode in episodes] == [1, *[None] * 29], "the first reset is given it"
    assert [episode.episode_index for episode in episodes] == list(range(30))


def test_a_demo_as_a_program_validates_every_event() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "telefabric_workers.demo.frozenlake", "--episodes", "50"],
        env={"TELEFABRIC_MODE": "dry-run", "PATH": ""}, capture_output=True, text=True,
        timeout=patience(60), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("50 episodes, ")


@pytest.mark.parametrize("arguments", [["--rate", "0"], ["--rate", "nan"], ["--episodes", "0"], ["--seed", "-1"]])
def test_unusable_options_are_refused(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "telefabric_workers.demo.cartpole", *arguments],
        env={"TELEFABRIC_MODE": "off", "PATH": ""}, capture_output=True, text=True, timeout=patience(60), check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert arguments[0] in done.stderr


def test_metrics_and_log_lines_of_a_demo(fabric_service: Any) -> None:
    with fabric_service.connect(run="lake") as worker:
        result = frozenlake.train(worker, episodes=60, seed=2)
    metrics = Counter(name for (name,) in fabric_service.rows("SELECT name FROM metrics"))
    assert metrics == {"epsilon": 6, "success_rate": 6}
    ((last,),) = fabric_service.rows("SELECT value FROM metrics WHERE name = 'success_rate' ORDER BY id DESC LIMIT 1")
    assert last == result.success_rate
    ((message,),) = fabric_service.rows("SELECT message FROM logs")
    assert message.startswith("after 60 episodes")
    ((metadata,),) = fabric_service.rows("SELECT metadata FROM runs")
    assert msgspec.msgpack.decode(metadata)["algorithm"] == "q-learning"


# -- rate --------------------------------------------------------------------------------------------------------


def test_a_rate_is_held_without_drift(time: FakeTime) -> None:
    time.late_s = 0.002  # what a real sleep is late by, and more
    pace = Rate(100)
    for _ in range(1_001):
        pace.wait()
        time.now_s += 0.003  # the work of a turn
    assert time.now_s == pytest.approx(1_000.0 + 10.0, abs=0.01)


def test_a_slow_turn_is_made_up_for(time: FakeTime) -> None:
    pace = Rate(10)
    for turn in range(21):
        pace.wait()
        time.now_s += 0.45 if turn == 5 else 0.01
    assert time.now_s == pytest.approx(1_002.01)


def test_a_suspended_program_does_not_hurry_for_long(time: FakeTime) -> None:
    pace = Rate(10)
    pace.wait()
    time.now_s += 3_600
    turns = 0
    while not time.slept_s:
        pace.wait()
        turns += 1
    assert turns <= 13, "a second's worth at most"


def test_no_rate_never_sleeps(time: FakeTime) -> None:
    pace = Rate(None)
    for _ in range(100):
        pace.wait()
    assert not time.slept_s


def test_training_holds_the_rate() -> None:
    import time

    started_s = time.monotonic()
    result, *_ = record(frozenlake, episodes=10, seed=0, rate=200)
    took_s = time.monotonic() - started_s
    assert took_s >= (result.steps - 1) / 200
