"""Asks a broker for its status and its other sockets."""

from __future__ import annotations

import socket
import time

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import Foreign, NotAdmitted, Unreachable, WireError
from telefabric.keys.handshake import is_refusal, why_not
from telefabric.peer.requests import Requests
from telefabric.wire import control

PATIENCE_S = 3.0
_KNOCK_S = 0.3
"""Time to find out whether any program listens there: the two cases have different remedies."""


def ask_status(address: Address, timeout_s: float = PATIENCE_S) -> control.StatusReply:
    """The broker's answer. Any thread; blocks for `timeout_s` at most, and `_KNOCK_S` more without an answer.

    Raises `Unreachable` when nobody answers, `Foreign` when what answers does not speak this protocol.
    """
    if address.host.startswith("["):
        raise Unreachable(
            f"{address.url} is an IPv6 address, and brokers serve IPv4 only: write 127.0.0.1 for this machine, or the "
            "IPv4 address or name of another one"
        )
    with Requests(address.url, "check the address", keys=address.keys) as asked:
        asked.send(control.encode(control.StatusRequest()))
        return _await_reply(asked, address, time.monotonic() + timeout_s)


def _await_reply(asked: Requests, address: Address, deadline_s: float) -> control.StatusReply:
    while (frames := asked.receive(deadline_s)) is not None:
        try:
            message = control.decode(frames[-1], limits.STATUS_BYTES_MAX)
        except WireError as error:
            raise Foreign(
                f"the program at {address.url} is not a broker of this version ({error}): check the address"
            ) from None
        if isinstance(message, control.StatusReply):
            return message
    if is_refusal(asked.handshake):
        raise NotAdmitted(why_not(asked.handshake, address.url, "this key" if address.keys else ""))
    if _listens(address):
        raise Unreachable(
            f"something listens at {address.url} and does not answer: it is frozen, or no broker: see telefabric doctor"
        )
    raise Unreachable(f"nobody answers at {address.url}: is the broker running there? Start one with: telefabric up")


def _listens(address: Address) -> bool:
    """Whether a TCP connection comes about, which a frozen process, or another program, lets happen."""
    try:
        socket.create_connection((address.host, address.port), _KNOCK_S).close()
    except (OSError, UnicodeError):
        return False
    return True
