"""The program that answers at the address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from telefabric import __version__
from telefabric.address import DEFAULT, Address
from telefabric.doctor.finding import Finding, counted, numbers, say
from telefabric.doctor.machine import look_at_port_range
from telefabric.doctor.ports import PORTS, Answer, NameSeen, PortSeen, free_base, look_at_port, ports_taken, tunnel
from telefabric.errors import Foreign, NotAdmitted, Unreachable
from telefabric.files.processes import number_of
from telefabric.peer.requests import ask_status
from telefabric.wire import control

ASK_S = 1.5


class BrokerSeen(NamedTuple):
    """The kind of program that answered at the address."""

    reply: control.StatusReply | None
    """A broker's."""
    port: PortSeen | None = None
    """The broker's own port; None when its host has no address."""
    foreign: str = ""
    """The fault in an answer that is not of this protocol."""
    not_admitted: str = ""
    """Why it does not let this side in."""
    taken: Mapping[int, str] | None = None
    """Ports of the address that are in use → the process that listens; None if the address is on another machine."""
    free: int | None = None
    """A port of this machine for a broker, free with those above it, and none that the system gives away."""


def look_at_broker(address: Address, name: NameSeen) -> BrokerSeen:
    """Find out which program is there. Takes five seconds at most."""
    if not name.addresses:
        return BrokerSeen(None)
    port = look_at_port(name.addresses[0], address.port)
    foreign = not_admitted = ""
    if port.answer is Answer.ZEROMQ:
        try:
            reply = ask_status(address, ASK_S)
        except Foreign as error:
            foreign = str(error.__context__ or error)
        except NotAdmitted as error:
            not_admitted = str(error)
        except Unreachable:
            pass  # the verdict says so: it speaks ZeroMQ, and no more
        else:
            return BrokerSeen(reply, port)
    taken = ports_taken(address)
    free = None if taken is None else free_base(address.port, look_at_port_range())
    return BrokerSeen(None, port, foreign, not_admitted, taken, free)


def judge_broker(address: Address, seen: BrokerSeen) -> Finding | None:
    """None when the name could not even be resolved."""
    if seen.reply is not None:
        streams = counted(len(seen.reply.status.get("streams", ())), "stream")
        live = counted(len(seen.reply.status.get("live", ())), "live subscriber")
        return say("broker", "fine", protocol=control.PROTOCOL, address=address, streams=streams, live=live)
    if seen.port is None:
        return None
    what, taken = seen.port.answer.value, seen.taken or {}
    if seen.port.answer is Answer.REFUSED and seen.taken is not None:
        what = "taken" if taken else "not started"
    elif seen.port.answer is Answer.ZEROMQ and seen.foreign:
        what = "foreign"
    elif seen.not_admitted:
        what = "not admitted"
    elif seen.port.answer in (Answer.SILENT, Answer.STRANGER) and seen.taken is not None:
        what += " here"
    who = taken.get(address.port, "")
    number = number_of(who)
    forward = tunnel(address, address.port, (address.port + place for place in PORTS if place))
    return say(
        "broker", what, address=address, last=address.port + max(PORTS), default=DEFAULT, detail=seen.port.detail,
        foreign=seen.foreign, not_admitted=seen.not_admitted, by=f" (listening there: {who})" if who else "",
        taken=", ".join(f"{port} ({PORTS[port - address.port]}, by {owner})" for port, owner in taken.items()),
        up=address.up,
        elsewhere=f"telefabric up --listen tcp://127.0.0.1:{seen.free or 'PORT'}",
        wake=f"kill -CONT {number} wakes a stopped one. " if number else "",
        start=f"Start {address.up} there. {forward}" if address.keys else
        f"A broker without keys listens on its own machine only: start {address.up} there, and forward its ports: "
        f"{forward}",
    )  # fmt: skip


def judge_version(status: Mapping[str, Any]) -> Finding:
    """The broker's against ours: they may differ as long as the protocol is one."""
    theirs = str(status.get("version", "0"))
    what = "fine" if theirs == __version__ else "older" if numbers(theirs) < numbers(__version__) else "newer"
    return say("version", what, theirs=theirs, ours=__version__)
