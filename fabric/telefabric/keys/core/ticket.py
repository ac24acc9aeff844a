"""A ticket: one line with all that another machine needs to enrol itself.

``tf1`` and, in base64url without padding, a MessagePack array with its CRC-32 behind it. The secret is a CURVE secret
key that opens the socket `enrol` and nothing else; the registry has its public half.
"""

from __future__ import annotations

import binascii
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated
from zlib import crc32

import msgspec
from msgspec import Meta

from telefabric.errors import UsageError
from telefabric_schemas.decoding import Decoder

_PREFIX, _VERSION = "tf", "1"
_CHECK = struct.Struct(">I")
_CUT = "this is no whole ticket: copy the line that telefabric keys invite printed, from tf1 to its end"
_KEY = Meta(min_length=32, max_length=32)


class Ticket(msgspec.Struct, array_like=True, frozen=True):
    """What the line holds. Keys are 32 bytes, `expires_s` seconds since 1970."""

    server: Annotated[bytes, _KEY]
    secret: Annotated[bytes, _KEY]
    address: str
    """Of the broker, as the other machine dials it."""
    enrol_port: Annotated[int, Meta(ge=1, le=65_535)]
    expires_s: int

    def __repr__(self) -> str:
        """Without the secret, which a log may not show."""
        return f"Ticket({self.address!r}, expires_s={self.expires_s})"

    @property
    def enrol(self) -> str:
        """The URL at which it is handed in."""
        return f"{self.address.rpartition(':')[0]}:{self.enrol_port}"

    def encode(self) -> str:
        body = msgspec.msgpack.encode(self)
        return _PREFIX + _VERSION + urlsafe_b64encode(body + _CHECK.pack(crc32(body))).decode().rstrip("=")

    @classmethod
    def decode(cls, line: str) -> Ticket:
        """Raises `UsageError`, which never shows the line. Blanks and line ends, which mail adds, are skipped."""
        text = "".join(line.split()).strip("\"'")
        if text.startswith(_PREFIX) and not text.startswith(_PREFIX + _VERSION):
            raise UsageError("this ticket is of another version of Telefabric: install the version of the broker here")
        if not text.startswith(_PREFIX):
            raise UsageError(_CUT)
        body = _unpack(text[len(_PREFIX + _VERSION) :])
        try:
            return _tickets.decode(body)
        except msgspec.DecodeError:
            raise UsageError(_CUT) from None


def _unpack(text: str) -> bytes:
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise UsageError(_CUT) from None
    body, check = data[: -_CHECK.size], data[-_CHECK.size :]
    if check != _CHECK.pack(crc32(body)):
        raise UsageError(_CUT)
    return body


_tickets: Decoder[Ticket] = Decoder(Ticket)
