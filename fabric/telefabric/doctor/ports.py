"""A name and TCP ports: which programs listen, and how to reach them.

They are looked at without ZeroMQ, which hides why it cannot connect.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from telefabric.address import DEFAULT, PORT_MAX, Address
from telefabric.doctor.finding import Finding, say
from telefabric.doctor.side_by_side import in_time
from telefabric.errors import UsageError
from telefabric.files.processes import listeners, number_of

PORTS = {0: "control", 1: "data", 2: "live", 3: "durable", 4: "queries", 5: "tap", 6: "watch"}
"""A broker's sockets by their place above its own port."""
NEEDED = frozenset({"data", "live", "watch", "queries"})
"""The sockets that workers and clients need; stores and taps need the others."""
NAME_S = 2.0
CONNECT_S = 1.5
_SPEAK_S = 1.0
_ANSWER_S = 0.5
_ZEROMQ = b"\xff"
"""The first byte of a ZeroMQ greeting, which both sides send unasked. Other programs wait, or send text."""
_QUESTION = b"GET / HTTP/1.0\r\n\r\n"
"""Sent to a silent port: most other servers answer it, if only with an error."""
_QUOTED_BYTES = 40
_STEP, _TRIES = 20, 50


class Answer(Enum):
    """The answer of a TCP port."""

    ZEROMQ = "open"
    REFUSED = "refused"
    NO_ROUTE = "no route to"
    TIMEOUT = "no answer from"
    SILENT = "silent"
    CLOSED = "closed at once"
    STRANGER = "another program on"


class PortSeen(NamedTuple):
    answer: Answer
    detail: str = ""
    """Why no route exists, or the words of another program."""


class NameSeen(NamedTuple):
    addresses: tuple[str, ...]
    error: str = ""


# -- looks -------------------------------------------------------------------------------------------------------
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
        try:
            return _listen(connection)
        except TimeoutError:
            return PortSeen(Answer.SILENT)
        except ConnectionError:
            return PortSeen(Answer.CLOSED)


def _listen(connection: socket.socket) -> PortSeen:
    """What is said unasked, else in answer to a question. Raises `TimeoutError` and `ConnectionError`."""
    connection.settimeout(_SPEAK_S)
    try:
        heard = connection.recv(256)
    except TimeoutError:
        connection.sendall(_QUESTION)
        connection.settimeout(_ANSWER_S)
        heard = connection.recv(256)
    if not heard:
        return PortSeen(Answer.CLOSED)
    if heard.startswith(_ZEROMQ):
        return PortSeen(Answer.ZEROMQ)
    first = heard.splitlines()[0][:_QUOTED_BYTES] if heard.strip() else heard[:_QUOTED_BYTES]
    return PortSeen(Answer.STRANGER, repr(first)[1:])


def ports_taken(address: Address) -> dict[int, str] | None:
    """Ports of a broker at the address that are in use; None when it is on another machine."""
    try:
        address.require_loopback()
    except UsageError:
        return None
    return listeners(range(address.port, address.port + len(PORTS)))


def free_base(beside: int, given_away: tuple[int, int]) -> int | None:
    """A port for a broker, free with those above it and not `given_away`, at best near one; None when none is found."""
    for start in (beside, Address.parse(DEFAULT).port):
        for base in range(start + _STEP, start + _TRIES * _STEP, _STEP):
            top = base + len(PORTS) - 1
            if top <= PORT_MAX and (top < given_away[0] or base > given_away[1]) and _are_free(base, top):
                return base
    return None


def _are_free(base: int, top: int) -> bool:
    try:
        for port in range(base, top + 1):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


# -- verdicts ----------------------------------------------------------------------------------------------------
def judge_name(host: str, seen: NameSeen) -> Finding | None:
    """None for what is a number already."""
    if not seen.addresses:
        return say("name", "ipv6" if host.startswith("[") else "unresolved", host=host, error=seen.error)
    return None if host in seen.addresses else say("name", "fine", host=host, addresses=", ".join(seen.addresses))


def judge_ports(
    address: Address, named: Mapping[str, int], seen: Mapping[str, PortSeen], owners: Mapping[int, str] | None = None
) -> Finding:
    """`named`: the broker's further ports by what they are for; `seen`: what each answered from here.

    `owners`: the processes that listen on silent ports, as far as they are on this machine and known.
    """
    closed = {name: port for name, port in named.items() if seen[name].answer is not Answer.ZEROMQ}
    if not closed:
        return say("ports", "fine", ports=", ".join(f"{port} ({name})" for name, port in named.items()))
    ways: dict[str, list[str]] = {}
    for name, port in closed.items():
        ways.setdefault(seen[name].answer.value, []).append(f"{port} ({name})")
    told = "; ".join(f"{way} {', '.join(ports)}" for way, ports in ways.items())
    remedy = _wake(closed, owners or {}) or tunnel(address, control_port(address, named), named.values())
    return say("ports", "needed" if NEEDED & set(closed) else "some", port=address.port, closed=told, remedy=remedy)


def _wake(closed: Mapping[str, int], owners: Mapping[int, str]) -> str:
    """The remedy if processes of this machine, but no tunnel, listen on all of these ports; else empty."""
    found = {owners.get(port, "") for port in closed.values()}
    if not all(map(number_of, found)) or any("ssh" in who for who in found):
        return ""
    numbers = " ".join(sorted(map(number_of, found)))
    return (
        f"{', '.join(sorted(found))} does not answer: kill -CONT {numbers} wakes a stopped process; "
        f"kill -KILL {numbers} ends it, and its supervisor starts it again"
    )


def control_port(address: Address, named: Mapping[str, int]) -> int:
    """The broker's own port on its machine, which a tunnel may have given another number here."""
    base = named["data"] - 1
    in_a_row = all(named.get(name) == base + place for place, name in PORTS.items() if name in ("live", "durable"))
    return base if in_a_row else address.port


def tunnel(address: Address, far_port: int, others: Iterable[int]) -> str:
    """How to reach all ports: without keys nothing listens beyond its own machine."""
    pairs = [(address.port, far_port), *((port, port) for port in others)]
    if address.keys:
        return f"Let ports {', '.join(str(port) for port, _ in pairs)} through the firewall of {address.host}"
    forwards = " ".join(f"-L {here}:127.0.0.1:{there}" for here, there in pairs)
    if address.is_here:
        return f"If this is a tunnel, end it and forward all: ssh -N {forwards} USER@HOST"
    return f"ssh -N {forwards} USER@{address.host}, and then here: --connect tcp://127.0.0.1:{address.port}"
