"""Verdicts on streams and refusals, by the broker's status. No input or output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from telefabric.address import Address
from telefabric.cli.doctor.finding import OK, WARNING, Finding, counted
from telefabric.cli.doctor.verdicts.service import CLOCK_OFF_S, ROUND_TRIP_SLOW_S
from telefabric.session.progress import Hop
from telefabric.session.standing import BROKER, LIVE, WORKER

_UPDATE = "pip install -U telefabric, on workers and broker alike"
_NETWORK = "telefabric doctor --connect ADDRESS, on the workers' machines, looks at their way here"
_STRANGERS = "ss -tnp, on the broker's machine, shows who is connected"
REFUSALS: dict[str, tuple[str, str]] = {
    "damaged": ("failed their checksum: a network, a proxy or a foreign program changed them", _NETWORK),
    "bad_control": ("are no control messages of this version", _UPDATE),
    "bad_body": ("do not hold what their header says", _UPDATE),
    "inconsistent": ("contradict themselves", _UPDATE),
    "too_short": ("are shorter than a batch can be: a foreign program sends", _STRANGERS),
    "not_ours": ("are not Telefabric's: a foreign program sends", _STRANGERS),
    "bad_topic": ("have a topic that no worker uses: a foreign program sends", _STRANGERS),
    "bad_live": ("have more or fewer frames than a live batch: a foreign program sends", _STRANGERS),
    "not_live": ("are durable batches on the live socket: a worker of another version", _UPDATE),
    "bad_subscription": ("are subscriptions that cannot be read: a foreign program subscribes", _STRANGERS),
    "unknown_token": ("are subscriptions to a token that is not valid: a foreign program, or one that was late",
                      _STRANGERS),
    "too_large": ("are over the size limit", _UPDATE),
    "version": ("are of another wire version", _UPDATE),
    "protocol": ("are of another protocol", _UPDATE),
    "unexpected_control": ("are messages that only a broker sends", _STRANGERS),
    "over_credit": ("exceeded what their worker may have in flight, and are sent again", _UPDATE),
    "lane_full": ("had no room while a store was behind, and are sent again",
                  "iostat -x 1, where the store runs, shows whether its disk is busy"),
    "second_durable": ("are of a second store beside one that is attached", "Stop one of the two: telefabric store"),
    "too_many_durables": ("are of more durable subscribers than a broker serves", "Stop one of them"),
    "control_full": ("are answers to a peer that does not read them", _STRANGERS),
}  # fmt: skip
"""Why a broker drops a message, what that means, and what to type."""
USUAL = frozenset(
    {"stale", "repeated", "unknown_stream", "unknown_durable", "control_unreachable", "nack_not_required"}
)
"""What a restart, a rewind or a peer that went leaves behind: nothing is lost by it."""
_NAMED_MAX = 3


def judge_streams(address: Address, status: Mapping[str, Any]) -> list[Finding]:
    """One row for what is well, or one for each hop at which streams are behind."""
    streams = status.get("streams", ())
    behind: dict[str, list[Mapping[str, Any]]] = {}
    for stream in streams:
        hop = WORKER if stream["state"] == "stalled" else stream["first_behind"]
        if hop is not None:
            behind.setdefault(hop, []).append(stream)
    if not behind:
        return [Finding("streams", OK, f"{counted(len(streams), 'stream')}, none behind.")] if streams else []
    return [_behind(address, hop, found, len(streams)) for hop, found in behind.items()]


def _behind(address: Address, hop: str, found: Sequence[Mapping[str, Any]], total: int) -> Finding:
    many = f"{len(found)} of {counted(total, 'stream')}"
    names = _names([f"{one['run_id']}/{one['worker_id']}" for one in found])
    hosts = _names(sorted({one["host"] or "its machine" for one in found}))
    if hop == WORKER:
        silent_s = max(one["silent_s"] for one in found)
        return Finding(
            "streams: worker", WARNING,
            f"Of {many} no word has come for up to {silent_s:.0f} s, their worker is stopped or gone: {names}.",
            f"On {hosts}: ps aux; for a worker that is gone: telefabric spool drain --connect {address.url}",
        )  # fmt: skip
    lacks = [row for one in found for row in map(Hop._make, one["hops"]) if row.name == hop and row.is_behind]
    for_s, events = max((row.behind_s for row in lacks), default=0.0), sum(row.behind for row in lacks)
    is_live = any(row.path == LIVE for row in lacks)
    remedy = f"iostat -x 1, where {hop} runs, shows whether its disk is busy; telefabric status shows it catch up"
    if hop == BROKER:
        remedy = f"telefabric doctor --connect {address.url}, on {hosts}, looks at the way from there"
    elif is_live:
        remedy = f"Close {hop}, or let it ask for less; nobody else waits for it"
    return Finding(
        f"streams: {hop}", WARNING,
        f"{many} behind at {hop}, by {counted(events, 'event')}, for up to {for_s:.0f} s: {names}.", remedy,
    )  # fmt: skip


def judge_worker_clocks(status: Mapping[str, Any]) -> Finding | None:
    """None when no worker has measured any."""
    measured = [one for one in status.get("streams", ()) if one["clock_offset_ms"] is not None]
    if not measured:
        return None
    off = max(measured, key=lambda one: abs(one["clock_offset_ms"]) - (one["round_trip_ms"] or 0) / 2)
    offset_ms, slowest_ms = off["clock_offset_ms"], max(one["round_trip_ms"] or 0.0 for one in measured)
    if abs(offset_ms) - (off["round_trip_ms"] or 0) / 2 > CLOCK_OFF_S * 1000:
        way = "ahead of" if offset_ms < 0 else "behind"
        return Finding(
            "worker clocks", WARNING,
            f"The clock of {off['worker_id']} is {abs(offset_ms) / 1000:.1f} s {way} the broker's: "
            "times of its runs look wrong, order does not.",
            f"sudo timedatectl set-ntp true, on {off['host'] or 'its machine'}",
        )  # fmt: skip
    if slowest_ms > ROUND_TRIP_SLOW_S * 1000:
        far = max(measured, key=lambda one: one["round_trip_ms"] or 0.0)
        return Finding(
            "worker clocks", WARNING, f"{far['worker_id']} hears the broker only after {slowest_ms:.0f} ms.",
            f"telefabric doctor --connect ADDRESS, on {far['host'] or 'its machine'}, looks at its way to the broker",
        )  # fmt: skip
    workers = len({one["worker_id"] for one in measured})
    return Finding(
        "worker clocks", OK,
        f"The clocks of {counted(workers, 'worker')} are within {abs(offset_ms):.1f} ms, "
        f"round trips within {slowest_ms:.1f} ms.",
    )  # fmt: skip


def judge_refusals(status: Mapping[str, Any]) -> list[Finding]:
    """One row for each reason that is not usual, or one that says there is none."""
    counts: dict[str, int] = {}
    for name in ("dropped", "live_dropped"):
        for reason, count in status.get(name, {}).items():
            counts[reason] = counts.get(reason, 0) + count
    usual = sum(count for reason, count in counts.items() if reason in USUAL)
    found = [_refused(reason, count) for reason, count in counts.items() if reason not in USUAL]
    if found:
        return found
    also = f", but {usual} from before a restart or of a peer that had gone" if usual else ""
    return [Finding("refusals", OK, f"The broker has refused no message{also}.")]


def _refused(reason: str, count: int) -> Finding:
    meaning, remedy = REFUSALS.get(reason, (f"were refused as {reason!r}", _UPDATE))
    return Finding(f"refusals: {reason}", WARNING, f"{count} messages since the broker's start {meaning}.", remedy)


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
