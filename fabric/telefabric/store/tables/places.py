"""Places: where every 1,024th row of a stream, kind and agent is, and how many rows there are.

So the way to the row, the step or the moment n of millions is a look-up and at most 1,024 rows, whatever lies before
it. Places and counts are written in the transaction that writes the rows: the count is the number of the next row, and
holds across restarts of the writer, gaps and quarantine, for it counts rows and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import apsw

from telefabric.store.tables.columns import COLUMNS, KINDS_OF

EVERY = 1_024
KINDS = {table: kinds[0] for table, kinds in KINDS_OF.items() if "agent_id" in COLUMNS[table]}
"""The tables whose rows name an agent, and their kinds."""

PICKED = ("seq", "id", "global_step", "time_ns")
"""The columns that a place has of its row; null for those that the table does not have."""

_COUNT = (
    "INSERT INTO counts (stream, kind, agent_id, n) VALUES (?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET n = n + excluded.n RETURNING n"
)
_PLACE = "INSERT INTO places (stream, kind, agent_id, n, seq, id, global_step, time_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class Span(NamedTuple):
    """Consecutive rows of one agent of one stream among the rows of a table."""

    stream: int
    agent_id: str
    first: int
    rows: int


def spans(table: str, values: list[Any], first: int = 0) -> Iterator[Span]:
    """The rows of a table, whose values follow each other, from row `first` on."""
    columns = COLUMNS[table]
    width, start = len(columns), first * len(columns)
    streams, agents = (values[start + columns.index(name) :: width] for name in ("stream", "agent_id"))
    for (stream, agent_id), group in groupby(zip(streams, agents, strict=True)):
        rows = sum(1 for _ in group)
        yield Span(stream, agent_id, first, rows)
        first += rows


def write(db: apsw.Connection, table: str, values: list[Any], found: Iterable[Span]) -> None:
    """Count the rows of these spans, and keep the places among them."""
    kind, columns = KINDS[table], COLUMNS[table]
    together: dict[tuple[int, str], list[Span]] = {}
    for span in found:
        together.setdefault((span.stream, span.agent_id), []).append(span)
    added = [(*key, sum([span.rows for span in parts])) for key, parts in together.items()]
    totals = [(stream, kind, agent_id, rows) for stream, agent_id, rows in added]
    counted: list[Any] = db.executemany(_COUNT, totals).fetchall()
    picked = [columns.index(name) if name in columns else None for name in PICKED]
    places = []
    for (stream, agent_id, rows), (n,), parts in zip(added, counted, together.values(), strict=True):
        number = n - rows
        if number + -number % EVERY >= n:
            continue
        for span in parts:
            for place in range(number + -number % EVERY, number + span.rows, EVERY):
                at = (span.first + place - number) * len(columns)
                row = [None if column is None else values[at + column] for column in picked]
                places.append((stream, kind, agent_id, place, *row))
            number += span.rows
    db.executemany(_PLACE, places)


def count_again(db: apsw.Connection, table: str, after: int, until: int) -> None:
    """The same from the rows that are stored, of these ids; those before have been counted."""
    kind = KINDS[table]
    step = "global_step" if "global_step" in COLUMNS[table] else "NULL"
    db.execute(
        "INSERT INTO places SELECT stream, ?1, agent_id, number, seq, id, step, time_ns FROM ("
        f"SELECT rows.*, {step} AS step, coalesce(n, 0) - 1"
        "  + row_number() OVER (PARTITION BY rows.stream, rows.agent_id ORDER BY id) AS number"
        f" FROM (SELECT * FROM {table} WHERE id > ?2 AND id <= ?3) AS rows"
        "  LEFT JOIN counts ON counts.stream = rows.stream AND kind = ?1 AND counts.agent_id = rows.agent_id"
        f") WHERE number % {EVERY} = 0",
        (kind, after, until),
    )
    db.execute(
        f"INSERT INTO counts SELECT stream, ?1, agent_id, count(*) FROM {table} WHERE id > ?2 AND id <= ?3"
        " GROUP BY stream, agent_id ON CONFLICT DO UPDATE SET n = n + excluded.n",
        (kind, after, until),
    )
