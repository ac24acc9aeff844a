"""The broker's figures: sums and maxima over its streams, never a series for each, and what its subscribers got."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from telefabric.broker.core.durable_lane import DurableLane
from telefabric.broker.core.hops import first_hop_behind
from telefabric.broker.core.live_lane import LiveCore
from telefabric.broker.core.state import NS, DurableSubscriber, StreamState
from telefabric.broker.core.status import BROKER, LIVE, WORKER, durable_hops, hops
from telefabric.metrics.figures import COUNTER, GAUGE, Family, Figures, by_reason, label

STATES = ("running", "idle", "waiting", "stalled", "revived")
_SUBSCRIBER = ("subscriber",)
_KNOWN = "of the streams that the broker knows now"
_P = "telefabric_broker_"

FAMILIES = (
    Family(_P + "streams", GAUGE, "Streams by state.", ("state",), "streams"),
    Family(_P + "streams_behind", GAUGE, "Streams by the first hop that is behind.", ("hop",), "streams_behind"),
    Family(_P + "emitted_events", GAUGE, f"Events emitted, {_KNOWN}."),
    Family(_P + "acknowledged_events", GAUGE, f"Events acknowledged, {_KNOWN}."),
    Family(_P + "backlog_events", GAUGE, f"Events emitted and not acknowledged, {_KNOWN}.", (), "backlog_events"),
    Family(_P + "backlog_bytes", GAUGE, "Bytes of the backlog, as the workers say.", (), "backlog_bytes"),
    Family(_P + "backlog_largest_events", GAUGE, "Backlog in events of the stream with the largest."),
    Family(_P + "backlog_largest_bytes", GAUGE, "Backlog in bytes of the stream with the largest."),
    Family(
        _P + "watermark_lag_events", GAUGE, "Events emitted above the subscriber's watermarks.", _SUBSCRIBER,
        "watermark_lag_events",
    ),
    Family(_P + "in_flight_bytes", GAUGE, "Bytes taken in and not acknowledged."),
    Family(_P + "credit_lent_bytes", GAUGE, "Bytes that streams may have in flight.", (), "credit_lent_bytes"),
    Family(_P + "lane_bytes", GAUGE, "Batches that a required subscriber was not sent yet.", (), "lane_bytes"),
    Family(_P + "tail_bytes", GAUGE, "Batches that only subscribers that are not required wait for.", (), "tail_bytes"),
    Family(_P + "rewinds", GAUGE, f"How often a stream was sent back, {_KNOWN}."),
    Family(_P + "over_credit_batches", GAUGE, f"Batches refused for want of credit, {_KNOWN}."),
    Family(_P + "silent_largest_seconds", GAUGE, "Time since the last word of the stream with the longest."),
    Family(_P + "clock_offset_largest_seconds", GAUGE, "Largest difference of a worker's clock, either way."),
    Family(_P + "round_trip_largest_seconds", GAUGE, "Longest control round trip of a worker."),
    Family(_P + "dropped_total", COUNTER, "Messages refused or not sent.", ("path", "reason"), "dropped"),
    Family(_P + "required_absent", GAUGE, "1 while a required subscriber is not attached.", _SUBSCRIBER, "absent"),
    Family(
        _P + "durable_queued_batches", GAUGE, "Batches that wait for the subscriber.", _SUBSCRIBER,
        "durable_queued_batches",
    ),
    Family(
        _P + "durable_missed_batches_total", COUNTER, "Batches that the subscriber was not sent.", _SUBSCRIBER,
        "durable_missed_batches",
    ),
    Family(_P + "durable_stored_events_total", COUNTER, "Events that the subscriber stored, as it says.", _SUBSCRIBER),
    Family(
        _P + "durable_quarantined_events_total", COUNTER, "Events that the subscriber quarantined, as it says.",
        _SUBSCRIBER,
    ),
    Family(_P + "durable_heard_seconds", GAUGE, "Time since the last word of the subscriber.", _SUBSCRIBER),
    Family(_P + "live_numbered_events_total", COUNTER, "Events meant for the live subscriber.", _SUBSCRIBER),
    Family(_P + "live_delivered_events_total", COUNTER, "Events delivered to the live subscriber.", _SUBSCRIBER),
    Family(
        _P + "live_queued_events", GAUGE, "Events that wait for the live subscriber.", _SUBSCRIBER, "live_queued_events"
    ),
    Family(_P + "live_queued_bytes", GAUGE, "Bytes that wait for the live subscriber.", _SUBSCRIBER),
    Family(
        _P + "live_dropped_events_total", COUNTER, "Events dropped from its queue, or left out by its wish.",
        ("subscriber", "reason"), "live_dropped_events",
    ),
    Family(
        _P + "live_received_events_total", COUNTER, "Events that the live subscriber received, as it says.", _SUBSCRIBER
    ),
    Family(_P + "live_lost_in_transit_events_total", COUNTER, "Events lost in transit to it, as it says.", _SUBSCRIBER),
    Family(_P + "sources_numbered_events", GAUGE, f"Events numbered on the live path, {_KNOWN}."),
    Family(_P + "sources_received_events", GAUGE, f"Events of the live path that came here, {_KNOWN}."),
    Family(
        _P + "sources_dropped_events", GAUGE, f"Events of the live path that a worker dropped, {_KNOWN}.", ("reason",),
        "sources_dropped_events",
    ),
    Family(
        _P + "sources_lost_in_transit_events", GAUGE, f"Events of the live path lost in transit, {_KNOWN}.", (),
        "sources_lost_in_transit_events",
    ),
)  # fmt: skip


def of_streams(streams: Collection[StreamState], required: Sequence[str], now_ns: int) -> Figures:
    """Some microseconds a stream: where one waits is known from its last heartbeat."""
    states = dict.fromkeys(STATES, 0)
    behind = dict.fromkeys((WORKER, BROKER, *required, LIVE), 0)
    lag = dict.fromkeys(required, 0)
    emitted = acked = in_flight = backlog_bytes = rewinds = over_credit = 0
    largest = largest_bytes = offset_ns = trip_ns = silent_ns = 0
    for stream in streams:
        head = stream.emitted
        states[stream.liveness(now_ns)] += 1
        hop = _place_of_silent(stream, required, now_ns) if stream.silent(now_ns) else stream.behind
        if hop:
            behind[hop] = behind.get(hop, 0) + 1
        for name in {*required, *stream.marks}:  # one that has not reported lacks all
            lag[name] = lag.get(name, 0) + max(head - stream.marks.get(name, 0), 0)
        emitted += head
        acked += stream.acked
        in_flight += stream.outstanding_bytes
        backlog_bytes += stream.backlog_bytes
        rewinds += stream.rewinds
        over_credit += stream.over_credit
        largest = max(largest, head - stream.acked)
        largest_bytes = max(largest_bytes, stream.backlog_bytes)
        offset_ns = max(offset_ns, abs(stream.clock_offset_ns or 0))
        trip_ns = max(trip_ns, stream.round_trip_ns or 0)
        silent_ns = max(silent_ns, now_ns - stream.heard_ns)
    return {
        _P + "streams": {(state,): count for state, count in states.items()},
        _P + "streams_behind": {(label(hop),): count for hop, count in behind.items()},
        _P + "watermark_lag_events": {(label(name),): events for name, events in lag.items()},
        **_alone(
            emitted_events=emitted,
            acknowledged_events=acked,
            backlog_events=emitted - acked,
            backlog_largest_events=largest,
            backlog_bytes=backlog_bytes,
            backlog_largest_bytes=largest_bytes,
            in_flight_bytes=in_flight,
            rewinds=rewinds,
            over_credit_batches=over_credit,
            silent_largest_seconds=silent_ns / NS,
            clock_offset_largest_seconds=offset_ns / NS,
            round_trip_largest_seconds=trip_ns / NS,
        ),
    }


def place_behind(stream: StreamState, required: Sequence[str], live: LiveCore, now_ns: int) -> str:
    """Where a stream waits: a hop of the durable path by name, ``live`` for any live subscriber, or nothing."""
    hop = first_hop_behind(hops(stream, required, live, now_ns))
    if hop is None:
        return ""
    return LIVE if hop.path == LIVE else hop.name


def _place_of_silent(stream: StreamState, required: Sequence[str], now_ns: int) -> str:
    """Like `place_behind`, but without live subscribers, because there may be many: a silent worker comes first."""
    hop = first_hop_behind(durable_hops(stream, required, now_ns))
    return hop.name if hop else ""


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
        _P + "durable_heard_seconds": {(name,): (now_ns - one.heard_ns) / NS for name, one in found.items()},
    }


def of_live(live: LiveCore, now_ns: int) -> Figures:
    """The figures of live subscribers; those of one name are added up."""
    sums: dict[str, Counter[str]] = {}
    dropped: dict[str, Counter[str]] = {}
    for one in live.status(now_ns):
        name = label(one["name"])
        sums.setdefault(name, Counter()).update({key: one[key] for key in _OF_A_SUBSCRIBER})
        dropped.setdefault(name, Counter()).update(one["dropped"])
    return {
        **{
            _P + family: {(name,): counts[key] for name, counts in sums.items()}
            for key, family in _OF_A_SUBSCRIBER.items()
        },
        _P + "live_dropped_events_total": {
            (name, reason): count for name, counts in dropped.items() for reason, count in by_reason(counts).items()
        },
        **_of_sources(live),
    }


_OF_A_SUBSCRIBER = {
    "numbered": "live_numbered_events_total",
    "delivered": "live_delivered_events_total",
    "queued": "live_queued_events",
    "queued_bytes": "live_queued_bytes",
    "received": "live_received_events_total",
    "lost_in_transit": "live_lost_in_transit_events_total",
}


def _of_sources(live: LiveCore) -> Figures:
    numbered = received = 0
    dropped = Counter[str]()
    for account in live.lane.ledger.sources.values():
        numbered += account.newest
        received += account.received
        if account.dropped:
            dropped.update(account.dropped)
    return {
        _P + "sources_dropped_events": {(reason,): count for reason, count in by_reason(dropped).items()},
        **_alone(
            sources_numbered_events=numbered,
            sources_received_events=received,
            sources_lost_in_transit_events=numbered - received - dropped.total(),
        ),
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
