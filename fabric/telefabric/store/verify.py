"""Does a store file agree with itself: its rows counted and decoded again, against its columns and its watermarks.

It reads in short pages, beside a running store: what must be there is what the watermarks said at the start, and what
may be there is what they say at the end. SQLite's own check is one long statement, which holds the log meanwhile.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import apsw

from telefabric.store.database import explain, open_reader
from telefabric.store.rows import EVENT_TABLES, Place, row_of

_PAGE_ROWS = 2_000
_RANGES = ("gaps", "quarantine")
_RUN, _STREAM, _SEQ, _LAST_SEQ, _REASON = 1, 2, 3, 4, 5
REPORTED = ("gap", "quarantine")
"""Findings that the store has told of itself; all others contradict what it claims."""

Row = tuple[Any, ...]
Progress = Callable[[int, int], None]
"""Called with the seqs looked at and those that there are."""


class Finding(NamedTuple):
    """Something to know about a file; `stream` is the id in hexadecimal, empty for the file as a whole."""

    kind: str
    """`gap`, `quarantine`, `missing`, `duplicate`, `beyond`, `differs` or `damaged`."""
    stream: str
    first_seq: int
    last_seq: int
    detail: str

    @property
    def contradicts(self) -> bool:
        return self.kind not in REPORTED


class Report(NamedTuple):
    """What was looked at, and what was found."""

    streams: int
    rows: int
    findings: list[Finding]

    @property
    def contradictions(self) -> int:
        return sum(finding.contradicts for finding in self.findings)


def verify(path: Path, progress: Progress = lambda done, total: None) -> Report:
    """Look at all of a store file. Raises `telefabric.errors.StoreError` when it cannot be read to its end."""
    connection = open_reader(path)
    try:
        return _verify(connection, progress)
    except apsw.Error as error:
        raise explain(path, error) from None
    finally:
        connection.close()


def _verify(db: apsw.Connection, progress: Progress) -> Report:
    findings = [
        Finding("damaged", "", 0, 0, str(told))
        for (told,) in db.execute("PRAGMA integrity_check").fetchall()
        if told != "ok"
    ]
    streams: list[Row] = db.execute(
        "SELECT stream, hex(stream_id), coalesce(stored_seq, 0) FROM streams LEFT JOIN watermarks USING (stream)"
    ).fetchall()
    done = rows = 0
    total = sum(stored for _, _, stored in streams)
    for stream, stream_id, stored in streams:
        name = stream_id.lower()
        expected = 1
        for table, row in heapq.merge(*(_rows(db, table, stream) for table in EVENT_TABLES), key=_place_in_stream):
            rows += 1
            first, last = row[_SEQ], row[_LAST_SEQ] if table in _RANGES else row[_SEQ]
            findings += _told(name, table, row, first, last)
            if table == "quarantine" and row[_REASON] == "conflict":
                continue
            if first > expected:
                findings.append(Finding("missing", name, expected, first - 1, "no row and no gap"))
            if first < expected:
                findings.append(Finding("duplicate", name, first, min(last, expected - 1), f"again in {table}"))
            expected = max(expected, last + 1)
            if rows % _PAGE_ROWS == 0:
                progress(done + min(last, stored), total)
        if expected <= stored:
            findings.append(Finding("missing", name, expected, stored, "no row and no gap"))
        now = int(db.execute("SELECT stored_seq FROM watermarks WHERE stream = ?", (stream,)).get or 0)
        if expected - 1 > now:
            findings.append(Finding("beyond", name, now + 1, expected - 1, f"the watermark is {now}"))
        done += stored
        progress(done, total)
    return Report(len(streams), rows, findings)


def _place_in_stream(found: tuple[str, Row]) -> int:
    return int(found[1][_SEQ])


def _rows(db: apsw.Connection, table: str, stream: int) -> Iterator[tuple[str, Row]]:
    """The rows of a stream by seq, a page at a time; no statement stays open between pages."""
    seq = number = -1
    query = f"SELECT * FROM {table} WHERE stream = ? AND (seq, id) > (?, ?) ORDER BY seq, id LIMIT {_PAGE_ROWS}"
    while page := cast("list[Row]", db.execute(query, (stream, seq, number)).fetchall()):
        for row in page:
            yield table, row
        number, seq = page[-1][0], page[-1][_SEQ]


def _told(name: str, table: str, row: Row, first: int, last: int) -> list[Finding]:
    """What a row alone tells."""
    if table == "gaps":
        return [Finding("gap", name, first, last, str(row[_REASON]))]
    if table == "quarantine":
        return [Finding("quarantine", name, first, last, f"{row[_REASON]}: {row[6]}")]
    made_of, again = row_of(row[0], Place(row[_RUN], row[_STREAM]), first, row[-1])
    if made_of != table or not all(map(_same, row, again)):
        return [Finding("differs", name, first, last, f"row {row[0]} of {table} is not what its event says")]
    return []


def _same(stored: object, made: object) -> bool:
    """A number that is none is stored as null."""
    return stored == made or (stored is None and made != made)
