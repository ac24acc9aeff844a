"""Asking a broker how it stands, and where its other sockets are."""

from __future__ import annotations

import time

import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import Foreign, Unreachable, WireError
from telefabric.transport import common_options, why
from telefabric.wire import control

PATIENCE_S = 3.0


def ask_status(address: Address, timeout_s: float = PATIENCE_S) -> control.StatusReply:
    """The broker's answer. Any thread; blocks for `timeout_s` at most.

    Raises `Unreachable` when nobody answers, `Foreign` when what answers does not speak this protocol.
    """
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        common_options(socket)
        socket.set(zmq.MAXMSGSIZE, limits.MESSAGE_BYTES_MAX)
        try:
            socket.connect(address.url)
        except zmq.ZMQError as error:
            raise Unreachable(f"{address.url} cannot be reached: {why(error)}: check the address") from None
        socket.send(control.encode(control.StatusRequest()))
        return _await_reply(socket, address, time.monotonic() + timeout_s)


def _await_reply(socket: zmq.Socket[bytes], address: Address, deadline: float) -> control.StatusReply:
    while (left := deadline - time.monotonic()) > 0 and socket.poll(int(left * 1000) + 1):
        try:
            message = control.decode(socket.recv_multipart()[-1], limits.STATUS_BYTES_MAX)
        except WireError as error:
            raise Foreign(
                f"what answers at {address.url} is no broker of this version ({error}): check the address"
            ) from None
        if isinstance(message, control.StatusReply):
            return message
    raise Unreachable(f"nobody answers at {address.url}: is the broker running there? Start one with: telefabric up")
