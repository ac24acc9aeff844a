"""Whether each event wakes the sender of a watched stream, or the sender looks by itself every two milliseconds.

Waking costs the emitting thread some microseconds. At human rates that is nothing, and the event leaves at once. At
high rates it is a good part of a step, and the next look is near anyway.
"""

from __future__ import annotations

from telefabric import limits

_SPAN_NS = 50_000_000
"""How long events are counted before their rate is judged."""


class LivePace:
    """Judges the rate of what is emitted while somebody watches. Times are monotonic nanoseconds. One thread."""

    def __init__(self) -> None:
        self.wakes = True
        self._events = 0
        self._began_ns = 0

    def emitted(self, events: int, now_ns: int) -> None:
        """So many events since the last call."""
        self._events += events
        span_ns = now_ns - self._began_ns
        if span_ns < _SPAN_NS:
            return
        limit = limits.LIVE_WAKE_EVENTS_PER_S if self.wakes else limits.LIVE_WAKE_AGAIN_EVENTS_PER_S
        self.wakes = self._events * limits.NS < limit * span_ns
        self._events, self._began_ns = 0, now_ns
