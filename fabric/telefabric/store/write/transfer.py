"""Moving runs between store files: every row as it was received, with its seq, in the order of arrival.

What events do not say is moved, too: gaps, quarantine, lost streams, tags, notes, marks, bookmarks and the edits that
set them. Ids and numbers are those of the file that takes the runs, so `dump` of both is equal but for ids.

The watermark of a stream says how far it has come. So a transfer that was killed is begun again, and of a run that is
in both files only what is newer is added. Each page of events is a transaction of `Writer`; what events do not say
comes last.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec

from telefabric.errors import StoreError
from telefabric.files.sync import sync_file
from telefabric.store.core.outcomes import LOST
from telefabric.store.file.database import explain, open_reader
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query import StoredEvent, Stream
from telefabric.store.tables.rows import Rows
from telefabric.store.write.writer import Writer
from telefabric.wire.control import StreamInfo

Progress = Callable[[int, int], None]
"""Called with the events that are through, and those that there are."""

_CHANGING = frozenset(("frame", "gap"))
"""Kinds that may differ: a picture expires, and what one file lost the other may have."""
_OF_EVENTS = ("started_ns", "control_mode", "metadata")
"""Columns of a run that follow from its events in their order."""
_OF_EDITS = ("tags", "notes", "archived_ns", "mark", "mark_reason", "mark_by", "mark_ns")
_EDIT = ("edit_id", "time_ns", "by", "command", "run_id", "value", "outcome", "sentence")
_BOOKMARK = ("agent_id", "env_index", "episode_index", "step_index", "stream_id", "label", "by", "time_ns")
_SAID_MAX = 5


class Moved(NamedTuple):
    """What a transfer has done."""

    runs: int
    events: int
    """Rows that were added; 0 when all were there already. Of an extract that was continued, all that it copied."""
    notes: list[str]
    """A sentence for each run that was edited in both files."""


def extract(
    source: Path,
    target: Path,
    runs: Collection[str],
    progress: Progress = lambda done, total: None,
    *,
    group_readable: bool = False,
) -> Moved:
    """Copy runs to a store file that is not there yet; it appears under its name when it is whole. `StoreError`."""
    if os.path.exists(target):
        raise StoreError(f"{target} is there already: name another file, or merge into it: telefabric store merge")
    part, earlier = target.with_name(target.name + ".part"), 0
    if part.exists():
        with FileReader(part) as begun:
            others = {run.run_id for run in begun.runs()} - set(runs)
            earlier = begun.newest(0).last  # its ids count its rows
        if others:
            raise StoreError(f"{part} is of another extract, with run {min(others)}: remove it, or name another file")
    moved = merge(source, part, runs, progress, group_readable=group_readable)
    try:
        with closing(apsw.Connection(str(part))) as db:
            db.pragma("journal_mode", "DELETE")  # with a log, every reader would leave two files beside it
        sync_file(part)
        part.rename(target)
        sync_file(target.parent)
    except (apsw.Error, OSError) as error:
        raise explain(part, error) from None
    with suppress(OSError):
        part.with_name(part.name + ".lock").unlink()
    return moved._replace(events=moved.events + earlier)


def merge(
    source: Path,
    target: Path,
    runs: Collection[str] | None = None,
    progress: Progress = lambda done, total: None,
    *,
    group_readable: bool = False,
) -> Moved:
    """Add runs of `source`, or all of them, to `target`, which nobody else may be writing.

    Raises `StoreError`: before anything is written when a run contradicts what `target` has, or was deleted from it.
    """
    if target.exists() and source.exists() and source.samefile(target):
        raise StoreError(f"{source} and {target} are the same file: name another one")
    with FileReader(source) as reader:
        known = {run.run_id for run in reader.runs()}
        if missing := sorted(set(runs or ()) - known):
            raise StoreError(f"there is no run {missing[0]!r} in {source}: see telefabric runs list")
        with closing(Writer(target, group_readable=group_readable)) as writer, FileReader(target) as there:
            transfer = _Transfer(reader, writer, there, runs)
            transfer.require_agreement()
            events = transfer.move_events(progress)
            notes = transfer.move_edits(source)
            return Moved(len(transfer.runs), events, notes)


class _Transfer:
    """One transfer of the runs that a reader has to a writer; `there` reads what the writer has."""

    def __init__(self, reader: FileReader, writer: Writer, there: FileReader, runs: Collection[str] | None) -> None:
        known = {run.run_id: run for run in reader.runs()}
        self._reader, self._writer, self._there = reader, writer, there
        self.runs = [run_id for run_id in known if runs is None or run_id in runs]
        streams = (each for each in reader.streams() if runs is None or each.run_id in runs)
        self._streams: dict[bytes, Stream] = {each.stream_id: each for each in streams}
        self._infos = {
            stream: StreamInfo(
                stream, each.run_id, each.worker_id, each.agent_id, each.started_ns, known[each.run_id].control_mode,
                each.host, each.pid, each.sdk_version, known[each.run_id].metadata, each.parent, each.carrier,
            )
            for stream, each in self._streams.items()
        }  # fmt: skip
        self._until = reader.newest(0).last
        self._marks = {stream: writer.stored_seq(stream) for stream in self._streams}
        self._conflicts = Counter(map(_conflict, _each(there, ["quarantine"])))
        """Those that the writer has: they cover no seq, so no watermark tells."""
        self._newer = {
            run_id
            for run_id in self.runs
            if all(
                one.stream_id in self._streams and one.stored_seq <= self._streams[one.stream_id].stored_seq
                for one in there.streams(run_id)
            )
        }
        """The runs of which `reader` has all that the writer has."""

    # -- before anything is written ------------------------------------------------------------------------------

    def require_agreement(self) -> None:
        """Raises `StoreError` with a sentence for each of the first streams that cannot be moved."""
        sentences = [why for stream in self._streams if (why := self._contradiction(stream))]
        if sentences:
            left = f", and {len(sentences) - _SAID_MAX} more" if len(sentences) > _SAID_MAX else ""
            raise StoreError("; ".join(dict.fromkeys(sentences[:_SAID_MAX])) + f"{left}: nothing was moved")

    def _contradiction(self, stream: bytes) -> str:
        run_id, place = self._streams[stream].run_id, self._writer.find(stream)
        if place.deleted if place else self._writer.deleted_run(self._infos[stream]) is not None:
            return f"run {run_id!r} was deleted from {self._there.where}, and what is deleted stays so"
        if place is None:
            return ""
        if place.run_id != run_id:
            return f"stream {stream.hex()} belongs to run {run_id!r} here and to {place.run_id!r} there"
        seq = min(self._streams[stream].stored_seq, self._marks[stream])  # what differs, differs up to the end
        last = [row for reader in (self._reader, self._there) for row in reader.stream_since(stream, seq - 1, 1).rows]
        if seq and len({row.event for row in last}) > 1 and not _CHANGING.intersection(row.kind for row in last):
            return f"seq {seq} of stream {stream.hex()} of run {run_id!r} differs in {self._there.where}"
        return ""

    # -- events --------------------------------------------------------------------------------------------------

    def move_events(self, progress: Progress) -> int:
        """Add what is newer, and the losses that no event tells; how many rows."""
        total, done, added = sum(each.stored_seq for each in self._streams.values()), 0, 0
        for page in self._pages():
            rows = self._writer.begin()
            for stream, found in groupby(page, key=attrgetter("stream_id")):
                rows.copy(self._writer.place(self._infos[stream]), filter(None, map(self._left, found)))
            added += self._commit(rows)
            done += len(page)
            progress(done, total)
        rows = self._writer.begin()
        for stream, each in self._streams.items():
            if each.stored_seq >= self._marks[stream]:
                (rows.lost if each.outcome == LOST else rows.revived).append(stream)
        return added + self._commit(rows)

    def _commit(self, rows: Rows) -> int:
        if rows.quarantined:
            raise StoreError(
                f"{self._reader.where} contradicts itself: see telefabric store verify, and restore a backup"
            )
        self._writer.begin_commit(rows)
        self._writer.end_commit()
        return rows.events

    def _pages(self) -> Iterator[list[StoredEvent]]:
        """All rows of these runs in the order of arrival."""
        only = self.runs[0] if len(self.runs) == 1 else None
        after, more = 0, bool(self.runs)
        while more:
            page = self._reader.events(after, only)
            yield [row for row in page.rows if row.id <= self._until and row.stream_id in self._streams]
            after, more = page.last, page.more and page.last < self._until

    def _left(self, row: StoredEvent) -> StoredEvent | None:
        """The row, or the part of its range that the writer does not have; None when it has all of it."""
        mark = self._marks[row.stream_id]
        if row.reason == "conflict":
            return None if self._has_conflict(row) else row
        if row.last_seq <= mark:
            return None
        return msgspec.structs.replace(row, seq=mark + 1) if row.seq <= mark else row

    def _has_conflict(self, row: StoredEvent) -> bool:
        """Whether the writer had this row; of several equal ones, as many as it had."""
        self._conflicts[_conflict(row)] -= 1
        return self._conflicts[_conflict(row)] >= 0

    # -- what events do not say ----------------------------------------------------------------------------------

    def move_edits(self, source: Path) -> list[str]:
        """Bring each run's row, edits and bookmarks to what they are in the source.

        A sentence for each run that was edited in both files.
        """
        notes = []
        for run_id in self.runs:
            with closing(open_reader(source)) as db:
                told = _Told.read(db, run_id)
            with self._writer.changing() as db_there:
                agreed = _write(db_there, run_id, told, newer=run_id in self._newer)
            if not agreed:
                kept = f"it keeps the tags, the note and the marks of {self._there.where}"
                notes.append(f"run {run_id!r} was edited in both files: {kept}")
        return notes


class _Told(NamedTuple):
    """What a file says of a run besides its events."""

    row: dict[str, Any]
    edits: list[tuple[Any, ...]]
    bookmarks: list[tuple[Any, ...]]

    @classmethod
    def read(cls, db: apsw.Connection, run_id: str) -> _Told:
        columns = ("created_ns", *_OF_EVENTS, *_OF_EDITS)
        row = db.execute(f"SELECT {', '.join(columns)} FROM runs WHERE run_id = ?", (run_id,)).fetchall()[0]
        edits = db.execute(f"SELECT {', '.join(_EDIT)} FROM edits WHERE run_id = ? ORDER BY edit", (run_id,))
        marks = f"SELECT {', '.join(_BOOKMARK)} FROM bookmarks JOIN runs USING (run) WHERE run_id = ? ORDER BY bookmark"
        return cls(dict(zip(columns, row, strict=True)), edits.fetchall(), db.execute(marks, (run_id,)).fetchall())


def _write(db: apsw.Connection, run_id: str, told: _Told, *, newer: bool) -> bool:
    """Bring a run to what was told, in a transaction of the caller; False when both were edited apart.

    `newer`: what is here of its events was all there.
    """
    run = db.execute("SELECT run FROM runs WHERE run_id = ?", (run_id,)).get
    if run is None:  # nothing of it is stored in the source, either
        return True
    here = {row[0] for row in db.execute("SELECT edit_id FROM edits WHERE run_id = ?", (run_id,))}
    new = [edit for edit in told.edits if edit[0] not in here]
    edited_apart = bool(new) and not here <= {edit[0] for edit in told.edits}
    columns = [*(_OF_EVENTS if newer else ()), *(_OF_EDITS if new and not edited_apart else ())]
    changes = "".join(f", {column} = :{column}" for column in columns)
    update = f"UPDATE runs SET created_ns = min(created_ns, :created_ns){changes} WHERE run = :run"
    db.execute(update, told.row | {"run": run})
    places = ", ".join("?" * len(_EDIT))
    db.executemany(f"INSERT OR IGNORE INTO edits ({', '.join(_EDIT)}) VALUES ({places})", new)
    if new and not edited_apart:
        db.execute("DELETE FROM bookmarks WHERE run = ?", (run,))
        columns_of = f"run, {', '.join(_BOOKMARK)}"
        rows = ((run, *bookmark) for bookmark in told.bookmarks)
        db.executemany(f"INSERT INTO bookmarks ({columns_of}) VALUES (?, {', '.join('?' * len(_BOOKMARK))})", rows)
    return not edited_apart


def _conflict(row: StoredEvent) -> tuple[bytes, int, bytes]:
    return row.stream_id, row.seq if row.reason == "conflict" else 0, row.event


def _each(reader: FileReader, kinds: list[str]) -> Iterator[StoredEvent]:
    after, more = 0, True
    while more:
        page = reader.events(after, kinds=kinds)
        yield from page.rows
        after, more = page.last, page.more
