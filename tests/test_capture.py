"""What a run's metadata say of its program and environment: enough to repeat it, no secret, and no time."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from slowness import patience

from telefabric import settings
from telefabric.errors import UsageError
from telefabric_schemas import values
from telefabric_workers import Worker, capture, connect
from telefabric_workers.integrations.gym import TelemetryWrapper, VectorTelemetryWrapper

NOBODY = "tcp://127.0.0.1:1"


@pytest.fixture
def captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Worker]:
    """Makes workers that capture as the setting says, all by default; nobody takes their events."""

    def make(capture: str = "all", **options: Any) -> Worker:
        monkeypatch.setenv("TELEFABRIC_CAPTURE", capture)
        return connect(NOBODY, spool=tmp_path / "spool", exit_flush_s=0, **options)

    return make


def metadata(worker: Worker) -> dict[str, Any]:
    return {name: values.decode(value) for name, value in worker._metadata.items()}


# -- the program -------------------------------------------------------------------------------------------------


def test_the_program_is_in_the_metadata_beside_what_the_user_gave(captured: Callable[..., Worker]) -> None:
    with captured(metadata={"game_id": "Corridor"}) as worker:
        found = metadata(worker)
        assert found["game_id"] == "Corridor"
        program = found["program"]
        assert program["python"] == sys.version.split()[0]
        assert program["system"].startswith("Linux ")
        assert program["libraries"]["numpy"] == np.__version__
        assert program["libraries"]["gymnasium"] == gymnasium.__version__
        assert program["command"] == capture.masked(sys.orig_argv)
        assert not worker.problems


@pytest.mark.parametrize(
    ("setting", "keys"),
    [
        ("off", set()),
        ("environment", set()),
        ("versions", {"python", "system", "libraries"}),
        ("command", {"command"}),
        ("command,versions", {"command", "python", "system", "libraries"}),
    ],
)
def test_each_part_may_be_left_out(captured: Callable[..., Worker], setting: str, keys: set[str]) -> None:
    with captured(setting) as worker:
        assert metadata(worker).get("program", {}).keys() == keys


@pytest.mark.parametrize("mode", ["off", "dry-run", "fast-lane"])
def test_what_is_not_recorded_is_not_looked_for(captured: Callable[..., Worker], mode: str) -> None:
    with captured(mode=mode) as worker:
        assert metadata(worker) == {}


def test_a_word_that_names_no_part_is_refused(captured: Callable[..., Worker]) -> None:
    with pytest.raises(UsageError, match="should be all, off, or some of versions, git, command, environment"):
        captured("everything")


def test_what_the_user_gave_keeps_its_name(captured: Callable[..., Worker]) -> None:
    with captured("versions", metadata={"program": "ppo", "environment": np.zeros(3)}) as worker:
        found = metadata(worker)
        assert found["program"] == "ppo"
        assert found["environment"].tolist() == [0, 0, 0]
        assert "python" in found["program_2"]


def test_metadata_that_leave_no_room_are_the_user_s(captured: Callable[..., Worker]) -> None:
    with captured("versions", metadata={"much": b"x" * (256 * 1024 - 100)}) as worker:
        assert metadata(worker).keys() == {"much"}
        assert worker.problems == {"metadata.program": 1}


def test_it_takes_less_than_50_ms(captured: Callable[..., Worker]) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        capture.program(settings.CAPTURED)
        capture.environment(gymnasium.make("CartPole-v1"))
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < patience(0.05)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--api-key", "s3cret", "--lr", "3"], ["--api-key", "***", "--lr", "3"]),
        (["--api-key=s3cret"], ["--api-key=***"]),
        (["--wandb.apiKey", "s3cret"], ["--wandb.apiKey", "***"]),
        (["model.hf_token=s3cret", "x=1"], ["model.hf_token=***", "x=1"]),
        (["--password", "--lr", "3"], ["--password", "--lr", "3"]),
        (["WANDB_API_KEY=s3cret", "train.py"], ["WANDB_API_KEY=***", "train.py"]),
        (["--db", "postgres://ada:s3cret@host/db"], ["--db", "postgres://ada:***@host/db"]),
        (['{"secret": "s3cret", "lr": 1}'], ['{"secret": "***", "lr": 1}']),
        (["--url", "https://host/?token=s3cret&page=2"], ["--url", "https://host/?token=***&page=2"]),
        (["--max-tokens", "5", "--tokenizer", "gpt2", "keyboard=1", "--author", "ada"], None),
    ],
)
def test_secrets_of_the_command_line_are_masked(given: list[str], told: list[str] | None) -> None:
    assert capture.masked(given) == (given if told is None else told)


def test_a_long_command_line_is_cut() -> None:
    assert sum(map(len, capture.masked(["x" * 3_000] * 5))) == 4_000


# -- git ---------------------------------------------------------------------------------------------------------


def run_git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(capture, "_GIT_S", 20)  # a busy machine
    folder = tmp_path / "repository"
    (folder / "deep").mkdir(parents=True)
    run_git(folder, "init")
    (folder / "train.py").write_text("1")
    run_git(folder, "add", "-A")
    run_git(folder, "commit", "-m", "first")
    return folder


def test_the_commit_and_whether_files_differ_from_it(repository: Path) -> None:
    commit = run_git(repository, "rev-parse", "HEAD")
    assert capture.git(repository / "deep") == {"commit": commit, "branch": "main", "dirty": False}
    (repository / "new.py").write_text("not tracked")
    assert capture.git(repository) == {"commit": commit, "branch": "main", "dirty": False}
    (repository / "train.py").write_text("2")
    assert capture.git(repository) == {"commit": commit, "branch": "main", "dirty": True}


def test_packed_detached_and_linked_repositories(repository: Path, tmp_path: Path) -> None:
    commit = run_git(repository, "rev-parse", "HEAD")
    run_git(repository, "pack-refs", "--all")
    assert capture.git(repository) == {"commit": commit, "branch": "main", "dirty": False}
    run_git(repository, "worktree", "add", "-b", "side", str(tmp_path / "linked"))
    assert capture.git(tmp_path / "linked") == {"commit": commit, "branch": "side", "dirty": False}
    run_git(repository, "checkout", "--detach")
    assert capture.git(repository) == {"commit": commit, "branch": None, "dirty": False}


def test_no_repository_no_commit_and_a_damaged_one(tmp_path: Path) -> None:
    assert capture.git(tmp_path) is None
    run_git(tmp_path, "init")
    assert capture.git(tmp_path) is None
    (tmp_path / ".git" / "HEAD").write_bytes(b"\xff\xfe")
    assert capture.git(tmp_path) is None


def test_a_git_that_is_slow_or_absent_leaves_open_whether_files_differ(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    commit = capture.git(repository)
    assert commit is not None
    assert commit["dirty"] is None, "there is no git"
    slow = folder / "git"
    slow.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(capture, "_GIT_S", 0.03)
    start = time.monotonic()
    assert capture.git(repository) == commit
    assert time.monotonic() - start < 10


def test_git_runs_nothing_of_the_repository_s(repository: Path, tmp_path: Path) -> None:
    spy = tmp_path / "spy"
    spy.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    spy.chmod(0o755)
    run_git(repository, "config", "core.fsmonitor", str(spy))
    run_git(repository, "config", "diff.external", str(spy))
    (tmp_path / "ran").unlink(missing_ok=True)
    (repository / "train.py").write_text("2")
    assert (capture.git(repository) or {})["dirty"] is True
    assert not (tmp_path / "ran").exists()


# -- spaces and environments -------------------------------------------------------------------------------------

BOX = spaces.Box(np.array([-1, -math.inf], np.float32), np.array([1, math.inf], np.float32))
SPACES: dict[str, tuple[gymnasium.Space[Any], dict[str, Any]]] = {
    "box": (BOX, {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1, -math.inf], "high": [1, math.inf]}),
    "number": (spaces.Box(0, 1, ()), {"type": "Box", "dtype": "float32", "shape": [], "low": 0.0, "high": 1.0}),
    "grid": (
        spaces.Box(0, 255, (1, 2), np.uint8),
        {"type": "Box", "dtype": "uint8", "shape": [1, 2], "low": [[0, 0]], "high": [[255, 255]]},
    ),
    "discrete": (spaces.Discrete(3, start=-1), {"type": "Discrete", "dtype": "int64", "start": -1, "n": 3}),
    "multi-discrete": (
        spaces.MultiDiscrete([2, 3], start=[0, 1]),
        {"type": "MultiDiscrete", "dtype": "int64", "nvec": [2, 3], "start": [0, 1]},
    ),
    "multi-binary": (spaces.MultiBinary(4), {"type": "MultiBinary", "n": 4}),
    "multi-binary of two": (spaces.MultiBinary((2, 3)), {"type": "MultiBinary", "n": [2, 3]}),
    "text": (spaces.Text(5, charset="a"), {"type": "Text", "max_length": 5, "min_length": 1, "charset": "a"}),
    "dict": (
        spaces.Dict({"a": spaces.Discrete(2)}),
        {"type": "Dict", "subspaces": {"a": {"type": "Discrete", "dtype": "int64", "start": 0, "n": 2}}},
    ),
    "tuple": (
        spaces.Tuple([spaces.MultiBinary(1), spaces.Tuple([])]),
        {"type": "Tuple", "subspaces": [{"type": "MultiBinary", "n": 1}, {"type": "Tuple", "subspaces": []}]},
    ),
}


@pytest.mark.parametrize(("space", "found"), SPACES.values(), ids=SPACES)
def test_spaces_are_json_as_minari_stores_it(space: gymnasium.Space[Any], found: dict[str, Any]) -> None:
    assert json.loads(capture.space_json(space)) == found


def test_a_space_of_pictures_is_short() -> None:
    found = json.loads(capture.space_json(spaces.Box(0, 255, (84, 84, 4), np.uint8)))
    assert found == {"type": "Box", "dtype": "uint8", "shape": [84, 84, 4], "low": 0, "high": 255}


def test_the_environment_is_told_by_its_wrapper(captured: Callable[..., Worker]) -> None:
    with captured("environment") as worker:
        env = gymnasium.make("FrozenLake-v1", desc=["SF", "HG"], is_slippery=False)
        TelemetryWrapper(env, worker)
        TelemetryWrapper(env, worker)  # the same again
        found = metadata(worker)
        assert found.keys() == {"environment"}
        environment = found["environment"]
        assert environment["id"] == "FrozenLake-v1"
        assert environment["class"] == "gymnasium.envs.toy_text.frozen_lake.FrozenLakeEnv"
        assert environment["kwargs"]["is_slippery"] is False
        assert environment["kwargs"]["desc"] == ["SF", "HG"]
        assert environment["max_episode_steps"] == 100
        assert environment["render_fps"] == 4
        assert json.loads(environment["observation_space"])["n"] == 4
        assert json.loads(environment["action_space"])["n"] == 4
        assert environment["left_out"] == []
        TelemetryWrapper(gymnasium.make("CartPole-v1"), worker)
        assert metadata(worker)["environment_2"]["id"] == "CartPole-v1"
        assert not worker.problems


def test_of_a_vector_env_the_spaces_of_one_are_told(captured: Callable[..., Worker]) -> None:
    with captured("environment") as worker:
        envs = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 3)
        VectorTelemetryWrapper(envs, worker)
        environment = metadata(worker)["environment"]
        assert environment["render_fps"] == 50
        assert (environment["id"], environment["num_envs"]) == ("CartPole-v1", 3)
        assert json.loads(environment["observation_space"])["shape"] == [4]


def test_an_environment_that_is_odd_is_told_as_far_as_it_goes(captured: Callable[..., Worker]) -> None:
    class Odd(gymnasium.Env[Any, Any]):
        action_space = spaces.Graph(spaces.Discrete(2), None)
        observation_space = spaces.Box(np.arange(2_000.0), np.arange(2_000.0) + 1, dtype=np.float64)

    with captured("environment", strict=True) as worker:
        env = Odd()
        env.spec = gymnasium.envs.registration.EnvSpec(
            "Odd-v0", entry_point="none:None", kwargs={"a": 1, "b": object()}
        )
        TelemetryWrapper(env, worker)
        environment = metadata(worker)["environment"]
        assert environment["id"] == "Odd-v0"
        assert environment["kwargs"] == {"a": 1}
        assert "action_space" not in environment
        assert {line.partition(":")[0] for line in environment["left_out"]} == {
            "kwargs.b", "action_space", "observation_space",
        }  # fmt: skip
        assert not worker.problems


def test_a_wrapper_tells_nothing_when_the_setting_says_so(captured: Callable[..., Worker]) -> None:
    with captured("versions") as worker:
        TelemetryWrapper(gymnasium.make("CartPole-v1"), worker)
        assert metadata(worker).keys() == {"program"}
        assert worker.emitted == 1
