"""Looks at the broker at the address."""

from __future__ import annotations

import socket
import time

import zmq

from telefabric.address import Address
from telefabric.cli.doctor.looks.listeners import listeners
from telefabric.cli.doctor.verdicts.broker import BrokerSeen
from telefabric.errors import Unreachable, WireError
from telefabric.inquiry import ask_status
from telefabric.transport import common_options
from telefabric.wire import control

_ASK_S = 1.5
_CLOCK_TRIES = 5


def look_at_broker(address: Address) -> BrokerSeen:
    if not _refuses(address):
        try:
            reply = ask_status(address, _ASK_S)
        except Unreachable:
            pass  # what does answer there is told below
        else:
            return BrokerSeen(reply.status, reply.endpoints.query)
    return BrokerSeen(None, taken=listeners(address))


def _refuses(address: Address) -> bool:
    """Nobody listens there, which need not be waited for."""
    try:
        with socket.create_connection((address.host.strip("[]"), address.port), _ASK_S):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False  # a name or a network that may answer yet


def look_at_clock(address: Address) -> float | None:
    """Seconds that the broker's clock is ahead of this one, by the quickest of some round trips."""
    found: list[tuple[int, float]] = []
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        common_options(dealer)
        dealer.connect(address.url)
        for _ in range(_CLOCK_TRIES):
            dealer.send(control.encode(control.Beat(time.monotonic_ns(), [])))
            if not dealer.poll(int(_ASK_S * 1000)):
                break
            now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
            try:
                message = control.decode(dealer.recv_multipart()[-1])
            except WireError:
                break
            if isinstance(message, control.Alive):
                round_trip_ns = now_ns - message.echo_ns
                found.append((round_trip_ns, (message.broker_ns - wall_ns + round_trip_ns // 2) / 1e9))
    return min(found)[1] if found else None
