"""A ring file byte by byte: offsets, the superblock, the descriptor of a slot. `fabric/RING.md` has the tables.

Little-endian throughout. A word that another process polls is 8 bytes, aligned, on a cache line of its own, and written
through `memoryview.cast('Q')` alone: `struct.pack_into` zeroes its record first, and a reader sees that.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple
from zlib import crc32

from telefabric import limits
from telefabric.errors import WireError
from telefabric.ring.owner import Owner

MAGIC = b"TFRING\r\n"
MAJOR, MINOR = 1, 0

PAGE = 4_096
SUPERBLOCK_BYTES = 256
HEAD, INTENT, HEARTBEAT, STATE, COUNTERS = 0x100, 0x180, 0x200, 0x280, 0x300
"""Offsets of polled words in page 0; COUNTERS are five of them, side by side, that only people look at."""

BEGIN = 0
DESCRIPTOR = 64
DESCRIPTOR_BYTES = 64
META = 128
META_BYTES_MAX = 2 * PAGE - META
PAYLOAD = 2 * PAGE
END_BYTES = 64
"""Offsets in a slot; its `end` word is the first of its last 64 bytes."""

FEATURE_CHECKSUM = 1
"""Descriptors carry a CRC-32 of the payload."""


class State(IntEnum):
    """The start of a ring's file, written by its writer."""

    LIVE = 1
    CLOSED = 2
    SUPERSEDED = 3
    """Its frames go on in the file that the manifest names by now."""


class Superblock(NamedTuple):
    """The unchanging start of a ring file."""

    features: int
    slots: int
    stride: int
    """Bytes from slot to slot."""
    capacity: int
    """Bytes of payload that a slot has room for."""
    total: int
    """Bytes of the file."""
    generation: int
    """Random; names the file."""
    base: int
    """Number of the last frame before this file: its first one is the next."""
    owner: Owner
    created_ns: int
    """Wall clock."""


_SUPERBLOCK = struct.Struct("<8sHHIIIQQQQQQQQ16sq")
_DESCRIPTOR = struct.Struct("<Q16sqq8sI4sI")
"""The bytes in it are those of a form, in three pieces."""
_FORM = struct.Struct("<QQIIHBB")
_CRC = struct.Struct("<I")
_WHOLE = struct.Struct(_DESCRIPTOR.format + "I")
"""With its checksum."""
assert _SUPERBLOCK.size <= SUPERBLOCK_BYTES - _CRC.size
assert _WHOLE.size == DESCRIPTOR_BYTES


def pack_superblock(block: Superblock) -> bytes:
    packed = _SUPERBLOCK.pack(MAGIC, MAJOR, MINOR, PAGE, *block[:7], *block.owner, block.created_ns)
    packed = packed.ljust(SUPERBLOCK_BYTES - _CRC.size, b"\0")
    return packed + _CRC.pack(crc32(packed))


def parse_superblock(data: bytes, file_bytes: int) -> Superblock:
    """Raises `WireError` unless this is a ring file of this major version that fits into `file_bytes`."""
    if len(data) < SUPERBLOCK_BYTES or data[: len(MAGIC)] != MAGIC:
        raise WireError("not_ours", "the file is not a frame ring")
    _, major, _, page, *fields = _SUPERBLOCK.unpack_from(data)
    if major != MAJOR:
        raise WireError("version", f"the ring has layout {major}, this program reads {MAJOR}: install one version")
    body = data[: SUPERBLOCK_BYTES - _CRC.size]
    if _CRC.unpack_from(data, len(body))[0] != crc32(body):
        raise WireError("damaged", "the start of the ring fails its checksum")
    fields[7:11] = [Owner(*fields[7:11])]
    block = Superblock(*fields)
    fits = (
        page == PAGE
        and 2 <= block.slots <= limits.RING_SLOTS_MAX
        and block.stride == stride_of(block.capacity)
        and block.total == PAGE + block.slots * block.stride == file_bytes
    )
    if not fits:
        raise WireError("inconsistent", "the start of the ring contradicts itself or the size of its file")
    return block


def stride_of(capacity: int) -> int:
    """Bytes of a slot with room for so much payload."""
    return -(-(PAYLOAD + capacity + END_BYTES) // PAGE) * PAGE


class Form(NamedTuple):
    """The part of a descriptor that frames of one form in one segment have in common."""

    generation: int
    payload_bytes: int
    height: int
    width: int
    tiles: int
    """0 for one picture, else the number of tiles of one size, back to back."""
    pixels: int
    """A `PixelFormat`."""
    flags: int


def head_packer(form: Form) -> Callable[[int, int, int, int, bytes], bytes]:
    """What packs a slot's descriptor and meta, which follow each other, for frames of one form.

    Its arguments: number, monotonic and wall clock in ns, CRC of the payload, meta.
    """
    packed = _FORM.pack(*form)
    sizes, sides, kind = packed[:16], packed[16:24], packed[24:]
    pack, pack_crc = _DESCRIPTOR.pack, _CRC.pack

    def pack_head(number: int, shown_ns: int, time_ns: int, payload_crc: int, meta: bytes) -> bytes:
        head = pack(number, sizes, shown_ns, time_ns, sides, len(meta), kind, payload_crc)
        return head + pack_crc(crc32(meta, crc32(head))) + meta

    return pack_head


Head = tuple[int, int, int, int, bytes, bytes]
"""All about a frame except the payload: number, monotonic and wall clock in ns, CRC of the payload, `Form`, meta.

The form is packed: two frames of one form have the same bytes there.
"""


def head_at(data: memoryview, at: int) -> Head | None:
    """The head at this offset: it is copied first, and then checked. None when it is damaged, or of two frames."""
    descriptor = data[at : at + DESCRIPTOR_BYTES].tobytes()
    number, sizes, shown_ns, time_ns, sides, meta_bytes, kind, payload_crc, crc = _WHOLE.unpack(descriptor)
    at += DESCRIPTOR_BYTES
    meta = data[at : at + min(meta_bytes, META_BYTES_MAX)].tobytes()
    if crc32(meta, crc32(descriptor[: _DESCRIPTOR.size])) != crc:
        return None
    return number, shown_ns, time_ns, payload_crc, sizes + sides + kind, meta


def parse_form(packed: bytes) -> Form:
    return Form(*_FORM.unpack(packed))
