"""The runs of a store with their streams: all of them once, and then those that changed."""

from __future__ import annotations

from typing import NamedTuple

from telefabric.errors import OlderStore
from telefabric.store.read.query import Moment, Run, Stream
from telefabric.store.read.reader import Reader

_ONE_BY_ONE_MAX = 100
"""When more have changed, asking for all of them is sooner done."""


class StoredRun(NamedTuple):
    run: Run
    streams: list[Stream]


class StoredRuns:
    """Follows the runs of one store. For the thread of its reader."""

    def __init__(self) -> None:
        self._reader: Reader | None = None
        self._moment: Moment | None = None
        """That of the last look."""
        self._names: set[str] = set()

    def look(self, reader: Reader) -> dict[str, StoredRun | None]:
        """The runs that came or changed since the last look, and None for those that are gone.

        With another reader all are read, since it may have found another store; and so they are each time in a store
        that is older than the question for what changed.
        """
        if reader is not self._reader:
            self._reader, self._moment = reader, None
        try:
            now, before = reader.runs_now(), self._moment
            if now == before:
                return {}
            names = None if before is None or _went_back(before, now) else reader.changed_runs(before)
        except OlderStore:
            return self._all(reader)
        if names is None or len(names) > _ONE_BY_ONE_MAX:
            found = self._all(reader)
        else:
            found = {name: _one(reader, name) for name in names}
            self._names.update(names)
        self._moment = now  # from before what was read: what came meanwhile is read again
        return found

    def _all(self, reader: Reader) -> dict[str, StoredRun | None]:
        found = {run.run_id: StoredRun(run, []) for run in reader.runs()}
        for stream in reader.streams():
            if stream.run_id in found:
                found[stream.run_id].streams.append(stream)
        gone, self._names = self._names - found.keys(), set(found)
        return {**dict.fromkeys(gone), **found}


def _one(reader: Reader, name: str) -> StoredRun | None:
    run = reader.run(name)
    return None if run is None else StoredRun(run, reader.streams(name))


def _went_back(before: Moment, now: Moment) -> bool:
    """The newest of something was deleted, or another file took the store's place."""
    return now.lifecycle_id < before.lifecycle_id or now.stream < before.stream or now.edit < before.edit
