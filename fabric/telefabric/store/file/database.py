"""Opening a store file: is it one, is it ours, is it of a version that this program reads.

SQLite in WAL mode, ``synchronous=FULL``: what is committed survives a kill and, on a disk that honours fsync, a power
loss. apsw only: SQLite before 3.51.3 can corrupt a WAL that is written and checkpointed at once, and two copies of
SQLite on one file in one process break its locks, so the standard library's `sqlite3` is never imported here.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from importlib import resources
from pathlib import Path

import apsw

from telefabric import limits
from telefabric.errors import StoreError
from telefabric.settings import STORE_FILE_NAME
from telefabric.store.file import access, upgrade
from telefabric.store.file import older_file as olderfile
from telefabric.wire.names import printable

log = logging.getLogger("telefabric.store")

FILE_NAME = STORE_FILE_NAME
APPLICATION_ID = 0x54464142  # "TFAB"
SQLITE_MIN = (3, 51, 3)
MIGRATIONS: dict[int, str] = {
    1: "schema.sql", 2: "frames_by_place.sql", 3: "version_3.sql", 4: "version_4.sql", 5: "version_5.sql",
}  # fmt: skip
"""user_version → the script that leads to it from the one before."""
VERSION = max(MIGRATIONS)

BUSY_TIMEOUT_MS = 5_000
DAMAGE = (apsw.CorruptError, apsw.SQLError, apsw.NotADBError, UnicodeDecodeError)
"""Errors of a damaged file. SQLError: a table is missing or has changed; UnicodeDecodeError: a text is not UTF-8."""
_QUOTED_MAX = 120
_WRITER_PRAGMAS = (
    "synchronous = FULL",
    "wal_autocheckpoint = 8000",
    f"journal_size_limit = {limits.LOG_BYTES_LONG}",
    "cache_size = -65536",
    "temp_store = MEMORY",
    "foreign_keys = ON",
)


def store_file(named: Path) -> Path:
    """The store that a user named by its file or folder, as an absolute path."""
    named = named.absolute()
    return named / FILE_NAME if os.path.isdir(named) else named


class Reading(apsw.Connection):
    """A connection that cannot write."""

    still = False
    """Nothing can write the file where it is, so SQLite takes no locks; `access.require_still` tells when that ends."""


def open_writer(
    path: Path,
    vfs: str | None = None,
    *,
    group_readable: bool = False,
    progress: upgrade.Progress = lambda doing, done, total: None,
) -> apsw.Connection:
    """The one writing connection, made or migrated as needed. Raises `StoreError`, a sentence with the remedy.

    `vfs` names the SQLite file system that it goes through; None is that of the machine. `progress` hears of a
    migration, which takes minutes for a large file, and goes on where it was when it is killed.
    """
    require_sqlite()
    try:
        if path.exists() and not path.is_file():
            raise StoreError(f"{path} is not a file: name another file or folder with --data")
        access.make_folder(path.parent, group_readable=group_readable)
        access.make_private(path, group_readable=group_readable)
        connection = apsw.Connection(str(path), vfs=vfs)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        try:
            version = _check_identity(connection, path)
            for pragma in ("page_size = 8192", "journal_mode = WAL", *_WRITER_PRAGMAS):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            _migrate(connection, path, version, progress)
        except BaseException:
            with suppress(apsw.Error):  # a disk that failed fails again here: the first error is the one to tell
                connection.close()
            raise
    except (apsw.Error, OSError) as error:
        raise explain(path, error) from None
    if connection.pragma("journal_mode") != "wal":
        raise StoreError(f"{path} cannot use a write-ahead log: put the store on a local disk")
    return connection


def open_reader(path: Path) -> Reading:
    """A reading connection. Raises `StoreError`.

    A file of an older version is read as it is. One that nothing can write where it is, on a read-only medium or in
    somebody else's folder, is read as immutable, and a warning says so.
    """
    require_sqlite()
    try:
        there = path.is_file()
    except OSError as error:
        raise StoreError(
            f"{path} cannot be looked at: {error.strerror}: check the rights of its folder, or name a file with --store"
        ) from None
    if not there:
        raise StoreError(f"there is no store at {path}: name the file with --store, or start one with telefabric up")
    try:
        try:
            connection, version = _open_reading(path, "mode=ro")
        except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError):
            if not access.is_still(path):
                raise
            connection, version = _open_reading(path, "mode=ro&immutable=1")
            connection.still = True
            log.warning("store.immutable: %s cannot be written where it is, and is read without locks", path)
        if 0 < version < olderfile.SINCE:
            olderfile.complete(connection, version)
        connection.execute("PRAGMA query_only = ON").fetchall()
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError):
        raise StoreError(access.cannot_be_opened(path)) from None
    except apsw.NotADBError:
        raise StoreError(f"{path} is not a database: name a store file with --store") from None
    except apsw.Error as error:
        raise explain(path, error) from None
    if version == 0:
        raise StoreError(f"{path} holds no store yet: start one with telefabric up")
    return connection


def _open_reading(path: Path, how: str) -> tuple[Reading, int]:
    connection = Reading(f"{path.absolute().as_uri()}?{how}", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        connection.set_busy_timeout(2_000)
        return connection, _check_identity(connection, path)
    except BaseException:
        connection.close()
        raise


def require_sqlite() -> None:
    """Raises `StoreError` when apsw brings a SQLite that can corrupt the store."""
    found = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if found < SQLITE_MIN:
        raise StoreError(
            f"SQLite {apsw.sqlite_lib_version()} can corrupt a busy write-ahead log; "
            f"{'.'.join(map(str, SQLITE_MIN))} or newer is needed: pip install -U apsw"
        )


def _check_identity(connection: apsw.Connection, path: Path) -> int:
    """The file's version; 0 for a new one. Raises `StoreError` for a file that is not ours or is newer."""
    application = connection.pragma("application_id")
    version = int(connection.pragma("user_version"))
    is_new = connection.execute("SELECT count(*) FROM sqlite_schema").get == 0
    if application != APPLICATION_ID and not (is_new and application == 0):
        raise StoreError(f"{path} is a database of another program: name another file or folder with --data")
    if version < 0:
        raise StoreError(f"{path} is damaged (store version {version}): name another file or folder with --data")
    if version > VERSION:
        raise StoreError(
            f"{path} was written by a newer version (store version {version}, this program reads up to {VERSION}): "
            "pip install -U telefabric"
        )
    return version


