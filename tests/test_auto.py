"""`run --auto`: unmodified programs, in the patterns of known trainers, and what was recorded of them.

Each program prints what it knows itself, and is not told that it is recorded. What it emitted is read from its spools.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from skips import requires
from slowness import patience

from telefabric.spool import parent_in
from telefabric.spool.segment import HEADER_BYTES
from telefabric.wire import records
from telefabric_schemas import Episode, Event, Frame, Metric, Reset, RunMetadata, Step, decode_event, values
from telefabric_workers.run.auto import launch
from telefabric_workers.run.auto.gymnasium_hook import is_too_old

FORK = requires("fork", hasattr(os, "fork"))


class Recorded(NamedTuple):
    """A program that ran under ``--auto``."""

    code: int
    printed: Any
    """The last line of its stdout, as JSON."""
    said: list[str]
    """What we said of it, on stderr."""
    stderr: str
    streams: dict[bytes, list[Event]]
    parents: dict[bytes, bytes | None]

    def of(self, kind: type[Any], env_index: int | None = None) -> list[Any]:
        found = [event for events in self.streams.values() for event in events if isinstance(event, kind)]
        return [one for one in found if env_index is None or one.env_index == env_index]

    def episodes(self, env_index: int, *, whole: bool = True) -> list[list[Any]]:
        """Return and length of each episode of an environment that has ended by itself."""
        found = self.of(Episode, env_index)
        assert [one.episode_index for one in found] == list(range(len(found)))
        ended = ("terminated", "truncated")
        return [[one.total_reward, one.length] for one in found if not whole or one.end_reason in ended]


def auto(tmp_path: Path, code: str, *arguments: str, python: tuple[str, ...] = (), **environ: str) -> Recorded:
    file = tmp_path / "train.py"
    file.write_text(textwrap.dedent(code))
    return started(tmp_path, [sys.executable, *python, str(file), *arguments], **environ)


def started(tmp_path: Path, command: list[str], **environ: str) -> Recorded:
    spool = tmp_path / "spool"
    given = {
        **os.environ, "TELEFABRIC_SPOOL": str(spool), "TELEFABRIC_CONNECT": "tcp://127.0.0.1:1",
        "TELEFABRIC_EXIT_FLUSH_S": "0", "TELEFABRIC_RUN_ID": "r", **environ,
    }  # fmt: skip
    said = io.StringIO()
    with contextlib.redirect_stderr(said), launch.environment(command, given) as variables:
        done = subprocess.run(
            command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=patience(60), check=False
        )
    lines = [line for line in (said.getvalue() + done.stderr).splitlines() if line.startswith("telefabric: --auto ")]
    last = done.stdout.splitlines()[-1:] or ["null"]
    folders = [folder for folder in spool.iterdir() if len(folder.name) == 32] if spool.exists() else []
    streams = {bytes.fromhex(folder.name): events_in(folder) for folder in folders}
    parents = {bytes.fromhex(folder.name): parent_in(folder) for folder in folders}
    printed = json.loads(last[0]) if last[0][:1] in "[{n0123456789" else last[0]
    return Recorded(done.returncode, printed, lines, done.stderr, streams, parents)


def events_in(folder: Path) -> list[Event]:
    found = []
    for file in sorted(folder.glob("*.seg")):
        data = file.read_bytes()
        found += [decode_event(data[span.start : span.end]) for span in records.walk(data, HEADER_BYTES, len(data))]
    assert [event.seq for event in found] == list(range(1, len(found) + 1))
    return found


# -- scripts in CleanRL's pattern ----------------------------------------------------------------------------------

SINGLE = """
    import json, random
    import gymnasium as gym
    from tensorboardX import SummaryWriter

    writer = SummaryWriter("runs/ppo")
    writer.add_text("hyperparameters", "|param|value|\\n|-|-|\\n|learning_rate|0.00025|\\n|seed|1|")
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    env = gym.wrappers.RecordVideo(env, "videos/ppo", episode_trigger=lambda episode: episode == 1)
    env = gym.wrappers.RecordEpisodeStatistics(env)
    random.seed(1)
    own, rewards = [], []
    observation, _ = env.reset(seed=1)
    for global_step in range(120):
        observation, reward, terminated, truncated, info = env.step(random.randrange(2))
        rewards.append(reward)
        if terminated or truncated:
            own.append([float(info["episode"]["r"]), int(info["episode"]["l"])])
            writer.add_scalar("charts/episodic_return", info["episode"]["r"], global_step)
            observation, _ = env.reset()
    env.close()
    writer.close()
    print(json.dumps({"episodes": own, "steps": len(rewards), "type": type(env).__name__}))
