"""The process that writes a ring. Others can tell whether it still lives; a pid may belong to a new process by now."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple


class Owner(NamedTuple):
    """The identity of one process, which no later process has.

    A field that the system does not offer is 0; readers then rely on the heartbeat.
    """

    pid: int
    start_ticks: int
    """Field 22 of /proc/PID/stat: since the machine's start."""
    pid_namespace: int
    boot: bytes
    """16 bytes, of the machine's start."""

    @classmethod
    def this_process(cls) -> Owner:
        pid = os.getpid()
        return cls(pid, _start_ticks(pid) or 0, _pid_namespace(), _boot())

    def alive(self) -> bool | None:
        """None if it cannot be found out from here: another namespace of processes, or a system without /proc."""
        if not self.start_ticks or not self.boot.strip(b"\0"):
            return None
        if self.boot != _boot():
            return False
        if self.pid_namespace != _pid_namespace():
            return None
        return _start_ticks(self.pid) == self.start_ticks


def _start_ticks(pid: int) -> int | None:
    """None if the process does not exist, or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@lru_cache(maxsize=1)
def _boot() -> bytes:
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
