"""Runs and their streams in the database: the verdict on a run is kept with it, whenever one of its streams changes."""

from __future__ import annotations

from typing import Any

import apsw

from telefabric.store.core.outcomes import StreamEnd, judge, known_outcome
from telefabric.store.tables.columns import COLUMNS, RANGES
from telefabric_schemas import RunCompleted

_STREAMS = (
    "SELECT stream, stream_id, parent, started_ns, last_ns, outcome, outcome_reason, role, attempt FROM streams"
    " WHERE run = ?"
)
_NEWEST = " UNION ALL ".join(
    f"SELECT * FROM (SELECT seq, time_ns FROM {table} WHERE stream = ?1 ORDER BY seq DESC LIMIT 1)"
    for table in COLUMNS
    if table not in RANGES  # ranges are reported later, with the time of another process
)
_LAST_WORD = (
    "UPDATE streams SET last_ns = coalesce("
    f"(SELECT time_ns FROM ({_NEWEST}) ORDER BY seq DESC LIMIT 1), started_ns) WHERE stream = ?1"
)


def keep_last_word(db: apsw.Connection, stream: int) -> None:
    """The stream has ended without saying so: its last word is the time of its last event."""
    db.execute(_LAST_WORD, (stream,))


def end(db: apsw.Connection, stream: int, event: RunCompleted) -> None:
    """The stream has said how it ended."""
    outcome, reason = known_outcome(event.outcome, event.reason)
    values = (outcome, reason, event.time_ns, stream)
    db.execute("UPDATE streams SET outcome = ?, outcome_reason = ?, last_ns = ? WHERE stream = ?", values)


def settle(db: apsw.Connection, run: int) -> None:
    """Judge a run again, and write what is different: one look at all of its streams."""
    found: list[tuple[Any, ...]] = db.execute(_STREAMS, (run,)).fetchall()
    if not found:
        return
    verdict = judge(StreamEnd(*row[:7]) for row in found)
    db.executemany(
        "UPDATE streams SET role = ?, attempt = ? WHERE stream = ?",
        [(*verdict.parts[row[0]], row[0]) for row in found if verdict.parts[row[0]] != row[7:]],
    )
    db.execute(
        "UPDATE runs SET status = ?, reason = ?, finished_ns = ? WHERE run = ?",
        (verdict.status, verdict.reason, verdict.finished_ns, run),
    )
