"""Hill climbing on CartPole-v1: keep a pole upright with four weights.

The policy pushes right when weights · observation > 0. Each episode tries the best weights so far plus noise, and keeps
them when they do at least as well. The noise halves after a success and doubles after a failure, so the search narrows
once it is on to something and widens when it is stuck.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from telefabric_workers.demo.training import Rate, Score, play, recorded, run_from_command_line
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
    env = recorded(worker, GAME_ID, "linear")
    search, pace, score = _Search(seed), Rate(rate), Score()
    for episode in range(episodes):
        search.propose()
        played = play(env, pace, seed if episode == 0 else None, search.act)
        search.judge(played.total_reward)
        score.add(played, success=played.truncated)
        _report(worker, score, search.noise, last=episode == episodes - 1)
    env.close()
    return score


class _Search:
    """The best weights, shape (4,), how far around them to look, and the weights that are tried now."""

    def __init__(self, seed: int) -> None:
        self.noise = _NOISE_FIRST
        self._random = np.random.default_rng(seed)
        self._best: Weights = self._random.uniform(-1.0, 1.0, 4)
        self._best_return = -np.inf
        self._tried = self._best

    def propose(self) -> None:
        self._tried = self._best + self.noise * self._random.uniform(-1.0, 1.0, 4)

    def act(self, observation: Weights) -> int:
        return int(self._tried @ observation > 0)

    def judge(self, total_reward: float) -> None:
        if total_reward >= self._best_return:
            self._best, self._best_return = self._tried, total_reward
            self.noise = max(_NOISE_MIN, self.noise / 2)
        else:
            self.noise = min(_NOISE_MAX, self.noise * 2)


def _report(worker: Worker, score: Score, noise: float, *, last: bool) -> None:
    if last or score.episodes % _REPORT_EPISODES == 0:
        worker.metrics({"noise": noise, "success_rate": score.success_rate, "mean_return": score.mean_return})
    if last or score.episodes % _LOG_EPISODES == 0:
        worker.log(f"after {score.episodes} episodes the mean return of the last 100 is {score.mean_return:.1f} of 500")


if __name__ == "__main__":
    sys.exit(run_from_command_line(train, "Hill climbing on CartPole-v1.", EPISODES))
