"""Asking a store for the frame of one step: a client asks at its own pace, a feed's thread answers from its reader."""

from __future__ import annotations

import threading

import msgspec

from telefabric.errors import TelefabricError, Unreachable
from telefabric.feed.interface import FoundFrame, FramePlace
from telefabric.store.read.reader import Reader
from telefabric_schemas import Frame
from telefabric_schemas.decoding import Decoder


class FrameRequests:
    """One question at a time: another one takes the place of the one before. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: FramePlace | None = None
        self._found: FoundFrame | None = None

    def ask(self, place: FramePlace) -> None:
        with self._lock:
            self._asked = place

    def answer(self, reader: Reader) -> None:
        """Look it up, if anything is asked. Raises `Unreachable`, and the question stays."""
        place = self._asked
        if place is None:
            return
        found = _look_up(reader, place)
        with self._lock:
            self._found = found
            if self._asked == place:
                self._asked = None

    def take(self) -> FoundFrame | None:
        """The newest answer, once."""
        with self._lock:
            found, self._found = self._found, None
            return found


def _look_up(reader: Reader, place: FramePlace) -> FoundFrame:
    try:
        row = reader.frame_at(*place[:-1], stream_id=place.stream_id)
        return FoundFrame(place, None if row is None else _decoder.decode(row.event))
    except Unreachable:
        raise
    except (TelefabricError, msgspec.DecodeError) as error:  # of an older store, or from a newer one
        return FoundFrame(place, None, str(error))


_decoder: Decoder[Frame] = Decoder(Frame)
