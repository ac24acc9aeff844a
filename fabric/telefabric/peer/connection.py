"""A program's connection to one broker: control, whatever else it opens, heartbeats, silence, the broker's clock.

Every socket with which a program goes to a broker or a store is made here, by `dial` or as one of a connection.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from typing import Any

import zmq

from telefabric import limits
from telefabric.address import Address, ClientKeys
from telefabric.errors import WireError
from telefabric.keys import saved_connections
from telefabric.keys.curve import as_client
from telefabric.keys.handshake import HandshakeMonitor, is_refusal, why_not
from telefabric.peer.core.clock import Clock, clock_of
from telefabric.peer.core.silence import Silence
from telefabric.peer.sockets import common_options, receive_some
from telefabric.wire import control

_MISTAKES_MAX = 32
"""Kinds of mistakes that are logged, each once."""


def dial(context: zmq.Context[Any], kind: int, keys: ClientKeys | None) -> zmq.Socket[Any]:
    """A socket that is to be connected, with the options and the keys of this side."""
    socket: zmq.Socket[Any] = context.socket(kind)
    common_options(socket)
    as_client(socket, keys)
    return socket


class Connection(ABC):
    """A connection to a broker, for one thread. A subclass opens further sockets and logs problems as its part does."""

    def __init__(
        self, address: Address, peer: bytes, *, url: str = "", message_bytes_max: int = limits.CONTROL_BYTES_MAX
    ) -> None:
        """`peer` is a letter with which the broker's logs tell the kinds of peers apart. `url` is that of the control
        socket, when it is another than the address."""
        self.address = address
        self.clock: Clock | None = None
        """The broker's, by its last answer to a heartbeat."""
        self._message_bytes_max = message_bytes_max
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._readable: set[object] = set()
        self._silence = Silence(time.monotonic_ns())
        self._mistakes: set[tuple[str, str | None, str | None]] = set()
        """Kinds of mistakes of this program that the broker has named."""
        self._beat_due_ns = 0
        self._control = self._open(zmq.DEALER)
        self._control.set(zmq.ROUTING_ID, peer + os.urandom(15))
        self._control.set(zmq.SNDHWM, limits.CONTROL_HWM)
        self._handshake = HandshakeMonitor(self._control, address.keys)
        self._control.connect(url or address.url)

    def wait(self, timeout_ms: int) -> None:
        """Until a socket can be read."""
        self._readable = {socket for socket, _ in self._poller.poll(timeout_ms)}

    def receive_control(self, now_ns: int) -> list[control.Message]:
        """Handle a message of the broker that is not about the connection itself."""
        messages: list[control.Message] = []
        for data in receive_some(self._control, self._readable, limits.CONTROL_A_TURN):
            self._silence.heard(now_ns)
            try:
                message = control.decode(data, self._message_bytes_max)
            except WireError as error:
                self._unreadable(error)
                continue
            if isinstance(message, control.Error):
                kind = (message.reason, message.about, message.field)
                if kind not in self._mistakes and len(self._mistakes) < _MISTAKES_MAX:
                    self._mistakes.add(kind)
                    self._corrected(message.message)
                continue
            if isinstance(message, control.Alive):
                self.clock = clock_of(message, now_ns, time.time_ns()) or self.clock
            if isinstance(message, control.NextKey) and self.address.keys is not None:
                saved_connections.follow(self.address.keys, message.public, message.at_s)
            messages.append(message)
        return messages

    def send(self, message: control.Message) -> None:
        """Lost when the broker does not read; whatever matters is said again."""
        try:
            self._control.send(control.encode(message), zmq.DONTWAIT)
        except zmq.Again:
            self._full()

    def beat_due(self, now_ns: int) -> bool:
        return now_ns >= self._beat_due_ns

    def beat(self, message: control.Message, now_ns: int) -> None:
        """A heartbeat, which the broker answers; the next is due a second later."""
        self._beat_due_ns = now_ns + int(limits.HEARTBEAT_S * limits.NS)
        self._silence.asked()
        self.send(message)

    def rest(self, wait_s: float, now_ns: int) -> None:
        """No heartbeat for so long: the broker has refused this side, and each would be one more mistake."""
        self._beat_due_ns = now_ns + int(wait_s * limits.NS)

    def silent(self, now_ns: int) -> bool:
        """The broker does not answer any more, or has refused this side: close this connection, and make another."""
        return self._silence.too_long(now_ns) or self._handshake.look().is_final

    @property
    def why_silent(self) -> str:
        """Why the broker does not answer, as far as the handshake tells: a sentence; empty when it came about."""
        last = self._handshake.look()
        shown = "this key" if self.address.keys else ""
        return why_not(last, self.address.url, shown) if is_refusal(last) else ""

    def close(self, linger_ms: int = 200) -> None:
        self._context.destroy(linger=linger_ms)

    def _open(self, kind: int) -> zmq.Socket[Any]:
        """A further socket, which `wait` looks at."""
        socket = dial(self._context, kind, self.address.keys)
        self._poller.register(socket, zmq.POLLIN)
        return socket

    def _drop(self, socket: zmq.Socket[Any]) -> None:
        """Close one of them, and what has come for it with it."""
        self._poller.unregister(socket)
        socket.close(linger=0)

    @abstractmethod
    def _unreadable(self, error: WireError) -> None:
        """A control message that cannot be read has come."""

    @abstractmethod
    def _corrected(self, sentence: str) -> None:
        """Log that the broker cannot use a message; each kind of mistake once."""

    @abstractmethod
    def _full(self) -> None:
        """A control message could not be sent."""
