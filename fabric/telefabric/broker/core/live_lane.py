"""The live lane: one bounded queue for each live subscriber, and the selections of all subscribers.

When a queue is over its limit the kinds of the lowest drop order go first, oldest first; what is too old goes when its
turn comes. See `telefabric.broker.core.live_queue`. Runs that nobody watches are not asked of the workers: `wanted` is
what the broker subscribes to. The broker keeps account of what the workers numbered, as every receiver does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec

from telefabric import limits
from telefabric.broker.core.live_queue import Flow, LiveSubscriber
from telefabric.broker.core.recent import RecentWindow
from telefabric.broker.core.sampling import LiveBatch
from telefabric.errors import WireError
from telefabric.peer.core.principal import Peer
from telefabric.subscribe.core.accounting import Ledger
from telefabric.wire import control
from telefabric.wire.batch import ABOUT, Header
from telefabric.wire.delivery import has_batches, has_frames, pictures_wish, topic_of, topic_parts
from telefabric.wire.policy import QueuePolicy
from telefabric_schemas import TOPICS, Overflow, RunHeartbeat

ALL_RUNS = b""
_TELLING = frozenset(("run_heartbeat", "overflow"))
"""Kinds by which a source tells of its numbers."""


class LiveLane:
    """All live subscribers, by the token under which each is served, and the recent window of watched runs."""

    def __init__(self) -> None:
        self.subscribers: dict[bytes, LiveSubscriber] = {}
        self.recent = RecentWindow()
        self.dropped: Counter[str] = Counter()
        self.ledger = Ledger()
        """Events that the sources numbered, and those of them that came here."""
        self._runs: dict[bytes, str] = {}
        """Stream → its run, for streams whose batches came."""
        self._asked: Collection[bytes] = ()
        """The topics that the workers were last asked for."""
        self.wishes = 0
        """Ascends with every change of what is `wanted`."""

    def add(self, token: bytes, subscriber: LiveSubscriber) -> None:
        self.subscribers[token] = subscriber
        self._share()

    def remove(self, token: bytes) -> None:
        self.subscribers.pop(token, None)
        self._share()
        self.forget_unwatched()

    def _share(self) -> None:
        for subscriber in self.subscribers.values():
            subscriber.share(len(self.subscribers))

    def wanted(self, tapped: Iterable[bytes] = ()) -> set[bytes]:
        """The topics to ask the workers for: the selections of subscribers, and subscriptions of the tap's listeners.

        Topic prefixes, and of whom pictures are wanted.
        """
        prefixes = set(filter(has_batches, tapped))
        pictures = set(filter(has_frames, prefixes))
        for subscriber in self.subscribers.values():
            prefixes |= _prefixes(subscriber.runs)
            pictures |= _prefixes(subscriber.pictures)
        return prefixes | {pictures_wish(prefix) for prefix in pictures}

    def push(self, topic: bytes, header: Header, message: bytes, now_ns: int) -> None:
        """Queue a worker's live batch for each subscriber that wants it. Raises `WireError` for a topic without run."""
        parts = topic_parts(topic)
        if parts is None:
            why = "the topic of a live batch is its run, a zero byte and its kind"
            raise WireError("bad_topic", why, about=ABOUT, field="topic", stream=header.stream)
        run, kind = parts
        self._runs[header.stream] = run
        while len(self._runs) > limits.STREAMS_KNOWN_MAX:
            del self._runs[next(iter(self._runs))]
        live = LiveBatch(kind, header, message)
        self._account(live)
        for subscriber in self.subscribers.values():
            if subscriber.takes(run, kind):
                subscriber.push(live, now_ns)
        if self.watched(run):
            self.recent.push(run, kind, message)

    def seen(self, stream: bytes) -> int:
        """The newest numbers that came of a stream's kinds, together."""
        accounts = (self.ledger.sources.get((stream, kind)) for kind in TOPICS)
        return sum(account.newest + (account.before or 0) for account in accounts if account is not None)

    def forget(self, stream: bytes) -> None:
        """The stream is gone."""
        self.ledger.forget(stream)
        self._runs.pop(stream, None)

    def asked(self, before: Collection[bytes], now: Collection[bytes]) -> None:
        """The workers were asked for other prefixes: what they number until they have heard of it is for nobody."""
        self._asked = now
        self.ledger.resume(
            {stream for stream, run in self._runs.items() if not (_covers(before, run) and _covers(now, run))}
        )

    def forget_unwatched(self) -> None:
        """Filters have changed: drop the recent windows of runs that nobody wants any more."""
        self.wishes += 1
        self.recent.keep(self.watched)

    def _account(self, live: LiveBatch) -> None:
        header = live.header
        self.ledger.batch(header.stream, live.kind, header.counter, header.events)
        if live.kind in _TELLING:
            for event in live.events():
                match event:
                    case RunHeartbeat(counters=counters) if counters:
                        self.ledger.ticked(header.stream, counters.items())
                    case Overflow():
                        self.ledger.overflowed(header.stream, event.of_kind, event.reason, event.count, event.reached)

    def asked_for(self, run: str) -> bool:
        """Whether all of a run is to come, for a subscriber or for the tap."""
        return self.watched(run) or _covers(self._asked, run)

    def watched(self, run: str) -> bool:
        return any(subscriber.runs is None or run in subscriber.runs for subscriber in self.subscribers.values())


