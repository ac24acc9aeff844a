"""The live thread: a live subscription at the broker, its deliveries, and its account."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from random import Random
from typing import Any

import msgspec
import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import WireError
from telefabric.follow.gathering import Gathering, Seen, decode
from telefabric.session.backoff import Backoff
from telefabric.session.handover import Numbered
from telefabric.session.ledger import Ledger
from telefabric.transport import common_options, receive, receive_last
from telefabric.wire import batch, control, records
from telefabric.wire.live import QueuePolicy, decode_delivery
from telefabric_schemas import Frame, Overflow, RunHeartbeat

log = logging.getLogger("telefabric.follow")

NS = 1_000_000_000
_POLL_MS = 50
_ASK_STATUS_S = 1.0
_ASK_STATUS_PER_STREAM_S = 0.003
"""A status names every stream of the broker: with a thousand it takes broker and client some ten milliseconds each."""


class LiveLink:
    """Subscribes until `stop`, again after every silence of the broker. What is public may be looked at anywhere."""

    def __init__(self, address: Address, gathering: Gathering, name: str, policy: QueuePolicy) -> None:
        self.instance: bytes | None = None
        self.refusal = ""
        self.status: dict[str, Any] = {}
        """What the broker last said of its streams."""
        self.received = 0
        self.dropped: Counter[str] = Counter()
        self.lost_in_transit = 0
        self.behind_s: float | None = None
        self.ledger = Ledger()
        self._past_dropped: Counter[str] = Counter()
        self._past_lost = 0
        self._address = address
        self._gathering = gathering
        self._name = name
        self._policy = policy
        self._clock_offset_ns = 0
        self._wanted_changed = threading.Event()
        self._stop = threading.Event()
        self._backoff = Backoff(Random(os.urandom(8)), longest_s=5.0)
        self._sockets: _Sockets | None = None
        self._thread = threading.Thread(target=self._run, name="telefabric-live", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def watch_changed(self) -> None:
        """Other runs are to be watched."""
        self._wanted_changed.set()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    # -- the loop ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if self._sockets is None:
                    self._sockets = _Sockets(self._address)
                    self._say_watch()
                self._turn(self._sockets)
        finally:
            if self._sockets is not None:
                self._sockets.send(control.Unwatch())
                self._sockets.close(linger_ms=200)

    def _turn(self, sockets: _Sockets) -> None:
        sockets.wait(_POLL_MS)
        now_ns = time.monotonic_ns()
        for message in sockets.receive_control(now_ns):
            self._dispatch(sockets, message, now_ns)
        for frames in sockets.receive_data():
            self._delivered(frames)
        self._account()
        if self._wanted_changed.is_set():
            self._wanted_changed.clear()
            self._forget_unwatched()
            self._say_watch()
        streams = len(self.status.get("streams", ()))
        sockets.beat(
            self._beat(now_ns),
            now_ns,
            ask_now=self._gathering.has_unknown,
            ask_s=_ASK_STATUS_S + streams * _ASK_STATUS_PER_STREAM_S,
        )
        if sockets.silent(now_ns) or sockets.stuck(now_ns):
            self._lose(sockets)

    def _beat(self, now_ns: int) -> control.WatchBeat:
        hop = self.ledger.broker_hop
        return control.WatchBeat(now_ns, hop.received, max(hop.lost_in_transit, 0))

    def _lose(self, sockets: _Sockets) -> None:
        """The broker is silent: begin again, after a wait."""
        sockets.close(linger_ms=0)
        self._sockets = None
        self.instance = None
        self.behind_s = None
        self._new_ledger()
        self._stop.wait(self._backoff.next_s())

    def _new_ledger(self) -> None:
        """A new subscription is numbered anew; what the old one lost stays counted."""
        self._past_dropped += self.ledger.dropped
        self._past_lost += sum(self.ledger.lost_in_transit)
        self.ledger = Ledger()

    def _account(self) -> None:
        self.dropped = self._past_dropped + self.ledger.dropped
        self.lost_in_transit = self._past_lost + sum(self.ledger.lost_in_transit)

    def _forget_unwatched(self) -> None:
        for stream in {stream for stream, _ in self.ledger.sources}:
            if not self._gathering.follows(stream):
                self.ledger.forget(stream)

    # -- control -------------------------------------------------------------------------------------------------

    def _say_watch(self) -> None:
        assert self._sockets is not None
        runs = sorted(self._gathering.watched)
        self._sockets.send(control.Watch(control.PROTOCOL, self._name, runs, None, self._policy))

    def _dispatch(self, sockets: _Sockets, message: control.Message, now_ns: int) -> None:
        match message:
            case control.Alive():
                self._clock(message, now_ns)
            case control.Watching():
                if sockets.subscribe(message):
                    self._new_ledger()
                self.instance = message.instance
                self.refusal = ""
                self._backoff.reset()
            case control.Recent():
                self._recent(message.batches)
            case control.StatusReply():
                self._learn(message.status)
            case control.Who():
                self._say_watch()
            case control.Refused():
                self.refusal = message.reason

    def _clock(self, message: control.Alive, now_ns: int) -> None:
        round_trip_ns = now_ns - message.echo_ns
        self._clock_offset_ns = message.broker_ns - (time.time_ns() - round_trip_ns // 2)

    def _learn(self, status: dict[str, Any]) -> None:
        """Which streams are of which run; the store may not know them yet."""
        self.status = status
        watched = self._gathering.watched
        for stream in status.get("streams", ()):
            try:
                if stream["run_id"] in watched:
                    self._gathering.know(bytes.fromhex(stream["stream_id"]), stream["run_id"], None)
            except (KeyError, TypeError, ValueError):
                continue  # a broker of another version says it differently

    # -- data ----------------------------------------------------------------------------------------------------

    def _delivered(self, frames: list[bytes]) -> None:
        """A delivery: its drops, then its batch; the account first, whatever the batch turns out to hold."""
        if len(frames) != 3:
            return
        try:
            delivery = decode_delivery(frames[1])
            if not frames[2]:
                self.ledger.delivered(delivery, 0)
                return
            header, start = batch.parse_header(frames[2])
            self.received += header.events
            self.ledger.delivered(delivery, header.events)
            self._batch(header, frames[2][start:], account=True)
            self.behind_s = max(time.time_ns() + self._clock_offset_ns - header.time_ns, 0) / NS
        except WireError as error:
            log.warning("follow.bad_delivery: %s", error)

    def _recent(self, batches: list[bytes]) -> None:
        for message in batches:
            try:
                header, start = batch.parse_header(message)
                self._batch(header, message[start:], account=False)
            except WireError as error:
                log.warning("follow.bad_recent: %s", error)

    def _batch(self, header: batch.Header, body: bytes, *, account: bool) -> None:
        """The events of a live batch, to where they belong. Raises `WireError` for a damaged one."""
        batch.check_body(header, body)
        kind = records.kind_of(body[records.PREFIX_BYTES : records.PREFIX_BYTES + 32])
        if account:
            self.ledger.batch(header.stream, kind, header.counter, header.events)
        found = _decode(kind, header, body)
        if header.last_seq:
            self._gathering.live(header.stream, found)
        else:
            self._live_only(header.stream, found, account=account)

    def _live_only(self, stream: bytes, found: list[Numbered[Seen]], *, account: bool) -> None:
        for _, seen in found:
            match seen.event:
                case Frame():
                    self._gathering.frame(stream, seen)
                case RunHeartbeat(counters=counters) if counters and account:
                    self.ledger.ticked(stream, counters.items())
                case Overflow(of_kind=kind, reason=reason, count=count, reached=reached) if account:
                    self.ledger.overflowed(stream, kind, reason, count, reached)
                case _:
                    pass  # from before the subscription, or of a newer version


def _decode(kind: str, header: batch.Header, body: bytes) -> list[Numbered[Seen]]:
    """Every event of a live batch with its seq, undecoded where it has no schema here."""
    spans = records.spans(body, header.events)
    try:
        decoded = batch.decode_body(body, header.events)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = [decode(kind, body[start:end]) for start, end in spans]
        return [Numbered(seen.event.seq if seen.event else 0, seen) for seen in found]
    return [
        Numbered(record.event.seq, Seen(kind, record.event, body[start:end]))
        for record, (start, end) in zip(decoded, spans, strict=True)
    ]


class _Sockets:
    """Control DEALER, and the SUB that the token opens."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._context = zmq.Context()
        self._control = self._context.socket(zmq.DEALER)
        common_options(self._control)
        self._control.set(zmq.ROUTING_ID, b"l" + os.urandom(15))
        self._control.connect(address.url)
        self._data: zmq.Socket[bytes] | None = None
        self._token: bytes | None = None
        self._poller = zmq.Poller()
        self._poller.register(self._control, zmq.POLLIN)
        self._readable: set[object] = set()
        self._heard_ns = self._data_heard_ns = time.monotonic_ns()
        self._beat_due_ns = 0
        self._status_due_ns = 0

    def subscribe(self, message: control.Watching) -> bool:
        """Listen under the token; True when it is a new one."""
        if message.token == self._token:
            return False
        if self._data is not None:
            self._poller.unregister(self._data)
            self._data.close(linger=0)
        data: zmq.Socket[bytes] = self._context.socket(zmq.SUB)
        common_options(data)
        data.set(zmq.RCVHWM, limits.LIVE_HWM)
        data.set(zmq.RCVBUF, limits.LIVE_SOCKET_BYTES)
        data.subscribe(message.token)
        assert message.endpoints.watch is not None
        data.connect(self._address.resolve(message.endpoints.watch))
        self._data, self._token = data, message.token
        self._data_heard_ns = time.monotonic_ns()
        self._poller.register(data, zmq.POLLIN)
        return True

    def wait(self, timeout_ms: int) -> None:
        self._readable = {socket for socket, _ in self._poller.poll(timeout_ms)}

    def receive_control(self, now_ns: int) -> list[control.Message]:
        messages: list[control.Message] = []
        while self._control in self._readable and (data := receive_last(self._control)) is not None:
            self._heard_ns = now_ns
            try:
                messages.append(control.decode(data, limits.STATUS_BYTES_MAX))
            except WireError as error:
                log.warning("follow.bad_control: %s", error)
        return messages

    def receive_data(self) -> list[list[bytes]]:
        """What is here now, at most so much that control has its turn."""
        found: list[list[bytes]] = []
        while len(found) < 200 and self._data in self._readable and self._data is not None:
            frames = receive(self._data)
            if frames is None:
                break
            found.append(frames)
        if found:
            self._data_heard_ns = time.monotonic_ns()
        return found

    def beat(self, beat: control.WatchBeat, now_ns: int, *, ask_now: bool, ask_s: float) -> None:
        if now_ns >= self._beat_due_ns:
            self._beat_due_ns = now_ns + int(limits.HEARTBEAT_S * NS)
            self.send(beat)
        if now_ns >= self._status_due_ns or (ask_now and now_ns >= self._status_due_ns - int((ask_s - 0.1) * NS)):
            self._status_due_ns = now_ns + int(ask_s * NS)
            self.send(control.StatusRequest())

    def silent(self, now_ns: int) -> bool:
        return now_ns - self._heard_ns > limits.MISSED_HEARTBEATS_MAX * limits.HEARTBEAT_S * NS

    def stuck(self, now_ns: int) -> bool:
        """Not even a tick arrives: a connection can break without a word while control is well, or WATCHING be lost."""
        return now_ns - self._data_heard_ns > limits.LIVE_STUCK_S * NS

    def send(self, message: control.Message) -> None:
        try:
            self._control.send(control.encode(message), zmq.DONTWAIT)
        except zmq.Again:
            log.debug("follow.control_full")

    def close(self, linger_ms: int) -> None:
        if self._data is not None:
            self._data.close(linger=0)
        self._control.close(linger=linger_ms)
        self._context.term()
