"""The entrance of a service: it holds each bound socket to its number of connections, and counts who was refused.

Without keys it lets everybody in. With keys a service has a gate, which is an entrance that knows who comes.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, NamedTuple

import zmq

from telefabric import limits
from telefabric.keys.core.registry import Key
from telefabric.keys.core.roles import Refused
from telefabric.keys.handshake import monitored
from telefabric.keys.open_connections import Crowd

_LOOK_S = 0.05
"""A monitor holds 2,000 events, three for a connection that comes, fails and goes, before libzmq's thread waits."""
_TOLD_MAX = 10


class _Bound(NamedTuple):
    """A socket that is watched."""

    socket: zmq.Socket[Any]
    monitor: zmq.Socket[bytes]
    crowd: Crowd

    @property
    def port(self) -> int | None:
        """None until it is bound."""
        _, _, port = self.socket.get_string(zmq.LAST_ENDPOINT).rstrip("\x00").rpartition(":")
        return int(port) if port else None


class Entrance:
    """The thread of the sockets, which calls `tend` at each turn."""

    has_keys = False
    events = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
    """What it wants to know of each socket."""

    def __init__(self) -> None:
        self.refused: Counter[Refused] = Counter()
        """Connections, handshakes, and messages of keys that have ended, are too many, or are not for them."""
        self._told: Counter[Refused] = Counter()
        self._bound: dict[str, _Bound] = {}
        self._hosts: set[str] = set()
        """Names that are counted, though they may have no key."""
        self._look_due_s = 0.0

    def watch(self, socket: zmq.Socket[Any], name: str) -> None:
        """Before it is bound."""
        self._bound[name] = _Bound(socket, socket.get_monitor_socket(self.events), Crowd())

    def tend(self) -> frozenset[Key]:
        """Close connections beyond the limit. A gate closes those of ended keys, too, and returns these keys."""
        self._look(time.monotonic())
        return frozenset()

    def newly_refused(self) -> tuple[int, list[str]]:
        """For a line in a log, what was refused since the last call: how often, and the most frequent kinds."""
        new, self._told = self.refused - self._told, self.refused.copy()
        kinds = [f"{one.reason} at {one.domain} by {one.name or 'a stranger'}: {count}" for one, count in
                 new.most_common(_TOLD_MAX)]  # fmt: skip
        return new.total(), kinds

    def count(self, reason: str, socket: str, name: str) -> None:
        self.refused[Refused(reason, str(socket), name)] += 1

    def _look(self, now_s: float) -> bool:
        """Look at all connections when it is time for it; whether it was."""
        if now_s < self._look_due_s:
            return False
        self._look_due_s = now_s + _LOOK_S
        for name, bound in self._bound.items():
            self._watch(name, bound)
        return True

    def _watch(self, name: str, bound: _Bound) -> None:
        """Cut off connections beyond the limit."""
        for event, value in monitored(bound.monitor):
            match event:
                case zmq.EVENT_ACCEPTED:
                    bound.crowd.came(value)
                case zmq.EVENT_DISCONNECTED:
                    bound.crowd.went(value)
                case _:
                    self._failed(name, value)
        for host in bound.crowd.cut_beyond(limits.CONNECTIONS_MAX, (bound.port or 0,)):
            if len(self._hosts) < limits.REASONS_MAX:
                self._hosts.add(host)
            self.count("too_many_connections", name, host if host in self._hosts else "")

    def _failed(self, name: str, value: int) -> None:
        """A handshake came to nothing."""

    def _ports(self) -> set[int]:
        return {port for bound in self._bound.values() if (port := bound.port)}
