"""One live subscriber's queue: bounded, in order, every drop reported.

Every event that passes a subscriber's filter is numbered for it. An event that its policy leaves out, or that is
dropped because there is too much, is reported with the next delivery that reaches its number. So the events that it
received and the drops reported to it add up, at any moment, to the newest number it saw.

Under ``latest_per_key`` an event waits until the round before it is over, and a newer one with its key takes its place
meanwhile. So a subscriber that is slow gets every key in turn, however often some of them change.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from telefabric import limits
from telefabric.broker.core.sampling import LiveBatch, SubBatch, choose
from telefabric.wire import control
from telefabric.wire.delivery import Delivery, Drop
from telefabric.wire.policy import DROP_OLDEST, LATEST_PER_KEY, SAMPLE, QueuePolicy
from telefabric_schemas import TOPICS

UNREPORTED_MAX = 10_000
"""When more separate drops than this wait to be reported, their streams are no longer kept apart."""
_MERGE_DROPS = 1_000
"""When more separate drops than this wait to be reported, those that can be reported as one are merged."""
_ORDER_UNKNOWN = 0
"""A kind of a newer version: nobody here can tell what it is worth."""


class Item(NamedTuple):
    """One batch, or a part of one, in the queue."""

    number: int
    events: int
    kind: str
    stream: bytes
    counter: int
    entered_ns: int
    message: bytes


class Unreported(NamedTuple):
    """A drop, to be reported with the first delivery that reaches `number`."""

    number: int
    drop: Drop


@dataclass(slots=True)
class Flow:
    """Events of one stream towards one subscriber."""

    numbered: int = 0
    delivered: int = 0
    dropped: int = 0


@dataclass(slots=True)
class LiveSubscriber:
    """One subscriber: its selection, the batches that wait for it, and what is known of its end of the way."""

    token: bytes = b""
    """Its topic on the socket towards it."""
    heard_ns: int = 0
    ticked_ns: int = 0
    received: int = 0
    """Events, as its last heartbeat says."""
    lost: int = 0
    """Events that were lost in transit, as its last heartbeat says."""
    name: str = ""
    runs: frozenset[str] | None = frozenset()
    """These; None for all."""
    kinds: frozenset[str] | None = None
    agents: frozenset[str] | None = None
    pictures: frozenset[str] | None = frozenset()
    """Runs whose pictures the subscriber wants; None for all runs."""
    policy: QueuePolicy = field(default_factory=QueuePolicy)
    number: int = 0
    """Events that were ever meant for it."""
    delivered: int = 0
    queued_events: int = 0
    queued_bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    flows: dict[bytes, Flow] = field(default_factory=dict)
    """Stream → flow; beyond `limits.STREAMS_KNOWN_MAX` the oldest are forgotten."""
    _queues: dict[int, deque[Item]] = field(default_factory=dict)
    _next: dict[Hashable, Item] = field(default_factory=dict)
    """The next round under ``latest_per_key``, in order of number: later than all that is in the queues."""
    _unreported: list[Unreported] = field(default_factory=list)
    _merge_at: int = _MERGE_DROPS
    _share_bytes: int = limits.LIVE_QUEUES_BYTES_MAX

    def want(self, message: control.Watch) -> None:
        """Take over filters, and the policy as far as it is granted; numbers and queue go on."""
        self.name = message.name
        self.runs, self.kinds, self.agents = map(_set, (message.runs, message.kinds, message.agents))
        self.pictures = _pictures(message)
        self.policy = grant(message.policy)
        self._begin_round()
        self._shorten()

    def share(self, subscribers: int) -> None:
        """So many have a queue from now on, and each its part of the room."""
        self._share_bytes = limits.LIVE_QUEUES_BYTES_MAX // subscribers
        self._shorten()

    def takes(self, run: str, kind: str) -> bool:
        return (self.runs is None or run in self.runs) and (self.kinds is None or kind in self.kinds)

    def push(self, live: LiveBatch, now_ns: int) -> None:
        """Number a batch and queue what is wanted of it; over the limit, drop what is worth least."""
        parts, left_out = choose(live, self.agents, self.policy)
        kind, header = live.kind, live.header
        flow = self._flow(header.stream)
        flow.numbered += header.events
        counter = header.counter - header.events
        for reason, events in left_out.items():
            counter += events
            self.number += events
            self._count_drop(self.number, Drop(reason, kind, header.stream, events, counter))
        for part in parts:
            counter += part.events
            self.number += part.events
            item = Item(self.number, part.events, kind, header.stream, counter, now_ns, part.message)
            self._enter(item, part)
        self._shorten()

    def peek(self, now_ns: int) -> Item | None:
        """The next batch in order of number; what has grown too old on the way is dropped."""
        while True:
            queue = self._oldest()
            if queue is None:
                return None
            if now_ns - queue[0].entered_ns <= self.policy.age_ms_max * 1_000_000:
                return queue[0]
            self._drop(queue.popleft(), "too_old")

    def delivery(self, item: Item) -> Delivery:
        """The head of a delivery: the number that it reaches, and the drops below it that were not reported yet."""
        return Delivery(item.number, self._drops_below(item.number))

    def sent(self, item: Item) -> None:
        """ZeroMQ took the batch that `peek` gave."""
        self._queues[drop_order(item.kind)].popleft()
        self._leave(item)
        self.delivered += item.events
        self._flow(item.stream).delivered += item.events
        self._forget_drops_below(item.number)

    def tick(self) -> Delivery | None:
        """The head when nothing is queued: the newest number, and the drops that no delivery has reported."""
        if self.queued_events:
            return None
        return Delivery(self.number, self._drops_below(self.number))

    def ticked(self) -> None:
        self._forget_drops_below(self.number)

    # -- the queue -----------------------------------------------------------------------------------------------

    def _enter(self, item: Item, part: SubBatch) -> None:
        self.queued_events += item.events
        self.queued_bytes += len(item.message) + limits.BATCH_OVERHEAD_BYTES
        if part.key is None:
            self._queue(item)
            return
        replaced = self._next.pop(part.key, None)
        if replaced is not None:
            self._drop(replaced, "replaced")
        self._next[part.key] = item

    def _queue(self, item: Item) -> None:
        order = drop_order(item.kind)
        if order not in self._queues:
            self._queues = dict(sorted({**self._queues, order: deque()}.items()))
        self._queues[order].append(item)

    def _leave(self, item: Item) -> None:
        self.queued_events -= item.events
        self.queued_bytes -= len(item.message) + limits.BATCH_OVERHEAD_BYTES

    def _oldest(self) -> deque[Item] | None:
        """The queue with the lowest number at its head; the next round begins when all before it are gone."""
        while True:
            queue = min(
                (queue for queue in self._queues.values() if queue), key=lambda one: one[0].number, default=None
            )
            waiting = next(iter(self._next.values()), None)
            if waiting is None or (queue is not None and queue[0].number < waiting.number):
                return queue
            self._begin_round()

    def _begin_round(self) -> None:
        """Sort waiting batches behind all with a lower number; batches that no key replaces came in between."""
        waiting, self._next = self._next, {}
        for item in waiting.values():
            self._queue(item)
        for order in {drop_order(item.kind) for item in waiting.values()}:
            self._queues[order] = deque(sorted(self._queues[order]))

    def _shorten(self) -> None:
        """Keep the limits. One batch may stay, however many its events: small limits would let none through."""
        if self._too_full:
            self._begin_round()
        while self._too_full and sum(map(len, self._queues.values())) > 1:
            self._drop(next(queue for queue in self._queues.values() if queue).popleft(), "queue_full")

    @property
    def _too_full(self) -> bool:
        bytes_max = min(limits.LIVE_QUEUE_BYTES_MAX, self._share_bytes)
        return self.queued_events > self.policy.events_max or self.queued_bytes > bytes_max

    # -- drops ---------------------------------------------------------------------------------------------------

    def _flow(self, stream: bytes) -> Flow:
        flow = self.flows.get(stream)
        if flow is None:
            flow = self.flows[stream] = Flow()
            if len(self.flows) > limits.STREAMS_KNOWN_MAX:
                del self.flows[next(iter(self.flows))]
        return flow

    def _drop(self, item: Item, reason: str) -> None:
        """An item that has just left the queue."""
        self._leave(item)
        self._count_drop(item.number, Drop(reason, item.kind, item.stream, item.events, item.counter))

    def _count_drop(self, number: int, drop: Drop) -> None:
        self.dropped[drop.reason] += drop.events
        self._flow(drop.stream).dropped += drop.events
        self._unreported.append(Unreported(number, drop))
        if len(self._unreported) > self._merge_at:
            self._merge_unreported()
            self._merge_at = 2 * len(self._unreported) + _MERGE_DROPS

    def _merge_unreported(self) -> None:
        """Keep the list of drops short: those that are alike between the same two queued batches become one."""
        queued = sorted(item.number for queue in (*self._queues.values(), self._next.values()) for item in queue)
        self._unreported = _merged(self._unreported, queued)
        if len(self._unreported) > UNREPORTED_MAX:
            unnamed = (Unreported(number, Drop(drop.reason, "", b"", drop.events)) for number, drop in self._unreported)
            self._unreported = _merged(unnamed, queued)

    def _drops_below(self, number: int) -> list[Drop]:
        """Nothing is delivered between them any more, so they stay merged: a full pipe asks again and again."""
        below = _merged((one for one in self._unreported if one.number <= number), ())
        self._unreported = below + [one for one in self._unreported if one.number > number]
        return [drop for _, drop in below]

    def _forget_drops_below(self, number: int) -> None:
        if self._unreported:
            self._unreported = [one for one in self._unreported if one.number > number]


def grant(wish: QueuePolicy) -> QueuePolicy:
    """The policy that the broker grants: within its limits; the plainest mode instead of one it does not know."""
    return QueuePolicy(
        min(max(wish.events_max, 1), limits.LIVE_QUEUE_EVENTS_MAX),
        min(max(wish.age_ms_max, 1), limits.LIVE_QUEUE_AGE_MS_MAX),
        wish.mode if wish.mode in (DROP_OLDEST, LATEST_PER_KEY, SAMPLE) else DROP_OLDEST,
        min(max(wish.every, 1), limits.LIVE_SAMPLE_MAX),
    )


def _set(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def drop_order(kind: str) -> int:
    topic = TOPICS.get(kind)
    return topic.drop_order if topic else _ORDER_UNKNOWN


def _pictures(message: control.Watch) -> frozenset[str] | None:
    """The runs whose pictures a subscriber wants; None for all."""
    if message.kinds is not None and "frame" not in message.kinds:
        return frozenset()
    named = [frozenset(names) for names in (message.runs, message.pictures) if names is not None]
    return frozenset.intersection(*named) if named else None


def _merged(drops: Iterable[Unreported], queued: Sequence[int]) -> list[Unreported]:
    """Drops of one reason, kind and stream as one, between any two of the queued numbers."""
    found: dict[Hashable, Unreported] = {}
    for one in drops:
        reason, kind, stream, events, reached = msgspec.structs.astuple(one.drop)
        place = (bisect_left(queued, one.number), reason, kind, stream)
        before = found.get(place)
        if before is None:
            found[place] = one
        else:
            drop = Drop(reason, kind, stream, before.drop.events + events, max(before.drop.reached, reached))
            found[place] = Unreported(max(before.number, one.number), drop)
    return list(found.values())
