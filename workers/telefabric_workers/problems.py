"""Values that a worker could not use: each counted by its name, and logged once."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Collection, Iterable
from typing import NamedTuple

from telefabric.errors import UsageError

log = logging.getLogger("telefabric.worker")

NAMES_MAX = 256
"""Names of problems of one worker: a name may be a key that the program makes up at each step."""


class Problem(NamedTuple):
    """One field that went without its value, and why."""

    kind: str
    field: str
    """The field with the path inside it: ``info.bad``."""
    why: str
    times: int = 1

    def name(self, known: Collection[str]) -> str:
        """The path of the problem; only its field if too many are `known`."""
        path = f"{self.kind}.{self.field}"
        if path in known or len(known) < NAMES_MAX:
            return path
        return f"{self.kind}.{self.field.partition('.')[0]}"


class Problems:
    """The problems of one worker. Any thread; do not call `say` while holding a lock: a log handler may emit.

    :param strict: a problem raises `UsageError` and is not counted, unless it is the worker's own.
    """

    def __init__(self, *, strict: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._strict = strict
        self._said: set[str] = set()
        self.unsaid: deque[tuple[str, str]] = deque()
        self._lock = threading.RLock()  # a signal handler may emit while its thread holds it

    def note(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            name = problem.name(self.counts)
            if self._strict and problem.kind != "worker":
                raise UsageError(f"{name} cannot be used: {problem.why}")
            with self._lock:
                self.counts[name] += problem.times
                if name not in self._said:
                    self._said.add(name)
                    self.unsaid.append((name, problem.why))

    def thinned(self, frames: int, mib: int) -> None:
        """So many frames of running episodes have gone, since together they were larger than `mib` MiB."""
        if not self.counts["frame.thinned"]:
            log.warning(
                "worker.frames_thinned: running episodes have more frames than %d MiB: of the largest every second one "
                "is left out (logged once; each time is counted)",
                mib,
            )
        self.counts["frame.thinned"] = frames

    def say(self) -> None:
        while self.unsaid:
            try:
                name, why = self.unsaid.popleft()
            except IndexError:  # another thread says it
                return
            if name == "worker.closed":
                log.warning("worker.closed: %s (logged once; each time is counted)", why)
            elif name == "worker.off":
                log.warning("worker.off: %s", why)
            elif name.startswith("callback."):
                log.warning("worker.callback_failed: %s: %s (logged once; each time is counted)", name, why)
            else:
                log.warning("worker.value_left_out: %s was left out: %s (logged once; each time is counted)", name, why)

    def forked(self) -> None:
        """In a forked child: a thread that is not here may hold the lock."""
        self._lock = threading.RLock()
