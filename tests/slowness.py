"""How slow this machine is now, so that a test that waits fails for what does not happen and not for what is late.

Deadlines in the tests are those of a machine at rest that takes `_TURNS_S` for a small computation and `_START_S` to
start Python. A slower one is given more, in proportion; so is one on which more programs want to run than it has cores.
Deadlines that are promises to users (a latency, a length of a pause) are not scaled: such tests are marked ``alone``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache

_TURNS_S = 0.007
_START_S = 0.009
_MOST = 10.0
"""A test that hangs is to end, too."""


def patience(deadline: float) -> float:
    """So long, in the same unit, one waits on this machine for what takes `deadline` at most on one at rest."""
    return deadline * min(_MOST, _machine() * _crowd())


@cache
def _machine() -> float:
    """Measured once a process: the best of three, as others may have run meanwhile; they count in `_crowd`."""
    return max(1.0, min(_took(_turns) for _ in range(3)) / _TURNS_S, min(_took(_start) for _ in range(3)) / _START_S)


def _crowd() -> float:
    """How many programs there are to each core, in the last minute."""
    try:
        return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    except OSError:
        return 1.0


def _took(work: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def _turns() -> None:
    total = 0
    for number in range(200_000):
        total += number * number


def _start() -> None:
    subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
