"""A feed of a store file: history of the watched runs, then what a writer adds to it, polled.

Of a run the newest `WINDOW_IDS` come first, in order, so that a client shows its end at once; then older windows, each
in order, down to `HISTORY_IDS`. What is older still comes without its steps, frames and logs, which count as skipped.
A reader thread waits while `BUFFERED_MAX` events have not been drained: nothing is lost by a slow client.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from telefabric import limits
from telefabric.errors import StoreError
from telefabric.feed.failures import Failures
from telefabric.feed.frame_requests import FrameRequests, stream_view
from telefabric.feed.interface import (
    Connection,
    FeedEvent,
    FramePlace,
    LinkState,
    RunView,
    StreamView,
    Update,
)
from telefabric.store.file.database import store_file
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query import Page, StoredEvent
from telefabric.store.read.reader import QUARANTINE, Reader
from telefabric.subscribe.core.handover import Range, SeqSet
from telefabric_schemas import DURABLE_KINDS
from telefabric_schemas.decoding import event_of

POLL_S = 0.2
RETRY_S = 1.0
BUFFERED_MAX = 3_000
"""Events that wait for `drain`: what a client takes in within a tick without being felt."""
WINDOW_IDS = 100_000
HISTORY_IDS = 200_000
_BULKY = frozenset({"step", "frame", "log"})
_SPARSE_KINDS = tuple(sorted(DURABLE_KINDS - _BULKY))


class FileFeed:
    """A `telefabric.feed.Feed` of a store file or its folder. A thread opens it, and keeps trying when it cannot."""

    def __init__(
        self,
        path: Path,
        *,
        poll_s: float = POLL_S,
        buffered_max: int = BUFFERED_MAX,
        window_ids: int = WINDOW_IDS,
        history_ids: int = HISTORY_IDS,
    ) -> None:
        self._path = store_file(path)
        self._poll_s = poll_s
        self._window_ids = window_ids
        self._history_ids = history_ids
        self._buffered_max = buffered_max
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store file feed", daemon=True)
        self._changed = threading.Condition()
        self._watched: frozenset[str] = frozenset()
        self._forgotten: set[str] = set()
        """Runs that were let go of since the thread last looked; watched again, they come from their beginning."""
        self._link, self._sentence = LinkState.CONNECTING, ""
        self._runs: tuple[RunView, ...] | None = None
        self._events: list[FeedEvent] = []
        self._holes: dict[bytes, tuple[Range, ...]] = {}
        self._gaps: dict[bytes, tuple[Range, ...]] = {}
        self._skipped: dict[bytes, int] = {}
        self._frame_requests = FrameRequests()
        self._received = 0
        self._rate = _Rate()
        self._failures = Failures()
        self._notice = ""

    # -- the feed ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, and waits for it."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def watch(self, run_ids: frozenset[str]) -> None:
        with self._changed:
            gone = self._watched - run_ids
            self._forgotten |= gone
            self._events = [event for event in self._events if event.run_id not in gone]
            self._watched = run_ids
            self._changed.notify_all()

    def want_pictures(self, run_ids: frozenset[str]) -> None:
        """Nothing is live in a file."""

    def ask_frame(self, place: FramePlace) -> None:
        with self._changed:
            self._frame_requests.ask(place)
            self._changed.notify_all()

    def drain(self) -> Update:
        with self._changed:
            runs, self._runs = self._runs, None
            events, self._events = self._events, []
            holes, self._holes = self._holes, {}
            gaps, self._gaps = self._gaps, {}
            skipped, self._skipped = self._skipped, {}
            if events:
                self._changed.notify_all()
            connection = Connection(
                self._link, str(self._path), self._sentence, self._rate.at(self._received), None, self._received,
                failures=self._failures.number, notice=self._failures.last or self._notice,
            )  # fmt: skip
        return Update(connection, runs, tuple(events), holes, gaps, skipped, self._frame_requests.take())

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pagers: dict[str, _Pager] = {}
        self._failures.endure("Reading the store file", lambda: self._turn(pagers), self._stopped)

    def _turn(self, pagers: dict[str, _Pager]) -> None:
        """Read on until something is wrong."""
        try:
            with FileReader(self._path, cancelled=self._stopped.is_set) as reader:
                self._notice = reader.notice
                self._read(reader, pagers)
        except StoreError as error:
            self._tell(LinkState.UNREACHABLE, f"{str(error)[0].upper()}{str(error)[1:]}.")
            self._stopped.wait(RETRY_S)

    def _read(self, reader: Reader, pagers: dict[str, _Pager]) -> None:
        """Page and poll until stopped. Raises `StoreError`."""
        known: tuple[RunView, ...] = ()
        while not self._stopped.is_set():
            runs = _runs(reader)
            self._tell(LinkState.FILE, "")
            if runs != known:
                known = runs
                with self._changed:
                    self._runs = runs
            until = time.monotonic() + self._poll_s
            self._frame_requests.answer(reader)
            while self._page_all(reader, pagers) and time.monotonic() < until:
                self._frame_requests.answer(reader)
            with self._changed:
                if not self._stopped.is_set():
                    self._changed.wait(max(0.0, until - time.monotonic()))

    def _page_all(self, reader: Reader, pagers: dict[str, _Pager]) -> bool:
        """One page of each watched run; whether there was anything."""
        with self._changed:
            watched = self._watched
            for run_id in self._forgotten:
                pagers.pop(run_id, None)
            self._forgotten.clear()
        found = False
        for run_id in sorted(watched):
            pager = pagers.get(run_id) or _Pager(reader, run_id, self._window_ids, self._history_ids)
            pagers[run_id] = pager
            found = self._deliver(run_id, pager.next_page(reader)) or found
        return found

    def _deliver(self, run_id: str, page: _Delivery | None) -> bool:
        """Hand a page over, in parts when the client is slow; whether there was one."""
        if page is None:
            return False
        left = deque(page.events)
        while left and not self._stopped.is_set():
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self._stopped.is_set() or len(self._events) < self._buffered_max or run_id in self._forgotten
                    )
                )
                if run_id in self._forgotten:
                    return True
                room = self._buffered_max - len(self._events)
                part = [left.popleft() for _ in range(min(room, len(left)))]
                self._events += part
                self._received += len(part)
        with self._changed:
            if run_id not in self._forgotten:
                self._holes.update(page.holes)
                self._gaps.update(page.gaps)
                self._skipped.update(page.skipped)
        return True

    def _tell(self, link: LinkState, sentence: str) -> None:
        with self._changed:
            self._link, self._sentence = link, sentence


class _Delivery(NamedTuple):
    events: list[FeedEvent]
    holes: dict[bytes, tuple[Range, ...]]
    gaps: dict[bytes, tuple[Range, ...]]
    skipped: dict[bytes, int]


class _Pager:
    """Where the feed is in one run. Ids up to `_forward` have come from `_window` on; what is before comes later."""

    def __init__(self, reader: Reader, run_id: str, window_ids: int, history_ids: int) -> None:
        self._run_id = run_id
        self._window_ids = window_ids
        last = reader.newest(1, run_id)
        newest = last.rows[-1].id if last.rows else last.last
        first = reader.events(0, run_id, limit=1).rows
        self._first = first[0].id - 1 if first else newest
        """All of the run comes after this id."""
        self._forward = self._older_end = max(self._first, newest - window_ids)
        self._older: tuple[int, int] | None = None
        """The older window in work: after which id to ask on, and its end."""
        self._whole_from = max(self._first, newest - history_ids)
        """Before this id, steps are left out."""
        self._done = self._older_end <= self._first
        self._caught_up = False
        self._seen: dict[bytes, SeqSet] = {}
        self._lost: dict[bytes, list[Range]] = {}
        self._holes: dict[bytes, tuple[Range, ...]] = {}

    def next_page(self, reader: Reader) -> _Delivery | None:
        """The next of the newest, else the next of the older ones; None when all has come by now."""
        page = reader.events(self._forward, self._run_id)
        moved = page.last > self._forward
        self._forward = max(self._forward, page.last)
        if page.rows:
            return self._delivery(page.rows)
        if moved and page.more:
            return self._delivery([])
        return None if self._done else self._delivery(self._older_page(reader))

    def _older_page(self, reader: Reader) -> list[StoredEvent]:
        if self._older is None:
            sparse = self._older_end <= self._whole_from
            start = self._first if sparse else max(self._whole_from, self._older_end - self._window_ids)
            self._older = (start, self._older_end)
            self._older_end = start
        after, end = self._older
        page: Page[StoredEvent] = reader.events(
            after, self._run_id, _SPARSE_KINDS if after < self._whole_from else None, limit=limits.QUERY_ROWS_MAX
        )
        rows = [row for row in page.rows if row.id <= end]
        self._older = (page.last, end)
        if page.last >= end or not page.more:
            self._older = None
            self._done = self._older_end <= self._first
        return rows

    def _delivery(self, rows: list[StoredEvent]) -> _Delivery:
        gaps: dict[bytes, tuple[Range, ...]] = {}
        spans: dict[bytes, list[Range]] = {}
        for row in rows:
            if row.kind == QUARANTINE and row.reason == "conflict":
                continue
            spans.setdefault(row.stream_id, []).append(Range(row.seq, row.last_seq))
            if row.kind == "gap":
                lost = self._lost.setdefault(row.stream_id, [])
                lost.append(Range(row.seq, row.last_seq))
                gaps[row.stream_id] = tuple(sorted(lost))
        for stream_id, ranges in spans.items():
            seen = self._seen.setdefault(stream_id, SeqSet())
            for first, last in _joined(ranges):
                seen.add(first, last)
        skipped = self._give_up() if self._done else {}
        holes = {}
        for stream_id, seen in self._seen.items():
            missing = tuple(seen.missing(1, seen.newest)) if not self._sparse_now else self._holes.get(stream_id, ())
            if missing != self._holes.get(stream_id, ()):
                holes[stream_id] = self._holes[stream_id] = missing
        return _Delivery([_feed_event(row) for row in rows], holes, gaps, skipped)

    @property
    def _sparse_now(self) -> bool:
        """Only kinds without steps come: each event would split the hole that stays until the end."""
        return self._older is not None and self._older[0] < self._whole_from

    def _give_up(self) -> dict[bytes, int]:
        """At the end of the past: what has not come by now was left out."""
        if self._caught_up:
            return {}
        self._caught_up = True
        skipped = {}
        for stream_id, seen in self._seen.items():
            if missing := seen.missing(1, seen.newest):
                skipped[stream_id] = sum(last - first + 1 for first, last in missing)
                seen.add(1, seen.newest)
        return skipped


class _Rate:
    """Events a second over the last one or two."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def at(self, received: int) -> float:
        now = time.monotonic()
        self._marks.append((now, received))
        while now - self._marks[0][0] > 2.0 and len(self._marks) > 2:
            self._marks.popleft()
        then, before = self._marks[0]
        return (received - before) / (now - then) if now > then else 0.0


