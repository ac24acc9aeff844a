"""Counting again, from the rows alone, what a stream's watermark claims."""

from __future__ import annotations

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
    connection = open_reader(path)
    try:
        rows: dict[int, int] = {}
        lost: set[int] = set()
        for table in COLUMNS:
            last = "last_seq" if table in RANGES else "seq"
            covers = "AND reason <> 'conflict'" if table == "quarantine" else ""
            query = f"SELECT seq, {last} FROM {table} JOIN streams USING (stream) WHERE stream_id = ? {covers}"
            for first_seq, last_seq in connection.execute(query, (stream_id,)):
                if table == "gaps":
                    lost.update(range(first_seq, last_seq + 1))
                else:
                    for seq in range(first_seq, last_seq + 1):
                        rows[seq] = rows.get(seq, 0) + 1
    finally:
        connection.close()
    missing = sum(seq not in rows and seq not in lost for seq in range(1, emitted + 1))
    return Audit(emitted, len(rows), missing, sum(rows.values()) - len(rows), len(lost))
