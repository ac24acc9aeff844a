"""Verdicts on who answers at the address. No input or output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from telefabric import __version__
from telefabric.address import DEFAULT, Address
from telefabric.doctor.checks.ports import PORTS, Answer, PortSeen, tunnel
from telefabric.doctor.finding import OK, PROBLEM, WARNING, Finding, counted, numbers, process_of
from telefabric.wire import control

UPGRADE = "pip install -U telefabric, on both machines, and start telefabric up anew"


class BrokerSeen(NamedTuple):
    """What answered at the address."""

    status: dict[str, Any] | None
    endpoints: control.Endpoints | None = None
    port: PortSeen | None = None
    """The broker's own port; None when its host has no address."""
    foreign: str = ""
    """What was wrong with an answer that is not of this protocol."""
    taken: Mapping[int, str] | None = None
    """Ports of the address that somebody listens on, and who; None when it is on another machine."""
    free: int | None = None
    """A port of this machine for a broker, free with those above it, and none that the system gives away."""


def judge_broker(address: Address, seen: BrokerSeen) -> Finding | None:
    """None when the name could not even be resolved."""
    if seen.status is not None:
        streams, live = len(seen.status.get("streams", ())), len(seen.status.get("live", ()))
        return Finding(
            "broker", OK,
            f"A broker of protocol {control.PROTOCOL} answers at {address.url}: "
            f"{counted(streams, 'stream')}, {counted(live, 'live subscriber')}.",
        )  # fmt: skip
    if seen.port is None:
        return None
    if seen.port.answer is Answer.REFUSED and seen.taken is not None:
        return _not_started(address, seen, seen.taken)
    sentence, remedy = _no_broker(address, seen, seen.port)
    return Finding("broker", PROBLEM, sentence, remedy)


def _no_broker(address: Address, seen: BrokerSeen, port: PortSeen) -> tuple[str, str]:
    """Sentence and remedy, by what answered."""
    who = (seen.taken or {}).get(address.port, "")
    by = f" (listening there: {who})" if who else ""
    forward = tunnel(address, address.port, (address.port + place for place in PORTS if place))
    start = f"A broker listens on its own machine only: start telefabric up there, and forward its ports: {forward}"
    match port.answer:
        case Answer.REFUSED:
            return f"{address.host} refuses connections to port {address.port}.", start
        case Answer.NO_ROUTE:
            return (
                f"There is no way to {address.url}: {port.detail}.",
                f"ping {address.host}; join its network or VPN, or correct --connect",
            )
        case Answer.TIMEOUT:
            return f"{address.url} does not answer: a firewall drops the packets, or the machine is off.", start
        case Answer.SILENT:
            return (
                f"Port {address.port} takes connections and says nothing: its process or a tunnel hangs{by}.",
                f"{_wake(who)}Stop what listens there, or choose other ports: {_elsewhere(seen)}"
                if seen.taken is not None
                else f"On {address.host}: ss -ltnp shows who listens there; end it, and start telefabric up anew",
            )
        case Answer.CLOSED:
            return (
                f"Port {address.port} takes connections and closes them at once: a tunnel with nobody at its end{by}.",
                "telefabric up, on the machine that the tunnel leads to",
            )
        case Answer.STRANGER:
            return (
                f"Port {address.port} is another program's, which says {port.detail}{by}.",
                f"Correct --connect, or choose other ports: {_elsewhere(seen)}"
                if seen.taken is not None
                else "Correct --connect or TELEFABRIC_CONNECT; a proxy on the way answers so, too",
            )
    if seen.foreign:
        return (
            f"What answers at {address.url} is of another version, or no broker: {seen.foreign}{by}.",
            UPGRADE,
        )
    return (
        f"{address.url} speaks ZeroMQ, and does not answer as a broker: it is frozen, another program's, or one of a "
        f"broker's other ports{by}.",
        f"Name the broker's own port, such as {DEFAULT}; if it is that, start telefabric up anew",
    )


def _not_started(address: Address, seen: BrokerSeen, taken: Mapping[int, str]) -> Finding:
    if not taken:
        last = address.port + max(PORTS)
        listen = "" if address.url == DEFAULT else f" --listen {address.url}"
        return Finding(
            "broker", WARNING, f"Nobody answers at {address.url}; ports {address.port} to {last} are free.",
            f"telefabric up{listen}",
        )  # fmt: skip
    told = ", ".join(f"{port} ({PORTS[port - address.port]}, by {who})" for port, who in taken.items())
    return Finding(
        "broker", PROBLEM, f"Nobody answers at {address.url}, and of a broker's ports there are taken: {told}.",
        f"Stop what listens there, or choose other ports: {_elsewhere(seen)}",
    )  # fmt: skip


def _wake(who: str) -> str:
    """For a process that ^Z or a signal has stopped; nothing when its number is not known."""
    number = process_of(who)
    return f"kill -CONT {number} wakes a stopped one. " if number else ""


def _elsewhere(seen: BrokerSeen) -> str:
    return f"telefabric up --listen tcp://127.0.0.1:{seen.free or 'PORT'}"


def judge_version(status: Mapping[str, Any]) -> Finding:
    """The broker's against ours: they may differ as long as the protocol is one."""
    theirs = str(status.get("version", "0"))
    if theirs == __version__:
        return Finding("version", OK, f"The broker is of version {theirs}, as this program is.")
    older = numbers(theirs) < numbers(__version__)
    return Finding(
        "version", WARNING,
        f"The broker is {'older' if older else 'newer'} than this program: version {theirs}, this one {__version__}.",
        f"pip install -U telefabric, {'where the broker runs, and start telefabric up anew' if older else 'here'}",
    )  # fmt: skip
