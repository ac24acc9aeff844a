"""The processes that listen on the ports of this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from telefabric.address import DEFAULT, PORT_MAX, Address
from telefabric.doctor.checks.ports import PORTS
from telefabric.errors import UsageError

_LISTENING = "0A"
_STEP, _TRIES = 20, 50


def listeners(address: Address) -> dict[int, str] | None:
    """Ports of a broker at the address that are taken; None when it is on another machine."""
    try:
        address.require_loopback()
    except UsageError:
        return None
    return owners(range(address.port, address.port + len(PORTS)))


def owners(ports: Iterable[int]) -> dict[int, str]:
    """Port → the process that listens on it, for those of the given ports that are in use."""
    by_port = dict(_listening_sockets())
    return {port: _owner(by_port[port]) for port in ports if port in by_port}


def free_base(beside: int, given_away: tuple[int, int]) -> int | None:
    """A port for a broker, free with those above it and not `given_away`, at best near one; None when none is found."""
    for start in (beside, Address.parse(DEFAULT).port):
        for base in range(start + _STEP, start + _TRIES * _STEP, _STEP):
            top = base + len(PORTS) - 1
            if top <= PORT_MAX and (top < given_away[0] or base > given_away[1]) and _are_free(base, top):
                return base
    return None


def _are_free(base: int, top: int) -> bool:
    for port in range(base, top + 1):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


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
