"""Who listens on the ports of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from telefabric.address import Address
from telefabric.cli.doctor.verdicts.ports import PORTS
from telefabric.errors import UsageError

_LISTENING = "0A"


def listeners(address: Address) -> dict[int, str] | None:
    """Ports of a broker at the address that are taken; None when it is on another machine."""
    try:
        address.require_loopback()
    except UsageError:
        return None
    by_port = dict(_listening_sockets())
    wanted = range(address.port, address.port + len(PORTS))
    return {port: _owner(by_port[port]) for port in wanted if port in by_port}


def _listening_sockets() -> Iterator[tuple[int, str]]:
    """Port and inode of every TCP socket that listens on this machine."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:  # no Linux, or no IPv6
            continue
        for words in map(str.split, lines):
            if words[3] == _LISTENING:
                yield int(words[1].rpartition(":")[2], 16), words[9]


def _owner(inode: str) -> str:
    """The process that holds a socket, as far as this user may look."""
    link = f"socket:[{inode}]"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(entry) == link for entry in (process / "fd").iterdir()):
                return f"process {process.name}, {(process / 'comm').read_text().strip()}"
        except OSError:  # it has just ended, or is another user's
            continue
    return "a process of another user"
