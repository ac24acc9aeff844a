"""TensorBoard event files by hand, for those that no writer makes: torn, damaged, with tensors of every form."""

from __future__ import annotations

import struct
from pathlib import Path

from telefabric_workers.imports.tensorboard.records import masked

Body = bytes


def varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: bytes | int | float) -> bytes:
    """A field: bytes of any length, an integer, or a double."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    return varint(number << 3) + varint(value)


def event(time_s: float, step: int, *values: Body) -> bytes:
    return field(1, time_s) + field(2, step) + field(5, b"".join(field(1, value) for value in values))


def version(time_s: float) -> bytes:
    return field(1, time_s) + field(3, b"brain.Event:2")


def scalar(tag: str, value: float) -> Body:
    return field(1, tag.encode()) + varint(2 << 3 | 5) + struct.pack("<f", value)


def tensor(tag: str, plugin: str, *parts: bytes) -> Body:
    metadata = field(9, field(1, field(1, plugin.encode()))) if plugin else b""
    return field(1, tag.encode()) + metadata + field(8, b"".join(parts))


def shape(*sizes: int) -> bytes:
    return field(2, b"".join(field(2, field(1, size)) for size in sizes))


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(length)) + data + struct.pack("<I", masked(data))


def write(path: Path, *events: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(record, events)))
    return path


def append(path: Path, *events: bytes) -> None:
    with path.open("ab") as file:
        file.write(b"".join(map(record, events)))
