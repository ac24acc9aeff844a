"""Looking on as a client does: a follower of one run, and the age of each live step when it is drained."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Sequence

from telefabric.address import Address
from telefabric.feed.broker_feed import BrokerFeed
from telefabric_schemas import Step

SWITCH_INTERVAL_S = 0.0005
"""As the client sets it: with Python's own 5 ms whatever else this process does holds its receiving thread up."""
_DRAIN_S = 0.01


class Watcher:
    """A context manager; its own thread drains every 10 ms, which is part of the ages."""

    def __init__(self, address: Address, run: str) -> None:
        self.drained_s = array("d")
        """When each live step was drained, by the monotonic clock. No list: the collector would look through it."""
        self.ages_ms = array("d")
        """How old it was then."""
        self.dropped: tuple[tuple[str, int], ...] = ()
        self._follower = BrokerFeed(address, name="soak")
        self._follower.watch(frozenset({run}))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def between(self, begin_s: float, end_s: float) -> Sequence[float]:
        """The ages of what was drained from `begin_s` to before `end_s`."""
        return [age for at, age in zip(self.drained_s, self.ages_ms, strict=True) if begin_s <= at < end_s]

    def __enter__(self) -> Watcher:
        self._follower.start()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._follower.stop()

    def _run(self) -> None:
        while not self._stop.wait(_DRAIN_S):
            update = self._follower.drain()
            now_s, now_ns = time.monotonic(), time.time_ns()
            for event in update.events:
                if event.live and isinstance(event.event, Step):
                    self.drained_s.append(now_s)
                    self.ages_ms.append((now_ns - event.event.time_ns) / 1e6)
            self.dropped = update.connection.dropped
