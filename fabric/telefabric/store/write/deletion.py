"""Deleting a run: it is gone at once, its rows go in pieces, and its streams are remembered for good.

A spool may still come, of a worker whose machine was away. It is acknowledged and its events are counted: `Rows` and
the writer ask the tables of what was deleted, as they ask those of what is there.
"""

from __future__ import annotations

import apsw

from telefabric.store.tables.columns import COLUMNS

_OF_RUN = "(SELECT stream FROM streams WHERE run = :run)"
_BEGIN = (
    "INSERT INTO deleted_runs SELECT run, run_id, :time_ns, :last_id FROM runs WHERE run = :run",
    "INSERT INTO deleted_streams SELECT stream, stream_id, run, coalesce(stored_seq, 0), 0, 1 FROM streams"
    " LEFT JOIN watermarks USING (stream) WHERE run = :run",
    f"DELETE FROM watermarks WHERE stream IN {_OF_RUN}",
    "DELETE FROM bookmarks WHERE run = :run",
    "DELETE FROM streams WHERE run = :run",
    "DELETE FROM runs WHERE run = :run",
)
_SMALL = ("counts", "places", "overview")
"""Tables with a row for some hundreds of events, which go at one stroke."""


def begin(db: apsw.Connection, run: int, time_ns: int, last_id: int) -> None:
    """From now on nobody finds the run, and its name is free."""
    for statement in _BEGIN:
        db.execute(statement, {"run": run, "time_ns": time_ns, "last_id": last_id})


def go_on(db: apsw.Connection, rows: int) -> int | None:
    """Remove about so many rows, in a transaction of its own; how many. None when there is nothing to remove."""
    stream = db.execute("SELECT stream FROM deleted_streams WHERE rows_left ORDER BY stream LIMIT 1").get
    if stream is None:
        return None
    before = db.total_changes()
    with db:
        _remove(db, stream, rows)
    return db.total_changes() - before


def _remove(db: apsw.Connection, stream: int, rows: int) -> None:
    left = rows
    for table in COLUMNS:
        db.execute(f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE stream = ? LIMIT ?)", (stream, left))
        left -= db.changes()
        if left <= 0:
            return
    for table in _SMALL:
        db.execute(f"DELETE FROM {table} WHERE stream = ?", (stream,))
    db.execute("UPDATE deleted_streams SET rows_left = 0 WHERE stream = ?", (stream,))
