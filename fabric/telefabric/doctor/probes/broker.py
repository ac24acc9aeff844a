"""Looks at the broker at the address, as a worker or a client would meet it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from telefabric.address import Address
from telefabric.doctor.checks.broker import BrokerSeen
from telefabric.doctor.checks.ports import Answer, NameSeen
from telefabric.doctor.checks.service import ClockSeen, LiveSeen, QuerySeen
from telefabric.doctor.probes.listeners import free_base, listeners
from telefabric.doctor.probes.machine import look_at_port_range
from telefabric.doctor.probes.ports import look_at_port
from telefabric.errors import Foreign, StoreError, Unreachable, WireError
from telefabric.peer.core.clock import clock_of
from telefabric.peer.requests import Requests
from telefabric.peer.status_request import ask_status
from telefabric.store.read.remote_reader import RemoteReader
from telefabric.subscribe import LiveSubscription
from telefabric.wire import control

ASK_S = 1.5
LIVE_S = 3.0
"""Ticks come each second."""
_CLOCK_TRIES = 5


def look_at_broker(address: Address, name: NameSeen) -> BrokerSeen:
    """Find out which program is there. Takes five seconds at most."""
    if not name.addresses:
        return BrokerSeen(None)
    port = look_at_port(name.addresses[0], address.port)
    foreign = ""
    if port.answer is Answer.ZEROMQ:
        try:
            reply = ask_status(address, ASK_S)
        except Foreign as error:
            foreign = str(error.__context__ or error)
        except Unreachable:
            pass  # the verdict says so: it speaks ZeroMQ, and no more
        else:
            return BrokerSeen(reply.status, reply.endpoints, port)
    taken = listeners(address)
    free = None if taken is None else free_base(address.port, look_at_port_range())
    return BrokerSeen(None, port=port, foreign=foreign, taken=taken, free=free)


def ports_named(address: Address, endpoints: control.Endpoints) -> Mapping[str, Address]:
    """The broker's further sockets, by what they are for, as they are dialled from here."""
    named = {
        "data": endpoints.data, "live": endpoints.live, "durable": endpoints.durable, "queries": endpoints.query,
        "tap": endpoints.tap, "watch": endpoints.watch,
    }  # fmt: skip
    return {name: Address.parse(address.resolve(url)) for name, url in named.items() if url}


def look_at_queries(address: Address) -> QuerySeen:
    """How long the store takes for its newest event."""
    try:
        with RemoteReader(address, timeout_s=ASK_S) as reader:
            begun_s = time.monotonic()
            reader.newest(1)
            return QuerySeen(time.monotonic() - begun_s)
    except (StoreError, Unreachable) as error:
        return QuerySeen(None, str(error))


def look_at_live(address: Address) -> LiveSeen:
    """Subscribe to no run at all, and wait for a tick. `LIVE_S` at most."""
    begun_s = time.monotonic()
    with LiveSubscription(address, name="doctor", runs=()) as subscription:
        while (took_s := time.monotonic() - begun_s) < LIVE_S and not subscription.refusal:
            subscription.poll(0.05)
            if subscription.deliveries:
                return LiveSeen(took_s)
        return LiveSeen(None, subscription.granted is not None, subscription.refusal)


def look_at_clock(address: Address) -> ClockSeen | None:
    """Measured by the quickest of some round trips; None without an answer."""
    found: list[ClockSeen] = []
    with Requests(address.url, "check the address") as asked:
        for _ in range(_CLOCK_TRIES):
            asked.send(control.encode(control.Beat(time.monotonic_ns(), [])))
            frames = asked.receive(time.monotonic() + ASK_S)
            if frames is None:
                break
            now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
            try:
                message = control.decode(frames[-1])
            except WireError:
                break
            clock = clock_of(message, now_ns, wall_ns) if isinstance(message, control.Alive) else None
            if clock is not None:
                found.append(ClockSeen(clock.offset_ns / 1e9, clock.round_trip_ns / 1e9))
    return min(found, key=lambda seen: seen.round_trip_s, default=None)
