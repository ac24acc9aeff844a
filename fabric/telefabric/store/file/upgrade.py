"""Filling what version 3 added from the rows of an older file: in pieces, each a transaction that says how far it came.

So it can be killed at any point and goes on from there, and the log stays short. A new file goes the same way, and is
through at once. The result is what the writer would have written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from telefabric import limits
from telefabric.errors import StoreError
from telefabric.log.events import EventLog
from telefabric.store.file.access import log_bytes
from telefabric.store.tables import places, runs
from telefabric.store.tables.columns import COLUMNS
from telefabric.store.tables.rows import seed_column
from telefabric_schemas import Episode, RunCompleted
from telefabric_schemas.decoding import Decoder

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

log = EventLog("telefabric.store")

_RUNS_A_PIECE = 100
_STEPS_A_LOOK = 1_000_000
"""Steps of SQLite's virtual machine between two reports of a long statement: some hundredths of a second."""
_INDEXED = {"return": "total_reward", "length": "length", "seed": "seed", "time": "time_ns"}
"""The columns of episodes by which runs are sorted, by the names of their indexes."""


class Announcer:
    """Logs how far a migration is, at most once a second, and how long it took; `tell` gets it in words."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._began_s = self._told_s = time.monotonic()
        self._begun = False

    def __call__(self, doing: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if not self._begun or now_s - self._told_s >= limits.LOG_INTERVAL_S:
            self._begun, self._told_s = True, now_s
            log.info("store.migrating", doing=doing, done=done, total=total)
            self._tell(f"migrating {doing}, {100 * done // max(total, 1)} %")

    def ended(self) -> None:
        if self._begun:
            log.info("store.migrated", seconds=round(time.monotonic() - self._began_s, 1))


def unfinished(db: apsw.Connection) -> bool:
    """An upgrade was begun and is not through."""
    return bool(db.execute("SELECT count(*) FROM upgrade").get)


def finish(db: apsw.Connection, path: Path, progress: Progress) -> None:
    """Go on until all is filled. Raises `StoreError` when a reader makes the log too long."""
    if not unfinished(db):
        return
    db.execute("PRAGMA temp_store = DEFAULT").fetchall()  # sorting for an index, in files when it is much
    for piece, total, size, fill in (
        ("events", newest(db, "id", COLUMNS), limits.UPGRADE_IDS, _fill_events),
        ("runs", newest(db, "run", ("runs",)), _RUNS_A_PIECE, _fill_runs),
    ):
        done = int(db.execute("SELECT done FROM upgrade WHERE piece = ?", (piece,)).get or 0)
        while done < total:
            progress(piece, done, total)
            after, done = done, min(done + size, total)
            with db:
                fill(db, after, done)
                db.execute("UPDATE upgrade SET done = ? WHERE piece = ?", (done, piece))
            _require_short_log(path)
    for done, (name, column) in enumerate(_INDEXED.items()):
        with telling(db, partial(progress, "indexes", done, len(_INDEXED))):
            db.execute(f"CREATE INDEX IF NOT EXISTS episodes_by_{name} ON episodes (run, {column})")
    db.execute("DELETE FROM upgrade")
    db.execute("PRAGMA temp_store = MEMORY").fetchall()


@contextmanager
def telling(db: apsw.Connection, tell: Callable[[], None]) -> Iterator[None]:
    """While a long statement runs, `tell` is called again and again."""

    def look() -> bool:
        tell()
        return False

    db.set_progress_handler(look, _STEPS_A_LOOK)
    try:
        yield
    finally:
        db.set_progress_handler(None)


def newest(db: apsw.Connection, number: str, tables: Iterable[str]) -> int:
    """The largest `number` in these tables; 0 without rows."""
    return max(int(db.execute(f"SELECT coalesce(max({number}), 0) FROM {table}").get) for table in tables)


def _require_short_log(path: Path) -> None:
    size = log_bytes(path)
    if size > limits.LOG_BYTES_MAX:
        raise StoreError(
            f"{path}-wal has grown to {size / 2**20:,.0f} MiB because another process reads {path}: end that process; "
            "the migration goes on where it is when the store is started again"
        )


def _fill_events(db: apsw.Connection, after: int, until: int) -> None:
    for table in places.KINDS:
        places.count_again(db, table, after, until)
    of_piece = "SELECT event, id FROM episodes WHERE id > ? AND id <= ?"
    found: list[tuple[Any, ...]] = db.execute(of_piece, (after, until)).fetchall()
    seeded = ((seed_column(_episode.decode(event).seed), number) for event, number in found)
    db.executemany("UPDATE episodes SET seed = ? WHERE id = ?", (row for row in seeded if row[0] is not None))


def _fill_runs(db: apsw.Connection, after: int, until: int) -> None:
    """How each stream ended, and from that each run."""
    ended: list[tuple[Any, ...]] = db.execute(
        "SELECT stream, outcome FROM streams WHERE run > ? AND run <= ? AND outcome IS NOT NULL", (after, until)
    ).fetchall()
    for stream, outcome in ended:
        _fill_stream(db, stream, outcome)
    for run in range(after + 1, until + 1):
        runs.settle(db, run)


def _fill_stream(db: apsw.Connection, stream: int, outcome: str) -> None:
    """Its reason and its last word: by its own word where it gave one."""
    told = db.execute(
        "SELECT event FROM lifecycle WHERE stream = ? AND kind = 'run_completed' ORDER BY seq DESC LIMIT 1", (stream,)
    ).get
    if told is None or outcome == "lost":
        runs.keep_last_word(db, stream)
        db.execute(
            "UPDATE streams SET outcome_reason = 'no word from ' || worker_id || ' any more' WHERE stream = ?",
            (stream,),
        )
        return
    runs.end(db, stream, _completed.decode(told))


_episode: Decoder[Episode] = Decoder(Episode)
_completed: Decoder[RunCompleted] = Decoder(RunCompleted)
