"""The data that a client shows: runs, events and holes, in updates that the client fetches at its own pace.

A feed has a thread of its own that receives, decodes and merges; the client calls `drain` at its own pace
and gets all that came since, each event once. There are two: `BrokerFeed`, of a broker's live and
stored events, and `FileFeed`, of a store file.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

from telefabric.feed.questions import Answer, Asked
from telefabric.store.read.query import Question
from telefabric.subscribe.core.handover import Range
from telefabric.wire.delivery import AS_WISHED
from telefabric_schemas import AnyEvent

OF_OTHERS = "episode_voided", "gap"
"""Kinds that say something of other events: they come of all times, also where only the newest events do."""


class LinkState(Enum):
    """The state of a feed's connection to its source."""

    CONNECTING = "connecting"
    LIVE = "live"
    HISTORY = "history"
    """Connected to the store only: stored events come, with their delay."""
    FILE = "file"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"


class Connection(NamedTuple):
    """State of the connection, for a status bar."""

    link: LinkState
    address: str
    """URL or file."""
    sentence: str = ""
    """The problem and the remedy, if there is a problem."""
    events_per_s: float = 0.0
    behind_s: float | None = None
    """Age of the newest live event when it was received, by the broker's clock; None when nothing is live."""
    received: int = 0
    dropped: tuple[tuple[str, int], ...] = ()
    """Live events of this subscription that were dropped, by reason."""
    lost_in_transit: int = 0
    absent: tuple[str, ...] = ()
    """Required stores that are not attached to the broker: until they are, workers keep their events."""
    failures: int = 0
    """The failures of the feed's own threads, which continue after them."""
    notice: str = ""
    """A further sentence about the connection."""

    @property
    def missed(self) -> int:
        """Live events that did not come, but for those that the subscription's own policy leaves out."""
        return self.lost_in_transit + sum(number for reason, number in self.dropped if reason not in AS_WISHED)


class StreamView(NamedTuple):
    """One stream of a run, as the store has it."""

    stream_id: bytes
    worker_id: str
    started_ns: int
    attempt: int = 1
    role: str = "counts"
    """Whether its outcome is the run's: counts, helper or superseded."""


class RunView(NamedTuple):
    """One run in the list of runs."""

    run_id: str
    state: str
    """See `telefabric.feed.run_views.run_state`."""
    control_mode: str
    agents: tuple[str, ...]
    workers: int
    started_ns: int | None
    finished_ns: int | None
    reason: str | None
    metadata: bytes
    """The run's metadata, as the MessagePack map in the store: its values are only for display."""
    silent_s: float | None = None
    """How long the broker has not heard of its workers; None for a run that it does not know."""
    emitted: int = 0
    """Events of its streams that the broker knows, as far as it has heard."""
    backlog: int = 0
    """Emitted events that are not acknowledged yet."""
    behind_at: str | None = None
    """The first hop on the durable path that is behind: worker, broker, or the name of a durable subscriber."""
    clock_offset_ms: float | None = None
    """How far the broker's clock is ahead of its workers', of the one furthest off."""
    round_trip_ms: float | None = None
    """Between its workers and the broker, the longest."""
    streams: tuple[StreamView, ...] = ()
    """The streams that the store knows."""
    attempts: int = 1
    helpers: int = 0
    superseded: int = 0
    """Streams by their part in the run's outcome, as the store counts them."""
    tags: tuple[str, ...] = ()
    notes: str = ""
    archived: bool = False
    number: int = 0
    """The store's own number of it, in the order of appearance; 0 for a run that it does not know."""


class FeedEvent(NamedTuple):
    """One event of a watched run. For kinds that the schema does not know, `event` is None and `raw` the bytes."""

    run_id: str
    stream_id: bytes
    seq: int
    kind: str
    event: AnyEvent | None
    raw: bytes
    live: bool
    """True if the event came over the live path, False if it came from the store."""


class Rate:
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


class Delivery(NamedTuple):
    """What came of streams: `Update` explains it."""

    events: list[FeedEvent]
    holes: dict[bytes, tuple[Range, ...]]
    gaps: dict[bytes, tuple[Range, ...]]
    skipped: dict[bytes, int]

    def add(self, later: Delivery) -> None:
        self.events.extend(later.events)
        self.holes.update(later.holes)
        self.gaps.update(later.gaps)
        self.skipped.update(later.skipped)


class Update(NamedTuple):
    """All that changed since the last `drain`."""

    connection: Connection
    runs: tuple[RunView, ...] | None
    """The runs that came or changed, newest first; None when none did."""
    events: Sequence[FeedEvent]
    """Events; within a stream in rising seq, except those that fill a hole. A ``frame`` of seq 0 is a live picture: the
    newest of its agent and environment, not stored. A stored one that came live says ``stored`` and has no picture."""
    holes: dict[bytes, tuple[Range, ...]]
    """Stream → its missing seqs, which the store may still have; for streams whose holes changed."""
    gaps: dict[bytes, tuple[Range, ...]]
    """Stream → its lost seqs; for streams where they changed."""
    skipped: dict[bytes, int]
    """Stream → the number of events that this feed left out since the last `drain`; all are in the store."""
    answers: tuple[str, ...] = ()
    """Of each `edit` that has been judged or has failed, a sentence."""
    gone: tuple[str, ...] = ()
    """The runs that are not in the list any more."""
    edits_left: int = 0
    """Edits that have no answer yet."""


class Feed(Protocol):
    """Any thread may call these; `drain` returns at once."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def watch(self, run_ids: frozenset[str]) -> None:
        """Follow these runs and no others, from their history on."""
        ...

    def rest(self, run_ids: frozenset[str]) -> frozenset[bytes]:
        """Of these watched runs nothing need come, because nobody has them in sight; of the other ones all does.

        A stream that was at rest goes on where it was. If it is far behind the store by now, it begins again with its
        newest events instead, and what lies between has to be asked for: these streams are returned.
        """
        ...

    def want_pictures(self, run_ids: frozenset[str]) -> None:
        """Have the workers of these watched runs send live pictures, and no others: none to begin with."""
        ...

    def ask(self, question: Question[Any], answered: Callable[[Answer], None], *, urgent: bool = False) -> Asked:
        """Ask the store. `answered` is called once, on a thread of the feed, as soon as the answer is there.

        It must return soon; it is not called for a question that was dropped, or at the end. Several questions are
        answered at once: the urgent ones first, of these the newest, then the others in their order.
        """
        ...

    def edit(self, run_id: str, command: str, value: object = None) -> None:
        """Ask for an edit of a run (`telefabric.wire.edits` lists them); an `Update` says what became of it."""
        ...

    def drain(self) -> Update: ...
