"""Child processes that are kept alive: started, restarted with back-off when they die, stopped together.

A part prints lines on its standard output while it starts: any number of ``starting WORDS``, such as
``starting migrating, 43 %``, and then ``ready URL``. It may take as long as it makes progress, as its lines show, or
what it reads, writes and computes; a part without either for `limits.START_SILENCE_S` is stuck. A part that ends by
itself before it ever was ready has printed the reason on standard error, and is not tried again; one that a signal
ended is always started again. A part that begins to say ``alive`` says it again and again, or it hangs. Parts hold a
pipe from us on their standard input and stop by themselves when it closes, so none outlives a supervisor that was
killed.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Self

from telefabric import limits
from telefabric.errors import EnvironmentProblem, PartFailed
from telefabric.log.events import EventLog
from telefabric.peer.core.backoff import Backoff
from telefabric.service.notify import Manager

log = EventLog("telefabric.supervisor")

_POLL_S = 0.05
_SETTLED_S = 10.0
"""The back-off of a part that has lived this long begins again."""
_TELL_S = 5.0
"""So often a start that goes on is logged."""
_INTERRUPTED = 128 + signal.SIGINT
"""The exit code of our parts at an interrupt."""


class _Child:
    """One process of a part, and how its start goes."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.url = ""
        """The name in the part's ready line."""
        self.unheard_s: float | None = None
        """For how long it has not said that it is alive, if it ever did; time in which we were away does not count."""
        self._looked_s = self.started_s = time.monotonic()
        self._name = name
        self.doing = self._told = "not ready yet"
        self._told_s = self._sign_s = self.started_s
        self._sign: tuple[object, ...] = ()
        threading.Thread(target=self._listen, name=f"start-of-{name}", daemon=True).start()

    def silent_s(self, now_s: float) -> float:
        """How long its start has shown no progress. Logs what it does, when that is new or takes long."""
        if self.doing != self._told or now_s - self._told_s > _TELL_S:
            self._told, self._told_s = self.doing, now_s
            log.info("part.starting", part=self._name, doing=self.doing, for_s=round(now_s - self.started_s, 1))
        sign = (self.doing, *_work_of(self.process.pid))
        if sign != self._sign:
            self._sign, self._sign_s = sign, now_s
        return now_s - self._sign_s

    def look(self, now_s: float) -> None:
        if self.unheard_s is not None:
            self.unheard_s += min(now_s - self._looked_s, 2 * _POLL_S)
        self._looked_s = now_s

    def stop(self, within_s: float, tell: Callable[[str, float], None]) -> None:
        """Close its pipe, which ends it; kill it when that takes too long. `tell` hears how long it still may take."""
        self.let_go()
        if not self.url:
            self.process.terminate()  # it serves nobody yet, and may be long in a migration
        until_s = time.monotonic() + within_s
        while (left_s := until_s - time.monotonic()) > 0:
            tell(f"waiting for the {self._name}", left_s)
            try:
                self.process.wait(min(left_s, _TELL_S))
                return
            except subprocess.TimeoutExpired:
                log.info("part.stopping", part=self._name, at_most_s=round(left_s, 1))
        log.error("part.killed", part=self._name, after_s=within_s)
        self.process.kill()
        self.process.wait()

    def let_go(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                word, _, rest = line.decode(errors="replace").strip().partition(" ")
                if word == "ready":
                    self.url = rest
                elif word == "starting":
                    self.doing = rest
                elif word == "alive":
                    self.unheard_s = 0.0


class Part:
    """One program. `command` is asked for at each start, so that it can name what is known by then."""

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        *,
        silence_s: float = limits.START_SILENCE_S,
        stop_s: float = limits.STOP_S,
        hang_s: float = math.inf,
    ) -> None:
        """`hang_s`: it is killed when it has not said for so long that it is alive."""
        self.name = name
        self.url = ""
        """The name in the part's newest ready line."""
        self.restarts = 0
        self._command = command
        self._silence_s = silence_s
        self._stop_s = stop_s
        self._hang_s = hang_s
        self._child: _Child | None = None
        self._backoff = Backoff(Random(os.urandom(8)))
        self._due_s = 0.0

    @property
    def doing(self) -> str:
        """What it does until it is ready."""
        return f"{self.name}: {self._child.doing if self._child else 'not started yet'}"

    @property
    def pid(self) -> int | None:
        return self._child.process.pid if self._child else None

    def is_up(self) -> bool:
        """Whether it has been ready; tends it. Raises as `tend` does."""
        self.tend()
        return bool(self.url)

    def tend(self) -> None:
        """Start it when it does not run and its wait is over; kill it when its start is stuck. Call it often.

        Raises `EnvironmentProblem` for a part that was never ready and will not come up by itself.
        """
        now = time.monotonic()
        child = self._child
        if child is None:
            if now >= self._due_s:
                self.restarts += self._due_s > 0
                self._child = _Child(self.name, self._command())
        elif (code := child.process.poll()) is not None:
            self._has_died(child, code, now)
        elif child.url:
            self.url = child.url
            child.look(now)
            if (child.unheard_s or 0.0) > self._hang_s:
                log.error("part.hangs", part=self.name, after_s=self._hang_s)
                child.process.kill()
                child.unheard_s = 0.0  # once is enough, though it may take a while to end
        elif child.silent_s(now) > self._silence_s:
            if not self.url:
                silence = f"it did nothing for {self._silence_s:g} s"
                raise EnvironmentProblem(f"the {self.name} did not start: {silence}: see what it logged")
            log.error("part.stuck", part=self.name, after_s=self._silence_s)
            child.process.kill()

    def stop(self, tell: Callable[[str, float], None] = lambda doing, needs_s: None) -> None:
        """End it, if it runs."""
        child, self._child = self._child, None
        if child is not None:
            child.stop(self._stop_s, tell)

    def reload(self) -> None:
        """Let it reread what it can; while it starts it reads that anyway."""
        if self._child is not None and self._child.url:
            self._child.process.send_signal(signal.SIGHUP)

    def _has_died(self, child: _Child, code: int, now: float) -> None:
        if not self.url and code >= 0 and code != _INTERRUPTED:
            raise _ended(self.name, code)
        if now - child.started_s > _SETTLED_S:
            self._backoff.reset()
        wait_s = self._backoff.next_s()
        log.warning("part.died", part=self.name, exit_code=code, restart_s=round(wait_s, 2))
        child.let_go()
        self._child = None
        self._due_s = now + wait_s


