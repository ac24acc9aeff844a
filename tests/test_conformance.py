"""Every way in tells the same: one seeded environment, the same actions, and the same events in the store.

The actions are those of a trainer of Stable-Baselines3, which scripts/record_sb3_calls has recorded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import trainers
from conftest import FabricService
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from pettingzoo import ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec
from plain import only, plain, spooled
from processes import TELEFABRIC, wait_for
from slowness import patience
from walk import WALK, Walk

from telefabric import open_store
from telefabric.errors import UsageError
from telefabric.ring import Name, RingReader, RingWriter, discover
from telefabric_workers import Worker, connect
from telefabric_workers.integrations.gym import TelemetryWrapper, VectorTelemetryWrapper
from telefabric_workers.integrations.pettingzoo import TelemetryAEC, TelemetryParallel

SEED = 7
NOBODY = "tcp://127.0.0.1:1"
NAMES = {"RUN_ID": "walk", "AGENT_ID": "walker", "WORKER_ID": "rig", "MODE": "dual", "EXIT_FLUSH_S": "60"}
CASE = trainers.recorded()["cases"]["walk"]
ACTIONS = [int(call["action"]) for call in CASE["environments"][0] if "action" in call]
Way = Callable[[Worker, dict[str, Any]], None]


def walk(**options: Any) -> Any:
    return gymnasium.make(WALK, **options)


# -- the ways of a Python program, which has a worker ------------------------------------------------------------
def by_hand(worker: Worker, options: dict[str, Any]) -> None:
    env = walk(**options)
    render = env.render if options else None
    observation, info = env.reset(seed=SEED)
    worker.reset(episode=0, observation=observation, info=info, seed=SEED)
    episode, step, total, seed = 0, 0, 0.0, SEED
    for action in ACTIONS:
        observation, reward, terminated, truncated, info = env.step(action)
        worker.step(
            episode=episode, step=step, action=action, observation=observation, reward=reward, terminated=terminated,
            truncated=truncated, info=info, frame=render,
        )  # fmt: skip
        step, total = step + 1, total + reward
        if terminated or truncated:
            reason = "terminated" if terminated else "truncated"
            worker.episode(episode=episode, total_reward=total, length=step, end_reason=reason, seed=seed)
            episode, step, total, seed = episode + 1, 0, 0.0, None
            observation, info = env.reset()
            worker.reset(episode=episode, observation=observation, info=info)


def gym(worker: Worker, options: dict[str, Any]) -> None:
    env = TelemetryWrapper(walk(**options), worker)
    env.reset(seed=SEED)
    for action in ACTIONS:
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()


def vector(mode: AutoresetMode) -> Way:
    def play(worker: Worker, options: dict[str, Any]) -> None:
        envs = VectorTelemetryWrapper(SyncVectorEnv([lambda: walk(**options)], autoreset_mode=mode), worker)
        envs.reset(seed=SEED)
        for action in ACTIONS:
            _, _, terminated, truncated, _ = envs.step(np.array([action]))
            if mode is AutoresetMode.NEXT_STEP and (terminated | truncated).any():
                envs.step(np.array([0]))

    return play


def sb3(worker: Worker, options: dict[str, Any]) -> None:
    callback = import_module(trainers.ADAPTER).TelemetryCallback(worker, frames=bool(options))
    import_module("stable_baselines3").Walker().learn(callback=callback)


class One(ParallelEnv[str, Any, Any]):
    """The walk as an environment of several agents, which are one."""

    def __init__(self, agent: str, **options: Any) -> None:
        self.metadata = {"name": "Walk-v0"}
        self.possible_agents, self.agents = [agent], [agent]
        self.render_mode = options.get("render_mode")
        self._env = walk(**options)

    def observation_space(self, agent: str) -> Any:
        return self._env.observation_space

    def action_space(self, agent: str) -> Any:
        return self._env.action_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.agents = list(self.possible_agents)
        return tuple(self._of_the_agent(part) for part in self._env.reset(seed=seed))

    def step(self, actions: dict[str, Any]) -> Any:
        result = self._env.step(actions[self.agents[0]])
        if result[2] or result[3]:
            self.agents = []
        return tuple(self._of_the_agent(part) for part in result)

    def render(self) -> Any:
        return self._env.render()

    def _of_the_agent(self, part: Any) -> dict[str, Any]:
        return dict.fromkeys(self.possible_agents, part)


def parallel(worker: Worker, options: dict[str, Any]) -> None:
    env = TelemetryParallel(One(worker.agent_id, **options), worker)
    env.reset(seed=SEED)
    for action in ACTIONS:
        env.step({worker.agent_id: action})
        if not env.agents:
            env.reset()


def aec(worker: Worker, options: dict[str, Any]) -> None:
    env = TelemetryAEC(parallel_to_aec(One(worker.agent_id, **options)), worker)
    env.reset(seed=SEED)
    actions = iter(ACTIONS)
    while True:
        _, _, terminated, truncated, _ = env.last()
        action = None if terminated or truncated else next(actions, -1)
        if action == -1:
            return
        env.step(action)
        if not env.agents:
            env.reset()


WITH_A_WORKER: dict[str, Way] = {
    "the SDK": by_hand,
    "gym": gym,
    "vector, same step": vector(AutoresetMode.SAME_STEP),
    "vector, next step": vector(AutoresetMode.NEXT_STEP),
    "Stable-Baselines3, recorded": sb3,
    "PettingZoo, parallel": parallel,
    "PettingZoo, in turns": aec,
}

# -- the ways of a program that knows nothing of a worker --------------------------------------------------------
UNCHANGED = f"""
import sys
import gymnasium
env = gymnasium.make({WALK!r}, render_mode=(sys.argv + [None])[1])
env.reset(seed={SEED})
for action in {ACTIONS}:
    *_, terminated, truncated, _ = env.step(action)
    if terminated or truncated:
        env.reset()
