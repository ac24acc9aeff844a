"""Records of TensorBoard's event files: a length and data, each with a masked CRC-32C of its own."""

from __future__ import annotations

import struct

_MASK = 0xA282EAD8


def _row(index: int) -> int:
    for _ in range(8):
        index = (index >> 1) ^ (0x82F63B78 if index & 1 else 0)
    return index


_TABLE = [_row(index) for index in range(256)]


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720), turned by 15 bits and moved, so that a sum of sums is not trivial."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return b"%b%b%b%b" % (
        length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data)),
    )  # fmt: skip
