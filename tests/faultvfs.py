"""SQLite file systems for tests: one that fails at the n-th operation, and one that remembers what was not synced.

Both pass everything on to the machine's own files. Operations are writes, syncs and truncates, counted over all files.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import apsw

SECTOR = 512


class _File(apsw.VFSFile):
    """Tells its file system of each operation before it happens."""

    def __init__(self, vfs: ObservedVFS, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._vfs = vfs
        self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "").name

    def xWrite(self, data: bytes, offset: int) -> None:
        self._vfs.before("write", self._name, bytes(data), offset)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._vfs.before("sync", self._name, b"", 0)
        super().xSync(flags)

    def xTruncate(self, newsize: int) -> None:
        self._vfs.before("truncate", self._name, b"", newsize)
        super().xTruncate(newsize)


class ObservedVFS(apsw.VFS):
    """Registered under `name` until `unregister`."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)

    def before(self, operation: str, file: str, data: bytes, offset: int) -> None:
        raise NotImplementedError


class FaultVFS(ObservedVFS):
    """Fails the n-th operation of one kind, and every one after it until `heal`, when `lasting`."""

    def __init__(self, name: str, operation: str, fail_at: int, *, lasting: bool = False) -> None:
        super().__init__(name)
        self._operation, self._fail_at, self._lasting = operation, fail_at, lasting
        self.count = 0
        self.failed = 0

    def before(self, operation: str, file: str, data: bytes, offset: int) -> None:
        if operation != self._operation:
            return
        self.count += 1
        if self.count == self._fail_at or (self._lasting and self.count > self._fail_at > 0):
            self.failed += 1
            raise {"write": apsw.FullError, "sync": apsw.IOError, "truncate": apsw.IOError}[operation](operation)


class CrashVFS(ObservedVFS):
    """What a power loss may leave: all that was synced, and of the rest a random subset of its sectors.

    `each` is called at every operation, when a loss at that very moment can be had with `image`.
    """

    def __init__(self, name: str, seed: int, each: Callable[[], None]) -> None:
        super().__init__(name)
        self._random = random.Random(seed)
        self._each = each
        self._synced: dict[str, bytes] = {}
        self._pending: dict[str, list[tuple[str, bytes, int]]] = {}

    def before(self, operation: str, file: str, data: bytes, offset: int) -> None:
        pending = self._pending.setdefault(file, [])
        self._each()
        if operation == "sync":
            content = bytearray(self._synced.get(file, b""))
            for one in pending:
                _apply(content, *one)
            self._synced[file] = bytes(content)
            pending.clear()
        else:
            pending.append((operation, data, offset))

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """Taken for durable: SQLite syncs the folder after the one deletion that counts here, of the first journal."""
        super().xDelete(filename, syncdir)
        for known in (self._pending, self._synced):
            known.pop(Path(filename).name, None)

    def image(self) -> dict[str, bytes]:
        """The files by name, after a power loss now."""
        return {file: self._left_of(file) for file in self._pending}

    def _left_of(self, file: str) -> bytes:
        content = bytearray(self._synced.get(file, b""))
        for operation, data, offset in self._pending[file]:
            if operation == "truncate":
                if self._random.random() < 0.5:
                    _apply(content, operation, data, offset)
                continue
            end = offset + len(data)
            edges = [offset, *range(offset - offset % SECTOR + SECTOR, end, SECTOR), end]
            for first, last in pairwise(edges):
                if self._random.random() < 0.5:
                    _apply(content, "write", data[first - offset : last - offset], first)
        return bytes(content)


def _apply(content: bytearray, operation: str, data: bytes, offset: int) -> None:
    """Do to a file's content what an operation does to a file: the part beyond its end is zeros."""
    end = offset + len(data)
    content.extend(bytes(max(0, end - len(content))))
    if operation == "truncate":
        del content[offset:]
    else:
        content[offset:end] = data
