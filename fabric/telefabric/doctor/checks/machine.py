"""Verdicts on this machine: its limits, folders, disks and what workers left. No input or output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from telefabric import limits
from telefabric.address import Address
from telefabric.doctor.finding import OK, PROBLEM, WARNING, Finding, counted, size

WORKERS = 1_000
FILES_A_WORKER = 3
"""A broker's connections to one worker process: control, data, live."""
FILES_OF_ITS_OWN = 100
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


def judge_open_files(soft: int, hard: int) -> Finding:
    """For a broker that is started from this shell."""
    needed = WORKERS * FILES_A_WORKER + FILES_OF_ITS_OWN
    if soft >= needed:
        return Finding("open files", OK, f"The limit of {soft} open files is enough for {WORKERS} workers.")
    workers = max((soft - FILES_OF_ITS_OWN) // FILES_A_WORKER, 0)
    remedy = f"ulimit -n {needed}, in the shell that starts the broker"
    if hard < needed:
        remedy = (
            f"Raise the hard limit of {hard} first (LimitNOFILE= in a unit, /etc/security/limits.conf), then {remedy}"
        )
    state = WARNING if workers else PROBLEM
    return Finding(
        "open files", state, f"The limit of {soft} open files lets a broker serve {workers} workers.", remedy
    )


def judge_socket_buffers(receive: int | None, send: int | None) -> Finding | None:
    """The largest that a program may ask for; None when this system does not tell."""
    if receive is None or send is None:
        return None
    low = {"net.core.rmem_max": receive, "net.core.wmem_max": send}
    low = {name: most for name, most in low.items() if most < SOCKET_BYTES}
    if low:
        told = " and ".join(f"{name} is {size(most)}" for name, most in low.items())
        return Finding(
            "sockets", WARNING, f"{told}, and sockets here ask for {size(SOCKET_BYTES)}: far peers are slower.",
            "sudo sysctl -w " + " ".join(f"{name}={4 * SOCKET_BYTES}" for name in low),
        )  # fmt: skip
    return Finding("sockets", OK, f"Sockets get the {size(SOCKET_BYTES)} of buffer that they ask for.")


def judge_ports_of_others(address: Address, low: int, high: int) -> Finding | None:
    """The ports that the system gives to any program that asks for one. None when a broker's are not among them."""
    if address.port > high or address.port + 6 < low:
        return None
    return Finding(
        "port range", WARNING,
        f"Ports {address.port} to {address.port + 6} are among those that the system gives to any program "
        f"({low} to {high}): one may be taken when the broker starts.",
        f"telefabric up, with --listen tcp://127.0.0.1:PORT and a port below {low - 6}",
    )  # fmt: skip


def judge_time(source: str, synchronised: bool | None, *, alone: bool) -> Finding | None:
    """`source`: the clock source, empty when unknown. `alone`: no other machine takes part, so its clock is right."""
    if source in SLOW_CLOCKS:
        return Finding(
            "time", WARNING, f"The clock of this machine is read from {source}, which makes each event dearer.",
            "echo tsc | sudo tee /sys/devices/system/clocksource/clocksource0/current_clocksource",
        )  # fmt: skip
    if synchronised is None:
        return None
    if not synchronised and not alone:
        return Finding(
            "time", WARNING, "Nothing keeps the clock of this machine right, and other machines take part.",
            "sudo timedatectl set-ntp true",
        )  # fmt: skip
    if not synchronised:
        return Finding(
            "time", OK, "Nothing keeps the clock of this machine right, which matters only between machines."
        )
    return Finding("time", OK, "The clock of this machine is kept right (NTP).")


def judge_shm(total: int | None) -> Finding:
    if total is None:
        return Finding(
            "/dev/shm", WARNING, "There is no /dev/shm: pictures can only take the slow lane.",
            "sudo mount -t tmpfs tmpfs /dev/shm",
        )  # fmt: skip
    if total < SHM_LOW_BYTES:
        return Finding(
            "/dev/shm", WARNING, f"/dev/shm holds {size(total)}, which is little for pictures.",
            "docker run --shm-size=1g, or: sudo mount -o remount,size=1G /dev/shm",
        )  # fmt: skip
    return Finding("/dev/shm", OK, f"/dev/shm holds {size(total)}.")


class FolderSeen(NamedTuple):
    path: Path
    error: str
    """Why it cannot be written; empty when it can."""
    free: int
    file_system: str


def judge_folder(check: str, variable: str, seen: FolderSeen) -> Finding:
    if seen.error:
        return Finding(
            check, PROBLEM, f"{seen.path} cannot be written: {seen.error}.",
            f"Correct its rights, or set {variable} to a folder that can be.",
        )  # fmt: skip
    if seen.file_system in NETWORK_FILE_SYSTEMS:
        return Finding(
            check, PROBLEM,
            f"{seen.path} is on a network file system ({seen.file_system}), on which memory maps and locks fail.",
            f"Set {variable} to a folder on a local disk.",
        )  # fmt: skip
    free = f"{size(seen.free)} free on {seen.file_system or 'its disk'}"
    if seen.free < DISK_LOW_BYTES:
        state = PROBLEM if seen.free < DISK_FULL_BYTES else WARNING
        return Finding(
            check, state, f"{seen.path} has only {free}.", f"Make room, or set {variable} to another folder."
        )
    return Finding(check, OK, f"{seen.path} can be written, {free}.")


class SpoolsSeen(NamedTuple):
    """`left`: the bytes on the disk of each spool whose worker is gone; `closed`: how many are another user's."""

    left: Sequence[int]
    closed: int = 0
    error: str = ""
    """Why nobody can tell."""


def judge_spools(root: Path, seen: SpoolsSeen, address: Address) -> Finding:
    left = seen.left
    if seen.error:
        return Finding("left spools", PROBLEM, f"{seen.error}.", "Set TELEFABRIC_SPOOL to the workers' folder.")
    if seen.closed:
        ours = f"; {counted(len(left), 'spool')} of dead workers of yours wait there" if left else ""
        return Finding(
            "left spools", WARNING,
            f"{counted(seen.closed, 'spool')} in {root} cannot be looked at, of another user{ours}.",
            "telefabric doctor as that user, or set TELEFABRIC_SPOOL to a folder of your own.",
        )  # fmt: skip
    if not left:
        return Finding("left spools", OK, f"No dead worker left a spool in {root}.")
    return Finding(
        "left spools", WARNING,
        f"{counted(len(left), 'spool')} of dead workers wait in {root} ({size(sum(left))} on the disk).",
        f"telefabric spool drain --connect {address.url}",
    )  # fmt: skip


def file_system_of(path: Path, mounts: str) -> str:
    """The type of the file system that holds an absolute path, by the text of /proc/mounts; empty when unknown."""
    found = (-1, "")
    for line in mounts.splitlines():
        words = line.split()
        if len(words) < 3:
            continue
        point = Path(words[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        if path.is_relative_to(point) and len(point.parts) >= found[0]:  # a later mount covers an earlier one
            found = (len(point.parts), words[2])
    return found[1]
