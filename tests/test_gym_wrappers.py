"""The gymnasium wrappers: what they emit, in which episode, in every autoreset mode."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

from telefabric.errors import UsageError
from telefabric_schemas import Episode, Step
from telefabric_workers import Worker, connect
from telefabric_workers.integrations.gym import TelemetryWrapper, VectorTelemetryWrapper

ACTIONS_2 = np.array([0, 1])


class Ends(gymnasium.Env[Any, Any]):
    """Episodes of known lengths. Observation: (episode, step), (e, 0) after a reset; reward: the step, from 1.

    A positive length ends terminated, a negative one truncated. The info has ``t``, and on even steps ``even``.
    """

    observation_space = spaces.Box(-1, 1_000, (2,), np.float64)
    action_space = spaces.Discrete(5)

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, lengths: Sequence[int], *, draws: bool = False, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.rendered = 0
        self._lengths = list(lengths)
        self._draws = draws
        self._episode = -1
        self._t = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if self._draws:
            self.np_random.random()
        self._episode += 1
        self._t = 0
        return self._observation(), {"began": self._episode}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._t += 1
        length = self._lengths[self._episode % len(self._lengths)]
        ends = self._t >= abs(length)
        info: dict[str, Any] = {"t": self._t, "deep": {"episode": self._episode}}
        if self._t % 2 == 0:
            info["even"] = "yes"
        return self._observation(), float(self._t), ends and length > 0, ends and length < 0, info

    def render(self) -> Any:
        self.rendered += 1
        return np.full((4, 6, 3), [self._episode, self._t, self.rendered], np.uint8)

    def _observation(self) -> Any:
        return np.array([self._episode, self._t], np.float64)


class Recorder:
    """A worker that validates, and the events that it emitted."""

    def __init__(self) -> None:
        self.worker: Worker = connect(mode="dry-run", run="test", agent="agent_0")
        self.steps: list[Step] = []
        self.episodes: list[Episode] = []
        self.resets: list[dict[str, Any]] = []
        """What the wrapper handed to `Worker.reset`."""
        self.told: list[str] = []
        """Kinds, as they came: reset, step, episode."""
        emit = self.worker.reset

        def reset(**given: Any) -> None:
            self.resets.append(given)
            self.told.append("reset")
            emit(**given)

        self.worker.reset = reset  # type: ignore[method-assign]
        self.worker.register_on_step(lambda _: self.told.append("step"))
        self.worker.register_on_episode_end(lambda _: self.told.append("episode"))
        self.worker.register_on_step(self.steps.append)
        self.worker.register_on_episode_end(self.episodes.append)

    def of(self, env_index: int) -> list[tuple[Any, ...]]:
        """(episode, step, observation, reward, terminated, truncated) of an environment's steps."""
        return [
            (step.episode_index, step.step_index, tuple(step.observation), step.reward, step.terminated, step.truncated)
            for step in self.steps
            if step.env_index == env_index
        ]

    def begins(self, env_index: int = 0) -> list[tuple[Any, ...]]:
        """(episode, observation, info, seed, options) of an environment's resets."""
        return [
            (one["episode"], tuple(one["observation"]), one["info"], one["seed"], one["options"])
            for one in self.resets
            if one["env_index"] == env_index
        ]

    def ends(self, env_index: int = 0) -> list[tuple[Any, ...]]:
        """(episode, length, total reward, end reason) of an environment's episodes."""
        return [
            (episode.episode_index, episode.length, episode.total_reward, episode.end_reason)
            for episode in self.episodes
            if episode.env_index == env_index
        ]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.worker.close()


# -- one environment ---------------------------------------------------------------------------------------------


def test_steps_and_episodes_are_numbered_and_ends_told_apart(recorder: Recorder) -> None:
    env = TelemetryWrapper(Ends([2, -3]), recorder.worker)
    for _ in range(2):
        env.reset()
        ended = False
        while not ended:
            *_, terminated, truncated, _ = env.step(1)
            ended = terminated or truncated
    assert recorder.of(0) == [
        (0, 0, (0, 1), 1.0, False, False),
        (0, 1, (0, 2), 2.0, True, False),
        (1, 0, (1, 1), 1.0, False, False),
        (1, 1, (1, 2), 2.0, False, False),
        (1, 2, (1, 3), 3.0, False, True),
    ]
    assert recorder.ends() == [(0, 2, 3.0, "terminated"), (1, 3, 6.0, "truncated")]
    assert [step.global_step for step in recorder.steps] == [0, 1, 2, 3, 4]
    assert recorder.steps[1].info == {"t": 2, "deep": {"episode": 0}, "even": "yes"}


