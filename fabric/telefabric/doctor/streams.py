"""Streams and refusals, by the broker's status. No input or output.

The names in a status are not part of the protocol: what a broker of another version does not tell is not judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from telefabric.address import Address
from telefabric.broker.core.hops import Hop
from telefabric.broker.core.status import BROKER, LIVE, WORKER
from telefabric.doctor.finding import SAYINGS, Finding, counted, few_of, say

CLOCK_OFF_S = 1.0
ROUND_TRIP_SLOW_S = 0.25
"""Live is late by at least half of that, and a stream's credit covers that much less of a second."""
HELD = "held"
"""The state of a stream whose spool belongs to another store."""
STORE = "store"
"""The name by which `telefabric store` attaches."""
USUAL: dict[str, str] = {
    "stale": "batches of before a restart or a rewind",
    "repeated": "batches that came twice",
    "unknown_stream": "batches of streams that it did not know yet",
    "unknown_durable": "reports of stores that it did not know yet",
    "unknown_token": "subscriptions to a token of before, or of a foreign program",
    "tap_behind": "large batches that a listener of the tap was too slow for",
    "control_unreachable": "answers to peers that had gone",
    "nack_not_required": "complaints of subscribers that are not required",
}
"""Refusals that restarts, rewinds and ended peers cause: nothing is lost by them."""


def remedy(address: Address, absent: Iterable[str], store: str = "") -> str:
    """The remedies for required subscribers that are not attached. `store`: that for a store that does not answer."""
    start = store or f"telefabric store --connect {address.url}"
    return "; ".join(
        start if name == STORE
        else f"start the program that subscribes as {name}, or leave {name} out of the broker's --required"
        for name in absent
    )  # fmt: skip


def judge_streams(address: Address, status: Mapping[str, Any], holder: str = "") -> list[Finding]:
    """One row for what is well, or one for each hop at which streams are behind. `holder`: as of `judge_store`."""
    streams = status.get("streams", ())
    behind: dict[str, list[Mapping[str, Any]]] = {}
    for stream in streams:
        state = stream.get("state")
        hop = HELD if state == HELD else WORKER if state == "stalled" else stream.get("first_behind")
        if hop is not None:
            behind.setdefault(hop, []).append(stream)
    if not behind:
        return [say("streams", "fine", streams=counted(len(streams), "stream"))] if streams else []
    rows = [_behind(address, hop, found, len(streams)) for hop, found in behind.items()]
    absent = {f"streams: {name}": remedy(address, [name], holder) for name in status.get("absent", ())}
    return [row._replace(remedy=absent.get(row.check, row.remedy)) for row in rows]


def _behind(address: Address, hop: str, found: Sequence[Mapping[str, Any]], total: int) -> Finding:
    hops = [Hop(*row[: len(Hop._fields)]) for one in found for row in one.get("hops", ())]  # a newer broker has more
    lacks = [one for one in hops if one.name == hop and one.is_behind]
    what = hop if hop in (HELD, WORKER, BROKER) else "live" if any(row.path == LIVE for row in lacks) else "durable"
    return say(
        "streams", what, address=address, hop=hop, many=f"{len(found)} of {counted(total, 'stream')}",
        names=few_of([f"{one['run_id']}/{one['worker_id']}" for one in found]),
        hosts=few_of(sorted({one.get("host") or "its machine" for one in found})),
        silent_s=max(one.get("silent_s", 0.0) for one in found),
        for_s=max((row.behind_s for row in lacks), default=0.0),
        events=counted(sum(row.behind for row in lacks), "event"),
    )._replace(check=f"streams: {hop}")  # fmt: skip


def judge_worker_clocks(status: Mapping[str, Any]) -> Finding | None:
    """None when no worker has measured any."""
    measured = [one for one in status.get("streams", ()) if one.get("clock_offset_ms") is not None]
    if not measured:
        return None
    off = max(measured, key=lambda one: abs(one["clock_offset_ms"]) - _trip_ms(one) / 2)
    far = max(measured, key=_trip_ms)
    offset_ms, slowest_ms = off["clock_offset_ms"], _trip_ms(far)
    if abs(offset_ms) - _trip_ms(off) / 2 > CLOCK_OFF_S * 1000:
        what, worst = "off", off
    else:
        what, worst = "far" if slowest_ms > ROUND_TRIP_SLOW_S * 1000 else "fine", far
    return say(
        "worker clocks", what, worker=worst["worker_id"], host=worst.get("host") or "its machine",
        way="ahead of" if offset_ms < 0 else "behind", off_s=abs(offset_ms) / 1000, off_ms=abs(offset_ms),
        slowest_ms=slowest_ms, workers=counted(len({one["worker_id"] for one in measured}), "worker"),
    )  # fmt: skip


def _trip_ms(stream: Mapping[str, Any]) -> float:
    return stream.get("round_trip_ms") or 0.0


def judge_refusals(address: Address, status: Mapping[str, Any]) -> list[Finding]:
    """A row for each reason that is not usual, and one for all that are."""
    counts = Counter(status.get("dropped", {}))
    counts.update(status.get("live_dropped", {}))
    last = {one["reason"]: one for one in reversed(status.get("mistakes", ()))}
    found = [
        _refused(address, reason, count, last.get(reason)) for reason, count in counts.items() if reason not in USUAL
    ]
    usual = [f"{count} {USUAL[reason]}" for reason, count in counts.items() if reason in USUAL]
    if usual:
        found.append(say("refusals", "usual", usual=", ".join(usual)))
    return found or [say("refusals", "none")]


def _refused(address: Address, reason: str, count: int, last: Mapping[str, Any] | None) -> Finding:
    what = reason if reason in SAYINGS["refused"] else "other"
    times = "once" if count == 1 else f"{count} times"
    found = say("refused", what, address=address, reason=reason, times=times, last=_last(last))
    return found._replace(check=f"refusals: {reason}")


def _last(mistake: Mapping[str, Any] | None) -> str:
    """The peer and the faulty item of the newest refusal, which help authors of programs of their own."""
    if mistake is None:
        return ""
    return f" The last was of {mistake['name'] or 'peer ' + mistake['peer']}: {mistake['message']}."
