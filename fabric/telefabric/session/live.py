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
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import msgspec

from telefabric import limits
from telefabric.wire import control
from telefabric.wire.batch import Header
from telefabric.wire.live import Delivery, Drop, LivePolicy, topic_of, topic_parts
from telefabric_schemas import TOPICS

NS = 1_000_000_000
ALL_RUNS = b""
UNTOLD_MAX = 10_000
"""When more separate drops than this wait to be told, which streams they were of is no longer kept apart."""
_MERGE_DROPS = 1_000
"""How many separate drops wait to be told before those that can be told as one are."""
_RECENT_WINDOW_BYTES = limits.LIVE_RECENT_BYTES // 4
_RECENT_BYTES_MAX = limits.LIVE_QUEUE_BYTES_MAX
_ORDER_UNKNOWN = 0
"""A kind of a newer version: nobody here can tell what it is worth."""


class Item(NamedTuple):
    """One batch in one subscriber's queue."""

    number: int
    events: int
    kind: str
    stream: bytes
    counter: int
    entered_ns: int
    message: bytes


class Untold(NamedTuple):
    """A drop, to be told with the first delivery that reaches `number`."""

    number: int
    drop: Drop


@dataclass(slots=True)
class LiveSubscriber:
    """What one subscriber wants and what waits for it."""

    name: str = ""
    runs: frozenset[str] | None = frozenset()
    """These; None for all."""
    kinds: frozenset[str] | None = None
    policy: LivePolicy = field(default_factory=LivePolicy)
    number: int = 0
    """Events that were ever meant for it."""
    delivered: int = 0
    queued_events: int = 0
    queued_bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    _queues: dict[int, deque[Item]] = field(default_factory=dict)
    _untold: list[Untold] = field(default_factory=list)
    _merge_at: int = _MERGE_DROPS

    def want(self, message: control.Watch) -> None:
        """Take over filters and policy; numbers and queue go on."""
        self.name = message.name
        self.runs = None if message.runs is None else frozenset(message.runs)
        self.kinds = None if message.kinds is None else frozenset(message.kinds)
        self.policy = message.policy
        self._shorten()

    def takes(self, run: str, kind: str) -> bool:
        return (self.runs is None or run in self.runs) and (self.kinds is None or kind in self.kinds)

    def push(self, kind: str, header: Header, message: bytes, now_ns: int) -> None:
        """Number a batch and queue it; over the limit, drop what is worth least."""
        self.number += header.events
        order = _order(kind)
        queue = self._queues.get(order)
        if queue is None:
            queue = self._queues[order] = deque()
            self._queues = dict(sorted(self._queues.items()))
        queue.append(Item(self.number, header.events, kind, header.stream, header.counter, now_ns, message))
        self.queued_events += header.events
        self.queued_bytes += len(message)
        self._shorten()

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
        self._queues[_order(item.kind)].popleft()
        self.queued_events -= item.events
        self.queued_bytes -= len(item.message)
        self.delivered += item.events
        self._forget_drops_below(item.number)

    def tick(self) -> Delivery | None:
        """When nothing is queued: the newest number and the drops that no delivery has told."""
        if self.queued_events:
            return None
        return Delivery(self.number, self._drops_below(self.number))

    def ticked(self) -> None:
        self._forget_drops_below(self.number)

    def _shorten(self) -> None:
        """Keep the limits. One batch may stay, however many its events: small limits would let none through."""
        while self._too_full and sum(map(len, self._queues.values())) > 1:
            self._drop(next(queue for queue in self._queues.values() if queue), "queue_full")

    @property
    def _too_full(self) -> bool:
        return self.queued_events > self.policy.events_max or self.queued_bytes > limits.LIVE_QUEUE_BYTES_MAX

    def _drop(self, queue: deque[Item], reason: str) -> None:
        item = queue.popleft()
        self.queued_events -= item.events
        self.queued_bytes -= len(item.message)
        self.dropped[reason] += item.events
        self._untold.append(Untold(item.number, Drop(reason, item.kind, item.stream, item.events, item.counter)))
        if len(self._untold) > self._merge_at:
            self._merge_untold()
            self._merge_at = 2 * len(self._untold) + _MERGE_DROPS

    def _merge_untold(self) -> None:
        """Keep the list of drops short: those that are alike between the same two queued batches become one."""
        queued = sorted(item.number for queue in self._queues.values() for item in queue)
        self._untold = _merged(self._untold, queued)
        if len(self._untold) > UNTOLD_MAX:
            unnamed = (Untold(number, Drop(drop.reason, "", b"", drop.events)) for number, drop in self._untold)
            self._untold = _merged(unnamed, queued)

    def _drops_below(self, number: int) -> list[Drop]:
        """Nothing is delivered between them any more, so they stay merged: a full pipe asks again and again."""
        below = _merged((one for one in self._untold if one.number <= number), ())
        self._untold = below + [one for one in self._untold if one.number > number]
        return [drop for _, drop in below]

    def _forget_drops_below(self, number: int) -> None:
        if self._untold:
            self._untold = [one for one in self._untold if one.number > number]


