"""Looks at this machine: its limits, folders, disks and what workers left."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from pathlib import Path

from telefabric.doctor.checks.machine import FolderSeen, SpoolsSeen, file_system_of
from telefabric.errors import SpoolError
from telefabric.files.lock import FileLock
from telefabric.uplink import orphan_candidates

_EPHEMERAL = (49_152, 65_535)
"""The range of IANA, if the system does not show its own."""
_TIMEX_BYTES = 512
"""More than a struct timex has on any platform; all zero, it asks and adjusts nothing."""
_TIME_ERROR = 5


def look_at_open_files() -> tuple[int, int]:
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 30
    return soft if soft >= 0 else most, hard if hard >= 0 else most


def look_at_socket_buffers() -> tuple[int | None, int | None]:
    """The largest receive and send buffers that a program may ask for."""
    return _number("net/core/rmem_max"), _number("net/core/wmem_max")


def look_at_port_range() -> tuple[int, int]:
    """The ports that the system gives to programs that ask for any port."""
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except (OSError, ValueError):
        return _EPHEMERAL
    return int(low), int(high)


def look_at_clock_source() -> str:
    """The kernel's clock source; empty when it does not tell."""
    try:
        return Path("/sys/devices/system/clocksource/clocksource0/current_clocksource").read_text().strip()
    except OSError:
        return ""


def look_at_synchronisation() -> bool | None:
    """Whether something disciplines the kernel's clock, as adjtimex(2) with nothing to adjust tells; None: unknown."""
    if not sys.platform.startswith("linux"):
        return None
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return None if state < 0 else state != _TIME_ERROR


def _number(name: str) -> int | None:
    try:
        return int((Path("/proc/sys") / name).read_text())
    except (OSError, ValueError):
        return None


def look_at_shm() -> int | None:
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return None


def look_at_folder(path: Path) -> FolderSeen:
    path = path.absolute()
    there = path
    while not os.path.exists(there) and there != there.parent:
        there = there.parent
    error = ""
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free
    except OSError as problem:
        error, free = problem.strerror or str(problem), 0
    try:
        mounts = Path("/proc/mounts").read_text()
    except OSError:
        mounts = ""
    return FolderSeen(path, error, free, file_system_of(there.resolve(), mounts))


def look_for_spools(root: Path) -> SpoolsSeen:
    left, closed = [], 0
    try:
        candidates = orphan_candidates(root)
    except SpoolError as error:
        return SpoolsSeen([], 0, str(error))
    for spool in candidates:
        try:
            left += [_bytes(spool)] * _is_left(spool)
        except PermissionError:
            closed += 1
        except FileNotFoundError:  # its worker ended meanwhile, or somebody delivered it
            continue
    return SpoolsSeen(left, closed)


def _is_left(spool: Path) -> bool:
    if (spool / "closed").exists() or not (spool / "lock").exists():
        return False
    lock = FileLock.take(spool / "lock")
    if lock is None:
        return False
    lock.release()
    return True


def _bytes(folder: Path) -> int:
    return sum(entry.stat().st_blocks * 512 for entry in folder.iterdir())