"""

MOVIEPY = """
    class ImageSequenceClip:
        def __init__(self, frames, fps): pass
        def write_videofile(self, path, logger): open(path, "w").close()
"""


def test_one_environment_with_statistics_and_videos_and_a_summary_writer(tmp_path: Path) -> None:
    place = tmp_path / "moviepy" / "video" / "io"
    place.mkdir(parents=True)
    (place / "ImageSequenceClip.py").write_text(textwrap.dedent(MOVIEPY))
    ran = auto(tmp_path, SINGLE, PYTHONPATH=str(tmp_path))
    assert ran.code == 0, ran.stderr
    assert ran.printed["type"] == "RecordEpisodeStatistics", "the script holds what it made"
    assert len(ran.printed["episodes"]) > 2
    assert ran.episodes(0) == ran.printed["episodes"]
    steps, resets = ran.of(Step), ran.of(Reset)
    assert len(steps) == ran.printed["steps"] == 120
    assert [step.global_step for step in steps] == list(range(120))
    assert len(resets) == 1 + len(ran.printed["episodes"])
    assert values.decode(resets[0].seed) == 1
    metrics = [(one.name, one.value) for one in ran.of(Metric)]
    assert metrics == [("charts/episodic_return", back) for back, _ in ran.printed["episodes"]]
    told = {name: value for one in ran.of(RunMetadata) for name, value in values.decode(one.metadata).items()}
    assert told["hyperparameters"] == {"learning_rate": "0.00025", "seed": "1"}
    assert list((tmp_path / "videos" / "ppo").glob("*.mp4")), "its own video is made"
    (line,) = ran.said
    ended = len(ran.of(Episode))
    assert line == (
        f"telefabric: --auto recorded run r: 1 environment of gymnasium, {len(metrics) + 1} values of tensorboardX;"
        f" 120 steps, {ended} episodes"
    )


VECTOR = """
    import json, sys
    import gymnasium as gym
    import numpy as np

    def make_env(index):
        def thunk():
            env = gym.make("CartPole-v1")
            env = gym.wrappers.RecordEpisodeStatistics(env)
            return env
        return thunk

    def make_continuous_env():
        env = gym.make("Pendulum-v1", max_episode_steps=30)
        env = gym.wrappers.FlattenObservation(env)
        env = gym.wrappers.RecordEpisodeStatistics(env)
        env = gym.wrappers.ClipAction(env)
        env = gym.wrappers.NormalizeObservation(env)
        env = gym.wrappers.TransformObservation(env, lambda seen: np.clip(seen, -10, 10), env.observation_space)
        env = gym.wrappers.NormalizeReward(env, gamma=0.99)
        return gym.wrappers.TransformReward(env, lambda reward: np.clip(reward, -10, 10))

    if __name__ == "__main__":
        kind, mode, context = sys.argv[1:4]
        more = {"context": context} if kind == "AsyncVectorEnv" else {}
        if kind == "make_vec":
            envs = gym.make_vec("CartPole-v1", num_envs=2)  # CartPole has a vector env of its own
            envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
        elif kind == "continuous":
            envs = gym.vector.SyncVectorEnv([make_continuous_env] * 2, autoreset_mode=mode)
        else:
            envs = getattr(gym.vector, kind)([make_env(i) for i in range(2)], autoreset_mode=mode, **more)
        policy = np.random.default_rng(1)
        envs.reset(seed=1)
        own, resets = {0: [], 1: []}, [1, 1]
        ended = np.zeros(2, bool)
        steps = 0
        for global_step in range(80):
            steps += 2 - int(ended.sum()) if mode == "NextStep" else 2
            actions = policy.normal(size=(2, 1)) if kind == "continuous" else policy.integers(0, 2, 2)
            _, _, terminations, truncations, infos = envs.step(actions)
            ended = terminations | truncations
            final = infos.get("final_info", infos)
            for index in np.flatnonzero(ended):
                statistics = infos["episode"] if "episode" in infos else final["episode"]
                own[int(index)].append([float(statistics["r"][index]), int(statistics["l"][index])])
        envs.close()
        print(json.dumps({"own": own, "steps": steps}))
