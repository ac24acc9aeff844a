"""All looks, each with its verdict, in order; side by side, and no longer than `EXAMINE_S` whatever hangs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import zmq

from telefabric.address import Address
from telefabric.doctor.absent import STORE
from telefabric.doctor.checks import broker, installation, machine, ports, service, settings, storefile, streams
from telefabric.doctor.checks.broker import BrokerSeen
from telefabric.doctor.checks.ports import Answer, PortSeen
from telefabric.doctor.finding import WARNING, Finding
from telefabric.doctor.probes import broker as at_broker
from telefabric.doctor.probes import machine as at_machine
from telefabric.doctor.probes import storefile as at_storefile
from telefabric.doctor.probes.installation import look_at_sqlite, look_for_qt_libraries, package_version
from telefabric.doctor.probes.listeners import owners
from telefabric.doctor.probes.ports import look_at_port, look_up
from telefabric.doctor.probes.settings import look_at_settings
from telefabric.doctor.probes.side_by_side import begin, in_time, seen_by

EXAMINE_S = 9.0
_SERVICE_S = 3.6
"""Time for the probes of a broker that answers; those before take five seconds at most."""
_REFUSAL_S = 0.5
"""A refusal comes as quickly as the clock's answers, a tick only by a port that can be reached."""

Rows = list[Finding | None]


def examine(address: Address, data: Path, spool: Path) -> list[Finding]:
    """All findings, in order."""
    parts: dict[str, Callable[[], Rows]] = {
        "packages": about_installation,
        "qt": about_qt,
        "settings": lambda: [*settings.judge_settings(look_at_settings())],
        "broker": partial(about_broker, address, data),
        "limits": partial(about_limits, address),
        "data folder": partial(about_data, data),
        "spool folder": partial(about_spool, spool, address),
    }
    found: list[Finding] = []
    for name, rows in zip(parts, in_time(list(parts.values()), EXAMINE_S), strict=True):
        found += [_late(name)] if rows is None else [row for row in rows if row is not None]
    return found


def _late(name: str) -> Finding:
    return Finding(
        name, WARNING, f"The look at it did not end within {EXAMINE_S:g} s: a disk or a network hangs.",
        "dmesg | tail; a network disk that hangs: umount -f FOLDER",
    )  # fmt: skip


def about_installation() -> Rows:
    return [
        installation.judge_python(tuple(sys.version_info[:3])),
        installation.judge_zmq(zmq.__version__, zmq.zmq_version_info()),
        installation.judge_others({name: package_version(name) for name in ("msgspec", "msgpack", "platformdirs")}),
        installation.judge_sqlite(*look_at_sqlite()),
    ]


def about_qt() -> Rows:
    pyside = package_version("PySide6-Essentials") or package_version("PySide6")
    return [
        installation.judge_qt(pyside, tuple(sys.version_info[:3]), look_for_qt_libraries()),
        installation.judge_display(pyside, sys.platform, os.environ),
    ]


def about_broker(address: Address, data: Path) -> Rows:
    """The findings on the broker and on the store's file, whose writer the broker may know."""
    name = look_up(address.host)
    seen = at_broker.look_at_broker(address, name)
    durable = () if seen.status is None else seen.status.get("durable", ())
    attached = None if seen.status is None else any(one.get("name") == STORE for one in durable)
    path, opened = data / storefile.STORE, at_storefile.look_at_store_open(data)
    written = storefile.judge_store_open(path, opened, attached)
    rows: Rows = [ports.judge_name(address.host, name), broker.judge_broker(address, seen)]
    if seen.status is not None:
        holder = storefile.judge_holder(path, opened) if ports.is_here(address) else ""
        rows += about_service(address, name.addresses[0], seen, holder)
    synchronised = at_machine.look_at_synchronisation()
    is_alone = seen.status is None or (ports.is_here(address) and len(hosts_of(seen)) < 2)
    return [*rows, machine.judge_time(at_machine.look_at_clock_source(), synchronised, alone=is_alone), written]


def hosts_of(seen: BrokerSeen) -> set[str]:
    """The machines whose workers the broker serves."""
    return {one["host"] for one in (seen.status or {}).get("streams", ()) if one.get("host")}


def about_service(address: Address, host: str, seen: BrokerSeen, holder: str) -> Rows:
    """The findings on a broker that answers. `holder`: see `judge_store`."""
    assert seen.status is not None
    assert seen.endpoints is not None
    deadline_s = time.monotonic() + _SERVICE_S
    status, named = seen.status, at_broker.ports_named(address, seen.endpoints)
    clock = begin(partial(at_broker.look_at_clock, address))
    live = begin(partial(at_broker.look_at_live, address))
    queries = begin(partial(at_broker.look_at_queries, address)) if seen.endpoints.query else None
    knocks = {
        name: begin(partial(look_at_port, host if one.host == address.host else one.host, one.port))
        for name, one in named.items()
    }
    answers = {name: seen_by(deadline_s, knock) or PortSeen(Answer.SILENT) for name, knock in knocks.items()}
    silent = [one.port for name, one in named.items() if answers[name].answer is Answer.SILENT]
    silent_owners = owners(silent) if silent and ports.is_here(address) else {}
    can_watch = "watch" in answers and answers["watch"].answer is Answer.ZEROMQ
    can_ask = queries is not None and answers["queries"].answer is Answer.ZEROMQ
    clock_seen = seen_by(deadline_s, clock)
    live_seen = seen_by(deadline_s if can_watch else time.monotonic() + _REFUSAL_S, live)
    is_refused = live_seen is not None and live_seen.refusal
    return [
        broker.judge_version(status),
        ports.judge_ports(address, {name: one.port for name, one in named.items()}, answers, silent_owners),
        service.judge_store(address, status, seen.endpoints, holder),
        service.judge_queries(address, seen_by(deadline_s, queries)) if queries and can_ask else None,
        service.judge_quarantine(address, status),
        service.judge_live(address, live_seen) if can_watch or is_refused else None,
        service.judge_clock(clock_seen),
        service.judge_round_trip(address, clock_seen),
        streams.judge_worker_clocks(status),
        *streams.judge_streams(address, status, holder),
        *streams.judge_refusals(address, status),
    ]


def about_limits(address: Address) -> Rows:
    return [
        machine.judge_open_files(*at_machine.look_at_open_files()),
        machine.judge_socket_buffers(*at_machine.look_at_socket_buffers()),
        machine.judge_ports_of_others(address, *at_machine.look_at_port_range()),
        machine.judge_shm(at_machine.look_at_shm()),
    ]


def about_data(data: Path) -> Rows:
    log = data / storefile.STORE_LOG
    return [
        machine.judge_folder("data folder", "TELEFABRIC_DATA", at_machine.look_at_folder(data)),
        storefile.judge_store_file(at_storefile.look_at_store_file(data)),
        storefile.judge_store_log(log, at_storefile.look_at_size(log)),
    ]


def about_spool(spool: Path, address: Address) -> Rows:
    return [
        machine.judge_folder("spool folder", "TELEFABRIC_SPOOL", at_machine.look_at_folder(spool)),
        machine.judge_spools(spool, at_machine.look_for_spools(spool), address),
    ]