"""
PRINTS = f"""
import json
import gymnasium
env = gymnasium.make({WALK!r})

def tell(kind, **fields):
    print(json.dumps({{"type": kind, **fields}}))

def begin(seed=None):
    observation, info = env.reset(seed=seed)
    tell("reset", episode=episode, observation=observation.tolist(), info=info, seed=seed)
    return seed

episode, step, total = 0, 0, 0.0
seed = begin({SEED})
for action in {ACTIONS}:
    observation, reward, terminated, truncated, info = env.step(action)
    tell("step", episode=episode, step=step, action=action, observation=observation.tolist(), reward=reward,
         terminated=terminated, truncated=truncated, info=info)
    step, total = step + 1, total + reward
    if terminated or truncated:
        reason = "terminated" if terminated else "truncated"
        tell("episode", episode=episode, total_reward=total, length=step, end_reason=reason, seed=seed)
        episode, step, total = episode + 1, 0, 0.0
        seed = begin()
"""
WITH_A_COMMAND = {"run": ([], PRINTS), "run --auto": (["--auto"], UNCHANGED)}


def command(name: str, folder: Path, *given: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a way that has a command, with the variables of this process."""
    options, program = WITH_A_COMMAND[name]
    (folder / "program.py").write_text(program)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(
        [*TELEFABRIC, "run", *options, "--", sys.executable, "program.py", *given], cwd=folder, env=environ,
        capture_output=True, text=True, timeout=patience(60), stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def go(name: str, folder: Path, options: dict[str, Any]) -> None:
    if name in WITH_A_COMMAND:
        done = command(name, folder, *options.values())
        assert done.returncode == 0, done.stderr
    else:
        with connect() as worker:
            WITH_A_WORKER[name](worker, options)


EVERY_WAY = pytest.mark.parametrize("name", [*WITH_A_WORKER, *WITH_A_COMMAND])


@pytest.fixture(autouse=True)
def trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """``stable_baselines3.Walker`` does what the trainer did whose actions these are."""
    case = trainers.install(monkeypatch)["walk"]
    monkeypatch.setattr(sys.modules["stable_baselines3"], "Walker", case["trainer"], raising=False)


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch, fabric_service: FabricService, tmp_path: Path) -> Path:
    """Every variable that names something has a name of its own; returns the folder of the spools."""
    spool = tmp_path / "spools of this test"
    for name, value in {**NAMES, "CONNECT": fabric_service.url, "SPOOL": str(spool)}.items():
        monkeypatch.setenv(f"TELEFABRIC_{name}", value)
    return spool


