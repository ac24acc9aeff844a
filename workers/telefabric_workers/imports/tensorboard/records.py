"""The records of an event file, as they are appended.

A record is the length of its data (u64), the masked CRC-32C of these eight bytes (u32), the data, and the masked
CRC-32C of the data (u32), all little-endian. The mask rotates the checksum by 15 bits and adds a constant
(tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

try:
    from crc32c import crc32c
except ImportError:

    def crc32c(data: bytes) -> int:
        """CRC-32C by its table: 0.1 µs a byte, which is enough for scalars."""
        crc = 0xFFFFFFFF
        for byte in data:
            crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        return crc ^ 0xFFFFFFFF


_LENGTH = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_PIECE_BYTES = 1 << 20
_POLYNOMIAL = 0x82F63B78


class Damaged(Exception):
    """A record whose checksum is not that of its bytes: nobody can tell where the next one begins."""


def masked(data: bytes) -> int:
    """The checksum of a record's part."""
    crc: int = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class Tail:
    """The records of one file from its beginning on; a record that is not whole yet is read when it is."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError`."""
        self.path = path
        self._file = path.open("rb")
        self.offset = 0
        """Where the next record begins."""
        self._ahead = b""

    @property
    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    def records(self) -> Iterator[bytes]:
        """The data of all records that are whole by now. Raises `Damaged`, again each time, and `OSError`."""
        while (data := self._next()) is not None:
            yield data

    @property
    def torn_bytes(self) -> int:
        """Bytes behind the last whole record."""
        return max(self.path.stat().st_size - self.offset, 0)

    def _next(self) -> bytes | None:
        if not self._has(_LENGTH.size):
            return None
        length, checksum = _LENGTH.unpack_from(self._ahead)
        self._require(self._ahead[:8], checksum)
        end = _LENGTH.size + length
        if not self._has(end + _CHECKSUM.size):
            return None
        data = self._ahead[_LENGTH.size : end]
        self._require(data, _CHECKSUM.unpack_from(self._ahead, end)[0])
        self._ahead = self._ahead[end + _CHECKSUM.size :]
        self.offset += end + _CHECKSUM.size
        return data

    def _has(self, size: int) -> bool:
        """Whether so many bytes are there, read or to be read."""
        while len(self._ahead) < size:
            more = self._file.read(max(size - len(self._ahead), _PIECE_BYTES))
            if not more:
                return False
            self._ahead += more
        return True

    def _require(self, data: bytes, checksum: int) -> None:
        if masked(data) != checksum:
            self._file.seek(self.offset)  # a file system may show a record before all of its bytes: read it again
            self._ahead = b""
            raise Damaged(f"{self.path} is damaged at byte {self.offset}")


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = [_remainder(byte) for byte in range(256)]
