"""The broker's figures: sums and maxima over its streams, never a series for each, and what its subscribers got."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from telefabric import limits
from telefabric.broker.core.durable_lane import DurableLane
from telefabric.broker.core.hops import first_behind
from telefabric.broker.core.live_lane import LiveCore
from telefabric.broker.core.state import DurableSubscriber, StreamState
from telefabric.broker.core.status import BROKER, LIVE, WORKER, durable_hops, hops
from telefabric.metrics.figures import COUNTER, GAUGE, Family, Figures, Labels, by_reason, label

NOWHERE = ""
STATES = ("running", "idle", "waiting", "held", "stalled", "revived")
_KNOWN = "of the streams that the broker knows now"
_P = "telefabric_broker_"


def _family(name: str, text: str, *labels: str, told: bool = False) -> Family:
    """`told` in the summary, under the name of the metric without ``_total``."""
    kind = COUNTER if name.endswith("_total") else GAUGE
    return Family(_P + name, kind, text, labels, name.removesuffix("_total") if told else "")


KEYS_REFUSED = _P + "keys_refused_total"
FAMILIES = (
    _family("streams", "Streams by state.", "state", told=True),
    _family("streams_behind", "Streams by the first hop that is behind.", "hop", told=True),
    _family("emitted_events", f"Events emitted, {_KNOWN}."),
    _family("acknowledged_events", f"Events acknowledged, {_KNOWN}."),
    _family("backlog_events", f"Events emitted and not acknowledged, {_KNOWN}.", told=True),
    _family("backlog_bytes", "Bytes of the backlog, as the workers say.", told=True),
    _family("backlog_largest_events", "Backlog in events of the stream with the largest."),
    _family("backlog_largest_bytes", "Backlog in bytes of the stream with the largest."),
    _family("watermark_lag_events", "Events emitted above the subscriber's watermarks.", "subscriber", told=True),
    _family("in_flight_bytes", "Bytes taken in and not acknowledged."),
    _family("credit_lent_bytes", "Bytes that streams may have in flight.", told=True),
    _family("lane_bytes", "Batches that a required subscriber was not sent yet.", told=True),
    _family("tail_bytes", "Batches that only subscribers that are not required wait for.", told=True),
    _family("rewinds", f"How often a stream was sent back, {_KNOWN}."),
    _family("over_credit_batches", f"Batches refused for want of credit, {_KNOWN}."),
    _family("silent_largest_seconds", "Time since the last word of the stream with the longest."),
    _family("clock_offset_largest_seconds", "Largest difference of a worker's clock, either way."),
    _family("round_trip_largest_seconds", "Longest control round trip of a worker."),
    _family("dropped_total", "Messages refused or not sent.", "path", "reason", told=True),
    _family("keys_refused_total", "Connections, handshakes and messages refused.", "reason", "socket", "key"),
    Family(_P + "required_absent", GAUGE, "1 while a required subscriber is not attached.", ("subscriber",), "absent"),
    _family("durable_queued_batches", "Batches that wait for the subscriber.", "subscriber", told=True),
    _family("durable_missed_batches_total", "Batches that the subscriber was not sent.", "subscriber", told=True),
    _family("durable_stored_events_total", "Events that the subscriber stored, as it says.", "subscriber"),
    _family("durable_quarantined_events_total", "Events that the subscriber quarantined, as it says.", "subscriber"),
    _family("durable_heard_seconds", "Time since the last word of the subscriber.", "subscriber"),
    _family("live_numbered_events_total", "Events meant for the live subscriber.", "subscriber"),
    _family("live_delivered_events_total", "Events delivered to the live subscriber.", "subscriber"),
    _family("live_queued_events", "Events that wait for the live subscriber.", "subscriber", told=True),
    _family("live_queued_bytes", "Bytes that wait for the live subscriber.", "subscriber"),
    _family(
        "live_dropped_events_total", "Events dropped from its queue, or left out by its wish.", "subscriber", "reason",
        told=True,
    ),
    _family("live_received_events_total", "Events that the live subscriber received, as it says.", "subscriber"),
    _family("live_lost_in_transit_events_total", "Events lost in transit to it, as it says.", "subscriber"),
    _family("sources_numbered_events", f"Events numbered on the live path, {_KNOWN}."),
    _family("sources_received_events", f"Events of the live path that came here, {_KNOWN}."),
    _family("sources_dropped_events", f"Events of the live path that a worker dropped, {_KNOWN}.", "reason", told=True),
    _family("sources_lost_in_transit_events", f"Events of the live path lost in transit, {_KNOWN}.", told=True),
)  # fmt: skip


def of_streams(streams: Collection[StreamState], required: Sequence[str], now_ns: int) -> Figures:
    """Some microseconds a stream: where one waits is known from its last heartbeat."""
    states = Counter(dict.fromkeys(STATES, 0))
    behind = Counter(dict.fromkeys((WORKER, BROKER, *required, LIVE), 0))
    lag = Counter(dict.fromkeys(required, 0))
    for one in streams:
        states[one.liveness(now_ns)] += 1
        behind[place_behind(one, required, None, now_ns) if one.silent(now_ns) else one.behind] += 1
        for name in {*required, *one.marks}:  # one that has not reported lacks all
            lag[name] += max(one.emitted - one.marks.get(name, 0), 0)
    del behind[NOWHERE]
    return {
        **{
            _P + name: {(label(key),): count for key, count in counts.items()}
            for name, counts in (("streams", states), ("streams_behind", behind), ("watermark_lag_events", lag))
        },
        **_alone(
            emitted_events=sum(one.emitted for one in streams),
            acknowledged_events=sum(one.acked for one in streams),
            backlog_events=sum(one.emitted - one.acked for one in streams),
            backlog_largest_events=max((one.emitted - one.acked for one in streams), default=0),
            backlog_bytes=sum(one.backlog_bytes for one in streams),
            backlog_largest_bytes=max((one.backlog_bytes for one in streams), default=0),
            in_flight_bytes=sum(one.outstanding_bytes for one in streams),
            rewinds=sum(one.rewinds for one in streams),
            over_credit_batches=sum(one.over_credit for one in streams),
            silent_largest_seconds=max((now_ns - one.heard_ns for one in streams), default=0) / limits.NS,
            clock_offset_largest_seconds=max((abs(one.clock_offset_ns or 0) for one in streams), default=0) / limits.NS,
            round_trip_largest_seconds=max((one.round_trip_ns or 0 for one in streams), default=0) / limits.NS,
        ),
    }


def place_behind(stream: StreamState, required: Sequence[str], live: LiveCore | None, now_ns: int) -> str:
    """Where a stream waits: a hop of the durable path by name, ``live`` for any live subscriber, or nowhere.

    None leaves out live subscribers, of which there may be many.
    """
    way = hops(stream, required, live, now_ns) if live is not None else durable_hops(stream, required, now_ns)
    hop = first_behind(way)
    return NOWHERE if hop is None else LIVE if hop.path == LIVE else hop.name


def of_durables(
    durables: Iterable[DurableSubscriber], required: Sequence[str], lane: DurableLane, now_ns: int
) -> Figures:
    found = {label(one.name): one for one in durables}
    return {
        _P + "required_absent": {(label(name),): int(label(name) not in found) for name in required},
        _P + "durable_queued_batches": {(name,): lane.pending(one.name) for name, one in found.items()},
        _P + "durable_missed_batches_total": {(name,): one.cursor.missed for name, one in found.items()},
        _P + "durable_stored_events_total": {(name,): one.stored_events for name, one in found.items()},
        _P + "durable_quarantined_events_total": {(name,): one.quarantined_events for name, one in found.items()},
        _P + "durable_heard_seconds": {(name,): (now_ns - one.heard_ns) / limits.NS for name, one in found.items()},
    }


def of_live(live: LiveCore) -> Figures:
    """The figures of live subscribers; those of one name are added up. And what sources numbered."""
    found: dict[str, Counter[Labels]] = {_P + name: Counter() for name in (*_OF_A_SUBSCRIBER.values(), _LIVE_DROPPED)}
    for one in live.lane.subscribers.values():
        name = label(one.name)
        for attribute, family in _OF_A_SUBSCRIBER.items():
            found[_P + family][name,] += getattr(one, attribute)
        found[_P + _LIVE_DROPPED].update({(name, reason): events for reason, events in one.dropped.items()})
    accounts = live.lane.ledger.sources.values()
    numbered, received = sum(one.newest for one in accounts), sum(one.received for one in accounts)
    dropped = Counter[str]()
    for account in accounts:
        if account.dropped:
            dropped.update(account.dropped)
    return {
        **found,
        _P + "sources_dropped_events": {(reason,): count for reason, count in by_reason(dropped).items()},
        **_alone(
            sources_numbered_events=numbered,
            sources_received_events=received,
            sources_lost_in_transit_events=numbered - received - dropped.total(),
        ),
    }


_LIVE_DROPPED = "live_dropped_events_total"
_OF_A_SUBSCRIBER = {
    "number": "live_numbered_events_total",
    "delivered": "live_delivered_events_total",
    "queued_events": "live_queued_events",
    "queued_bytes": "live_queued_bytes",
    "received": "live_received_events_total",
    "lost": "live_lost_in_transit_events_total",
}


def of_lanes(lane: DurableLane, credit_lent_bytes: int, dropped: Counter[str], live: LiveCore) -> Figures:
    paths = {"durable": dropped, "live": live.lane.dropped}
    return {
        _P + "dropped_total": {
            (path, reason): count for path, counts in paths.items() for reason, count in by_reason(counts).items()
        },
        **_alone(lane_bytes=lane.bytes, tail_bytes=lane.tail_bytes, credit_lent_bytes=credit_lent_bytes),
    }


def _alone(**values: float) -> Figures:
    """Figures without labels."""
    return {_P + name: {(): value} for name, value in values.items()}
