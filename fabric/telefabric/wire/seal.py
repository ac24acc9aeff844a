"""Bytes with a check behind them: the CRC-32 (zlib) of all bytes before it, 4 bytes, big-endian."""

from __future__ import annotations

from zlib import crc32

CHECK_BYTES = 4


def seal(data: bytes) -> bytes:
    """The data with its check."""
    return data + crc32(data).to_bytes(CHECK_BYTES, "big")


def unseal(sealed: bytes) -> bytes | None:
    """The data without its check; None when the check fails."""
    data, check = sealed[:-CHECK_BYTES], sealed[-CHECK_BYTES:]
    return data if crc32(data).to_bytes(CHECK_BYTES, "big") == check else None
