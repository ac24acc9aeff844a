"""Sockets to which others come: those of the broker and of the query service."""

from __future__ import annotations

from typing import Any, NamedTuple

import zmq

from telefabric.address import DEFAULT, Address
from telefabric.errors import EnvironmentProblem
from telefabric.files.processes import listeners
from telefabric.peer.core.principal import LOCAL_USERS, Peer, Principal
from telefabric.peer.sockets import common_options, why

_BACKLOG = 1024
_HANDSHAKE_MS = 5_000
"""Whoever connects and says nothing is sent away after that."""


def listener(context: zmq.Context[Any], kind: int) -> zmq.Socket[Any]:
    """A socket that is to be bound, with the options and, one day, the keys of this side."""
    socket: zmq.Socket[Any] = context.socket(kind)
    common_options(socket)
    socket.set(zmq.BACKLOG, _BACKLOG)
    socket.set(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    return socket


def bind(socket: zmq.Socket[Any], wanted: Address) -> Address:
    """Bind, and say where; port 0 takes any free one. Raises `EnvironmentProblem` when it cannot be had."""
    try:
        socket.bind(f"tcp://{wanted.host}:{wanted.port or '*'}")
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            holder = listeners([wanted.port]).get(wanted.port)
            raise EnvironmentProblem(
                f"{wanted.url} is in use{f' by {holder}' if holder else ''}: is a broker running there already "
                "(telefabric status)? Stop it, or listen on another port with --listen (a store alone: --query)"
            ) from None
        raise EnvironmentProblem(
            f"cannot listen on {wanted.url}: {why(error)}: choose another address, such as {DEFAULT}"
        ) from None
    endpoint = socket.get_string(zmq.LAST_ENDPOINT).rstrip("\x00")
    return Address(wanted.host, int(endpoint.rpartition(":")[2]))


class Heard(NamedTuple):
    """A message of a peer."""

    peer: Peer
    frames: list[zmq.Frame]


def hear(router: zmq.Socket[Any]) -> Heard | None:
    """The next message, or None without one. This is where a message gets its principal."""
    try:
        routing_id, *frames = router.recv_multipart(zmq.DONTWAIT, copy=False)
    except zmq.Again:
        return None
    return Heard(Peer(routing_id.bytes, _principal(routing_id)), frames)


def _principal(frame: zmq.Frame) -> Principal:
    try:
        return Principal.of(str(frame.get("User-Id")))
    except zmq.ZMQError:  # nothing was asked who that is: there are no keys
        return LOCAL_USERS
