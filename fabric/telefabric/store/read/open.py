"""Opening a store to read it, wherever it is."""

from __future__ import annotations

from pathlib import Path

from telefabric.errors import EnvironmentProblem
from telefabric.keys.saved_connections import address_of
from telefabric.store.read.reader import Reader
from telefabric.store.read.remote_reader import RemoteReader


def open_store(where: str | Path) -> Reader:
    """A reader of a store file, of the store in a folder, or of the store behind the broker at ``tcp://host:port``.

    Raises `UsageError` for an address that is malformed, `StoreError` when the file cannot be read, `Unreachable` when
    no broker answers or it has no store, and `EnvironmentProblem` when a file is named and apsw is not installed.
    """
    if isinstance(where, str) and "://" in where:
        return RemoteReader(address_of(where))
    try:  # apsw comes with an extra, and a store behind a broker is read without it
        from telefabric.store.file.database import store_file
        from telefabric.store.read.file_reader import FileReader
    except ModuleNotFoundError as error:
        if error.name != "apsw":
            raise
        raise EnvironmentProblem("reading a store file needs: pip install 'telefabric[store]'") from None
    return FileReader(store_file(Path(where)))
