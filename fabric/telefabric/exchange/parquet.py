"""Parquet, made by DuckDB: a folder of files for each kind of event, with the event as received beside its columns."""

from __future__ import annotations

from base64 import b64encode
from typing import IO

import duckdb

from telefabric import limits
from telefabric.errors import EnvironmentProblem
from telefabric.exchange.columns import COLUMNS
from telefabric.exchange.folder import Folder
from telefabric.exchange.json_form import json_line
from telefabric.exchange.writer import Writer
from telefabric.store.read.query import StoredEvent
from telefabric.store.read.reader import Reader


class ParquetWriter(Writer):
    """Writes `KIND/NNNNN.parquet`, one file of each kind a chunk.

    A chunk is first written as JSON lines, from which DuckDB makes the file: neither Python nor DuckDB ever has a chunk
    in memory.
    """

    def __init__(self, folder: Folder, reader: Reader, *, raw: bool) -> None:
        super().__init__(folder, reader)
        self._raw = raw
        self._lines: dict[str, IO[bytes]] = {}
        self._longest = 0
        self._number = len({name.partition("/")[2] for name in folder.progress.files})

    def add(self, rows: list[StoredEvent]) -> None:
        self.written.update(row.kind for row in rows)
        for row in rows:
            if row.kind not in self._lines:
                self._lines[row.kind] = self.folder.add(self._name(row.kind, "jsonl")).open("wb")
            line = json_line(row)
            if self._raw:
                line = b'%b,"event_base64":"%b"}\n' % (line[:-2], b64encode(row.event))
            self._longest = max(self._longest, len(line))
            self._lines[row.kind].write(line)

    def flush(self) -> None:
        for kind, lines in self._lines.items():
            lines.close()
            self._convert(kind)
            self.folder.drop(self._name(kind, "jsonl"))
        self._lines.clear()
        self._number += 1

    def close(self) -> None:
        for lines in self._lines.values():
            lines.close()

    def _name(self, kind: str, suffix: str) -> str:
        return f"{kind}/{self._number:05}.{suffix}"

    def _convert(self, kind: str) -> None:
        columns = COLUMNS[kind]
        read = {name: "STRUCT(base64 VARCHAR)" if sql == "BLOB" else sql for name, sql in columns.items()}
        take = [
            f'from_base64("{name}".base64) AS "{name}"' if columns[name] == "BLOB" else f'"{name}"' for name in columns
        ]
        if self._raw:
            read["event_base64"] = "VARCHAR"
            take.append("from_base64(event_base64) AS event")
        lines, made = self.folder.path / self._name(kind, "jsonl"), self.folder.add(self._name(kind, "parquet"))
        types = ", ".join(f"{_quoted(name)}: {_quoted(sql)}" for name, sql in read.items())
        asked = (
            f"COPY (SELECT {', '.join(take)} FROM read_json({_quoted(str(lines))}, format='newline_delimited', "
            f"columns={{{types}}}, maximum_object_size={2 * self._longest + limits.MIB})) "
            f"TO {_quoted(str(made))} (FORMAT parquet, COMPRESSION zstd)"
        )
        memory = f"{limits.EXPORT_MEMORY_BYTES // limits.MIB}MiB"
        try:
            with duckdb.connect(config={"threads": 1, "memory_limit": memory}) as database:
                database.execute(asked)
        except duckdb.Error as error:
            raise EnvironmentProblem(f"DuckDB cannot write {made}: {error}: call again to continue") from None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
