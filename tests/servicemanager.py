"""Stands in for systemd: starts a command with a notify socket, hears what it says, and starts it again."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from processes import wait_for
from slowness import patience

Message = dict[str, str]


class ServiceManager:
    """A context manager; nothing of what it started is left afterwards.

    `said` has each message of the main process since its start, in order. As NotifyAccess=main wants, what another
    process sends is not heard, but counted in `strangers`.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, *, watchdog_s: float = 2.0, abstract: bool = False
    ) -> None:
        self.said: list[Message] = []
        self.strangers = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "log"
        self._command = list(command)
        self._name = f"@telefabric-test-{os.getpid()}-{id(self)}" if abstract else str(folder / "notify")
        self._watchdog_s = watchdog_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self._name.replace("@", "\0", 1))
        self._ended = threading.Event()
        self._listening = threading.Thread(target=self._listen, name="service-manager")

    def __enter__(self) -> ServiceManager:
        self._listening.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self._ended.set()
        self._listening.join()
        self._socket.close()

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.said.clear()
        environment = {**os.environ, "NOTIFY_SOCKET": self._name, "WATCHDOG_USEC": f"{self._watchdog_s * 1e6:.0f}"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.wait_for("READY", "1")

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(patience(20))

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.signal(signal.SIGTERM)
        assert self.process is not None
        return self.process.wait(patience(60))

    def values(self, key: str) -> list[str]:
        return [message[key] for message in list(self.said) if key in message]

    def wait_for(self, key: str, value: str, times: int = 1) -> None:
        wait_for(lambda: self.values(key).count(value) >= times or self._has_ended(), f"{key}={value} in {self.said}")
        assert self.values(key).count(value) >= times, self.log.read_text()

    def _has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def _listen(self) -> None:
        while not self._ended.is_set():
            if not select.select([self._socket], [], [], 0.05)[0]:
                continue
            data, ancillary, _, _ = self._socket.recvmsg(65_536, socket.CMSG_SPACE(12))
            pid = int.from_bytes(ancillary[0][2][:4], "little")
            if self.process is not None and pid != self.process.pid:
                self.strangers += 1
                continue
            self.said.append(dict(line.split("=", 1) for line in data.decode().splitlines()))