"""


@pytest.mark.parametrize(
    ("kind", "mode", "context"),
    [
        ("SyncVectorEnv", "NextStep", ""),
        ("SyncVectorEnv", "SameStep", ""),
        ("make_vec", "NextStep", ""),
        ("continuous", "SameStep", ""),
        pytest.param("AsyncVectorEnv", "NextStep", "fork", marks=FORK),
        ("AsyncVectorEnv", "SameStep", "spawn"),
    ],
)
def test_a_vector_of_environments_and_nothing_of_those_in_it(
    tmp_path: Path, kind: str, mode: str, context: str
) -> None:
    ran = auto(tmp_path, VECTOR, kind, mode, context)
    assert ran.code == 0, ran.stderr
    assert all(len(found) > 1 for found in ran.printed["own"].values())
    assert {str(index): ran.episodes(index) for index in (0, 1)} == ran.printed["own"]
    assert len(ran.of(Step)) == ran.printed["steps"]
    assert len(ran.streams) == 1, "the processes of a vector env are silent"
    assert "2 environments of gymnasium" in ran.said[0]
    for index in (0, 1):  # each reset once: an episode may have been cut off by the end, or not yet have a step
        resets = [one.episode_index for one in ran.of(Reset, index)]
        assert resets == list(range(len(resets)))
        assert len(resets) - len(ran.of(Episode, index)) in (0, 1)


LOGGER = """
    DISABLED = 50

    class TensorBoardOutputFormat: pass

    class Logger:
        level = 20

        def __init__(self, output_formats):
            self.output_formats, self.name_to_value, self.name_to_excluded = output_formats, {}, {}

        def dump(self, step=0):
            self.name_to_value.clear()

    def filter_excluded_keys(values, excluded, output):
        return {name: value for name, value in values.items() if output not in (excluded.get(name) or ())}
"""
LOGS = """
    from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat

    for outputs in ([], [TensorBoardOutputFormat()]):
        logger = Logger(outputs)
        logger.name_to_value.update({"train/loss": 0.5, "time/name": "x", "time/own": 1.0})
        logger.name_to_excluded["time/own"] = ("telefabric",)
        logger.dump(step=64)
        assert not logger.name_to_value
"""


def test_the_logger_of_stable_baselines3_is_recorded_unless_a_summary_writer_gets_the_same(tmp_path: Path) -> None:
    """With a stand-in of its module; `scripts/check_trainers` has the library."""
    package = tmp_path / "stable_baselines3" / "common"
    package.mkdir(parents=True)
    (package / "logger.py").write_text(textwrap.dedent(LOGGER))
    ran = auto(tmp_path, LOGS, PYTHONPATH=str(tmp_path))
    assert ran.code == 0, ran.stderr
    assert [(one.name, one.value, one.global_step) for one in ran.of(Metric)] == [("train/loss", 0.5, 64)]
    assert "1 value of stable_baselines3" in ran.said[0]


SUBPROCESSES = """
    import json, multiprocessing, sys
    import gymnasium as gym

    def work(pipe, index):
        env = gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"))
        env.reset(seed=index)
        env.action_space.seed(index)
        own = []
        while len(own) < 2:
            _, _, terminated, truncated, info = env.step(env.action_space.sample())
            if terminated or truncated:
                own.append([float(info["episode"]["r"]), int(info["episode"]["l"])])
                env.reset()
        pipe.send(own)
        pipe.recv()

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        pipes, processes = [], []
        for index in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, index), daemon=True)
            process.start()
            pipes.append(ours)
            processes.append(process)
        own = [pipe.recv() for pipe in pipes]
        evaluation = gym.make("CartPole-v1")
        evaluation.reset(seed=5)
        evaluation.step(0)
        evaluation.close()
        for pipe, process in zip(pipes, processes):
            pipe.send(None)
            process.join()
        print(json.dumps(own))
