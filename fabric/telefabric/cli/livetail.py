"""`telefabric tail --live`: a live subscription as lines; standard error counts the events that did not come."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import click

from telefabric.address import Address
from telefabric.feed.interface import FeedEvent
from telefabric.store.read.query import StoredEvent
from telefabric.store.read.reader import QUARANTINE
from telefabric.subscribe import LiveEvent, LiveSubscription
from telefabric.wire.delivery import AS_WISHED
from telefabric.wire.policy import QueuePolicy

_POLL_S = 0.05
_TELL_S = 1.0
_HELD_S = 3.0
"""An event waits at most this long for the broker to name the run of its stream."""
_NOBODY = "", "", ""


def live_row(event: FeedEvent | LiveEvent, stream_id: bytes, run_id: str, worker_id: str, agent_id: str) -> StoredEvent:
    """An event of the live path in the form of a stored one. Its id is 0, which no stored event has."""
    found = event.event
    reason, detail = getattr(found, "reason", None), None
    if event.kind == QUARANTINE:
        reason, detail = "not readable", "telefabric dump has the reason"
    return StoredEvent(
        0, event.kind, run_id, worker_id, stream_id, event.seq, getattr(found, "last_seq", event.seq),
        getattr(found, "agent_id", agent_id), getattr(found, "time_ns", 0), reason, detail, event.raw,
    )  # fmt: skip


class LiveTail:
    """One subscription, and the runs, workers and agents of its streams, which the broker names."""

    def __init__(
        self, address: Address, run: str | None, kinds: tuple[str, ...], agent: str | None, policy: QueuePolicy
    ) -> None:
        self._subscription = LiveSubscription(
            address, name="telefabric tail", policy=policy, runs=None if run is None else [run], kinds=kinds or None,
            agents=None if agent is None else [agent], pictures=None if "frame" in kinds else (),
        )  # fmt: skip
        self._streams: dict[str, tuple[str, str, str]] = {}
        self._held: list[LiveEvent] = []
        self._held_s = 0.0
        self._told: Counter[str] = Counter()
        self._told_begun = 0
        self._told_s = time.monotonic()

    def run(self, show: Callable[[Iterable[StoredEvent]], None]) -> None:
        """Print events until interrupted; then count the events that did not come."""
        with self._subscription:
            try:
                while True:
                    show(self._turn())
                    self._tell(time.monotonic())
            finally:
                self._tell(math.inf)

    def _turn(self) -> Iterator[StoredEvent]:
        subscription = self._subscription
        new = subscription.poll(_POLL_S)
        if new and not self._held:
            self._held_s = time.monotonic()
        self._held += new
        for stream in subscription.status.get("streams", ()):
            self._streams[stream["stream_id"]] = stream["run_id"], stream["worker_id"], stream["agent_id"]
        unknown = any(one.stream.hex() not in self._streams for one in self._held)
        subscription.wants_status = unknown
        if unknown and time.monotonic() - self._held_s < _HELD_S:
            return
        held, self._held = self._held, []
        for one in held:
            if not one.recent:
                yield live_row(one, one.stream, *self._streams.get(one.stream.hex(), _NOBODY))

    def _tell(self, now_s: float) -> None:
        """Report new losses, at most once a second; what the policy left out is reported at the end."""
        if now_s - self._told_s < _TELL_S:
            return
        self._told_s = now_s
        subscription = self._subscription
        counted = subscription.dropped + Counter(lost_in_transit=subscription.lost_in_transit)
        if now_s < math.inf:
            counted = Counter({reason: events for reason, events in counted.items() if reason not in AS_WISHED})
        new = counted - self._told
        self._told |= counted
        if new:
            words = ", ".join(f"{events} {reason.replace('_', ' ')}" for reason, events in sorted(new.items()))
            click.echo(f"telefabric: not here: {words} ({subscription.received} came so far)", err=True)
        if subscription.begun > max(self._told_begun, 1):
            click.echo(
                "telefabric: this subscription began again: events emitted meanwhile are only in the store", err=True
            )
        self._told_begun = subscription.begun
        if subscription.refusal:
            click.echo(f"telefabric: {subscription.refusal}", err=True)
