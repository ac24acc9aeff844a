"""Sockets to which others come: those of the broker and of the query service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import zmq

from telefabric import limits
from telefabric.address import DEFAULT, Address
from telefabric.errors import EnvironmentProblem
from telefabric.files.processes import listeners, when_port_is_free
from telefabric.keys.core.roles import Domain
from telefabric.keys.gate import Gate
from telefabric.peer.core.principal import LOCAL_USERS, Peer, Principal
from telefabric.peer.own_socket import is_of_own_user
from telefabric.peer.sockets import common_options, waiting, why

_BACKLOG = 1024
_HANDSHAKE_MS = 5_000
"""Whoever connects and says nothing is sent away after that."""


class Guard(NamedTuple):
    """Finds the principal behind a message at one socket: the gate knows it; without keys it is `LOCAL_USERS`, or at
    the socket for the broker's own user that one."""

    gate: Gate | None
    domain: Domain
    own_user: Principal | None = None
    """At the socket for the broker's own user."""

    def principal_of(self, frame: zmq.Frame) -> Principal | None:
        """None for somebody who is not admitted any more."""
        if self.gate is None:
            return self.own_user if self.own_user and is_of_own_user(frame) else LOCAL_USERS
        key = self.gate.key_of(frame, self.domain)
        return None if key is None else Principal(key.name, key.role, key.runs)

    def sender_of(self, frames: list[zmq.Frame]) -> Principal | None:
        """Of a message; None also for one beyond what its key may send in a second."""
        principal = self.principal_of(frames[0])
        if principal is None or self.gate is None:
            return principal
        return principal if self.gate.takes(principal.name, self.domain, sum(map(len, frames))) else None


def listener(context: zmq.Context[Any], kind: int, guard: Guard | None = None) -> zmq.Socket[Any]:
    """A socket that is to be bound, with the options and the keys of this side."""
    socket: zmq.Socket[Any] = context.socket(kind)
    common_options(socket)
    socket.set(zmq.BACKLOG, _BACKLOG)
    socket.set(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    if guard is not None and guard.gate is not None:
        guard.gate.protect(socket, guard.domain)
    return socket


def bind(socket: zmq.Socket[Any], wanted: Address) -> Address:
    """Bind, and say where; port 0 takes any free one. Raises `EnvironmentProblem` when it cannot be had.

    Somebody else has `limits.LET_GO_S` to let go of the port.
    """
    try:
        when_port_is_free(lambda: socket.bind(f"tcp://{wanted.host}:{wanted.port or '*'}"))
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


def hear(router: zmq.Socket[Any], guard: Guard) -> Heard | None:
    """The next message, or None without one. This is where a message gets its principal."""
    for _ in range(limits.CONTROL_A_TURN):  # a flood of what is refused must not keep the loop from cutting it off
        try:
            frames = router.recv_multipart(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return None
        principal = guard.sender_of(frames)
        if principal is not None:
            return Heard(Peer(frames[0].bytes, principal), frames[1:])
    return None


def published(subscriber: zmq.Socket[Any], guard: Guard, most: int) -> Iterator[tuple[Principal, list[bytes]]]:
    """The frames of each waiting message of a SUB, and whose it is, up to a limit."""
    if guard.gate is None:
        for frames in waiting(subscriber, most):
            yield LOCAL_USERS, frames
        return
    for _ in range(most):
        try:
            parts = subscriber.recv_multipart(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return
        principal = guard.sender_of(parts)
        if principal is not None:
            yield principal, [part.bytes for part in parts]
