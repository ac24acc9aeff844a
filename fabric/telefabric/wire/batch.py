"""The batch: consecutive events of one stream in one message. See WIRE.md, "Batch"."""

from __future__ import annotations

import struct
from typing import Any, Generic, NamedTuple, TypeVar
from zlib import crc32

import msgspec

from telefabric import limits
from telefabric.errors import WireError
from telefabric.wire import records
from telefabric.wire.seal import CHECK_BYTES, seal, unseal
from telefabric_schemas import AnyEvent
from telefabric_schemas.decoding import Decoder

MAGIC = b"TF"
ABOUT = "batch"
"""The name of the message in errors."""
VERSION = 1
SEQ_MAX = 2**63 - 1
"""The largest number in a signed 64-bit column."""
FLAG_LIVE = 0x0001
FLAG_GAP = 0x0002
"""The body is one gap event that covers first_seq … last_seq."""

_HEADER = struct.Struct(">2sBBH16s16sIQQIQQI")
_CRC_BYTES = 5 * 1024
HEADER_BYTES = _HEADER.size + CHECK_BYTES
_SIZE_AT = 3
"""Where the header says its own size, in a byte."""


E = TypeVar("E")


class Header(NamedTuple):
    """The fixed part of a batch."""

    flags: int
    session: bytes
    """Instance id of the broker under which it was sent, 16 bytes."""
    stream: bytes
    """Stream id, 16 bytes."""
    epoch: int
    """Number of the WELCOME or REWIND under which it was sent."""
    first_seq: int
    last_seq: int
    events: int
    """How many records the body holds."""
    counter: int
    """Live batches: newest number of this (stream, kind); 0 in durable ones."""
    time_ns: int
    """Wall clock when it was sent."""
    body_crc: int = 0

    @property
    def is_live(self) -> bool:
        return bool(self.flags & FLAG_LIVE)

    @property
    def is_gap(self) -> bool:
        return bool(self.flags & FLAG_GAP)


class Record(msgspec.Struct, Generic[E], array_like=True, gc=False):
    """One record, decoded."""

    length: int
    crc: int
    event: E


ARRAY_BYTES = 5


def array_of(body: records.Buffer, count: int) -> bytes:
    """The records of a body as one MessagePack array, whose head has `ARRAY_BYTES`."""
    return b"".join((b"\xdd", count.to_bytes(4, "big"), body))


class BodyDecoder(Generic[E]):
    """Decodes all records of a body in one call, their events as one type."""

    def __init__(self, event: Any) -> None:
        self._decoder: Decoder[list[Record[E]]] = Decoder(list[Record[event]])

    def decode(self, body: records.Buffer, count: int) -> list[Record[E]]:
        """Raises `msgspec.DecodeError` when any of them is not of that type."""
        return self.decode_array(array_of(body, count))

    def decode_array(self, array: bytes) -> list[Record[E]]:
        """The same, from what `array_of` has made of a body."""
        return self._decoder.decode(array)


def pack(header: Header, body: bytes) -> bytes:
    """Header and body as one message; the CRC-32 of the body is computed here."""
    head = _HEADER.pack(MAGIC, VERSION, HEADER_BYTES, *header[:-1], _crc32(body))
    return seal(head) + body


def _crc32(body: bytes) -> int:
    """In pieces for which zlib keeps the interpreter's lock: beside a busy loop it is had again after 5 ms."""
    pieces = memoryview(body)
    check = 0
    for start in range(0, len(body), _CRC_BYTES):
        check = crc32(pieces[start : start + _CRC_BYTES], check)
    return check


def parse_header(message: bytes) -> tuple[Header, int]:
    """The header and the offset of the body. Checks the header, not the body.

    Raises `WireError`: too_short, not_ours, version, damaged, inconsistent, too_large.
    """
    if len(message) < HEADER_BYTES:
        raise _bad("too_short", f"a message of {len(message)} bytes is shorter than a batch header of {HEADER_BYTES}")
    magic, version, size, *fields = _HEADER.unpack_from(message)
    if magic != MAGIC:
        raise _bad("not_ours", "a batch begins with the bytes TF", "magic")
    if version != VERSION:
        raise _bad("version", f"a batch has wire version {version}; this side reads {VERSION}: update it", "version")
    if size < HEADER_BYTES or size > len(message):
        raise _bad("inconsistent", f"a batch header claims {size} bytes", "header size")
    if unseal(message[:size]) is None:
        raise _bad("damaged", "a batch header fails its CRC-32, which is of all header bytes before it", "header CRC")
    header = Header._make(fields)
    _check_ranges(header)
    if len(message) > limits.MESSAGE_BYTES_MAX:
        why = f"a batch of {len(message)} bytes is over {limits.MESSAGE_BYTES_MAX}: send several"
        raise _bad("too_large", why, "size", header.stream)
    return header, size


def _bad(reason: str, message: str, field: str = "", stream: bytes = b"") -> WireError:
    return WireError(reason, message, about=ABOUT, field=field, stream=stream)


def body_of(message: bytes) -> bytes:
    """The body of a message whose header was read."""
    return message[message[_SIZE_AT] :]


def _check_ranges(header: Header) -> None:
    covered = header.last_seq - header.first_seq + 1
    if header.is_live:  # of one kind, so it may leave seqs out; 0 for kinds that are never stored
        stored = header.first_seq >= 1 and header.events <= covered
        fits = (stored or header.first_seq == header.last_seq == 0) and 1 <= header.events <= header.counter <= SEQ_MAX
    else:
        fits = header.first_seq >= 1 and header.events == (1 if header.is_gap else covered)
    if not fits or covered < 1 or header.last_seq > SEQ_MAX:
        seqs = f"seqs {header.first_seq} to {header.last_seq}"
        why = f"a batch claims {header.events} events for {seqs}: see WIRE.md, Batches"
        raise _bad("inconsistent", why, "events", header.stream)
    if header.events > limits.BATCH_EVENTS_MAX:
        why = f"a batch of {header.events} events is over {limits.BATCH_EVENTS_MAX}: send several"
        raise _bad("too_large", why, "events", header.stream)


def check_body(header: Header, body: records.Buffer) -> None:
    """Raises `WireError` when the body is not the one that the header was made for."""
    if not is_whole(header, body):
        raise _bad("damaged", "a batch body fails its CRC-32", "body CRC", header.stream)


def is_whole(header: Header, body: records.Buffer) -> bool:
    return crc32(body) == header.body_crc


_events: BodyDecoder[AnyEvent] = BodyDecoder(AnyEvent)
decode_body = _events.decode
decode_array = _events.decode_array
