"""The live lane: one bounded queue for each live subscriber, newest first in worth, every drop counted.

Every batch that a subscriber's filter takes is numbered for that subscriber, by events, when it enters its queue. When
a queue is over its limit the kinds of the lowest drop order go first, oldest first; what is too old goes when its turn
comes. Each delivery says the number that it reaches and all drops below it since the delivery before, so that at any
moment what a subscriber received and what it was told of as dropped add up to the newest number it saw.

Runs that nobody watches are not asked of the workers: `wanted` is what the broker subscribes to.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from telefabric import limits
from telefabric.wire.batch import Header
from telefabric.wire.live import Delivery, Drop, LivePolicy, topic_of, topic_parts
from telefabric_schemas import TOPICS

NS = 1_000_000_000
ALL_RUNS = b""
_MERGE_DROPS = 1_000
"""How many separate drops wait to be told before those that can be told as one are."""


class Item(NamedTuple):
    """One batch in one subscriber's queue."""

    number: int
    events: int
    kind: str
    stream: bytes
    entered_ns: int
    message: bytes


class DropKey(NamedTuple):
    reason: str
    kind: str
    stream: bytes


@dataclass(slots=True)
class LiveSubscriber:
    """What one subscriber wants and what waits for it."""

    name: str
    runs: frozenset[str] | None
    kinds: frozenset[str] | None
    policy: LivePolicy
    number: int = 0
    """Events that were ever meant for it."""
    told: int = 0
    """The number that the last delivery reached."""
    delivered: int = 0
    queued_events: int = 0
    queued_bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    _queues: dict[int, deque[Item]] = field(default_factory=dict)
    _untold: list[tuple[int, DropKey, int]] = field(default_factory=list)
    _merge_at: int = _MERGE_DROPS

    def takes(self, run: str, kind: str) -> bool:
        return (self.runs is None or run in self.runs) and (self.kinds is None or kind in self.kinds)

    def push(self, kind: str, stream: bytes, events: int, message: bytes, now_ns: int) -> None:
        """Number a batch and queue it; over the limit, drop what is worth least."""
        self.number += events
        order = TOPICS[kind].drop_order
        queue = self._queues.get(order)
        if queue is None:
            queue = self._queues[order] = deque()
            self._queues = dict(sorted(self._queues.items()))
        queue.append(Item(self.number, events, kind, stream, now_ns, message))
        self.queued_events += events
        self.queued_bytes += len(message)
        while self.queued_events > self.policy.events_max or self.queued_bytes > limits.LIVE_QUEUE_BYTES_MAX:
            self._drop(next(queue for queue in self._queues.values() if queue), "queue_full")

    def peek(self, now_ns: int) -> Item | None:
        """The next batch in order of number; what has grown too old on the way is dropped."""
        while True:
            heads = [queue for queue in self._queues.values() if queue]
            if not heads:
                return None
            queue = min(heads, key=lambda one: one[0].number)
            if now_ns - queue[0].entered_ns <= self.policy.age_ms_max * 1_000_000:
                return queue[0]
            self._drop(queue, "too_old")

    def delivery(self, item: Item) -> Delivery:
        """What goes with a batch: the number it reaches, and the drops below it that were not told yet."""
        return Delivery(item.number, self._drops_below(item.number))

    def sent(self, item: Item) -> None:
        """ZeroMQ took the batch that `peek` gave."""
        queue = self._queues[TOPICS[item.kind].drop_order]
        queue.popleft()
        self.queued_events -= item.events
        self.queued_bytes -= len(item.message)
        self.delivered += item.events
        self._forget_drops_below(item.number)
        self.told = item.number

    def tick(self) -> Delivery | None:
        """When nothing is queued: the newest number and the drops that no delivery has told."""
        if self.queued_events:
            return None
        return Delivery(self.number, self._drops_below(self.number))

    def ticked(self) -> None:
        self._forget_drops_below(self.number)
        self.told = self.number

    def _drop(self, queue: deque[Item], reason: str) -> None:
        item = queue.popleft()
        self.queued_events -= item.events
        self.queued_bytes -= len(item.message)
        self.dropped[reason] += item.events
        self._untold.append((item.number, DropKey(reason, item.kind, item.stream), item.events))
        if len(self._untold) > self._merge_at:
            self._merge_untold()
            self._merge_at = 2 * len(self._untold) + _MERGE_DROPS

    def _merge_untold(self) -> None:
        """Keep the list of drops short: those of one key between the same two queued batches become one."""
        queued = sorted(item.number for queue in self._queues.values() for item in queue)
        merged: dict[tuple[int, DropKey], tuple[int, int]] = {}
        for number, key, events in self._untold:
            place = (bisect_left(queued, number), key)
            newest, before = merged.get(place, (0, 0))
            merged[place] = (max(newest, number), before + events)
        self._untold = [(newest, key, events) for (_, key), (newest, events) in merged.items()]

    def _drops_below(self, number: int) -> list[Drop]:
        sums: Counter[DropKey] = Counter()
        for newest, key, events in self._untold:
            if newest <= number:
                sums[key] += events
        return [Drop(key.reason, key.kind, key.stream, events) for key, events in sums.items()]

    def _forget_drops_below(self, number: int) -> None:
        if self._untold:
            self._untold = [drop for drop in self._untold if drop[0] > number]


