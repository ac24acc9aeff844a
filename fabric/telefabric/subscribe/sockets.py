"""The sockets of subscribers: control, and what the broker sends under their token."""

from __future__ import annotations

import time
from itertools import islice

import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import WireError
from telefabric.log.limit import library_logger
from telefabric.peer.connection import Connection
from telefabric.peer.core.silence import Stall
from telefabric.peer.own_socket import control_url
from telefabric.peer.sockets import receive
from telefabric.wire import control

log = library_logger("telefabric.subscribe")


class _TokenSockets(Connection):
    """Control DEALER, and the SUB that the token opens."""

    _data: zmq.Socket[bytes] | None = None

    def _listen(self, url: str, token: bytes, *, messages: int, buffer_bytes: int) -> None:
        """On a new socket: what an old one still holds is of the past."""
        if self._data is not None:
            self._drop(self._data)
        self._data = self._open(zmq.SUB)
        self._data.set(zmq.RCVHWM, messages)
        self._data.set(zmq.RCVBUF, buffer_bytes)
        self._data.subscribe(token)
        self._data.connect(url)

    def _receive(self) -> list[bytes] | None:
        """The frames of the next message that is here since the last `wait`, or None without one."""
        return receive(self._data) if self._data is not None and self._data in self._readable else None


class DurableSockets(_TokenSockets):
    """The sockets of a durable subscriber."""

    def __init__(self, address: Address) -> None:
        self.control_url = control_url(address)
        super().__init__(address, b"d", url=self.control_url)
        self.instance: bytes | None = None
        self.moved = False
        """Since it was dialled, the broker has made a socket for its own user."""
        self.stall = Stall()

    def subscribe(self, message: control.Attached) -> None:
        """Listen under its token. Raises `WireError` when it names no place to listen at."""
        url = self.address.resolve(message.endpoints.durable)
        self._listen(url, message.token, messages=limits.DURABLE_HWM, buffer_bytes=limits.SOCKET_BUFFER_BYTES)
        self.stall = Stall()
        self.instance = message.instance

    def silent(self, now_ns: int) -> bool:
        """The broker does not speak, or what it sends does not arrive."""
        return self.stall.too_long(now_ns) or super().silent(now_ns)

    def receive_data(self) -> bytes | None:
        frames = self._receive()
        if frames is None:
            return None
        self.stall.received()
        return frames[-1]

    def _unreadable(self, error: WireError) -> None:
        log.warning("durable.bad_control: %s", error)

    def _corrected(self, sentence: str) -> None:
        log.warning("durable.mistake: %s cannot use what it was sent: %s", self.address.url, sentence)

    def _full(self) -> None:
        log.warning("durable.control_full")


class WatchSockets(_TokenSockets):
    """The sockets of a live subscriber."""

    def __init__(self, address: Address) -> None:
        super().__init__(address, b"l", message_bytes_max=limits.STATUS_BYTES_MAX)
        self._token: bytes | None = None
        self._data_heard_ns = time.monotonic_ns()
        self._status_due_ns = 0

    def subscribe(self, message: control.Watching) -> bool:
        """Listen under the token; True when it is a new one. Raises `WireError` when it names no place to listen at."""
        if message.token == self._token:
            return False
        url = self.address.resolve(message.endpoints.watch or "")
        self._listen(url, message.token, messages=limits.LIVE_HWM, buffer_bytes=limits.LIVE_SOCKET_BYTES)
        self._token = message.token
        self._data_heard_ns = time.monotonic_ns()
        return True

    def receive_data(self) -> list[list[bytes]]:
        """The messages that are here now, at most as many as leave control its turn."""
        found = list(islice(iter(self._receive, None), limits.BATCHES_A_TURN))
        if found:
            self._data_heard_ns = time.monotonic_ns()
        return found

    def ask_status(self, now_ns: int, *, ask_now: bool, ask_s: float) -> None:
        """When it is due."""
        if now_ns >= self._status_due_ns or (
            ask_now and now_ns >= self._status_due_ns - int((ask_s - 0.1) * limits.NS)
        ):
            self._status_due_ns = now_ns + int(ask_s * limits.NS)
            self.send(control.StatusRequest())

    def silent(self, now_ns: int) -> bool:
        """Not even a tick arrives, either: a connection can break without a word, and WATCHING can be lost."""
        return now_ns - self._data_heard_ns > limits.LIVE_STUCK_S * limits.NS or super().silent(now_ns)

    def _unreadable(self, error: WireError) -> None:
        log.warning("live.bad_control: %s", error)

    def _corrected(self, sentence: str) -> None:
        log.warning("live.mistake: %s cannot use what it was sent: %s", self.address.url, sentence)

    def _full(self) -> None:
        log.debug("live.control_full")
