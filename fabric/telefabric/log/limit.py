"""Warnings that cannot flood a log: one a second of each event name, and the next says how many were left out.

A log line of this project begins with its event name: the whole of it (``store.failed``), or what stands before the
colon (``link.refused: …``).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict

from telefabric import limits
from telefabric.log.thread import write_later

_INTERVAL_NS = int(limits.LOG_INTERVAL_S * 1e9)
NAMES_MAX = 1_000
"""Names that are remembered; ours are some dozens."""


class Pace:
    """A limit per second: a call that comes a little late does not delay the next. Times are nanoseconds."""

    def __init__(self, per_second: float) -> None:
        self._interval_ns = int(1e9 / per_second)
        self._due_ns = 0

    def due(self, now_ns: int) -> bool:
        return now_ns >= self._due_ns

    def take(self, now_ns: int) -> bool:
        """Whether a call is due; if so, it is this one."""
        late = now_ns - self._due_ns
        if late < 0:
            return False
        self._due_ns = now_ns + self._interval_ns - (late if late < self._interval_ns else 0)
        return True

    def took(self, now_ns: int) -> None:
        late = now_ns - self._due_ns
        self._due_ns = now_ns + self._interval_ns - (late if late < self._interval_ns else 0)


class RateLimit:
    """Decides which lines are said. Times are monotonic nanoseconds. Not thread-safe."""

    def __init__(self, interval_ns: int = _INTERVAL_NS) -> None:
        self._interval_ns = interval_ns
        self._said: OrderedDict[str, list[int]] = OrderedDict()
        """Name → when the line was last logged, and how many were left out since."""

    def admit(self, name: str, now_ns: int) -> int | None:
        """How many of this name were left out before this one; None when this one is left out, too."""
        said = self._said.get(name)
        if said is None:
            self._said[name] = [now_ns, 0]
            if len(self._said) > NAMES_MAX:
                self._said.popitem(last=False)
            return 0
        if now_ns - said[0] < self._interval_ns:
            said[1] += 1
            return None
        left_out = said[1]
        said[:] = now_ns, 0
        self._said.move_to_end(name)
        return left_out


class LimitWarnings(logging.Filter):
    """Holds a `RateLimit` to a logger's warnings and errors. Any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._begin()
        if hasattr(os, "register_at_fork"):  # a lock that was held at a fork would be so in the child for ever
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._limit = RateLimit()
        self._lock = threading.RLock()  # a signal handler may log while its thread does

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        with self._lock:
            left_out = self._limit.admit(event_name(str(record.msg)), time.monotonic_ns())
        if left_out:
            record.msg = f"{record.getMessage()}{left_out_mark(left_out)}"
            record.args = ()
            record.left_out = left_out
        return left_out is not None


def event_name(message: str) -> str:
    return message.partition(":")[0]


def left_out_mark(left_out: int) -> str:
    """The end of a line for people: how many were left out."""
    return f" (left_out={left_out})"


def library_logger(name: str) -> logging.Logger:
    """A standard logger of a part that runs in the user's process, too; its warnings are limited, and written later."""
    logger = logging.getLogger(name)
    if not any(isinstance(one, LimitWarnings) for one in logger.filters):
        logger.addFilter(LimitWarnings())
        write_later(logger)
    return logger