def _order(kind: str) -> int:
    topic = TOPICS.get(kind)
    return topic.drop_order if topic else _ORDER_UNKNOWN


def _merged(drops: Iterable[Untold], queued: Sequence[int]) -> list[Untold]:
    """Drops of one reason, kind and stream as one, between any two of the queued numbers."""
    found: dict[Hashable, Untold] = {}
    for one in drops:
        reason, kind, stream, events, reached = msgspec.structs.astuple(one.drop)
        place = (bisect_left(queued, one.number), reason, kind, stream)
        before = found.get(place)
        if before is None:
            found[place] = one
        else:
            drop = Drop(reason, kind, stream, before.drop.events + events, max(before.drop.reached, reached))
            found[place] = Untold(max(before.number, one.number), drop)
    return list(found.values())


@dataclass(slots=True)
class _Window:
    """Batches of one run and kind, each with the number of its arrival."""

    batches: deque[tuple[int, bytes]] = field(default_factory=deque)
    size: int = 0
    """In bytes."""

    def push(self, arrival: int, message: bytes) -> None:
        self.batches.append((arrival, message))
        self.size += len(message)
        while len(self.batches) > limits.LIVE_RECENT_BATCHES or self.size > _RECENT_WINDOW_BYTES:
            self.size -= len(self.batches.popleft()[1])


