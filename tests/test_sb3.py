"""The callback of Stable-Baselines3, with what the real library did: tests/trainers.py does it again.

`scripts/check_trainers` trains with the library itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import trainers
from plain import only, spooled

from telefabric.errors import UsageError
from telefabric_workers import Worker, connect

NOBODY = "tcp://127.0.0.1:1"
README = Path(__file__).parent.parent / "README.md"
EPISODE = ("env_index", "episode_index", "length", "total_reward", "end_reason", "seed")


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return trainers.install(monkeypatch)


@pytest.fixture
def sb3(cases: dict[str, Any]) -> ModuleType:
    return import_module(trainers.ADAPTER)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with connect(NOBODY, run="sb3", spool=tmp_path, exit_flush_s=0) as worker:
        yield worker


def learn(sb3: ModuleType, case: dict[str, Any], worker: Worker, *, callbacks: str, **options: Any) -> None:
    """Every `learn` of a case, with one callback for all or a new one for each."""
    model = case["trainer"]()
    callback = sb3.TelemetryCallback(worker, **options)
    for _ in case["learns"]:
        model.learn(callback=callback)
        assert model.logger.output_formats == []
        callback = callback if callbacks == "one" else sb3.TelemetryCallback(worker, **options)


def told(events: list[dict[str, Any]], env_index: int) -> list[dict[str, Any]]:
    """What a worker has recorded of an environment, in the words of the environment itself."""
    names = {"reset": ("seed", "observation", "info")}
    steps = ("action", "observation", "reward", "terminated", "truncated", "info")
    return [
        {name: event[name] for name in names.get(event["kind"], steps)}
        for event in events
        if event["kind"] != "episode" and event["env_index"] == env_index
    ]


def returned(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What an environment returned; an info without content counts as none, and so do the statistics of a monitor."""
    return [{name: _plain(name, value) for name, value in call.items()} for call in calls]


