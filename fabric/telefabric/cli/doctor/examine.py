"""All looks, each with its verdict, in order."""

from __future__ import annotations

import sys
from pathlib import Path

import zmq

from telefabric.address import Address
from telefabric.cli.doctor.finding import Finding
from telefabric.cli.doctor.looks.broker import look_at_broker, look_at_clock
from telefabric.cli.doctor.looks.installation import look_at_sqlite, look_for_qt_libraries, package_version
from telefabric.cli.doctor.looks.machine import look_at_folder, look_at_open_files, look_at_shm, look_for_spools
from telefabric.cli.doctor.looks.storefile import look_at_size
from telefabric.cli.doctor.verdicts.broker import judge_broker, judge_clock, judge_store
from telefabric.cli.doctor.verdicts.installation import judge_others, judge_python, judge_qt, judge_sqlite, judge_zmq
from telefabric.cli.doctor.verdicts.machine import judge_folder, judge_open_files, judge_shm, judge_spools
from telefabric.cli.doctor.verdicts.storefile import STORE_LOG, judge_store_log


def examine(address: Address, data: Path, spool: Path) -> list[Finding]:
    """All findings, in order."""
    python = tuple(sys.version_info[:3])
    broker = look_at_broker(address)
    found = [
        judge_python(python),
        judge_zmq(zmq.__version__, zmq.zmq_version_info()),
        judge_others({name: package_version(name) for name in ("msgspec", "msgpack", "platformdirs")}),
        judge_sqlite(*look_at_sqlite()),
        judge_qt(package_version("PySide6-Essentials") or package_version("PySide6"), python, look_for_qt_libraries()),
        judge_broker(address, broker),
        judge_store(address, broker),
        judge_clock(look_at_clock(address) if broker.status is not None else None),
        judge_open_files(*look_at_open_files()),
        judge_shm(look_at_shm()),
        judge_folder("data folder", "TELEFABRIC_DATA", look_at_folder(data)),
        judge_store_log(data / STORE_LOG, look_at_size(data / STORE_LOG)),
        judge_folder("spool folder", "TELEFABRIC_SPOOL", look_at_folder(spool)),
        judge_spools(spool, *look_for_spools(spool), address),
    ]
    return [finding for finding in found if finding is not None]
