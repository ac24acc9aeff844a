"""A stream that a link carries: its spool, its session with the broker, its live feed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from telefabric.spool import Spool
from telefabric.uplink.core.live_feed import LiveFeed
from telefabric.uplink.core.stream import Phase, StreamSession
from telefabric.wire.control import StreamBeat
from telefabric_schemas import Frame

_LEND_S = 50e-6
"""A thread that waits for the interpreter's lock has it by then."""


def _lend() -> None:
    time.sleep(_LEND_S)


@dataclass(slots=True)
class LinkedStream:
    """A stream that the link carries. `closing` is set by its owner; `done` by the link."""

    spool: Spool
    session: StreamSession
    feed: LiveFeed = field(default_factory=LiveFeed)
    ticked_ns: int = 0
    fed: int = 0
    """The spool's newest seq when its live feed was last looked at."""
    frames: dict[object, Callable[[], Frame | None]] = field(default_factory=dict)
    """The newest picture of each environment, to be encoded on the link's thread."""
    after_emit: deque[Callable[[], object]] = field(default_factory=deque)
    """What the thread that emits does after its next event, when it holds no lock of ours."""
    adopted: bool = False
    closing: bool = False
    """No event will follow: finish when everything is acknowledged."""
    leaving: bool = False
    """Finish now; what is not acknowledged stays in the spool."""
    hurry: bool = False
    more: bool = False
    """The session lets more out than the last turn took."""
    unsent_bytes: int = 0
    """Events in the spool beyond the cursor when the link last looked."""
    throttled: bool = False
    """Live subscribers have been informed that more events wait than may be in flight."""
    blocked: str = ""
    """Why a call waits for room in the spool, or last did."""
    told_blocked_ns: int = 0
    synced_ns: int = 0
    told_sync_failures: int = 0
    looked_ns: int = 0
    """When its folder was last asked which stores may have it, while it is held back."""
    told_drops: int = 0
    told_ns: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def moving(self) -> bool:
        """Events are flowing, as opposed to waiting for a broker or a store."""
        return self.session.phase is Phase.STREAMING

    @property
    def held(self) -> bool:
        """The broker's store is none of those to which the spool belongs."""
        return self.session.phase is Phase.HELD

    @property
    def backlog_bytes(self) -> int:
        """Bytes of events that are not acknowledged."""
        return self.session.in_flight_bytes + self.spool.unsent_bytes(self.session.cursor)

    def wake(self) -> None:
        """Something else than an event is there to be sent live. Any thread."""
        if (ring := self.spool.on_append) is not None:
            ring()

    def borrow(self) -> None:
        """Ask the thread that emits for the interpreter's lock: it gives it away for a moment after its next event.

        Beside a loop that never does, the link waits a switch interval (5 ms) for it after each call that gave it away.
        """
        if not self.after_emit:
            self.after_emit.append(_lend)

    def beat(self) -> StreamBeat:
        """Its part of a heartbeat."""
        oldest = self.spool.first_held(self.session.acked + 1)
        live = None if self.adopted else self.feed.numbered
        return self.session.beat(oldest=oldest, head=self.spool.head, backlog_bytes=self.backlog_bytes, live=live)