def _joined(ranges: list[Range]) -> list[Range]:
    """Rising ranges with neighbours put together."""
    joined: list[Range] = []
    for first, last in ranges:
        if joined and first == joined[-1].last + 1:
            joined[-1] = Range(joined[-1].first, last)
        else:
            joined.append(Range(first, last))
    return joined


def _feed_event(row: StoredEvent) -> FeedEvent:
    event = None if row.kind == QUARANTINE else event_of(row.event)
    return FeedEvent(row.run_id, row.stream_id, row.seq, row.kind, event, row.event, False)


def _runs(reader: Reader) -> tuple[RunView, ...]:
    agents: dict[str, dict[str, None]] = {}
    workers: dict[str, set[str]] = {}
    streams: dict[str, list[StreamView]] = {}
    for stream in reader.streams():
        streams.setdefault(stream.run_id, []).append(stream_view(stream))
        agents.setdefault(stream.run_id, {})[stream.agent_id] = None
        workers.setdefault(stream.run_id, set()).add(stream.worker_id)
    return tuple(
        RunView(
            run.run_id,
            run.status,
            run.control_mode,
            tuple(agents.get(run.run_id, ())),
            len(workers.get(run.run_id, ())),
            run.started_ns,
            run.finished_ns,
            run.reason,
            run.metadata,
            streams=tuple(streams.get(run.run_id, ())),
            attempts=run.attempts,
            helpers=run.helpers,
            superseded=run.superseded,
        )
        for run in reversed(reader.runs())
    )
