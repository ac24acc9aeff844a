"""The brokers that a client may connect to: saved ones, what each answers, and joining another with a ticket.

`ask_broker` and `join_broker` block for seconds: a window calls them on another thread.
"""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from telefabric.address import DEFAULT, Address
from telefabric.errors import Foreign, NotAdmitted, TelefabricError, Unreachable
from telefabric.keys import saved_connections
from telefabric.keys.core.roles import Domain, Role, may_enter
from telefabric.keys.core.ticket import Ticket
from telefabric.keys.join import join_and_save
from telefabric.keys.pairs import join_pairs_in_child
from telefabric.keys.saved_connections import SavedConnection
from telefabric.peer.requests import ask_status

HERE = DEFAULT
"""The broker of this machine, where no other address is told."""
_SOON_S, _KNOCK_S, _LATE_S = 0.7, 2.0, 3.0
"""Most answer soon; a knock tells why one does not; one that is far is asked again, for longer."""
_WORDS = {
    "WANTS_KEYS": "asks for a key",
    "OTHER_SERVER": "wrong server key",
    "UNKNOWN": "key not known",
    "REFUSED": "key refused",
}
"""What became of the handshake → in two or three words."""


class KnownBroker(NamedTuple):
    """A saved connection, without its secret."""

    name: str
    url: str = ""
    role: str = ""
    runs: str = "*"
    may_watch: bool = False
    """Whether its role may see runs at all."""
    problem: str = ""
    """Why it cannot be used: a sentence with the remedy."""


class BrokerAnswer(NamedTuple):
    """What came of a question to a broker."""

    word: str
    """Two or three words; all else about a failure is in `problem`."""
    took_s: float | None = None
    """Connecting and answering; None when it failed."""
    live_runs: int = 0
    absent: tuple[str, ...] = ()
    """Required stores that are not attached."""
    problem: str = ""
    command: str = ""
    """What helps, to be typed."""


def known_brokers() -> list[KnownBroker]:
    """The saved connections of this user, by name."""
    return [_known(name) for name in saved_connections.names()]


def _known(name: str) -> KnownBroker:
    try:
        saved = saved_connections.load(name)
    except TelefabricError as error:
        return KnownBroker(name, problem=str(error))
    return KnownBroker(name, saved.address, saved.role.value, saved.runs, may_enter(saved.role, Domain.WATCH))


def forget_broker(name: str) -> None:
    """Its key stays known at the broker until it is revoked there. Raises `EnvironmentProblem`."""
    saved_connections.forget(name)


def join_broker(ticket: Ticket) -> KnownBroker:
    """Hand in a ticket, and save the connection. Its key pair is made in a child process.

    Raises `UsageError` or `EnvironmentProblem`, each with the remedy.
    """
    return _known(join_and_save(ticket, make_pairs=join_pairs_in_child).name)


def ask_broker(where: str) -> BrokerAnswer:
    """Ask the broker of a saved connection, or at an address. Blocks for five seconds at most."""
    try:
        name = saved_connections.at(where) if "://" in where else where
        saved = saved_connections.load(name) if name else None
        address = saved.dialled if saved else Address.parse(where)
    except TelefabricError as error:
        return BrokerAnswer("cannot be used", problem=str(error))
    doctor = f"telefabric doctor --connect {shlex.quote(where)}"
    try:
        return _asked(address)
    except NotAdmitted as error:
        return _not_admitted(error, address, saved) or BrokerAnswer("has no keys", problem=str(error), command=doctor)
    except Foreign as error:
        return BrokerAnswer("another version", problem=str(error), command=doctor)
    except Unreachable as error:
        word, problem = _knock(address) or ("does not answer", str(error))
        return BrokerAnswer(word, problem=problem, command="telefabric up" if where == HERE else doctor)


def _asked(address: Address) -> BrokerAnswer:
    """A broker that is far takes several round trips of the network, and is asked again when it listens at all."""
    try:
        return _answer(address, _SOON_S)
    except (Foreign, NotAdmitted):
        raise
    except Unreachable:
        if _knock(address) is not None:
            raise
    return _answer(address, _LATE_S)


def _answer(address: Address, timeout_s: float) -> BrokerAnswer:
    begun_s = time.monotonic()
    status: Mapping[str, Any] = ask_status(address, timeout_s).status
    took_s = time.monotonic() - begun_s
    streams = [stream for stream in status.get("streams", ()) if isinstance(stream, dict)]
    live = {stream.get("run_id") for stream in streams if stream.get("state") in ("running", "revived")}
    return BrokerAnswer("answers", took_s, len(live), tuple(status.get("absent", ())))


def _not_admitted(error: NotAdmitted, address: Address, saved: SavedConnection | None) -> BrokerAnswer | None:
    """None when keys are what is wrong with the question."""
    if error.reason == "WANTS_KEYS" and saved is not None:
        return None
    word, problem = _WORDS.get(error.reason, "not let in"), str(error)
    if saved is not None and saved.expires is not None and saved.expires <= datetime.now(UTC):
        word = "key expired"
        problem = f"the key {saved.name} expired on {saved.expires:%Y-%m-%d %H:%M} UTC: ask for a new ticket"
    name, role = (saved.name, saved.role) if saved else ("NAME", Role.CLIENT)
    here = address.host == "localhost" or address.host.startswith("127.")
    to = f"--this-machine --listen {address.url}" if here else f"--address {address.host}:{address.port}"
    return BrokerAnswer(word, problem=problem, command=f"telefabric keys invite {name} --role {role.value} {to}")


def _knock(address: Address) -> tuple[str, str] | None:
    """Why nobody answers there, in a word and in a sentence; None when something listens."""
    url, host, port = address.url, address.host, address.port
    if host.startswith("["):
        return None  # a broker has no such address, and its answer says so
    try:
        socket.create_connection((host, port), _KNOCK_S).close()
    except ConnectionRefusedError:
        there = "start one with telefabric up" if url == HERE else "start the broker on it, or check the port"
        return "nothing runs there", f"nothing listens at {url}: the machine is there, so {there}"
    except (socket.gaierror, UnicodeError):
        return "no such machine", (
            f"no machine named {host} is known here: check the spelling, and whether this machine is in its network"
        )
    except TimeoutError:
        return "no answer", (
            f"no answer from {url} within {_KNOCK_S:g} s: a machine without a broker refuses at once, so this one is "
            f"off, or a firewall drops port {port} on the way; a key is not the reason"
        )
    except OSError as error:
        return "no way there", f"{url} cannot be reached: {error.strerror}: see whether this machine has a network"
    return None