def _ended(name: str, code: int) -> EnvironmentProblem:
    """The error for a part that ended by itself before it was ready."""
    if code not in (1, 2):
        return EnvironmentProblem(f"the {name} ended with {code} before it was ready: see what it logged")
    problem = PartFailed(f"the {name} did not start: see its message above")
    problem.exit_code = code
    return problem


def _work_of(pid: int) -> tuple[object, ...]:
    """How much a process has read, written and computed so far; empty if the system does not show it."""
    try:
        counted = Path(f"/proc/{pid}/io").read_text("ascii").split()
        status = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return ()
    waits_for_disk = status[0] == "D"  # a sync of gigabytes counts nothing until it is done
    return counted[1], counted[3], status[11], status[12], waits_for_disk and time.monotonic()


class Supervisor:
    """Parts in their order of start; stopped in the reverse one. As a context manager it tends them in a thread.

    `manager` is that of this process.
    """

    def __init__(self, parts: Sequence[Part], manager: Manager | None = None) -> None:
        self._parts = list(parts)
        self._manager = Manager(environ={}) if manager is None else manager
        self._stopped = False  # an Event takes a lock, which the code that a signal interrupts may hold
        self._tending = threading.Thread(target=self.run, name="supervisor")

    def __enter__(self) -> Self:
        self.start()
        self._tending.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self._tending.join()

    def start(self) -> bool:
        """Start all, each when those before it are up; False when `stop` came first.

        When one does not come up, or ^C comes first, all are stopped. Raises `EnvironmentProblem`.
        """
        with ExitStack() as undo:
            undo.callback(self._stop_all)
            while not all(part.is_up() for part in self._parts):  # the earlier ones are tended by it
                self._manager.starting(next(part.doing for part in self._parts if not part.url))
                time.sleep(_POLL_S)
                if self._stopped:
                    return False
            undo.pop_all()
        return True

    def run(self) -> None:
        """Tend the parts until `stop`, then stop them."""
        try:
            while not self._stopped:
                self._manager.tend(time.monotonic_ns())
                for part in self._parts:
                    part.tend()
                time.sleep(_POLL_S)
        finally:
            self._stop_all()

    def stop(self) -> None:
        """End `start` or `run` soon. Any thread, and signal handlers."""
        self._stopped = True

    def reload(self) -> None:
        for part in self._parts:
            part.reload()

    def _stop_all(self) -> None:
        for part in reversed(self._parts):
            part.stop(self._manager.stopping)


def starting(words: str) -> None:
    """Print for the parent process what this process does before it can serve."""
    _tell(f"starting {words}")


def ready(url: str) -> None:
    """Print for the parent process that this process serves now. Raises `BrokenPipeError` when the parent is gone."""
    _tell(f"ready {url}")


def _tell(line: str) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())  # unbuffered: a failed write would leave the rest in a buffer


def stop_with_parent(stop: Callable[[], None]) -> None:
    """Call `stop` when standard input closes: the supervisor is gone."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4_096):
            pass
        stop()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
