"""Before a program starts: does a broker answer, does it let us in, are clocks and versions right. One line each."""

from __future__ import annotations

import time

from telefabric.address import Address
from telefabric.doctor import broker, ports, service
from telefabric.doctor.finding import OK, PROBLEM, WARNING, Finding
from telefabric.doctor.side_by_side import begin, seen_by
from telefabric.keys.core.roles import Domain, covers, may_enter
from telefabric.keys.saved_connections import SavedConnection

_LOOK_S = 2.0
"""The program waits so long at most. Its events wait in the spool for as long as it takes."""
_LATER = "Events wait in the spool until a broker takes them"


def look(address: Address, run_id: str) -> list[Finding]:
    """What there is to say of address, key, clock and versions, and of a store that is absent."""
    until_s = time.monotonic() + _LOOK_S
    asking, measuring = begin(_look_at_broker, address), begin(service.look_at_clock, address)
    seen, clock = seen_by(until_s, asking), seen_by(until_s, measuring)
    key = judge_key(service.look_at_key(address), run_id)
    if seen is None:
        return [Finding("address", WARNING, f"{address.url} has not answered within {_LOOK_S:g} s.", _LATER), key]
    found = broker.judge_broker(address, seen) or ports.judge_name(address.host, ports.look_up(address.host))
    assert found is not None  # a name without an address is a finding, too
    if seen.reply is None:
        return [found._replace(check="address", remedy=f"{found.remedy}. {_LATER}"), key]
    status = seen.reply.status
    absent = [service.judge_store(address, status, seen.reply.endpoints)] if status.get("absent") else []
    return [
        found._replace(check="address"),
        *absent,
        key,
        service.judge_clock(address, clock)[0],
        broker.judge_version(status),
    ]


def judge_key(key: SavedConnection | None, run_id: str) -> Finding:
    """Whether it may publish this run."""
    if key is None:
        return Finding("key", OK, "This connection has no key.")
    if may_enter(key.role, Domain.DATA) and covers(key.runs, run_id):
        until = f", until {key.expires:%Y-%m-%d %H:%M}" if key.expires else ""
        return Finding("key", OK, f"The key {key.name} may publish the runs {key.runs}{until}.")
    remedy = (
        f"telefabric keys invite NAME --role worker --runs '{run_id}', where the broker runs, and telefabric join here"
    )
    return Finding(
        "key", PROBLEM, f"The key {key.name}, a {key.role}'s for {key.runs}, cannot publish {run_id}.", remedy
    )


def _look_at_broker(address: Address) -> broker.BrokerSeen:
    return broker.look_at_broker(address, ports.look_up(address.host))
