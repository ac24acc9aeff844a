"""Reading a file of version 1 to 4 as it is: what it lacks is put beside it in memory, and the file stays untouched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import apsw

from telefabric.store.tables.columns import COLUMNS
from telefabric.store.tables.places import PICKED

SINCE = 5
"""The version that has all columns and tables which readers name."""
_OF_PLACE = ("agent_id", "env_index", "episode_index", "step_index")
_SINCE_3 = {
    "resets": COLUMNS["resets"],
    "voids": COLUMNS["voids"],
    "counts": ("stream", "kind", "agent_id", "n"),
    "places": ("stream", "kind", "agent_id", "n", *PICKED),
    "upgrade": ("piece", "done"),
}
_STREAMS_SINCE_3 = ", NULL AS parent, 1 AS attempt, 'counts' AS role, NULL AS outcome_reason, NULL AS last_ns"
_SINCE_4 = {
    "bookmarks": ("bookmark", "run", *_OF_PLACE, "stream_id", "label", "by", "time_ns"),
    "edits": ("edit", "edit_id", "time_ns", "by", "command", "run_id", "value", "outcome", "sentence"),
    "deleted_streams": ("stream", "stream_id", "stored_seq", "rows_left"),
}


def complete(db: apsw.Connection, version: int) -> None:
    """Views and empty tables under the names that the file lacks or has with fewer columns, in memory."""
    db.execute("PRAGMA temp_store = MEMORY").fetchall()
    older = _STREAMS_SINCE_3 if version < 3 else ""
    db.execute(f"CREATE TEMP VIEW streams AS SELECT *{older}, NULL AS carrier FROM main.streams")
    if version >= 4:
        return
    db.execute(
        "CREATE TEMP VIEW runs AS SELECT *, NULL AS archived_ns, NULL AS mark, NULL AS mark_reason, NULL AS mark_by,"
        " NULL AS mark_ns FROM main.runs"
    )
    _make(db, _SINCE_4)
    if version >= 3:
        return
    db.execute("CREATE TEMP VIEW episodes AS SELECT *, NULL AS seed FROM main.episodes")
    _make(db, _SINCE_3)
    db.execute("INSERT INTO upgrade VALUES ('events', 0)")


def _make(db: apsw.Connection, tables: Mapping[str, Iterable[str]]) -> None:
    for table, columns in tables.items():
        db.execute(f"CREATE TEMP TABLE {table} ({', '.join(columns)})")
