"""A copy of a store while it is written: one moment of it, whole, in one file."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import apsw

from telefabric.errors import StoreError
from telefabric.files.sync import sync_file
from telefabric.store.file import access
from telefabric.store.file.database import explain, open_reader

_PAGES_A_STEP = 1_000


def backup(
    source: Path,
    target: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    group_readable: bool = False,
) -> int:
    """Copy a store to a file that is not there yet; returns its size in bytes.

    The copy appears under its name when it is whole and on the disk. `progress` gets pages copied and pages in all.
    Raises `StoreError`. The source is read in one transaction, so that a running writer cannot make it begin again.
    """
    if os.path.exists(target):
        raise StoreError(f"{target} is there already: name another file, or move it away")
    reader = open_reader(source)
    part = target.with_name(target.name + ".part")
    try:
        part.unlink(missing_ok=True)
        access.make_private(part, group_readable=group_readable)
        with reader:
            _copy(reader, part, progress)
        if reader.still:
            access.require_still(source)
        sync_file(part)
        part.rename(target)
        sync_file(target.parent)  # so that the new name survives a power loss, too
    except apsw.Error as error:
        raise explain(target, error) from None
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror}: name another file") from None
    finally:
        reader.close()
        with suppress(OSError):  # in a folder that cannot be written it never was
            part.unlink()
    return target.stat().st_size


def _copy(reader: apsw.Connection, part: Path, progress: Callable[[int, int], None]) -> None:
    reader.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # from here on the transaction sees one moment
    copy = apsw.Connection(str(part))
    try:
        with copy.backup("main", reader, "main") as copying:
            while not copying.done:
                copying.step(_PAGES_A_STEP)
                progress(copying.page_count - copying.remaining, copying.page_count)
        copy.pragma("journal_mode", "DELETE")  # with a log, every reader would leave two files beside it
    finally:
        copy.close()