class RecentWindow:
    """The last batches of each run and kind, in bounds, for subscribers that come later."""

    def __init__(self) -> None:
        self.size = 0
        """In bytes."""
        self._arrivals = 0
        self._windows: dict[tuple[str, str], _Window] = {}
        """The one that was fed last comes last."""

    def push(self, run: str, kind: str, message: bytes) -> None:
        if len(message) > _RECENT_WINDOW_BYTES:
            return
        self._arrivals += 1
        window = self._windows.pop((run, kind), None) or _Window()
        self._windows[run, kind] = window
        self.size -= window.size
        window.push(self._arrivals, message)
        self.size += window.size
        while self.size > _RECENT_BYTES_MAX:
            self.size -= self._windows.pop(next(iter(self._windows))).size

    def batches(self, takes: Callable[[str, str], bool]) -> list[bytes]:
        """Those of the runs and kinds that are asked for, oldest first; what is worth most where not all have room."""
        wanted = [(kind, window) for (run, kind), window in self._windows.items() if takes(run, kind)]
        wanted.sort(key=lambda one: _order(one[0]), reverse=True)
        found: list[tuple[int, bytes]] = []
        room = limits.LIVE_RECENT_BYTES
        for arrival, message in chain.from_iterable(reversed(window.batches) for _, window in wanted):
            if len(message) <= room:
                found.append((arrival, message))
                room -= len(message)
        return [message for _, message in sorted(found)]

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Forget all other runs."""
        self._windows = {key: window for key, window in self._windows.items() if wanted(key[0])}
        self.size = sum(window.size for window in self._windows.values())


class LiveLane:
    """All live subscribers, by the token under which each is served, and the recent window of watched runs."""

    def __init__(self) -> None:
        self.subscribers: dict[bytes, LiveSubscriber] = {}
        self.recent = RecentWindow()
        self.dropped: Counter[str] = Counter()

    def add(self, token: bytes, subscriber: LiveSubscriber) -> None:
        self.subscribers[token] = subscriber

    def remove(self, token: bytes) -> None:
        self.subscribers.pop(token, None)
        self.forget_unwatched()

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
        if parts is None:
            self.dropped["bad_topic"] += 1
            return
        run, kind = parts
        for subscriber in self.subscribers.values():
            if subscriber.takes(run, kind):
                subscriber.push(kind, header, message, now_ns)
        if self._watched(run):
            self.recent.push(run, kind, message)

    def forget_unwatched(self) -> None:
        """Drop the recent windows of runs that nobody wants any more."""
        self.recent.keep(self._watched)

    def _watched(self, run: str) -> bool:
        return any(subscriber.runs is None or run in subscriber.runs for subscriber in self.subscribers.values())


@dataclass(slots=True)
class _Watcher:
    peer: bytes
    token: bytes
    heard_ns: int
    ticked_ns: int
    subscriber: LiveSubscriber


class LiveCore:
    """Who watches what: the control side of the live lane. Times are monotonic nanoseconds."""

    def __init__(
        self,
        *,
        instance: bytes,
        endpoints: Callable[[], control.Endpoints],
        new_token: Callable[[], bytes],
        watchers_max: int = limits.WATCHERS_MAX,
    ) -> None:
        self.lane = LiveLane()
        self._instance = instance
        self._endpoints = endpoints
        self._new_token = new_token
        self._watchers_max = watchers_max
        self._watchers: dict[bytes, _Watcher] = {}

    def receive(self, peer: bytes, message: control.Message, now_ns: int, wall_ns: int) -> list[control.Message]:
        """A live subscriber's control message; what to answer it."""
        match message:
            case control.Watch():
                return self._watch(peer, message, now_ns)
            case control.WatchBeat():
                return self._beat(peer, message, now_ns, wall_ns)
            case control.Unwatch():
                self._remove(peer)
        return []

    def tick(self, now_ns: int) -> list[bytes]:
        """Forget who is silent; the tokens of those for whom a tick is due."""
        for peer, watcher in list(self._watchers.items()):
            if now_ns - watcher.heard_ns > limits.LIVE_ABSENT_S * NS:
                self._remove(peer)
        due = [one for one in self._watchers.values() if now_ns - one.ticked_ns > limits.TICK_S * NS]
        for watcher in due:
            watcher.ticked_ns = now_ns
        return [watcher.token for watcher in due]

    def _watch(self, peer: bytes, message: control.Watch, now_ns: int) -> list[control.Message]:
        if message.protocol != control.PROTOCOL:
            reason = f"this broker speaks protocol {control.PROTOCOL}, not {message.protocol}: install one version"
            return [control.Refused(self._instance, reason)]
        watcher = self._watchers.get(peer)
        if watcher is None and len(self._watchers) >= self._watchers_max:
            reason = f"this broker serves its limit of {self._watchers_max} live subscribers: close one"
            return [control.Refused(self._instance, reason)]
        if watcher is None:
            watcher = self._watchers[peer] = _Watcher(peer, self._new_token(), now_ns, now_ns, LiveSubscriber())
            self.lane.add(watcher.token, watcher.subscriber)
        watcher.heard_ns = now_ns
        subscriber = watcher.subscriber
        known = subscriber.runs
        subscriber.want(message)
        self.lane.forget_unwatched()
        watching = control.Watching(self._instance, watcher.token, self._endpoints(), message.policy)
        if known is None:
            return [watching]
        recent = self.lane.recent.batches(lambda run, kind: run not in known and subscriber.takes(run, kind))
        return [watching, control.Recent(self._instance, recent)] if recent else [watching]

    def _beat(self, peer: bytes, message: control.WatchBeat, now_ns: int, wall_ns: int) -> list[control.Message]:
        watcher = self._watchers.get(peer)
        if watcher is None:
            return [control.Who(self._instance, bytes(16))]
        watcher.heard_ns = now_ns
        return [control.Alive(self._instance, message.sent_ns, wall_ns)]

    def _remove(self, peer: bytes) -> None:
        watcher = self._watchers.pop(peer, None)
        if watcher is not None:
            self.lane.remove(watcher.token)

    def status(self, now_ns: int) -> list[dict[str, object]]:
        """What `telefabric status` shows of live subscribers."""
        return [
            {
                "name": watcher.subscriber.name,
                "runs": sorted(watcher.subscriber.runs) if watcher.subscriber.runs is not None else None,
                "numbered": watcher.subscriber.number,
                "delivered": watcher.subscriber.delivered,
                "queued": watcher.subscriber.queued_events,
                "dropped": dict(watcher.subscriber.dropped),
                "heard_s": round((now_ns - watcher.heard_ns) / NS, 3),
            }
            for watcher in self._watchers.values()
        ]
