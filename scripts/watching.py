"""Looking on as a client does: a follower of one run, and the age of each live step when it is drained."""

from __future__ import annotations

import threading
import time

from telefabric.address import Address
from telefabric.follow import Follower
from telefabric_schemas import Step

SWITCH_INTERVAL_S = 0.0005
"""As the client sets it: with Python's own 5 ms whatever else this process does holds its receiving thread up."""
_DRAIN_S = 0.01


class Watcher:
    """A context manager; its own thread drains every 10 ms, which is part of the ages."""

    def __init__(self, address: Address, run: str) -> None:
        self.samples: list[tuple[float, float]] = []
        """When a live step was drained (monotonic clock, seconds) and how old it was then (ms)."""
        self.dropped: tuple[tuple[str, int], ...] = ()
        self._follower = Follower(address, name="soak")
        self._follower.watch(frozenset({run}))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @property
    def ages_ms(self) -> list[float]:
        return [age for _, age in self.samples]

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
                    self.samples.append((now_s, (now_ns - event.event.time_ns) / 1e6))
            self.dropped = update.connection.dropped
