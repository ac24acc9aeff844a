"""A process that records training steps in one of the ways of recorders.py, and that can be killed."""

from __future__ import annotations

import json
import mmap
import os
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from figures import percentile
from recorders import OURS, WAYS, Sink

BARE = "bare loop"
MANNERS: dict[str, tuple[int, float]] = {"back to back": (1_000, 0.0), "1,000 steps/s": (500, 1_000.0)}
"""Steps of a round, and how many a second."""
PATIENCE_S = 60.0
OBSERVATION_BYTES = 64


class Failed(Exception):
    """With what the program said at last."""


class Round(NamedTuple):
    p50_us: float
    p99_us: float
    cpu_us: float
    """A step, of all processes that have to do with it."""


class Program:
    """A context manager. Ours has a broker and a store beside it."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._kept, self._said = name, folder / "kept", folder / "said"
        self._returned, self._count = folder / "returned", WAYS[name].count if name in WAYS else None
        self._services: list[int] = []
        self._environ = dict(os.environ)
        self._stack = ExitStack()

    def __enter__(self) -> Program:
        self._kept.mkdir(parents=True)
        self._returned.write_bytes(bytes(8))
        if self._name == OURS:
            self._serve()
        command = [sys.executable, __file__, self._name, str(self._kept), str(self._returned)]
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                command, env=self._environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
            )
        self._stack.callback(self._process.communicate)
        self._stack.callback(self._process.kill)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def rounds(self) -> dict[str, Round]:
        """One of each manner."""
        self._ask("")  # it has started
        return {manner: self._round(manner) for manner in MANNERS}

    def finish(self, steps_min: int) -> float:
        """End well after at least this many steps; the bytes on disk for each step, all of which are there."""
        while self._ask("") < steps_min:
            self._ask("back to back")
        steps: int = self._ask("close")
        self._process.communicate(timeout=PATIENCE_S)
        self._stack.close()
        if self._count is not None and (found := self._count(self._kept)) != steps:
            raise Failed(f"it has {found} steps of {steps}")
        return sum(path.stat().st_size for path in self._kept.rglob("*") if path.is_file()) / steps

    def kill(self, after: int) -> int:
        """How many steps are lost of those whose calls had returned."""
        self._ask("")
        processes = self._pids()
        self._tell("until killed")
        self._wait(lambda: self._returned_steps() >= after)
        self._process.kill()
        self._process.wait()
        if self._name == OURS:  # as the next worker on this machine would
            command = [sys.executable, "-m", "telefabric.cli.main", "spool", "drain"]
            subprocess.run(command, env=self._environ, check=True, stdout=subprocess.DEVNULL)
        self._wait(lambda: not cpu_s(set(processes) - set(self._services)))
        self._stack.close()
        assert self._count is not None
        return max(self._returned_steps() - self._count(self._kept), 0)

    def _round(self, manner: str) -> Round:
        before = cpu_s(self._pids())
        calls: list[int] = self._ask(manner)
        took_s = sum(spent - before.get(pid, 0.0) for pid, spent in cpu_s(self._pids()).items())
        return Round(percentile(calls, 0.50) / 1e3, percentile(calls, 0.99) / 1e3, 1e6 * took_s / len(calls))

    def _serve(self) -> None:
        from telefabric.address import Address
        from telefabric.service.embedded import Services

        services = self._stack.enter_context(Services(Address("127.0.0.1", 0), self._kept / "data", log_level="error"))
        self._services = [part.pid for part in (services.broker, services.store) if part.pid is not None]
        self._environ["TELEFABRIC_CONNECT"] = services.address.url
        self._environ["TELEFABRIC_SPOOL"] = str(self._kept / "spool")

    def _pids(self) -> list[int]:
        return [*descendants(self._process.pid), *self._services]

    def _returned_steps(self) -> int:
        if self._process.poll() not in (None, -9):
            raise self._failure()
        return int.from_bytes(self._returned.read_bytes(), "little")

    def _tell(self, question: str) -> None:
        assert self._process.stdin is not None
        try:
            print(question, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._failure() from None

    def _ask(self, question: str) -> Any:
        self._tell(question)
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise self._failure()
        return json.loads(answer)

    def _wait(self, look: Any) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not look():
            if time.monotonic() > deadline:
                raise Failed(f"it did not get on within {PATIENCE_S:.0f} s")
            time.sleep(0.01)

    def _failure(self) -> Failed:
        self._process.wait()
        return Failed((self._said.read_text().strip() or "it has ended").splitlines()[-1])


def descendants(pid: int) -> list[int]:
    children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")).split()
    return [pid, *(each for child in children for each in descendants(int(child)))]


def cpu_s(pids: Any) -> dict[int, float]:
    """Of each that lives, to the nanosecond: the clock that clock_getcpuclockid(3) gives."""
    found = {}
    for pid in pids:
        try:
            found[pid] = time.clock_gettime(~pid << 3 | 2)
        except OSError:
            pass  # it has ended
    return found


# -- in that process ---------------------------------------------------------------------------------------------
def main(name: str, folder: Path, returned: Path) -> None:
    with os.fdopen(os.dup(1), "w") as answers, returned.open("r+b") as file:
        os.dup2(2, 1)  # what a library prints is no answer
        counter = mmap.mmap(file.fileno(), 8)
        parent = os.getppid()
        sink = WAYS[name].open(folder) if name in WAYS else Sink(lambda *_: None)
        steps = len(recorded(sink, 0, 20, 0.0))
        sink.settle()
        for line in sys.stdin:
            answer: Any = steps
            if (question := line.strip()) in MANNERS:
                answer = recorded(sink, steps, *MANNERS[question])
                steps += len(answer)
                sink.settle()
            elif question == "close":
                sink.close()
            while question == "until killed" and os.getppid() == parent:
                steps += len(recorded(sink, steps, 1, 1_000.0))
                counter[:] = steps.to_bytes(8, "little")
            print(json.dumps(answer), file=answers, flush=True)


def recorded(sink: Sink, begin: int, count: int, a_second: float) -> list[int]:
    """Nanoseconds of each call, the clock's own cost included."""
    observations = random.Random(begin).randbytes(count * OBSERVATION_BYTES)
    clock, calls, began_s = time.perf_counter_ns, [], time.perf_counter()
    for step in range(begin, begin + count):
        observation = observations[(step - begin) * OBSERVATION_BYTES :][:OBSERVATION_BYTES]
        scalars = {"loss": 1 / (step + 1), "value": 0.25 * step, "entropy": 0.7}
        before = clock()
        sink.record(step, 0.5, scalars, observation)
        calls.append(clock() - before)
        if a_second:
            time.sleep(max(began_s + (step + 1 - begin) / a_second - time.perf_counter(), 0.0))
    return calls


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
