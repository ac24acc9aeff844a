"""Whether what a broker sends to a durable subscriber gets there.

A connection can be broken without a word while control is well: half open behind a router, or reading on for a frame
whose length was garbled. The broker says with each heartbeat how many batches it has sent; a subscriber that hears of
more than it has, and for a while gets nothing, needs a new connection.
"""

from __future__ import annotations

from telefabric import limits

_PATIENCE_NS = int(limits.ACK_STALL_S * 1_000_000_000)


class Arrivals:
    """The deliveries under one token. Times are monotonic nanoseconds."""

    def __init__(self) -> None:
        self._received = 0
        self._missing_since_ns: int | None = None

    def arrived(self) -> None:
        """A batch, or what should have been one."""
        self._received += 1
        self._missing_since_ns = None

    def told(self, sent: int, now_ns: int) -> None:
        """Note how many batches the broker has sent."""
        if sent > self._received and self._missing_since_ns is None:
            self._missing_since_ns = now_ns

    def stuck(self, now_ns: int) -> bool:
        """Ask when all that is at hand was taken."""
        return self._missing_since_ns is not None and now_ns - self._missing_since_ns > _PATIENCE_NS
