"""One process owns a spool directory: an exclusive lock on a file that nothing else opens.

``fcntl.lockf`` rather than ``flock``: a forked child does not keep it when its parent dies (``flock`` would). On Windows
`msvcrt.locking`. The lock goes with the process, however it ends.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from telefabric.errors import SpoolError

_guard = threading.Lock()
_held: set[Path] = set()
"""POSIX locks belong to the process: a second lock of a directory in one process would succeed, and closing its file
would drop the first."""


class DirectoryLock:
    """The lock of one directory, held until `release`."""

    def __init__(self, directory: Path, descriptor: int) -> None:
        self._directory = directory
        self._descriptor = descriptor

    @classmethod
    def take(cls, directory: Path) -> DirectoryLock | None:
        """The lock, or None when somebody holds it. Raises `SpoolError` when the file cannot be opened. Any thread."""
        directory = directory.resolve()
        with _guard:
            if directory in _held:
                return None
            _held.add(directory)
        lock = cls._open(directory)
        if lock is None:
            _held.discard(directory)
        return lock

    @classmethod
    def _open(cls, directory: Path) -> DirectoryLock | None:
        try:
            descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except FileNotFoundError:
            return None  # whoever owned it has drained and removed it meanwhile
        except OSError as error:
            _held.discard(directory)
            raise SpoolError(
                f"cannot open {directory / 'lock'}: {error.strerror}: check its owner and rights"
            ) from None
        if _lock(descriptor):
            return cls(directory, descriptor)
        os.close(descriptor)
        return None

    def release(self) -> None:
        os.close(self._descriptor)
        _held.discard(self._directory)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True


def _forget_after_fork() -> None:
    """A forked child holds no locks."""
    global _guard
    _guard = threading.Lock()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
