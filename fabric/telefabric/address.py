"""Addresses: one URL is all that a user types; the other sockets follow from it."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from telefabric.errors import UsageError, WireError

DEFAULT = "tcp://127.0.0.1:7750"
_HOST = re.compile(r"\*|\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*")
_PORT = re.compile(r"[0-9]{1,5}")
PORT_MAX = 65_535
_PORTS_ABOVE = 7
"""A broker's other sockets, and its store's, are on the ports above its own."""


class ClientKeys(NamedTuple):
    """The keys by which a program proves its identity and recognises the broker, in Z85, as ZeroMQ writes keys."""

    server: str
    """The broker's public key."""
    public: str
    secret: str

    def __repr__(self) -> str:
        """Without the secret, which a log may not show."""
        return f"ClientKeys(server={self.server!r}, public={self.public!r})"


class Address(NamedTuple):
    """A TCP address as typed, ``tcp://host:port``, and the keys with which it is dialled."""

    host: str
    port: int
    keys: ClientKeys | None = None

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises `UsageError` for anything but ``tcp://host:port``."""
        scheme, separator, rest = url.partition("://")
        host, colon, port = rest.rpartition(":")
        well_formed = scheme == "tcp" and separator and colon and _HOST.fullmatch(host) and _PORT.fullmatch(port)
        if not well_formed or int(port) > PORT_MAX:
            raise UsageError(f"{url!r} is not an address: write tcp://HOST:PORT, such as {DEFAULT}")
        return cls(host, int(port))

    @property
    def url(self) -> str:
        return f"tcp://{self.host}:{self.port}"

    @property
    def is_here(self) -> bool:
        """Whether it is dialled on this machine, where a broker is, or this end of a tunnel."""
        return self.host in ("localhost", "[::1]") or self.host.startswith("127.")

    @property
    def up(self) -> str:
        """The command that starts a broker with this port, on its machine: without keys, behind a tunnel."""
        there = "*" if self.keys else "127.0.0.1"
        host = self.host.replace("[::1]", "127.0.0.1") if self.is_here else there  # brokers serve IPv4 only
        wanted = f"tcp://{host}:{self.port}"
        return "telefabric up" if wanted == DEFAULT else f"telefabric up --listen {shlex.quote(wanted)}"

    def beside(self, offset: int) -> Address:
        """The address of another socket of the same service; port 0 stays 0, any free one.

        Raises `UsageError` when the port would be too large.
        """
        if self.port + offset > PORT_MAX:
            raise UsageError(
                f"{self.url} leaves no room for the sockets on the ports above it: "
                f"choose a port up to {PORT_MAX - _PORTS_ABOVE}"
            )
        return self._replace(port=self.port + offset if self.port else 0)

    def resolve(self, endpoint: str) -> str:
        """The URL of an endpoint that a peer at this address named: ``*:port`` means the host just dialled.

        Raises `WireError` for one that nobody could connect to.
        """
        url = f"tcp://{self.host}:{endpoint[2:]}" if endpoint.startswith("*:") else endpoint
        try:
            return Address.parse(url).url
        except UsageError:
            raise WireError(
                "bad_endpoint", f"{self.url} names {endpoint[:80]!r} as an endpoint, which is not valid"
            ) from None

    def require_loopback(self) -> None:
        """Raises `UsageError` unless only this machine can reach the address."""
        if not _is_loopback(self.host):
            raise UsageError(
                f"{self.url} can be reached from other machines, and there are no keys to protect it: make them with "
                f"telefabric keys init, or listen on tcp://127.0.0.1:{self.port}"
            )


def _is_loopback(host: str) -> bool:
    """True when every address of the host is this machine's own loopback."""
    import ipaddress  # only services ask, and workers import this module
    import socket

    bare = host.removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        pass  # a name, not a number
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(bare, None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(address).is_loopback for address in found)
