"""Verdicts on what a broker that answers does for this machine: stores, queries, the live path, clocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from telefabric.address import Address
from telefabric.doctor.absent import STORE, remedy
from telefabric.doctor.checks.ports import is_here
from telefabric.doctor.finding import OK, PROBLEM, WARNING, Finding, counted
from telefabric.wire import control

CLOCK_OFF_S = 1.0
ROUND_TRIP_SLOW_S = 0.25
"""Live is late by at least half of that, and a stream's credit covers that much less of a second."""
QUERY_SLOW_S = 1.0
_PROTOCOLS = re.compile(r"speaks protocol (\d+)")


class QuerySeen(NamedTuple):
    took_s: float | None
    """None when no answer came."""
    error: str = ""


class LiveSeen(NamedTuple):
    """A live subscription to no run at all: the broker sends it a tick each second."""

    tick_s: float | None
    """After so long one came; None when none did."""
    granted: bool = True
    refusal: str = ""


class ClockSeen(NamedTuple):
    offset_s: float
    """How far the broker's clock is ahead of this one, by the quickest of some round trips."""
    round_trip_s: float


def judge_store(
    address: Address, status: Mapping[str, Any], endpoints: control.Endpoints | None, holder: str = ""
) -> Finding:
    """`holder`: what to do about a process that holds the store's file though no store is attached."""
    absent = status.get("absent", [])
    if absent:
        nothing = "stored" if STORE in absent else "acknowledged"
        return Finding(
            "store", PROBLEM, f"Nothing is {nothing}: no {' and no '.join(absent)} is attached to the broker.",
            f"{remedy(address, absent, holder)}{_there(address)}",
        )  # fmt: skip
    names = ", ".join(one["name"] for one in status.get("durable", ()))
    if endpoints is None or endpoints.query is None:
        return Finding(
            "store", WARNING, f"{names} is attached, and nobody answers queries: clients see no history.",
            f"End the store, and start it anew: telefabric store --connect {address.url}{_there(address)}",
        )  # fmt: skip
    return Finding("store", OK, f"{names} is attached, with queries at {address.resolve(endpoints.query)}.")


def judge_quarantine(address: Address, status: Mapping[str, Any]) -> Finding | None:
    """None when all could be read."""
    events = max((one.get("quarantined_events", 0) for one in status.get("durable", ())), default=0)
    if not events:
        return None
    return Finding(
        "quarantine", WARNING,
        f"The store could not read {counted(events, 'event')} and keeps their bytes: damage, or another version.",
        f"telefabric dump --connect {address.url} --kind quarantine; pip install -U telefabric where the store runs",
    )  # fmt: skip


def judge_queries(address: Address, seen: QuerySeen | None) -> Finding:
    """`seen` is None when the answer did not come in time."""
    if seen is None or seen.took_s is None:
        why = f": {seen.error}" if seen and seen.error else " in time"
        return Finding(
            "queries", PROBLEM, f"The store does not answer a question{why}.",
            f"End the store, and start it anew: telefabric store --connect {address.url}{_there(address)}",
        )  # fmt: skip
    if seen.took_s > QUERY_SLOW_S:
        return Finding(
            "queries", WARNING, f"The store took {seen.took_s:.1f} s for its newest event: its disk is busy.",
            "iostat -x 1, where the store runs, shows whether its disk is",
        )  # fmt: skip
    return Finding("queries", OK, f"The store tells its newest event within {seen.took_s * 1000:.1f} ms.")


def judge_live(address: Address, seen: LiveSeen | None) -> Finding:
    if seen is None:
        seen = LiveSeen(None, granted=False)
    if found := _PROTOCOLS.search(seen.refusal):
        older = int(found[1]) > control.PROTOCOL
        return Finding(
            "live path", PROBLEM,
            f"The broker speaks protocol {found[1]}, this program {control.PROTOCOL}: neither workers nor clients of "
            f"this machine are served.",
            f"pip install -U telefabric, {'here' if older else 'where the broker runs, and start telefabric up anew'}",
        )  # fmt: skip
    if seen.refusal:
        return Finding(
            "live path", WARNING, f"The broker refuses a live subscriber: {seen.refusal}.",
            f"telefabric status --connect {address.url} shows who is subscribed",
        )  # fmt: skip
    if seen.tick_s is None:
        what = (
            "grants a live subscription, and nothing of it arrives" if seen.granted else "grants no live subscription"
        )
        return Finding(
            "live path", PROBLEM, f"The broker {what}: clients see nothing new.",
            f"Start telefabric up anew{_there(address)}; behind a tunnel or a proxy, that one too",
        )  # fmt: skip
    return Finding(
        "live path", OK, f"A live subscription was granted, and its first tick came after {seen.tick_s:.1f} s."
    )


def judge_clock(seen: ClockSeen | None) -> Finding:
    """`seen` is None when the broker did not answer."""
    if seen is None:
        return Finding(
            "clock", WARNING, "The broker did not answer a heartbeat, so clocks cannot be compared.",
            "telefabric doctor, again",
        )  # fmt: skip
    certain_s = abs(seen.offset_s) - seen.round_trip_s / 2
    if certain_s > CLOCK_OFF_S:
        way = "ahead of" if seen.offset_s < 0 else "behind"
        return Finding(
            "clock", WARNING,
            f"This machine's clock is {abs(seen.offset_s):.1f} s {way} the broker's: times look wrong, order does not.",
            "sudo timedatectl set-ntp true",
        )  # fmt: skip
    return Finding("clock", OK, f"The clock is within {_ms(abs(seen.offset_s))} of the broker's.")


def judge_round_trip(address: Address, seen: ClockSeen | None) -> Finding | None:
    """None when it was not measured."""
    if seen is None:
        return None
    if seen.round_trip_s > ROUND_TRIP_SLOW_S:
        return Finding(
            "round trip", WARNING,
            f"The broker answers after {_ms(seen.round_trip_s)} at best: what is live is late by as much.",
            f"ping {address.host}; a nearer machine, or a network with less on it, helps",
        )  # fmt: skip
    return Finding("round trip", OK, f"The broker answers within {_ms(seen.round_trip_s)}.")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _there(address: Address) -> str:
    return "" if is_here(address) else ", on the broker's machine"
