"""Counting again, from the rows alone, what a stream's watermark claims."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from telefabric.store.file.database import open_reader
from telefabric.store.tables.columns import COLUMNS, RANGES


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
