"""The link: one thread and its sockets, from this process to one broker, for all of its streams.

It sends what the spools hold, within the credit, and removes what is acknowledged. It also drains spools that dead
workers on this machine left behind. All rules are in `telefabric.session.stream`; this file moves bytes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec
import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import SpoolError, WireError
from telefabric.session.backoff import Backoff
from telefabric.session.livefeed import KindBatch, LiveFeed
from telefabric.session.stream import NS, Phase, SendBatch, SendGap, StreamSession
from telefabric.spool import Chunk, Spool
from telefabric.transport import common_options, receive_last, send_frames
from telefabric.wire import batch, control, records
from telefabric.wire.live import topic_of
from telefabric_schemas import Gap, Overflow, RunHeartbeat

log = logging.getLogger("telefabric.link")

_POLL_ACTIVE_MS = 20
_POLL_IDLE_MS = 50
_POLL_LIVE_MS = 2
_SUBSCRIBED = 1
_SCAN_S = 5.0
_TELL_DROPS_S = 10.0


@dataclass(slots=True)
class LinkedStream:
    """A stream that the link carries. `closing` is set by its owner; `done` by the link."""

    spool: Spool
    session: StreamSession
    feed: LiveFeed = field(default_factory=LiveFeed)
    ticked_ns: int = 0
    adopted: bool = False
    closing: bool = False
    """No event will follow: finish when everything is acknowledged."""
    leaving: bool = False
    """Finish now; what is not acknowledged stays in the spool."""
    hurry: bool = False
    told_drops: int = 0
    told_ns: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def moving(self) -> bool:
        """Events are flowing, as opposed to waiting for a broker or a store."""
        return self.session.phase is Phase.STREAMING


class Link:
    """Carries streams to the broker at `address`. Started by its first stream, stopped by `stop`.

    `add`, `stop` and the looks at a `LinkedStream` are for any thread; all else happens on the link's own.
    """

    def __init__(self, address: Address, *, spool_root: Path | None = None, drain_orphans: bool = False) -> None:
        self.address = address
        self.instance: bytes | None = None
        self.refusal: str | None = None
        """Why the broker will not serve this process, if it said so."""
        self.clock_offset_ns: int | None = None
        self.round_trip_ns: int | None = None
        self.streams: dict[bytes, LinkedStream] = {}
        self._random = Random(os.urandom(8))
        self._arriving: list[LinkedStream] = []
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self.orphans = Orphans(spool_root) if drain_orphans and spool_root else None
        self._sockets: _Sockets | None = None
        self._rebuild = Backoff(self._random)
        self._rebuild_due_ns = 0
        self._heard_ns = 0
        self._beat_due_ns = 0
        self._thread = threading.Thread(target=self._run, name="telefabric-link", daemon=True)
        self._thread.start()

    def add(self, spool: Spool) -> LinkedStream:
        """Carry a stream from now on."""
        linked = LinkedStream(spool, StreamSession(spool.info, self._random))
        with self._guard:
            self._arriving.append(linked)
        return linked

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread; spools that are not complete stay on the disk for a later drain."""
        self._stop.set()
        self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def connected(self) -> bool:
        return self.instance is not None

    # -- the loop ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._turn()
        except Exception:
            log.exception("link.died: events stay in the spool and are drained by the next start")
        finally:
            self._shut_down()

    def _turn(self) -> None:
        now_ns = time.monotonic_ns()
        self._take_arrivals(now_ns)
        for linked in list(self.streams.values()):
            self._tend(linked, now_ns)
        if self._sockets is None:
            if now_ns < self._rebuild_due_ns:
                self._stop.wait(_POLL_IDLE_MS / 1000)
                return
            self._connect(now_ns)
        sockets = self._sockets
        assert sockets is not None
        sockets.wait(self._patience_ms())
        now_ns = time.monotonic_ns()
        was_heard = sockets.subscribed
        messages = sockets.receive()
        if sockets.subscribed != was_heard:
            self._beat_due_ns = now_ns  # perhaps another instance: its WHO tells
        for message in messages:
            self._heard_ns = now_ns
            self._dispatch(message, now_ns)
        if now_ns - self._heard_ns > limits.MISSED_HEARTBEATS_MAX * limits.HEARTBEAT_S * NS:
            self._disconnect(now_ns)
            return
        if sockets.watched_changed:
            self._watch()
        for linked in list(self.streams.values()):
            if linked.feed.watched:
                self._feed_live(linked, now_ns)
            self._serve(linked, now_ns)
        if now_ns >= self._beat_due_ns or self._beat_urgent(now_ns):
            self._beat(now_ns)
        if self.orphans is not None:
            for spool in self.orphans.next(self.streams, now_ns):
                self._adopt(spool, now_ns)
            self.orphans.scanned = True

    def _patience_ms(self) -> int:
        """How long to sleep: live events wait two milliseconds at most, durable ones for their gathering interval."""
        patience = _POLL_IDLE_MS
        for linked in self.streams.values():
            if linked.feed.watched:
                return _POLL_LIVE_MS
            if linked.session.cursor <= linked.spool.head:
                patience = _POLL_ACTIVE_MS
        return patience

    def _take_arrivals(self, now_ns: int) -> None:
        with self._guard:
            arriving, self._arriving = self._arriving, []
        for linked in arriving:
            self.streams[linked.spool.info.stream] = linked
            linked.session.reconnected(now_ns)

    def _adopt(self, spool: Spool, now_ns: int) -> None:
        linked = LinkedStream(spool, StreamSession(spool.info, self._random), adopted=True, closing=True, hurry=True)
        linked.session.reconnected(now_ns)
        self.streams[spool.info.stream] = linked
        log.info("spool.adopted: stream %s of run %s", spool.info.stream.hex(), spool.info.run_id)

    def _shut_down(self) -> None:
        for linked in self.streams.values():
            if self._sockets is not None and self.instance is not None:
                self._sockets.send(control.Bye(linked.spool.info.stream, linked.spool.complete))
            if linked.adopted:
                linked.spool.close()
            linked.done.set()
        if self._sockets is not None:
            self._sockets.close(linger_ms=200)

    # -- connection ----------------------------------------------------------------------------------------------

    def _connect(self, now_ns: int) -> None:
        self._sockets = _Sockets(self.address)
        self._heard_ns = now_ns
        for linked in self.streams.values():
            linked.session.reconnected(now_ns)

    def _disconnect(self, now_ns: int) -> None:
        """The broker is silent: close all sockets, and try again after a growing wait."""
        assert self._sockets is not None
        self._sockets.close(linger_ms=0)
        self._sockets = None
        self.instance = None
        self._rebuild_due_ns = now_ns + int(self._rebuild.next_s() * NS)
        for linked in self.streams.values():
            linked.session.reconnected(now_ns)

    # -- control -------------------------------------------------------------------------------------------------

    def _dispatch(self, message: control.Message, now_ns: int) -> None:
        if isinstance(message, control.Alive):
            self._clock(message, now_ns)
            return
        if isinstance(message, control.Refused):
            self._refused(message)
            return
        linked = self.streams.get(getattr(message, "stream", b""))
        if linked is None:
            return
        session = linked.session
        match message:
            case control.Ack():
                session.acknowledged(message, now_ns)
            case control.Credit():
                session.credited(message)
            case control.Welcome():
                self._welcomed(message)
                session.welcome(message, now_ns)
            case control.Rewind():
                session.rewind(message, now_ns)
            case control.Who():
                session.who(message, now_ns)

    def _welcomed(self, message: control.Welcome) -> None:
        self.instance = message.instance
        self.refusal = None
        self._rebuild.reset()
        assert self._sockets is not None
        self._sockets.connect_data(self.address.resolve(message.endpoints.data))
        if message.endpoints.live is not None:
            self._sockets.connect_live(self.address.resolve(message.endpoints.live))

    def _refused(self, message: control.Refused) -> None:
        if message.reason != self.refusal:
            log.warning("link.refused: %s", message.reason)
        self.refusal = message.reason

    def _clock(self, message: control.Alive, now_ns: int) -> None:
        """Offset of the broker's wall clock, from the middle of the round trip (as NTP does)."""
        self.round_trip_ns = now_ns - message.echo_ns
        self.clock_offset_ns = message.broker_ns - (time.time_ns() - self.round_trip_ns // 2)

    def _beat_urgent(self, now_ns: int) -> bool:
        """A stream has more to send than its credit: do not let it wait a whole heartbeat for more."""
        if now_ns < self._beat_due_ns - int((limits.HEARTBEAT_S - limits.CREDIT_REVIEW_S) * NS):
            return False
        return any(
            linked.session.phase is Phase.STREAMING
            and (linked.session.next_bytes or self._backlog(linked) > linked.session.credit)
            for linked in self.streams.values()
        )

    def _beat(self, now_ns: int) -> None:
        assert self._sockets is not None
        self._beat_due_ns = now_ns + int(limits.HEARTBEAT_S * NS)
        beats = [
            linked.session.beat(
                oldest=linked.spool.first_held(linked.session.acked + 1),
                head=linked.spool.head,
                backlog_bytes=self._backlog(linked),
            )
            for linked in self.streams.values()
            if linked.session.phase is not Phase.GREETING
        ]
        self._sockets.send(control.Beat(now_ns, beats))

    def _backlog(self, linked: LinkedStream) -> int:
        session = linked.session
        return session.in_flight_bytes + linked.spool.unsent_bytes(session.cursor)

    # -- live ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Feed the streams of watched runs from now on, and no others."""
        assert self._sockets is not None
        self._sockets.watched_changed = False
        for linked in self.streams.values():
            run = topic_of(linked.spool.info.run_id, "")
            watched = any(run.startswith(topic) or topic.startswith(run) for topic in self._sockets.watched)
            linked.feed.watch(watched and not linked.adopted, linked.spool.head)

    def _feed_live(self, linked: LinkedStream, now_ns: int) -> None:
        """Send what is new, by kind; skip what is old, and what the pipe does not take."""
        feed, spool = linked.feed, linked.spool
        behind = feed.behind(spool.head)
        while feed.cursor <= spool.head:
            chunk = spool.read(spool.first_held(feed.cursor), limits.BATCH_BYTES_MAX)
            if chunk is None:
                break
            too_old = behind and feed.behind(spool.head)
            for one in feed.sort(chunk.first_seq, _kinds_and_records(chunk)):
                if too_old:
                    feed.skip(one, "behind")
                elif not self._send_live(linked, one):
                    feed.skip(one, "worker_pipe_full")
        if now_ns - linked.ticked_ns > limits.TICK_S * NS:
            linked.ticked_ns = now_ns
            self._tick(linked)

    def _send_live(self, linked: LinkedStream, one: KindBatch) -> bool:
        """A live batch, after what it must be told before it; False when the pipe is full."""
        for skip in linked.feed.untold():
            told = Overflow(0, "worker", skip.reason, skip.kind, skip.events, time.time_ns(), skip.reached)
            if not self._publish(linked, self._single(linked, told)):
                return False
            linked.feed.told(skip)
        return self._publish(linked, one)

    def _tick(self, linked: LinkedStream) -> None:
        """A sign of life with the newest number of each kind, so that a lost tail is seen too."""
        state = "closing" if linked.closing else "running"
        now = time.time_ns(), time.monotonic_ns()
        beat = RunHeartbeat(0, state, linked.spool.head, self._backlog(linked), *now, dict(linked.feed.counters))
        one = self._single(linked, beat)
        if not self._send_live(linked, one):
            linked.feed.skip(one, "worker_pipe_full")

    def _single(self, linked: LinkedStream, event: Overflow | RunHeartbeat) -> KindBatch:
        """A batch of one event that is live only."""
        number = linked.feed.next_number(event.kind)
        return KindBatch(event.kind, 0, 0, 1, number, records.frame(_encoder.encode(event)))

    def _publish(self, linked: LinkedStream, one: KindBatch) -> bool:
        assert self._sockets is not None
        message = batch.pack(
            one.body, session=self.instance or bytes(16), stream=linked.spool.info.stream, epoch=0,
            first_seq=one.first_seq, last_seq=one.last_seq, count=one.events, counter=one.counter,
            time_ns=time.time_ns() + (self.clock_offset_ns or 0), flags=batch.FLAG_LIVE,
        )  # fmt: skip
        return self._sockets.send_live(topic_of(linked.spool.info.run_id, one.kind), message)

    # -- one stream ----------------------------------------------------------------------------------------------

    def _tend(self, linked: LinkedStream, now_ns: int) -> None:
        """What a stream needs with or without a broker."""
        if linked.leaving:
            self._finish(linked)
            return
        if not linked.closing:
            self._prepare(linked.spool)
        self._tell_drops(linked, now_ns)

    def _prepare(self, spool: Spool) -> None:
        try:
            spool.prepare()
        except SpoolError as error:
            log.debug("spool.prepare: %s", error)  # append finds out by itself, and counts what it must drop

    def _serve(self, linked: LinkedStream, now_ns: int) -> None:
        """Acknowledge, greet, send, finish: whatever the stream's session decides."""
        session, spool = linked.session, linked.spool
        session.tick(now_ns)
        spool.acknowledge(session.acked)
        if linked.closing and spool.complete:
            self._finish(linked)
            return
        assert self._sockets is not None
        if session.hello_due(now_ns):
            self._sockets.send(session.hello(spool.first_held(spool.acked + 1), spool.head))
        if session.phase is Phase.STREAMING and self._sockets.subscribed:
            self._send(linked, now_ns)

    def _send(self, linked: LinkedStream, now_ns: int) -> None:
        session, spool = linked.session, linked.spool
        while True:
            cursor = session.cursor
            decision = session.next_send(
                oldest=spool.first_held(cursor),
                head=spool.head,
                unsent_bytes=spool.unsent_bytes(cursor),
                now_ns=now_ns,
                hurry=linked.hurry or linked.closing,
            )
            if decision is None or not self._carry_out(linked, decision, now_ns):
                return

    def _carry_out(self, linked: LinkedStream, decision: SendBatch | SendGap, now_ns: int) -> bool:
        """Send one batch or gap; False when the socket is full or the credit too small for the next event."""
        session, spool = linked.session, linked.spool
        if isinstance(decision, SendGap):
            first, last = decision
            event = Gap(first, last, spool.lost_reason(first, last), time.time_ns())
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
        message = batch.pack(
            body, session=session.instance, stream=spool.info.stream, epoch=session.epoch, first_seq=first,
            last_seq=last, count=count, time_ns=time.time_ns(), flags=flags,
        )  # fmt: skip
        assert self._sockets is not None
        if not self._sockets.send_data(spool.info.stream, message):
            return False
        session.sent(last, len(message), now_ns)
        return True

    def _tell_drops(self, linked: LinkedStream, now_ns: int) -> None:
        """A full spool is loud: at once when it begins to drop, then each ten seconds while it goes on."""
        dropped = linked.spool.dropped_events
        if dropped > linked.told_drops and now_ns - linked.told_ns > _TELL_DROPS_S * NS:
            reason = linked.spool.dropped[-1].reason
            log.warning(
                "spool.dropped: %d events of run %s so far (%s): each loss is recorded as a gap; "
                "make room, or give TELEFABRIC_SPOOL_BYTES_MAX more",
                dropped, linked.spool.info.run_id, reason,
            )  # fmt: skip
            linked.told_drops, linked.told_ns = dropped, now_ns

    def _finish(self, linked: LinkedStream) -> None:
        if self._sockets is not None and linked.session.phase is not Phase.GREETING:
            self._sockets.send(control.Bye(linked.spool.info.stream, linked.spool.complete))
        del self.streams[linked.spool.info.stream]
        if linked.adopted and self.orphans is not None:
            self.orphans.drained(linked.spool)
            log.info("spool.drained: stream %s, %d events", linked.spool.info.stream.hex(), linked.spool.head)
        linked.spool.close()
        linked.done.set()


class _Sockets:
    """Control DEALER, data XPUB and live XPUB, with the options that were measured to matter."""

    def __init__(self, address: Address) -> None:
        self._context = zmq.Context()
        self._control = self._context.socket(zmq.DEALER)
        self._data = self._context.socket(zmq.XPUB)
        self._live = self._context.socket(zmq.XPUB)
        self._data_url: str | None = None
        self._live_url: str | None = None
        self.watched: set[bytes] = set()
        """Topic prefixes that the broker subscribed to on the live socket."""
        self.watched_changed = False
        self.subscribed = False
        """The broker listens on the data socket. A PUB socket would send into the void without knowing."""
        for socket in (self._control, self._data, self._live):
            common_options(socket)
        self._control.set(zmq.ROUTING_ID, b"w" + os.urandom(15))
        self._control.set(zmq.SNDHWM, limits.CONTROL_HWM)
        self._data.set(zmq.SNDHWM, limits.DATA_HWM)
        self._data.set(zmq.SNDBUF, limits.SOCKET_BUFFER_BYTES)
        self._data.set(zmq.IMMEDIATE, 1)
        self._data.set(zmq.XPUB_NODROP, 1)
        self._live.set(zmq.SNDHWM, limits.LIVE_HWM)
        self._live.set(zmq.SNDBUF, limits.LIVE_SOCKET_BYTES)
        self._live.set(zmq.IMMEDIATE, 1)
        self._live.set(zmq.XPUB_NODROP, 1)
        self._control.connect(address.url)
        self._readable: set[object] = set()
        self._poller = zmq.Poller()
        self._poller.register(self._control, zmq.POLLIN)
        self._poller.register(self._data, zmq.POLLIN)
        self._poller.register(self._live, zmq.POLLIN)

    def connect_data(self, url: str) -> None:
        if url == self._data_url:
            return
        if self._data_url is not None:
            self._data.disconnect(self._data_url)
            self.subscribed = False
        self._data_url = url
        self._data.connect(url)

    def connect_live(self, url: str) -> None:
        if url == self._live_url:
            return
        if self._live_url is not None:
            self._live.disconnect(self._live_url)
        self._live_url = url
        self._live.connect(url)

    def wait(self, timeout_ms: int) -> None:
        self._readable = {socket for socket, _ in self._poller.poll(timeout_ms)}

    def receive(self) -> list[control.Message]:
        """All control messages that are here, and whether the data socket is heard."""
        while self._data in self._readable and (subscription := receive_last(self._data)) is not None:
            self.subscribed = subscription[:1] == bytes([_SUBSCRIBED])
        while self._live in self._readable and (wish := receive_last(self._live)) is not None:
            if wish[:1] == bytes([_SUBSCRIBED]):
                self.watched.add(wish[1:])
            else:
                self.watched.discard(wish[1:])
            self.watched_changed = True
        messages: list[control.Message] = []
        while self._control in self._readable and (data := receive_last(self._control)) is not None:
            try:
                messages.append(control.decode(data))
            except WireError as error:
                log.warning("link.bad_control: %s", error)
        return messages

    def send(self, message: control.Message) -> None:
        """A control message; lost when the broker is away, and said again by then."""
        try:
            self._control.send(control.encode(message), zmq.DONTWAIT)
        except zmq.Again:
            log.debug("link.control_full")

    def send_data(self, topic: bytes, message: bytes) -> bool:
        """False when the pipe is full: try again later, by time (POLLOUT of an XPUB means nothing)."""
        return send_frames(self._data, topic, message)

    def send_live(self, topic: bytes, message: bytes) -> bool:
        """False when the pipe is full."""
        return send_frames(self._live, topic, message)

    def close(self, linger_ms: int) -> None:
        self._live.close(linger=linger_ms)
        self._control.close(linger=linger_ms)
        self._data.close(linger=linger_ms)
        self._context.term()


class Orphans:
    """Spools under a root whose owner is gone, taken over a few at a time."""

    def __init__(self, root: Path) -> None:
        self.waiting: list[Path] = []
        self.unreadable: set[Path] = set()
        self.scanned = False
        self.drained_spools = 0
        self.drained_events = 0
        self._root = root
        self._scan_due_ns = 0

    def next(self, carried: dict[bytes, LinkedStream], now_ns: int) -> list[Spool]:
        """Spools to drain now."""
        free = limits.ORPHANS_AT_ONCE - sum(linked.adopted for linked in carried.values())
        if free <= 0:
            return []
        if not self.waiting and now_ns >= self._scan_due_ns:
            self._scan_due_ns = now_ns + int(_SCAN_S * NS)
            self.waiting = self._look()
        found: list[Spool] = []
        while self.waiting and len(found) < free:
            spool = self._try(self.waiting[-1])
            if spool is not None:
                found.append(spool)
            self.waiting.pop()
        return found

    def _look(self) -> list[Path]:
        try:
            return orphan_candidates(self._root)
        except SpoolError as error:
            if self._root not in self.unreadable:
                self.unreadable.add(self._root)
                log.warning("spool.unreadable: %s", error)
            return []

    def drained(self, spool: Spool) -> None:
        self.drained_spools += 1
        self.drained_events += spool.head

    def _try(self, directory: Path) -> Spool | None:
        if directory in self.unreadable:
            return None
        try:
            return Spool.adopt(directory)
        except SpoolError as error:
            self.unreadable.add(directory)
            log.warning("spool.unreadable: %s", error)
            return None


def orphan_candidates(root: Path) -> list[Path]:
    """Spool directories under a root, newest last; whether their owners live only the lock tells.

    Raises `SpoolError` when the root cannot be read.
    """
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and len(path.name) == 32)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SpoolError(f"{root} is no folder of spools: {error.strerror}: name another with --spool") from None


def _kinds_and_records(chunk: Chunk) -> Iterator[tuple[str, bytes]]:
    body = chunk.body
    for start, end in records.spans(body, chunk.events):
        yield records.kind_of(body[start : start + 32]), body[start - records.PREFIX_BYTES : end]


_encoder = msgspec.msgpack.Encoder()