class LiveLane:
    """All live subscribers, by the token under which each is served, and the recent window of watched runs."""

    def __init__(self) -> None:
        self.subscribers: dict[bytes, LiveSubscriber] = {}
        self.dropped: Counter[str] = Counter()
        self._recent: dict[str, deque[tuple[bytes, bytes]]] = {}

    def add(self, token: bytes, subscriber: LiveSubscriber) -> None:
        self.subscribers[token] = subscriber

    def remove(self, token: bytes) -> None:
        self.subscribers.pop(token, None)
        self._forget_unwatched()

    def wanted(self, tapped: Iterable[bytes] = ()) -> set[bytes]:
        """The topic prefixes to ask of the workers, for subscribers and for what the tap's listeners subscribed to."""
        prefixes = set(tapped)
        for subscriber in self.subscribers.values():
            if subscriber.runs is None:
                prefixes.add(ALL_RUNS)
            else:
                prefixes.update(topic_of(run, "") for run in subscriber.runs)
        return prefixes

    def push(self, topic: bytes, header: Header, message: bytes, now_ns: int) -> None:
        """A live batch from a worker, for everyone who wants it."""
        parts = topic_parts(topic)
        if parts is None or parts[1] not in TOPICS:
            self.dropped["bad_topic"] += 1
            return
        run, kind = parts
        for subscriber in self.subscribers.values():
            if subscriber.takes(run, kind):
                subscriber.push(kind, header.stream, header.events, message, now_ns)
        recent = self._recent.get(run)
        if recent is None:
            recent = self._recent[run] = deque(maxlen=limits.LIVE_RECENT_BATCHES)
        recent.append((topic, message))

    def recent(self, subscriber: LiveSubscriber) -> list[bytes]:
        """The last batches of the runs that a subscriber wants, oldest first, as much as one control message holds."""
        found: list[bytes] = []
        room = limits.LIVE_RECENT_BYTES
        for run, batches in self._recent.items():
            for topic, message in reversed(batches):
                parts = topic_parts(topic)
                if parts and subscriber.takes(run, parts[1]) and len(message) <= room:
                    found.append(message)
                    room -= len(message)
        return found[::-1]

    def _forget_unwatched(self) -> None:
        if any(subscriber.runs is None for subscriber in self.subscribers.values()):
            return
        watched = {run for subscriber in self.subscribers.values() for run in subscriber.runs or ()}
        self._recent = {run: batches for run, batches in self._recent.items() if run in watched}