"""


@pytest.mark.parametrize("method", [pytest.param("fork", marks=FORK), "forkserver"])
def test_environments_in_processes_of_the_program_s_own_are_recorded_by_helpers(tmp_path: Path, method: str) -> None:
    ran = auto(tmp_path, SUBPROCESSES, method)
    assert ran.code == 0, ran.stderr
    assert [ran.episodes(index) for index in (0, 1)] == ran.printed
    assert len(ran.of(Step, 2)) == 1, "the next index is the evaluation's"
    (own,) = [stream for stream, parent in ran.parents.items() if parent is None]
    assert {parent for stream, parent in ran.parents.items() if stream != own} == {own}
    by_stream = {
        stream: {one.env_index for one in events if isinstance(one, Step)} for stream, events in ran.streams.items()
    }
    assert by_stream.pop(own) == {2}
    assert sorted(map(list, (found for found in by_stream.values() if found))) == [[0], [1]]
    assert len(ran.said) == 1, "the program is told of, not its processes"


FORKED = """
    import gc, os, sys
    import gymnasium as gym

    if sys.argv[1] == "turns":
        from pettingzoo.classic import tictactoe_v3

        env = tictactoe_v3.env()
        actions = iter(range(9))
        turns = lambda: next(actions)
    elif sys.argv[1] == "vector":
        env = gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
        turns = env.action_space.sample
    else:
        env = gym.make("CartPole-v1")
        turns = lambda: 0
    closed = gym.make("CartPole-v1")
    env.reset(seed=1)
    closed.reset(seed=1)
    env.step(turns())
    child = os.fork()
    for _ in range(3):
        env.step(turns())
    if child:
        assert os.waitpid(child, 0)[1] == 0
    else:
        closed.close()
        del closed
        gc.collect()
        evaluation = gym.make("CartPole-v1")
        evaluation.reset()
        evaluation.step(0)
    env.close()
"""


@FORK
@pytest.mark.parametrize(("kind", "count"), [("single", 1), ("vector", 2), ("turns", 1)])
def test_an_environment_that_was_reset_before_a_fork_is_recorded_in_the_child(
    tmp_path: Path, kind: str, count: int
) -> None:
    ran = auto(tmp_path, FORKED, kind)
    assert ran.code == 0, ran.stderr
    assert "not recorded" not in ran.stderr
    (own,) = [stream for stream, parent in ran.parents.items() if parent is None]
    steps: dict[bool, dict[int, int]] = {True: defaultdict(int), False: defaultdict(int)}
    for stream, events in ran.streams.items():
        for event in events:
            if isinstance(event, Step):
                steps[stream == own][event.env_index] += 1
    forked = range(count + 1, 2 * count + 1)
    assert steps[True] == dict.fromkeys(range(count), 4)
    assert steps[False] == {**dict.fromkeys(forked, 3), 2 * count + 1: 1}, "no index is one of the parent's"


# -- what the program sees -----------------------------------------------------------------------------------------

WRAPPERS = """
    import copy, json, pickle, subprocess, sys
    import cloudpickle
    import gymnasium as gym
    import numpy as np

    class Mixin:
        def step(self, action):
            self.t += 1
            return np.zeros(1, np.float32), 1.0, self.t == 3, False, {}

    class Own(Mixin, gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (1,))
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return np.zeros(1, np.float32), {}

    class Twice(gym.Wrapper):
        def step(self, action):
            self.env.step(action)
            return self.env.step(action)

    def episode(env, **given):
        env.reset(**given)
        rewards = []
        while True:
            _, reward, terminated, truncated, info = env.step(0)
            rewards.append(float(reward))
            if terminated or truncated:
                return rewards

    own = Own()
    rewards = [episode(own)]                                            # 0: neither made nor wrapped
    copied = copy.deepcopy(own)
    copied.t = 0
    copied.step(0)                                                      # a planner's copy
    scaled = gym.wrappers.TransformReward(gym.wrappers.RecordEpisodeStatistics(Own()), lambda reward: reward / 4)
    rewards.append(episode(scaled))                                     # 1
    limited = gym.wrappers.TimeLimit(Twice(gym.make("CartPole-v1")), 5)
    rewards.append(episode(limited, seed=3))                            # 2: an action repeated
    limited.close()
    rewards.append(episode(gym.wrappers.TimeLimit(gym.make("CartPole-v1"), 4), seed=3))  # takes the index of the last
    assert gym.make(gym.make("CartPole-v1").spec).spec.id == "CartPole-v1"
    there = pickle.dumps(cloudpickle.dumps(Own))
    code = '''if True:
        import pickle, sys
        sys.modules["telefabric_workers"] = None
        env = pickle.loads(pickle.load(sys.stdin.buffer))()
        env.reset()
        assert env.step(0)[1] == 1.0
    '''
    subprocess.run([sys.executable, "-E", "-c", code], input=there, check=True)
    print(json.dumps(rewards))
