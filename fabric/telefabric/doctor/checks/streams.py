"""Verdicts on streams and refusals, by the broker's status. No input or output.

The names in a status are not part of the protocol: what a broker of another version does not tell is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from telefabric.address import Address
from telefabric.broker.core.hops import Hop
from telefabric.broker.core.status import BROKER, LIVE, WORKER
from telefabric.doctor.absent import remedy
from telefabric.doctor.checks.service import CLOCK_OFF_S, ROUND_TRIP_SLOW_S
from telefabric.doctor.finding import Finding, counted, say

_UPDATE = "pip install -U telefabric, on workers and broker alike"
_NETWORK = "telefabric doctor --connect {url}, on the workers' machines, looks at their way here"
_DISK = "iostat -x 1, where the store runs, shows whether its disk is busy"
_STRANGERS = "ss -tnp, on the broker's machine, shows who is connected"
REFUSALS: dict[str, tuple[str, str]] = {
    "damaged": ("a message failed its checksum, changed by a network, a proxy or a foreign program", _NETWORK),
    "bad_control": ("a control message that is not of this version", _UPDATE),
    "frames": ("a message of too many or too few frames, of a foreign program", _STRANGERS),
    "beyond_head": ("a durable subscriber that says it stored what nobody emitted", "Correct or stop that program"),
    "bad_body": ("a batch that does not hold what its header says", _UPDATE),
    "inconsistent": ("a batch header that contradicts itself", _UPDATE),
    "too_short": ("a message shorter than any batch, of a foreign program", _STRANGERS),
    "not_ours": ("a message of a foreign program", _STRANGERS),
    "bad_topic": ("a topic that no worker uses, of a foreign program", _STRANGERS),
    "bad_live": ("a live batch of too many or too few frames, of a foreign program", _STRANGERS),
    "not_live": ("a durable batch on the live socket, of a worker of another version", _UPDATE),
    "bad_subscription": ("a subscription that cannot be read, of a foreign program", _STRANGERS),
    "too_large": ("a message over the size limit", _UPDATE),
    "version": ("a batch of another wire version", _UPDATE),
    "protocol": ("a worker or a store of another protocol", _UPDATE),
    "unexpected_control": ("a message that only a broker sends", _STRANGERS),
    "over_credit": ("a batch beyond what its worker may have in flight, which is sent again", _UPDATE),
    "lane_full": ("a batch for which there was no room while a store was behind, which is sent again", _DISK),
    "second_durable": ("a second store beside the one that is attached", "Stop one of the two stores"),
    "too_many_durables": ("a durable subscriber beyond the limit", "Stop one of the subscribers"),
    "status_too_often": ("a peer that asks for the status again and again", _STRANGERS),
    "status_unread": ("a peer that asks for the status and does not read it", _STRANGERS),
    "tap_full": ("a topic beyond those that the tap serves", "Close listeners of the tap that are not needed"),
    "control_full": ("an answer to a peer that does not read it", _STRANGERS),
}
"""Why a broker drops a message, what that means, and what to type."""
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
_NAMED_MAX = 3


def judge_streams(address: Address, status: Mapping[str, Any], holder: str = "") -> list[Finding]:
    """One row for what is well, or one for each hop at which streams are behind. `holder`: as of `judge_store`."""
    streams = status.get("streams", ())
    behind: dict[str, list[Mapping[str, Any]]] = {}
    for stream in streams:
        hop = WORKER if stream.get("state") == "stalled" else stream.get("first_behind")
        if hop is not None:
            behind.setdefault(hop, []).append(stream)
    if not behind:
        return [say("streams", "fine", streams=counted(len(streams), "stream"))] if streams else []
    rows = [_behind(address, hop, found, len(streams)) for hop, found in behind.items()]
    absent = {f"streams: {name}": remedy(address, [name], holder) for name in status.get("absent", ())}
    return [row._replace(remedy=absent.get(row.check, row.remedy)) for row in rows]


def _behind(address: Address, hop: str, found: Sequence[Mapping[str, Any]], total: int) -> Finding:
    lacks = [row for one in found for row in _hops(one) if row.name == hop and row.is_behind]
    what = hop if hop in (WORKER, BROKER) else "live" if any(row.path == LIVE for row in lacks) else "durable"
    return say(
        "streams", what, address=address, hop=hop, many=f"{len(found)} of {counted(total, 'stream')}",
        names=_names([f"{one['run_id']}/{one['worker_id']}" for one in found]),
        hosts=_names(sorted({one.get("host") or "its machine" for one in found})),
        silent_s=max(one.get("silent_s", 0.0) for one in found),
        for_s=max((row.behind_s for row in lacks), default=0.0),
        events=counted(sum(row.behind for row in lacks), "event"),
    )._replace(check=f"streams: {hop}")  # fmt: skip


def _hops(stream: Mapping[str, Any]) -> list[Hop]:
    """A newer broker may tell more of each."""
    return [Hop(*row[: len(Hop._fields)]) for row in stream.get("hops", ())]


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
    counts: dict[str, int] = {}
    for name in ("dropped", "live_dropped"):
        for reason, count in status.get(name, {}).items():
            counts[reason] = counts.get(reason, 0) + count
    last = {one["reason"]: one for one in reversed(status.get("mistakes", ()))}
    found = [_refused(address, reason, count, last) for reason, count in counts.items() if reason not in USUAL]
    usual = [f"{count} {USUAL[reason]}" for reason, count in counts.items() if reason in USUAL]
    if usual:
        found.append(say("refusals", "usual", usual=", ".join(usual)))
    return found or [say("refusals", "none")]


def _refused(address: Address, reason: str, count: int, last: Mapping[str, Mapping[str, Any]]) -> Finding:
    meaning, remedy = REFUSALS.get(reason, (f"a message, as {reason!r}", _UPDATE))
    times = "once" if count == 1 else f"{count} times"
    told, todo = _last(last.get(reason)), remedy.format(url=address.url)
    found = say("refusals", "some", times=times, meaning=meaning, last=told, remedy=todo)
    return found._replace(check=f"refusals: {reason}")


def _last(mistake: Mapping[str, Any] | None) -> str:
    """The peer and the faulty item of the newest refusal, which help authors of programs of their own."""
    if mistake is None:
        return ""
    return f" The last was of {mistake['name'] or 'peer ' + mistake['peer']}: {mistake['message']}."


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
