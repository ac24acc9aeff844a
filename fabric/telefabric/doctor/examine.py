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
from telefabric.doctor import broker, installation, machine, ports, service, settings, storefile, streams
from telefabric.doctor.finding import Finding, say
from telefabric.doctor.ports import Answer, PortSeen
from telefabric.doctor.side_by_side import begin, in_time, seen_by
from telefabric.files import open_files
from telefabric.files.processes import listeners
from telefabric.keys.core.roles import Domain, may_enter
from telefabric.settings import STORE_FILE_NAME
from telefabric.wire.control import StatusReply

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
        "settings": lambda: [*settings.judge_settings(settings.look_at_settings())],
        "broker": partial(about_broker, address, data),
        "limits": partial(about_limits, address),
        "data folder": partial(about_data, data),
        "spool folder": partial(about_spool, spool, address),
    }
    found: list[Finding] = []
    for name, rows in zip(parts, in_time(list(parts.values()), EXAMINE_S), strict=True):
        late = say("late", "hangs", s=EXAMINE_S)._replace(check=name)
        found += [late] if rows is None else filter(None, rows)
    return found


def about_installation() -> Rows:
    others = "msgspec", "msgpack", "platformdirs"
    return [
        installation.judge_python(tuple(sys.version_info[:3])),
        installation.judge_zmq(zmq.__version__, zmq.zmq_version_info()),
        installation.judge_others(dict(zip(others, map(installation.package_version, others), strict=True))),
        installation.judge_sqlite(*installation.look_at_sqlite()),
    ]


def about_qt() -> Rows:
    pyside = installation.package_version("PySide6-Essentials") or installation.package_version("PySide6")
    return [
        installation.judge_qt(pyside, tuple(sys.version_info[:3]), installation.look_for_qt_libraries()),
        installation.judge_display(pyside, sys.platform, os.environ),
    ]


def about_broker(address: Address, data: Path) -> Rows:
    """The findings on the broker and on the store's file, whose writer the broker may know."""
    name = ports.look_up(address.host)
    seen = broker.look_at_broker(address, name)
    path, opened = data / STORE_FILE_NAME, storefile.look_at_store_open(data)
    rows: Rows = [ports.judge_name(address.host, name), broker.judge_broker(address, seen)]
    attached, is_alone = None, True
    if seen.reply is not None:
        status = seen.reply.status
        attached = any(one.get("name") == streams.STORE for one in status.get("durable", ()))
        hosts = {one["host"] for one in status.get("streams", ()) if one.get("host")}
        is_alone = address.is_here and len(hosts) < 2
        holder = storefile.judge_holder(path, opened) if address.is_here else ""
        rows += about_service(address, name.addresses[0], seen.reply, holder)
    synchronised = machine.look_at_synchronisation()
    rows.append(machine.judge_time(machine.look_at_clock_source(), synchronised, alone=is_alone))
    return [*rows, storefile.judge_store_open(path, opened, attached)]


def about_service(address: Address, host: str, reply: StatusReply, holder: str) -> Rows:
    """The findings on a broker that answers. `holder`: see `judge_store`."""
    deadline_s = time.monotonic() + _SERVICE_S
    status, named = reply.status, service.ports_named(address, reply.endpoints)
    key = service.look_at_key(address)
    may_watch, may_ask = (key is None or may_enter(key.role, domain) for domain in (Domain.WATCH, Domain.QUERY))
    clock, live = begin(service.look_at_clock, address), begin(service.look_at_live, address) if may_watch else None
    queries = begin(service.look_at_queries, address) if reply.endpoints.query and may_ask else None
    knocks = {
        name: begin(ports.look_at_port, host if one.host == address.host else one.host, one.port)
        for name, one in named.items()
    }
    answers = {name: seen_by(deadline_s, knock) or PortSeen(Answer.SILENT) for name, knock in knocks.items()}
    silent = [one.port for name, one in named.items() if answers[name].answer is Answer.SILENT]
    owners = listeners(silent) if silent and address.is_here else {}
    reached = {name for name, seen in answers.items() if seen.answer is Answer.ZEROMQ}
    clock_seen = seen_by(deadline_s, clock)
    live_seen = seen_by(deadline_s if "watch" in reached else time.monotonic() + _REFUSAL_S, live) if live else None
    is_refused = live_seen is not None and live_seen.refusal
    return [
        broker.judge_version(status),
        service.judge_key(key),
        ports.judge_ports(address, {name: one.port for name, one in named.items()}, answers, owners),
        service.judge_store(address, status, reply.endpoints, holder),
        service.judge_queries(address, seen_by(deadline_s, queries)) if queries and "queries" in reached else None,
        service.judge_quarantine(address, status),
        service.judge_live(address, live_seen) if live and ("watch" in reached or is_refused) else None,
        *service.judge_clock(address, clock_seen),
        streams.judge_worker_clocks(status),
        *streams.judge_streams(address, status, holder),
        *streams.judge_refusals(address, status),
    ]


def about_limits(address: Address) -> Rows:
    files = open_files.most()
    return [
        machine.judge_open_files(files) if files else None,
        machine.judge_socket_buffers(*machine.look_at_socket_buffers()),
        machine.judge_ports_of_others(address, *machine.look_at_port_range()),
        machine.judge_shm(machine.look_at_shm()),
        machine.judge_logout(machine.look_at_logout()),
    ]


def about_data(data: Path) -> Rows:
    log = data / storefile.STORE_LOG
    return [
        machine.judge_folder("data folder", "TELEFABRIC_DATA", machine.look_at_folder(data)),
        storefile.judge_store_file(storefile.look_at_store_file(data)),
        storefile.judge_store_log(log, storefile.look_at_size(log)),
    ]


def about_spool(spool: Path, address: Address) -> Rows:
    return [
        machine.judge_folder("spool folder", "TELEFABRIC_SPOOL", machine.look_at_folder(spool)),
        machine.judge_spools(spool, machine.look_for_spools(spool), address),
    ]