# -- what all of them tell ---------------------------------------------------------------------------------------
FIELDS = {
    "reset": ("observation", "info", "seed", "options"),
    "step": ("step_index", "global_step", "action", "observation", "reward", "terminated", "truncated", "info"),
    "episode": ("length", "total_reward", "end_reason", "seed", "global_step"),
}


def expected() -> list[dict[str, Any]]:
    """What the environment itself returns, as the events of its episodes that end."""
    events: list[dict[str, Any]] = []
    env, number, steps = walk(), 0, []

    def begin(seed: int | None) -> None:
        observation, info = env.reset(seed=seed)
        add("reset", observation=observation.tolist(), info=info, seed=seed, options=None)

    def add(kind: str, **fields: Any) -> None:
        events.append({"kind": kind, "agent_id": "walker", "env_index": 0, "episode_index": number, **fields})

    begin(SEED)
    for at, action in enumerate(ACTIONS):
        observation, reward, terminated, truncated, info = env.step(action)
        add(
            "step", step_index=len(steps), global_step=at, action=action, observation=observation.tolist(),
            reward=reward, terminated=terminated, truncated=truncated, info=info,
        )  # fmt: skip
        steps.append(reward)
        if terminated or truncated:
            add(
                "episode", length=len(steps), total_reward=sum(steps), global_step=at,
                end_reason="terminated" if terminated else "truncated", seed=None if number else SEED,
            )  # fmt: skip
            number, steps = number + 1, []
            begin(None)
    assert {one["end_reason"] for one in events if one["kind"] == "episode"} == {"terminated", "truncated"}
    return [one for one in events if one["episode_index"] < number]


def stored(service: FabricService) -> list[dict[str, Any]]:
    """The same of the store."""
    with open_store(service.file) as reader:
        rows = [row for row in reader.events(0, "walk").rows if row.kind in FIELDS]
    assert {row.worker_id for row in rows} == {"rig"}
    events = [plain(row.event) for row in rows]
    ended = sum(event["kind"] == "episode" and event["end_reason"] != "closed" for event in events)
    kept = ("kind", "agent_id", "env_index", "episode_index")
    return [
        {name: event[name] for name in (*kept, *FIELDS[event["kind"]])}
        for event in events
        if event["episode_index"] < ended
    ]


@EVERY_WAY
def test_the_same_environment_gives_the_same_events_and_every_variable_means_the_same(
    fabric_service: FabricService, variables: Path, tmp_path: Path, name: str
) -> None:
    go(name, tmp_path, {})
    assert stored(fabric_service) == expected()
    assert variables.is_dir(), "the spools were here"
    assert [row[0] for row in fabric_service.rows("SELECT run_id FROM runs")] == ["walk"]


# -- what the variables of modes and frames mean -----------------------------------------------------------------
PICTURES = {"render_mode": "rgb_array"}


def seen_in(reader: RingReader) -> tuple[int, int, int, int]:
    """Environment, episode and step of the newest frame, and the time that the picture itself shows."""
    frame = wait_for(reader.latest, "a frame")
    return frame.hud.env_index, frame.hud.episode, frame.hud.step, int(frame.array[0, 0, 1])


@pytest.mark.parametrize("shown", ["1", "0"])
@pytest.mark.parametrize("name", WITH_A_WORKER)
def test_frames_are_shown_under_the_names_of_their_events(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, shown: str
) -> None:
    """`RingWriter.wanted` is true without a client, which would have to come in the midst of a few milliseconds."""
    monkeypatch.setattr(RingWriter, "wanted", True)
    for variable, value in {**NAMES, "CONNECT": NOBODY, "SPOOL": str(tmp_path / "spool"), "EXIT_FLUSH_S": "0"}.items():
        monkeypatch.setenv(f"TELEFABRIC_{variable}", value)
    monkeypatch.setenv("TELEFABRIC_FASTLANE", shown)
    monkeypatch.setenv("TELEFABRIC_RING", str(tmp_path / "ring"))
    with connect() as worker:
        WITH_A_WORKER[name](worker, PICTURES)
        found = discover()
        assert len(found) == int(shown)
        if not found:
            return
        assert found[0].manifest.name == Name("walk", "walker", "rig")
        reader = RingReader(found[0].folder)
        env_index, episode, step, time = seen_in(reader)
        reader.close()
        steps = only(spooled(worker, "step"), "step", "agent_id", "env_index", "episode_index", "step_index")
    assert ("walker", env_index, episode, step) in steps
    assert time == step + 1 or "recorded" in name, "a trainer that is recorded has no pictures of its own"


