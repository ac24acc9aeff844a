"""The results of a connected socket's handshakes, which ZeroMQ reports only to the socket's monitor."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any

import zmq

from telefabric.address import ClientKeys


class Handshake(Enum):
    """The last news of a connection."""

    NOBODY = auto()
    """Nothing listens there, or the network loses all of it."""
    MUTE = auto()
    """Something listens and says nothing."""
    DONE = auto()
    WANTS_KEYS = auto()
    """The two sides do not both use keys."""
    OTHER_SERVER = auto()
    """It cannot read what was meant for the holder of the server key."""
    UNKNOWN = auto()
    """It does not know this side's key."""
    REFUSED = auto()
    """It knows this side's key, which has ended or may not enter this socket."""

    @property
    def is_final(self) -> bool:
        """ZeroMQ does not try again: only another socket will."""
        return self in (Handshake.UNKNOWN, Handshake.REFUSED, Handshake.WANTS_KEYS)


UNKNOWN_CODE, REFUSED_CODE = 400, 500
"""Of the two that ZeroMQ hands on to a peer that is refused."""
_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


_EVENT = struct.Struct("=HI")


def monitored(monitor: zmq.Socket[bytes]) -> Iterator[tuple[int, int]]:
    """Events and their values that a socket's monitor has now. (What pyzmq has for it imports asyncio.)"""
    while monitor.poll(0):
        yield _EVENT.unpack_from(monitor.recv_multipart()[0])


class HandshakeMonitor:
    """Watches one socket, from before it is connected. The socket's thread."""

    def __init__(self, socket: zmq.Socket[Any], keys: ClientKeys | None) -> None:
        self._socket = socket
        self._has_keys = keys is not None
        self._monitor: zmq.Socket[bytes] = socket.get_monitor_socket(_EVENTS)
        self._last = Handshake.NOBODY
        self.made = 0
        """Number of connections that came about, one after another."""

    def look(self) -> Handshake:
        for event, value in monitored(self._monitor):
            self._last = self._after(event, value)
            self.made += event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        return self._last

    def close(self) -> None:
        """Before its socket is closed."""
        self._socket.disable_monitor()

    def _after(self, event: int, value: int) -> Handshake:
        match event:
            case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return Handshake.DONE
            case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                return Handshake.REFUSED if value == REFUSED_CODE else Handshake.UNKNOWN
            case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                return Handshake.WANTS_KEYS
            case zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                other = self._has_keys and self._last is not Handshake.WANTS_KEYS
                return Handshake.OTHER_SERVER if other else Handshake.WANTS_KEYS
            case _:  # connected: what an attempt before it met is still the best that is known
                return Handshake.MUTE if self._last is Handshake.NOBODY else self._last


def is_refusal(last: Handshake) -> bool:
    """The handshake itself tells why nothing comes; otherwise other signs tell more."""
    return last not in (Handshake.NOBODY, Handshake.MUTE, Handshake.DONE)


def why_not(last: Handshake, url: str, shown: str) -> str:
    """Why nothing has come of a connection, with the remedy. `shown` is with what it was opened: the key NAME."""
    ask = "ask for a new ticket (telefabric keys invite)"
    match last:
        case Handshake.NOBODY:
            return f"nobody answers at {url}: is the broker running there, and may this machine reach its ports?"
        case Handshake.MUTE | Handshake.DONE:
            return (
                f"something listens at {url} and does not answer: it is frozen, or no broker: see telefabric doctor "
                "on its machine"
            )
        case Handshake.WANTS_KEYS if shown:
            return f"the broker at {url} has no keys, and {shown} is for one that has: check the address"
        case Handshake.WANTS_KEYS:
            return (
                f"the broker at {url} asks for a key: get a ticket (telefabric keys invite, on its machine), and hand "
                "it in here with telefabric join"
            )
        case Handshake.OTHER_SERVER:
            return f"the broker at {url} has another server key than {shown} names: check the address, or {ask}"
        case Handshake.UNKNOWN:
            return f"the broker at {url} does not know {shown}: {ask}"
        case Handshake.REFUSED:
            return f"the broker at {url} refuses {shown}, which was revoked, has expired, or may not do this: {ask}"
