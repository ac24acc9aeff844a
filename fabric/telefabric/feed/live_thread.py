"""The live thread: a live subscription at the broker, whose events it merges with the stored ones."""

from __future__ import annotations

import threading
from itertools import groupby
from typing import Any

from telefabric.address import Address
from telefabric.feed.failures import Failures
from telefabric.feed.merged import MergedStreams, Seen
from telefabric.subscribe.core.handover import Numbered
from telefabric.subscribe.live import LiveEvent, LiveSubscription
from telefabric.wire.names import fits
from telefabric.wire.policy import QueuePolicy

_POLL_S = 0.05


class LiveThread:
    """Subscribes until `stop`. What is public may be looked at anywhere."""

    def __init__(self, address: Address, merged: MergedStreams, name: str, policy: QueuePolicy) -> None:
        self.subscription = LiveSubscription(address, name=name, runs=(), pictures=(), policy=policy)
        self.status: dict[str, Any] = {}
        """The broker's newest status of its streams."""
        self.failures = Failures()
        self._merged = merged
        self._policy = policy
        self._pictures: frozenset[str] = frozenset()
        self._wanted_changed = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telefabric-live", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def watch_changed(self, policy: QueuePolicy | None = None) -> None:
        """Other runs are to be watched, or with another policy."""
        self._policy = policy or self._policy
        self._wanted_changed.set()

    def want_pictures(self, run_ids: frozenset[str]) -> None:
        """Request live pictures of these runs, as far as they are watched."""
        if run_ids != self._pictures:
            self._pictures = run_ids
            self._wanted_changed.set()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        with self.subscription:
            self._watch()
            self.failures.endure("Receiving live events", self._turn, self._stop)

    def _turn(self) -> None:
        subscription = self.subscription
        found = subscription.poll(_POLL_S)
        for stream, events in groupby(found, key=lambda one: one.stream):
            self._take(stream, list(events))
        if subscription.status is not self.status:
            self._learn(subscription.status)
        if self._wanted_changed.is_set():
            self._wanted_changed.clear()
            self._forget_unwatched()
            self._watch()
        subscription.wants_status = self._merged.has_unknown

    def _watch(self) -> None:
        """An old store may have runs of longer names than can be asked for: nothing of them can come live."""
        in_sight = self._merged.watched - self._merged.resting
        runs, pictures = (filter(fits, names) for names in (in_sight, self._pictures & in_sight))
        self.subscription.want(runs=runs, pictures=pictures, policy=self._policy)

    def _take(self, stream: bytes, events: list[LiveEvent]) -> None:
        """Merge events that have a seq with the stored ones; keep the newest picture."""
        numbered = []
        for one in events:
            seen = Seen(one.kind, one.event, one.raw)
            if one.live_only:
                self._merged.frame(stream, seen)
            else:
                numbered.append(Numbered(one.seq, seen))
        if numbered:
            self._merged.live(stream, numbered)

    def _forget_unwatched(self) -> None:
        for stream in {stream for stream, _ in self.subscription.ledger.sources}:
            if not self._merged.follows(stream):
                self.subscription.forget(stream)

    def _learn(self, status: dict[str, Any]) -> None:
        """Note the run of each stream; the store may not know them yet."""
        self.status = status
        watched = self._merged.watched
        for stream in status.get("streams", ()):
            try:
                if stream["run_id"] in watched:
                    self._merged.know(bytes.fromhex(stream["stream_id"]), stream["run_id"], None)
            except (KeyError, TypeError, ValueError):
                continue  # a broker of another version says it differently
