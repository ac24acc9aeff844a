"""The rights of a store's files: which users may read them, and whether any could write them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from telefabric.errors import StoreError

_BESIDE = ("", "-wal", "-shm", ".lock")


def make_folder(folder: Path, *, group_readable: bool) -> None:
    """Raises `OSError`. A folder that is there already stays as its owner made it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        folder.mkdir(0o700, exist_ok=True)
        os.chmod(folder, 0o750 if group_readable else 0o700)


def make_private(path: Path, *, group_readable: bool) -> None:
    """The file, made if it is not there, and those beside it are for their owner, or for reading by the group too.

    SQLite gives the log and its index the rights of the file. Raises `OSError`.
    """
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    elif not os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        # It is not opened to find out: closing it would end the locks of this process on it, also those of SQLite.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    mode = 0o640 if group_readable else 0o600
    for name in _BESIDE:
        file = path.with_name(path.name + name)
        if file.exists() and hasattr(os, "geteuid") and file.stat().st_uid == os.geteuid():
            os.chmod(file, mode)


def is_still(path: Path) -> bool:
    """Nothing can write this store now: its folder cannot be written, and no process has it open.

    Each process that has it open keeps the index of its log; a log with content would have to be merged first.
    """
    return not os.access(path.parent, os.W_OK) and not os.path.exists(f"{path}-shm") and not log_bytes(path)


def require_still(path: Path) -> None:
    """Raises `StoreError` when somebody began to write a store that is read as one that nothing can write."""
    if os.path.exists(f"{path}-shm") or log_bytes(path):
        raise StoreError(f"{path} is being written since it was opened: open it again")


def cannot_be_opened(path: Path) -> str:
    """Why a store could not be opened for reading, with the remedy."""
    if not os.access(path, os.R_OK):
        return f"{path} cannot be opened for reading: ask its owner for the right to read it"
    if log_bytes(path) and not os.access(path.parent, os.W_OK):
        return (
            f"{path} cannot be opened where it is: a part of it is in {path.name}-wal, which takes a folder "
            "that can be written: copy both together into one"
        )
    return (
        f"{path} cannot be opened for reading: check the rights of the file and its folder, in which SQLite keeps the "
        "index of the write-ahead log"
    )


def log_bytes(path: Path) -> int:
    """The length of a store's write-ahead log, which may be longer than what is in use of it."""
    return file_bytes(f"{path}-wal")


def file_bytes(path: Path | str) -> int:
    """The length of a file; 0 if it is not there."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
