"""Reading a file of version 1 or 2 as it is: what it lacks is put beside it in memory, and the file stays untouched."""

from __future__ import annotations

import apsw

from telefabric.store.tables.columns import COLUMNS
from telefabric.store.tables.places import PICKED

SINCE = 3
"""The version that has all columns and tables which readers name."""
_EMPTY = {
    "resets": COLUMNS["resets"],
    "voids": COLUMNS["voids"],
    "counts": ("stream", "kind", "agent_id", "n"),
    "places": ("stream", "kind", "agent_id", "n", *PICKED),
    "upgrade": ("piece", "done"),
}


def complete(db: apsw.Connection) -> None:
    """Views and empty tables under the names that the file lacks or has with fewer columns, in memory."""
    db.execute("PRAGMA temp_store = MEMORY").fetchall()
    db.execute(
        "CREATE TEMP VIEW streams AS SELECT *, NULL AS parent, 1 AS attempt, 'counts' AS role,"
        " NULL AS outcome_reason, NULL AS last_ns FROM main.streams"
    )
    db.execute("CREATE TEMP VIEW episodes AS SELECT *, NULL AS seed FROM main.episodes")
    for table, columns in _EMPTY.items():
        db.execute(f"CREATE TEMP TABLE {table} ({', '.join(columns)})")
    db.execute("INSERT INTO upgrade VALUES ('events', 0)")
