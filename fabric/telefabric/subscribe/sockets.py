"""The sockets of a live subscriber: control, and what the broker sends under the token."""

from __future__ import annotations

import time

import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import WireError
from telefabric.log.limit import library_logger
from telefabric.peer.connection import Connection
from telefabric.peer.sockets import receive
from telefabric.wire import control

log = library_logger("telefabric.subscribe")

NS = 1_000_000_000


class WatchSockets(Connection):
    """Control DEALER, and the SUB that the token opens."""

    def __init__(self, address: Address) -> None:
        super().__init__(address, b"l", message_bytes_max=limits.STATUS_BYTES_MAX)
        self._data: zmq.Socket[bytes] | None = None
        self._token: bytes | None = None
        self._data_heard_ns = time.monotonic_ns()
        self._status_due_ns = 0

    def subscribe(self, message: control.Watching) -> bool:
        """Listen under the token; True when it is a new one. Raises `WireError` when it names no place to listen at."""
        if message.token == self._token:
            return False
        url = self.address.resolve(message.endpoints.watch or "")
        if self._data is not None:
            self._drop(self._data)
        self._data = self._open(zmq.SUB)
        self._data.set(zmq.RCVHWM, limits.LIVE_HWM)
        self._data.set(zmq.RCVBUF, limits.LIVE_SOCKET_BYTES)
        self._data.subscribe(message.token)
        self._data.connect(url)
        self._token = message.token
        self._data_heard_ns = time.monotonic_ns()
        return True

    def receive_data(self) -> list[list[bytes]]:
        """What is here now, at most so much that control has its turn."""
        found: list[list[bytes]] = []
        while len(found) < limits.BATCHES_A_TURN and self._data in self._readable and self._data is not None:
            frames = receive(self._data)
            if frames is None:
                break
            found.append(frames)
        if found:
            self._data_heard_ns = time.monotonic_ns()
        return found

    def ask_status(self, now_ns: int, *, ask_now: bool, ask_s: float) -> None:
        """When it is due."""
        if now_ns >= self._status_due_ns or (ask_now and now_ns >= self._status_due_ns - int((ask_s - 0.1) * NS)):
            self._status_due_ns = now_ns + int(ask_s * NS)
            self.send(control.StatusRequest())

    def silent(self, now_ns: int) -> bool:
        """Not even a tick arrives, either: a connection can break without a word, and WATCHING can be lost."""
        return now_ns - self._data_heard_ns > limits.LIVE_STUCK_S * NS or super().silent(now_ns)

    def _unreadable(self, error: WireError) -> None:
        log.warning("live.bad_control: %s", error)

    def _corrected(self, sentence: str) -> None:
        log.warning("live.mistake: %s cannot use what it was sent: %s", self.address.url, sentence)

    def _full(self) -> None:
        log.debug("live.control_full")
