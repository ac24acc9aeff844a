"""Tabular Q-learning on FrozenLake-v1: cross a lake of 4 by 4 fields without falling in.

Q(s, a) moves by a part of its error towards r + discount * max Q(s', .) (Watkins and Dayan, "Q-learning", 1992). The
table begins optimistic, so what has not been tried yet looks good. Actions are greedy but for a share epsilon, which
falls as the episodes go by; equal values are chosen among by chance.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from telefabric_workers.demo.training import Rate, Score, play, recorded, run_from_command_line
from telefabric_workers.worker import Worker

GAME_ID = "FrozenLake-v1"
EPISODES = 2_000
_LEARNING_RATE = 0.2
_DISCOUNT = 0.95
_OPTIMISM = 0.5
_EPSILON_FIRST, _EPSILON_LAST = 0.5, 0.01
_EPSILON_FALLS_UNTIL = 0.5
"""Share of the episodes after which epsilon is at its lowest."""
_REPORT_EPISODES = 10
_LOG_EPISODES = 200

Table = npt.NDArray[np.float64]


def train(
    worker: Worker, *, episodes: int = EPISODES, seed: int = 0, rate: float | None = None, is_slippery: bool = False
) -> Score:
    """Learn for `episodes`, at most `rate` steps a second; the same seed gives the same run. Success is the goal."""
    worker.set_metadata(game_id=GAME_ID, algorithm="q-learning", seed=seed, is_slippery=is_slippery)
    env = recorded(worker, GAME_ID, "q-table", is_slippery=is_slippery)
    learner, pace, score = _Learner(16, 4, seed), Rate(rate), Score()
    for episode in range(episodes):
        learner.epsilon = max(_EPSILON_LAST, _EPSILON_FIRST * (1.0 - episode / (episodes * _EPSILON_FALLS_UNTIL)))
        played = play(env, pace, seed if episode == 0 else None, learner.act, learner.learn)
        score.add(played, success=played.total_reward > 0)
        _report(worker, score, learner.epsilon, last=episode == episodes - 1)
    env.close()
    return score


class _Learner:
    """Q-table of shape (states, actions) and the epsilon-greedy policy on it."""

    def __init__(self, states: int, actions: int, seed: int) -> None:
        self.table: Table = np.full((states, actions), _OPTIMISM)
        self.epsilon = _EPSILON_FIRST
        self._random = np.random.default_rng(seed)

    def act(self, state: int) -> int:
        if self._random.random() < self.epsilon:
            return int(self._random.integers(self.table.shape[1]))
        values = self.table[state]
        return int(self._random.choice(np.flatnonzero(values == values.max())))

    def learn(self, state: int, action: int, reward: float, following: int, terminated: bool) -> None:
        target = reward if terminated else reward + _DISCOUNT * float(self.table[following].max())
        self.table[state, action] += _LEARNING_RATE * (target - self.table[state, action])


def _report(worker: Worker, score: Score, epsilon: float, *, last: bool) -> None:
    if last or score.episodes % _REPORT_EPISODES == 0:
        worker.metrics({"epsilon": epsilon, "success_rate": score.success_rate})
    if last or score.episodes % _LOG_EPISODES == 0:
        worker.log(f"after {score.episodes} episodes {score.success_rate:.0%} of the last 100 reached the goal")


if __name__ == "__main__":
    sys.exit(run_from_command_line(train, "Tabular Q-learning on FrozenLake-v1.", EPISODES))
