"""Verdicts on what a broker that answers does for this machine: stores, queries, the live path, clocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from telefabric.address import Address
from telefabric.doctor.absent import STORE, remedy
from telefabric.doctor.checks.ports import is_here
from telefabric.doctor.finding import Finding, counted, say
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
    """Time until the first tick came; None if none did."""
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
        todo, there = remedy(address, absent, holder), _there(address)
        return say("store", "absent", nothing=nothing, absent=" and no ".join(absent), remedy=todo, there=there)
    names = ", ".join(one["name"] for one in status.get("durable", ()))
    if endpoints is None or endpoints.query is None:
        return say("store", "no queries", names=names, address=address, there=_there(address))
    return say("store", "fine", names=names, queries=address.resolve(endpoints.query))


def judge_quarantine(address: Address, status: Mapping[str, Any]) -> Finding | None:
    """None when all could be read."""
    events = max((one.get("quarantined_events", 0) for one in status.get("durable", ())), default=0)
    return say("quarantine", "some", events=counted(events, "event"), address=address) if events else None


def judge_queries(address: Address, seen: QuerySeen | None) -> Finding:
    """`seen` is None when the answer did not come in time."""
    if seen is None or seen.took_s is None:
        why = f": {seen.error}" if seen and seen.error else " in time"
        return say("queries", "none", why=why, address=address, there=_there(address))
    return say("queries", "slow" if seen.took_s > QUERY_SLOW_S else "fine", s=seen.took_s, ms=seen.took_s * 1000)


def judge_live(address: Address, seen: LiveSeen | None) -> Finding:
    if seen is None:
        seen = LiveSeen(None, granted=False)
    if found := _PROTOCOLS.search(seen.refusal):
        what = "newer" if int(found[1]) > control.PROTOCOL else "older"
        return say("live path", what, theirs=found[1], ours=control.PROTOCOL)
    if seen.refusal:
        what = "refused"
    else:
        what = "fine" if seen.tick_s is not None else "no tick" if seen.granted else "not granted"
    return say("live path", what, seen=seen, address=address, there=_there(address))


def judge_clock(seen: ClockSeen | None) -> Finding:
    """`seen` is None when the broker did not answer."""
    if seen is None:
        return say("clock", "unknown")
    off_s, way = abs(seen.offset_s), "ahead of" if seen.offset_s < 0 else "behind"
    what = "off" if off_s - seen.round_trip_s / 2 > CLOCK_OFF_S else "fine"
    return say("clock", what, off_s=off_s, off_ms=off_s * 1000, way=way)


def judge_round_trip(address: Address, seen: ClockSeen | None) -> Finding | None:
    """None when it was not measured."""
    if seen is None:
        return None
    what = "slow" if seen.round_trip_s > ROUND_TRIP_SLOW_S else "fine"
    return say("round trip", what, ms=seen.round_trip_s * 1000, address=address)


def _there(address: Address) -> str:
    return "" if is_here(address) else ", on the broker's machine"