"""


def test_what_is_recorded_is_what_the_program_sees_at_its_outermost_wrapper(tmp_path: Path) -> None:
    ran = auto(tmp_path, WRAPPERS)
    assert ran.code == 0, ran.stderr
    rewards: dict[tuple[int, int], list[float]] = defaultdict(list)
    for step in ran.of(Step):
        rewards[step.env_index, step.episode_index].append(step.reward)
    own, scaled, limited, again = ran.printed
    assert rewards == {(0, 0): own, (1, 0): scaled, (2, 0): limited, (2, 1): again}
    assert ran.episodes(0) == [[3.0, 3]]
    assert ran.episodes(1) == [[3.0, 3]], "the script's own statistics, of the rewards before they were scaled"
    assert ran.episodes(2) == [[sum(limited), 5], [sum(again), 4]]
    assert "of gymnasium; 15 steps, 4 episodes" in ran.said[0]


PETTINGZOO = """
    import json, random, sys
    from collections import defaultdict
    from pettingzoo.classic import tictactoe_v3
    from pettingzoo.utils import ParallelEnv, BaseParallelWrapper
    from pettingzoo.utils.conversions import parallel_to_aec
    from gymnasium import spaces

    class Race(ParallelEnv):
        metadata = {"name": "race_v0"}
        possible_agents = ["red", "blue"]
        render_mode = None

        def observation_space(self, agent):
            return spaces.Discrete(9)

        action_space = observation_space

        def reset(self, seed=None, options=None):
            self.agents, self.at = list(self.possible_agents), dict.fromkeys(self.possible_agents, 0)
            return dict(self.at), {agent: {} for agent in self.agents}

        def step(self, actions):
            for agent in actions:
                self.at[agent] += actions[agent]
            seen = {agent: self.at[agent] for agent in self.agents}
            ends = {agent: self.at[agent] >= 3 for agent in self.agents}
            rewards = {agent: float(actions[agent]) for agent in self.agents}
            infos = {agent: {} for agent in self.agents}
            self.agents = [agent for agent in self.agents if not ends[agent]]
            return seen, rewards, ends, dict.fromkeys(ends, False), infos

    own = defaultdict(list)
    if sys.argv[1] == "turns":
        env = tictactoe_v3.env()
        random.seed(1)
        for episode in range(2):
            env.reset(seed=episode)
            back, moves = defaultdict(float), defaultdict(int)
            for agent in env.agent_iter():
                observation, reward, terminated, truncated, info = env.last(observe=True)
                back[agent] += reward
                action = None
                if not (terminated or truncated):
                    action = random.choice([i for i, free in enumerate(observation["action_mask"]) if free])
                    moves[agent] += 1
                env.step(action)
            for agent in back:
                own[agent].append([back[agent], moves[agent]])
    else:
        env = BaseParallelWrapper(Race())
        for episode in range(2):
            env.reset(seed=episode)
            back, moves = defaultdict(float), defaultdict(int)
            while env.agents:
                actions = {agent: 1 + (agent == "blue") for agent in env.agents}
                _, rewards, _, _, _ = env.step(actions)
                for agent in actions:
                    back[agent] += rewards[agent]
                    moves[agent] += 1
            for agent in back:
                own[agent].append([back[agent], moves[agent]])
    env.close()
    print(json.dumps(own))
