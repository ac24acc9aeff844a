"""What the hooks of one process share: its worker, the numbers of its environments, what they count and report."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter

from telefabric_workers.connection import connect
from telefabric_workers.run.auto import hook
from telefabric_workers.worker import Worker

_CLAIM = "environment-"


class Session:
    """Any thread. A forked child has a copy of its own, which begins without environments."""

    def __init__(self) -> None:
        self.silent = False
        """This process steps an environment of a vector env, whose constructor has started it."""
        self.seen: Counter[str] = Counter()
        """Environments by their library, values by that of their writer, such as ``environment of gymnasium``."""
        self.left = 0
        """Environments that the program itself has wrapped in an adapter."""
        self._claimed = 0
        self._free: list[tuple[int, int]] = []
        self._worker: Worker | None = None
        self._lock = threading.RLock()
        self._failures = 0
        self._first_failure = ""
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    @property
    def worker(self) -> Worker:
        with self._lock:
            if self._worker is None:
                self._worker = connect(on_error="off")
            return self._worker

    def open(self) -> None:
        """Open the stream before children of the program are started, so that theirs help it."""
        _ = self.worker

    def take_places(self, count: int) -> list[tuple[int, int]]:
        """The env_index of each of `count` environments, and the number of its first episode.

        An environment that has ended leaves its index to the next one, which goes on counting its episodes. All
        processes of a program have the same agent, so none takes an index of another's.
        """
        with self._lock:
            self._free.sort(reverse=True)
            again = [self._free.pop() for _ in range(min(count, len(self._free)))]
            new = [(_claim(_first_index()), 0) for _ in range(count - len(again))]
            self._claimed += len(new)
            return again + new

    def give_back(self, places: list[tuple[int, int]]) -> None:
        self._free += places  # without the lock: the collector of garbage may call this at any moment

    def failed(self, error: Exception) -> None:
        """An error of our own in the midst of the program's call, which goes on."""
        self._first_failure = self._first_failure or repr(error)
        self._failures += 1

    def summary(self) -> str:
        """A sentence on what was recorded, and on what could not be."""
        seen = [_counted(number, what) for what, number in sorted(self.seen.items())]
        elsewhere = len([name for name in os.listdir(_folder()) if name.startswith(_CLAIM)]) - self._claimed
        if elsewhere:
            seen.append(_counted(elsewhere, "environment of other processes"))
        worker = self._worker
        left = f"left {_counted(self.left, 'environment')} to the program's own adapters" if self.left else ""
        mode = worker._terms.environment.mode if worker else ""
        if mode == "off":
            said = "recorded nothing: the worker is off"
        elif not seen:
            said = left or "recorded nothing: no environment was reset, and no value was written"
        elif worker is None:
            said = f"recorded {', '.join(seen)}"
        else:
            did = "checked" if mode == "dry-run" else "recorded"
            counts = f"{_counted(worker._step_count, 'step')}, {_counted(worker._episode_count, 'episode')}"
            said = f"{did} run {worker.run_id}: {', '.join(seen)}; {counts}{' of this one' if elsewhere else ''}"
        if seen and left:
            said += f"; {left}"
        if self._failures:
            said += f"; {_counted(self._failures, 'call')} not recorded, first: {self._first_failure}"
        return said

    def _forked(self) -> None:
        self._lock = threading.RLock()
        self.seen.clear()
        self.left = 0
        self._claimed = 0
        self._free.clear()
        self._failures = 0


def _folder() -> str:
    return os.environ[hook.VARIABLE]


def _first_index() -> int:
    """The index that a process asks for: `multiprocessing` numbers its children from 1."""
    process = sys.modules.get("multiprocessing.process")
    identity = getattr(process.current_process(), "_identity", ()) if process else ()
    return int(identity[-1]) - 1 if identity else 0


def _claim(index: int) -> int:
    """The first free index from this one on, among all processes of the program."""
    while True:
        try:
            with open(os.path.join(_folder(), f"{_CLAIM}{index}"), "x"):
                return index
        except FileExistsError:
            index += 1


def _counted(number: int, what: str) -> str:
    noun, of, rest = what.partition(" of ")
    return f"{number} {noun}{'' if number == 1 else 's'}{of}{rest}"


session = Session()
