"""Asks one endpoint questions, and waits for the answers."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

import zmq

from telefabric import limits
from telefabric.address import Address, ClientKeys
from telefabric.errors import Foreign, NotAdmitted, Unreachable, WireError
from telefabric.keys.handshake import Handshake, HandshakeMonitor, is_refusal, why_not
from telefabric.peer.connection import dial
from telefabric.peer.sockets import why
from telefabric.wire import control

PATIENCE_S = 3.0
_KNOCK_S = 0.3
"""Time to find out whether any program listens there: the two cases have different remedies."""

_LOOK_MS = 100
"""How often a wait looks whether this side was refused."""


class Requests:
    """A DEALER of its own; close it. Raises `Unreachable`, with the remedy, for an endpoint that cannot be one."""

    def __init__(
        self,
        url: str,
        remedy: str,
        *,
        keys: ClientKeys | None = None,
        reply_bytes_max: int = limits.MESSAGE_BYTES_MAX,
    ) -> None:
        self._context = zmq.Context()
        self._socket = dial(self._context, zmq.DEALER, keys)
        self._handshake = HandshakeMonitor(self._socket, keys)
        self._socket.set(zmq.MAXMSGSIZE, reply_bytes_max)
        self._sent: tuple[bytes, ...] = ()
        self._connections = 0
        try:
            self._socket.connect(url)
        except zmq.ZMQError as error:
            self.close()
            raise Unreachable(f"{url} cannot be reached: {why(error)}: {remedy}") from None

    def send(self, *frames: bytes) -> None:
        """Lost, as any question can be, when the other side has refused this one."""
        self._sent = frames
        with suppress(zmq.Again):
            self._socket.send_multipart(frames, zmq.DONTWAIT)

    def receive(self, deadline_s: float) -> list[bytes] | None:
        """The next reply to any request; None if none comes by `deadline_s` of the monotonic clock, or none can."""
        while (left_s := deadline_s - time.monotonic()) > 0 and not self.handshake.is_final:
            self._repeat_when_reconnected()
            if self._socket.poll(min(int(left_s * 1000) + 1, _LOOK_MS)):
                return self._socket.recv_multipart()
        return None

    def _repeat_when_reconnected(self) -> None:
        """Repeat the last request when its connection was cut.

        The other side has started again, or a key ended there and that cuts all connections on which nobody was heard.
        """
        before, self._connections = self._connections, self._handshake.made
        if self._connections > max(before, 1):
            self.send(*self._sent)

    @property
    def handshake(self) -> Handshake:
        """What became of it, which tells why no reply comes."""
        return self._handshake.look()

    def close(self) -> None:
        self._context.destroy(linger=0)

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def ask_status(address: Address, timeout_s: float = PATIENCE_S) -> control.StatusReply:
    """The broker's answer. Any thread; blocks for `timeout_s` at most, and `_KNOCK_S` more without an answer.

    Raises `Unreachable` when nobody answers, `Foreign` when what answers does not speak this protocol,
    and `NotAdmitted` when the broker does not let this side in.
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
    raise unanswered(asked.handshake, address)


def unanswered(handshake: Handshake, address: Address) -> Unreachable:
    """Why no broker answers there, and the remedy."""
    if is_refusal(handshake):
        return NotAdmitted(why_not(handshake, address.url, "this key" if address.keys else ""), handshake.name)
    if _listens(address):
        return Unreachable(
            f"something listens at {address.url} and does not answer: it is frozen, or no broker: see telefabric doctor"
        )
    return Unreachable(nobody_at(address))


def nobody_at(address: Address) -> str:
    """The sentence for an address at which nothing listens."""
    if address.keys or not address.is_here:  # most likely on another machine, where this one starts nothing
        return why_not(Handshake.NOBODY, address.url, "")
    return f"nobody answers at {address.url}: is the broker running there? Start one with: {address.up}"


def _listens(address: Address) -> bool:
    """Whether a TCP connection comes about, which a frozen process, or another program, lets happen."""
    try:
        socket.create_connection((address.host, address.port), _KNOCK_S).close()
    except (OSError, UnicodeError):
        return False
    return True
