"""This machine: its limits, clock, folders and disks, and what workers left there."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import NamedTuple

from telefabric import limits
from telefabric.address import Address
from telefabric.doctor.finding import Finding, counted, say, size
from telefabric.errors import SpoolError
from telefabric.files import open_files
from telefabric.files.lock import FileLock
from telefabric.files.processes import text_of
from telefabric.uplink import orphan_candidates

WORKERS = 1_000
DISK_LOW_BYTES = 1 << 30
DISK_FULL_BYTES = 100 * limits.MIB
SHM_LOW_BYTES = 128 * limits.MIB
"""Containers get 64 MiB by default, which is eleven 1080p pictures."""
SOCKET_BYTES = limits.SOCKET_BUFFER_BYTES
"""The largest buffer that a socket here asks for."""
SLOW_CLOCKS = frozenset({"hpet", "acpi_pm", "jiffies", "pit"})
"""Clock sources that are read with a call of the system and a look at a slow device."""
NETWORK_FILE_SYSTEMS = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "gfs2",
    "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs",
})  # fmt: skip
_SYSTEM_UID_MAX = 999
"""Debian's and systemd's own; above are regular users."""
_EPHEMERAL = (49_152, 65_535)
"""The range of IANA, if the system does not show its own."""
_TIMEX_BYTES = 512
"""More than a struct timex has on any platform; all zero, it asks and adjusts nothing."""
_TIME_ERROR = 5


class FolderSeen(NamedTuple):
    path: Path
    error: str
    """Why it cannot be written; empty when it can."""
    free: int
    file_system: str


class SpoolsSeen(NamedTuple):
    """`left`: the bytes on the disk of each spool whose worker is gone; `closed`: how many are another user's."""

    left: Sequence[int]
    closed: int = 0
    error: str = ""
    """Why nobody can tell."""


# -- looks -------------------------------------------------------------------------------------------------------
def look_at_socket_buffers() -> tuple[int | None, int | None]:
    """The largest receive and send buffers that a program may ask for."""
    receive, send = (text_of(f"/proc/sys/net/core/{name}").strip() for name in ("rmem_max", "wmem_max"))
    return int(receive) if receive else None, int(send) if send else None


def look_at_port_range() -> tuple[int, int]:
    """The ports that the system gives to programs that ask for any port."""
    found = text_of("/proc/sys/net/ipv4/ip_local_port_range").split()
    return (int(found[0]), int(found[1])) if found else _EPHEMERAL


def look_at_clock_source() -> str:
    """The kernel's clock source; empty when it does not tell."""
    return text_of("/sys/devices/system/clocksource/clocksource0/current_clocksource").strip()


def look_at_synchronisation() -> bool | None:
    """Whether something disciplines the kernel's clock, as adjtimex(2) with nothing to adjust tells; None: unknown."""
    if not sys.platform.startswith("linux"):
        return None
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return None if state < 0 else state != _TIME_ERROR


def look_at_shm() -> int | None:
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return None


def look_at_logout() -> bool:
    """Whether logind removes what this user has in shared memory at the last logout, as RemoveIPC says.

    It does for regular users without lingering. Only a session over the network is asked about: a worker that is to go
    on after it is started there.
    """
    user = os.environ.get("USER", "")
    is_regular = hasattr(os, "getuid") and os.getuid() > _SYSTEM_UID_MAX
    if not is_regular or not {"SSH_CONNECTION", "SSH_TTY"} & set(os.environ) or not os.path.isdir("/run/systemd/users"):
        return False
    texts = map(text_of, ("/etc/systemd/logind.conf", *sorted(glob("/etc/systemd/logind.conf.d/*.conf"))))
    return removes_ipc("\n".join(texts)) and not os.path.exists(f"/var/lib/systemd/linger/{user}")


def removes_ipc(conf: str) -> bool:
    """By the text of logind.conf; it does unless it is forbidden."""
    said = re.findall(r"^\s*RemoveIPC\s*=\s*(\S*)", conf, re.MULTILINE)
    return not said or said[-1].lower() not in ("no", "false", "off", "0", "n", "f")


def look_at_folder(path: Path) -> FolderSeen:
    path = path.absolute()
    there = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        error, free = "", shutil.disk_usage(there).free
    except OSError as problem:
        error, free = problem.strerror or str(problem), 0
    return FolderSeen(path, error, free, file_system_of(there.resolve(), text_of("/proc/mounts")))


