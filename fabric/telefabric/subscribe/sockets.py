"""The sockets of a live subscriber: control, and what the broker sends under the token."""

from __future__ import annotations

import os
import time

import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import WireError
from telefabric.log.limit import library_logger
from telefabric.peer.core.silence import Hearing
from telefabric.peer.sockets import common_options, receive, receive_some
from telefabric.wire import control

log = library_logger("telefabric.subscribe")

NS = 1_000_000_000


class WatchSockets:
    """Control DEALER, and the SUB that the token opens."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._context = zmq.Context()
        self._control = self._context.socket(zmq.DEALER)
        common_options(self._control)
        self._control.set(zmq.ROUTING_ID, b"l" + os.urandom(15))
        self._control.connect(address.url)
        self._data: zmq.Socket[bytes] | None = None
        self._token: bytes | None = None
        self._poller = zmq.Poller()
        self._poller.register(self._control, zmq.POLLIN)
        self._readable: set[object] = set()
        self._data_heard_ns = time.monotonic_ns()
        self._hearing = Hearing(self._data_heard_ns)
        self._beat_due_ns = 0
        self._status_due_ns = 0

    def subscribe(self, message: control.Watching) -> bool:
        """Listen under the token; True when it is a new one. Raises `WireError` when it names no place to listen at."""
        if message.token == self._token:
            return False
        url = self._address.resolve(message.endpoints.watch or "")
        if self._data is not None:
            self._poller.unregister(self._data)
            self._data.close(linger=0)
        data: zmq.Socket[bytes] = self._context.socket(zmq.SUB)
        common_options(data)
        data.set(zmq.RCVHWM, limits.LIVE_HWM)
        data.set(zmq.RCVBUF, limits.LIVE_SOCKET_BYTES)
        data.subscribe(message.token)
        data.connect(url)
        self._data, self._token = data, message.token
        self._data_heard_ns = time.monotonic_ns()
        self._poller.register(data, zmq.POLLIN)
        return True

    def wait(self, timeout_ms: int) -> None:
        self._readable = {socket for socket, _ in self._poller.poll(timeout_ms)}

    def receive_control(self, now_ns: int) -> list[control.Message]:
        messages: list[control.Message] = []
        for data in receive_some(self._control, self._readable, limits.CONTROL_A_TURN):
            self._hearing.heard(now_ns)
            try:
                messages.append(control.decode(data, limits.STATUS_BYTES_MAX))
            except WireError as error:
                log.warning("live.bad_control: %s", error)
        return messages

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

    def beat(self, beat: control.WatchBeat, now_ns: int, *, ask_now: bool, ask_s: float) -> bool:
        """Say what is due; True when a heartbeat was, once a second."""
        due = now_ns >= self._beat_due_ns
        if due:
            self._beat_due_ns = now_ns + int(limits.HEARTBEAT_S * NS)
            self._hearing.asked()
            self.send(beat)
        if now_ns >= self._status_due_ns or (ask_now and now_ns >= self._status_due_ns - int((ask_s - 0.1) * NS)):
            self._status_due_ns = now_ns + int(ask_s * NS)
            self.send(control.StatusRequest())
        return due

    def silent(self, now_ns: int) -> bool:
        return self._hearing.silent(now_ns)

    def stuck(self, now_ns: int) -> bool:
        """Not even a tick arrives: a connection can break without a word while control is well, or WATCHING be lost."""
        return now_ns - self._data_heard_ns > limits.LIVE_STUCK_S * NS

    def send(self, message: control.Message) -> None:
        try:
            self._control.send(control.encode(message), zmq.DONTWAIT)
        except zmq.Again:
            log.debug("live.control_full")

    def close(self, linger_ms: int) -> None:
        if self._data is not None:
            self._data.close(linger=0)
        self._control.close(linger=linger_ms)
        self._context.term()
