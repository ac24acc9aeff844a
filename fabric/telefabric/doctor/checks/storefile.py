"""Verdicts on the store's file in the data folder: its head, and the processes that have it open. No I/O."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from telefabric import limits
from telefabric.doctor.finding import Finding, process_of, say, size
from telefabric.settings import STORE_FILE_NAME

STORE = STORE_FILE_NAME
STORE_LOG = f"{STORE}-wal"
STORE_LOCK = f"{STORE}.lock"
HEAD_BYTES = 100
APPLICATION_ID = 0x54464142
VERSION = 3
"""The value in `telefabric.store.file.database`, which cannot be imported without apsw."""
_MAGIC = b"SQLite format 3\0"
_PAGE, _PAGES, _VERSION, _APPLICATION = 16, 28, 60, 68


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


def judge_store_file(seen: StoreFileSeen | None) -> Finding | None:
    """None if `seen` is None: the file does not exist yet, and a store makes it."""
    if seen is None:
        return None
    if seen.error:
        return say("store file", "unreadable", path=seen.path, error=seen.error)
    if seen.log_bytes and not _names_a_program(seen.head):
        return say("store file", "new", path=seen.path)
    if not seen.file_bytes:
        return say("store file", "empty", path=seen.path)
    return _judge_head(seen)


def _judge_head(seen: StoreFileSeen) -> Finding:
    if len(seen.head) < HEAD_BYTES or not seen.head.startswith(_MAGIC):
        return say("store file", "no database", path=seen.path)
    page, pages, version = _int(seen.head, _PAGE, ">H"), _int(seen.head, _PAGES), _int(seen.head, _VERSION)
    page = 65_536 if page == 1 else page
    if page < 512 or page & (page - 1):
        what = "damaged"
    elif not _names_a_program(seen.head) or _int(seen.head, _APPLICATION) != APPLICATION_ID:
        what = "foreign"
    elif version > VERSION:
        what = "newer"
    else:
        what = "short" if not seen.log_bytes and seen.file_bytes < page * pages else "fine"
    return say(
        "store file", what, path=seen.path, page=page, version=version, ours=VERSION, size=size(seen.file_bytes),
        whole=size(page * pages),
    )  # fmt: skip


def judge_store_open(path: Path, seen: StoreOpenSeen | None, attached: bool | None) -> Finding | None:
    """`attached`: whether a store is attached to the broker at the address; None when that is not known."""
    if seen is None:
        return None
    if seen.others:
        others = ", ".join(seen.others.values())
        return say("store writers", "others", others=others, path=path, numbers=",".join(seen.others))
    if seen.owner is None:
        return None
    what = "stopped" if seen.is_stopped else "elsewhere" if attached is False else "fine"
    return say("store writers", what, seen=seen, path=path, wake=_wake(seen.owner), number=process_of(seen.owner))


def judge_holder(path: Path, seen: StoreOpenSeen | None) -> str:
    """The remedy for a process that holds the file while no store is attached; empty without such a process.

    As long as somebody does, another store cannot be started.
    """
    if seen is None or seen.owner is None:
        return ""
    if seen.is_stopped:
        return f"{_wake(seen.owner)}; no other store can open {path}"
    number = process_of(seen.owner)
    return (
        f"{seen.owner} holds {path}, so that no other store can open it: ps -fp {number} shows its broker; "
        f"kill {number} ends it, or start a store with another --data"
    )


def _wake(owner: str) -> str:
    number = process_of(owner)
    return f"kill -CONT {number} wakes the store; kill -KILL {number} ends it"


def judge_store_log(log: Path, log_bytes: int) -> Finding | None:
    """`log`: the write-ahead log beside the store. None if it is missing or short."""
    if log_bytes <= limits.LOG_BYTES_LONG:
        return None
    return say("store log", "long", log=log, size=size(log_bytes), most=size(limits.LOG_BYTES_MAX))


def _names_a_program(head: bytes) -> bool:
    return len(head) >= HEAD_BYTES and _int(head, _APPLICATION) != 0


def _int(head: bytes, offset: int, form: str = ">I") -> int:
    return int(struct.unpack_from(form, head, offset)[0])
