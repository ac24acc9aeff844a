"""Sending one stream's batches: the durable ones that its session decides, and the newest events for who watches."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from telefabric import limits
from telefabric.spool import Chunk
from telefabric.uplink.core.live_feed import KindBatch
from telefabric.uplink.core.stream import SendBatch, SendGap
from telefabric.uplink.linked_stream import LinkedStream
from telefabric.uplink.sockets import Sockets
from telefabric.wire import batch, records
from telefabric.wire.delivery import topic_of
from telefabric_schemas import STORED, Control, Frame, Gap, Overflow, RunHeartbeat
from telefabric_schemas.decoding import Decoder

_BATCHES_A_TURN = 4
"""A megabyte: then what is live, and the other streams, have their turn."""


def send_durable(linked: LinkedStream, sockets: Sockets, now_ns: int) -> bool:
    """Send what the session allows; True if that is more than one turn's worth, so that the rest has to wait."""
    session, spool, hurry = linked.session, linked.spool, linked.hurry or linked.closing
    for _ in range(_BATCHES_A_TURN):
        cursor = session.cursor
        oldest, linked.unsent_bytes = spool.first_held(cursor), spool.unsent_bytes(cursor)
        decision = session.next_send(
            oldest=oldest, head=spool.head, unsent_bytes=linked.unsent_bytes, now_ns=now_ns, hurry=hurry
        )
        if decision is None or not _carry_out(linked, sockets, decision, now_ns):
            return False
    return True


def _carry_out(linked: LinkedStream, sockets: Sockets, decision: SendBatch | SendGap, now_ns: int) -> bool:
    """Send one batch or gap; False when the socket is full or the credit too small for the next event."""
    session, spool = linked.session, linked.spool
    if isinstance(decision, SendGap):
        first, last, reason = spool.lost(decision.first_seq, decision.last_seq)
        event = Gap(first, last, reason, time.time_ns())
        body, count, flags = records.frame(_encoder.encode(event)), 1, batch.FLAG_GAP
    else:
        chunk = spool.read(decision.first_seq, decision.bytes_max)
        if chunk is None:
            return False
        if len(chunk.body) + batch.HEADER_BYTES > decision.credit_bytes:
            session.too_large(len(chunk.body))
            return False
        body, first, last, count, flags = chunk.body, chunk.first_seq, chunk.last_seq, chunk.events, 0
    assert session.instance is not None
    header = batch.Header(
        flags=flags, session=session.instance, stream=spool.info.stream, epoch=session.epoch, first_seq=first,
        last_seq=last, events=count, counter=0, time_ns=time.time_ns(),
    )  # fmt: skip
    message = batch.pack(header, body)
    if linked.unsent_bytes - len(body) > limits.BATCH_BYTES_MAX:
        linked.borrow()
    if not sockets.send_data(spool.info.stream, message):
        return False
    session.sent(last, len(message), now_ns)
    return True


class LiveSender:
    """Sends live batches by kind, what was skipped, and a tick each second, to one broker instance.

    `clock_offset_ns` brings this machine's wall clock to the broker's.
    """

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
        if now_ns - linked.ticked_ns > limits.TICK_S * limits.NS:
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
                    self._send_event(linked, frame)

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
        if throttled != linked.throttled:
            state = "throttled" if throttled else "resumed"
            told = Control(0, linked.spool.info.stream, state, linked.session.credit, time.time_ns())
            if self._send_event(linked, told):
                linked.throttled = throttled

    def _tick(self, linked: LinkedStream) -> None:
        """A sign of life with the newest number of each kind, so that a lost tail is seen too."""
        state = "closing" if linked.closing else "running"
        now = time.time_ns(), time.monotonic_ns()
        beat = RunHeartbeat(0, state, linked.spool.head, linked.backlog_bytes, *now, dict(linked.feed.counters))
        self._send_event(linked, beat)

    def _send_event(self, linked: LinkedStream, event: Control | Frame | RunHeartbeat) -> bool:
        """Send an event that is live only; False if the pipe is full, which is counted."""
        one = self._single(linked, event)
        sent = self._send_live(linked, one)
        if not sent:
            linked.feed.skip(one, "worker_pipe_full")
        return sent

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
