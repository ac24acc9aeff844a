"""The other half of joining: hand in a ticket, and get a key of one's own."""

from __future__ import annotations

import getpass
import socket as system
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import zmq
from zmq.utils import z85

from telefabric import limits
from telefabric.address import Address, ClientKeys
from telefabric.errors import EnvironmentProblem, Unreachable, WireError
from telefabric.files import private
from telefabric.keys import saved_connections
from telefabric.keys.core.roles import Role
from telefabric.keys.core.ticket import Ticket
from telefabric.keys.curve import as_client
from telefabric.keys.handshake import Handshake, HandshakeMonitor, why_not
from telefabric.keys.pairs import JoinPairs, join_pairs
from telefabric.keys.saved_connections import SavedConnection
from telefabric.wire import control

_AGAIN_S = 2.0
"""A question or an answer that was lost is asked for again: the broker answers the same."""
_POLL_MS = 50


class Saved(NamedTuple):
    """A connection and where it is."""

    name: str
    connection: SavedConnection
    path: Path


def join(ticket: Ticket, pairs: JoinPairs, *, brief: bool = False, timeout_s: float = limits.JOIN_S) -> SavedConnection:
    """Hand in the ticket for the new pair. Blocks for `timeout_s` at most. With the same pair it may be called again.

    Raises `Unreachable` or `EnvironmentProblem`, each with the remedy, when the broker cannot be reached or refuses,
    and `UsageError` for a ticket with an address that is none.
    """
    Address.parse(ticket.address)
    server = z85.encode(ticket.server).decode()
    context: zmq.Context[Any] = zmq.Context()
    try:
        socket = context.socket(zmq.DEALER)
        socket.set(zmq.LINGER, 0)
        keys = ClientKeys(server, *pairs.ticket)
        as_client(socket, keys)
        answer = _ask(
            socket,
            HandshakeMonitor(socket, keys),
            ticket.enrol,
            control.Join(control.PROTOCOL, pairs.new.public, holder(), brief),
            timeout_s,
        )
    finally:
        context.destroy(linger=0)
    if isinstance(answer, control.NotJoined):
        raise EnvironmentProblem(f"the broker at {ticket.address} refuses: {answer.message}")
    expires = datetime.fromtimestamp(answer.expires_s, UTC) if answer.expires_s is not None else None
    try:
        role = Role(answer.role)
    except ValueError:
        raise EnvironmentProblem(
            f"the broker gives the role {answer.role[:32]!r}, which is unknown here: install the broker's version"
        ) from None
    return SavedConnection(
        answer.name, role, ticket.address, server, *pairs.new, datetime.now(UTC), answer.pattern, expires
    )


def join_and_save(
    ticket: Ticket,
    name: str | None = None,
    timeout_s: float = limits.JOIN_S,
    make_pairs: Callable[[bytes], JoinPairs] = join_pairs,
) -> Saved:
    """Join, and save the connection, by default under the name of the key.

    A process that may have CURVE sockets already gives `join_pairs_in_child`.

    Should this process die in between, the pair that it handed in is here still, and the next call goes on with it: no
    ticket is lost. Raises as `join` does, and `UsageError` for a name that is saved already.
    """
    digest = sha256(ticket.secret).hexdigest()[:16]
    path = saved_connections.folder() / f".joining-{digest}"
    if name is not None:
        saved_connections.require_free(name)
    connection = join(ticket, _kept_pairs(path, ticket, make_pairs), timeout_s=timeout_s)
    name = name or saved_connections.free_name(connection.name)
    saved = saved_connections.save(name, connection)
    path.unlink(missing_ok=True)
    return Saved(name, connection, saved)


def _kept_pairs(path: Path, ticket: Ticket, make_pairs: Callable[[bytes], JoinPairs]) -> JoinPairs:
    """Those of a call before, or new ones that the next call would find. Raises `EnvironmentProblem`."""
    try:
        if path.exists() and private.is_private(path):
            return msgspec.json.decode(path.read_bytes(), type=JoinPairs)
        pairs = make_pairs(ticket.secret)
        private.make_folder(path.parent)
        private.replace(path, msgspec.json.encode(pairs))
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be written: {error.strerror}: see who may write there") from None
    except msgspec.DecodeError:
        raise EnvironmentProblem(f"{path} is damaged: remove it, and join with a new ticket") from None
    return pairs


def _ask(
    socket: zmq.Socket[Any], monitor: HandshakeMonitor, url: str, message: control.Join, timeout_s: float
) -> control.Joined | control.NotJoined:
    socket.connect(url)
    until_s, again_s = time.monotonic() + timeout_s, 0.0
    last = Handshake.NOBODY
    while time.monotonic() < until_s and not last.is_final:
        if time.monotonic() >= again_s:
            again_s = time.monotonic() + _AGAIN_S
            with suppress(zmq.Again):  # it has been sent away, of which the monitor tells at the next look
                socket.send(control.encode(message), zmq.DONTWAIT)
        if socket.poll(_POLL_MS):
            return _read(socket.recv(), url)
        last = monitor.look()
    raise Unreachable(why_not(last, url, "this ticket"))


def _read(data: bytes, url: str) -> control.Joined | control.NotJoined:
    try:
        answer = control.decode(data, limits.JOIN_BYTES_MAX)
    except WireError as error:
        raise Unreachable(f"the program at {url} answers in another version ({error}): install one version") from None
    if isinstance(answer, control.Joined | control.NotJoined):
        return answer
    raise Unreachable(f"the program at {url} does not answer like a broker: check the address")


@cache
def holder() -> str:
    """For people who read the list of keys. The first call may import what the system has for it."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        user = "?"
    return f"{user}@{system.gethostname()}"[: limits.NAME_BYTES_MAX // 4]
