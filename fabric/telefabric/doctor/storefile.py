"""The store's file in the data folder: its head, and the processes that have it open.

SQLite is not used, because its readers write beside the file.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from telefabric import limits
from telefabric.doctor.finding import Finding, say, size
from telefabric.files.processes import holders, is_stopped, lock_holder, named, number_of, text_of
from telefabric.settings import STORE_FILE_NAME

STORE_LOG = f"{STORE_FILE_NAME}-wal"
HEAD_BYTES = 100
APPLICATION_ID = 0x54464142
VERSION = 5
"""The value in `telefabric.store.file.database`, which cannot be imported without apsw."""
_MAGIC = b"SQLite format 3\0"
_HEAD = struct.Struct(">16sH10xI28xI4xI28x")
"""The magic, bytes of a page, pages, version and application of the head of an SQLite file."""


class StoreFileSeen(NamedTuple):
    path: Path
    head: bytes
    """Its first `HEAD_BYTES` bytes."""
    file_bytes: int
    log_bytes: int
    error: str = ""
    """Why it cannot be read; empty when it can."""


class StoreOpenSeen(NamedTuple):
    """Processes by number and name."""

    owner: str | None
    """The process that holds the lock of the file's writer; None without one."""
    others: Mapping[str, str]
    """Other processes that have the file open for writing, without the lock."""
    is_stopped: bool = False
    """The owner, by ^Z, a signal or a debugger."""


# -- looks -------------------------------------------------------------------------------------------------------
def look_at_store_file(folder: Path) -> StoreFileSeen | None:
    """The head of the file; None without a file."""
    path = folder / STORE_FILE_NAME
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
    owner = lock_holder(folder / f"{STORE_FILE_NAME}.lock")
    others = {
        number: named(number)
        for number, descriptor in holders(str((folder / STORE_FILE_NAME).resolve()))
        if number != owner and _is_for_writing(number, descriptor)
    }
    return StoreOpenSeen(owner and named(owner), others, owner is not None and is_stopped(owner))


def _is_for_writing(number: str, descriptor: str) -> bool:
    flags = re.search(r"^flags:\s*(\d+)", text_of(f"/proc/{number}/fdinfo/{descriptor}"), re.MULTILINE)
    return flags is not None and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY


# -- verdicts ----------------------------------------------------------------------------------------------------
def judge_store_file(seen: StoreFileSeen | None) -> Finding | None:
    """None if `seen` is None: the file does not exist yet, and a store makes it."""
    if seen is None:
        return None
    magic, page, pages, version, application = _HEAD.unpack(seen.head.ljust(HEAD_BYTES, b"\0"))
    page = 65_536 if page == 1 else page
    if seen.error:
        what = "unreadable"
    elif seen.log_bytes and not application:
        what = "new"
    elif not seen.file_bytes:
        what = "empty"
    elif len(seen.head) < HEAD_BYTES or magic != _MAGIC:
        what = "no database"
    elif page < 512 or page & (page - 1):
        what = "damaged"
    elif application != APPLICATION_ID:
        what = "foreign"
    elif version > VERSION:
        what = "newer"
    else:
        what = "short" if not seen.log_bytes and seen.file_bytes < page * pages else "fine"
    return say(
        "store file", what, path=seen.path, error=seen.error, page=page, version=version, ours=VERSION,
        size=size(seen.file_bytes), whole=size(page * pages),
    )  # fmt: skip


def judge_store_open(path: Path, seen: StoreOpenSeen, attached: bool | None) -> Finding | None:
    """`attached`: whether a store is attached to the broker at the address; None when that is not known."""
    if seen.others:
        others = ", ".join(seen.others.values())
        return say("store writers", "others", others=others, path=path, numbers=",".join(seen.others))
    if seen.owner is None:
        return None
    what = "stopped" if seen.is_stopped else "elsewhere" if attached is False else "fine"
    return say("store writers", what, seen=seen, path=path, wake=_wake(seen.owner), number=number_of(seen.owner))


def judge_holder(path: Path, seen: StoreOpenSeen) -> str:
    """The remedy for a process that holds the file while no store is attached; empty without such a process.

    As long as somebody does, another store cannot be started.
    """
    if seen.owner is None:
        return ""
    if seen.is_stopped:
        return f"{_wake(seen.owner)}; no other store can open {path}"
    number = number_of(seen.owner)
    return (
        f"{seen.owner} holds {path}, so that no other store can open it: ps -fp {number} shows its broker; "
        f"kill {number} ends it, or start a store with another --data"
    )


def _wake(owner: str) -> str:
    number = number_of(owner)
    return f"kill -CONT {number} wakes the store; kill -KILL {number} ends it"


def judge_store_log(log: Path, log_bytes: int) -> Finding | None:
    """`log`: the write-ahead log beside the store. None if it is missing or short."""
    if log_bytes <= limits.LOG_BYTES_LONG:
        return None
    return say("store log", "long", log=log, size=size(log_bytes), most=size(limits.LOG_BYTES_MAX))
