"""What a client is shown of the fabric: runs, events and holes, in updates that its own clock fetches.

A feed has a thread of its own that receives, decodes and puts together; whoever shows it calls `drain` at its own pace
and gets all that came since, each event once. There are two: `BrokerFeed`, of a broker's live and
stored events, and `FileFeed`, of a store file.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Protocol

from telefabric.subscribe.core.handover import Range
from telefabric.wire.live import AS_WISHED
from telefabric_schemas import AnyEvent, Frame


class LinkState(Enum):
    """How a feed stands towards what it shows."""

    CONNECTING = "connecting"
    LIVE = "live"
    HISTORY = "history"
    """Connected to the store alone: what is stored comes, with its delay."""
    FILE = "file"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"


class Connection(NamedTuple):
    """State of the connection, for a status bar."""

    link: LinkState
    address: str
    """URL or file."""
    sentence: str = ""
    """What is wrong and what to do, when something is."""
    events_per_s: float = 0.0
    behind_s: float | None = None
    """Age of the newest live event when it was received, by the broker's clock; None when nothing is live."""
    received: int = 0
    dropped: tuple[tuple[str, int], ...] = ()
    """Live events of this subscription that were dropped, by reason."""
    lost_in_transit: int = 0
    buffered: int = 0
    """Events that wait for `drain`."""
    absent: tuple[str, ...] = ()
    """Required stores that are not attached to the broker: until they are, workers keep their events."""
    failures: int = 0
    """What the feed's own threads met and outlived."""
    notice: str = ""
    """What else there is to say of the connection: a sentence."""

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
    """See `telefabric.feed.run_state.run_state`."""
    control_mode: str
    agents: tuple[str, ...]
    workers: int
    started_ns: int | None
    finished_ns: int | None
    reason: str | None
    metadata: bytes
    """What the user told of it, as the MessagePack map that the store has: its values are for display alone."""
    silent_s: float | None = None
    """How long the broker has not heard of its workers; None for a run that it does not know."""
    emitted: int = 0
    """Events of its streams that the broker knows, as far as it has heard."""
    backlog: int = 0
    """Those of them that no store has acknowledged yet."""
    behind_at: str | None = None
    """The first hop on the durable path that is behind: worker, broker, or the name of a durable subscriber."""
    clock_offset_ms: float | None = None
    """How far the broker's clock is ahead of its workers', of the one furthest off."""
    round_trip_ms: float | None = None
    """Between its workers and the broker, the longest."""
    streams: tuple[StreamView, ...] = ()
    """Those that the store knows; of a broker's feed, of watched runs alone."""
    attempts: int = 1
    helpers: int = 0
    superseded: int = 0
    """Streams by their part in the run's outcome, as the store counts them."""


class FeedEvent(NamedTuple):
    """One event of a watched run. For kinds that the schema does not know, `event` is None and `raw` the bytes."""

    run_id: str
    stream_id: bytes
    seq: int
    kind: str
    event: AnyEvent | None
    raw: bytes
    live: bool
    """It came over the live path; otherwise from the store."""


class FramePlace(NamedTuple):
    """The step whose frame is wanted."""

    run_id: str
    agent_id: str
    env_index: int
    episode_index: int
    step_index: int
    stream_id: bytes | None = None
    """Whose step it is; None for the newest attempt's."""


class FoundFrame(NamedTuple):
    """What the store has for a place."""

    place: FramePlace
    frame: Frame | None
    """The nearest one of its episode; None when it has none."""
    problem: str = ""
    """Why the store could not tell: a sentence."""


class Update(NamedTuple):
    """All that changed since the last `drain`."""

    connection: Connection
    runs: tuple[RunView, ...] | None
    """The whole list when something in it changed; newest first."""
    events: tuple[FeedEvent, ...]
    """Of one stream in rising seq, but for those that fill a hole. A ``frame`` of seq 0 is a live picture, not stored,
    the newest of its agent and environment; a stored one that came live says ``stored`` and has no picture."""
    holes: dict[bytes, tuple[Range, ...]]
    """For each stream whose holes changed, the seqs that are missing now and may still come from the store."""
    gaps: dict[bytes, tuple[Range, ...]]
    """For each stream where it changed, the seqs that are known to be lost for good."""
    skipped: dict[bytes, int]
    """For each stream, events that this feed left out since the last `drain`; all are in the store."""
    frame: FoundFrame | None = None
    """The answer to `ask_frame`."""


class Feed(Protocol):
    """Any thread may call these; `drain` returns at once."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def watch(self, run_ids: frozenset[str]) -> None:
        """Follow these runs and no others, from their history on."""
        ...

    def want_pictures(self, run_ids: frozenset[str]) -> None:
        """Have the workers of these watched runs send live pictures, and no others: none to begin with."""
        ...

    def ask_frame(self, place: FramePlace) -> None:
        """Look for the stored frame of a step; a later question takes the place of this one."""
        ...

    def drain(self) -> Update: ...
