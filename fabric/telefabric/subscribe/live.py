"""A live subscription: what runs emit, as it comes, with an account of everything that did not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from random import Random
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import WireError
from telefabric.log.limit import library_logger
from telefabric.peer.core.backoff import Backoff
from telefabric.subscribe.core.accounting import Ledger
from telefabric.subscribe.sockets import WatchSockets
from telefabric.wire import batch, control, records
from telefabric.wire.delivery import Delivery, decode_delivery
from telefabric.wire.names import require_short
from telefabric.wire.policy import QueuePolicy
from telefabric_schemas import AnyEvent, Overflow, RunHeartbeat
from telefabric_schemas.decoding import event_of

log = library_logger("telefabric.subscribe")

_List = Iterable[str] | None | msgspec.UnsetType
_ASK_STATUS_S = 1.0
_ASK_STATUS_PER_STREAM_S = 0.003
"""A status names every stream of the broker: with a thousand it takes broker and client some ten milliseconds each."""


class LiveEvent(NamedTuple):
    """One event as it came."""

    stream: bytes
    kind: str
    event: AnyEvent | None
    """None for a kind that has no schema here; its bytes are `raw`."""
    raw: bytes
    live_only: bool
    """True for a live picture, which is never stored and has no seq."""
    recent: bool
    """From before the subscription."""

    @property
    def seq(self) -> int:
        """0 for what is live only, and for what has no schema here."""
        return self.event.seq if self.event is not None else 0


class LiveSubscription:
    """Subscribes on the first `poll`, and again after every silence of the broker. One thread at a time.

    `runs`, `kinds` and `agents` are what is wanted, None for all, and `pictures` the runs whose workers are to send
    pictures (frames of seq 0), None for all that are watched. `policy` says how the queue in the broker behaves;
    `granted` what the broker made of it. Raises `UsageError` for a name of over 255 bytes.
    """

    def __init__(
        self,
        address: Address,
        *,
        name: str,
        runs: Iterable[str] | None = None,
        kinds: Iterable[str] | None = None,
        agents: Iterable[str] | None = None,
        pictures: Iterable[str] | None = None,
        policy: QueuePolicy | None = None,
    ) -> None:
        self.instance: bytes | None = None
        """The instance of the broker that serves this subscription; None without one."""
        self.refusal = ""
        self.granted: QueuePolicy | None = None
        self.status: dict[str, Any] = {}
        """The broker's newest status of its streams."""
        self.wants_status = False
        """Ask for it soon: set it when a stream is not known."""
        self.deliveries = 0
        """Messages of the broker's live socket, its ticks included: that there are any shows that it delivers."""
        self.begun = 0
        """How often it has begun: more than once when the broker was away, or this process did not poll for long."""
        self.received = 0
        self.lost_in_transit = 0
        """Events that were numbered and that no part reported as dropped."""
        self.behind_s: float | None = None
        """Age of the newest event when it came, by the broker's clock."""
        self.ledger = Ledger(kinds)
        self.dropped = self.ledger.dropped
        """Events by the reason that was reported."""
        self._address = address
        require_short("a live subscription", (name,))
        self._wish = control.Watch(
            control.PROTOCOL, name, _listed(runs), _listed(kinds), policy or QueuePolicy(), _listed(agents),
            _listed(pictures),
        )  # fmt: skip
        self._clock_offset_ns = 0
        self._backoff = Backoff(Random(os.urandom(8)), longest_s=5.0)
        self._sockets: WatchSockets | None = None

    def want(
        self,
        *,
        runs: _List = UNSET,
        agents: _List = UNSET,
        pictures: _List = UNSET,
        policy: QueuePolicy | None = None,
    ) -> None:
        """Other filters or another policy from now on; what is not given stays. Numbers and accounts go on."""
        before = self._wish
        named = {"runs": runs, "agents": agents, "pictures": pictures}
        changed = {name: _listed(names) for name, names in named.items() if names is not UNSET}
        self._wish = msgspec.structs.replace(before, **changed, policy=policy or before.policy)
        self.ledger.resume(self._streams_begun_or_ended(before, self._wish))
        if self._sockets is not None:
            self._sockets.send(self._wish)

    def poll(self, timeout_s: float) -> list[LiveEvent]:
        """The events that came, after at most `timeout_s` of waiting."""
        now_ns = time.monotonic_ns()
        if self._sockets is None:
            if left_s := self._backoff.left_s(now_ns):
                time.sleep(min(timeout_s, left_s))
                return []
            self._sockets = WatchSockets(self._address)
            self._sockets.send(self._wish)
        found = self._turn(self._sockets, timeout_s)
        self.lost_in_transit = sum(self.ledger.lost_in_transit)
        return found

    def forget(self, stream: bytes) -> None:
        """The stream is not wanted any more."""
        self.ledger.forget(stream)

    def close(self) -> None:
        if self._sockets is not None:
            self._sockets.send(control.Unwatch())
            self._sockets.close()
            self._sockets = None

    def __enter__(self) -> LiveSubscription:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _streams_begun_or_ended(self, before: control.Watch, now: control.Watch) -> set[bytes]:
        """All that are not known to have been wanted and to be wanted yet."""
        if before.runs == now.runs:
            return set()
        streams = self.status.get("streams", ())
        runs = {bytes.fromhex(one["stream_id"]): one["run_id"] for one in streams}
        wanted = [set(runs.values()) if wish.runs is None else set(wish.runs) for wish in (before, now)]
        stay = {stream for stream, run in runs.items() if run in wanted[0] & wanted[1]}
        return {stream for stream, _ in self.ledger.sources} - stay

    def _turn(self, sockets: WatchSockets, timeout_s: float) -> list[LiveEvent]:
        found: list[LiveEvent] = []
        sockets.wait(int(timeout_s * 1_000))
        now_ns = time.monotonic_ns()
        for message in sockets.receive_control(now_ns):
            self._dispatch(sockets, message, found, now_ns)
        if sockets.clock is not None:
            self._clock_offset_ns = sockets.clock.offset_ns
        for frames in sockets.receive_data():
            self._delivered(frames, found)
        hop = self.ledger.broker_hop
        beat = control.WatchBeat(now_ns, hop.received, min(max(hop.lost_in_transit, 0), control.COUNT_MAX))
        streams = len(self.status.get("streams", ()))
        ask_s = _ASK_STATUS_S + streams * _ASK_STATUS_PER_STREAM_S
        if sockets.beat_due(now_ns):
            sockets.beat(beat, now_ns)
            self.ledger.settle()
        sockets.ask_status(now_ns, ask_now=self.wants_status, ask_s=ask_s)
        if sockets.silent(now_ns):
            self._lose(sockets)
        return found

    def _lose(self, sockets: WatchSockets) -> None:
        """The broker is silent: begin again, after a wait."""
        self.refusal = sockets.why_silent or self.refusal
        sockets.close(linger_ms=0)
        self._sockets = None
        self.instance = None
        self.behind_s = None
        self.ledger.renew()
        self._backoff.begin(time.monotonic_ns())

    # -- control -------------------------------------------------------------------------------------------------

    def _dispatch(self, sockets: WatchSockets, message: control.Message, found: list[LiveEvent], now_ns: int) -> None:
        match message:
            case control.Watching():
                self._granted(sockets, message)
            case control.Recent():
                for one in message.batches:
                    self._take(one, found)
            case control.StatusReply() if isinstance(message.status.get("streams"), list):
                self.status = message.status
            case control.Who():
                sockets.send(self._wish)
            case control.Refused():
                self.refusal = message.reason
                sockets.rest(limits.LIVE_STUCK_S, now_ns)  # by then nothing was delivered, and it begins again

    def _granted(self, sockets: WatchSockets, message: control.Watching) -> None:
        try:
            renewed = sockets.subscribe(message)
        except WireError as error:
            self.refusal = str(error)
            return
        if renewed:
            self.begun += 1
            self.ledger.renew()
        self.instance = message.instance
        self.granted = message.policy
        self.refusal = ""
        self._backoff.reset()

    # -- data ----------------------------------------------------------------------------------------------------

    def _delivered(self, frames: list[bytes], found: list[LiveEvent]) -> None:
        """A delivery: its drops, then its batch; the account first, whatever the batch turns out to hold."""
        if len(frames) != 3:
            return
        try:
            delivery = decode_delivery(frames[1])
        except WireError as error:
            log.warning("live.bad_delivery: %s", error)
            return
        self.deliveries += 1
        if frames[2]:
            self._take(frames[2], found, delivery)
        else:
            self.ledger.delivered(delivery, 0)

    def _take(self, message: bytes, found: list[LiveEvent], delivery: Delivery | None = None) -> None:
        """The events of a live batch; without a delivery it is from before the subscription, and not accounted for.

        A damaged one is logged, and its events count as received all the same.
        """
        try:
            header, start = batch.parse_header(message)
            if delivery is not None:
                self.received += header.events
                self.ledger.delivered(delivery, header.events)
            body = message[start:]
            batch.check_body(header, body)
            kind = records.kind_of(body[records.PREFIX_BYTES : records.PREFIX_BYTES + 32])
            if delivery is not None:
                self.ledger.batch(header.stream, kind, header.counter, header.events)
                self.behind_s = max(time.time_ns() + self._clock_offset_ns - header.time_ns, 0) / limits.NS
            events = _decode(kind, header, body, recent=delivery is None)
        except WireError as error:
            log.warning("live.bad_batch: %s", error)
            return
        if delivery is not None and not header.last_seq:
            self._listen(header.stream, events)
        found += events

    def _listen(self, stream: bytes, events: list[LiveEvent]) -> None:
        """Account for a source's event about its own numbers."""
        for one in events:
            match one.event:
                case RunHeartbeat(counters=counters) if counters:
                    self.ledger.ticked(stream, counters.items())
                case Overflow(of_kind=kind, reason=reason, count=count, reached=reached):
                    self.ledger.overflowed(stream, kind, reason, count, reached)


def _decode(kind: str, header: batch.Header, body: bytes, *, recent: bool) -> list[LiveEvent]:
    """Every event of a live batch, undecoded where it has no schema here."""
    spans = records.spans(body, header.events)
    try:
        events: list[AnyEvent | None] = [record.event for record in batch.decode_body(body, header.events)]
    except msgspec.DecodeError:
        events = [event_of(body[start:end]) for start, end in spans]
    return [
        LiveEvent(header.stream, kind, event, body[start:end], not header.last_seq, recent)
        for event, (start, end) in zip(events, spans, strict=True)
    ]


def _listed(names: _List) -> list[str] | None:
    if not isinstance(names, Iterable):
        return None
    listed = sorted(names)
    require_short("a filter", listed)
    return listed