"""


@pytest.mark.parametrize("kind", ["turns", "together"])
def test_a_loop_of_pettingzoo_with_each_agent_s_own_returns(tmp_path: Path, kind: str) -> None:
    ran = auto(tmp_path, PETTINGZOO, kind)
    assert ran.code == 0, ran.stderr
    found: dict[str, list[list[Any]]] = defaultdict(list)
    for episode in ran.of(Episode):
        assert episode.episode_index == len(found[episode.agent_id])
        found[episode.agent_id].append([episode.total_reward, episode.length])
    assert found == ran.printed
    assert len(ran.of(Step)) == sum(length for episodes in ran.printed.values() for _, length in episodes)
    assert ran.said[0].startswith("telefabric: --auto recorded run r: 1 environment of pettingzoo; ")


ODD = """
    import json, sys
    import gymnasium as gym

    class Old(gym.Env):
        def reset(self):
            return 0, {}

        def step(self, action):
            if action == 9:
                raise RuntimeError("of the environment")
            return 0, 1.0, False, {}

    env = Old()
    assert env.reset() == (0, {})
    assert env.step(1) == (0, 1.0, False, {})
    env.step(action=9)
"""


def test_an_error_of_ours_does_not_reach_the_program_and_its_own_do(tmp_path: Path) -> None:
    ran = auto(tmp_path, ODD)
    assert ran.code == 1
    assert "RuntimeError: of the environment" in ran.stderr
    assert " not recorded, first: " in ran.said[0]


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"TELEFABRIC_MODE": "dry-run"}, "checked run r: 1 environment of gymnasium; 1 step, 0 episodes"),
        ({"TELEFABRIC_VIDEO": "wide"}, "recorded nothing: the worker is off"),
    ],
    ids=["dry run", "a setting that is no good"],
)
def test_the_last_line_is_true_when_nothing_is_stored(tmp_path: Path, environ: dict[str, str], said: str) -> None:
    code = "import gymnasium; env = gymnasium.make('CartPole-v1'); env.reset(); env.step(0)"
    ran = auto(tmp_path, code, **environ)
    assert (ran.code, ran.said, ran.streams) == (0, [f"telefabric: --auto {said}"], {}), ran.stderr


SILENT = """
    import sys
    import gymnasium as gym
    from telefabric_workers import connect
    from telefabric_workers.integrations.gym import TelemetryWrapper

    if len(sys.argv) > 1:
        evaluation = gym.make("CartPole-v1")
        evaluation.reset()
    with connect() as worker:
        env = TelemetryWrapper(gym.make("CartPole-v1"), worker)
        env.reset(seed=1)
        for _ in range(5):
            env.step(0)
    print(worker.emitted)
"""


def test_a_program_that_records_itself_is_not_recorded_twice(tmp_path: Path) -> None:
    ran = auto(tmp_path, SILENT)
    assert ran.code == 0, ran.stderr
    assert len(ran.of(Step)) == 5
    assert ran.said == ["telefabric: --auto left 1 environment to the program's own adapters"]
    (line,) = auto(tmp_path, SILENT, "evaluation").said
    assert "1 environment of gymnasium; 0 steps" in line
    assert line.endswith("; left 1 environment to the program's own adapters")


SILENT_TURNS = """
    from pettingzoo.classic import tictactoe_v3
    from telefabric_workers import connect
    from telefabric_workers.integrations.pettingzoo import TelemetryAEC

    with connect() as worker:
        env = TelemetryAEC(tictactoe_v3.env(), worker)
        env.reset(seed=1)
        for action in range(3):
            env.last()
            env.step(action)
        env.close()