def test_an_abandoned_episode_ends_by_reset_or_by_close(recorder: Recorder) -> None:
    env = TelemetryWrapper(Ends([9]), recorder.worker)
    env.reset()
    env.reset()
    env.step(0)
    env.reset()
    env.step(0)
    env.step(0)
    env.close()
    env.close()
    assert recorder.ends() == [(0, 1, 1.0, "reset"), (1, 2, 3.0, "closed")]


def test_the_environment_may_be_closed_after_the_worker(recorder: Recorder) -> None:
    env = TelemetryWrapper(Ends([9]), recorder.worker)
    env.reset()
    env.step(0)
    recorder.worker.close()
    env.close()
    assert recorder.ends() == []


def test_an_episode_has_the_seed_that_its_reset_was_given(recorder: Recorder) -> None:
    env = TelemetryWrapper(Ends([1], draws=True), recorder.worker)
    for seed in (7, None, 8):
        env.reset(seed=seed)
        env.step(0)
    env.step(0)  # without a reset
    assert [episode.seed for episode in recorder.episodes] == [7, None, 8, None], "no seed is made up"


def test_a_reset_is_emitted_with_what_it_gave_and_was_given(recorder: Recorder) -> None:
    env = TelemetryWrapper(Ends([1]), recorder.worker, agent="left", env_index=3, control_mode="human")
    options = {"start": 2}
    env.reset(seed=7, options=options)
    env.step(0)
    env.reset()
    env.reset(seed=8)
    env.step(0)
    assert recorder.begins(3) == [
        (0, (0, 0), {"began": 0}, 7, {"start": 2}),
        (1, (1, 0), {"began": 1}, None, None),
        (1, (2, 0), {"began": 2}, 8, None),  # nothing was done in the episode before
    ]
    assert recorder.told == ["reset", "step", "episode", "reset", "reset", "step", "episode"]
    assert {(one["agent"], one["control_mode"]) for one in recorder.resets} == {("left", "human")}
    bare = TelemetryWrapper(Ends([1]), recorder.worker, observations=False, infos=False)
    bare.reset(seed=9)
    assert (recorder.resets[-1]["observation"], recorder.resets[-1]["info"], recorder.resets[-1]["seed"]) == (
        None,
        None,
        9,
    )


def test_statistics_of_an_episode_are_its_metadata(recorder: Recorder) -> None:
    env = TelemetryWrapper(gymnasium.wrappers.RecordEpisodeStatistics(Ends([2])), recorder.worker)
    env.reset()
    env.step(0)
    env.step(0)
    (episode,) = recorder.episodes
    assert episode.metadata["r"] == 3.0
    assert episode.metadata["l"] == 2
    assert recorder.steps[1].info["episode"]["r"] == 3.0


def test_an_abandoned_episode_has_the_seed_that_it_began_with(recorder: Recorder) -> None:
    env = TelemetryWrapper(Ends([9], draws=True), recorder.worker)
    env.reset(seed=1)
    env.step(0)
    env.reset(seed=2)
    env.step(0)
    env.close()
    assert [episode.seed for episode in recorder.episodes] == [1, 2]


def test_labels_go_with_every_event_and_may_change(recorder: Recorder) -> None:
    env = TelemetryWrapper(
        Ends([2]), recorder.worker, agent="left", env_index=3, first_episode=10, game_id="Ends-v0", policy_label="a",
        control_mode="human", observations=False, infos=False,
    )  # fmt: skip
    env.reset()
    env.step(4)
    env.policy_label, env.control_mode = "b", "hybrid"
    env.step(4)
    first, second = recorder.steps
    assert (first.agent_id, first.env_index, first.episode_index, first.action) == ("left", 3, 10, 4)
    assert (first.policy_label, first.control_mode, first.backend) == ("a", "human", "gymnasium")
    assert (second.policy_label, second.control_mode) == ("b", "hybrid")
    assert first.observation is None
    assert first.info is None
    (episode,) = recorder.episodes
    assert (episode.agent_id, episode.env_index, episode.episode_index) == ("left", 3, 10)
    assert (episode.policy_label, episode.control_mode, episode.game_id) == ("b", "hybrid", "Ends-v0")


