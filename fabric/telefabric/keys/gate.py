"""The gate of a service: it answers each handshake on its sockets, knows who speaks, and cuts off whom it no longer
admits.

The service polls `socket` in its own loop and calls `tend` at each turn: there is no thread of the gate's.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import zmq
from zmq.utils import z85

from telefabric import limits
from telefabric.errors import TelefabricError
from telefabric.files import private
from telefabric.keys.core.rates import Rates
from telefabric.keys.core.registry import Key, Refusal, Registry
from telefabric.keys.core.roles import Domain
from telefabric.keys.curve import as_server
from telefabric.keys.entrance import Entrance
from telefabric.keys.handshake import REFUSED_CODE, UNKNOWN_CODE
from telefabric.keys.key_folder import KeyFolder
from telefabric.keys.open_connections import OpenConnections

_ENDPOINT = "inproc://zeromq.zap.01"
_UNKNOWN = ("unknown_key", "not_a_ticket")
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_WHY_FAILED = {
    int(zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC): "wrong_server_key",
    int(zmq.PROTOCOL_ERROR_ZMTP_INVALID_SEQUENCE): "replayed",
}
"""By what a monitor says. A message that comes twice stops its connection; its sender makes another."""
_HANDSHAKES_A_TURN = 100
_REVIEW_S = 1.0
"""Keys expire by the clock."""


class Seen(msgspec.Struct):
    """When a key was last heard, and from which host."""

    at: datetime
    host: str


class Gate(Entrance):
    """Makes itself the context's authority: construct it before any socket of the context is bound.

    One service of a folder is to `remember` when each key was last heard.
    """

    has_keys = True
    events = Entrance.events | _FAILED

    def __init__(self, context: zmq.Context[Any], keys: KeyFolder, *, remember: bool = False) -> None:
        """Raises `UsageError` without keys, `EnvironmentProblem` when they cannot be read."""
        super().__init__()
        self._keys = keys
        self._server = self._newest = keys.server()
        self.registry = keys.registry()
        self._reviewed: Registry | None = None
        self._seen_file = keys.seen if remember else None
        self.socket: zmq.Socket[bytes] = context.socket(zmq.REP)
        self.socket.set(zmq.LINGER, 0)
        self.socket.bind(_ENDPOINT)
        self._rates = Rates()
        self._admitted: dict[str, Key] = {}
        """By user id, which is the public key: those who came through a handshake and may stay."""
        self._tickets: set[str] = set()
        self._open = OpenConnections()
        self._seen: dict[str, Seen] = {}
        self._heard: set[str] = set()
        self._review_due_s = 0.0
        self._write_due_s = 0.0

    def protect(self, socket: zmq.Socket[Any], domain: Domain) -> None:
        """Before it is bound: from now on only the keys that may enter this domain get in."""
        as_server(socket, self._server.secret, domain)
        self.watch(socket, domain)

    # -- at each turn --------------------------------------------------------------------------------------------

    def tend(self) -> frozenset[Key]:
        """Answer handshakes, and cut off the keys that have ended, which are returned."""
        self._answer()
        now_s = time.monotonic()
        if not self._look(now_s):
            return frozenset()
        self._note_seen(now_s)
        registry = self.registry.current()
        if registry is self._reviewed and now_s < self._review_due_s:
            return frozenset()
        with suppress(TelefabricError):  # what cannot be read now was read when this began
            self._newest = self._keys.server()
        self._reviewed, self._review_due_s = registry, now_s + _REVIEW_S
        return self._cut_ended(registry)

    def _answer(self) -> None:
        for _ in range(_HANDSHAKES_A_TURN):
            if not self.socket.poll(0):
                return
            _, request, domain, host, _, _, *credentials = self.socket.recv_multipart()
            public = z85.encode(credentials[0]).decode() if credentials else ""
            answer = self._decide(Domain(domain.decode()), public, host.decode())
            self.socket.send_multipart([b"1.0", request, *answer, b""])

    def _decide(self, domain: Domain, public: str, host: str) -> tuple[bytes, bytes, bytes]:
        """Status code, text and user id."""
        found = self.registry.current(look=True).admit(domain, public, now())  # it may have been changed just now
        if isinstance(found, Refusal):
            self.count(found.reason, domain, found.name)
            code = UNKNOWN_CODE if found.reason in _UNKNOWN else REFUSED_CODE
            return str(code).encode(), found.reason.encode(), b""
        if isinstance(found, Key):
            self._admitted[public] = found
            self._seen[public] = Seen(now(), host)
        else:
            self._tickets.add(public)
        return b"200", b"OK", public.encode()

    def _cut_ended(self, registry: Registry) -> frozenset[Key]:
        ended = set()
        for public, key in tuple(self._admitted.items()):
            newest = registry.keys.get(public)
            if newest is None or newest.role != key.role or not newest.is_live(now()):
                ended.add(self._admitted.pop(public))
            else:
                self._admitted[public] = newest
        if ended:
            self._open.cut(self._ports(), self._admitted.keys() | self._tickets)
        return frozenset(ended)

    @property
    def is_old(self) -> bool:
        """The server's key has changed: all sockets have to be made again."""
        return self._newest.public != self._server.public

    @property
    def next_key(self) -> tuple[str, int] | None:
        """The next public key of the server, and when it is taken, in seconds since 1970."""
        following, at = self._newest.following, self._newest.at
        return (following.public, int(at.timestamp())) if following and at else None

    # -- for each message ----------------------------------------------------------------------------------------

    def key_of(self, frame: zmq.Frame, domain: Domain) -> Key | None:
        """Who sent a message; None, and counted, for a key that is not admitted any more. Half a microsecond."""
        try:
            public = str(frame.get("User-Id"))
        except zmq.ZMQError:  # of an XPUB itself: the subscriptions of somebody who has gone
            return None
        key = self._admitted.get(public)
        if key is None:
            known = self.registry.current().keys.get(public)
            self.count("ended", domain, known.name if known else "")
            return None
        self._heard.add(public)
        self._open.note(frame, public)
        return key

    def takes(self, name: str, domain: Domain, size: int) -> bool:
        """Whether this message is within what a key may send in a second; else it is counted."""
        within = self._rates.grants(name, domain, size, time.monotonic_ns())
        if not within:
            self.count("too_fast", domain, name)
        return within

    def ticket_of(self, frame: zmq.Frame) -> str:
        """The public half of the ticket behind a message on the socket `enrol`."""
        public = str(frame.get("User-Id"))
        self._open.note(frame, public)
        return public

    # -- counted and remembered ----------------------------------------------------------------------------------

    @property
    def problem(self) -> str:
        """Why nobody new gets in: a sentence about the registry's file; empty while it is well."""
        return self.registry.problem

    def _failed(self, name: str, value: int) -> None:
        """Before a key was shown: without keys, or for another server's key."""
        self.count(_WHY_FAILED.get(value, "no_keys"), name, "")

    def _note_seen(self, now_s: float) -> None:
        if self._seen_file is None or now_s < self._write_due_s:
            return
        self._write_due_s = now_s + limits.SEEN_WRITE_S
        for public in self._heard & self._seen.keys():
            self._seen[public].at = now()
        self._heard.clear()
        if self._seen:
            known = self.registry.current().keys
            _write_seen(self._seen_file, {one: seen for one, seen in self._seen.items() if one in known})


def read_seen(path: Path) -> dict[str, Seen]:
    """By public key; empty when nobody was heard yet, or the file cannot be read: it only informs."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Seen])
    except (OSError, msgspec.DecodeError):
        return {}


def _write_seen(path: Path, seen: dict[str, Seen]) -> None:
    try:
        private.replace(path, msgspec.json.encode({**read_seen(path), **seen}), sync=False)  # nobody waits for a disk
    except OSError:
        return  # a full disk must not end a service, and the next try is some seconds away


def now() -> datetime:
    """By this machine's clock: registries hold moments, which outlast a process."""
    return datetime.now(UTC)