"""


def test_an_adapter_of_pettingzoo_is_left_alone_and_the_last_line_says_so(tmp_path: Path) -> None:
    ran = auto(tmp_path, SILENT_TURNS)
    assert ran.code == 0, ran.stderr
    assert len(ran.of(Step)) == 3
    assert ran.said == ["telefabric: --auto left 1 environment to the program's own adapters"]


PICTURES = """
    import json, os, signal, sys
    import gymnasium as gym
    env = gym.make("CartPole-v1")
    observations = [env.reset(seed=1)[0].tolist()]
    for _ in range(5):
        observations.append(env.step(0)[0].tolist())
    print(json.dumps([observations, env.render_mode]), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_an_environment_without_render_mode_is_drawn_beside_and_does_the_same(tmp_path: Path) -> None:
    drawn = auto(tmp_path, PICTURES, TELEFABRIC_STORE_FRAMES="steps:1")
    assert len(drawn.of(Frame)) == 5
    assert drawn.code == -15, "drawing takes no signal away"
    (tmp_path / "second").mkdir()
    plain = auto(tmp_path / "second", PICTURES)
    assert not plain.of(Frame)
    assert plain.printed == drawn.printed
    assert plain.printed[1] is None


VECTOR_PICTURES = """
    import sys
    import gymnasium as gym

    if __name__ == "__main__":
        mode = {"none": None}.get(sys.argv[2], sys.argv[2])
        envs = getattr(gym.vector, sys.argv[1])([lambda: gym.make("CartPole-v1", render_mode=mode)] * 2)
        envs.reset(seed=1)
        envs.step(envs.action_space.sample())
        envs.close()
"""


@pytest.mark.parametrize(
    ("kind", "mode"), [("SyncVectorEnv", "none"), ("SyncVectorEnv", "rgb_array"), ("AsyncVectorEnv", "rgb_array")]
)
def test_each_environment_of_a_vector_is_drawn(tmp_path: Path, kind: str, mode: str) -> None:
    ran = auto(tmp_path, VECTOR_PICTURES, kind, mode, TELEFABRIC_STORE_FRAMES="steps:1")
    assert ran.code == 0, ran.stderr
    assert sorted(frame.env_index for frame in ran.of(Frame)) == [0, 1]


# -- the start -----------------------------------------------------------------------------------------------------


@pytest.mark.installed
def test_a_sitecustomize_that_exists_runs_too_and_the_exit_code_is_the_program_s(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.chained = __file__")
    code = "import sys, sitecustomize; print(chained == sitecustomize.__file__, sys.path[1]); sys.exit(7)"
    ran = auto(tmp_path, code, PYTHONPATH=str(tmp_path))
    assert (ran.code, ran.printed) == (7, f"True {tmp_path}")
    assert ran.said == [
        "telefabric: --auto recorded nothing: the program imported none of gymnasium, pettingzoo, tensorboardX,"
        " torch.utils.tensorboard"
    ]
    assert not ran.streams


@pytest.mark.parametrize("options", [("-I",), ("-E",), ("-S",), ("-W", "error", "-BsE")], ids=" ".join)
def test_a_python_that_starts_without_the_hook_is_told_of_in_one_sentence(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    ran = auto(tmp_path, "import sys; print('sitecustomize' in sys.modules); sys.exit(3)", python=options)
    assert ran.code == 3
    (line,) = ran.said
    assert "turns off Python's start-up hook" in line
    assert not ran.stderr


def test_an_interpreter_without_telefabric_says_so_once_and_runs_the_program(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    code = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import sys; sys.exit(5)']))"
    ran = started(tmp_path, [str(python), "-c", code])
    assert ran.code == 5
    (line,) = ran.said
    assert "has no telefabric" in line


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (["python3", "-c", "print()", "-I"], None),
        (["python", "-X", "dev", "-m", "ppo", "-E"], None),
        (["/usr/bin/python3.12", "-Xdev", "-uI", "ppo.py"], "-I"),
        (["python", "ppo.py", "-S"], None),
        (["python", "--check-hash-based-pycs", "always", "ppo.py"], None),
        (["uv", "run", "-I"], None),
        ([], None),
    ],
)
def test_options_of_python_are_told_from_those_of_the_program(command: list[str], flag: str | None) -> None:
    assert launch.unhooked_by(command) == flag


@pytest.mark.parametrize(("found", "old"), [("0.29.1", True), ("1.0.0", True), ("1.1.0", False), ("1.10rc1", False)])
def test_a_gymnasium_that_the_adapters_do_not_know_is_left_alone(found: str, old: bool) -> None:
    assert is_too_old(found) == old


def test_a_program_without_python_is_told_of_at_its_end(tmp_path: Path) -> None:
    ran = started(tmp_path, ["sh", "-c", "exit 4"])
    assert ran.code == 4
    assert ran.said == ["telefabric: --auto recorded nothing: the program ran no Python that reads PYTHONPATH"]