def test_autoreset_wrapper_resets_are_no_steps(recorder: Recorder) -> None:
    env = TelemetryWrapper(gymnasium.wrappers.Autoreset(Ends([2, 1])), recorder.worker)
    env.reset(seed=3)
    for _ in range(5):  # step, end, reset, end, reset
        env.step(0)
    assert recorder.ends() == [(0, 2, 3.0, "terminated"), (1, 1, 1.0, "terminated")]
    assert [row[:2] for row in recorder.of(0)] == [(0, 0), (0, 1), (1, 0)]
    assert recorder.begins() == [
        (0, (0, 0), {"began": 0}, 3, None),
        (1, (1, 0), {"began": 1}, None, None),
        (2, (2, 0), {"began": 2}, None, None),
    ]
    assert [episode.seed for episode in recorder.episodes] == [3, None]


def test_an_end_that_a_wrapper_outside_of_autoreset_makes_is_followed_by_a_step(recorder: Recorder) -> None:
    env = gymnasium.wrappers.TimeLimit(gymnasium.wrappers.Autoreset(Ends([4, 1])), 2)
    env = TelemetryWrapper(env, recorder.worker)
    env.reset()
    rewards = [env.step(0)[1] for _ in range(7)]  # the limit ends each from the second on; the sixth is a reset
    assert len(rewards) == 7
    assert [row[:2] for row in recorder.of(0)] == [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0)]
    assert [end[1] for end in recorder.ends()] == [2, 1, 1, 1]


def test_rewards_that_are_no_floats(recorder: Recorder) -> None:
    class Pays(Ends):
        def step(self, action: Any) -> Any:
            observation, _, terminated, truncated, info = super().step(action)
            return observation, np.float32(0.5), np.bool_(terminated), np.bool_(truncated), info

    env = TelemetryWrapper(Pays([2]), recorder.worker)
    env.reset()
    env.step(np.int64(1))
    env.step(np.int64(1))
    assert [step.reward for step in recorder.steps] == [0.5, 0.5]
    assert recorder.ends() == [(0, 2, 1.0, "terminated")]
    assert recorder.steps[1].terminated is True


def test_an_unusable_reward_costs_the_total_and_nothing_else(tmp_path: Path) -> None:
    class Pays(Ends):
        def step(self, action: Any) -> Any:
            observation, _, terminated, truncated, info = super().step(action)
            return observation, np.array([1.0, 2.0]), terminated, truncated, info

    worker = connect("tcp://127.0.0.1:1", spool=tmp_path, exit_flush_s=0)  # nobody there, and not strict
    episodes: list[Episode] = []
    worker.register_on_episode_end(episodes.append)
    env = TelemetryWrapper(Pays([2]), worker)
    env.reset()
    env.step(0)
    _, reward, *_ = env.step(0)
    assert reward.tolist() == [1.0, 2.0]
    assert worker.problems["step.reward"] == 2
    assert [(episode.length, episode.total_reward) for episode in episodes] == [(2, None)]
    worker.close()


def test_cartpole_for_real(recorder: Recorder) -> None:
    env = TelemetryWrapper(gymnasium.make("CartPole-v1", max_episode_steps=20), recorder.worker)
    lengths, returns = [], []
    for episode in range(5):
        env.reset(seed=episode)
        length, total, ended = 0, 0.0, False
        while not ended:
            action = length // 2 % 2 if episode == 4 else int(env.np_random.integers(2))
            observation, reward, terminated, truncated, _ = env.step(action)
            length, total, ended = length + 1, total + float(reward), terminated or truncated
            assert recorder.steps[-1].observation is observation
        lengths.append(length)
        returns.append(total)
    env.close()
    assert [episode.length for episode in recorder.episodes] == lengths
    assert [episode.total_reward for episode in recorder.episodes] == returns
    assert {episode.end_reason for episode in recorder.episodes} == {"terminated", "truncated"}
    assert {episode.game_id for episode in recorder.episodes} == {"CartPole-v1"}
    assert [episode.seed for episode in recorder.episodes] == [0, 1, 2, 3, 4]
    assert [step.global_step for step in recorder.steps] == list(range(sum(lengths)))


# -- vector environments -----------------------------------------------------------------------------------------


