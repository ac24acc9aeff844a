"""The TCP connections of bound sockets: those of a revoked key are cut, and those beyond the limit of a socket.

ZAP is asked at handshakes only, and libzmq has no way to part with one peer of a bound socket. But it says over which
file descriptor a message came. A connection over which nothing has come yet is nobody's as far as is known here: it is
cut with any other, and the one who opened it dials again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import zmq

from telefabric.files.open_files import most

_DESCRIPTORS = "/dev/fd"
"""The open descriptors of this process, on Linux and on other Unixes."""


class OpenConnections:
    """Connections by file descriptor. The thread of the sockets."""

    def __init__(self) -> None:
        self._noted: dict[int, tuple[str, Any]] = {}
        """Descriptor → key, and the peer's address, by which one that was closed and is used again is told."""

    def note(self, frame: zmq.Frame, key: str) -> None:
        """A message came with this key. Costs a tenth of a microsecond unless the connection is new."""
        try:
            descriptor: int = frame.get(zmq.SRCFD)
        except zmq.ZMQError:
            return  # not TCP, or gone
        noted = self._noted.get(descriptor)
        if noted is None or noted[0] != key:
            self._noted[descriptor] = key, _peer_of(descriptor)

    def cut(self, ports: Collection[int], keep: Collection[str]) -> int:
        """End all connections to these ports of ours but those that belong to a key in `keep`; how many."""
        cut = 0
        for descriptor in _descriptors():
            peer = _peer_of(descriptor, ports)
            key, noted_peer = self._noted.get(descriptor, ("", None))
            if peer is not None and not (noted_peer == peer and key in keep):
                cut += _hang_up(descriptor)
        self._noted = {one: noted for one, noted in self._noted.items() if noted[0] in keep}
        return cut


class Crowd:
    """The connections of one bound socket by file descriptor, the oldest first, as its monitor tells of them."""

    def __init__(self) -> None:
        self._open: dict[int, None] = {}

    def came(self, descriptor: int) -> None:
        self.went(descriptor)
        self._open[descriptor] = None

    def went(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)

    def cut_beyond(self, most: int, ports: Collection[int]) -> list[str]:
        """End the newest beyond `most`; the hosts that they came from."""
        if len(self._open) <= most:
            return []
        # libzmq does not tell of those that it ended by itself
        peers = {one: peer for one in self._open if (peer := _peer_of(one, ports)) is not None}
        beyond = list(peers)[most:]
        self._open = dict.fromkeys(list(peers)[:most])
        return [peers[one][0] for one in beyond if _hang_up(one)]


def _descriptors() -> Iterator[int]:
    try:
        return map(int, os.listdir(_DESCRIPTORS))
    except OSError:  # none is left to look with
        return iter(range(most() or 0))


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """The socket behind it, which stays open; takes no descriptor, as there may be none left."""
    found = socket.socket(fileno=descriptor)
    try:
        yield found
    finally:
        found.detach()


def _peer_of(descriptor: int, ports: Collection[int] | None = None) -> Any:
    """The other end's address; None for what is no connection, or not to one of these ports."""
    try:
        with _borrowed(descriptor) as connection:
            if ports is None or connection.getsockname()[1] in ports:
                return connection.getpeername()
    except (OSError, IndexError):
        pass  # no socket of TCP, or not connected
    return None


def _hang_up(descriptor: int) -> bool:
    try:
        with _borrowed(descriptor) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False  # it has gone by itself
    return True
