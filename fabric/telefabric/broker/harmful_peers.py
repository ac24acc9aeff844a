"""Connections whose peers do them harm: with subscriptions that lead nowhere, or by not reading.

libzmq keeps each subscription of each connection, also those that are not entered: 14 kB for a long one. It also keeps
what a peer does not read. It has no way to part with one peer of a bound socket, but it tells over which file
descriptor a message came.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from contextlib import suppress

import zmq

from telefabric import limits

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class HarmfulPeers:
    """Counts by file descriptor. One that is used again inherits a count: its new owner connects once more."""

    def __init__(self) -> None:
        self._leading_nowhere: Counter[int] = Counter()

    def count(self, frame: zmq.Frame) -> None:
        """A subscription that leads nowhere: after too many its connection is closed, and libzmq forgets them all."""
        descriptor = _descriptor(frame)
        if descriptor is None:
            return
        self._leading_nowhere[descriptor] += 1
        if self._leading_nowhere[descriptor] > limits.SUBSCRIPTIONS_NOWHERE_MAX:
            del self._leading_nowhere[descriptor]
            with suppress(OSError), socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as connection:
                connection.shutdown(socket.SHUT_RDWR)  # unless it has gone by itself


def unread_bytes(frame: zmq.Frame) -> int:
    """Bytes that the system holds because the sender of this frame has not read them; 0 if unknown."""
    descriptor = _descriptor(frame)
    if fcntl is None or descriptor is None:
        return 0
    try:
        held: bytes = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0  # it has gone
    return int(struct.unpack("i", held)[0])


def _descriptor(frame: zmq.Frame) -> int | None:
    """Descriptor of the connection over which the frame came; None if that is not TCP, or is gone."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return None
