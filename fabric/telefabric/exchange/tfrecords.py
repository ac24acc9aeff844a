"""Records of TensorBoard's event files: a length and data, each with a masked CRC-32C of its own.

All numbers are little-endian (tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import struct

try:
    from crc32c import crc32c
except ImportError:

    def crc32c(data: bytes) -> int:
        """CRC-32C (RFC 3720) by its table: 0.1 µs a byte, which is enough for scalars."""
        crc = 0xFFFFFFFF
        for byte in data:
            crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        return crc ^ 0xFFFFFFFF


_POLYNOMIAL = 0x82F63B78
_MASK = 0xA282EAD8


def masked_crc32c(data: bytes) -> int:
    """The checksum of a record's part: turned by 15 bits, and moved."""
    crc: int = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return b"%b%b%b%b" % (
        length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data)),
    )  # fmt: skip


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = [_remainder(byte) for byte in range(256)]
