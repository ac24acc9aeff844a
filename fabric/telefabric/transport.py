"""ZeroMQ sockets as this project uses them."""

from __future__ import annotations

from typing import Any

import zmq

from telefabric import limits


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


def receive_last(socket: zmq.Socket[bytes]) -> bytes | None:
    """The next message's last frame, or None when there is none."""
    try:
        return socket.recv_multipart(zmq.DONTWAIT)[-1]
    except zmq.Again:
        return None