def look_for_spools(root: Path) -> SpoolsSeen:
    left, closed = [], 0
    try:
        candidates = orphan_candidates(root)
    except SpoolError as error:
        return SpoolsSeen([], 0, str(error))
    for spool in candidates:
        try:
            if _is_left(spool):
                left.append(sum(entry.stat().st_blocks * 512 for entry in spool.iterdir()))
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


def file_system_of(path: Path, mounts: str) -> str:
    """The type of the file system that holds an absolute path, by the text of /proc/mounts; empty when unknown."""
    found = (-1, "")
    for line in mounts.splitlines():
        words = line.split()
        point = Path(words[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        if path.is_relative_to(point) and len(point.parts) >= found[0]:  # a later mount covers an earlier one
            found = (len(point.parts), words[2])
    return found[1]


# -- verdicts ----------------------------------------------------------------------------------------------------
def judge_open_files(most: int) -> Finding:
    """The hard limit of open files for a broker that is started from this shell."""
    workers = open_files.workers_of(most)
    if workers >= WORKERS:
        return say("open files", "fine", most=most, workers=WORKERS)
    raised = f"Raise the hard limit to {open_files.files_for(WORKERS)}"
    remedy = f"{raised}: LimitNOFILE= in a unit, /etc/security/limits.conf for a shell"
    return say("open files", "few" if workers else "none", most=most, workers=workers, remedy=remedy)


def judge_socket_buffers(receive: int | None, send: int | None) -> Finding | None:
    """The largest that a program may ask for; None when this system does not tell."""
    if receive is None or send is None:
        return None
    both = {"net.core.rmem_max": receive, "net.core.wmem_max": send}
    low = {name: most for name, most in both.items() if most < SOCKET_BYTES}
    told = " and ".join(f"{name} is {size(most)}" for name, most in low.items())
    raised = " ".join(f"{name}={4 * SOCKET_BYTES}" for name in low)
    return say("sockets", "low" if low else "fine", low=told, asked=size(SOCKET_BYTES), raised=raised)


def judge_ports_of_others(address: Address, low: int, high: int) -> Finding | None:
    """The ports that the system gives to any program that asks for one. None when a broker's are not among them."""
    first, last = address.port, address.port + 6
    if first > high or last < low:
        return None
    return say("port range", "among", first=first, last=last, low=low, high=high, below=low - 6)


def judge_time(source: str, synchronised: bool | None, *, alone: bool) -> Finding | None:
    """`source`: the clock source, empty when unknown. `alone`: no other machine takes part, so its clock is right."""
    if source in SLOW_CLOCKS:
        return say("time", "slow", source=source)
    if synchronised is None:
        return None
    return say("time", "fine" if synchronised else "alone" if alone else "free")


def judge_logout(removes: bool) -> Finding | None:
    return say("logout", "removes") if removes else None


def judge_shm(total: int | None) -> Finding:
    if total is None:
        return say("/dev/shm", "absent")
    return say("/dev/shm", "little" if total < SHM_LOW_BYTES else "fine", total=size(total))


def judge_folder(check: str, variable: str, seen: FolderSeen) -> Finding:
    if seen.error:
        what = "closed"
    elif seen.file_system in NETWORK_FILE_SYSTEMS:
        what = "network"
    else:
        what = "full" if seen.free < DISK_FULL_BYTES else "low" if seen.free < DISK_LOW_BYTES else "fine"
    free = f"{size(seen.free)} free on {seen.file_system or 'its disk'}"
    return say("folder", what, seen=seen, variable=variable, free=free)._replace(check=check)


def judge_spools(root: Path, seen: SpoolsSeen, address: Address) -> Finding:
    left = counted(len(seen.left), "spool")
    if seen.error:
        return say("left spools", "unknown", error=seen.error)
    if seen.closed:
        ours = f"; {left} of dead workers of yours wait there" if seen.left else ""
        return say("left spools", "closed", closed=counted(seen.closed, "spool"), root=root, ours=ours)
    what = "some" if seen.left else "none"
    return say("left spools", what, root=root, left=left, size=size(sum(seen.left)), address=address)
