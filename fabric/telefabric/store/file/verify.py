"""Does a store file agree with itself: its rows counted and decoded again, against its columns and its watermarks.

It reads in short pages, beside a running store: what must be there is what the watermarks said at the start, and what
may be there is what they say at the end. SQLite's own check is one long statement, which holds the log meanwhile.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec

from telefabric.store.file import access, upgrade
from telefabric.store.file.database import DAMAGE, explain, open_reader
from telefabric.store.tables.columns import COLUMNS, RANGES
from telefabric.store.tables.places import EVERY, KINDS, PICKED
from telefabric.store.tables.rows import UNREADABLE, Place, row_of
from telefabric_schemas import events
from telefabric_schemas.decoding import Decoder

_PAGE_ROWS = 2_000
_SEQ, _LAST_SEQ, _REASON = 3, 4, 5
REPORTED = ("gap", "quarantine")
"""Findings that the store has recorded itself; all others contradict it."""

_SEED = COLUMNS["episodes"].index("seed")

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
    """The counts of a check, and its findings."""

    streams: int
    rows: int
    findings: list[Finding]

    @property
    def contradictions(self) -> int:
        return sum(finding.contradicts for finding in self.findings)


def verify(path: Path, progress: Progress = lambda done, total: None) -> Report:
    """Look at all of a store file. Raises `telefabric.errors.StoreError` when it cannot be read to its end."""
    with closing(open_reader(path)) as db:
        try:
            damage = [Finding("damaged", "", 0, 0, str(said)) for (said,) in _all(db, "PRAGMA integrity_check")]
            damage = [finding for finding in damage if finding.detail != "ok"]
            try:
                report = _count(db, progress)
            except TypeError:
                if not damage:
                    raise
                report = Report(0, 0, [])  # SQLite has named the column whose value is of another type
            if db.still:
                access.require_still(path)
        except (apsw.Error, *DAMAGE) as error:
            raise explain(path, error) from None
    return report._replace(findings=damage + report.findings)


def _count(db: apsw.Connection, progress: Progress) -> Report:
    findings: list[Finding] = []
    streams = _all(
        db,
        "SELECT stream, stream_id, coalesce(stored_seq, 0), run, run_id"
        " FROM streams JOIN runs USING (run) LEFT JOIN watermarks USING (stream)",
    )
    done = rows = 0
    total = sum(stored for _, _, stored, _, _ in streams)
    is_filled = not upgrade.unfinished(db)
    for stream, stream_id, stored, run, run_id in streams:
        place, name = Place(run, stream, run_id, stream_id), stream_id.hex()
        expected = 1
        found = _Places()
        for table, row in heapq.merge(*(_rows(db, table, stream) for table in COLUMNS), key=_place_in_stream):
            rows += 1
            first, last = row[_SEQ], row[_LAST_SEQ] if table in RANGES else row[_SEQ]
            findings += _told(place, table, row, first, last, is_filled=is_filled)
            if table == "quarantine" and row[_REASON] == "conflict":
                continue
            if first > expected:
                findings.append(Finding("missing", name, expected, first - 1, "no row and no gap"))
            if first < expected:
                findings.append(Finding("duplicate", name, first, min(last, expected - 1), f"again in {table}"))
            if table in KINDS:
                found.add(table, row)
            expected = max(expected, last + 1)
            if rows % _PAGE_ROWS == 0:
                progress(done + min(last, stored), total)
        if expected <= stored:
            findings.append(Finding("missing", name, expected, stored, "no row and no gap"))
        if is_filled and not any(one.stream == name and one.contradicts for one in findings):  # else they differ, too
            findings += found.compare(db, stream, name, expected - 1)
        now = _stored_seq(db, stream)
        if expected - 1 > now:
            findings.append(Finding("beyond", name, now + 1, expected - 1, f"the watermark is {now}"))
        done += stored
        progress(done, total)
    return Report(len(streams), rows, findings)


class _Places:
    """The counts and places that the rows of a stream lead to."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._places: dict[tuple[str, str, int], Row] = {}

    def add(self, table: str, row: Row) -> None:
        columns = COLUMNS[table]
        key = KINDS[table], row[columns.index("agent_id")]
        number = self._counts[key]
        self._counts[key] = number + 1
        if number % EVERY == 0:
            place = tuple(row[columns.index(name)] if name in columns else None for name in PICKED)
            self._places[(*key, number)] = place

    def compare(self, db: apsw.Connection, stream: int, name: str, last_seq: int) -> Iterator[Finding]:
        """Compare the recount with the file's counts, without what a running store has added since."""
        placed = f"SELECT kind, agent_id, n, {', '.join(PICKED)} FROM places WHERE stream = ? AND seq <= ?"
        told = {row[:3]: row[3:] for row in _all(db, placed, (stream, last_seq))}
        for key in sorted(self._places.keys() | told.keys()):
            if told.get(key) != self._places.get(key):
                seq = (self._places.get(key) or told[key])[0]
                yield Finding("differs", name, seq, seq, f"place {key[2]} of {key[0]} of {key[1]} is not where it says")
        for kind, agent_id, n in _all(db, "SELECT kind, agent_id, n FROM counts WHERE stream = ?", (stream,)):
            counted = self._counts.pop((kind, agent_id), 0)
            grown = _stored_seq(db, stream) > last_seq
            if n < counted or (n > counted and not grown):
                words = f"{n} rows of {kind} of {agent_id} are counted as {counted}"
                yield Finding("differs", name, 1, last_seq, words)
        for (kind, agent_id), counted in self._counts.items():
            yield Finding("differs", name, 1, last_seq, f"{counted} rows of {kind} of {agent_id} have no count")


