"""The sockets of the broker: their ports above its own, their options, and what subscribers say to them."""

from __future__ import annotations

import os
import socket as system
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.broker.pipes import descriptor_of
from telefabric.errors import EnvironmentProblem
from telefabric.files import private
from telefabric.keys.core.roles import Domain, Role
from telefabric.keys.entrance import Entrance
from telefabric.keys.gate import Gate
from telefabric.keys.key_folder import OFFSET_ENROL
from telefabric.peer.core.principal import Principal
from telefabric.peer.listener import Guard, bind, listener
from telefabric.peer.own_socket import path_for

_JOINS_HWM = 4
Blame = Callable[[Principal, str, Domain], None]
"""Counts a reason under the name of a key."""
SUBSCRIBE, UNSUBSCRIBE = b"\x01", b"\x00"


class Plan(NamedTuple):
    domain: Domain | None
    """Of ZAP; None for a socket that is for everybody on this machine."""
    kind: int
    offset: int
    """Of its port to that of the broker."""
    options: Mapping[int, int]


_SUBSCRIPTIONS: Mapping[int, int] = {
    zmq.RCVHWM: limits.SUBSCRIPTIONS_HWM, zmq.MAXMSGSIZE: limits.SUBSCRIPTION_BYTES_MAX,
}  # fmt: skip
_TOKENS: Mapping[int, int] = {
    **_SUBSCRIPTIONS, zmq.MAXMSGSIZE: limits.TOKEN_SUBSCRIPTION_BYTES_MAX, zmq.XPUB_MANUAL: 1, zmq.XPUB_NODROP: 1,
}  # fmt: skip
"""Only subscriptions to a token that was issued are entered, and one that does not read stops no other."""
_CLIENTS: Mapping[int, int] = {zmq.SNDHWM: limits.LIVE_HWM, zmq.SNDBUF: limits.LIVE_SOCKET_BYTES}
CONTROL = Plan(Domain.CONTROL, zmq.ROUTER, 0, {
    zmq.ROUTER_MANDATORY: 1, zmq.ROUTER_HANDOVER: 1, zmq.SNDHWM: limits.CONTROL_HWM,
    zmq.RCVHWM: limits.CONTROL_RECEIVE_HWM, zmq.MAXMSGSIZE: limits.CONTROL_BYTES_MAX + limits.OVERSIZED_BYTES,
})  # fmt: skip
_BATCHES: Mapping[int, int] = {zmq.MAXMSGSIZE: limits.MESSAGE_BYTES_MAX + limits.OVERSIZED_BYTES}
DATA = Plan(Domain.DATA, zmq.SUB, 1, {**_BATCHES, zmq.RCVHWM: limits.DATA_HWM})
LIVE = Plan(Domain.LIVE, zmq.SUB, 2, {**_BATCHES, zmq.RCVHWM: limits.LIVE_WORKERS_HWM})
DURABLE = Plan(Domain.DURABLE, zmq.XPUB, 3, {**_TOKENS, zmq.SNDHWM: limits.DURABLE_HWM})
TAP = Plan(None, zmq.XPUB, 5, {**_SUBSCRIPTIONS, **_CLIENTS, zmq.SNDHWM: limits.TAP_HWM})
WATCH = Plan(Domain.WATCH, zmq.XPUB, 6, {**_TOKENS, **_CLIENTS})
ENROL = Plan(Domain.ENROL, zmq.ROUTER, OFFSET_ENROL, {
    zmq.ROUTER_MANDATORY: 1, zmq.MAXMSGSIZE: 2 * limits.JOIN_BYTES_MAX, zmq.SNDHWM: _JOINS_HWM, zmq.RCVHWM: _JOINS_HWM,
})  # fmt: skip


class Opened(NamedTuple):
    """A bound socket."""

    socket: zmq.Socket[Any]
    guard: Guard
    address: Address | None
    """None for one that is not bound."""


def opened(context: zmq.Context[Any], plan: Plan, listen: Address | None, entrance: Entrance) -> Opened:
    """Raises as `bind` does."""
    gate = entrance if isinstance(entrance, Gate) and plan.domain else None
    guard = Guard(gate, plan.domain or Domain.CONTROL)
    socket = _made(context, plan, guard)
    if gate is None:
        entrance.watch(socket, plan.domain or "tap")
    return Opened(socket, guard, bind(socket, listen.beside(plan.offset)) if listen else None)


