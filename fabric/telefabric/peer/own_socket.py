"""The control socket for the broker's own user, where there are no keys: a file in a folder that only this user enters.

Over TCP nobody can tell the users of a machine apart. For this socket the system does: it keeps others out of the
folder, and it names the user at the other end. Both sides make the path from the address, so nothing has to be asked.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import zmq

from telefabric.address import Address
from telefabric.files import private
from telefabric.settings import runtime_folder, system_runtime_folder

SUPPORTED = hasattr(os, "getuid") and hasattr(socket, "AF_UNIX") and zmq.has("ipc")


def path_for(address: Address) -> Path:
    """Of the socket that belongs to a broker's address. A path that is too long for a socket gets a shorter folder."""
    host = "127.0.0.1" if address.host == "localhost" else address.host
    name = f"control-{host}-{address.port}-{_network()}"
    path = runtime_folder() / name
    return path if len(os.fsencode(path)) <= zmq.IPC_PATH_MAX_LEN else runtime_folder(system_runtime_folder()) / name


def _network() -> int:
    """The network that this process sees: containers that share a folder may all have a port of that number."""
    with suppress(OSError):
        return os.stat("/proc/self/ns/net").st_ino
    return 0


def control_url(address: Address) -> str:
    """Where this user dials the control socket of a broker: its own socket if there is one, else the address."""
    if not SUPPORTED or address.keys is not None:
        return address.url
    path = path_for(address)
    with suppress(OSError):
        if private.is_own(path.parent) and private.is_private(path.parent) and _is_served(path):
            return f"ipc://{path}"
    return address.url


def _is_served(path: Path) -> bool:
    """Not left by a broker that was killed."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # too many are waiting there already
            return True
        except OSError:
            return False
        return True


def is_of_own_user(frame: zmq.Frame) -> bool:
    """Who sent it, as the system told libzmq, which tells ZAP the same: its address, user, group and process."""
    _, *numbers = str(frame.get("Peer-Address")).split(":")
    return bool(numbers) and numbers[0] == str(os.getuid())
