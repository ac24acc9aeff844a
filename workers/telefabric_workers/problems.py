"""Values that a worker could not use: each counted by its name, and logged once."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple

from telefabric.errors import UsageError

log = logging.getLogger("telefabric.worker")


class Problem(NamedTuple):
    """One field that went without its value, and why."""

    kind: str
    field: str
    why: str

    @property
    def name(self) -> str:
        return f"{self.kind}.{self.field}"


class Problems:
    """Of one worker. Any thread; `say` never while a lock is held, for a log handler may itself emit.

    :param strict: a problem raises `UsageError` and is not counted, unless it is the worker's own.
    """

    def __init__(self, *, strict: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._strict = strict
        self._said: set[str] = set()
        self._unsaid: deque[Problem] = deque()
        self._lock = threading.RLock()  # a signal handler may emit while its thread holds it

    def note(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            if self._strict and problem.kind != "worker":
                raise UsageError(f"{problem.name} cannot be used: {problem.why}")
            with self._lock:
                self.counts[problem.name] += 1
                if problem.name not in self._said:
                    self._said.add(problem.name)
                    self._unsaid.append(problem)

    @property
    def unsaid(self) -> bool:
        return bool(self._unsaid)

    def thinned(self, frames: int, mib: int) -> None:
        """So many frames of running episodes have gone, since together they were larger than `mib` MiB."""
        if not self.counts["frame.thinned"]:
            log.warning(
                "worker.frames_thinned: running episodes have more frames than %d MiB: of the largest every second one "
                "goes (told once; counted in worker.problems)",
                mib,
            )
        self.counts["frame.thinned"] = frames

    def say(self) -> None:
        while self._unsaid:
            try:
                problem = self._unsaid.popleft()
            except IndexError:  # another thread says it
                return
            log.warning(
                "worker.value_left_out: %s goes without its value: %s (told once; counted in worker.problems)",
                problem.name,
                problem.why,
            )

    def forked(self) -> None:
        """In a forked child: a thread that is not here may hold the lock."""
        self._lock = threading.RLock()
