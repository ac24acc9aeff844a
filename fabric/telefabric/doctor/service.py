"""Checks what an answering broker does for this machine: stores, queries, the live path, clocks."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from telefabric.address import Address
from telefabric.doctor.broker import ASK_S
from telefabric.doctor.finding import Finding, counted, say
from telefabric.doctor.streams import CLOCK_OFF_S, ROUND_TRIP_SLOW_S, STORE, remedy
from telefabric.errors import StoreError, Unreachable, WireError
from telefabric.keys import saved_connections
from telefabric.keys.core.roles import Domain, may_enter
from telefabric.keys.saved_connections import SavedConnection
from telefabric.peer.core.clock import Clock, clock_of
from telefabric.peer.requests import Requests
from telefabric.store.read.remote_reader import RemoteReader
from telefabric.subscribe import LiveSubscription
from telefabric.wire import control

LIVE_S = 3.0
"""Ticks come each second."""
_CLOCK_TRIES = 5
QUERY_SLOW_S = 1.0
_PROTOCOLS = re.compile(r"speaks protocol (\d+)")


class LiveSeen(NamedTuple):
    """A live subscription to no run at all: the broker sends it a tick each second."""

    tick_s: float | None
    """Time until the first tick came; None if none did."""
    granted: bool = True
    refusal: str = ""


# -- looks -------------------------------------------------------------------------------------------------------
def ports_named(address: Address, endpoints: control.Endpoints) -> dict[str, Address]:
    """The broker's further sockets, by what they are for, as they are dialled from here."""
    named = {
        "data": endpoints.data, "live": endpoints.live, "durable": endpoints.durable, "queries": endpoints.query,
        "tap": endpoints.tap, "watch": endpoints.watch,
    }  # fmt: skip
    # One that is named by a whole address is on the broker's machine alone: a tap beside keys.
    here = {name: url for name, url in named.items() if url and (name != "tap" or url.startswith("*"))}
    return {name: Address.parse(address.resolve(url)) for name, url in here.items()}


def look_at_queries(address: Address) -> float | str:
    """The seconds that the store takes for its newest event, or why no answer came."""
    try:
        with RemoteReader(address, timeout_s=ASK_S) as reader:
            begun_s = time.monotonic()
            reader.newest(1)
            return time.monotonic() - begun_s
    except (StoreError, Unreachable) as error:
        return str(error)


def look_at_live(address: Address) -> LiveSeen:
    """Subscribe to no run at all, and wait for a tick. `LIVE_S` at most."""
    begun_s = time.monotonic()
    with LiveSubscription(address, name="doctor", runs=()) as subscription:
        while (took_s := time.monotonic() - begun_s) < LIVE_S and not subscription.refusal:
            subscription.poll(0.05)
            if subscription.deliveries:
                return LiveSeen(took_s)
        return LiveSeen(None, subscription.granted is not None, subscription.refusal)


def look_at_key(address: Address) -> SavedConnection | None:
    """The key with which the broker is asked; None without one."""
    name = saved_connections.at(address.keys.public) if address.keys else None
    return saved_connections.load(name) if name else None


def look_at_clock(address: Address) -> Clock | None:
    """Measured by the quickest of some round trips; None without an answer."""
    found: list[Clock] = []
    with Requests(address.url, "check the address", keys=address.keys) as asked, suppress(WireError):
        for _ in range(_CLOCK_TRIES):
            asked.send(control.encode(control.Beat(time.monotonic_ns(), [])))
            frames = asked.receive(time.monotonic() + ASK_S)
            if frames is None:
                break
            now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
            message = control.decode(frames[-1])
            clock = clock_of(message, now_ns, wall_ns) if isinstance(message, control.Alive) else None
            if clock is not None:
                found.append(clock)
    return min(found, key=lambda clock: clock.round_trip_ns, default=None)


# -- verdicts ----------------------------------------------------------------------------------------------------
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


def judge_queries(address: Address, seen: float | str | None) -> Finding:
    """`seen` is None when the answer did not come in time."""
    if isinstance(seen, float):
        return say("queries", "slow" if seen > QUERY_SLOW_S else "fine", s=seen, ms=seen * 1000)
    why = f": {seen}" if seen else " in time"
    return say("queries", "none", why=why, address=address, there=_there(address))


def judge_key(key: SavedConnection | None) -> Finding | None:
    """None without one. What a role may not do is not looked at."""
    if key is None:
        return None
    return say("key", "reads" if may_enter(key.role, Domain.QUERY) else "does not read", key=key)


def judge_live(address: Address, seen: LiveSeen | None) -> Finding:
    """`seen` is None when the broker did not even refuse."""
    seen = seen or LiveSeen(None, granted=False)
    protocols = _PROTOCOLS.search(seen.refusal)
    theirs = int(protocols[1]) if protocols else 0
    if protocols:
        what = "newer" if theirs > control.PROTOCOL else "older"
    elif seen.refusal:
        what = "refused"
    else:
        what = "fine" if seen.tick_s is not None else "no tick" if seen.granted else "not granted"
    return say(
        "live path", what, seen=seen, theirs=theirs, ours=control.PROTOCOL, address=address, there=_there(address)
    )


def judge_clock(address: Address, seen: Clock | None) -> list[Finding]:
    """Clock and round trip. `seen` is None when the broker did not answer."""
    if seen is None:
        return [say("clock", "unknown")]
    off_ns, way = abs(seen.offset_ns), "ahead of" if seen.offset_ns < 0 else "behind"
    clock = "off" if off_ns - seen.round_trip_ns / 2 > CLOCK_OFF_S * 1e9 else "fine"
    trip = "slow" if seen.round_trip_ns > ROUND_TRIP_SLOW_S * 1e9 else "fine"
    return [
        say("clock", clock, off_s=off_ns / 1e9, off_ms=off_ns / 1e6, way=way),
        say("round trip", trip, ms=seen.round_trip_ns / 1e6, address=address),
    ]


def _there(address: Address) -> str:
    return "" if address.is_here else ", on the broker's machine"
