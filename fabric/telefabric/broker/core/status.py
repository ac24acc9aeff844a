"""The state of a broker in plain values, for `telefabric status`, `doctor` and the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from telefabric import limits
from telefabric.broker.core.hops import Hop, first_behind
from telefabric.broker.core.live_lane import LiveCore
from telefabric.broker.core.state import DurableSubscriber, StreamState
from telefabric.subscribe.core.accounting import Account
from telefabric.wire import control

WORKER, BROKER = "worker", "broker"
DURABLE, LIVE = "durable", "live"


def hops(stream: StreamState, required: Sequence[str], live: LiveCore, now_ns: int) -> list[Hop]:
    """A stream's way: its worker, the broker, each durable subscriber, each live one that is sent something of it."""
    flows = {token.hex(): (name, flow) for token, name, flow in live.flows_of(stream.info.stream)}
    found = durable_hops(stream, required, now_ns)
    for gone in stream.lags.keys() - flows.keys() - {hop.name for hop in found}:
        del stream.lags[gone]
    for token, (name, flow) in flows.items():
        done = flow.delivered + flow.dropped
        lag_s = stream.lags[token].look(done, flow.numbered, now_ns)
        found.append(Hop(name, LIVE, flow.delivered, max(flow.numbered - done, 0), lag_s, flow.dropped))
    return found


def durable_hops(stream: StreamState, required: Sequence[str], now_ns: int) -> list[Hop]:
    """The hops of a stream that do not depend on live subscribers."""
    emitted = stream.emitted
    taken = max(stream.next_seq - 1, stream.acked)
    silent_s = (now_ns - stream.heard_ns) / limits.NS if stream.silent(now_ns) else 0.0
    found = [
        Hop(WORKER, DURABLE, emitted, 0, silent_s),
        Hop(BROKER, DURABLE, taken, emitted - taken, stream.lags[BROKER].look(taken, emitted, now_ns)),
    ]
    for name in dict.fromkeys((*required, *stream.marks)):
        mark = stream.marks.get(name, 0)
        goal = taken if name in stream.marks else max(emitted, 1)  # one that has not reported lacks all
        found.append(Hop(name, DURABLE, mark, max(goal - mark, 0), stream.lags[name].look(mark, goal, now_ns)))
    return found


def stream_status(
    stream: StreamState, credit: int, required: Sequence[str], live: LiveCore, accounts: Sequence[Account], now_ns: int
) -> dict[str, Any]:
    """One stream and its whole way. `hops` are the values of `Hop` without names: a thousand fit into one reply."""
    emitted, way = stream.emitted, hops(stream, required, live, now_ns)
    waits_at = first_behind(way)
    return {
        "stream_id": stream.info.stream.hex(),
        "run_id": stream.info.run_id,
        "worker_id": stream.info.worker_id,
        "agent_id": stream.info.agent_id,
        "host": stream.info.host,
        "carrier": stream.info.carrier,
        "started_ns": stream.info.started_ns,
        "state": stream.liveness(now_ns),
        "emitted": emitted,
        "acknowledged": stream.acked,
        "stored": min((stream.marks.get(name, 0) for name in required), default=0),
        "backlog": emitted - stream.acked,
        "backlog_bytes": stream.backlog_bytes,
        "credit_bytes": credit,
        "in_flight_bytes": stream.outstanding_bytes,
        "rewinds": stream.rewinds,
        "over_credit": stream.over_credit,
        "silent_s": round((now_ns - stream.heard_ns) / limits.NS, 3),
        "clock_offset_ms": _ms(stream.clock_offset_ns),
        "round_trip_ms": _ms(stream.round_trip_ns),
        "hops": [list(hop._replace(behind_s=round(hop.behind_s, 1))) for hop in way],
        "first_behind": waits_at.name if waits_at else None,
        "live": _live_account(accounts),
    }


def durable_status(durable: DurableSubscriber, pending: int, now_ns: int) -> dict[str, Any]:
    return {
        "name": durable.name,
        "required": durable.required,
        "queued": pending,
        "missed": durable.cursor.missed,
        "stored_events": durable.stored_events,
        "quarantined_events": durable.quarantined_events,
        "heard_s": round((now_ns - durable.heard_ns) / limits.NS, 3),
    }


def left_spools(streams: Iterable[StreamState], now_ns: int) -> dict[str, int]:
    """Host → the number of left-behind spools that the workers there report: most of them report the same."""
    found: dict[str, int] = {}
    for stream in streams:
        if stream.left_spools and not stream.silent(now_ns):
            host = stream.info.host or ""
            found[host] = max(found.get(host, 0), stream.left_spools)
    return found


def _live_account(accounts: Sequence[Account]) -> dict[str, Any]:
    """Events that a stream numbered on the live path, over all kinds, and those that came to the broker."""
    dropped = Counter[str]()
    for account in accounts:
        dropped.update(account.dropped)
    return {
        "numbered": _told(sum(account.newest for account in accounts)),
        "received": _told(sum(account.received for account in accounts)),
        "dropped": {reason: _told(events) for reason, events in dropped.items()},
        "lost_in_transit": _told(sum(account.lost_in_transit for account in accounts)),
    }


def _told(events: int) -> int:
    """Anybody may claim any numbers of a stream: no sum of them may be more than a reply can hold."""
    return max(min(events, control.COUNT_MAX), -control.COUNT_MAX)


def _ms(time_ns: int | None) -> float | None:
    return None if time_ns is None else round(time_ns / 1e6, 3)
