"""The registry on disk: one readable JSON file, written by rename under a lock, read again when it changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from telefabric import limits
from telefabric.errors import EnvironmentProblem
from telefabric.files import private
from telefabric.files.lock import FileLock
from telefabric.keys.core.registry import Registry

FILE_NAME = "registry.json"
_RETRY_S = 0.01
Answer = TypeVar("Answer")


class RegistryFile:
    """The registry of a folder of keys. One thread.

    A file that is damaged or gone leaves the last good registry in force, and `problem` says so: nobody new gets in.
    """

    def __init__(self, folder: Path) -> None:
        """Raises `EnvironmentProblem` when the file cannot be read now."""
        self.path = folder / FILE_NAME
        self.problem = ""
        self._look_due_s = 0.0
        self._seen = self._stat()
        self._registry = self._read()

    def current(self, *, look: bool = False) -> Registry:
        """As of `limits.REGISTRY_LOOK_S` ago at most, or of now. The same object until the file changes."""
        now_s = time.monotonic()
        if look or now_s >= self._look_due_s:
            self._look_due_s = now_s + limits.REGISTRY_LOOK_S
            seen = self._stat()
            if seen != self._seen:
                self._seen = seen
                self._read_again()
        return self._registry

    def change(self, decide: Callable[[Registry], tuple[Registry, Answer]], wait_s: float | None = None) -> Answer:
        """Decide on what the file holds now, and write what comes out of it.

        Waits for others who change it, `limits.REGISTRY_LOCK_S` by default. Raises `EnvironmentProblem` when that takes
        too long, or the file cannot be read or written, and whatever `decide` raises.
        """
        lock = self._lock(limits.REGISTRY_LOCK_S if wait_s is None else wait_s)
        try:
            before = self._read()
            after, answer = decide(before)
            if after is not before:
                write(self.path, after)
                self._seen, self._registry = self._stat(), after
            self.problem = ""
            return answer
        finally:
            lock.release()

    def _lock(self, wait_s: float) -> FileLock:
        path, until_s = self.path.with_name("registry.lock"), time.monotonic() + wait_s
        try:
            while (lock := FileLock.take(path)) is None:
                if time.monotonic() >= until_s:
                    raise EnvironmentProblem(f"{self.path} is being changed by another process: try again")
                time.sleep(_RETRY_S)
            private.give_to_owner_of_parent(path)
        except OSError as error:
            raise EnvironmentProblem(f"{path} cannot be locked: {error.strerror}: see who may write there") from None
        return lock

    def _read(self) -> Registry:
        try:
            data = self.path.read_bytes()
            found = msgspec.json.decode(data, type=Registry)
        except FileNotFoundError:
            raise EnvironmentProblem(
                f"{self.path} is gone, so nobody is known: restore it, or begin again with telefabric keys init"
            ) from None
        except OSError as error:
            raise EnvironmentProblem(f"{self.path} cannot be read: {error.strerror}: see who may read it") from None
        except msgspec.DecodeError as error:
            raise EnvironmentProblem(
                f"{self.path} is damaged ({error}): correct it, or restore it from a backup"
            ) from None
        if found.version != 1:
            raise EnvironmentProblem(f"{self.path} is of a newer version of Telefabric: install that version")
        return found

    def _read_again(self) -> None:
        try:
            self._registry, self.problem = self._read(), ""
        except EnvironmentProblem as error:
            self.problem = str(error)

    def _stat(self) -> tuple[int, ...]:
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ino, found.st_size


def write(path: Path, registry: Registry) -> None:
    """Raises `EnvironmentProblem`."""
    try:
        private.replace(path, msgspec.json.format(msgspec.json.encode(registry), indent=2) + b"\n")
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be written: {error.strerror}: see who may write there") from None