def _migrate(connection: apsw.Connection, path: Path, version: int, progress: upgrade.Progress) -> None:
    if version < VERSION:
        with upgrade.telling(connection, lambda: progress("schema", version, VERSION)), connection:
            for target in range(version + 1, VERSION + 1):
                script = resources.files("telefabric.store.file").joinpath(MIGRATIONS[target]).read_text("utf-8")
                connection.execute(script).fetchall()
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", VERSION)
    upgrade.finish(connection, path, progress)


def unreadable(path: Path, error: Exception) -> StoreError:
    """The sentence for a store that could be opened, and cannot be read on."""
    return explain(path, error) if isinstance(error, DAMAGE) else StoreError(f"{path} cannot be read: {error}")


def unwritable(path: Path, error: Exception) -> StoreError:
    """The sentence for a store that could be opened, and cannot be written on."""
    known = isinstance(error, (apsw.FullError, *DAMAGE))
    return explain(path, error) if known else StoreError(f"{path} cannot be written: {error}")


def _plain(error: Exception) -> str:
    """SQLite quotes the schema, of several lines and with whatever damage made of it."""
    return printable(str(error), " ")[:_QUOTED_MAX]


def explain(path: Path, error: Exception) -> StoreError:
    """The sentence for what SQLite or the system said."""
    if isinstance(error, apsw.NotADBError):
        return StoreError(
            f"{path} is not a database: name another file or folder with --data, or if it was a store, restore a backup"
        )
    if isinstance(error, DAMAGE):
        return StoreError(
            f"{path} is damaged ({_plain(error)}): move it, its -wal and its -shm aside together, and restore a backup"
        )
    if isinstance(error, apsw.FullError):
        log_mib = -(-access.log_bytes(path) // 2**20)  # moving the log into the file takes as much, and gives it back
        return StoreError(f"the disk of {path} is full: make room" + (f", {log_mib} MiB or more" if log_mib else ""))
    if isinstance(error, (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError, PermissionError)):
        return StoreError(f"{path} cannot be opened for writing: check the rights of the file and its folder")
    if isinstance(error, OSError):
        return StoreError(f"{path.parent} cannot be used: {error.strerror}: choose another folder with --data")
    return StoreError(f"{path} cannot be used: {error}: name another file or folder with --data")
