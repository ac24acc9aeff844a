"""The runs of a store with their streams: all of them once, and then those that changed."""

from __future__ import annotations

from collections.abc import Callable
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

    def look(self, reader: Reader, take: Callable[[dict[str, StoredRun | None]], object]) -> None:
        """`take` gets the runs that came or changed since the last look, and None for those that are gone.

        When it fails, it gets them again. With another reader all are read, since it may have found another store; and
        so they are each time in a store that is older than the question for what changed.
        """
        if reader is not self._reader:
            self._reader, self._moment = reader, None
        now, before = _moment_of(reader), self._moment
        if now is not None and now == before:
            return
        names = None if now is None or before is None or _went_back(before, now) else reader.changed_runs(before)
        if names is None or len(names) > _ONE_BY_ONE_MAX:
            found = self._all(reader)
        else:
            found = {name: _one(reader, name) for name in names}
        take(found)
        for name, stored in found.items():
            self._names.discard(name) if stored is None else self._names.add(name)
        self._moment = now  # from before what was read: what came meanwhile is read again

    def _all(self, reader: Reader) -> dict[str, StoredRun | None]:
        found = {run.run_id: StoredRun(run, []) for run in reader.runs()}
        for stream in reader.streams():
            if stream.run_id in found:
                found[stream.run_id].streams.append(stream)
        return {**dict.fromkeys(self._names - found.keys()), **found}


def _moment_of(reader: Reader) -> Moment | None:
    try:
        return reader.runs_now()
    except OlderStore:
        return None


def _one(reader: Reader, name: str) -> StoredRun | None:
    run = reader.run(name)
    return None if run is None else StoredRun(run, reader.streams(name))


def _went_back(before: Moment, now: Moment) -> bool:
    """The newest of something was deleted, or another file took the store's place."""
    return now.lifecycle_id < before.lifecycle_id or now.stream < before.stream or now.edit < before.edit
