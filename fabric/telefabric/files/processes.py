"""The processes of this machine and their files, as /proc shows them to this user; nothing where there is no /proc."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from glob import iglob
from pathlib import Path
from typing import TypeVar

from telefabric import limits

Found = TypeVar("Found")

_LOOK_S = 0.02
_LISTENING = "0A"
_OUR_UNIT = re.compile(r"telefabric-\w+\.service")


def text_of(path: Path | str) -> str:
    """The text of a file of the system; empty without one. A name in it may be cut within a character."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def named(number: str) -> str:
    """A process as sentences name it, with the unit of systemd when that is one of ours."""
    unit = _OUR_UNIT.search(text_of(f"/proc/{number}/cgroup"))
    name = text_of(f"/proc/{number}/comm").strip() or "which has just ended"
    return f"process {number}, {name}{f' of {unit[0]}' if unit else ''}"


def number_of(process: str) -> str:
    """The number in "process 12, name"; empty when it is not known."""
    number = process.removeprefix("process ").partition(",")[0]
    return number if number.isdigit() else ""


def is_stopped(number: str) -> bool:
    """Whether it is stopped by ^Z, a signal or a debugger."""
    return text_of(f"/proc/{number}/stat").rpartition(")")[2].lstrip()[:1] in ("T", "t")


def lock_holder(lock: Path) -> str | None:
    """The number of the process that holds a POSIX lock of the whole file."""
    try:
        inode = str(lock.stat().st_ino)
    except OSError:
        return None
    for words in map(str.split, text_of("/proc/locks").splitlines()):
        if words[1] == "POSIX" and words[3] == "WRITE" and words[5].rpartition(":")[2] == inode:
            return words[4]
    return None


def holders(target: str) -> Iterator[tuple[str, str]]:
    """The processes that have a file or socket open, by number, each with its descriptor of it."""
    for entry in iglob("/proc/[0-9]*/fd/*"):
        with suppress(OSError):  # it has just been closed
            if os.readlink(entry) == target:
                number, _, descriptor = entry.split("/")[2:]
                yield number, descriptor


def listeners(ports: Iterable[int]) -> dict[int, str]:
    """Port → the process that listens on it, for those of the given ports that are in use."""
    by_port = dict(_listening_sockets())
    return {port: _owner(by_port[port]) for port in ports if port in by_port}


def when_port_is_free(listen: Callable[[], Found]) -> Found:
    """What `listen` returns; while its port is in use it is called again, for `limits.LET_GO_S`. Raises its error."""
    until_s = time.monotonic() + limits.LET_GO_S
    while True:
        try:
            return listen()
        except Exception as error:  # of `socket` or of `zmq`, which have no class in common
            if getattr(error, "errno", None) != errno.EADDRINUSE or time.monotonic() >= until_s:
                raise
        time.sleep(_LOOK_S)


def _listening_sockets() -> Iterator[tuple[int, str]]:
    """Port and inode of every TCP socket that listens on this machine."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for words in map(str.split, text_of(table).splitlines()[1:]):
            if words[3] == _LISTENING:
                yield int(words[1].rpartition(":")[2], 16), words[9]


def _owner(inode: str) -> str:
    """The process that holds a socket, as far as this user may look."""
    return next((named(number) for number, _ in holders(f"socket:[{inode}]")), "a process of another user")
