"""How far each hop of a stream's way is, and which is the first that is behind.

A hop has caught up when it reached what was at hand when it was last looked at; what came since does not count. So a
hop that is a batch behind a fast worker is well, and one that makes no headway is behind, however little it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from telefabric import limits


class Hop(NamedTuple):
    """One place on a stream's way, as `telefabric status` shows it."""

    name: str
    """worker, broker, the name of a durable subscriber, or that of a live one."""
    path: str
    """durable or live."""
    reached: int
    """durable: the last seq that is there; live: events that were delivered."""
    behind: int
    """Events that the hop before it has and this one has not."""
    behind_s: float
    """How long the hop has been behind; 0.0 when it is not."""
    dropped: int = 0

    @property
    def is_behind(self) -> bool:
        return self.behind_s > limits.BEHIND_S


class Lag:
    """The lag of one hop. Times are monotonic nanoseconds. Look at it about once a second."""

    __slots__ = ("_goal", "_since_ns")

    def __init__(self) -> None:
        self._goal = 0
        self._since_ns = 0

    def look(self, reached: int, goal: int, now_ns: int) -> float:
        """Seconds since the hop was last not behind; `goal` is the seq that the hop before it has reached."""
        if reached >= self._goal:
            self._goal = goal
            self._since_ns = now_ns
        elif goal < self._goal:  # back to an earlier place: a rewind, a restored store
            self._goal = goal
        return 0.0 if reached >= goal else (now_ns - self._since_ns) / limits.NS


def first_behind(hops: Iterable[Hop]) -> Hop | None:
    """The hop at which a stream waits.

    A broker waits for credit when a durable subscriber is behind, so these come first: the broker itself is behind
    when they have all that it has.
    """
    behind = (hop for hop in hops if hop.is_behind)
    return min(behind, key=lambda hop: (hop.path != "durable", hop.name in ("worker", "broker")), default=None)
