"""A broker's state of a stream and of a durable subscriber."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

from telefabric import limits
from telefabric.broker.core.durable_lane import Cursor
from telefabric.broker.core.hops import Lag
from telefabric.peer.core.principal import Peer
from telefabric.wire import control

SILENT_NS = int(limits.MISSED_HEARTBEATS_MAX * limits.HEARTBEAT_S * limits.NS)


@dataclass(slots=True)
class StreamState:
    """One stream, from its HELLO until it is forgotten. Times are monotonic nanoseconds."""

    info: control.StreamInfo
    peer: Peer
    oldest: int
    head: int
    heard_ns: int
    epoch: int = 0
    open: bool = False
    opened_ns: int = 0
    """When its epoch began."""
    asked_ns: int = 0
    overdue: bool = False
    """It never was open, and a store does not report it: that may hold it for another run than its HELLO named."""
    told_ns: int = 0
    backlog_bytes: int = 0
    acked: int = 0
    next_seq: int = 1
    newest_seq: int = 0
    """Newest seq of all its accepted batches; a rewind lowers `next_seq`, but not this."""
    marks: dict[str, int] = field(default_factory=dict)
    outstanding: deque[tuple[int, int]] = field(default_factory=deque)
    outstanding_bytes: int = 0
    rewinds: int = 0
    over_credit: int = 0
    """Batches that were refused for it."""
    moved_ns: int = 0
    """When it was last seen to have emitted more."""
    revived_ns: int | None = None
    """When it spoke again after it had been silent."""
    clock_offset_ns: int | None = None
    round_trip_ns: int | None = None
    held: bool = False
    """Its spool belongs to another store than the one here."""
    left_spools: int = 0
    """Spools of ended workers on the machine of this stream's worker."""
    lags: defaultdict[str, Lag] = field(default_factory=lambda: defaultdict(Lag))
    """Hop → lag."""
    behind: str = ""
    """Where it waited at its last heartbeat: a hop of the durable path, ``live``, or nowhere."""
    live_lag: Lag = field(default_factory=Lag)
    """The lag of its live batches on the way to the broker."""

    @property
    def emitted(self) -> int:
        """The newest seq that is known: batches come more often than heartbeats."""
        return max(self.head, self.acked, self.newest_seq)

    def heard(self, now_ns: int, oldest: int, head: int) -> None:
        """A HELLO or a heartbeat."""
        if self.silent(now_ns):
            self.revived_ns = now_ns
        if head > self.head or not self.moved_ns:
            self.moved_ns = now_ns
        self.heard_ns, self.oldest, self.head = now_ns, oldest, head

    def silent(self, now_ns: int) -> bool:
        """Three heartbeats were missed."""
        return now_ns - self.heard_ns > SILENT_NS

    def liveness(self, now_ns: int) -> str:
        """stalled, held (for another store), waiting (for a store), revived, idle or running."""
        if self.silent(now_ns):
            return "stalled"
        if self.held:
            return "held"
        if not self.open:
            return "waiting"
        if self.revived_ns is not None and now_ns - self.revived_ns < limits.REVIVED_S * limits.NS:
            return "revived"
        return "idle" if now_ns - self.moved_ns > limits.IDLE_AFTER_S * limits.NS else "running"


@dataclass(slots=True)
class DurableSubscriber:
    """One attached durable subscriber. Times are monotonic nanoseconds."""

    name: str
    said: control.Attach
    peer: Peer
    token: bytes
    required: bool
    cursor: Cursor
    heard_ns: int
    told_ns: int
    """When ATTACHED was sent."""
    told_skipped_ns: int = 0
    told_living_ns: int = 0
    looked_ns: int = 0
    behind: dict[bytes, int] = field(default_factory=dict)
    """For a subscriber that is not required: stream → the seq it had reported, if more was acknowledged."""
    subscribed: bool = False
    stored_events: int = 0
    quarantined_events: int = 0