class LiveCore:
    """The control side of the live lane: subscribers and their selections. Times are monotonic nanoseconds."""

    def __init__(
        self, *, instance: bytes, endpoints: Callable[[], control.Endpoints], new_token: Callable[[], bytes]
    ) -> None:
        self.lane = LiveLane()
        self._instance = instance
        self._endpoints = endpoints
        self._new_token = new_token
        self._watchers: dict[Peer, LiveSubscriber] = {}
        self._settled_ns = 0

    def name_of(self, peer: Peer) -> str:
        watcher = self._watchers.get(peer)
        return watcher.name if watcher else ""

    def receive(self, peer: Peer, message: control.Message, now_ns: int, wall_ns: int) -> list[control.Message]:
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
        """Forget silent subscribers; returns the tokens of those for which a tick is due."""
        if now_ns - self._settled_ns > limits.NS:
            self._settled_ns = now_ns
            self.lane.ledger.settle()
        for peer, watcher in list(self._watchers.items()):
            if now_ns - watcher.heard_ns > _absent_after_s(watcher.policy) * limits.NS:
                self._remove(peer)
        due = [one for one in self._watchers.values() if now_ns - one.ticked_ns > limits.TICK_S * limits.NS]
        for watcher in due:
            watcher.ticked_ns = now_ns
        return [watcher.token for watcher in due]

    def flows_of(self, stream: bytes) -> list[tuple[bytes, str, Flow]]:
        """Token, name and figures of each subscriber that was meant to get something of a stream."""
        return [
            (watcher.token, watcher.name, watcher.flows[stream])
            for watcher in self._watchers.values()
            if stream in watcher.flows
        ]

    def _watch(self, peer: Peer, message: control.Watch, now_ns: int) -> list[control.Message]:
        watcher = self._watchers.get(peer)
        if watcher is None:
            own = sum(one.principal.name == peer.principal.name for one in self._watchers)
            if peer.principal.has_key and own >= limits.WATCHERS_OF_KEY_MAX:
                why = f"the key {peer.principal.name} has its limit of {limits.WATCHERS_OF_KEY_MAX} live subscribers"
                return [control.Refused(self._instance, f"{why}: close one")]
            if len(self._watchers) >= limits.WATCHERS_MAX:
                reason = f"this broker serves its limit of {limits.WATCHERS_MAX} live subscribers: close one"
                return [control.Refused(self._instance, reason)]
            watcher = self._watchers[peer] = LiveSubscriber(token=self._new_token(), ticked_ns=now_ns)
            self.lane.add(watcher.token, watcher)
        watcher.heard_ns = now_ns
        known = watcher.runs
        watcher.want(message)
        self.lane.forget_unwatched()
        watching = control.Watching(self._instance, watcher.token, self._endpoints(), watcher.policy)
        if known is None:
            return [watching]
        recent = self.lane.recent.batches(lambda run, kind: run not in known and watcher.takes(run, kind))
        return [watching, control.Recent(self._instance, recent)] if recent else [watching]

    def _beat(self, peer: Peer, message: control.WatchBeat, now_ns: int, wall_ns: int) -> list[control.Message]:
        watcher = self._watchers.get(peer)
        if watcher is None:
            return [control.Who(self._instance, bytes(16))]
        watcher.heard_ns = now_ns
        watcher.received, watcher.lost = message.received, message.lost
        return [control.Alive(self._instance, message.sent_ns, wall_ns)]

    def expel(self, names: Collection[str]) -> None:
        """Forget the subscribers whose keys have ended."""
        for peer in [peer for peer in self._watchers if peer.principal.name in names]:
            self._remove(peer)

    def _remove(self, peer: Peer) -> None:
        watcher = self._watchers.pop(peer, None)
        if watcher is not None:
            self.lane.remove(watcher.token)

    def status(self, now_ns: int) -> list[dict[str, Any]]:
        """The live subscribers, as `telefabric status` shows them."""
        return [_status_of(watcher, now_ns) for watcher in self._watchers.values()]


def _status_of(one: LiveSubscriber, now_ns: int) -> dict[str, Any]:
    return {
        "name": one.name,
        "runs": _listed(one.runs),
        "kinds": _listed(one.kinds),
        "agents": _listed(one.agents),
        "pictures": _listed(one.pictures),
        "policy": msgspec.structs.asdict(one.policy),
        "numbered": one.number,
        "delivered": one.delivered,
        "queued": one.queued_events,
        "queued_bytes": one.queued_bytes,
        "dropped": dict(one.dropped),
        "received": one.received,
        "lost_in_transit": one.lost,
        "heard_s": round((now_ns - one.heard_ns) / limits.NS, 3),
    }


def _absent_after_s(policy: QueuePolicy) -> float:
    return min(max(policy.age_ms_max / 1_000, limits.LIVE_ABSENT_S), limits.LIVE_ABSENT_MAX_S)


def _covers(prefixes: Collection[bytes], run: str) -> bool:
    """Whether all batches of a run come under one of the prefixes."""
    return ALL_RUNS in prefixes or topic_of(run, "") in prefixes


def _prefixes(runs: frozenset[str] | None) -> set[bytes]:
    return {ALL_RUNS} if runs is None else {topic_of(run, "") for run in runs}


def _listed(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)
