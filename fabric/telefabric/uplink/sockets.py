"""A link's sockets: control, data and live, with the options that were measured to matter."""

from __future__ import annotations

import os

import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import WireError
from telefabric.log.limit import library_logger
from telefabric.peer.sockets import common_options, receive_some, send_frames
from telefabric.wire import control

log = library_logger("telefabric.link")

_SUBSCRIBED = 1


class Sockets:
    """Control DEALER, data XPUB and live XPUB, with the options that were measured to matter."""

    def __init__(self, address: Address) -> None:
        self._context = zmq.Context()
        self._control = self._context.socket(zmq.DEALER)
        self._data = self._new_data()
        self._live = self._new_live()
        self._data_url: str | None = None
        self._live_url: str | None = None
        self.watched: set[bytes] = set()
        """Topic prefixes that the broker subscribed to on the live socket."""
        self.watched_changed = False
        self.subscribed = False
        """The broker listens on the data socket. A PUB socket would send into the void without knowing."""
        common_options(self._control)
        self._control.set(zmq.ROUTING_ID, b"w" + os.urandom(15))
        self._control.set(zmq.SNDHWM, limits.CONTROL_HWM)
        self._control.connect(address.url)
        self._readable: set[object] = set()
        self._poller = zmq.Poller()
        self._poller.register(self._control, zmq.POLLIN)
        self._poller.register(self._data, zmq.POLLIN)
        self._poller.register(self._live, zmq.POLLIN)

    def connect_data(self, url: str) -> None:
        if url == self._data_url:
            return
        if self._data_url is not None:
            self._data.disconnect(self._data_url)
            self.subscribed = False
        self._data_url = url
        self._data.connect(url)

    @property
    def unheard(self) -> bool:
        """The data socket was told where to connect, and the broker does not listen there, as far as it knows."""
        return self._data_url is not None and not self.subscribed

    def renew_data(self) -> None:
        """A new data connection, in the place of one on which nothing gets across although control is well."""
        assert self._data_url is not None
        self._poller.unregister(self._data)
        self._data.close(linger=0)
        self._data = self._new_data()
        self._poller.register(self._data, zmq.POLLIN)
        self.subscribed = False
        self._data.connect(self._data_url)

    def _new_data(self) -> zmq.Socket[bytes]:
        return self._new_publisher(limits.DATA_HWM, limits.SOCKET_BUFFER_BYTES)

    def renew_live(self) -> None:
        """A new live connection; who watches is heard on it again."""
        assert self._live_url is not None
        self._poller.unregister(self._live)
        self._live.close(linger=0)
        self._live = self._new_live()
        self._poller.register(self._live, zmq.POLLIN)
        self.watched.clear()
        self.watched_changed = True
        self._live.connect(self._live_url)

    def _new_live(self) -> zmq.Socket[bytes]:
        return self._new_publisher(limits.LIVE_HWM, limits.LIVE_SOCKET_BYTES)

    def _new_publisher(self, messages: int, buffer_bytes: int) -> zmq.Socket[bytes]:
        publisher = self._context.socket(zmq.XPUB)
        common_options(publisher)
        publisher.set(zmq.MAXMSGSIZE, 2 * limits.SUBSCRIPTION_BYTES_MAX)
        publisher.set(zmq.RCVHWM, limits.SUBSCRIPTIONS_HWM)
        publisher.set(zmq.SNDHWM, messages)
        publisher.set(zmq.SNDBUF, buffer_bytes)
        publisher.set(zmq.IMMEDIATE, 1)
        publisher.set(zmq.XPUB_NODROP, 1)
        return publisher

    def connect_live(self, url: str) -> None:
        if url == self._live_url:
            return
        if self._live_url is not None:
            self._live.disconnect(self._live_url)
        self._live_url = url
        self._live.connect(url)

    def wait(self, timeout_ms: int) -> None:
        self._readable = {socket for socket, _ in self._poller.poll(timeout_ms)}

    def receive(self) -> list[control.Message]:
        """All control messages that are here, and whether the data socket is heard."""
        for subscription in receive_some(self._data, self._readable, limits.CONTROL_A_TURN):
            self.subscribed = subscription[:1] == bytes([_SUBSCRIBED])
        for wish in receive_some(self._live, self._readable, limits.CONTROL_A_TURN):
            if wish[:1] == bytes([_SUBSCRIBED]):
                if len(self.watched) < limits.WATCHED_TOPICS_MAX:
                    self.watched.add(wish[1:])
            else:
                self.watched.discard(wish[1:])
            self.watched_changed = True
        messages: list[control.Message] = []
        for data in receive_some(self._control, self._readable, limits.CONTROL_A_TURN):
            try:
                messages.append(control.decode(data))
            except WireError as error:
                log.warning("link.bad_control: %s", error)
        return messages

    def send(self, message: control.Message) -> None:
        """A control message; lost when the broker is away, and said again by then."""
        try:
            self._control.send(control.encode(message), zmq.DONTWAIT)
        except zmq.Again:
            log.debug("link.control_full")

    def send_data(self, topic: bytes, message: bytes) -> bool:
        """False when the pipe is full: try again later, by time (POLLOUT of an XPUB means nothing)."""
        return send_frames(self._data, topic, message)

    def send_live(self, topic: bytes, message: bytes) -> bool:
        """False when the pipe is full."""
        return send_frames(self._live, topic, message)

    def close(self, linger_ms: int) -> None:
        self._live.close(linger=linger_ms)
        self._control.close(linger=linger_ms)
        self._data.close(linger=linger_ms)
        self._context.term()
