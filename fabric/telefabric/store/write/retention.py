"""How much the store keeps of frames: the pictures of the oldest go when there are too many bytes of them.

The event stays, with its place and its seq, and says `expired`: so nothing is missing, and replay can tell what was
there. SQLite uses the room again; the file does not become shorter.
"""

from __future__ import annotations

import time

import msgspec

from telefabric import limits
from telefabric.log.events import EventLog
from telefabric.store.write.writer import Writer
from telefabric_schemas import EXPIRED, Frame
from telefabric_schemas.decoding import Decoder

log = EventLog("telefabric.store")


class Retention:
    """Holds the frames of a store to `bytes_max`; 0 keeps all. Times are monotonic nanoseconds."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._bytes = 0
        self._counted_id = 0
        """Up to this id frames are in `_bytes`."""
        self._expired_id = 0
        """Up to this id they have expired."""
        self._due_ns = 0
        self.expired = 0
        """Frames since the start."""

    def tend(self, writer: Writer, now_ns: int) -> None:
        """Let go of a few of the oldest, if there are too many. Raises `StoreError`."""
        if not self.bytes_max or now_ns < self._due_ns:
            return
        added, newest = writer.frame_bytes_after(self._counted_id)
        self._bytes, self._counted_id = self._bytes + added, newest
        more = self._bytes > self.bytes_max and self._expire(writer)
        self._due_ns = now_ns + (0 if more else int(limits.RETENTION_S * limits.NS))

    def recount(self) -> None:
        """Rows of frames were removed."""
        self._bytes = self._counted_id = self._due_ns = 0

    def _expire(self, writer: Writer) -> bool:
        """Some of the oldest; whether there may be more to do. What failed to be written was not done."""
        changed: list[tuple[int, bytes]] = []
        size, last = self._bytes, self._expired_id
        began = time.monotonic()
        for number, event in writer.frames_after(self._expired_id):
            last = number
            frame = _decoder.decode(event)
            if frame.encoding != EXPIRED:
                left = msgspec.msgpack.encode(msgspec.structs.replace(frame, encoding=EXPIRED, data=b""))
                size -= len(event) - len(left)
                changed.append((number, left))
            if size <= self.bytes_max or time.monotonic() - began > limits.RETENTION_TURN_S:
                break
        if changed:
            writer.replace_frames(changed)
            log.info("store.frames_expired", frames=len(changed), kept_bytes=size)
        moved = last > self._expired_id
        self._bytes, self._expired_id = size, last
        self.expired += len(changed)
        return moved


_decoder: Decoder[Frame] = Decoder(Frame)
