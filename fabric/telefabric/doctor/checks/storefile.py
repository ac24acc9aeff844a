"""Verdicts on the store's file in the data folder, by its head and by who has it open. No input or output."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from telefabric import limits
from telefabric.doctor.finding import OK, PROBLEM, WARNING, Finding, process_of, size

STORE = "telemetry.sqlite"
STORE_LOG = f"{STORE}-wal"
STORE_LOCK = f"{STORE}.lock"
HEAD_BYTES = 100
APPLICATION_ID = 0x54464142
VERSION = 3
"""As in `telefabric.store.file.database`, which cannot be imported without apsw."""
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
    """Who holds the lock of the file's writer; None when nobody does."""
    others: Mapping[str, str]
    """Who else has the file open for writing, and not by way of the lock."""
    is_stopped: bool = False
    """The owner, by ^Z, a signal or a debugger."""


def judge_store_file(seen: StoreFileSeen | None) -> Finding | None:
    """`seen` is None when there is no file, which is no row: a store makes it."""
    if seen is None:
        return None
    if seen.error:
        return Finding(
            "store file",
            PROBLEM,
            f"{seen.path} cannot be read: {seen.error}.",
            f"ls -l {seen.path}; correct its rights",
        )
    if seen.log_bytes and not _names_a_program(seen.head):
        return Finding("store file", OK, f"{seen.path} has just been made: its head is still in its log.")
    if not seen.file_bytes:
        return Finding("store file", OK, f"{seen.path} is empty; a store makes something of it.")
    return _judge_head(seen)


def _judge_head(seen: StoreFileSeen) -> Finding:
    path, restore = seen.path, f"mv {seen.path} {seen.path}.bad, its -wal and -shm too, and put a backup there"
    if len(seen.head) < HEAD_BYTES or not seen.head.startswith(_MAGIC):
        return Finding("store file", PROBLEM, f"{path} is no database, or damaged at its head.", restore)
    page, pages = _int(seen.head, _PAGE, ">H"), _int(seen.head, _PAGES)
    page = 65_536 if page == 1 else page
    if page < 512 or page & (page - 1):
        return Finding("store file", PROBLEM, f"{path} is damaged at its head: pages of {page} bytes.", restore)
    if not _names_a_program(seen.head) or _int(seen.head, _APPLICATION) != APPLICATION_ID:
        return Finding(
            "store file", PROBLEM, f"{path} is a database of another program.",
            f"mv {path} to where it belongs, or set TELEFABRIC_DATA to another folder",
        )  # fmt: skip
    version = _int(seen.head, _VERSION)
    if version > VERSION:
        return Finding(
            "store file", PROBLEM,
            f"{path} was written by a newer version (store version {version}, this program reads up to {VERSION}).",
            "pip install -U telefabric",
        )  # fmt: skip
    if not seen.log_bytes and seen.file_bytes < page * pages:
        return Finding(
            "store file", PROBLEM, f"{path} is cut short: {size(seen.file_bytes)} of {size(page * pages)}.", restore
        )
    return Finding("store file", OK, f"{path} is a store of version {version}, {size(seen.file_bytes)}.")


def judge_store_open(path: Path, seen: StoreOpenSeen | None, attached: bool | None) -> Finding | None:
    """`attached`: whether a store is attached to the broker at the address; None when that is not known."""
    if seen is None:
        return None
    if seen.others:
        numbers = " ".join(seen.others)
        return Finding(
            "store writers", WARNING,
            f"{', '.join(seen.others.values())} has {path} open for writing, which is the store's alone.",
            f"ps -fp {numbers.replace(' ', ',')}; end it, or open the file for reading",
        )  # fmt: skip
    if seen.owner is None:
        return None
    if seen.is_stopped:
        told = f"{seen.owner} writes {path} and is stopped: it stores nothing, and another store cannot open it."
        return Finding("store writers", WARNING, told, _wake(seen.owner))
    if attached is False:
        return Finding(
            "store writers", WARNING,
            f"{seen.owner} writes {path} and is not attached to this broker: another store cannot open it.",
            f"ps -fp {process_of(seen.owner)} shows its broker; end it, or name another --data",
        )  # fmt: skip
    return Finding("store writers", OK, f"{path} is written by {seen.owner}, and nobody else.")


def judge_holder(path: Path, seen: StoreOpenSeen | None) -> str:
    """What to do about a process that holds the file while no store is attached; empty when nobody holds it.

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
    """`log`: the write-ahead log beside the store. None when there is none, or a short one."""
    if log_bytes <= limits.LOG_BYTES_LONG:
        return None
    return Finding(
        "store log", WARNING,
        f"{log} has grown to {size(log_bytes)}: a process reads the store and does not end; "
        f"at {size(limits.LOG_BYTES_MAX)} the store waits for it.",
        f"lsof {log} names who has it open; end what reads on and on.",
    )  # fmt: skip


def _names_a_program(head: bytes) -> bool:
    return len(head) >= HEAD_BYTES and _int(head, _APPLICATION) != 0


def _int(head: bytes, offset: int, form: str = ">I") -> int:
    return int(struct.unpack_from(form, head, offset)[0])
