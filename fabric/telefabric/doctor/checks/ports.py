"""Verdicts on a name and on TCP ports: which programs listen, and how to reach them. No input or output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from telefabric.address import Address
from telefabric.doctor.finding import Finding, process_of, say

PORTS = {0: "control", 1: "data", 2: "live", 3: "durable", 4: "queries", 5: "tap", 6: "watch"}
"""A broker's sockets by their place above its own port."""
NEEDED = frozenset({"data", "live", "watch", "queries"})
"""The sockets that workers and clients need; stores and taps need the others."""


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
    if not all(map(process_of, found)) or any("ssh" in who for who in found):
        return ""
    numbers = " ".join(sorted(map(process_of, found)))
    return (
        f"{', '.join(sorted(found))} does not answer: kill -CONT {numbers} wakes a stopped process; "
        f"kill -KILL {numbers} ends it, and its supervisor starts it again"
    )


def is_here(address: Address) -> bool:
    """Whether it is dialled on this machine, where a broker is, or this end of a tunnel."""
    return address.host in ("localhost", "[::1]") or address.host.startswith("127.")


def control_port(address: Address, named: Mapping[str, int]) -> int:
    """The broker's own port on its machine, which a tunnel may have given another number here."""
    base = named["data"] - 1
    in_a_row = all(named.get(name) == base + place for place, name in PORTS.items() if name in ("live", "durable"))
    return base if in_a_row else address.port


def tunnel(address: Address, far_port: int, others: Iterable[int]) -> str:
    """How to forward all ports: nothing of this version listens beyond its own machine."""
    pairs = [(address.port, far_port), *((port, port) for port in others)]
    forwards = " ".join(f"-L {here}:127.0.0.1:{there}" for here, there in pairs)
    if is_here(address):
        return f"If this is a tunnel, end it and forward all: ssh -N {forwards} USER@HOST"
    return f"ssh -N {forwards} USER@{address.host}, and then here: --connect tcp://127.0.0.1:{address.port}"
