"""Fields of a Protobuf message as bytes: https://protobuf.dev/programming-guides/encoding/."""

from __future__ import annotations

import struct


def piece(number: int, value: bytes) -> bytes:
    """A field of bytes or text, or a message in a message."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def integer(number: int, value: int) -> bytes:
    """A field of 64 bits."""
    return varint(number << 3) + varint(value)


def fixed32(number: int, value: int) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<I", value)


def double(number: int, value: float) -> bytes:
    return varint(number << 3 | 1) + struct.pack("<d", value)


def single(number: int, value: float) -> bytes:
    """A field of a 32-bit float; what is beyond its range is infinite."""
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        packed = struct.pack("<f", float("inf") if value > 0 else float("-inf"))
    return varint(number << 3 | 5) + packed


def varint(value: int) -> bytes:
    value &= 2**64 - 1  # a negative one takes ten bytes
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
