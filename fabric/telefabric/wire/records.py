"""The record: one event with its length and checksum, the same bytes in the spool and in a batch.

A record is the MessagePack array ``[length, crc, event]`` with fixed-width integers, 11 bytes before the event:

====== ===== =======================================
offset bytes what
====== ===== =======================================
0      1     0x93, an array of three
1      5     0xce, u32: length of the event in bytes
6      5     0xce, u32: CRC-32 (zlib) of the event
11     n     the event, itself a MessagePack array
====== ===== =======================================

So a run of records needs no index to walk, a torn one is recognised, and a whole batch decodes in one call.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple
from zlib import crc32

from telefabric.errors import WireError

PREFIX = struct.Struct(">BBIBI")
PREFIX_BYTES = PREFIX.size
_ARRAY_OF_3, _U32 = 0x93, 0xCE


Buffer = bytes | memoryview | mmap


class Span(NamedTuple):
    """Where one event lies in a buffer: ``buffer[start:end]``."""

    start: int
    end: int


def frame(event: bytes) -> bytes:
    """The record of an encoded event."""
    return PREFIX.pack(_ARRAY_OF_3, _U32, len(event), _U32, crc32(event)) + event


def kind_of(event: bytes) -> str:
    """The kind of an encoded event, read from its first bytes; empty if it is not an event. Takes any bytes."""
    start = 1 if b"\x90" <= event[:1] <= b"\x9f" else 3
    marker = event[start] if len(event) > start else 0
    return event[start + 1 : start + 1 + (marker & 0x1F)].decode("utf-8", "replace") if 0xA0 <= marker <= 0xBF else ""


def walk(buffer: Buffer, start: int, end: int) -> Iterator[Span]:
    """The events of the whole, undamaged records from `start` on; ends before the first bad one or at `end`."""
    unpack = PREFIX.unpack_from
    view = memoryview(buffer)
    while start + PREFIX_BYTES <= end:
        array, marker, length, marker2, crc = unpack(buffer, start)
        event = start + PREFIX_BYTES
        stop = event + length
        if (array, marker, marker2) != (_ARRAY_OF_3, _U32, _U32) or stop > end or crc32(view[event:stop]) != crc:
            return
        yield Span(event, stop)
        start = stop


def spans(body: Buffer, count: int) -> list[Span]:
    """The events of a batch's body, found by their lengths only (the batch has its own checksum).

    Raises `WireError` when the lengths and `count` do not fill the body exactly.
    """
    unpack = PREFIX.unpack_from
    found: list[Span] = []
    start, end = 0, len(body)
    while start + PREFIX_BYTES <= end and len(found) < count:
        event = start + PREFIX_BYTES
        start = event + unpack(body, start)[2]
        found.append(Span(event, start))
    if start != end or len(found) != count:
        raise WireError("bad_body", f"a batch body of {end} bytes does not hold its {count} records")
    return found


def cut(buffer: Buffer, start: int, end: int, bytes_max: int, events_max: int) -> tuple[int, int]:
    """How far a batch from `start` may reach: (its end offset, its number of events). At least one event."""
    unpack = PREFIX.unpack_from
    offset, count = start, 0
    while offset < end and count < events_max:
        stop = offset + PREFIX_BYTES + unpack(buffer, offset)[2]
        if count and stop - start > bytes_max:
            break
        offset, count = stop, count + 1
    return offset, count
