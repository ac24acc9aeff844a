"""How much waits for a peer, in bytes: inside ZeroMQ, whose own marks count messages, and in the system.

128 messages of 8 MiB are a gigabyte.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Any

import zmq

from telefabric import limits
from telefabric.peer.sockets import send_frames

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


_LARGE_BYTES = 64 * limits.KIB
"""Larger messages wait in the pipes of all peers as one copy."""


class Pipe:
    """The large messages on their way to one peer, or to all listeners of one socket. One thread."""

    def __init__(self) -> None:
        self._sent: deque[tuple[zmq.MessageTracker, int]] = deque()
        self._bytes = 0

    @property
    def unsent_bytes(self) -> int:
        """Which ZeroMQ has not handed to the system."""
        while self._sent and self._sent[0][0].done:
            self._bytes -= self._sent.popleft()[1]
        return self._bytes

    def send_within(self, bytes_max: int, socket: zmq.Socket[Any], first: bytes, *others: bytes) -> bool:
        """Send, unless more than that would wait; one message always may. Small ones are copied, and do not count."""
        size = len(others[-1])
        if size < _LARGE_BYTES:
            return send_frames(socket, first, *others)
        unsent = self.unsent_bytes
        return (not unsent or unsent + size <= bytes_max) and self.send(socket, first, *others)

    def send(self, socket: zmq.Socket[Any], first: bytes, *others: bytes) -> bool:
        """Send like `send_frames`, but without a copy of the last frame, and count its bytes until it is sent."""
        *between, message = others
        frame = zmq.Frame(message, track=True, copy=False)
        if not send_frames(socket, first, *between, frame):
            return False
        assert isinstance(frame.tracker, zmq.MessageTracker)
        self._sent.append((frame.tracker, len(message)))
        self._bytes += len(message)
        return True


def unread_bytes(frame: zmq.Frame) -> int:
    """Bytes that the system holds because the sender of this frame has not read them; 0 if unknown."""
    descriptor = descriptor_of(frame)
    if fcntl is None or descriptor is None:
        return 0
    try:
        held: bytes = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0  # it has gone
    return int(struct.unpack("i", held)[0])


def descriptor_of(frame: zmq.Frame) -> int | None:
    """Descriptor of the connection over which the frame came; None if that is not TCP, or is gone."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return None
