"""Whether a broker still answers, and whether what it sends still gets here. Times are monotonic nanoseconds."""

from __future__ import annotations

from telefabric import limits

_SILENT_NS = int(limits.MISSED_HEARTBEATS_MAX * limits.HEARTBEAT_S * limits.NS)
_STALLED_NS = int(limits.ACK_STALL_S * limits.NS)


class Silence:
    """The broker's silence on one connection: three heartbeats that it does not answer.

    A pause between two looks does not count as silence, as messages may be unread.
    """

    def __init__(self, now_ns: int) -> None:
        self._heard_ns = now_ns
        self._unanswered = 0

    def asked(self) -> None:
        """A heartbeat was sent, which the broker answers."""
        self._unanswered += 1

    def heard(self, now_ns: int) -> None:
        self._heard_ns = now_ns
        self._unanswered = 0

    def too_long(self, now_ns: int) -> bool:
        """Ask when all that is at hand was taken."""
        return self._unanswered >= limits.MISSED_HEARTBEATS_MAX and now_ns - self._heard_ns > _SILENT_NS


class Stall:
    """Batches under one token that were sent and do not arrive.

    A connection can be broken without a word while control is well: half open behind a router, or reading on for a
    frame whose length was garbled. The broker says with each heartbeat how many batches it has sent; a subscriber that
    hears of more than it has, and for a while gets nothing, needs a new connection.
    """

    def __init__(self) -> None:
        self._received = 0
        self._missing_since_ns: int | None = None

    def received(self) -> None:
        """A batch has come, or what should have been one."""
        self._received += 1
        self._missing_since_ns = None

    def was_sent(self, batches: int, now_ns: int) -> None:
        """Note how many batches the broker has sent."""
        if batches > self._received and self._missing_since_ns is None:
            self._missing_since_ns = now_ns

    def too_long(self, now_ns: int) -> bool:
        """Ask when all that is at hand was taken."""
        return self._missing_since_ns is not None and now_ns - self._missing_since_ns > _STALLED_NS
