"""Real processes for tests: brokers, stores and workers that can be killed, and waiting with a deadline."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from slowness import patience

Found = TypeVar("Found")
PORTS = 8
"""A broker's own and those above it."""
TELEFABRIC = [sys.executable, "-m", "telefabric.cli.main"]


def wait_for(look: Callable[[], Found], what: str, timeout_s: float = 20.0) -> Found:
    """Ask again and again until the answer is true; fails with `what` after `timeout_s`, longer where all is slow."""
    began_s = time.monotonic()
    while True:
        asked_s = time.monotonic() - began_s  # before it looks: a look may take long itself
        found = look()
        if found:
            return found
        assert asked_s < timeout_s or asked_s < patience(timeout_s), f"not within {patience(timeout_s):.1f} s: {what}"
        time.sleep(0.01)


def free_ports() -> int:
    """A base port with all of a broker's free, below those that the system gives to anybody who asks for any.

    No other process that runs tests gets it before this process has ended.
    """
    for _ in range(1_000):
        base = random.randrange(10_000, 32_000, PORTS)
        if _reserve(base) and all(_is_free(base + offset) for offset in range(PORTS)):
            return base
    raise AssertionError(f"no {PORTS} free ports in a row")


def _reserve(base: int) -> bool:
    """Lock the byte of this number in a file that all tests of this user share; the lock ends with the process."""
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, base)
    except OSError:
        return False
    return True


@cache
def _reservations() -> int:
    """The file; nothing else here opens it, since closing it would end all locks of the process."""
    path = Path(tempfile.gettempdir()) / f"telefabric-tests-{os.getuid()}.ports"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Service:
    """One process that says ``ready`` on its standard output; killed at the end of a ``with`` block at the latest."""

    def __init__(
        self, command: Sequence[str], *, stderr: Path | None = None, env: dict[str, str] | None = None
    ) -> None:
        self.command = list(command)
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self._stderr = stderr
        self._env = {**os.environ, **(env or {})}

    def start(self) -> Service:
        """Start it and wait for its ready line."""
        errors = self._stderr.open("a") if self._stderr else None
        try:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True, env=self._env
            )
        finally:
            if errors:
                errors.close()
        assert self.process.stdout is not None
        word = "starting"
        while word == "starting":
            word, _, self.url = self.process.stdout.readline().strip().partition(" ")
        if word != "ready":
            code = self._end(signal.SIGKILL)
            raise AssertionError(f"{self.command} did not become ready (exit code {code})")
        return self

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        return self._end(signal.SIGTERM)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def _end(self, number: int) -> int:
        process = self.process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
        code = process.wait(patience(20))
        if process.stdout:
            process.stdout.close()
        self.process = None
        return code

    def __enter__(self) -> Service:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        if self.process is not None:
            self.signal(signal.SIGCONT)
        self.kill()


def broker(port: int, *more: str, **options: object) -> Service:
    command = [*TELEFABRIC, "broker", "--listen", f"tcp://127.0.0.1:{port}", *more]
    return Service(command, **options)  # type: ignore[arg-type]


def store(port: int, folder: Path, *more: str, **options: object) -> Service:
    command = [*TELEFABRIC, "store", "--connect", f"tcp://127.0.0.1:{port}", "--data", str(folder), *more]
    return Service([*command, "--query", "tcp://127.0.0.1:0"], **options)  # type: ignore[arg-type]


def run(
    *arguments: str, timeout_s: float = 60.0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A `telefabric` command as a new user would run it."""
    return subprocess.run(
        [*TELEFABRIC, *arguments],
        capture_output=True, text=True, timeout=patience(timeout_s), stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})}, check=False,
    )  # fmt: skip
