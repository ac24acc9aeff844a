"""Decoding MessagePack that others wrote. Whatever is wrong with the bytes is one error: `msgspec.DecodeError`.

msgspec itself has two more: `UnicodeDecodeError` for a text that is not UTF-8, `RecursionError` for deep nesting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from telefabric_schemas.events import AnyEvent

T = TypeVar("T")


class Decoder(Generic[T]):
    """Decodes bytes as one type, which may be a union. Any thread."""

    __slots__ = ("_decode",)

    def __init__(self, kind: Any = Any, ext_hook: Callable[[int, memoryview], Any] | None = None) -> None:
        self._decode: Callable[[Any], T] = msgspec.msgpack.Decoder(kind, ext_hook=ext_hook).decode

    def decode(self, raw: bytes | msgspec.Raw | memoryview) -> T:
        """Raises `msgspec.DecodeError`."""
        try:
            return self._decode(raw)
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from None


_events: Decoder[AnyEvent] = Decoder(AnyEvent)
decode_event = _events.decode


def event_of(raw: bytes) -> AnyEvent | None:
    """The event of these bytes; None when it has no schema here, or cannot be read."""
    try:
        return decode_event(raw)
    except msgspec.DecodeError:
        return None
