"""An exclusive lock on a file that nothing else opens; it goes with the process, however that ends.

``fcntl.lockf`` rather than ``flock``: a forked child does not keep it when its parent dies (``flock`` would). On
Windows `msvcrt.locking`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

_LOOK_S = 0.02
_guard = threading.RLock()  # a signal handler may take a lock while its thread does
_held: set[Path] = set()
"""POSIX locks belong to the process: a second lock of a file in one process would succeed, and closing it would drop
the first."""


class FileLock:
    """The lock on one file, held until `release`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path, wait_s: float = 0.0) -> FileLock | None:
        """The lock, or None when somebody holds it or its folder is gone. Any thread. Raises `OSError`.

        Another process has `wait_s` to let go of it.
        """
        path = path.absolute()
        if not _reserve(path):
            return None
        descriptor = None
        until_s = time.monotonic() + wait_s
        try:
            while (descriptor := _open_locked(path, os.O_CREAT)) is None and time.monotonic() < until_s:
                time.sleep(_LOOK_S)
        except FileNotFoundError:
            pass
        finally:
            if descriptor is None:
                _held.discard(path)
        return None if descriptor is None else cls(path, descriptor)

    @staticmethod
    def is_elsewhere(path: Path) -> bool:
        """Another process holds this lock. Any thread."""
        path = path.absolute()
        if not _reserve(path):  # a lock belongs to the process: nobody here may take it, and lose it by the look below
            return False
        try:
            descriptor = _open_locked(path)
            if descriptor is not None:
                os.close(descriptor)
            return descriptor is None
        except OSError:
            return False  # gone, somebody else's, or on a file system without locks
        finally:
            _held.discard(path)

    def release(self) -> None:
        os.close(self._descriptor)
        _held.discard(self._path)


def _lock(descriptor: int) -> bool:
    """Imports what the system has for it only here: a client reads, and takes no lock."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _reserve(path: Path) -> bool:
    """Keep the other threads from a lock; False when this process has it already."""
    with _guard:
        free = path not in _held
        _held.add(path)
        return free


def _open_locked(path: Path, flags: int = 0) -> int | None:
    """A descriptor that holds the lock; None when another process does. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDWR | flags, 0o600)
    taken = False
    try:
        taken = _lock(descriptor)
    finally:
        if not taken:
            os.close(descriptor)
    return descriptor if taken else None


def _forget_after_fork() -> None:
    """A forked child holds no locks."""
    global _guard
    _guard = threading.RLock()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
