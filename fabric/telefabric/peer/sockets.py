"""ZeroMQ sockets as this project uses them."""

from __future__ import annotations

from collections.abc import Container, Iterator
from functools import partial
from itertools import islice
from typing import Any

import zmq

from telefabric import limits

# pyzmq's flags are enum members, whose every | costs more than a send.
_DONTWAIT = int(zmq.DONTWAIT)
_DONTWAIT_SNDMORE = int(zmq.DONTWAIT) | int(zmq.SNDMORE)
_RCVMORE = int(zmq.RCVMORE)


def common_options(socket: zmq.Socket[Any]) -> None:
    """No ZMTP heartbeats and no TCP_MAXRT: with a high-water mark they kill healthy connections in libzmq 4.3.5."""
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.TCP_KEEPALIVE_IDLE, 30)
    socket.set(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.set(zmq.TCP_KEEPALIVE_CNT, 3)
    socket.set(zmq.RECONNECT_IVL, int(limits.RECONNECT_MIN_S * 1000))
    socket.set(zmq.RECONNECT_IVL_MAX, int(limits.RECONNECT_MAX_S * 1000))
    socket.set(zmq.MAXMSGSIZE, limits.MESSAGE_BYTES_MAX)


def receive(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    """The frames of the next message, or None without one. Like `recv_multipart`, with less work around it."""
    try:
        frames = [socket.recv(_DONTWAIT)]
    except zmq.Again:
        return None
    while socket.getsockopt(_RCVMORE):
        frames.append(socket.recv(_DONTWAIT))
    return frames


def waiting(socket: zmq.Socket[bytes], most: int) -> Iterator[list[bytes]]:
    """The frames of each waiting message, up to a limit."""
    return islice(iter(partial(receive, socket), None), most)


def receive_some(socket: zmq.Socket[Any], readable: Container[object], most: int) -> Iterator[bytes]:
    """The last frames of waiting messages, up to a limit; none if the socket is not among the `readable`."""
    if socket in readable:
        for frames in waiting(socket, most):
            yield frames[-1]


def send_frames(socket: zmq.Socket[bytes], first: bytes, *others: bytes | zmq.Frame) -> bool:
    """Send a message of two or more frames, or nothing and False when the pipe is full."""
    try:
        socket.send(first, _DONTWAIT_SNDMORE)
    except zmq.Again:
        return False
    for frame in others[:-1]:
        socket.send(frame, _DONTWAIT_SNDMORE)
    socket.send(others[-1], _DONTWAIT)
    return True


def why(error: zmq.ZMQError) -> str:
    """The system's error text, without the address that pyzmq adds."""
    return zmq.strerror(error.errno) if error.errno else str(error)
