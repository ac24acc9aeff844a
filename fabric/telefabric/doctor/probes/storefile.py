"""Looks at the store's file and at the processes that have it open, without SQLite, whose readers write beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from telefabric.doctor.checks.storefile import HEAD_BYTES, STORE, STORE_LOCK, STORE_LOG, StoreFileSeen, StoreOpenSeen


def look_at_store_file(folder: Path) -> StoreFileSeen | None:
    """The head of the file; None without a file."""
    path = folder / STORE
    try:
        with path.open("rb") as file:
            head, length = file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return StoreFileSeen(path, b"", 0, 0, error.strerror or str(error))
    return StoreFileSeen(path, head, length, look_at_size(folder / STORE_LOG))


def look_at_size(file: Path) -> int:
    """Its length; 0 when it is not there."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def look_at_store_open(folder: Path) -> StoreOpenSeen:
    """Read from /proc, as far as this user may. The lock is not tried: a store may be about to take it."""
    owner = _lock_owner(folder / STORE_LOCK)
    others = {number: f"process {number}, {name}" for number, name in _writers(folder / STORE) if number != owner}
    if owner is None:
        return StoreOpenSeen(None, others)
    return StoreOpenSeen(f"process {owner}, {_name(owner)}", others, _is_stopped(owner))


def _lock_owner(lock: Path) -> str | None:
    """The number of the process that holds a POSIX lock of the whole file."""
    try:
        inode = str(lock.stat().st_ino)
        rows = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for words in map(str.split, rows):
        if words[1] == "POSIX" and words[3] == "WRITE" and words[5].rpartition(":")[2] == inode:
            return words[4]
    return None


def _writers(file: Path) -> Iterator[tuple[str, str]]:
    """Number and name of each process that has the file open for writing."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            opened = [entry.name for entry in (process / "fd").iterdir() if os.readlink(entry) == str(file.resolve())]
            flags = [int(_flags(process / "fdinfo" / number), 8) for number in opened]
        except (OSError, ValueError):  # it has just ended, or is another user's
            continue
        if any(flag & os.O_ACCMODE != os.O_RDONLY for flag in flags):
            yield process.name, _name(process.name)


def _flags(info: Path) -> str:
    return next(line.split()[1] for line in info.read_text().splitlines() if line.startswith("flags:"))


def _is_stopped(process: str) -> bool:
    """Whether it is stopped by ^Z, a signal or a debugger."""
    try:
        state = (Path("/proc") / process / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # it has just ended
        return False
    return state in ("T", "t")


def _name(process: str) -> str:
    try:
        return (Path("/proc") / process / "comm").read_text().strip()
    except OSError:
        return "which has just ended"
