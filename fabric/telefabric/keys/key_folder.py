"""The folder of keys in a data folder: the server key, the registry, and the key of the services themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec.structs import replace
from zmq.utils import z85

from telefabric.address import Address
from telefabric.errors import EnvironmentProblem, UsageError
from telefabric.files import private
from telefabric.keys import registry_file, saved_connections
from telefabric.keys.core.registry import Key, Registry, TicketRecord
from telefabric.keys.core.roles import Role
from telefabric.keys.core.ticket import Ticket
from telefabric.keys.pairs import Pair, make_pair
from telefabric.keys.registry_file import RegistryFile
from telefabric.keys.saved_connections import SavedConnection

OFFSET_ENROL = 7
"""Of the port where a broker takes joins, above its own."""
_SERVER, _OWNER, _SEEN = "server.json", "owner.json", "seen.json"
OWNER = "owner"


class ServerKey(msgspec.Struct, frozen=True):
    """The pair by which clients know the broker."""

    public: str
    secret: str
    created: datetime
    following: Pair | None = None
    """The next pair, and when it is taken."""
    at: datetime | None = None

    @property
    def now(self) -> ServerKey:
        """The key that is in force: this one, or the one that has followed it."""
        if self.following is None or self.at is None or datetime.now(UTC) < self.at:
            return self
        return ServerKey(*self.following, self.at)

    def __repr__(self) -> str:
        """Without the secret."""
        return f"ServerKey(public={self.public!r})"


class KeyFolder:
    """`DATA/keys`; it need not be there."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.path = data / "keys"

    @property
    def seen(self) -> Path:
        return self.path / _SEEN

    @property
    def exists(self) -> bool:
        """The services of the data folder use keys. Raises `EnvironmentProblem` when this user may not know."""
        try:
            return (self.path / _SERVER).exists()
        except OSError as error:
            raise EnvironmentProblem(
                f"{self.path} cannot be looked at: {error.strerror}: run this as the user that it belongs to, or name "
                "another folder with --data"
            ) from None

    def if_any(self) -> KeyFolder | None:
        """This folder, if there are keys in it."""
        return self if self.exists else None

    def init(self, address: str) -> SavedConnection:
        """Make the server key, an empty registry, and the owner's key; `address` is where its services listen.

        Raises `UsageError` when there are keys, `EnvironmentProblem` when they cannot be written.
        """
        if self.exists:
            raise UsageError(
                f"{self.path} has keys already: go on with telefabric keys invite; to begin again, with new tickets "
                "for everybody, stop the services and move that folder away"
            )
        now = datetime.now(UTC)
        pair, own = make_pair(), make_pair()
        owner = SavedConnection(OWNER, Role.OWNER, address, pair.public, own.public, own.secret, now)
        registry = Registry().add(own.public, Key(OWNER, Role.OWNER, now))
        try:
            private.make_folder(self.path)
            private.give_to_owner_of_parent(self.path)
            registry_file.write(self.path / registry_file.FILE_NAME, registry)
            saved_connections.write(self.path / _OWNER, owner)
            self._write_server(ServerKey(*pair, now))  # last: it is what makes the services use keys
        except OSError as error:
            raise EnvironmentProblem(f"{self.path} cannot be written: {error.strerror}") from None
        return owner

    def rotate(self, at: datetime) -> None:
        """Make the server's next key, which is taken at that time. Raises `EnvironmentProblem`."""
        server, owner, pair = self.server(), self.owner(), make_pair()
        try:
            self._write_server(replace(server, following=pair, at=at))
        except OSError as error:
            raise EnvironmentProblem(f"{self.path} cannot be written: {error.strerror}") from None
        saved_connections.write(self.path / _OWNER, saved_connections.with_next(owner, pair.public, at))

    def _write_server(self, server: ServerKey) -> None:
        private.replace(self.path / _SERVER, msgspec.json.format(msgspec.json.encode(server), indent=2) + b"\n")

    def invite(self, record: TicketRecord, address: Address) -> Ticket:
        """Make a ticket for those who dial this address. Raises `UsageError` when its name is taken."""
        server, pair = self.server(), make_pair()
        self.registry().change(lambda registry: (registry.invite(pair.public, record), None))
        return Ticket(
            z85.decode(server.public),
            z85.decode(pair.secret),
            address.url,
            address.beside(OFFSET_ENROL).port,
            int(record.expires.timestamp()),
        )

    def server(self) -> ServerKey:
        """Raises `UsageError` without keys, `EnvironmentProblem` when the file cannot be used."""
        path = self.path / _SERVER
        try:
            if not private.is_private(path):
                raise EnvironmentProblem(
                    f"others may read {path}, which holds the server's secret key: if nobody has, take it from them "
                    f"with chmod 600 {path}, else move {self.path} away and begin again with telefabric keys init"
                )
            return msgspec.json.decode(path.read_bytes(), type=ServerKey).now
        except FileNotFoundError:
            raise UsageError(f"{self.path} has no keys yet: make them with telefabric keys init") from None
        except OSError as error:
            raise EnvironmentProblem(f"{path} cannot be read: {error.strerror}: see who may read it") from None
        except msgspec.DecodeError:
            raise EnvironmentProblem(f"{path} is damaged: restore it from a backup") from None

    def registry(self) -> RegistryFile:
        """Raises `UsageError` without keys, `EnvironmentProblem` when it cannot be read."""
        self.server()
        return RegistryFile(self.path)

    def owner(self) -> SavedConnection:
        """The key of the services themselves. Raises `EnvironmentProblem`."""
        return saved_connections.read(self.path / _OWNER)
