"""What the tasks share: a recorded environment, an episode of it, the score of a run, and a command line."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import gymnasium

from telefabric.errors import TelefabricError
from telefabric_workers.connection import connect
from telefabric_workers.integrations.gym import TelemetryWrapper
from telefabric_workers.worker import Worker

WINDOW_EPISODES = 100
"""Episodes that success rate and mean return look back on."""
_CATCH_UP_S = 1.0
"""A program that was suspended does not hurry through more than this afterwards."""
_INTERRUPTED = 130
_WITHOUT_A_SCREEN = {
    "SDL_VIDEODRIVER": "dummy",
    "SDL_AUDIODRIVER": "dummy",
    "SDL_NO_SIGNAL_HANDLERS": "1",  # else ^C and SIGTERM no longer end the program
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
}
"""For pygame, with which gymnasium draws: it opens screen and sound, and greets on standard output."""


class Played(NamedTuple):
    """One episode."""

    total_reward: float
    length: int
    truncated: bool


@dataclass
class Score:
    """Counts episodes and steps. `success_rate` (0 to 1) and `mean_return` are those of the last 100 episodes."""

    episodes: int = 0
    steps: int = 0
    _successes: deque[bool] = field(default_factory=partial(deque, maxlen=WINDOW_EPISODES))
    _returns: deque[float] = field(default_factory=partial(deque, maxlen=WINDOW_EPISODES))

    def add(self, played: Played, *, success: bool) -> None:
        self.episodes += 1
        self.steps += played.length
        self._successes.append(success)
        self._returns.append(played.total_reward)

    @property
    def success_rate(self) -> float:
        return sum(self._successes) / max(1, len(self._successes))

    @property
    def mean_return(self) -> float:
        return sum(self._returns) / max(1, len(self._returns))


def recorded(worker: Worker, game_id: str, policy_label: str, **options: Any) -> TelemetryWrapper:
    """An environment that draws without a screen; what the user has set for that stays."""
    for variable, value in _WITHOUT_A_SCREEN.items():
        os.environ.setdefault(variable, value)
    env = gymnasium.make(game_id, render_mode="rgb_array", **options)
    return TelemetryWrapper(env, worker, control_mode="agent", policy_label=policy_label)


def play(
    env: TelemetryWrapper,
    pace: Rate,
    seed: int | None,
    act: Callable[[Any], int],
    learn: Callable[[Any, int, float, Any, bool], None] | None = None,
) -> Played:
    """One episode, in which `act` chooses by the observation and `learn` is given each step."""
    observation, _ = env.reset(seed=seed)
    total_reward, length, terminated, truncated = 0.0, 0, False, False
    while not (terminated or truncated):
        pace.wait()
        action = act(observation)
        following, reward, terminated, truncated, _ = env.step(action)
        if learn is not None:
            learn(observation, action, float(reward), following, terminated)
        observation = following
        total_reward += float(reward)
        length += 1
    return Played(total_reward, length, truncated)


def run_from_command_line(train: Callable[..., Score], description: str, episodes: int) -> int:
    """Train with a worker that the environment describes (``TELEFABRIC_CONNECT`` …). Returns the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--episodes", type=partial(_whole, low=1), default=episodes, help="how many (%(default)s)")
    parser.add_argument("--seed", type=_whole, default=0, help="same seed, same run (%(default)s)")
    parser.add_argument("--rate", type=_rate, default=None, help="steps a second; as fast as it goes by default")
    options = parser.parse_args()
    try:
        with connect() as worker:
            result = train(worker, episodes=options.episodes, seed=options.seed, rate=options.rate)
    except TelefabricError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    print(
        f"{result.episodes} episodes, {result.steps} steps; of the last {WINDOW_EPISODES}: "
        f"success rate {result.success_rate:.2f}, mean return {result.mean_return:.2f}"
    )
    return 0


def _whole(text: str, low: int = 0) -> int:
    if int(text) < low:
        raise argparse.ArgumentTypeError(f"{text} is less than {low}")
    return int(text)


def _rate(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a rate: give a number over 0")
    return number


class Rate:
    """Paces a loop at `per_s` turns a second; None for as fast as it goes. One thread.

    By deadline: a turn that took long is followed by shorter waits, so the mean rate holds and errors do not add up.
    """

    def __init__(self, per_s: float | None) -> None:
        self._interval_s = 1.0 / per_s if per_s else 0.0
        self._due_s: float | None = None

    def wait(self) -> None:
        """Called once a turn: return when the next one is due. The first is due at once."""
        if not self._interval_s:
            return
        now_s = time.monotonic()
        if self._due_s is None:
            self._due_s = now_s
        elif now_s < self._due_s:
            time.sleep(self._due_s - now_s)
        self._due_s = max(self._due_s, now_s - _CATCH_UP_S) + self._interval_s