def _made(context: zmq.Context[Any], plan: Plan, guard: Guard) -> zmq.Socket[Any]:
    socket = listener(context, plan.kind, guard)
    for option, value in plan.options.items():
        keys_need = limits.HANDSHAKE_BYTES_MAX if guard.gate and option == zmq.MAXMSGSIZE else 0
        socket.set(option, max(value, keys_need))
    return socket


class OwnUserSocket:
    """A second control socket, for the user of this process. Binds on construction, which raises `EnvironmentProblem`.

    A file that is there already was left by a broker that was killed: another one would have the port.
    """

    def __init__(self, context: zmq.Context[Any], address: Address) -> None:
        self.guard = Guard(None, Domain.CONTROL, own_user=Principal(_user_name(), Role.BROKERS_USER))
        self.socket = _made(context, CONTROL, self.guard)
        self._path = path_for(address)
        self._bind()

    def _bind(self) -> None:
        try:
            if not private.make_own_folder(self._path.parent):
                raise EnvironmentProblem(
                    f"{self._path.parent} belongs to another user: name another folder with TELEFABRIC_RING"
                )
            self.socket.bind(self._url)
        except (OSError, zmq.ZMQError) as error:
            raise EnvironmentProblem(
                f"no socket can be made in {self._path.parent}: {error}: name another folder with TELEFABRIC_RING"
            ) from None

    @property
    def _url(self) -> str:
        return f"ipc://{self._path}"

    def tend(self) -> None:
        """Make the file again when somebody has removed it: a system empties such folders now and then."""
        if not self._path.exists():
            self.socket.unbind(self._url)
            self._bind()

    def remove(self) -> None:
        """libzmq leaves the file. Call it while the port is still this broker's."""
        self._path.unlink(missing_ok=True)


def _user_name() -> str:
    import pwd  # not on Windows

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # of a container
        return f"user {os.getuid()}"


def subscriptions(publisher: zmq.Socket[Any]) -> Iterator[tuple[bytes, bytes, zmq.Frame]]:
    """What subscribers say to an XPUB, up to the limit of a turn: a wish, its topic, and both as they came."""
    for _ in range(limits.CONTROL_A_TURN):
        try:
            frame = publisher.recv_multipart(zmq.DONTWAIT, copy=False)[-1]
        except zmq.Again:
            return
        yield frame.bytes[:1], frame.bytes[1:], frame


class HarmfulPeers:
    """Peers whose subscriptions lead nowhere.

    libzmq keeps each subscription of each connection, also those that are not entered: 14 kB for a long one. It has no
    way to part with one peer of a bound socket, but it tells over which file descriptor a message came. A descriptor
    that is used again inherits a count: its new owner connects once more.
    """

    def __init__(self) -> None:
        self._leading_nowhere: Counter[int] = Counter()

    def count(self, frame: zmq.Frame) -> None:
        """A subscription that leads nowhere: after too many its connection is closed, and libzmq forgets them all."""
        descriptor = descriptor_of(frame)
        if descriptor is None:
            return
        self._leading_nowhere[descriptor] += 1
        if self._leading_nowhere[descriptor] > limits.SUBSCRIPTIONS_NOWHERE_MAX:
            del self._leading_nowhere[descriptor]
            with suppress(OSError), system.fromfd(descriptor, system.AF_INET, system.SOCK_STREAM) as connection:
                connection.shutdown(system.SHUT_RDWR)  # unless it has gone by itself


class Tokens:
    """The subscriptions to tokens at one socket. `nonsense` is the reason for which anything else is dropped."""

    def __init__(self, publisher: zmq.Socket[Any], guard: Guard, *, nonsense: str) -> None:
        self._publisher = publisher
        self._guard = guard
        self._nonsense = nonsense
        self._harmful = HarmfulPeers()

    def enter(self, issued: Container[bytes], dropped: Counter[str], blame: Blame) -> Iterator[bytes]:
        """The tokens that were subscribed to now. A stranger's subscription is left out and hears nothing.

        Who unsubscribes goes: it stops its heartbeats, and what it misses it asks for again.
        """
        for wish, token, frame in subscriptions(self._publisher):
            principal = None if wish == UNSUBSCRIBE else self._guard.principal_of(frame)
            if principal is None:
                continue
            if wish == SUBSCRIBE and token in issued:
                self._publisher.set(zmq.SUBSCRIBE, token)
                yield token
            else:
                reason = "unknown_token" if wish == SUBSCRIBE else self._nonsense
                dropped[reason] += 1
                blame(principal, reason, self._guard.domain)
                self._harmful.count(frame)
