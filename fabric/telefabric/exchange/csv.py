"""CSV: one file for each kind of event."""

from __future__ import annotations

import csv
from base64 import b64encode
from io import StringIO
from itertools import groupby
from operator import attrgetter
from typing import Any

from telefabric.exchange.columns import COLUMNS
from telefabric.exchange.json_form import encode_json, formed
from telefabric.exchange.writer import Writer
from telefabric.store.read.query import StoredEvent


class CsvWriter(Writer):
    """Appends to `KIND.csv`: UTF-8, a line of names first, CRLF as RFC 4180 says."""

    def add(self, rows: list[StoredEvent]) -> None:
        self.written.update(row.kind for row in rows)
        for kind, some in groupby(sorted(rows, key=attrgetter("kind")), attrgetter("kind")):
            text = StringIO(newline="")
            lines = csv.writer(text)
            name = f"{kind}.csv"
            if name not in self.folder.progress.files:
                self.folder.add(name)
                lines.writerow(COLUMNS[kind])
            lines.writerows(map(_cells, some))
            with open(self.folder.path / name, "a", encoding="utf-8", newline="") as file:
                file.write(text.getvalue())


def _cells(stored: StoredEvent) -> list[Any]:
    columns = COLUMNS[stored.kind].items()
    return formed(stored, lambda fields: [_cell(fields.get(name), kind) for name, kind in columns])


def _cell(value: Any, kind: str) -> Any:
    """Nothing for null; JSON for what is not a number or a text."""
    if value is None:
        return None
    if isinstance(value, bytes) and kind == "BLOB":
        return b64encode(value).decode()
    if kind == "DOUBLE" and value != value:
        return "NaN"
    if kind == "JSON" or isinstance(value, (bool, dict, list)):
        return encode_json(value)
    return value
