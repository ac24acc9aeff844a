"""Sending one stream's live batches: the newest events by kind, what was skipped, and a tick each second."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from telefabric import limits
from telefabric.spool import Chunk
from telefabric.uplink.core.live_feed import KindBatch
from telefabric.uplink.core.stream import NS
from telefabric.uplink.linked_stream import LinkedStream
from telefabric.uplink.sockets import Sockets
from telefabric.wire import batch, records
from telefabric.wire.live import topic_of
from telefabric_schemas import STORED, Control, Frame, Overflow, RunHeartbeat
from telefabric_schemas.decoding import Decoder


class LiveSender:
    """Towards one broker instance. `clock_offset_ns` brings this machine's wall clock to the broker's."""

    def __init__(self, sockets: Sockets, instance: bytes, clock_offset_ns: int) -> None:
        self._sockets = sockets
        self._instance = instance
        self._clock_offset_ns = clock_offset_ns

    def feed(self, linked: LinkedStream, now_ns: int) -> None:
        """Send what is new, by kind. While the pipe is full the spool is the queue; what is too old is skipped."""
        feed, spool = linked.feed, linked.spool
        behind = feed.behind(spool.head)
        while self._flush(linked) and feed.cursor <= spool.head:
            chunk = spool.read(spool.first_held(feed.cursor), limits.LIVE_BATCH_BYTES_MAX)
            if chunk is None:
                break
            too_old = behind and feed.behind(spool.head)
            for one in feed.sort(chunk.first_seq, _kinds_and_records(chunk)):
                if too_old:
                    feed.skip(one, "behind")
                else:
                    feed.waiting.append(one)
        if feed.waiting:
            return
        self._send_frames(linked)
        if now_ns - linked.ticked_ns > limits.TICK_S * NS:
            linked.ticked_ns = now_ns
            self._tell_pressure(linked)
            self._tick(linked)

    def _flush(self, linked: LinkedStream) -> bool:
        """Send what was numbered already; False when the pipe is full."""
        waiting = linked.feed.waiting
        while waiting and self._send_live(linked, waiting[0]):
            waiting.popleft()
        return not waiting

    def _send_frames(self, linked: LinkedStream) -> None:
        """Pictures after events: they wait for nobody and hold up nobody."""
        if linked.frames:
            frames, linked.frames = linked.frames, {}
            for encode in frames.values():
                frame = encode()
                if frame is not None:
                    one = self._single(linked, frame)
                    if not self._send_live(linked, one):
                        linked.feed.skip(one, "worker_pipe_full")

    def _send_live(self, linked: LinkedStream, one: KindBatch) -> bool:
        """Send a live batch, after the overflow before it; False if the pipe is full."""
        for skip in linked.feed.untold():
            told = Overflow(0, "worker", skip.reason, skip.kind, skip.events, time.time_ns(), skip.reached)
            if not self._publish(linked, self._single(linked, told)):
                linked.feed.unsent(told.kind)
                return False
            linked.feed.told(skip)
        return self._publish(linked, one)

    def _tell_pressure(self, linked: LinkedStream) -> None:
        """Send `control` when the backlog crosses its high mark, or then its low one; repeat until it is taken."""
        backlog = linked.backlog_bytes
        throttled = backlog > (limits.RESUMED_BYTES if linked.throttled else limits.THROTTLED_BYTES)
        if throttled == linked.throttled:
            return
        state = "throttled" if throttled else "resumed"
        told = Control(0, linked.spool.info.stream, state, linked.session.credit, time.time_ns())
        one = self._single(linked, told)
        if self._send_live(linked, one):
            linked.throttled = throttled
        else:
            linked.feed.skip(one, "worker_pipe_full")

    def _tick(self, linked: LinkedStream) -> None:
        """A sign of life with the newest number of each kind, so that a lost tail is seen too."""
        state = "closing" if linked.closing else "running"
        now = time.time_ns(), time.monotonic_ns()
        beat = RunHeartbeat(0, state, linked.spool.head, linked.backlog_bytes, *now, dict(linked.feed.counters))
        one = self._single(linked, beat)
        if not self._send_live(linked, one):
            linked.feed.skip(one, "worker_pipe_full")

    def _single(self, linked: LinkedStream, event: Control | Frame | Overflow | RunHeartbeat) -> KindBatch:
        """A batch of one event that is live only."""
        number = linked.feed.next_number(event.kind)
        return KindBatch(event.kind, 0, 0, 1, number, records.frame(_encoder.encode(event)))

    def _publish(self, linked: LinkedStream, one: KindBatch) -> bool:
        header = batch.Header(
            flags=batch.FLAG_LIVE, session=self._instance, stream=linked.spool.info.stream, epoch=0,
            first_seq=one.first_seq, last_seq=one.last_seq, events=one.events, counter=one.counter,
            time_ns=time.time_ns() + self._clock_offset_ns,
        )  # fmt: skip
        return self._sockets.send_live(topic_of(linked.spool.info.run_id, one.kind), batch.pack(header, one.body))


def _kinds_and_records(chunk: Chunk) -> Iterator[tuple[str, bytes]]:
    """Reduce stored frames to their places: clients get pictures at the rate of the live path."""
    body = chunk.body
    for start, end in records.spans(body, chunk.events):
        kind = records.kind_of(body[start : start + 32])
        yield kind, _place_of(body[start:end]) if kind == "frame" else body[start - records.PREFIX_BYTES : end]


def _place_of(raw: bytes) -> bytes:
    return records.frame(_encoder.encode(msgspec.structs.replace(_frames.decode(raw), encoding=STORED, data=b"")))


_encoder = msgspec.msgpack.Encoder()
_frames: Decoder[Frame] = Decoder(Frame)
