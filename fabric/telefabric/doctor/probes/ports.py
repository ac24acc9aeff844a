"""Looks at a name and at TCP ports without ZeroMQ, which hides why it cannot connect."""

from __future__ import annotations

import socket

from telefabric.doctor.checks.ports import Answer, NameSeen, PortSeen
from telefabric.doctor.probes.side_by_side import in_time

NAME_S = 2.0
CONNECT_S = 1.5
_SPEAK_S = 1.0
_ANSWER_S = 0.5
_ZEROMQ = b"\xff"
"""The first byte of a ZeroMQ greeting, which both sides send unasked. Other programs wait, or send text."""
_QUESTION = b"GET / HTTP/1.0\r\n\r\n"
"""Sent to a silent port: most other servers answer it, if only with an error."""
_QUOTED_BYTES = 40


def look_up(host: str) -> NameSeen:
    """The IPv4 addresses of a host, which is what ZeroMQ dials, or why there are none. `NAME_S` at most."""
    found = in_time([lambda: _resolve(host)], NAME_S)[0]
    return found or NameSeen((), f"no answer within {NAME_S:g} s")


def _resolve(host: str) -> NameSeen:
    bare = host.removeprefix("[").removesuffix("]")
    try:
        entries = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return NameSeen((), getattr(error, "strerror", None) or str(error))
    found = tuple(dict.fromkeys(str(entry[4][0]) for entry in entries if entry[0] == socket.AF_INET))
    return NameSeen(found, "" if found else "it has an IPv6 address only, and this version dials IPv4")


def look_at_port(host: str, port: int) -> PortSeen:
    """Connect to a numeric host, and read its first bytes. Takes `CONNECT_S` and 1.5 s more at most."""
    try:
        connection = socket.create_connection((host, port), CONNECT_S)
    except ConnectionRefusedError:
        return PortSeen(Answer.REFUSED)
    except TimeoutError:
        return PortSeen(Answer.TIMEOUT)
    except OSError as error:
        return PortSeen(Answer.NO_ROUTE, error.strerror or str(error))
    with connection:
        return _listen(connection)


def _listen(connection: socket.socket) -> PortSeen:
    try:
        heard = _hear(connection, _SPEAK_S)
        if heard is None:
            connection.sendall(_QUESTION)
            heard = _hear(connection, _ANSWER_S)
    except ConnectionError:
        return PortSeen(Answer.CLOSED)
    if heard is None:
        return PortSeen(Answer.SILENT)
    if not heard:
        return PortSeen(Answer.CLOSED)
    if heard.startswith(_ZEROMQ):
        return PortSeen(Answer.ZEROMQ)
    first = heard.splitlines()[0][:_QUOTED_BYTES] if heard.strip() else heard[:_QUOTED_BYTES]
    return PortSeen(Answer.STRANGER, repr(first)[1:])


def _hear(connection: socket.socket, timeout_s: float) -> bytes | None:
    """The first bytes; empty when the other side closes, None when it says nothing. Raises `ConnectionError`."""
    connection.settimeout(timeout_s)
    try:
        return connection.recv(256)
    except TimeoutError:
        return None
