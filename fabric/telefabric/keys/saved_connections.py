"""The connections of a user: one file each, with the address, the broker's public key and a key of one's own."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

import msgspec
from msgspec.structs import replace

from telefabric.address import Address, ClientKeys
from telefabric.errors import EnvironmentProblem, UsageError
from telefabric.files import private
from telefabric.keys.core.roles import Role
from telefabric.keys.next_keys import learn

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SUFFIX = ".json"


class SavedConnection(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the file holds."""

    name: str
    """Of the key, as the registry has it."""
    role: Role
    address: str
    server: str
    """The broker's public key."""
    public: str
    secret: str
    joined: datetime
    runs: str = "*"
    expires: datetime | None = None
    next_server: str = ""
    """The broker's next public key, and when it takes it."""
    next_at: datetime | None = None

    def __repr__(self) -> str:
        """Without the secret, which a log may not show."""
        return f"SavedConnection(name={self.name!r}, role={self.role.value!r}, address={self.address!r})"

    @property
    def keys(self) -> ClientKeys:
        if self.next_at is not None:
            learn(self.server, self.next_server, self.next_at.timestamp())
        return ClientKeys(self.server, self.public, self.secret)

    @property
    def dialled(self) -> Address:
        """The address with its keys."""
        return Address.parse(self.address)._replace(keys=self.keys)


def require_name(name: str) -> str:
    """Names of keys and connections are names of files too. Raises `UsageError` for another."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a key: take up to 64 letters, digits, dots, dashes and underscores, "
            "with a letter or digit first"
        )
    return name


def folder() -> Path:
    """Where this user's are. Raises `UsageError` without a home folder."""
    given = os.environ.get("XDG_CONFIG_HOME", "").strip()
    try:
        found = Path(given) if given else Path.home() / ".config"  # as platformdirs says, which takes 30 ms
    except RuntimeError:
        raise UsageError("this user has no home folder for saved connections: set XDG_CONFIG_HOME") from None
    if os.name == "nt":
        found = Path(os.environ.get("LOCALAPPDATA", found))
    return found / "telefabric" / "connections"


def names() -> list[str]:
    found = (path.name for path in folder().glob("*" + _SUFFIX))
    return sorted(name.removesuffix(_SUFFIX) for name in found if _NAME.fullmatch(name))


def require_free(name: str) -> None:
    """Raises `UsageError` for a name that is saved already, or cannot be one."""
    if require_name(name) in names():
        raise UsageError(
            f"{name} is saved already, in {folder()}: join with --name and another name, or remove that file first"
        )


def free_name(wanted: str) -> str:
    """This name, or with a number behind it where it is saved already."""
    taken = set(names())
    numbered = (f"{wanted}-{number}" for number in count(2))
    return next(name for name in chain([wanted], numbered) if name not in taken)


def load(name: str) -> SavedConnection:
    """Raises `UsageError` for a name that is not saved, `EnvironmentProblem` for a file that cannot be used."""
    path = folder() / (require_name(name) + _SUFFIX)
    if not os.path.exists(path):
        known = f"saved are {', '.join(names())}" if names() else "none is saved yet (telefabric join)"
        raise UsageError(f"{name!r} is neither an address such as tcp://HOST:PORT nor a saved connection: {known}")
    return read(path)


def is_saved(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and os.path.exists(folder() / (name + _SUFFIX))


def address_of(broker: str) -> Address:
    """A broker by its address, or by the name of a saved connection, with the keys for it where one is saved.

    Raises `UsageError` for what is neither, `EnvironmentProblem` for a saved connection that cannot be used.
    """
    if "://" not in broker:
        return load(broker).dialled
    address = Address.parse(broker)
    found = at(address.url)
    return load(found).dialled if found else address


def at(fact: str) -> str | None:
    """The name of the connection with this address or public key that was joined last. Unreadable ones are left out."""
    found: list[tuple[datetime, str]] = []
    with suppress(UsageError, OSError):  # no home folder, or somebody else's: nothing is saved
        for name in names():
            with suppress(OSError, msgspec.DecodeError):
                one = msgspec.json.decode((folder() / (name + _SUFFIX)).read_bytes(), type=SavedConnection)
                found += [(one.joined, name)] if fact in (one.address, one.public) else []
    return max(found, default=(None, None))[1]


def save(name: str, connection: SavedConnection) -> Path:
    """Raises `EnvironmentProblem` when it cannot be written."""
    path = folder() / (require_name(name) + _SUFFIX)
    write(path, connection)
    return path


def forget(name: str) -> None:
    """Remove the file. The broker knows the key until it is revoked. Raises `EnvironmentProblem`."""
    path = folder() / (require_name(name) + _SUFFIX)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be removed: {error.strerror}: see who may write there") from None


def follow(keys: ClientKeys, following: str, at_s: float) -> None:
    """The broker of these keys has named its next one: for this process, and for those that read the file later."""
    if not learn(keys.server, following, at_s):
        return
    with suppress(EnvironmentProblem, UsageError):  # this process knows it, and the others will be told
        for name in names():
            one = load(name)
            if one.public == keys.public:
                save(name, with_next(one, following, datetime.fromtimestamp(at_s, UTC)))


def with_next(one: SavedConnection, following: str, at: datetime) -> SavedConnection:
    """Where the last change of the key is past, it goes on from there."""
    server = one.next_server if one.next_at is not None and one.next_at <= datetime.now(UTC) else one.server
    return replace(one, server=server, next_server=following, next_at=at)


def read(path: Path) -> SavedConnection:
    """Raises `EnvironmentProblem` for a file that others may read, that is damaged or cannot be read."""
    try:
        if not private.is_private(path):
            raise EnvironmentProblem(
                f"others may read {path}, which holds a secret key: if nobody has, take it from them with "
                f"chmod 600 {path}, else revoke the key and join again"
            )
        return msgspec.json.decode(path.read_bytes(), type=SavedConnection)
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be read: {error.strerror}: see who may read it") from None
    except msgspec.DecodeError:
        raise EnvironmentProblem(f"{path} is damaged: remove it, and join with a new ticket") from None


def write(path: Path, connection: SavedConnection) -> None:
    """Raises `EnvironmentProblem`."""
    try:
        private.make_folder(path.parent)
        private.replace(path, msgspec.json.format(msgspec.json.encode(connection), indent=2) + b"\n")
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be written: {error.strerror}: see who may write there") from None
