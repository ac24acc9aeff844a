"""TensorBoard: event files of scalars, a folder for each run and agent.

The messages are written by hand, as Protocol Buffers: `Event` has wall_time (field 1, double), step (2), file_version
(3) and summary (5); a value of `Summary` (1) has its tag (1) and simple_value (2, float of 32 bits).
"""

from __future__ import annotations

from collections import defaultdict
from urllib.parse import quote
from zlib import crc32

from telefabric.exchange.protobuf import double, integer, piece, single
from telefabric.exchange.scalars import scalars
from telefabric.exchange.tfrecords import record
from telefabric.exchange.writer import Writer
from telefabric.store.read.query import StoredEvent

_NAME_CHARS_MAX = 200
_FIRST = b"brain.Event:2"


class TensorBoardWriter(Writer):
    """Appends to `RUN/AGENT/events.out.tfevents.STREAM`, one file for each stream."""

    def add(self, rows: list[StoredEvent]) -> None:
        found: dict[str, list[bytes]] = defaultdict(list)
        for row in rows:
            name = f"{_named(row.run_id)}/{_named(row.agent_id)}/events.out.tfevents.{row.stream_id.hex()}"
            for scalar in scalars(row, self):
                summary = _summary(scalar.name, scalar.value)
                found[name].append(record(_event(scalar.time_ns, scalar.step or 0, summary)))
        for name, records in found.items():
            if name not in self.folder.progress.files:
                self.folder.add(name)
                records.insert(0, record(double(1, rows[0].time_ns / 10**9) + piece(3, _FIRST)))
            with open(self.folder.path / name, "ab") as file:
                file.writelines(records)


def _event(time_ns: int, step: int, summary: bytes) -> bytes:
    return double(1, time_ns / 10**9) + integer(2, step) + piece(5, summary)


def _summary(tag: str, value: float) -> bytes:
    return piece(1, piece(1, tag.encode()) + single(2, value))


def _named(name: str) -> str:
    """The name as one part of a path."""
    quoted = quote(name, safe=" =,@+()[]") if name.strip(".") else name.replace(".", "%2E") or "%"
    return quoted if len(quoted) <= _NAME_CHARS_MAX else f"{quoted[:_NAME_CHARS_MAX]}-{crc32(name.encode()):08x}"
