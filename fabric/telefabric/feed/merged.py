"""Each event of a watched run once: gathered by the live and the history thread, drained by a third."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

from telefabric.feed.interface import Delivery, FeedEvent
from telefabric.subscribe.core.handover import InOrder, Numbered, Range, StreamHandover
from telefabric_schemas import AnyEvent, Frame

PENDING_EVENTS_MAX = 200_000
"""Beyond it nobody seems to drain: history waits, and live events are left to the store."""
HISTORY_EVENTS = 5_000
"""How far back before the watermark a stream's history is fetched unless asked: a client asks for what it shows of
older times. Only the events that say something of others come of them, too."""
_UNKNOWN_EVENTS_MAX = 5_000


class Seen(NamedTuple):
    """One event as it came, by either way."""

    kind: str
    event: AnyEvent | None
    raw: bytes


class Task(NamedTuple):
    """The next page to fetch from the store."""

    stream: bytes
    since: int
    of_others_before: int | None = None
    """Only the events of `OF_OTHERS`, up to this seq."""


class _MergedStream:
    """One stream of a watched run."""

    def __init__(self, run_id: str, *, in_order: bool) -> None:
        self.run_id = run_id
        self.handover: StreamHandover[Any] = StreamHandover()
        self.order: InOrder[FeedEvent] | None = InOrder(self.handover) if in_order else None
        self.of_others_up_to = 0
        """Events of `OF_OTHERS` are fetched up to here, of the time before the handover begins."""
        self.gaps: tuple[Range, ...] = ()
        self.skipped = 0
        """Live events left to the store since the last `drain`."""
        self._first: int | None = None
        """The lowest seq that came."""
        self._begun = False
        """The store has said how far it is, so where its history begins is decided."""

    def live(self, events: list[Numbered[Seen]]) -> list[Numbered[Seen]]:
        if not self._begun and events:
            self._first = min(events[0].seq, self._first or events[0].seq)
        return self.handover.live(events)

    def stored_up_to(self, stored: int, history_events: int | None) -> None:
        """Note the store's watermark; with the first one, begin to fetch the given number of events before it."""
        if not self._begun:
            self._begun = True
            begin = 0 if history_events is None else max(stored - history_events, 0)
            self.handover.since = begin if self._first is None else min(begin, self._first - 1)
        self.handover.watermark = stored

    def begin_again(self, history_events: int | None) -> bool:
        """Skip to the newest `history_events` of the store when the gap to them is larger; whether it did."""
        before, begin = self.handover, self.handover.watermark - (history_events or 0)
        if history_events is None or self.order is not None or begin <= before.newest:
            return False
        self.skipped += begin - before.newest + sum(last - first + 1 for first, last in before.holes())
        self.handover = StreamHandover(begin)
        self.handover.watermark = before.watermark
        return True


