"""A file of another program as a stream.

The same file is the same stream, whoever imports it and however often: its stream id is made of the file. Its events
are numbered in the order of the file, and the store takes each number once, so the store knows how far a file was
imported. `FileStream` asks it, skips what is stored and sends the rest through a spool, as a worker does; an import
that was killed leaves its spool, which is delivered first.

The events of a file lie between lifecycle events: `run_started` first, and a `run_completed` at the end of each import
that added something and came to the end of the file. Those are not counted as events of the file.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from time import monotonic, sleep

import msgspec

from telefabric import __version__
from telefabric.errors import EnvironmentProblem, StoreError
from telefabric.files.lock import FileLock
from telefabric.store.read.reader import Reader
from telefabric.wire.control import StreamInfo
from telefabric_schemas import decode_event
from telefabric_schemas.events import PAYLOAD_VERSION, Event, RunCompleted, RunStarted
from telefabric_workers.emitter import PLAIN
from telefabric_workers.environment import WorkerEnvironment
from telefabric_workers.outbox import Outbox, link_of, open_outbox
from telefabric_workers.program import Ending
from telefabric_workers.repair import coerce, name_of

_LEFT_SPOOL_S = 30.0
"""How long the spool of a killed import may take to be delivered."""
_LOOK_S = 0.05
COMPLETED = Ending("completed")
CONTINUES = "telefabric: interrupted: the same command continues"
"""For a reading that did not come to the end of its files."""
_LAST_EVENTS = 8
"""Among so many there is one of the file: the end of an import is followed by another event of it, or nothing."""


def stream_id_of(*parts: str | bytes) -> bytes:
    """The id of the stream of a file, of what makes it this file and no other."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


class FileStream:
    """One file's stream. One thread; `close` it."""

    def __init__(
        self, environment: WorkerEnvironment, reader: Reader, stream: bytes, run_id: str, name: str, started_ns: int,
        metadata: dict[str, object],
    ) -> None:  # fmt: skip
        """`name` is the file's, and the worker of its events. Raises `EnvironmentProblem` and what `reader` raises."""
        self.run_id = name_of(run_id) or "run"
        self._environment, self._reader = environment, reader
        self.info = StreamInfo(
            stream, self.run_id, name_of(name) or "file", environment.agent_id, started_ns, "unknown",
            sdk_version=__version__, metadata=msgspec.msgpack.encode(metadata),
        )  # fmt: skip
        self.problems: Counter[str] = Counter()
        """Values that were not usable, as `Worker.problems`."""
        self._outbox: Outbox | None = None
        self._last_ns = started_ns
        self._deliver_what_was_left()
        self._head = reader.watermarks(self.run_id).get(stream, 0)
        ends = self._ends()
        self._ended = self._head in (0, *ends)
        """Nothing is stored behind the end of an earlier import."""
        self._stored = max(self._head - len(ends) - 1, 0)
        """Events of the file that the store has already."""
        self._seen = 0

    @property
    def is_open(self) -> bool:
        """Something was added, and `close` is not called yet."""
        return self._outbox is not None

    def _ends(self) -> set[int]:
        """The numbers of the ends of earlier imports."""
        found: set[int] = set()
        after, more = 0, self._head > 0
        while more:
            page = self._reader.events(after, self.run_id, ["run_completed"])
            found.update(row.seq for row in page.rows if row.stream_id == self.info.stream)
            after, more = page.last, page.more
        return found

    def add(self, event: Event) -> bool:
        """The next event of the file, whose seq is given here; False when it is stored already.

        Waits while the spool is full.
        """
        self._seen += 1
        self._last_ns = max(self._last_ns, getattr(event, "time_ns", 0))
        if self._seen <= self._stored:
            return False
        self._append(self._open(), event)
        return True

    def _open(self) -> Outbox:
        if self._outbox is None:
            self._outbox = open_outbox(self._environment, self.info, self._head)
            self._ended = False
            if self._head == 0:
                info = self.info
                self._append(self._outbox, RunStarted(
                    0, info.run_id, info.worker_id, info.agent_id, info.started_ns, 0, info.control_mode,
                    msgspec.Raw(info.metadata), None, None, __version__, PAYLOAD_VERSION,
                ))  # fmt: skip
        return self._outbox

    def _append(self, outbox: Outbox, event: Event) -> None:
        event.seq = self._head + 1
        for problem in coerce(event):
            self.problems[problem.name(self.problems)] += problem.times
        with outbox.lock:
            outbox.append(event.seq, PLAIN.encode(event))
        self._head = event.seq

    @property
    def is_short(self) -> bool:
        """The store has more events than the file had so far."""
        return self._seen < self._stored

    def is_last_stored(self, event: Event) -> bool | None:
        """Whether the event just seen is the one that is stored, but for its times; None unless that is the last."""
        if self._seen != self._stored:
            return None
        rows = self._reader.stream_since(self.info.stream, max(self._head - _LAST_EVENTS, 0)).rows
        stored = next(row.event for row in reversed(rows) if row.kind not in ("run_started", "run_completed"))
        alike = decode_event(stored)
        coerce(event)
        for name in ("seq", "time_ns", "mono_ns"):
            setattr(event, name, getattr(alike, name))
        return PLAIN.encode(event) == PLAIN.encode(alike)

    def close(self, ending: Ending | None = COMPLETED) -> None:
        """What was added is stored. Without an ending the file goes on, and may be added to.

        Raises `EnvironmentProblem` when not all is stored.
        """
        if self._ended or (ending is None and not self.is_open):
            return
        outbox, self._outbox, self._ended = self._open(), None, ending is not None
        stored = False
        try:
            if ending is not None:
                end = RunCompleted(0, *ending, self._last_ns, self._last_ns - self.info.started_ns)
                self._append(outbox, end)
        finally:
            stored = outbox.close(math.inf)
        if not stored:
            raise EnvironmentProblem(
                f"not all of run {self.run_id} is stored: the rest waits in the spool: start the broker and its store, "
                "and import again"
            )
        if self.info.stream not in self._reader.watermarks(self.run_id):
            raise StoreError(
                f"run {self.run_id} was deleted from {self._reader.where}, which takes nothing of its files any more: "
                "import them as another run with --prefix"
            )

    def _deliver_what_was_left(self) -> None:
        """Wait until the spool that a killed import of this file left is delivered, which the link does."""
        directory = self._environment.spool / self.info.stream.hex()
        until = monotonic() + _LEFT_SPOOL_S
        with link_of(self._environment) as link:
            while directory.exists():
                link.orphans.hurry()
                if monotonic() > until:
                    elsewhere = FileLock.is_elsewhere(directory / "lock")
                    who = "another process is importing" if elsewhere else "an earlier import has not delivered yet"
                    raise EnvironmentProblem(f"{who} {self.info.worker_id} of run {self.run_id}: see telefabric doctor")
                sleep(_LOOK_S)
