"""Child processes that are kept alive: started, restarted with back-off when they die, stopped together.

A part says on its standard output that it is ready, in one line ``ready URL``; a part that ends before it ever was
ready has told why on standard error, and is not tried again. Parts hold a pipe from us on their standard input and stop
by themselves when it closes, so none outlives a supervisor that was killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from random import Random

import structlog

from telefabric.errors import EnvironmentProblem, PartFailed
from telefabric.session.backoff import Backoff

log = structlog.get_logger("telefabric.supervisor")

_READY_S = 20.0
_STOP_S = 10.0
_POLL_S = 0.05
_SETTLED_S = 10.0
"""A part that lived so long starts its back-off anew."""


class Part:
    """One child process. `command` is asked for at each start, so that it can name what is known by then."""

    def __init__(self, name: str, command: Callable[[], Sequence[str]]) -> None:
        self.name = name
        self.url = ""
        """What its ready line named."""
        self.restarts = 0
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff(Random(os.urandom(8)))
        self._started_s = 0.0
        self._due_s = 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it and wait until it is ready. Raises `EnvironmentProblem` when it ends or hangs before that."""
        self._spawn()
        self._await_ready()

    def tend(self) -> None:
        """Restart it when it has died and its wait is over. Call it often."""
        now = time.monotonic()
        if self._process is not None and self._process.poll() is not None:
            if now - self._started_s > _SETTLED_S:
                self._backoff.reset()
            wait_s = self._backoff.next_s()
            code = self._process.returncode
            log.warning("part.died", part=self.name, exit_code=code, restart_s=round(wait_s, 2))
            self._close_pipes()
            self._process = None
            self._due_s = now + wait_s
        if self._process is None and now >= self._due_s:
            self.restarts += 1
            self._spawn()
            threading.Thread(target=self._read_ready, name=f"ready-{self.name}", daemon=True).start()

    def stop(self) -> None:
        """Close its pipe, which ends it; kill it when that takes too long."""
        process = self._process
        if process is None:
            return
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            log.error("part.killed", part=self.name, after_s=_STOP_S)
            process.kill()
            process.wait()
        self._close_pipes()
        self._process = None

    def _spawn(self) -> None:
        self._started_s = time.monotonic()
        self._process = subprocess.Popen(self._command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _await_ready(self) -> None:
        reader = threading.Thread(target=self._read_ready, name=f"ready-{self.name}", daemon=True)
        reader.start()
        reader.join(_READY_S)
        if self.url:
            return
        process = self._process
        assert process is not None
        code = process.poll() if reader.is_alive() else process.wait()
        self.stop()
        if code is None:
            raise EnvironmentProblem(f"the {self.name} did not start within {_READY_S:.0f} s: see what it logged")
        if code not in (1, 2):
            raise EnvironmentProblem(f"the {self.name} ended with {code} before it was ready: see what it logged")
        problem = PartFailed(f"the {self.name} did not start: see its message above")
        problem.exit_code = code
        raise problem

    def _read_ready(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        word, _, url = process.stdout.readline().decode().strip().partition(" ")
        if word == "ready":
            self.url = url

    def _close_pipes(self) -> None:
        assert self._process is not None
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


class Supervisor:
    """Parts in their order of start; stopped in the reverse one."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = list(parts)
        self._stop = threading.Event()

    def start(self) -> None:
        """Start all; when one does not come up, or ^C comes first, stop all. Raises `EnvironmentProblem`."""
        try:
            for part in self._parts:
                part.start()
        except BaseException:
            for part in reversed(self._parts):
                part.stop()
            raise

    def run(self) -> None:
        """Tend the parts until `stop`, then stop them."""
        try:
            while not self._stop.wait(_POLL_S):
                for part in self._parts:
                    part.tend()
        finally:
            for part in reversed(self._parts):
                part.stop()

    def stop(self) -> None:
        """End `run` soon. Any thread, and signal handlers."""
        self._stop.set()


def ready(url: str) -> None:
    """Tell whoever started this process that it serves now."""
    print(f"ready {url}", flush=True)


def stop_with_parent(stop: Callable[[], None]) -> None:
    """Call `stop` when standard input closes: the supervisor is gone."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4_096):
            pass
        stop()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
