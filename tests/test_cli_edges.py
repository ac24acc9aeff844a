"""Every command with odd streams, locale, terminal or home: a result or a sentence, and its exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
from processes import TELEFABRIC, Service, free_ports, wait_for
from skips import requires
from slowness import patience

from telefabric_workers import connect

AT_ONCE = 4
FAILED = 1
INTERRUPTED = 128 + signal.SIGINT


class Odd(NamedTuple):
    """What is odd: in shell words after the command, and variables (None: unset)."""

    streams: str = ""
    environment: Mapping[str, str | None] = MappingProxyType({})

    @property
    def is_its_end(self) -> bool:
        """A command that has something to say ends by itself."""
        return ">&-" in self.streams.split() or ">/dev/full" in self.streams.split()


ODDITIES = {
    "nothing": Odd(),
    "closed stdout": Odd(">&- <&-"),
    "closed stderr, one column, C locale": Odd(
        "2>&-", {"COLUMNS": "1", "TERM": None, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": None}
    ),
    "all closed": Odd("<&- >&- 2>&-"),
    "full stdout": Odd(">/dev/full"),
    "full stderr, no columns, no home": Odd("2>/dev/full", {"COLUMNS": "0", "HOME": None}),
    "latin-1, a million columns": Odd("", {"PYTHONIOENCODING": "latin-1", "COLUMNS": "1000000", "FORCE_COLOR": "1"}),
    "a home that cannot be written, columns that are no number": Odd(
        "", {"HOME": "/proc/1/none", "COLUMNS": "wide", "TERM": "dumb", "NO_COLOR": "1"}
    ),
}
"""What does not get in each other's way is tried at once: each of them starts every command."""
COMMANDS = {
    "help": "--help",
    "status": "status --connect {url}",
    "doctor": "doctor --connect {url} --data {data}",
    "dump": "dump --store {data}",
    "dump of nothing": "dump --store {data} --run нет",
    "tail": "tail --no-follow -n 50 --store {data}",
    "spool drain": "spool drain --connect {url} --spool {data}/none",
    "ring list": "ring list",
    "runs list": "runs list --store {data} --json",
    "runs show": "runs show odd --connect {url}",
    "runs note": "runs note odd нет --connect {url}",
    "runs delete": "runs delete odd --connect {url}",
    "store verify": "store verify --store {data}",
    "store backup": "store backup {scratch}/{n}.sqlite --store {data}",
    "export csv": "export csv {scratch}/{n}.csv --store {data}",
    "demo": "demo --headless --episodes 1 --data {scratch}/{n}",
    "no such command": "frobnicate",
}
GO_ON = {
    "tail that follows": "tail --connect {url}",
    "tail from the start": "tail --from-start --run odd --connect {url}",
    "tail live": "tail --live --connect {url}",
    "status that goes on": "status --watch --connect {url}",
    "up": "up --listen tcp://127.0.0.1:{port} --data {scratch}/{n}",
    "store": "store --connect tcp://127.0.0.1:{port} --query tcp://127.0.0.1:0 --data {scratch}/{n}",
}
LONG = ("demo", "up")
"""They start several processes each, so of the environments they are tried in the usual one alone."""


class Done(NamedTuple):
    code: int
    stdout: bytes
    stderr: bytes


class Fabric(NamedTuple):
    """Broker and store that are up, and a worker that goes on emitting."""

    url: str
    data: Path
    scratch: Path

    def run(self, command: str, odd: Odd, n: int, *, goes_on: bool) -> Done:
        """In a shell, as a user would; one that goes on is interrupted once it has said something."""
        words = command.format(
            url=self.url, data=self.data, scratch=self.scratch, n=n, port=free_ports() if "{port}" in command else 0
        )
        outputs = [self.scratch / f"{n}.{name}" for name in ("stdout", "stderr")]
        script = f"exec {' '.join(TELEFABRIC)} {words} </dev/null >{outputs[0]} 2>{outputs[1]} {odd.streams}"
        environment = {**os.environ, **odd.environment}
        process = subprocess.Popen(
            ["sh", "-c", script],
            env={name: value for name, value in environment.items() if value is not None},
        )
        if goes_on and not odd.is_its_end:
            wait_for(lambda: process.poll() is not None or _size(outputs[0]), f"{command} with {odd} says something")
        return Done(
            _ended(process, interrupted=goes_on and not odd.is_its_end), *(output.read_bytes() for output in outputs)
        )


def _ended(process: subprocess.Popen[bytes], *, interrupted: bool) -> int:
    """Its exit code. Python loses a ^C that meets it in the end of an object; a user presses it again."""
    for _ in range(12):
        if interrupted and process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            return process.wait(patience(10))  # a second ^C may meet the very end, and is then what ended it
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    raise AssertionError(f"{process.args} does not end")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    data, scratch = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("scratch")
    command = [*TELEFABRIC, "up", "--listen", f"tcp://127.0.0.1:{free_ports()}", "--data", str(data)]
    with Service(command) as service, connect(service.url, run="odd", spool=scratch / "spool") as worker:
        for step in range(20):
            worker.step(episode=0, step=step, reward=0.5, observation="\u202f…нет")
        worker.set_metadata({"name": "нет…"})
        assert worker.flush(patience(30))
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(0.05):
                worker.log("нет… on and on")

        thread = threading.Thread(target=go_on)
        thread.start()
        yield Fabric(service.url, data, scratch)
        ended.set()
        thread.join()


@requires("av", "PIL")
@pytest.mark.parametrize("name", [*COMMANDS, *GO_ON])
def test_a_command_gives_a_result_or_a_sentence(name: str, fabric: Fabric) -> None:
    command, goes_on = (COMMANDS | GO_ON)[name], name in GO_ON
    offset = 1_000 * [*COMMANDS, *GO_ON].index(name)
    oddities = [odd for odd, how in ODDITIES.items() if name not in LONG or not how.environment]

    def tried(n: int) -> Done:
        return fabric.run(command, ODDITIES[oddities[n]], offset + n, goes_on=goes_on)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = dict(zip(oddities, pool.map(tried, range(len(oddities))), strict=True))
    usual = found["nothing"]
    assert usual.code in (0, FAILED, 2, INTERRUPTED)
    assert usual.stdout or usual.stderr
    assert {odd: done for odd, done in found.items() if not _is_right(odd, done, usual)} == {}


def _is_right(odd: str, done: Done, usual: Done) -> bool:
    said = done.stdout + done.stderr
    if b"Traceback" in said or b"Exception" in said:
        return False
    if "stdout" in odd and usual.stdout:
        return (done.code, done.stderr.count(b"the output cannot be written")) == (FAILED, 1)
    if "home that cannot be written" in odd and done.code == FAILED:
        return done.stderr.startswith(b"telefabric: ")
    if odd == "all closed":
        return done.code == (FAILED if usual.stdout else usual.code)
    return (done.code, bool(done.stdout)) == (usual.code, bool(usual.stdout))