def _all(db: apsw.Connection, query: str, values: tuple[Any, ...] = ()) -> list[Row]:
    """All rows at once, so that no statement stays open."""
    return db.execute(query, values).fetchall()


def _stored_seq(db: apsw.Connection, stream: int) -> int:
    return int(db.execute("SELECT stored_seq FROM watermarks WHERE stream = ?", (stream,)).get or 0)


def _place_in_stream(found: tuple[str, Row]) -> int:
    return int(found[1][_SEQ])


def _rows(db: apsw.Connection, table: str, stream: int) -> Iterator[tuple[str, Row]]:
    """The rows of a stream by seq, a page at a time; no statement stays open between pages."""
    seq = number = -1
    columns = ", ".join(COLUMNS[table])
    query = f"SELECT {columns} FROM {table} WHERE stream = ? AND (seq, id) > (?, ?) ORDER BY seq, id LIMIT {_PAGE_ROWS}"
    while page := _all(db, query, (stream, seq, number)):
        for row in page:
            yield table, row
        number, seq = page[-1][0], page[-1][_SEQ]


def _told(place: Place, table: str, row: Row, first: int, last: int, *, is_filled: bool) -> Iterator[Finding]:
    """Check a row by itself; `is_filled` is False while an older file has no seeds yet."""
    name = place.stream_id.hex()
    if table == "gaps":
        yield Finding("gap", name, first, last, str(row[_REASON]))
    if table == "quarantine":
        yield Finding("quarantine", name, first, last, f"{row[_REASON]}: {row[6]}")
    elif not (_is_its_gap(row, place) if table == "gaps" else _is_its_event(table, row, place, is_filled)):
        yield Finding("differs", name, first, last, f"row {row[0]} of {table} is not what its event says")


def _is_its_event(table: str, row: Row, place: Place, is_filled: bool) -> bool:
    made_of, again = row_of(row[0], place, row[_SEQ], row[-1])
    if table == made_of == "episodes" and not is_filled:
        again[_SEED] = row[_SEED]
    return made_of == table and all(map(_same, row, again))


def _is_its_gap(row: Row, place: Place) -> bool:
    """A batch whose first seqs were stored already left the rest of its gap."""
    _, run, _, first, last, reason, time_ns, event = row
    if run != place.run:
        return False
    try:
        gap = _gap.decode(event)
    except msgspec.DecodeError:
        return bool(reason == UNREADABLE)
    return (gap.last_seq, gap.reason, gap.time_ns) == (last, reason, time_ns) and gap.seq <= first


def _same(stored: object, made: object) -> bool:
    """Null for a value that is not a number, as it is stored."""
    return stored == made or (stored is None and made != made)


_gap: Decoder[events.Gap] = Decoder(events.Gap)


class Audit(NamedTuple):
    """How the store accounts for the seqs 1 … `emitted` of one stream."""

    emitted: int
    stored: int
    """Distinct seqs with a row of their own, quarantine included."""
    missing: int
    """Seqs with no row and no gap."""
    duplicated: int
    """Rows beyond the first of their seq."""
    lost: int
    """Seqs that a gap records as lost."""


def audit(path: Path, stream_id: bytes, emitted: int) -> Audit:
    """Raises `telefabric.errors.StoreError` when the file cannot be read."""
    rows: Counter[int] = Counter()
    lost: set[int] = set()
    with closing(open_reader(path)) as db:
        for table in COLUMNS:
            last = "last_seq" if table in RANGES else "seq"
            covers = "AND reason <> 'conflict'" if table == "quarantine" else ""
            query = f"SELECT seq, {last} FROM {table} JOIN streams USING (stream) WHERE stream_id = ? {covers}"
            found = lost if table == "gaps" else rows
            for first_seq, last_seq in db.execute(query, (stream_id,)):
                found.update(range(first_seq, last_seq + 1))
    missing = sum(seq not in rows and seq not in lost for seq in range(1, emitted + 1))
    return Audit(emitted, len(rows), missing, rows.total() - len(rows), len(lost))
