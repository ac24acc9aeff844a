"""Questions to one endpoint, for which somebody waits."""

from __future__ import annotations

import time
from contextlib import suppress

import zmq

from telefabric import limits
from telefabric.address import ClientKeys
from telefabric.errors import Unreachable
from telefabric.keys.handshake import Handshake, HandshakeMonitor
from telefabric.peer.connection import dial
from telefabric.peer.sockets import why

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
        try:
            self._socket.connect(url)
        except zmq.ZMQError as error:
            self.close()
            raise Unreachable(f"{url} cannot be reached: {why(error)}: {remedy}") from None

    def send(self, *frames: bytes) -> None:
        """Lost, as any question can be, when the other side has refused this one."""
        with suppress(zmq.Again):
            self._socket.send_multipart(frames, zmq.DONTWAIT)

    def receive(self, deadline_s: float) -> list[bytes] | None:
        """The next reply to any request; None if none comes by `deadline_s` of the monotonic clock, or none can."""
        while (left_s := deadline_s - time.monotonic()) > 0 and not self.handshake.is_final:
            if self._socket.poll(min(int(left_s * 1000) + 1, _LOOK_MS)):
                return self._socket.recv_multipart()
        return None

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
