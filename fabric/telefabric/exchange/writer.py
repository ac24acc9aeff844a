"""What every format's writer is."""

from __future__ import annotations

from collections import Counter

from telefabric.exchange.folder import Folder
from telefabric.store.read.query import StoredEvent
from telefabric.store.read.reader import Reader


class Writer:
    """Writes events in the form of one format into a folder. All methods raise `OSError` and `TelefabricError`."""

    def __init__(self, folder: Folder, reader: Reader) -> None:
        self.folder = folder
        self.reader = reader
        self.written: Counter[str] = Counter()
        """Events in the files, by kind."""
        self.left_out: Counter[str] = Counter()
        """What the format has no place for, by reason."""

    def add(self, rows: list[StoredEvent]) -> None:
        """Take events, in order of id."""
        raise NotImplementedError

    def flush(self) -> None:
        """Bring all events so far into the files; most formats do so with each page."""

    def close(self) -> None:
        """The export is complete, or has failed."""
