"""Questions to one endpoint, for which somebody waits."""

from __future__ import annotations

import time

import zmq

from telefabric import limits
from telefabric.errors import Unreachable
from telefabric.peer.connection import dial
from telefabric.peer.sockets import why


class Requests:
    """A DEALER of its own; close it. Raises `Unreachable`, with the remedy, for an endpoint that cannot be one."""

    def __init__(self, url: str, remedy: str, *, reply_bytes_max: int = limits.MESSAGE_BYTES_MAX) -> None:
        self._context = zmq.Context()
        self._socket = dial(self._context, zmq.DEALER)
        self._socket.set(zmq.MAXMSGSIZE, reply_bytes_max)
        try:
            self._socket.connect(url)
        except zmq.ZMQError as error:
            self.close()
            raise Unreachable(f"{url} cannot be reached: {why(error)}: {remedy}") from None

    def send(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def receive(self, deadline_s: float) -> list[bytes] | None:
        """The next reply to any request; None if none comes by `deadline_s` of the monotonic clock."""
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not self._socket.poll(int(left_s * 1000) + 1):
            return None
        return self._socket.recv_multipart()

    def close(self) -> None:
        self._context.destroy(linger=0)

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