class MergedStreams:
    """Any thread. Streams become known through `know`; live events of unknown ones wait for that.

    `history_events` is how far back before the watermark a stream is fetched whole (None: all of it). With `in_order`
    an event waits for all of its stream before it, so that each stream comes in rising seq.
    """

    def __init__(self, *, history_events: int | None = HISTORY_EVENTS, in_order: bool = False) -> None:
        self._history_events = history_events
        self._in_order = in_order
        self._lock = threading.Lock()
        self.watched: frozenset[str] = frozenset()
        self.resting: frozenset[str] = frozenset()
        """Watched runs of which nothing is fetched."""
        self._streams: dict[bytes, _MergedStream] = {}
        self._unknown: dict[bytes, list[Numbered[Seen]]] = {}
        self._unknown_events = 0
        self._pending: list[FeedEvent] = []
        self._changed: set[bytes] = set()
        self._frames: dict[tuple[bytes, str, int], FeedEvent] = {}

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def has_unknown(self) -> bool:
        """Live events wait for their stream to be known."""
        return bool(self._unknown)

    def watch(self, run_ids: frozenset[str]) -> None:
        """Follow these runs; what was gathered of others is forgotten."""
        with self._lock:
            self.watched = run_ids
            self._streams = {stream: one for stream, one in self._streams.items() if one.run_id in run_ids}
            self._pending = [event for event in self._pending if event.run_id in run_ids]
            self._unknown.clear()
            self._unknown_events = 0

    def rest(self, run_ids: frozenset[str]) -> frozenset[bytes]:
        """Fetch nothing of these runs, and all of the other ones. Returns the streams that begin again."""
        with self._lock:
            woken, self.resting = self.resting - run_ids, run_ids
            again = frozenset(
                stream
                for stream, followed in self._streams.items()
                if followed.run_id in woken and followed.begin_again(self._history_events)
            )
            self._pending = [event for event in self._pending if event.stream_id not in again]
            self._changed |= again
            return again

    def know(self, stream: bytes, run_id: str, stored: int | None) -> None:
        """A stream belongs to a run, and the store holds it up to `stored` (None: nobody could be asked)."""
        with self._lock:
            waiting = self._unknown.pop(stream, [])
            self._unknown_events -= len(waiting)
            if run_id not in self.watched:
                return
            followed = self._streams.get(stream)
            if followed is None:
                followed = self._streams[stream] = _MergedStream(run_id, in_order=self._in_order)
                self._changed.add(stream)
            if waiting:
                self._take(stream, followed, followed.live(waiting), live=True)
            if stored is not None:
                followed.stored_up_to(stored, self._history_events)

    def follows(self, stream: bytes) -> bool:
        """The stream is known and its run is watched."""
        return stream in self._streams

    def live(self, stream: bytes, events: list[Numbered[Seen]]) -> None:
        """Events of the live path."""
        with self._lock:
            followed = self._streams.get(stream)
            if followed is None:
                if self._unknown_events < _UNKNOWN_EVENTS_MAX:
                    self._unknown.setdefault(stream, []).extend(events)
                    self._unknown_events += len(events)
            elif len(self._pending) >= PENDING_EVENTS_MAX:
                followed.skipped += len(events)
                self._changed.add(stream)
            else:
                self._take(stream, followed, followed.live(events), live=True)

    def frame(self, stream: bytes, seen: Seen) -> None:
        """A picture; only the newest of each environment is kept."""
        with self._lock:
            followed = self._streams.get(stream)
            if followed is not None and isinstance(seen.event, Frame):
                key = (stream, seen.event.agent_id, seen.event.env_index)
                self._frames[key] = FeedEvent(followed.run_id, stream, 0, seen.kind, seen.event, seen.raw, True)

    def stored(self, task: Task, events: list[Numbered[Seen]], gaps: Iterable[Range], covers: int) -> None:
        """A page of the store, the answer to a task."""
        with self._lock:
            followed = self._streams.get(task.stream)
            if followed is None:
                return
            followed.gaps = tuple(sorted({*followed.gaps, *gaps}))
            if task.of_others_before is not None:
                self._pending += _feed_events(task.stream, followed.run_id, events, live=False)
                self._changed.add(task.stream)
                followed.of_others_up_to = task.of_others_before
                return
            self._take(task.stream, followed, followed.handover.stored(task.since, events, covers=covers), live=False)

    def tasks(self) -> list[Task]:
        """The next questions to the store: one page for each stream with missing events."""
        with self._lock:
            if len(self._pending) >= PENDING_EVENTS_MAX // 2:
                return []
            found: list[Task] = []
            for stream, followed in self._streams.items():
                if followed.run_id in self.resting:
                    continue
                missing = followed.handover.ask()
                if followed.of_others_up_to < followed.handover.since:
                    found.append(Task(stream, followed.of_others_up_to, followed.handover.since))
                elif missing is not None:
                    found.append(Task(stream, missing.first - 1))
            return found

    def drain(self) -> Delivery:
        """All that came since the last call."""
        with self._lock:
            pending, self._pending = [*self._pending, *self._frames.values()], []
            self._frames.clear()
            changed, self._changed = self._changed, set()
            streams = {stream: self._streams[stream] for stream in changed if stream in self._streams}
            skipped = {stream: one.skipped for stream, one in streams.items() if one.skipped}
            for stream in skipped:
                streams[stream].skipped = 0
            holes = {stream: tuple(one.handover.holes()) for stream, one in streams.items()}
            return Delivery(pending, holes, {stream: one.gaps for stream, one in streams.items()}, skipped)

    def _take(self, stream: bytes, followed: _MergedStream, fresh: list[Numbered[Seen]], *, live: bool) -> None:
        found = _feed_events(stream, followed.run_id, fresh, live=live)
        if followed.order is not None:
            found = [one.event for one in followed.order.take(Numbered(one.seq, one) for one in found)]
        self._pending += found
        self._changed.add(stream)


def _feed_events(stream: bytes, run_id: str, events: list[Numbered[Seen]], *, live: bool) -> list[FeedEvent]:
    return [FeedEvent(run_id, stream, seq, seen.kind, seen.event, seen.raw, live) for seq, seen in events]