def vector(recorder: Recorder, mode: AutoresetMode, *lengths: Sequence[int], **options: Any) -> VectorTelemetryWrapper:
    envs = SyncVectorEnv([lambda mine=mine: Ends(mine) for mine in lengths], autoreset_mode=mode)
    return VectorTelemetryWrapper(envs, recorder.worker, **options)


def test_next_step_mode_skips_the_reset_step(recorder: Recorder) -> None:
    envs = vector(recorder, AutoresetMode.NEXT_STEP, [2, -1], [3])
    envs.reset()
    for _ in range(6):
        envs.step(ACTIONS_2)
    assert recorder.of(0) == [
        (0, 0, (0, 1), 1.0, False, False),
        (0, 1, (0, 2), 2.0, True, False),
        (1, 0, (1, 1), 1.0, False, True),  # the third call was the reset
        (2, 0, (2, 1), 1.0, False, False),
    ]
    assert [row[:2] for row in recorder.of(1)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert recorder.ends(0) == [(0, 2, 3.0, "terminated"), (1, 1, 1.0, "truncated")]
    assert recorder.ends(1) == [(0, 3, 6.0, "terminated")]
    assert {step.action for step in recorder.steps if step.env_index == 1} == {1}


def test_same_step_mode_ends_with_the_final_observation_and_info(recorder: Recorder) -> None:
    envs = vector(recorder, AutoresetMode.SAME_STEP, [2, -1], [3])
    envs.reset()
    for _ in range(4):
        envs.step(ACTIONS_2)
    assert recorder.of(0) == [
        (0, 0, (0, 1), 1.0, False, False),
        (0, 1, (0, 2), 2.0, True, False),
        (1, 0, (1, 1), 1.0, False, True),
        (2, 0, (2, 1), 1.0, False, False),
    ]
    assert recorder.of(1)[2:] == [(0, 2, (0, 3), 3.0, True, False), (1, 0, (1, 1), 1.0, False, False)]
    assert recorder.ends(0) == [(0, 2, 3.0, "terminated"), (1, 1, 1.0, "truncated")]
    assert recorder.steps[2].info == {"t": 2, "deep": {"episode": 0}, "even": "yes"}
    assert recorder.steps[3].info == {"t": 2, "deep": {"episode": 0}, "even": "yes"}
    assert recorder.steps[4].info == {"t": 1, "deep": {"episode": 1}}


def test_disabled_mode_waits_for_a_masked_reset(recorder: Recorder) -> None:
    envs = vector(recorder, AutoresetMode.DISABLED, [2], [9])
    envs.reset(seed=[5, 6])
    envs.step(ACTIONS_2)
    envs.step(ACTIONS_2)
    options = {"reset_mask": np.array([True, False])}
    envs.reset(seed=[50, None], options=options)
    envs.step(ACTIONS_2)
    envs.reset(options={"reset_mask": np.array([False, True])})
    envs.step(ACTIONS_2)
    envs.reset()
    assert [row[:3] for row in recorder.of(0)] == [(0, 0, (0, 1)), (0, 1, (0, 2)), (1, 0, (1, 1)), (1, 1, (1, 2))]
    assert [row[:3] for row in recorder.of(1)] == [(0, 0, (0, 1)), (0, 1, (0, 2)), (0, 2, (0, 3)), (1, 0, (1, 1))]
    assert recorder.ends(0) == [(0, 2, 3.0, "terminated"), (1, 2, 3.0, "terminated")]
    assert recorder.ends(1) == [(0, 3, 6.0, "reset"), (1, 1, 1.0, "reset")]
    assert [episode.seed for episode in recorder.episodes if episode.env_index == 0] == [5, 50]
    assert [episode.seed for episode in recorder.episodes if episode.env_index == 1] == [6, None]
    assert [(row[0], row[1], row[3]) for row in recorder.begins(0)] == [
        (0, (0, 0), 5), (1, (1, 0), 50), (2, (2, 0), None)
    ]  # fmt: skip
    assert [(row[0], row[1], row[3]) for row in recorder.begins(1)] == [
        (0, (0, 0), 6), (1, (1, 0), None), (2, (2, 0), None)
    ]  # fmt: skip
    assert recorder.resets[2]["options"]["reset_mask"].tolist() == [True, False]


def test_disabled_mode_tells_nothing_of_an_ended_environment(recorder: Recorder) -> None:
    class Lenient(SyncVectorEnv):
        """Steps on after an end, as some vector envs do."""

        def step(self, actions: Any) -> Any:
            self._autoreset_envs[:] = False
            return super().step(actions)

    envs = Lenient([lambda: Ends([1]), lambda: Ends([9])], autoreset_mode=AutoresetMode.DISABLED)
    wrapped = VectorTelemetryWrapper(envs, recorder.worker)
    wrapped.reset()
    for _ in range(3):
        wrapped.step(ACTIONS_2)
    assert len(recorder.of(0)) == 1
    assert len(recorder.of(1)) == 3


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_reset_of_all_abandons_what_has_begun(recorder: Recorder, mode: AutoresetMode) -> None:
    envs = vector(recorder, mode, [1], [9])
    envs.reset()
    envs.step(ACTIONS_2)
    envs.reset()
    envs.step(ACTIONS_2)
    envs.close()
    assert recorder.ends(0) == [(0, 1, 1.0, "terminated"), (1, 1, 1.0, "terminated")]
    assert recorder.ends(1) == [(0, 1, 1.0, "reset"), (1, 1, 1.0, "closed")]
    if mode is not AutoresetMode.SAME_STEP:
        assert [row[2] for row in recorder.of(0)] == [(0, 1), (1, 1)]


def test_infos_are_sliced_by_their_masks(recorder: Recorder) -> None:
    envs = vector(recorder, AutoresetMode.NEXT_STEP, [9], [1, 9])
    envs.reset()
    for _ in range(3):
        envs.step(ACTIONS_2)
    infos = {(step.env_index, step.episode_index, step.step_index): step.info for step in recorder.steps}
    assert infos[0, 0, 1] == {"t": 2, "deep": {"episode": 0}, "even": "yes"}
    assert infos[0, 0, 2] == {"t": 3, "deep": {"episode": 0}}
    assert infos[1, 1, 0] == {"t": 1, "deep": {"episode": 1}}


def test_infos_without_inner_masks(recorder: Recorder) -> None:
    wrapped = VectorTelemetryWrapper(
        RecordEpisodeStatistics(SyncVectorEnv([lambda: Ends([2]), lambda: Ends([9])])), recorder.worker
    )
    wrapped.reset()
    wrapped.step(ACTIONS_2)
    wrapped.step(ACTIONS_2)
    ended = recorder.steps[2]
    assert ended.env_index == 0
    assert (ended.info["episode"]["r"], ended.info["episode"]["l"]) == (3.0, 2)
    assert "episode" not in recorder.steps[3].info


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_infos_as_a_list(recorder: Recorder, mode: AutoresetMode) -> None:
    envs = DictInfoToList(SyncVectorEnv([lambda: Ends([2]), lambda: Ends([9])], autoreset_mode=mode))
    wrapped = VectorTelemetryWrapper(envs, recorder.worker)
    wrapped.reset()
    wrapped.step(ACTIONS_2)
    wrapped.step(ACTIONS_2)
    assert [step.info["t"] for step in recorder.steps] == [1, 1, 2, 2]
    assert recorder.of(0)[1] == (0, 1, (0, 2), 2.0, True, False)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_resets_that_a_vector_env_makes_by_itself_are_emitted(recorder: Recorder, mode: AutoresetMode) -> None:
    envs = vector(recorder, mode, [2, 1], [9])
    envs.reset(seed=4, options={"start": 1})
    for _ in range(4):
        envs.step(ACTIONS_2)
    began = [(0, (0, 0), {"began": 0}, 4, {"start": 1}), (1, (1, 0), {"began": 1}, None, None)]
    assert recorder.begins(0)[:2] == began
    assert recorder.begins(1) == [(0, (0, 0), {"began": 0}, 5, {"start": 1})]
    told = [kind for kind in recorder.told if kind != "step"]
    assert told[:4] == ["reset", "reset", "episode", "reset"]
    firsts = [row[0] for row in recorder.of(0) if row[1] == 0]
    assert firsts == [row[0] for row in recorder.begins(0) if row[0] in firsts], "each that has begun began with one"


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_what_a_vector_wrapper_adds_on_the_last_step_is_of_that_step(recorder: Recorder, mode: AutoresetMode) -> None:
    envs = RecordEpisodeStatistics(SyncVectorEnv([lambda: Ends([2]), lambda: Ends([9])], autoreset_mode=mode))
    wrapped = VectorTelemetryWrapper(envs, recorder.worker)
    wrapped.reset()
    for _ in range(3):
        wrapped.step(ACTIONS_2)
    last = recorder.steps[2]
    assert last.terminated
    assert (last.info["t"], last.info["even"], last.info["episode"]["r"], last.info["episode"]["l"]) == (
        2,
        "yes",
        3.0,
        2,
    )
    assert "began" not in last.info
    (episode,) = recorder.episodes
    assert (episode.metadata["r"], episode.metadata["l"]) == (3.0, 2)
    assert recorder.begins(0)[1][2] == {"began": 1}


class Unnamed(SyncVectorEnv):
    """A vector env that does not say when it resets, and names what was final as gymnasium did before 1.1."""

    def __init__(self, *lengths: Sequence[int], mode: AutoresetMode, tells: bool = True) -> None:
        super().__init__([lambda mine=mine: Ends(mine) for mine in lengths], autoreset_mode=mode)
        self.metadata = {name: value for name, value in self.metadata.items() if name != "autoreset_mode"}
        self._tells = tells
        self._mode, self.autoreset_mode = self.autoreset_mode, None  # type: ignore[assignment]

    def step(self, actions: Any) -> Any:
        self.autoreset_mode = self._mode
        *rest, infos = super().step(actions)
        self.autoreset_mode = None  # type: ignore[assignment]
        renamed = {key.replace("final_obs", "final_observation"): value for key, value in infos.items()}
        return *rest, renamed if self._tells else {key: renamed[key] for key in renamed if "final" not in key}


def test_a_vector_env_that_resets_in_the_same_step_and_does_not_say_so_is_known_by_what_is_final(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    wrapped = VectorTelemetryWrapper(Unnamed([2, -1], [3], mode=AutoresetMode.SAME_STEP), recorder.worker)
    wrapped.reset()
    for _ in range(4):
        wrapped.step(ACTIONS_2)
    assert [row[:3] for row in recorder.of(0)] == [(0, 0, (0, 1)), (0, 1, (0, 2)), (1, 0, (1, 1)), (2, 0, (2, 1))]
    assert [row[:3] for row in recorder.of(1)][2:] == [(0, 2, (0, 3)), (1, 0, (1, 1))]
    assert recorder.ends(0) == [(0, 2, 3.0, "terminated"), (1, 1, 1.0, "truncated")]
    assert not caplog.records


def test_a_vector_env_of_which_nothing_says_when_it_resets_is_warned_of_once(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    wrapped = VectorTelemetryWrapper(Unnamed([1], [2], mode=AutoresetMode.NEXT_STEP), recorder.worker)
    wrapped.reset()
    for _ in range(5):
        wrapped.step(ACTIONS_2)
    assert [row[:3] for row in recorder.of(0)] == [(0, 0, (0, 1)), (1, 0, (1, 1)), (2, 0, (2, 1))]
    (said,) = caplog.records
    assert "worker.autoreset_unknown: Unnamed" in said.message
    assert "autoreset='next_step', 'same_step' or 'disabled'" in said.message


@pytest.mark.parametrize("given", ["same_step", "SameStep", AutoresetMode.SAME_STEP])
def test_the_mode_may_be_named(recorder: Recorder, caplog: pytest.LogCaptureFixture, given: Any) -> None:
    envs = Unnamed([1], [9], mode=AutoresetMode.SAME_STEP, tells=False)
    wrapped = VectorTelemetryWrapper(envs, recorder.worker, autoreset=given)
    wrapped.reset()
    for _ in range(3):
        wrapped.step(ACTIONS_2)
    places = [(step.episode_index, step.observation) for step in recorder.steps if step.env_index == 0]
    assert places == [(0, None), (1, None), (2, None)], "the last observations are not known"
    assert [one["episode"] for one in recorder.resets if one["env_index"] == 0] == [0, 1, 2, 3]
    assert not caplog.records
    with pytest.raises(UsageError, match="should be one of next_step, same_step, disabled"):
        VectorTelemetryWrapper(envs, recorder.worker, autoreset="often")


VECTOR_CLASSES = {"sync": SyncVectorEnv, "async": partial(AsyncVectorEnv, context="spawn")}


@pytest.mark.parametrize("vector_class", VECTOR_CLASSES.values(), ids=VECTOR_CLASSES)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_pictures_of_vector_envs_are_of_their_steps(
    recorder: Recorder, vector_class: Any, mode: AutoresetMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reset has covered has none. Of other processes all are rendered at once, and once a step."""
    pictures: list[Any] = []

    def step(**given: Any) -> None:
        looked = given.pop("frame")
        pictures.append(looked and looked())
        emit(**given)

    emit = recorder.worker.step
    monkeypatch.setattr(recorder.worker, "step", step)
    envs = vector_class(
        [partial(Ends, lengths, render_mode="rgb_array") for lengths in ([2, 1], [3])], autoreset_mode=mode
    )
    wrapped = VectorTelemetryWrapper(envs, recorder.worker)
    wrapped.reset()
    for _ in range(6):
        wrapped.step(ACTIONS_2)
    wrapped.close()
    covered = {id(step) for step in recorder.steps if mode is AutoresetMode.SAME_STEP and step.terminated}
    assert len(pictures) == len(recorder.steps) == {AutoresetMode.NEXT_STEP: 9, AutoresetMode.SAME_STEP: 12}[mode]
    for one, picture in zip(recorder.steps, pictures, strict=True):
        if id(one) in covered:
            assert picture is None
        else:
            assert picture.shape == (4, 6, 3)
            assert tuple(picture[0, 0, :2]) == tuple(one.observation)
    assert max(picture[0, 0, 2] for picture in pictures if picture is not None) <= 6


@pytest.mark.parametrize(("mode", "frames", "given"), [
    ("rgb_array", None, True), ("rgb_array", False, False), (None, None, False), (None, True, True)
])  # fmt: skip
def test_pictures_are_given_when_there_are_any_or_as_wished(
    recorder: Recorder, mode: str | None, frames: bool | None, given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(recorder.worker, "step", lambda **step: asked.append(step["frame"]))
    envs = SyncVectorEnv([partial(Ends, [9], render_mode=mode)] * 2)
    wrapped = VectorTelemetryWrapper(envs, recorder.worker, frames=frames)
    wrapped.reset()
    wrapped.step(ACTIONS_2)
    single = TelemetryWrapper(Ends([9], render_mode=mode), recorder.worker, frames=frames)
    single.reset()
    single.step(1)
    assert [one is not None for one in asked] == [given] * 3


@pytest.mark.parametrize("vector_class", VECTOR_CLASSES.values(), ids=VECTOR_CLASSES)
def test_seeds_of_vector_envs(recorder: Recorder, vector_class: Any) -> None:
    envs = vector_class([partial(Ends, [1], draws=True)] * 2)
    wrapped = VectorTelemetryWrapper(envs, recorder.worker)
    wrapped.reset(seed=40)
    for _ in range(3):
        wrapped.step(ACTIONS_2)
    wrapped.reset()
    wrapped.step(ACTIONS_2)
    wrapped.close()
    seeds = [(episode.env_index, episode.seed) for episode in recorder.episodes]
    assert seeds == [(0, 40), (1, 41), *[(0, None), (1, None)] * 2]


def test_the_metadata_of_another_vector_env_does_not_change_the_mode(recorder: Recorder) -> None:
    envs = SyncVectorEnv([lambda: Ends([1, 9])], autoreset_mode=AutoresetMode.SAME_STEP)
    envs.metadata["autoreset_mode"] = AutoresetMode.NEXT_STEP  # gymnasium 1.1 shares it between vector envs
    wrapped = VectorTelemetryWrapper(envs, recorder.worker)
    wrapped.reset()
    wrapped.step(ACTIONS_2[:1])
    wrapped.step(ACTIONS_2[:1])
    assert [row[:3] for row in recorder.of(0)] == [(0, 0, (0, 1)), (1, 0, (1, 1))]


def test_global_step_counts_over_all_environments_of_an_agent(recorder: Recorder) -> None:
    envs = vector(recorder, AutoresetMode.NEXT_STEP, [9], [9])
    envs.reset()
    envs.step(ACTIONS_2)
    envs.step(ACTIONS_2)
    assert [(step.env_index, step.global_step) for step in recorder.steps] == [(0, 0), (1, 1), (0, 2), (1, 3)]


@pytest.mark.parametrize("agents", [["left", "right"], np.array(["left", "right"])], ids=["list", "array"])
def test_an_agent_for_each_environment(recorder: Recorder, agents: Any) -> None:
    envs = vector(recorder, AutoresetMode.NEXT_STEP, [9], [9], agents=agents)
    envs.reset()
    envs.step(ACTIONS_2)
    envs.step(ACTIONS_2)
    assert [(step.agent_id, step.global_step) for step in recorder.steps] == [
        ("left", 0), ("right", 0), ("left", 1), ("right", 1),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="1 agents for 2 environments"):
        vector(recorder, AutoresetMode.NEXT_STEP, [9], [9], agents=["left"])


class Dictionary(Ends):
    observation_space = spaces.Dict({"where": Ends.observation_space, "kind": spaces.Discrete(3)})  # type: ignore[assignment]
    action_space = spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (2,))))  # type: ignore[assignment]

    def _observation(self) -> Any:
        return {"where": super()._observation(), "kind": self._t % 3}


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_structured_observations_and_actions_are_told_apart(recorder: Recorder, mode: AutoresetMode) -> None:
    envs = SyncVectorEnv([lambda: Dictionary([2]), lambda: Dictionary([9])], autoreset_mode=mode)
    wrapped = VectorTelemetryWrapper(envs, recorder.worker)
    wrapped.reset()
    actions = (np.array([0, 1]), np.array([[0.0, 0.25], [0.5, 0.75]], np.float32))
    wrapped.step(actions)
    wrapped.step(actions)
    first, second, final, _ = recorder.steps
    assert second.action[0] == 1
    assert second.action[1].tolist() == [0.5, 0.75]
    assert (first.observation["where"].tolist(), first.observation["kind"]) == ([0, 1], 1)
    assert (final.observation["where"].tolist(), final.observation["kind"]) == ([0, 2], 2)


def test_a_vector_env_of_gymnasium_s_own(recorder: Recorder) -> None:
    """CartPole's vectorized implementation: one generator for all, the seed as given."""
    envs = VectorTelemetryWrapper(
        gymnasium.make_vec("CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point"), recorder.worker
    )
    envs.reset(seed=11)
    envs.action_space.seed(11)
    for _ in range(80):
        envs.step(envs.action_space.sample())
    envs.close()
    assert len({episode.env_index for episode in recorder.episodes}) == 4
    assert {episode.seed for episode in recorder.episodes if episode.episode_index == 0} == {11}
    assert {episode.game_id for episode in recorder.episodes} == {"CartPole-v1"}
    for index in range(4):
        of_env = [step for step in recorder.steps if step.env_index == index]
        ends = [episode for episode in recorder.episodes if episode.env_index == index]
        assert [end.episode_index for end in ends] == list(range(len(ends)))
        assert sum(end.length or 0 for end in ends) == len(of_env)
        assert all(end.length == end.total_reward for end in ends), "CartPole pays 1 for each step"


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_and_single_environments_tell_the_same_story(recorder: Recorder, mode: AutoresetMode) -> None:
    """The same seeded CartPole with the same policy, alone and in a vector env: the same first episode."""
    alone = Recorder()
    env = TelemetryWrapper(gymnasium.make("CartPole-v1"), alone.worker)
    env.reset(seed=6)
    while not alone.episodes:
        env.step(1)
    envs = VectorTelemetryWrapper(
        SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=mode), recorder.worker
    )
    envs.reset(seed=5)
    ended = np.array([False, False])
    while not any(episode.env_index == 1 for episode in recorder.episodes):
        if ended.any() and mode is AutoresetMode.DISABLED:
            envs.reset(options={"reset_mask": ended})
        _, _, terminated, truncated, _ = envs.step(np.array([1, 1]))
        ended = terminated | truncated
    assert [row[1:] for row in recorder.of(1) if row[0] == 0] == [row[1:] for row in alone.of(0)]
    assert recorder.ends(1) == alone.ends(0)
    assert recorder.episodes[-1].seed == alone.episodes[0].seed == 6
    alone.worker.close()


def test_a_deep_copy_plays_on_and_records_nothing(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    env = TelemetryWrapper(gymnasium.make("CartPole-v1"), recorder.worker)
    env.reset(seed=3)
    env.step(0)
    planner = copy.deepcopy(env)
    for _ in range(100):
        _, _, terminated, _, _ = planner.step(1)
        if terminated:
            break
    planner.reset()
    planner.close()
    env.step(0)
    assert [step.step_index for step in recorder.steps] == [0, 1]
    assert recorder.episodes == []
    assert caplog.text.count("worker.copy_silent") == 1