def test_frames_of_an_unchanged_program_are_shown_under_the_names_of_their_events(
    fabric_service: FabricService, variables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELEFABRIC_FASTLANE", "1")
    monkeypatch.setitem(WITH_A_COMMAND, "until stopped", (["--auto"], UNTIL_STOPPED))
    with ThreadPoolExecutor() as pool:
        running = pool.submit(command, "until stopped", tmp_path)
        try:
            (found,) = wait_for(discover, "a ring", patience(30))
            assert found.manifest.name == Name("walk", "walker", "rig")
            reader = RingReader(found.folder)
            reader.bell()
            env_index, episode, step, time = seen_in(reader)
            reader.close()
        finally:
            (tmp_path / "stop").touch()
        assert running.result().returncode == 0
    assert time == step + 1
    query = "SELECT count(*) FROM steps WHERE env_index = ? AND episode_index = ? AND step_index = ?"
    assert fabric_service.rows(query, env_index, episode, step) == [(1,)]


UNTIL_STOPPED = f"""
import os, time
import gymnasium
env = gymnasium.make({WALK!r}, render_mode="rgb_array", max_episode_steps=1_000)
env.reset(seed={SEED})
while not os.path.exists("stop"):
    *_, terminated, truncated, _ = env.step(1)
    time.sleep(0.01)
    if terminated or truncated:
        env.reset()
"""


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment reports what cannot be stored."""
    step = Walk.step

    def odd_step(env: Walk, action: Any) -> Any:
        *result, info = step(env, action)
        return (*result, {**info, "odd": object()})

    monkeypatch.setattr(Walk, "step", odd_step)
    for learn in sys.modules["stable_baselines3"].Walker.case["learns"]:
        for call in learn["calls"]:
            if "locals" in call:
                call["locals"]["infos"][0]["odd"] = object()


@pytest.mark.parametrize("mode", ["dry-run", "off", "dual"])
@pytest.mark.parametrize("name", WITH_A_WORKER)
@pytest.mark.usefixtures("odd")
def test_a_dry_run_refuses_what_cannot_be_stored_and_stores_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, mode: str
) -> None:
    spool = tmp_path / "spool"
    for variable, value in {"CONNECT": NOBODY, "SPOOL": str(spool), "EXIT_FLUSH_S": "0", "MODE": mode}.items():
        monkeypatch.setenv(f"TELEFABRIC_{variable}", value)
    with connect() as worker:
        if mode == "dry-run":
            with pytest.raises(UsageError, match=r"step\.info\.odd cannot be used"):
                WITH_A_WORKER[name](worker, {})
        else:
            WITH_A_WORKER[name](worker, {})
        assert set(worker.problems) == ({"step.info.odd"} if mode == "dual" else set())
    assert spool.exists() == (mode == "dual")


@pytest.mark.parametrize(
    ("name", "program", "code", "said"),
    [
        ("run", 'print(\'{"type": "step", "episode": "first", "step": 0}\')', 1, "first"),
        (
            "run --auto",
            f"""
import gymnasium
class Odd(gymnasium.Wrapper):
    def step(self, action):
        *result, info = self.env.step(action)
        return *result, {{"odd": object()}}
env = Odd(gymnasium.make({WALK!r}))
env.reset()
env.step(0)
""",
            0,
            "step.info.odd cannot be used",
        ),
    ],
)
def test_a_dry_run_of_a_program_says_what_cannot_be_stored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, program: str, code: int, said: str
) -> None:
    for variable, value in {"CONNECT": NOBODY, "SPOOL": str(tmp_path / "spool"), "MODE": "dry-run"}.items():
        monkeypatch.setenv(f"TELEFABRIC_{variable}", value)
    monkeypatch.setitem(WITH_A_COMMAND, name, (WITH_A_COMMAND[name][0], program))
    done = command(name, tmp_path)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "spool").exists()
