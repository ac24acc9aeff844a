"""The folder that an export fills, and `export.json` in it, which says how far it is.

An export may end at any moment, by ^C, `kill -9` or a full disk. `export.json` names each file before it is made, and
says at each checkpoint how long the files are up to there. Whoever continues cuts the files to these lengths.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec

from telefabric.errors import EnvironmentProblem, UsageError
from telefabric.exchange.selection import Selection
from telefabric.files.lock import FileLock
from telefabric.files.sync import sync_file

NAME = "export.json"
_LOCK = ".export.lock"


class Question(msgspec.Struct, frozen=True):
    """What is exported, and as what."""

    format: str
    store: str
    """The store file or broker that is read."""
    selection: Selection
    options: dict[str, Any] = {}


class Progress(msgspec.Struct):
    """What `export.json` holds."""

    question: Question
    until: int
    """The newest id of the store when the export began: what was stored later is not exported."""
    done: int = 0
    """Events up to this id are in the files."""
    complete: bool = False
    counts: dict[str, int] = {}
    """Events in the files, by kind."""
    left_out: dict[str, int] = {}
    """Events that the format has no place for, by reason."""
    files: dict[str, int] = {}
    """Files, and folders of other libraries, with their bytes at the last checkpoint; 0 before the first."""


class Folder:
    """One export's folder, locked by this process until `close`. All methods raise `OSError`."""

    def __init__(self, path: Path, lock: FileLock, progress: Progress) -> None:
        self.path = path
        self.progress = progress
        self._lock = lock

    @classmethod
    def open(cls, path: Path, wanted: Progress, *, force: bool, resumes: bool) -> Folder:
        """An empty folder, or the one of an unfinished export of the same question, cut to its last checkpoint.

        Raises `UsageError` for a folder with anything else, unless `force` and it is an export, which then goes.
        """
        if path.is_dir() and not (path / NAME).exists() and any(each.name != _LOCK for each in path.iterdir()):
            raise UsageError(f"{path} is not empty and not an export: name another folder")
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock.take(path / _LOCK)
        if lock is None:
            raise EnvironmentProblem(f"another process exports to {path}: wait for it, or name another folder")
        folder = cls(path, lock, wanted)
        try:
            folder._take_over(force, resumes)
        except BaseException:
            lock.release()
            raise
        return folder

    def _take_over(self, force: bool, resumes: bool) -> None:
        found = _read(self.path / NAME)
        if found is not None and not force:
            if found.complete:
                raise UsageError(f"{self.path} has a complete export: name another folder, or replace it with --force")
            if found.question != self.progress.question:
                raise UsageError(
                    f"{self.path} has an unfinished export of something else: finish it with the same command, name "
                    "another folder, or replace it with --force"
                )
        if found is not None and resumes and not force:
            self.progress = found
            for name, size in list(found.files.items()):
                if size:
                    os.truncate(self.path / name, size)
                else:
                    self.drop(name)
        elif found is not None:
            for name in found.files:
                _remove(self.path / name)
        self._write()

    def add(self, name: str) -> Path:
        """The path of a new file, which is then this export's: whoever continues or replaces it may remove the file."""
        self.progress.files[name] = 0
        self._write()
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def drop(self, name: str) -> None:
        """Remove a file again."""
        _remove(self.path / name)
        self.progress.files.pop(name)

    def checkpoint(self, done: int, *, complete: bool = False) -> None:
        """All events up to this id are in the files: put them on the disk, and then note it."""
        for name in self.progress.files:
            path = self.path / name
            size = _size(path)
            if size != self.progress.files[name] and path.is_file():
                sync_file(path)
            self.progress.files[name] = size
        self.progress.done = done
        self.progress.complete = complete
        self._write()

    def forget(self) -> None:
        """Remove all of this export."""
        for name in list(self.progress.files):
            self.drop(name)
        (self.path / NAME).unlink()

    def close(self) -> None:
        """Release the folder; one that is empty goes."""
        self._lock.release()
        if self.progress.complete or not (self.path / NAME).exists():
            (self.path / _LOCK).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _write(self) -> None:
        making = self.path / f".{NAME}"
        making.write_bytes(msgspec.json.format(msgspec.json.encode(self.progress)) + b"\n")
        sync_file(making)
        os.replace(making, self.path / NAME)


def _read(path: Path) -> Progress | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Progress)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} cannot be read ({error}): name another folder") from None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in path.rglob("*")) if path.is_dir() else path.stat().st_size
