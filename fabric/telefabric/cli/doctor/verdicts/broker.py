"""Verdicts on the broker at the address and its store. No input or output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from telefabric.address import DEFAULT, Address
from telefabric.cli.doctor.finding import OK, PROBLEM, WARNING, Finding, counted
from telefabric.wire import control

CLOCK_OFF_S = 1.0
PORTS = {0: "control", 1: "data", 2: "live", 3: "durable", 4: "queries", 5: "tap", 6: "watch"}


class BrokerSeen(NamedTuple):
    """What answered at the address."""

    status: dict[str, Any] | None
    query: str | None = None
    taken: Mapping[int, str] | None = None
    """Ports of the address that somebody listens on, and who; None when it is on another machine."""


def judge_broker(address: Address, seen: BrokerSeen) -> Finding:
    if seen.status is not None:
        streams, live = len(seen.status.get("streams", ())), len(seen.status.get("live", ()))
        return Finding(
            "broker", OK,
            f"A broker of protocol {control.PROTOCOL} answers at {address.url}: "
            f"{counted(streams, 'stream')}, {counted(live, 'live subscriber')}.",
        )  # fmt: skip
    listen = "" if address.url == DEFAULT else f" --listen {address.url}"
    if seen.taken is None:
        return Finding(
            "broker", PROBLEM, f"Nobody answers at {address.url}, which is on another machine.",
            f"Start it there with telefabric up{listen}, or correct TELEFABRIC_CONNECT.",
        )  # fmt: skip
    if not seen.taken:
        last = address.port + max(PORTS)
        return Finding(
            "broker", WARNING, f"Nobody answers at {address.url}; ports {address.port} to {last} are free.",
            f"telefabric up{listen}",
        )  # fmt: skip
    taken = ", ".join(f"{port} ({PORTS[port - address.port]}, by {who})" for port, who in seen.taken.items())
    return Finding(
        "broker", PROBLEM, f"No broker of this version answers at {address.url}, and taken are: {taken}.",
        f"Stop what listens there, or choose other ports: telefabric up --listen tcp://127.0.0.1:{_elsewhere(address)}",
    )  # fmt: skip


def judge_store(address: Address, seen: BrokerSeen) -> Finding | None:
    """None when there is no broker that could have one."""
    if seen.status is None:
        return None
    absent = seen.status.get("absent", [])
    if absent:
        return Finding(
            "store", PROBLEM, f"Nothing is stored: no {' and no '.join(absent)} is attached to the broker.",
            f"telefabric store --connect {address.url}",
        )  # fmt: skip
    names = ", ".join(one["name"] for one in seen.status.get("durable", ()))
    if seen.query is None:
        return Finding(
            "store", WARNING, f"{names} is attached, and nobody answers queries: clients see no history.",
            f"telefabric store --connect {address.url}",
        )  # fmt: skip
    return Finding("store", OK, f"{names} is attached and answers queries at {address.resolve(seen.query)}.")


def judge_clock(offset_s: float | None) -> Finding | None:
    if offset_s is None:
        return None
    if abs(offset_s) > CLOCK_OFF_S:
        way = "ahead of" if offset_s < 0 else "behind"
        return Finding(
            "clock", WARNING,
            f"This machine's clock is {abs(offset_s):.1f} s {way} the broker's: times look wrong, order does not.",
            "sudo timedatectl set-ntp true",
        )  # fmt: skip
    return Finding("clock", OK, f"The clock is within {abs(offset_s) * 1000:.1f} ms of the broker's.")


def _elsewhere(address: Address) -> int:
    return address.port + 20 if address.port + 30 < 65_536 else address.port - 20
