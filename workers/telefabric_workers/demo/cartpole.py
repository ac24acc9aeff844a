"""Hill climbing on CartPole-v1: keep a pole upright with four weights.

The policy pushes right when weights · observation > 0. Each episode tries the best weights so far plus noise, and keeps
them when they do at least as well. The noise halves after a success and doubles after a failure, so the search narrows
once it is on to something and widens when it is stuck.
"""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
import numpy.typing as npt

from telefabric_workers.demo.rate import Rate
from telefabric_workers.demo.result import Score, run_from_command_line
from telefabric_workers.demo.screen import draw_without_a_screen
from telefabric_workers.gym import TelemetryWrapper
from telefabric_workers.worker import Worker

GAME_ID = "CartPole-v1"
EPISODES = 300
_NOISE_FIRST, _NOISE_MIN, _NOISE_MAX = 0.1, 0.001, 2.0
_REPORT_EPISODES = 5
_LOG_EPISODES = 50

Weights = npt.NDArray[np.float64]


def train(worker: Worker, *, episodes: int = EPISODES, seed: int = 0, rate: float | None = None) -> Score:
    """Search for `episodes`, at most `rate` steps a second; the same seed gives the same run.

    Success is an episode that lasts to the time limit of 500 steps, which is also the largest return.
    """
    worker.set_metadata(game_id=GAME_ID, algorithm="hill-climbing", seed=seed)
    draw_without_a_screen()
    cart = gymnasium.make(GAME_ID, render_mode="rgb_array")
    env = TelemetryWrapper(cart, worker, control_mode="agent", policy_label="linear")
    search = _Search(seed)
    pace = Rate(rate)
    score = Score()
    for episode in range(episodes):
        weights = search.propose()
        total_reward, truncated = _play(env, weights, pace, seed if episode == 0 else None)
        search.judge(weights, total_reward)
        score.add(total_reward, int(total_reward), success=truncated)
        _report(worker, score, search.noise, last=episode == episodes - 1)
    env.close()
    return score


class _Search:
    """The best weights, shape (4,), and how far around them to look."""

    def __init__(self, seed: int) -> None:
        self.noise = _NOISE_FIRST
        self._random = np.random.default_rng(seed)
        self._best: Weights = self._random.uniform(-1.0, 1.0, 4)
        self._best_return = -np.inf

    def propose(self) -> Weights:
        return self._best + self.noise * self._random.uniform(-1.0, 1.0, 4)

    def judge(self, weights: Weights, total_reward: float) -> None:
        if total_reward >= self._best_return:
            self._best, self._best_return = weights, total_reward
            self.noise = max(_NOISE_MIN, self.noise / 2)
        else:
            self.noise = min(_NOISE_MAX, self.noise * 2)


def _play(env: TelemetryWrapper, weights: Weights, pace: Rate, seed: int | None) -> tuple[float, bool]:
    """One episode; its return, and whether it lasted to the time limit. Each step pays 1."""
    observation, _ = env.reset(seed=seed)
    total_reward, terminated, truncated = 0.0, False, False
    while not (terminated or truncated):
        pace.wait()
        observation, reward, terminated, truncated, _ = env.step(int(weights @ observation > 0))
        total_reward += float(reward)
    return total_reward, truncated


def _report(worker: Worker, score: Score, noise: float, *, last: bool) -> None:
    if last or score.episodes % _REPORT_EPISODES == 0:
        worker.metric("noise", noise)
        worker.metric("success_rate", score.success_rate)
        worker.metric("mean_return", score.mean_return)
    if last or score.episodes % _LOG_EPISODES == 0:
        worker.log(f"after {score.episodes} episodes the mean return of the last 100 is {score.mean_return:.1f} of 500")


if __name__ == "__main__":
    sys.exit(run_from_command_line(train, "Hill climbing on CartPole-v1.", EPISODES))
