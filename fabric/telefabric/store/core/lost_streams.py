"""Decides which unfinished streams are lost: those whose worker was silent for too long while a broker listened.

It watches the streams that the store expects, or that said HELLO, until they end: that is, the running ones.

The broker names every two seconds the streams whose worker was heard. Time without such a message (the broker is away,
or has just begun) does not count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from telefabric import limits

_STREAMS_MAX = 16 * limits.STREAMS_KNOWN_MAX
"""Streams whose time is kept; any further stream is never called lost."""
_DEAF_NS = int(3 * limits.LIVING_S * limits.NS)


class Change(NamedTuple):
    lost: list[bytes]
    revived: list[bytes]


class Vigil:
    """The lost streams of one store. Times are monotonic nanoseconds. Not thread-safe."""

    def __init__(self, lost_after_s: float = limits.LOST_AFTER_S) -> None:
        self.lost_after_s = lost_after_s
        self._heard_ns: dict[bytes, int] = {}
        """When there was last word of a stream that is not lost."""
        self._lost: set[bytes] = set()
        self._told_ns: int | None = None

    def expect(self, streams: Iterable[bytes], now_ns: int, *, lost: bool = False) -> None:
        """These streams are unfinished, or were lost already."""
        if lost:
            self._lost.update(streams)
        else:
            self._heard_ns.update(dict.fromkeys(streams, now_ns))

    def heard(self, stream: bytes, now_ns: int) -> bool:
        """Word of one stream; True when it was lost."""
        if stream in self._heard_ns or len(self._heard_ns) < _STREAMS_MAX:
            self._heard_ns[stream] = now_ns
        was_lost = stream in self._lost
        self._lost.discard(stream)
        return was_lost

    def ended(self, streams: Iterable[bytes]) -> None:
        """These streams said how they ended: they are watched no more."""
        for stream in streams:
            self._heard_ns.pop(stream, None)
            self._lost.discard(stream)

    def __len__(self) -> int:
        """How many streams are watched."""
        return len(self._heard_ns)

    def living(self, streams: Collection[bytes], now_ns: int) -> Change:
        """The broker's word, which names streams that have ended, too, while their workers live."""
        if self._told_ns is None or now_ns - self._told_ns > _DEAF_NS:
            self._heard_ns = dict.fromkeys(self._heard_ns, now_ns)
        self._told_ns = now_ns
        watched = [stream for stream in streams if stream in self._heard_ns or stream in self._lost]
        revived = [stream for stream in watched if self.heard(stream, now_ns)]
        since_ns = now_ns - self.lost_after_s * limits.NS
        lost = [stream for stream, heard_ns in self._heard_ns.items() if heard_ns < since_ns]
        for stream in lost:
            del self._heard_ns[stream]
        self._lost.update(lost)
        return Change(lost, revived)
