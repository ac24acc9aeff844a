"""The writing side of the store file: rows and watermarks of many streams, one transaction at a time."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec

from telefabric import limits
from telefabric.errors import StoreError, StoreReplaced
from telefabric.files.lock import FileLock
from telefabric.files.processes import lock_holder, named
from telefabric.log.events import EventLog
from telefabric.store.file import access
from telefabric.store.file.database import BUSY_TIMEOUT_MS, explain, open_writer, unreadable, unwritable
from telefabric.store.file.upgrade import Announcer, newest
from telefabric.store.tables import overview, places, runs
from telefabric.store.tables.columns import COLUMNS
from telefabric.store.tables.rows import Lifecycle, Place, Rows, known_mode
from telefabric.store.write import deletion, edits
from telefabric.wire.control import Edit, Edited, StreamInfo
from telefabric_schemas import events
from telefabric_schemas.decoding import Decoder

log = EventLog("telefabric.store")

_ROWS_A_STATEMENT = 50
"""A statement opens the table and its indexes once for all of its rows: 0.8 µs of CPU a step instead of 1.6 at best."""


_COLUMNS = {
    **COLUMNS,
    "runs": ("run", "run_id", "created_ns", "started_ns", "control_mode", "metadata", "status"),
    "streams": (
        "stream", "stream_id", "run", "worker_id", "agent_id", "started_ns", "host", "pid", "sdk_version", "parent",
        "carrier",
    ),
    "deleted_streams": ("stream", "stream_id", "run"),
}  # fmt: skip


def _statement(table: str, rows: int) -> str:
    columns = _COLUMNS[table]
    row = f"({','.join('?' * len(columns))})"  # each use of a statement reads its text: no blanks
    return f"INSERT INTO {table} ({','.join(columns)}) VALUES {','.join([row] * rows)}"


_INSERT = {table: _statement(table, 1) for table in _COLUMNS}
_INSERT_MANY = {table: _statement(table, _ROWS_A_STATEMENT) for table in COLUMNS}
_RAW = -1
_LOST_KNOWN = 100_000
"""Streams that are remembered as lost, so that they can be revived: 16 bytes each."""
_CHECKPOINT_PATIENCE_MS = 100
_FIND = (
    "SELECT run, stream, run_id, stream_id, 0, carrier FROM streams JOIN runs USING (run) WHERE stream_id = ?1"
    " UNION ALL SELECT run, stream, run_id, stream_id, 1, NULL FROM deleted_streams JOIN deleted_runs USING (run)"
    " WHERE stream_id = ?1"
)
_FIND_DELETED = "SELECT max(run) FROM deleted_runs WHERE run_id = ? AND time_ns > ?"
_DISCARD = "UPDATE deleted_streams SET stored_seq = ?, discarded = discarded + ? WHERE stream_id = ?"
_UNFIT = (apsw.ConstraintError, apsw.MismatchError, apsw.TooBigError, OverflowError, TypeError, ValueError)
"""Errors of a row that does not fit the columns of its table."""
_MARK = """
INSERT INTO watermarks (stream, stored_seq, first_id, last_id) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET stored_seq = excluded.stored_seq, last_id = excluded.last_id
"""


class Checkpoint(NamedTuple):
    """The result of a checkpoint: whether a reader held it up, frames in the log, and frames moved out of it."""

    busy: bool
    log_frames: int
    checkpointed_frames: int


class Writer:
    """Owns the store file. Raises `StoreError` on opening, when it is not ours to write, and when a commit fails.

    After a failed commit the transaction is rolled back and nothing of it is stored; close this writer, open another,
    and go on from what the database says. All methods are for one thread. The disk's part of a commit happens on a
    thread of the writer's own, with the interpreter lock free, while its caller gathers the next rows.
    """

    def __init__(
        self,
        path: Path,
        vfs: str | None = None,
        *,
        group_readable: bool = False,
        tell: Callable[[str], None] = lambda words: None,
    ) -> None:
        """`tell` hears, as the log does, how far a migration is."""
        self.path = path = path.absolute()
        self.commit_s = 0.0
        """How long the last commit took, from its first row to the end of the sync."""
        self.lost_workers: list[str] = []
        """The workers of the streams that the last commit called lost."""
        self.changes: Counter[str] = Counter()
        """How many streams the last commit called lost and revived."""
        self._commit_began_s = 0.0
        self._commit: Future[object] | None = None
        self._places: dict[bytes, Place] = {}
        self._new_runs: dict[str, int] = {}
        self._new: list[tuple[str, tuple[object, ...]]] = []
        self._changed_runs: set[int] = set()
        """Runs with a stream that has begun, ended, was lost or was revived since the last transaction."""
        self._marks: dict[bytes, int] = {}
        self._lock = self._take_lock(path, group_readable)
        try:
            announcer = Announcer(tell)
            self._db = open_writer(path, vfs, group_readable=group_readable, progress=announcer)
            announcer.ended()
            self.fabric_id = bytes(self._db.execute("SELECT fabric_id FROM store").get)
            last_id = newest(self._db, "last_id", ("deleted_runs",))
            self._next_id = max(newest(self._db, "id", COLUMNS), last_id) + 1
            self._next_run = newest(self._db, "run", ("runs", "deleted_runs")) + 1
            self._next_stream = newest(self._db, "stream", ("streams", "deleted_streams")) + 1
            self.page_bytes = int(self._db.pragma("page_size"))
        except BaseException as error:
            self._lock.release()
            if isinstance(error, apsw.Error):
                raise explain(path, error) from None
            raise
        self._file = _identity(path)
        self._disk = ThreadPoolExecutor(1, "telefabric-commit")

    @staticmethod
    def _take_lock(path: Path, group_readable: bool) -> FileLock:
        try:
            access.make_folder(path.parent, group_readable=group_readable)
            lock = FileLock.take(path.with_name(path.name + ".lock"), limits.LET_GO_S)
        except OSError as error:
            raise StoreError(
                f"{path.parent} cannot be written: {error.strerror}: choose another folder with --data"
            ) from None
        if lock is None:
            number = lock_holder(path.with_name(path.name + ".lock"))
            who = f" ({named(number)})" if number else ""
            raise StoreError(
                f"{path} is being written by another store process{who}: stop that one, or use another --data"
            )
        return lock

    def close(self) -> None:
        """Let go of the file. A commit that is under way ends first; nobody hears how.

        The last connection to the file moves the log into it. When the disk refuses that, the log stays: no error.
        """
        self._disk.shutdown()
        try:
            self._db.close()
        except apsw.Error as error:
            log.warning("store.log_left", path=str(self.path), reason=str(error))
        finally:
            self._lock.release()

    # -- reading back --------------------------------------------------------------------------------------------

    def stored_seq(self, stream: bytes) -> int:
        """The watermark of a stream, from the database; 0 for one that is not in it."""
        query = (
            "SELECT stored_seq FROM watermarks JOIN streams USING (stream) WHERE stream_id = ?1"
            " UNION ALL SELECT stored_seq FROM deleted_streams WHERE stream_id = ?1"
        )
        with self._connection(unreadable) as db:
            return int(db.execute(query, (stream,)).get or 0)

    def over(self, stream: bytes) -> bool:
        """The stream said how it ended, or its run was deleted."""
        query = (
            "SELECT outcome IN ('completed', 'failed', 'cancelled') FROM streams WHERE stream_id = ?1"
            " UNION ALL SELECT 1 FROM deleted_streams WHERE stream_id = ?1"
        )
        with self._connection(unreadable) as db:
            return bool(db.execute(query, (stream,)).get)

    def unfinished(self) -> tuple[list[bytes], list[bytes]]:
        """Ids of the streams that run, and of those that are lost, as the database says; of these the newest."""
        running = "SELECT stream_id FROM streams WHERE outcome IS NULL"
        lost = f"SELECT stream_id FROM streams WHERE outcome = 'lost' ORDER BY stream DESC LIMIT {_LOST_KNOWN}"
        with self._connection(unreadable) as db:
            return [bytes(row[0]) for row in db.execute(running)], [bytes(row[0]) for row in db.execute(lost)]

    @contextmanager
    def _connection(self, failed: Callable[[Path, apsw.Error], StoreError]) -> Iterator[apsw.Connection]:
        """The connection, when no commit uses it any more: it is for one thread at a time."""
        self._wait()
        try:
            yield self._db
        except apsw.Error as error:
            raise failed(self.path, error) from error

    def require_file(self) -> None:
        """Raises `StoreReplaced` when the file that is open is not the one at its path any more.

        SQLite would go on writing to a file that nobody can find. The log is moved into it first: a file that was only
        renamed is then whole, and no log is left for another file to be read with.
        """
        if _identity(self.path) == self._file:
            return
        with suppress(StoreError):  # what is in the log was to go with the file
            self.checkpoint()
        raise StoreReplaced(
            f"{self.path} was removed or replaced while the store wrote it: "
            "nothing more is acknowledged; put it back or leave it, and start the store again"
        )

    # -- writing -------------------------------------------------------------------------------------------------

    def begin(self) -> Rows:
        """An empty set of rows for the next transaction."""
        return Rows(self._next_id)

    def place(self, info: StreamInfo) -> Place:
        """How the database numbers a stream and its run; a new one is written with the next commit."""
        place = self.find(info.stream)
        if place is None:
            stream, self._next_stream = self._next_stream, self._next_stream + 1
            if (run := self.deleted_run(info)) is not None:
                self._new.append(("deleted_streams", (stream, info.stream, run)))
                place = self._places[info.stream] = Place(run, stream, info.run_id, info.stream, deleted=True)
                return place
            run = self._run(info)
            row = (stream, info.stream, run, info.worker_id, info.agent_id, info.started_ns, info.host, info.pid)
            self._new.append(("streams", (*row, info.sdk_version, info.parent, info.carrier)))
            self._changed_runs.add(run)
            place = self._places[info.stream] = Place(run, stream, info.run_id, info.stream, carrier=info.carrier)
        return place

    def hand_over(self, place: Place, carrier: str) -> bool:
        """Remember the key that carries a stream now; whether it is another one, which has to be written."""
        if carrier == place.carrier or place.deleted:
            return False
        self._places[place.stream_id] = place._replace(carrier=carrier)
        return True

    def find(self, stream: bytes) -> Place | None:
        """Like `place`, but None for a stream that was not placed before."""
        place = self._places.get(stream)
        if place is None:
            with self._connection(unreadable) as db:
                found = db.execute(_FIND, (stream,)).fetchone()
            if found is not None:
                place = self._places[stream] = Place(*found)
        return place

    def forget(self, stream: bytes) -> None:
        """Drop a stream's place from memory; the database still has it. Not for a stream with uncommitted rows."""
        self._places.pop(stream, None)

    def deleted_run(self, info: StreamInfo) -> int | None:
        """The run of this stream, if it was deleted after the stream began; later streams begin a run of that name."""
        with self._connection(unreadable) as db:
            found: int | None = db.execute(_FIND_DELETED, (info.run_id, info.started_ns)).get
            return found

    def _run(self, info: StreamInfo) -> int:
        run = self._new_runs.get(info.run_id)
        if run is not None:
            return run
        with self._connection(unreadable) as db:
            run = db.execute("SELECT run FROM runs WHERE run_id = ?", (info.run_id,)).get
        if run is None:
            run, self._next_run = self._next_run, self._next_run + 1
            mode = known_mode(info.control_mode)
            row = (run, info.run_id, time.time_ns(), info.started_ns, mode, info.metadata, "running")
            self._new.append(("runs", row))
            self._new_runs[info.run_id] = run
        return int(run)

    def begin_commit(self, rows: Rows) -> None:
        """Write rows, lifecycle, overview and watermarks in one transaction, and let the disk begin with it.

        One at a time: `end_commit` follows. Raises `StoreError` as that does.
        """
        self.require_short_log()
        self._commit_began_s = time.monotonic()
        self.changes = Counter()
        with self._connection(unwritable):
            try:
                self._write(rows, self._insert)
            except _UNFIT:
                self._write(rows, self._insert_what_fits)
        self._next_id = rows.next_id
        rows.tables.clear()  # memory that is used again at once is still in the processor's cache
        self._new.clear()
        self._changed_runs.clear()
        self._new_runs.clear()
        self._marks = {stream: mark[0] for stream, mark in (rows.marks | rows.discarded).items()}
        self._commit = self._disk.submit(self._sync)

    def _sync(self) -> None:
        """The disk's part of a commit, on a thread of its own."""
        self._db.execute("COMMIT")
        self.commit_s = time.monotonic() - self._commit_began_s

    @property
    def commit_ended(self) -> bool:
        """`end_commit` would not have to wait."""
        return self._commit is not None and self._commit.done()

    def end_commit(self) -> dict[bytes, int]:
        """Wait until all of it is on the disk; the new watermark of each stream.

        Raises `StoreError` when it could not be written; then nothing of it is. Raises `StoreReplaced` when it is
        written, into a file that is not at its path any more.
        """
        self._wait()
        self._commit = None
        self.require_file()
        return self._marks

    def _wait(self) -> None:
        """Until no commit is under way."""
        if self._commit is None:
            return
        try:
            try:
                self._commit.result()
            finally:
                self._roll_back()  # what was not committed
        except apsw.Error as error:
            raise unwritable(self.path, error) from error

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _write(self, rows: Rows, insert: Callable[[Rows, str], None]) -> None:
        """All of a transaction but its end. When it fails, the file has nothing of it.

        With `_insert`, `rows` are then as they were; `_insert_what_fits` moves rows to quarantine.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for table, row in self._new:
                self._db.execute(_INSERT[table], row)
            for table in list(rows.tables):
                if table != "quarantine" and rows.tables[table]:
                    insert(rows, table)
                    if table in places.KINDS:
                        places.write(self._db, table, rows.tables[table], rows.spans(table))
            self._db.executemany(_INSERT["quarantine"], _one_by_one(rows, "quarantine"))
            self._write_rest(rows)
        except BaseException:
            self._roll_back()
            raise

    def _write_rest(self, rows: Rows) -> None:
        """What follows from the rows: lifecycle, overview, watermarks."""
        for change in rows.lifecycle:
            self._apply(change)
        for stream in rows.revived:
            self._revive(stream)
        carriers = ((carrier, stream) for stream, carrier in rows.carriers.items())
        self._db.executemany("UPDATE streams SET carrier = ? WHERE stream_id = ?", carriers)
        self.lost_workers = [worker for stream in rows.lost for worker in self._lose(stream)]
        self.changes["lost"] += len(self.lost_workers)
        self._db.executemany(overview.UPSERT, rows.overview.rows())
        marks = ((self._places[stream].stream, *mark) for stream, mark in rows.marks.items())
        self._db.executemany(_MARK, marks)
        self._db.executemany(_DISCARD, ((*of_stream, stream) for stream, of_stream in rows.discarded.items()))
        for run in self._changed_runs:
            runs.settle(self._db, run)

    def _insert(self, rows: Rows, table: str) -> None:
        """All rows of a table. Raises one of `_UNFIT` when a row does not fit its columns."""
        values = rows.tables[table]
        many = len(COLUMNS[table]) * _ROWS_A_STATEMENT
        whole = len(values) - len(values) % many
        self._db.executemany(_INSERT_MANY[table], (values[i : i + many] for i in range(0, whole, many)))
        self._db.executemany(_INSERT[table], _one_by_one(rows, table, whole))

    def _insert_what_fits(self, rows: Rows, table: str) -> None:
        """The rows of a table one by one: each that does not fit its columns goes to quarantine."""
        kept = [row for row in _one_by_one(rows, table) if self._insert_one(rows, table, row)]
        rows.keep(table, [value for row in kept for value in row])

    def _insert_one(self, rows: Rows, table: str, row: list[Any]) -> bool:
        """False when it went to quarantine."""
        try:
            self._db.execute(_INSERT[table], row)
        except _UNFIT as no:
            number, run, stream, seq = row[:4]
            rows.quarantine(number, Place(run, stream, "", b""), seq, "not_storable", str(no), row[_RAW])
            return False
        return True

    # -- runs and streams ----------------------------------------------------------------------------------------

    def _apply(self, change: Lifecycle) -> None:
        """Apply a lifecycle event to its run and stream."""
        place, event = change
        if isinstance(event, events.RunCompleted):
            self._revive(place.stream_id)
            runs.end(self._db, place.stream, event)
            self._changed_runs.add(place.run)
            return
        if isinstance(event, events.RunStarted):
            mode = None if event.control_mode is None else known_mode(event.control_mode)
            self._db.execute(
                "UPDATE runs SET started_ns = coalesce(started_ns, ?), control_mode = coalesce(?, control_mode)"
                " WHERE run = ?",
                (event.time_ns, mode, place.run),
            )
        self._merge_metadata(place, event.metadata)

    def _merge_metadata(self, place: Place, metadata: msgspec.Raw) -> None:
        """Later values replace earlier ones of the same name; they stay encoded.

        Metadata that are not a map of names, or would make the whole larger than an event may be, are left out; the
        event itself is stored as it came.
        """
        stored = self._db.execute("SELECT metadata FROM runs WHERE run = ?", (place.run,)).get
        merged = msgspec.msgpack.encode({**_names(stored), **_names(metadata)})
        if len(merged) <= limits.EVENT_BYTES_MAX:
            self._db.execute("UPDATE runs SET metadata = ? WHERE run = ?", (merged, place.run))

    def _lose(self, stream: bytes) -> list[str]:
        """No word of it comes any more: unless it is over, it is lost. Its worker; none when it was over."""
        lost: list[Any] = self._db.execute(
            "UPDATE streams SET outcome = 'lost', outcome_reason = 'no word from ' || worker_id || ' any more'"
            " WHERE stream_id = ? AND outcome IS NULL RETURNING run, stream, worker_id",
            (stream,),
        ).fetchall()
        for run, number, _ in lost:
            runs.keep_last_word(self._db, number)
            self._changed_runs.add(run)
        return [str(worker_id) for _, _, worker_id in lost]

    def _revive(self, stream: bytes) -> None:
        """Revive a lost stream that is heard again: it runs, or its end was only late."""
        revived: list[Any] = self._db.execute(
            "UPDATE streams SET outcome = NULL, outcome_reason = NULL, last_ns = NULL"
            " WHERE stream_id = ? AND outcome = 'lost' RETURNING run, worker_id",
            (stream,),
        ).fetchall()
        for run, worker_id in revived:
            self._changed_runs.add(run)
            self.changes["revived"] += 1
            log.info("store.stream_revived", worker=worker_id)

    # -- frames --------------------------------------------------------------------------------------------------

    def frame_bytes_after(self, number: int) -> tuple[int, int]:
        """Bytes of the frames with a higher id, and the highest id of all."""
        found = "SELECT coalesce(sum(length(event)), 0), coalesce(max(id), ?) FROM frames WHERE id > ?"
        with self._connection(unwritable) as db:
            size, newest_id = db.execute(found, (number, number)).get
        return size, newest_id

    def frames_after(self, number: int) -> Iterator[tuple[int, bytes]]:
        """Id and event of the oldest frames with a higher id, read one by one."""
        oldest = "SELECT id, event FROM frames WHERE id > ? ORDER BY id LIMIT 1"
        with self._connection(unwritable) as db:
            while (row := db.execute(oldest, (number,)).get) is not None:
                number = row[0]
                yield row

    def replace_frames(self, events: list[tuple[int, bytes]]) -> None:
        """Other bytes for the events of these ids, in a transaction of its own."""
        with self._connection(unwritable) as db, db:
            db.executemany("UPDATE frames SET event = ?2 WHERE id = ?1", events)

    # -- edits ---------------------------------------------------------------------------------------------------

    def edit(self, edit: Edit) -> Edited:
        """Apply an edit, in a transaction of its own. Between commits only: no row may wait for its run."""
        with self.changing() as db:
            answer = edits.apply(db, edit, self._next_id - 1)
        if edit.command == "delete":
            self._places = {stream: place for stream, place in self._places.items() if place.run_id != edit.run_id}
        self.require_file()
        return answer

    @contextmanager
    def changing(self) -> Iterator[apsw.Connection]:
        """A transaction for something else than rows of events, between commits."""
        self.require_short_log()
        with self._connection(unwritable) as db, db:
            yield db

    def remove_deleted(self, rows: int) -> int | None:
        """Remove about so many rows of deleted runs; how many, None when there are none."""
        with self._connection(unwritable) as db:
            return deletion.go_on(db, rows)

    # -- the log -------------------------------------------------------------------------------------------------

    @property
    def log_bytes(self) -> int:
        return access.log_bytes(self.path)

    def require_short_log(self) -> None:
        """Raises `StoreError` when somebody reads on and on, and the log has become as long as it may."""
        size = self.log_bytes
        if size > limits.LOG_BYTES_MAX and self.checkpoint().busy:
            raise StoreError(
                f"{self.path}-wal has grown to {size / 2**20:,.0f} MiB because another process has been reading it all "
                "the time: nothing more is stored until you end that process"
            )

    def checkpoint(self) -> Checkpoint:
        """Move the write-ahead log into the database and empty it. Blocks; call it when nothing waits.

        A reader that is at work in the log is waited for a moment only; then the log stays as long as it is.
        Raises `StoreError` when the disk refuses; nothing is lost by that, the log stays.
        """
        frames = moved = -1
        with self._connection(unwritable) as db:
            db.set_busy_timeout(_CHECKPOINT_PATIENCE_MS)
            try:
                frames, moved = db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)  # reports an empty log, whatever it moved
            except apsw.BusyError:
                return Checkpoint(True, frames, moved)
            finally:
                db.set_busy_timeout(BUSY_TIMEOUT_MS)
        return Checkpoint(False, frames, moved)


def _one_by_one(rows: Rows, table: str, start: int = 0) -> Iterator[list[Any]]:
    """The rows of a table, from a place in its values on."""
    values, columns = rows.tables[table], len(COLUMNS[table])
    return (values[first : first + columns] for first in range(start, len(values), columns))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _names(metadata: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """The values of a map by name, still encoded; empty if it is not such a map."""
    try:
        return _raw_map.decode(metadata) or {}
    except msgspec.DecodeError:
        return {}


_raw_map: Decoder[dict[str, msgspec.Raw] | None] = Decoder(dict[str, msgspec.Raw] | None)
