"""TensorBoard: event files of scalars, a folder for each run and agent.

The messages are written by hand, as Protocol Buffers: `Event` has wall_time (field 1, double), step (2), file_version
(3) and summary (5); a value of `Summary` (1) has its tag (1) and simple_value (2, float of 32 bits).
"""

from __future__ import annotations

import struct
from collections import defaultdict
from urllib.parse import quote
from zlib import crc32

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
                records.insert(0, record(_double(1, rows[0].time_ns / 10**9) + _bytes(3, _FIRST)))
            with open(self.folder.path / name, "ab") as file:
                file.writelines(records)


def _event(time_ns: int, step: int, summary: bytes) -> bytes:
    return _double(1, time_ns / 10**9) + b"\x10" + _varint(step) + _bytes(5, summary)


def _summary(tag: str, value: float) -> bytes:
    return _bytes(1, _bytes(1, tag.encode()) + b"\x15" + _float(value))


def _float(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:  # beyond 32 bits
        return struct.pack("<f", float("inf") if value > 0 else float("-inf"))


def _double(field: int, value: float) -> bytes:
    return bytes([field << 3 | 1]) + struct.pack("<d", value)


def _bytes(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    number &= 2**64 - 1  # a negative one takes ten bytes
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _named(name: str) -> str:
    """The name as one part of a path."""
    quoted = quote(name, safe=" =,@+()[]") if name.strip(".") else name.replace(".", "%2E") or "%"
    return quoted if len(quoted) <= _NAME_CHARS_MAX else f"{quoted[:_NAME_CHARS_MAX]}-{crc32(name.encode()):08x}"
