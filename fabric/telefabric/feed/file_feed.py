"""A feed of a store file: history of the watched runs, then what a writer adds to it, polled.

Of a run the newest `TAIL_IDS` come, in order, so that a client shows its end at once, then the events that say
something of older ones: gaps and voided episodes. The others count as skipped: a client asks for what it shows of them.
A reader thread waits while `BUFFERED_MAX` events have not been drained: nothing is lost by a slow client.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from telefabric import limits
from telefabric.errors import StoreError
from telefabric.feed.edit_requests import EditRequests
from telefabric.feed.failures import Failures
from telefabric.feed.interface import OF_OTHERS, Connection, Delivery, FeedEvent, LinkState, Rate, Update
from telefabric.feed.questions import Answer, Asked, Questions
from telefabric.feed.run_views import RunViews
from telefabric.feed.stored_runs import StoredRuns
from telefabric.peer.edit_request import read_only
from telefabric.store.file.database import store_file
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query import Question, StoredEvent
from telefabric.store.read.reader import QUARANTINE, Reader
from telefabric.subscribe.core.handover import Range, SeqSet
from telefabric_schemas.decoding import event_of

POLL_S = 0.2
RETRY_S = 1.0
BUFFERED_MAX = 3_000
"""Events that wait for `drain`: what a client takes in within a tick without being felt."""
TAIL_IDS = 5_000


class FileFeed:
    """A `telefabric.feed.Feed` of a store file or its folder. A thread opens it, and keeps trying when it cannot."""

    def __init__(self, path: Path) -> None:
        self._path = store_file(path)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store file feed", daemon=True)
        self._changed = threading.Condition()
        self._watched: frozenset[str] = frozenset()
        self._forgotten: set[str] = set()
        """Runs that were let go of since the thread last looked; watched again, they come from their beginning."""
        self._link, self._sentence = LinkState.CONNECTING, ""
        self._runs, self._views = StoredRuns(), RunViews()
        self._waiting: dict[str, Delivery] = {}
        """Run → what has come of it since the last `drain`."""
        self._questions = Questions(lambda cancelled: FileReader(self._path, cancelled=cancelled))
        self._edits = EditRequests(self._refuse)
        self._received = 0
        self._rate = Rate()
        self._failures = Failures()
        self._notice = ""

    # -- the feed ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()
        self._questions.start()

    def stop(self) -> None:
        """Ends the threads, and waits for them."""
        self._stopped.set()
        self._questions.stop()
        with self._changed:
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def watch(self, run_ids: frozenset[str]) -> None:
        with self._changed:
            gone = self._watched - run_ids
            self._forgotten |= gone
            self._waiting = {run_id: one for run_id, one in self._waiting.items() if run_id not in gone}
            self._watched = run_ids
            self._changed.notify_all()

    def rest(self, run_ids: frozenset[str]) -> frozenset[bytes]:
        """A file is read on: nobody has to send it."""
        return frozenset()

    def want_pictures(self, run_ids: frozenset[str]) -> None:
        """Nothing is live in a file."""

    def ask(self, question: Question[Any], answered: Callable[[Answer], None], *, urgent: bool = False) -> Asked:
        return self._questions.ask(question, answered, urgent=urgent)

    def edit(self, run_id: str, command: str, value: object = None) -> None:
        self._edits.ask(command, run_id, value)

    def _refuse(self, command: str, run_id: str, value: object) -> str:
        raise read_only(self._path)

    def drain(self) -> Update:
        with self._changed:
            waiting, self._waiting = self._waiting, {}
            if waiting:
                self._changed.notify_all()
            failures = (self._failures, self._questions.failures)
            connection = Connection(
                self._link, str(self._path), self._sentence, self._rate.at(self._received), None, self._received,
                failures=sum(one.number for one in failures),
                notice=next((one.last for one in failures if one.last), self._notice),
            )  # fmt: skip
        found = Delivery([], {}, {}, {})
        for one in waiting.values():
            found.add(one)
        runs, gone = self._views.take()
        return Update(connection, runs or None, *found, self._edits.take(), gone, self._edits.left)

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
        while not self._stopped.is_set():
            self._runs.look(reader, self._views.store)
            self._tell(LinkState.FILE, "")
            until = time.monotonic() + POLL_S
            while self._page_all(reader, pagers) and time.monotonic() < until:
                pass
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
            if run_id not in pagers:
                pagers[run_id] = _Pager(reader, run_id)
            if page := pagers[run_id].next_page(reader):
                self._deliver(run_id, page)
                found = True
        return found

    def _deliver(self, run_id: str, page: Delivery) -> None:
        """Hand a page over, in parts when the client is slow, unless the run is let go of meanwhile."""
        left = page.events
        while not self._stopped.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._room > 0 or self._stopped.is_set() or run_id in self._forgotten)
                if run_id in self._forgotten:
                    return
                part, left = left[: self._room], left[self._room :]
                self._received += len(part)
                waiting = self._waiting.setdefault(run_id, Delivery([], {}, {}, {}))
                waiting.add(page._replace(events=part) if not left else Delivery(part, {}, {}, {}))
            if not left:
                return

    @property
    def _room(self) -> int:
        """How many events may still wait for `drain`."""
        return BUFFERED_MAX - sum(len(one.events) for one in self._waiting.values())

    def _tell(self, link: LinkState, sentence: str) -> None:
        with self._changed:
            self._link, self._sentence = link, sentence


class _Pager:
    """Where the feed is in one run: first all from the tail's beginning on, then what there is of others before it."""

    def __init__(self, reader: Reader, run_id: str) -> None:
        self._run_id = run_id
        last = reader.newest(1, run_id)
        newest = last.rows[-1].id if last.rows else last.last
        first = reader.events(0, run_id, limit=1).rows
        begin = first[0].id - 1 if first else newest
        """All of the run comes after this id."""
        self._forward = self._tail = max(begin, newest - TAIL_IDS)
        self._past: int | None = begin if begin < self._tail else None
        """After which id to ask for what is before the tail; None when all has come."""
        self._seen: defaultdict[bytes, SeqSet] = defaultdict(SeqSet)
        self._first: dict[bytes, int] = {}
        """Stream → its first seq in the tail, 1 when that is the whole run: what is before is not missed."""
        self._gaps: dict[bytes, tuple[Range, ...]] = {}
        self._holes: dict[bytes, tuple[Range, ...]] = {}

    def next_page(self, reader: Reader) -> Delivery | None:
        """The next of the newest, else of those before; None when all has come by now."""
        page = reader.events(self._forward, self._run_id)
        moved = page.last > self._forward
        self._forward = max(self._forward, page.last)
        if page.rows:
            for row in page.rows:
                if row.reason != "conflict":
                    self._first.setdefault(row.stream_id, 1 if self._past is None else row.seq)
            return self._delivery(page.rows)
        if moved and page.more:
            return self._delivery([])
        return None if self._past is None else self._delivery(self._past_page(reader, self._past))

    def _past_page(self, reader: Reader, after: int) -> list[StoredEvent]:
        page = reader.events(after, self._run_id, OF_OTHERS, limit=limits.QUERY_ROWS_MAX)
        self._past = page.last if page.more and page.last < self._tail else None
        return [row for row in page.rows if row.id <= self._tail]

    def _delivery(self, rows: list[StoredEvent]) -> Delivery:
        spans: defaultdict[bytes, list[Range]] = defaultdict(list)
        lost: defaultdict[bytes, list[Range]] = defaultdict(list)
        for row in rows:
            if row.kind == QUARANTINE and row.reason == "conflict":
                continue
            spans[row.stream_id].append(Range(row.seq, row.last_seq))
            if row.kind == "gap":
                lost[row.stream_id].append(Range(row.seq, row.last_seq))
        for stream_id, ranges in spans.items():
            for first, last in _joined(ranges):
                self._seen[stream_id].add(first, last)
        for stream_id, ranges in lost.items():
            self._gaps[stream_id] = tuple(sorted((*self._gaps.get(stream_id, ()), *ranges)))
        gaps = {stream_id: self._gaps[stream_id] for stream_id in lost}
        holes = {}
        for stream_id, first in self._first.items():
            missing = tuple(self._seen[stream_id].missing(first, self._seen[stream_id].newest))
            if missing != self._holes.get(stream_id, ()):
                holes[stream_id] = self._holes[stream_id] = missing
        return Delivery([_feed_event(row) for row in rows], holes, gaps, self._skip() if self._past is None else {})

    def _skip(self) -> dict[bytes, int]:
        """When all has come: how much before the tail has not."""
        skipped = {}
        for stream_id, first in self._first.items():
            if number := sum(last - low + 1 for low, last in self._seen[stream_id].missing(1, first - 1)):
                skipped[stream_id] = number
            self._first[stream_id] = 1
            if first > 1:
                self._seen[stream_id].add(1, first - 1)
        return skipped


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
