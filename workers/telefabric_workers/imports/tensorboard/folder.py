"""A folder of TensorBoard's as runs: each folder in it with event files is a run, each file a stream of that run.

So a restart is one more attempt at its run, whatever step it begins with, and a file that was replaced is another
stream: the first record of a file, with the time at which it was made, is a part of its stream's id.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from telefabric.doctor.finding import counted
from telefabric.store.read.reader import Reader
from telefabric_schemas.events import Event, Log, Metric
from telefabric_workers.environment import WorkerEnvironment
from telefabric_workers.imports.filestream import COMPLETED, FileStream, stream_id_of
from telefabric_workers.imports.tensorboard.events import Reader as EventReader
from telefabric_workers.imports.tensorboard.events import Value, time_of
from telefabric_workers.imports.tensorboard.records import Damaged, Tail

_NAME = "tfevents"
OPEN_MAX = 64
"""Files whose stream is open at once while they are followed: each takes 8 MiB of the spool's disk."""


class EventFile:
    """One event file: read from its beginning, so that what tags mean is known, and sent from where the store is."""

    def __init__(self, path: Path, run_id: str) -> None:
        self.path, self.run_id = path, run_id
        self.counts: Counter[str] = Counter()
        """Events that were added, by kind."""
        self.unread = ""
        """A sentence about what cannot be read of it; empty in the usual case."""
        self.is_through = False
        """The last reading came to the end of it."""
        self.stream: FileStream | None = None
        self._reader = EventReader()
        self._tail = Tail(path)

    @property
    def left_out(self) -> Counter[str]:
        return self._reader.left_out + (self.stream.problems if self.stream else Counter())

    @property
    def offset(self) -> int:
        """Bytes of it that are through."""
        return self._tail.offset

    @property
    def is_open(self) -> bool:
        return self.stream is not None and self.stream.is_open

    @property
    def idle_s(self) -> float:
        """How long ago it was written."""
        return time.time() - self.path.stat().st_mtime

    def is_replaced(self) -> bool:
        return self._tail.is_replaced()

    def read(self, environment: WorkerEnvironment, reader: Reader) -> Iterator[int]:
        """Send what is new, and yield after each record how many bytes of the file are through."""
        self.unread, self.is_through = "", False
        try:
            for record in self._tail.records():
                if self.stream is None:
                    self.stream = self._begin(record, environment, reader)
                for value in self._reader.values(record):
                    event = _event_of(value, environment.agent_id, self.stream.info.started_ns)
                    self.counts[event.kind] += self.stream.add(event)
                yield self._tail.offset
            if not self._tail.is_replaced() and (torn := self._tail.torn_bytes):
                verb = "is" if torn == 1 else "are"
                self.unread = (
                    f"{self.path} ends with {counted(torn, 'byte')} that {verb} no whole record yet: import again later"
                )
        except Damaged as error:
            self.unread = f"{error}: what follows is not imported"
        self.is_through = True

    def _begin(self, record: bytes, environment: WorkerEnvironment, reader: Reader) -> FileStream:
        stream = stream_id_of("tensorboard", self.run_id, self.path.name, record)
        metadata: dict[str, object] = {"imported": "tensorboard", "folder": str(self.path.parent)}
        return FileStream(environment, reader, stream, self.run_id, self.path.name, _time_of(record), metadata)

    def end(self) -> None:
        """Store what was added. Raises as `FileStream.close` does. It may be read on afterwards."""
        if self.stream is not None:
            self.stream.close(COMPLETED if self.is_through else None)


def event_files(folder: Path, prefix: str = "") -> dict[Path, str]:
    """The event files below a folder, or that one, and the run of each: its folder. Earlier ones of a folder first.

    Raises `OSError` for a folder that cannot be read.
    """
    if folder.is_file():
        return {folder: prefix + (folder.parent.name or "run")}
    found = {}
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders.sort()
        run_id = Path(parent).relative_to(folder).as_posix()
        for name in sorted(names):
            if _NAME in name:
                found[Path(parent, name)] = prefix + (folder.name if run_id == "." else run_id)
    return found


def _raise(error: OSError) -> None:
    raise error


def _time_of(record: bytes) -> int:
    try:
        return time_of(record)
    except ValueError:
        return 0


def _event_of(value: Value, agent_id: str, started_ns: int) -> Event:
    times = value.time_ns, value.time_ns - started_ns
    if isinstance(value.content, float):
        return Metric(0, value.tag, value.content, None, value.step, agent_id, *times)
    fields: dict[str, object] = {"global_step": value.step}
    message = value.content
    if not isinstance(message, str):
        fields |= {"values": message, "shape": list(value.shape)}
        message = f"a tensor of shape {list(value.shape)}"
    return Log(0, value.level, message, agent_id, *times, value.tag or None, fields)
