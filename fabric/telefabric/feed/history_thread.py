"""The history thread: what the store holds of the watched runs, page by page, and the list of runs."""

from __future__ import annotations

import threading

from telefabric.address import Address
from telefabric.errors import TelefabricError
from telefabric.feed.failures import Failures
from telefabric.feed.interface import OF_OTHERS
from telefabric.feed.merged import MergedStreams, Seen, Task
from telefabric.feed.run_views import RunViews
from telefabric.feed.stored_runs import StoredRuns
from telefabric.store.read.query import StoredEvent, Stream
from telefabric.store.read.reader import QUARANTINE, Reader
from telefabric.store.read.remote_reader import RemoteReader
from telefabric.subscribe.core.handover import Numbered, Range
from telefabric_schemas.decoding import event_of

_LOOK_S = 0.5
_RETRY_S = 1.0


class HistoryThread:
    """Fetches until `stop`. `streams` and `problem` may be looked at from any thread; `views` gets the list of runs."""

    def __init__(self, address: Address, merged: MergedStreams, views: RunViews) -> None:
        self.streams: list[Stream] = []
        """Those of the watched runs."""
        self.problem = ""
        """Why nothing is fetched now: a sentence; empty when it is."""
        self.failures = Failures()
        self._address = address
        self._merged = merged
        self._views = views
        self._runs = StoredRuns()
        self._reader: Reader | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telefabric-history", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Look at once: other runs are watched, or something is missing."""
        self._wake.set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(10)

    def _run(self) -> None:
        self.failures.endure("Reading history", self._turn, self._stop)
        self._close()

    def _turn(self) -> None:
        """One look at the store, and the wait for the next."""
        self._wake.wait(self._look_and_fetch())
        self._wake.clear()

    def _look_and_fetch(self) -> float:
        """How long to wait for the next look."""
        try:
            if self._reader is None:
                self._reader = RemoteReader(self._address, cancelled=self._stop.is_set)
            self._look(self._reader)
            while not self._stop.is_set() and self._fetch(self._reader):
                self._look(self._reader)
        except TelefabricError as error:
            self.problem = str(error)
            self._close()
            return _RETRY_S
        self.problem = ""
        return _LOOK_S

    def _look(self, reader: Reader) -> None:
        """Runs, and the streams of watched ones with how far they are stored."""
        self._runs.look(reader, self._views.store)
        found: list[Stream] = []
        for run_id in self._merged.watched:
            streams = reader.streams(run_id)
            found += streams
            for stream in streams:
                self._merged.know(stream.stream_id, run_id, stream.stored_seq)
        self.streams = found

    def _fetch(self, reader: Reader) -> bool:
        """One page of each stream that misses something; False when none does."""
        tasks = self._merged.tasks()
        for task in tasks:
            if not self._stop.is_set():
                self._fetch_one(reader, task)
        return bool(tasks)

    def _fetch_one(self, reader: Reader, task: Task) -> None:
        if task.of_others_before is None:
            page = reader.stream_since(task.stream, task.since)
            rows, covers = page.rows, page.last
        else:
            covers = task.of_others_before
            rows = self._of_others(reader, task.stream, task.since, covers)
        gaps = [Range(row.seq, row.last_seq) for row in rows if row.kind == "gap"]
        self._merged.stored(task, [_numbered(row) for row in rows], gaps, covers)

    def _of_others(self, reader: Reader, stream_id: bytes, after: int, last: int) -> list[StoredEvent]:
        """Fetch the events of `OF_OTHERS` after a seq of a stream and up to another."""
        found: list[StoredEvent] = []
        for run_id in {one.run_id for one in self.streams if one.stream_id == stream_id}:
            page = reader.events(0, run_id, OF_OTHERS)
            while page.rows or page.more:
                found += [row for row in page.rows if row.stream_id == stream_id and after < row.seq <= last]
                page = reader.events(page.last, run_id, OF_OTHERS)
        return found

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _numbered(row: StoredEvent) -> Numbered[Seen]:
    event = None if row.kind == QUARANTINE else event_of(row.event)
    return Numbered(row.seq, Seen(row.kind, event, row.event))
