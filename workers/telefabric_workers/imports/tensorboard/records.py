"""The records of an event file, as they are appended.

A record is the length of its data (u64), the masked CRC-32C of these eight bytes (u32), the data, and the masked
CRC-32C of the data (u32), all little-endian. The mask rotates the checksum by 15 bits and adds a constant
(tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from telefabric.exchange.tfrecords import masked_crc32c as masked

_HEAD = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")


class Damaged(Exception):
    """A record whose checksum is not that of its bytes: nobody can tell where the next one begins."""


class Tail:
    """The records of one file from its beginning on; a record that is not whole yet is read when it is.

    The file is open only while it is read: there may be thousands.
    """

    def __init__(self, path: Path) -> None:
        """Raises `OSError`."""
        self.path = path
        self.offset = 0
        """Where the next record begins."""
        self._identity = _identity(path.stat())

    def is_replaced(self) -> bool:
        """Another file has its name, or none, or it has become shorter than what was read of it."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return True
        return _identity(status) != self._identity or status.st_size < self.offset

    def records(self) -> Iterator[bytes]:
        """The data of all records that are whole by now; none of a file that has been replaced.

        Raises `Damaged`, again each time, and `OSError`.
        """
        if self.is_replaced() or self.torn_bytes == 0:
            return
        with self.path.open("rb") as file:
            if _identity(os.fstat(file.fileno())) != self._identity:
                return
            file.seek(self.offset)
            while (data := self._next(file)) is not None:
                yield data

    @property
    def torn_bytes(self) -> int:
        """Bytes behind the last whole record."""
        return max(self.path.stat().st_size - self.offset, 0)

    def _next(self, file: BinaryIO) -> bytes | None:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        length, checksum = _HEAD.unpack(head)
        self._require(head[:8], checksum)
        if length > self.torn_bytes:
            return None
        rest = file.read(length + _CHECKSUM.size)
        if len(rest) < length + _CHECKSUM.size:
            return None
        self._require(rest[:length], _CHECKSUM.unpack_from(rest, length)[0])
        self.offset += _HEAD.size + len(rest)
        return rest[:length]

    def _require(self, data: bytes, checksum: int) -> None:
        if masked(data) != checksum:
            raise Damaged(f"{self.path} is damaged at byte {self.offset}")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
