"""A link's sockets: control, data and live, with the options that were measured to matter."""

from __future__ import annotations

import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import WireError
from telefabric.log.limit import library_logger
from telefabric.peer.connection import Connection
from telefabric.peer.sockets import receive_some, send_frames
from telefabric.uplink.waker import Waker
from telefabric.wire import control

log = library_logger("telefabric.link")

_SUBSCRIBED = b"\x01"


class Sockets(Connection):
    """Control DEALER, data XPUB and live XPUB, with the options that were measured to matter."""

    def __init__(self, address: Address) -> None:
        super().__init__(address, b"w")
        self._data = self._publisher(limits.DATA_HWM, limits.SOCKET_BUFFER_BYTES)
        self._live = self._publisher(limits.LIVE_HWM, limits.LIVE_SOCKET_BYTES)
        self.waker = Waker()
        self._poller.register(self.waker.fileno(), zmq.POLLIN)
        self._data_url: str | None = None
        self._live_url: str | None = None
        self.watched: set[bytes] = set()
        """Topic prefixes that the broker subscribed to on the live socket."""
        self.watched_changed = False
        self.subscribed = False
        """The broker listens on the data socket. A PUB socket would send into the void without knowing."""

    def wait(self, timeout_ms: int) -> None:
        """Until a socket can be read, or the waker has rung."""
        super().wait(timeout_ms)
        if self.waker.fileno() in self._readable:
            self.waker.drain()

    def close(self, linger_ms: int = 200) -> None:
        super().close(linger_ms)
        self.waker.close()

    def connect_data(self, url: str) -> None:
        if url != self._data_url:
            self._data_url = url
            self.renew_data()

    def connect_live(self, url: str) -> None:
        if url != self._live_url:
            self._live_url = url
            self.renew_live()

    @property
    def unheard(self) -> bool:
        """Whether the data socket has an address at which, as far as it knows, the broker does not listen."""
        return self._data_url is not None and not self.subscribed

    def renew_data(self) -> None:
        """A new data connection, in the place of one on which nothing gets across although control is well."""
        assert self._data_url is not None
        self._drop(self._data)
        self._data = self._publisher(limits.DATA_HWM, limits.SOCKET_BUFFER_BYTES, self._data_url)
        self.subscribed = False

    def renew_live(self) -> None:
        """Open a new live connection; the broker subscribes again on it."""
        assert self._live_url is not None
        self._drop(self._live)
        self._live = self._publisher(limits.LIVE_HWM, limits.LIVE_SOCKET_BYTES, self._live_url)
        self.watched.clear()
        self.watched_changed = True

    def _publisher(self, messages: int, buffer_bytes: int, url: str | None = None) -> zmq.Socket[bytes]:
        publisher = self._open(zmq.XPUB)
        publisher.set(zmq.MAXMSGSIZE, 2 * limits.SUBSCRIPTION_BYTES_MAX)
        publisher.set(zmq.RCVHWM, limits.SUBSCRIPTIONS_HWM)
        publisher.set(zmq.SNDHWM, messages)
        publisher.set(zmq.SNDBUF, buffer_bytes)
        publisher.set(zmq.IMMEDIATE, 1)
        publisher.set(zmq.XPUB_NODROP, 1)
        if url is not None:
            publisher.connect(url)
        return publisher

    def receive(self, now_ns: int) -> list[control.Message]:
        """All control messages that are here, and whether the data socket is heard."""
        for subscription in receive_some(self._data, self._readable, limits.CONTROL_A_TURN):
            self.subscribed = subscription.startswith(_SUBSCRIBED)
        for wish in receive_some(self._live, self._readable, limits.CONTROL_A_TURN):
            self.watched_changed = True
            if not wish.startswith(_SUBSCRIBED):
                self.watched.discard(wish[1:])
            elif len(self.watched) < limits.WATCHED_TOPICS_MAX:
                self.watched.add(wish[1:])
        return self.receive_control(now_ns)

    def send_data(self, topic: bytes, message: bytes) -> bool:
        """False when the pipe is full: try again later, by time (POLLOUT of an XPUB means nothing)."""
        return send_frames(self._data, topic, message)

    def send_live(self, topic: bytes, message: bytes) -> bool:
        """False when the pipe is full."""
        return send_frames(self._live, topic, message)

    def _unreadable(self, error: WireError) -> None:
        log.warning("link.bad_control: %s", error)

    def _corrected(self, sentence: str) -> None:
        log.warning("link.mistake: %s cannot use what it was sent: %s", self.address.url, sentence)

    def _full(self) -> None:
        log.debug("link.control_full")
