"""CURVE on sockets: the one place that gives a socket its keys."""

from __future__ import annotations

from typing import Any

import zmq

from telefabric.address import ClientKeys
from telefabric.keys.core.roles import Domain
from telefabric.keys.next_keys import newest


def as_client(socket: zmq.Socket[Any], keys: ClientKeys | None) -> None:
    """A socket that is to be connected."""
    if keys is not None:
        socket.set(zmq.CURVE_SERVERKEY, newest(keys.server).encode())
        socket.set(zmq.CURVE_PUBLICKEY, keys.public.encode())
        socket.set(zmq.CURVE_SECRETKEY, keys.secret.encode())


def as_server(socket: zmq.Socket[Any], secret: str, domain: Domain) -> None:
    """A socket that is to be bound. Enforcing the domain refuses everybody should nobody answer for it."""
    socket.set(zmq.CURVE_SERVER, 1)
    socket.set(zmq.CURVE_SECRETKEY, secret.encode())
    socket.set(zmq.ZAP_DOMAIN, domain.value.encode())
    socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