def _plain(name: str, value: Any) -> Any:
    if name == "info":
        return value or None
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def without_statistics(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The monitor of the library adds ``episode`` to the info of a last step."""
    return [
        {**one, "info": {key: part for key, part in (one["info"] or {}).items() if key != "episode"} or None}
        for one in events
    ]


@pytest.mark.parametrize("callbacks", ["one", "a new one"])
@pytest.mark.parametrize("name", ["ppo", "dqn", "walk"])
def test_what_is_recorded_is_what_each_environment_returned(
    sb3: ModuleType, cases: dict[str, Any], worker: Worker, name: str, callbacks: str
) -> None:
    case = cases[name]
    learn(sb3, case, worker, callbacks=callbacks)
    events = spooled(worker, "reset", "step", "episode")
    assert case["num_envs"] == len(case["environments"])
    for index, calls in enumerate(case["environments"]):
        assert without_statistics(told(events, index)) == returned(calls)


def test_episodes_end_by_an_end_a_time_limit_or_a_reset_and_are_numbered_on(
    sb3: ModuleType, cases: dict[str, Any], worker: Worker
) -> None:
    learn(sb3, cases["ppo"], worker, callbacks="a new one")
    events = spooled(worker, "step", "episode")
    episodes = [one for one in only(events, "episode", *EPISODE) if one[0] == 1]
    assert [one[1] for one in episodes] == list(range(len(episodes)))
    assert {one[4] for one in episodes} == {"terminated", "truncated", "reset"}
    assert [one[5] for one in episodes] == [cases["ppo"]["seed"] + 1] + [None] * (len(episodes) - 1)
    for _, number, length, total, *_ in episodes:
        steps = [
            one for one in events if one["kind"] == "step" and one["env_index"] == 1 and one["episode_index"] == number
        ]
        assert [one["step_index"] for one in steps] == list(range(length))
        assert total == sum(one["reward"] for one in steps)
    assert {one["policy_label"] for one in events} == {"PPO"}
    assert {one["game_id"] for one in events if one["kind"] == "episode"} == {"CartPole-v1"}
    ends = [one for one in only(events, "episode", "end_reason", "total_reward", "metadata") if one[0] != "reset"]
    assert all(one[2]["r"] == one[1] for one in ends), "returns are those of the monitor"


def test_rewards_are_the_environment_s_own_and_actions_are_clipped(
    sb3: ModuleType, cases: dict[str, Any], worker: Worker
) -> None:
    case = cases["normalized"]
    learn(sb3, case, worker, callbacks="one")
    events = spooled(worker, "step")
    unclipped = [one["locals"]["actions"] for one in case["learns"][0]["calls"] if "locals" in one]
    assert any((np.abs(one) > 2).any() for one in unclipped)
    for index, calls in enumerate(case["environments"]):
        steps = [one for one in returned(calls) if "reward" in one]
        own = [one for one in events if one["env_index"] == index]
        assert [one["reward"] for one in own] == pytest.approx([one["reward"] for one in steps], rel=1e-6)
        assert [one["action"] for one in own] == [one["action"] for one in steps]
        assert own[0]["observation"] != steps[0]["observation"], "it is normalized, as the policy sees it"


@pytest.mark.parametrize("logger", ["the trainer's", "the user's"])
def test_each_number_that_the_trainer_logs_is_a_metric_once(
    sb3: ModuleType, cases: dict[str, Any], worker: Worker, logger: str
) -> None:
    case = cases["ppo"]
    case["trainer"]._custom_logger = logger == "the user's"
    learn(sb3, case, worker, callbacks="one")
    metrics = only(spooled(worker, "metric"), "metric", "name", "value", "global_step")
    written = [one["write"] for learn in case["learns"] for one in learn["calls"] if "write" in one]
    if logger == "the trainer's":  # it is a new one for each `learn`
        written += [[*learn["left"], None] for learn in case["learns"]]
    expected = [(name, value) for values, *_ in written for name, value in values.items()]
    assert sorted((name, value) for name, value, _ in metrics) == sorted(
        (name, float(value)) for name, value in expected
    )
    steps = [one for one in metrics if one[0] == "time/total_timesteps"]
    assert steps[0][1] == steps[0][2] + 1, "at the last step, numbered from 0"
    assert not worker.problems


@pytest.fixture
def write(sb3: ModuleType, worker: Worker) -> Callable[..., None]:
    output = sb3.Metrics(worker)
    return lambda value, *excluded: output.write({"a": value}, {"a": excluded}, 12)


def test_what_is_logged_and_is_not_one_number(sb3: ModuleType, worker: Worker, write: Any, caplog: Any) -> None:
    write(3, "stdout")
    write(4, "telefabric")
    write(np.float32(0.5))
    write(np.array([2.0]))
    write("7")
    write(trainers.HParam({"lr": 0.1, "net": "small"}, {"rollout/ep_rew_mean": 0.0}))
    for value in (
        trainers.Video(None, 30),
        trainers.Figure(None, close=True),
        trainers.Image(None, "HWC"),
        np.zeros(3),
        None,
    ):
        write(value)
    events = spooled(worker, "metric", "log", "run_metadata")
    assert only(events, "metric", "name", "value") == [("a", 3.0), ("a", 0.5), ("a", 2.0)]
    assert only(events, "log", "message", "logger", "fields") == [("7", "a", {"num_timesteps": 12})]
    assert only(events, "run_metadata", "metadata") == [({"hyperparameters": {"lr": 0.1, "net": "small"}},)]
    assert worker.problems == {"metric.a": 5}
    assert caplog.text.count("worker.value_left_out: metric.a was left out: Video is not one number") == 1


def test_pictures_are_rendered_while_somebody_looks_and_not_of_a_reset(
    sb3: ModuleType, cases: dict[str, Any], worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    emit = worker.step

    def step(*, frame: Any, **given: Any) -> None:
        shown.append((given["env_index"], given["terminated"] or given["truncated"], frame and int(frame()[0, 0, 0])))
        emit(**given)

    monkeypatch.setattr(worker, "step", step)
    cases["ppo"]["render_mode"] = "rgb_array"
    learn(sb3, cases["ppo"], worker, callbacks="one")
    assert {one for one in shown if not one[1]} == {(0, False, 0), (1, False, 1)}
    assert {one[2] for one in shown if one[1]} == {None}


def test_a_trainer_that_hands_no_steps_is_refused_with_the_way(
    sb3: ModuleType, cases: dict[str, Any], worker: Worker
) -> None:
    case = cases["walk"]
    for call in case["learns"][0]["calls"]:
        call.get("locals", {}).pop("new_obs", None)
    with pytest.raises(UsageError, match=r"DQN does not hand its steps to callbacks: wrap .*gym.TelemetryWrapper"):
        learn(sb3, case, worker, callbacks="one")


def test_the_worker_has_to_be_a_worker(sb3: ModuleType) -> None:
    with pytest.raises(UsageError, match="give what connect"):
        sb3.TelemetryCallback("cartpole")


def test_the_lines_of_the_readme_record_a_trainer(
    cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Word for word, with a trainer that does again what the real one did."""
    (block,) = re.findall(r"^```python\n(# sb3_ppo\.py\n.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    ours = [line for line in block.splitlines() if "telefabric" in line or "worker" in line]
    assert len(ours) == 4, "three lines are added, and one is changed"
    monkeypatch.setenv("TELEFABRIC_CONNECT", NOBODY)
    monkeypatch.setenv("TELEFABRIC_SPOOL", str(tmp_path))
    monkeypatch.setenv("TELEFABRIC_EXIT_FLUSH_S", "0")
    names: dict[str, Any] = {}
    exec(block, names)
    worker = names["worker"]
    assert worker.closed
    calls = [one for learn in cases["ppo"]["learns"][:1] for one in learn["calls"]]
    assert worker._step_count == cases["ppo"]["num_envs"] * sum("locals" in one for one in calls)
