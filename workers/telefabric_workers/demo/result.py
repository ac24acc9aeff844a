"""The result of a demo run, and the command line that runs one."""

from __future__ import annotations

import argparse
import math
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from telefabric.errors import TelefabricError
from telefabric_workers.connection import connect

WINDOW_EPISODES = 100
"""Episodes that success rate and mean return look back on."""
_INTERRUPTED = 130


@dataclass
class Score:
    """Counts episodes and steps. `success_rate` (0 to 1) and `mean_return` are those of the last 100 episodes."""

    episodes: int = 0
    steps: int = 0
    _successes: deque[bool] = field(default_factory=partial(deque, maxlen=WINDOW_EPISODES))
    _returns: deque[float] = field(default_factory=partial(deque, maxlen=WINDOW_EPISODES))

    def add(self, total_reward: float, length: int, success: bool) -> None:
        """Count one finished episode."""
        self.episodes += 1
        self.steps += length
        self._successes.append(success)
        self._returns.append(total_reward)

    @property
    def success_rate(self) -> float:
        return sum(self._successes) / max(1, len(self._successes))

    @property
    def mean_return(self) -> float:
        return sum(self._returns) / max(1, len(self._returns))


def run_from_command_line(train: Callable[..., Score], description: str, episodes: int) -> int:
    """Train with a worker that the environment describes (``TELEFABRIC_CONNECT`` …). Returns the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--episodes", type=_count, default=episodes, help="how many (%(default)s)")
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


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _rate(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a rate: give a number over 0")
    return number
