"""The broker's rules for the durable path: which streams may send, how much, from which seq; what is acknowledged.

A stream is *open* when every required durable subscriber is attached and has reported the stream's watermark since it
attached; else it *waits*, with no credit and no acknowledgement. Opening, and every rewind, starts a new epoch: cursor,
credit and outstanding bytes start afresh, and batches of an earlier epoch are ignored. An acknowledgement is the
smallest watermark of the required subscribers.

A connection that breaks and comes back loses what was under way without a word, so whatever waits for an answer is said
again: ATTACHED until its token is subscribed to, ASK until a subscriber has reported, CREDIT until the worker's
heartbeat shows it, SKIPPED until a subscriber that is not required has reported what it was not sent.

Nothing here survives a restart, and nothing has to: streams say HELLO again, subscribers attach again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from msgspec.structs import replace

from telefabric import __version__, limits
from telefabric.broker.core import metrics, status
from telefabric.broker.core.credit import CreditBook
from telefabric.broker.core.durable_lane import DurableLane
from telefabric.broker.core.edits import Edits
from telefabric.broker.core.hops import Lag
from telefabric.broker.core.live_lane import LiveCore
from telefabric.broker.core.state import SILENT_NS, DurableSubscriber, StreamState
from telefabric.errors import UsageError, WireError
from telefabric.keys.core.roles import Domain, Refused, covers
from telefabric.metrics.figures import Figures
from telefabric.peer.core.mistakes import Mistakes, Quota
from telefabric.peer.core.principal import LOCAL_USERS, Peer, Principal, forbidden, other_run
from telefabric.wire import control
from telefabric.wire.batch import ABOUT, Header, parse_header
from telefabric.wire.delivery import topic_of

_BACKLOG_GROWTH = 2
"""Factor for the bytes that a fast stream gathers until a grant reaches it, besides those it reported."""
ASK_CHUNK_BYTES = limits.CONTROL_BYTES_MAX // 2
_Report = control.Marks | control.Stored
_INFO_BYTES_MAX = 2 * limits.KIB
"""A stream's info without its metadata: seven texts, with room to spare."""


class BrokerCore:
    """All decisions of the durable path. Times are monotonic nanoseconds. Not thread-safe."""

    def __init__(
        self,
        *,
        instance: bytes,
        endpoints: control.Endpoints,
        new_token: Callable[[], bytes],
        required: Iterable[str] = ("store",),
        durable_bytes_max: int = limits.DURABLE_BYTES_MAX,
        tail_bytes_max: int = limits.LANE_TAIL_BYTES_MAX,
        streams_max: int = limits.STREAMS_MAX,
        refused: Counter[Refused] | None = None,
    ) -> None:
        """`refused` counts what the owners of keys did wrong, by name; the entrance counts there too."""
        self.instance = instance
        self.refused: Counter[Refused] = Counter() if refused is None else refused
        self.lane = DurableLane(tail_bytes_max)
        self.dropped: Counter[str] = Counter()
        self.next_key: control.NextKey | None = None
        self._endpoints = endpoints
        self._new_token = new_token
        self._required = tuple(required)
        self._streams_max = streams_max
        self._lane_bytes_max = durable_bytes_max
        self._epoch = 0
        if not self._required:
            raise UsageError("no durable subscriber is required, so nothing could ever be acknowledged: name the store")
        least = streams_max * limits.CREDIT_BASE_BYTES + limits.EVENT_BYTES_MAX
        if durable_bytes_max < least:
            raise UsageError(f"{streams_max} streams need {least} bytes for the durable path, not {durable_bytes_max}")
        self._credit = CreditBook(
            total=durable_bytes_max, base=limits.CREDIT_BASE_BYTES, streams_max=streams_max,
            stream_bytes_max=limits.CREDIT_STREAM_BYTES_MAX,
        )  # fmt: skip
        self._streams: dict[bytes, StreamState] = {}
        self.durables: dict[str, DurableSubscriber] = {}
        self._out: list[tuple[Peer, control.Message]] = []
        self.live = LiveCore(instance=instance, endpoints=lambda: self.endpoints, new_token=new_token)
        self._edits = Edits()
        self._reviewed_ns = 0
        self._long_answers = Quota(each=limits.STATUSES_A_SECOND, together=math.inf)
        self._interval_told_ms = 0
        self._credits_told = 0
        self._mistakes = Mistakes(instance)

    # -- outputs -------------------------------------------------------------------------------------------------

    def take(self) -> list[tuple[Peer, control.Message]]:
        """The control messages to send, each to its peer, in order."""
        out, self._out = self._out, []
        return out

    def tokens(self) -> dict[str, bytes]:
        """The token of each attached durable subscriber."""
        return {name: durable.token for name, durable in self.durables.items()}

    @property
    def endpoints(self) -> control.Endpoints:
        """Queries go to a store that is waited for: any other may hold a part."""
        return replace(self._endpoints, query=next((one.said.query for one in self._stores() if one.said.query), None))

    @property
    def fabric(self) -> bytes | None:
        """The id of the store that is attached to this broker; None without one."""
        return next((one.said.fabric for one in self._stores() if one.said.fabric), None)

    def _stores(self) -> Iterator[DurableSubscriber]:
        """The attached subscribers that are waited for."""
        return (self.durables[name] for name in self._required if name in self.durables)

    # -- what peers say wrong ------------------------------------------------------------------------------------

    def blame(self, principal: Principal, reason: str, domain: Domain) -> None:
        """Count it under the name of the key; without keys nobody has one."""
        if principal.has_key:
            self.refused[Refused(reason, domain.value, principal.name)] += 1

    def mistaken(self, peer: Peer, error: WireError, now_ns: int) -> None:
        """A control message that cannot be used: counted, and answered if that is not too often."""
        self.dropped[error.reason] += 1
        self.blame(peer.principal, error.reason, Domain.CONTROL)
        self._correct(peer, error, now_ns)

    def _correct(self, peer: Peer | None, error: WireError, now_ns: int) -> None:
        if self._mistakes.grants(peer, now_ns):
            answer = self._mistakes.note(peer, self._name_of(peer), error, now_ns)
            if peer:
                self._send(peer, answer)

    def _carrier(self, stream: bytes) -> Peer | None:
        """The peer that said HELLO for a stream. It is answered about batches: their own sockets go one way."""
        state = self._streams.get(stream)
        return state.peer if state else None

    def require_carrier(self, principal: Principal, stream: bytes, topic: bytes | None = None) -> None:
        """Raises `WireError` for a batch of a stream for which another key said HELLO, or under another run's topic."""
        if not principal.has_key:
            return
        state = self._streams.get(stream)
        if state is None or state.peer.principal != principal:
            why = f"the key {principal.name} sends a batch of a stream for which it has not said HELLO"
            raise WireError("not_carrier", f"{why}: say it", about=ABOUT, field="stream", stream=stream)
        if topic is not None and not topic.startswith(topic_of(state.info.run_id, "")):
            why = f"its topic is not of the run {state.info.run_id}, which its stream's HELLO named"
            raise WireError("other_run", f"{why}: use that one", about=ABOUT, field="topic", stream=stream)

    def carries(self, principal: Principal) -> bool:
        """Some stream is its."""
        return any(state.peer.principal == principal for state in self._streams.values())

    def expel(self, names: Collection[str]) -> None:
        """Forget what those do whose keys have ended: others may carry their streams now."""
        for stream, state in list(self._streams.items()):
            if state.peer.principal.name in names:
                self._forget(stream)
        for name, durable in list(self.durables.items()):
            if durable.peer.principal.name in names:
                self._detach(name)
        self.live.expel(names)

    def _name_of(self, peer: Peer | None) -> str:
        """The name that the peer gave itself; empty for an unknown peer."""
        for state in self._streams.values():
            if state.peer == peer:
                return f"{state.info.run_id}/{state.info.worker_id}"
        durable = next((one.name for one in self.durables.values() if one.peer == peer), "")
        return durable or (self.live.name_of(peer) if peer else "")

    # -- from workers --------------------------------------------------------------------------------------------

    def receive(self, peer: Peer, message: control.Message, now_ns: int, wall_ns: int, unread_bytes: int = 0) -> None:
        """Any control message of any peer, and how much it has not read of what it was sent.

        Heartbeats are answered with the broker's next key, too, where there is one.

        Messages that only a broker sends are counted and ignored.
        """
        error = forbidden(peer.principal, message, self._required)
        if error is not None:
            self._forbid(peer, message, error, now_ns)
            return
        if self.next_key is not None and isinstance(message, control.Beat | control.DurableBeat | control.WatchBeat):
            self._send(peer, self.next_key)
        match message:
            case control.Beat():
                self._beat(peer, message, now_ns, wall_ns)
            case control.Stored() | control.Marks() | control.Nack():
                durable = self._durable_of(peer)
                if durable is not None and message.instance == self.instance:
                    durable.heard_ns = now_ns
                    self._reported(durable, message, now_ns)
            case control.Hello() | control.Attach() | control.Watch() if message.protocol != control.PROTOCOL:
                self._refuse(peer, "protocol", _wrong_protocol(message))
            case control.Hello():
                self._hello(peer, message, now_ns)
            case control.Bye():
                if self._carrier(message.stream) == peer:
                    self._forget(message.stream)
            case control.Attach():
                self._attach(peer, message, now_ns)
            case control.DurableBeat():
                self._durable_beat(peer, message, now_ns, wall_ns)
            case control.Watch() | control.WatchBeat() | control.Unwatch():
                for answer in self.live.receive(peer, message, now_ns, wall_ns):
                    if isinstance(answer, control.Refused):
                        self._refuse(peer, "too_many_watchers", answer.reason)
                    elif not isinstance(answer, control.Recent) or self._grants_long_answer(peer, unread_bytes, now_ns):
                        self._send(peer, answer)
            case control.Edit():
                self._edit(peer, message, now_ns)
            case control.Edited():
                durable = self._durable_of(peer)
                self._out += self._edits.answered(durable.name, message) if durable is not None else []
            case control.StatusRequest():
                if self._grants_long_answer(peer, unread_bytes, now_ns):
                    self._send(
                        peer,
                        control.StatusReply(self.instance, self.endpoints, self.status(now_ns, peer.principal.runs)),
                    )
                else:
                    too_often = unread_bytes <= limits.UNREAD_BYTES_MAX
                    reason = "status_too_often" if too_often else "status_unread"
                    self.dropped[reason] += 1
                    self.blame(peer.principal, reason, Domain.CONTROL)
            case control.Error():
                self.dropped["unexpected_control"] += 1  # never answered: two that correct each other would not end
            case _:
                about = str(message.__struct_config__.tag)
                error = WireError("unexpected_control", f"{about} is what a broker says: leave it out", about=about)
                self.mistaken(peer, error, now_ns)

    def _edit(self, peer: Peer, message: control.Edit, now_ns: int) -> None:
        try:
            self._out += self._edits.ask(peer, message, list(self._stores()), self._absent(), now_ns)
        except WireError as error:
            self.mistaken(peer, error, now_ns)

    def _forbid(self, peer: Peer, message: control.Message, error: WireError, now_ns: int) -> None:
        """Those who introduce themselves wait for an answer, and REFUSED is one."""
        if isinstance(message, control.Hello | control.Attach | control.Watch):
            self._refuse(peer, error.reason, str(error))
        else:
            self.mistaken(peer, error, now_ns)

    def _grants_long_answer(self, peer: Peer, unread_bytes: int, now_ns: int) -> bool:
        return self._long_answers.grants(peer, now_ns) and unread_bytes <= limits.UNREAD_BYTES_MAX

    def _hello(self, peer: Peer, message: control.Hello, now_ns: int) -> None:
        info = replace(message.info, carrier=peer.principal.name if peer.principal.has_key else None)
        stream = info.stream
        state = self._streams.get(stream)
        if state is not None and not state.overdue and not covers(peer.principal.runs, state.info.run_id):
            self._forbid(peer, message, other_run(peer.principal, state.info.run_id), now_ns)
            return
        if state is None:
            if len(self._streams) >= self._streams_max:
                self._wait(peer, stream, f"the broker serves its limit of {self._streams_max} streams")
                return
            if self._has_too_many(peer.principal):
                why = f"the key {peer.principal.name} has its limit of {limits.STREAMS_OF_KEY_MAX} streams"
                self._refuse(peer, "too_many_streams", f"{why}: ask for another one (telefabric keys invite)")
                return
            state = self._streams[stream] = StreamState(info, peer, message.oldest, message.head, now_ns)
        state.info, state.peer, state.overdue = info, peer, False
        state.heard(now_ns, message.oldest, message.head)
        self._hold(state)
        state.marks.clear()
        state.asked_ns = now_ns
        self._wait(peer, stream, self._why_wait())
        for durable in self.durables.values():
            self._send(durable.peer, control.Ask(self.instance, [state.info]))

    def _has_too_many(self, principal: Principal) -> bool:
        own = sum(state.peer.principal.name == principal.name for state in self._streams.values())
        return principal.has_key and own >= limits.STREAMS_OF_KEY_MAX

    def _beat(self, peer: Peer, message: control.Beat, now_ns: int, wall_ns: int) -> None:
        self._send(peer, control.Alive(self.instance, message.sent_ns, wall_ns))
        for beat in message.streams:
            state = self._streams.get(beat.stream)
            if state is None or state.peer != peer:
                self._send(peer, control.Who(self.instance, beat.stream))
                continue
            state.heard(now_ns, beat.oldest, beat.head)
            state.backlog_bytes = beat.backlog_bytes
            state.clock_offset_ns, state.round_trip_ns = message.clock_offset_ns, message.round_trip_ns
            state.left_spools, state.held = message.left_spools, beat.held
            state.behind = metrics.place_behind(state, self._required, self.live, now_ns)
            self._mind_live(state, beat.live, now_ns)
            if not state.open:
                continue
            if beat.epoch == state.epoch:
                backlog = 0 if beat.held else _BACKLOG_GROWTH * beat.backlog_bytes
                self._credit.report(beat.stream, backlog, beat.next_bytes, beat.credit_bytes)
                if beat.credit_bytes != self._credit.granted(beat.stream) and _long_ago(state.told_ns, now_ns):
                    self._tell_credit(state, now_ns)
            elif _long_ago(state.opened_ns, now_ns):
                self._send(peer, control.Who(self.instance, beat.stream))
        if self._credit.quick:  # a stream that begins to be fast waits for no tick
            self._tell_grants(self._credit.review(), now_ns)

    def _mind_live(self, state: StreamState, numbered: int | None, now_ns: int) -> None:
        """A live connection can be broken without a word: its source numbers on, and nothing comes.

        Or it is gone, and the worker does not know that anybody watches: it numbers nothing.
        """
        lane = self.live.lane
        seen = lane.seen(state.info.stream)
        if numbered is None or not lane.asked_for(state.info.run_id):
            state.live_lag = Lag()
        elif state.live_lag.look(seen, numbered or seen + 1, now_ns) > limits.LIVE_STUCK_S:
            state.live_lag = Lag()
            self._send(state.peer, control.Unheard(self.instance, state.info.stream))

    def batch(self, message: bytes, now_ns: int = 0, *, topic: bytes = b"", principal: Principal = LOCAL_USERS) -> None:
        """A message of the data socket. Whatever is not a batch of an open stream within its credit is counted.

        The `topic` says whose it is when the header cannot.
        """
        try:
            header, _ = parse_header(message)
            self.require_carrier(principal, header.stream)
        except WireError as error:
            self.bad_batch(topic, error, now_ns, principal)
            return
        state = self._streams.get(header.stream)
        if state is None:
            self.dropped["unknown_stream"] += 1
        elif header.session != self.instance or header.epoch != state.epoch or not state.open:
            self.dropped["stale"] += 1
            self._correct_stale(state, header, now_ns)
        else:
            self._accept(state, header, message, now_ns)

    def bad_batch(self, topic: bytes, error: WireError, now_ns: int, principal: Principal = LOCAL_USERS) -> None:
        """Count a batch of the data socket that cannot be used, and answer who said HELLO for its stream."""
        self.dropped[error.reason] += 1
        self.blame(principal, error.reason, Domain.DATA)
        self._correct(self._carrier(error.stream or topic), error, now_ns)

    def bad_live_batch(self, error: WireError, now_ns: int, principal: Principal = LOCAL_USERS) -> None:
        """The same for a batch of the live socket."""
        self.live.lane.dropped[error.reason] += 1
        self.blame(principal, error.reason, Domain.LIVE)
        self._correct(self._carrier(error.stream), error, now_ns)

    def _correct_stale(self, state: StreamState, header: Header, now_ns: int) -> None:
        """Whether a batch of the old epoch may still come: for a short time after the new epoch began."""
        if state.open and now_ns - state.opened_ns > limits.ACK_STALL_S * limits.NS:
            field = "session" if header.session != self.instance else "epoch"
            why = f"a batch has another {field} than the last WELCOME or REWIND named: take it from there"
            self._correct(state.peer, WireError("stale", why, about=ABOUT, field=field), now_ns)

    def _accept(self, state: StreamState, header: Header, message: bytes, now_ns: int) -> None:
        if header.first_seq < state.next_seq:
            why = f"seq {header.first_seq} was taken in this epoch: say HELLO to go back"
            error = WireError("repeated", why, about=ABOUT, field="first_seq")
            self.bad_batch(header.stream, error, now_ns, state.peer.principal)
            return
        size = len(message) + limits.BATCH_OVERHEAD_BYTES
        if self.lane.bytes + size > self._lane_bytes_max:  # batches of ended epochs wait there too, beside the credit
            self.dropped["lane_full"] += 1
            return
        if state.outstanding_bytes + size > self._credit.reserved(header.stream):
            self.dropped["over_credit"] += 1
            state.over_credit += 1
            self._rewind(state, state.next_seq, "over_credit")
            return
        state.next_seq = header.last_seq + 1
        state.newest_seq = max(state.newest_seq, header.last_seq)
        if header.last_seq > state.acked:  # else the worker hears, or has heard, that it is in flight no more
            state.outstanding.append((header.last_seq, size))
            state.outstanding_bytes += size
        self.lane.push(message, header.stream, header.last_seq)

    # -- from durable subscribers --------------------------------------------------------------------------------

    def _attach(self, peer: Peer, message: control.Attach, now_ns: int) -> None:
        name, required = message.name, message.name in self._required
        other = self.durables.get(name)
        if other is None and not required and len(self.durables) >= limits.DURABLES_MAX:
            limit = f"the broker serves its limit of {limits.DURABLES_MAX} durable subscribers"
            self._refuse(peer, "too_many_durables", f"{limit}: stop one")
            return
        if other is not None and other.said.keeps != message.keeps and now_ns - other.heard_ns < SILENT_NS:
            holder = f"{other.said.keeps or 'another process'} is attached to this broker as {name!r} already"
            self._refuse(peer, "second_durable", f"{holder}: stop that one, or give this one a broker of its own")
            return
        cursor = self.lane.attach(name, required=required)
        durable = DurableSubscriber(name, message, peer, self._new_token(), required, cursor, now_ns, now_ns)
        self.durables[name] = durable
        self._tell_attached(durable)
        for state in self._streams.values():
            state.marks.pop(name, None)
            state.asked_ns = now_ns
            if required:
                self._hold(state)
            elif state.open:
                cursor.skip(state.info.stream, state.next_seq - 1)
        self._ask(durable, self._streams.values())

    def subscribed(self, token: bytes) -> None:
        """The socket towards the durable subscribers has entered a subscription to this token."""
        for durable in self.durables.values():
            if durable.token == token:
                durable.subscribed = True

    def _reported(self, durable: DurableSubscriber, message: _Report | control.Nack, now_ns: int) -> None:
        if isinstance(message, control.Nack):
            self._nack(durable, message, now_ns)
            return
        answers = isinstance(message, control.Marks)
        for mark in self._credible(durable, message, now_ns):
            durable.cursor.reported(mark.stream, mark.seq)
            state = self._streams.get(mark.stream)
            if state is None or not (answers or durable.name in state.marks):
                continue
            state.marks[durable.name] = mark.seq
            if state.open and not answers:
                self._acknowledge(state)
            elif not state.open and all(name in state.marks for name in self._required):
                self._open(state, now_ns)

    def _credible(self, durable: DurableSubscriber, message: _Report, now_ns: int) -> Iterator[control.StreamSeq]:
        """The marks that can be true: nobody stores what was not emitted.

        But the store may hold more than a worker whose machine lost its power still has: what it answers to ASK counts.
        """
        trusted = isinstance(message, control.Marks) and durable.required
        for mark in message.marks:
            state = self._streams.get(mark.stream)
            if state is None or trusted or mark.seq <= max(state.emitted, state.marks.get(durable.name, 0)):
                yield mark
                continue
            why = f"seq {mark.seq} of stream {mark.stream.hex()} is beyond the {state.emitted} that were emitted"
            about = str(message.__struct_config__.tag)
            error = WireError("beyond_head", f"{why}: report what is committed", about=about, field="marks")
            self.mistaken(durable.peer, error, now_ns)

    def _nack(self, durable: DurableSubscriber, message: control.Nack, now_ns: int) -> None:
        state = self._streams.get(message.stream)
        if state is None or not state.open or state.epoch != message.epoch:
            return
        if not durable.required:
            self.dropped["nack_not_required"] += 1  # it reads what it missed from the store
            return
        if message.reason == control.DAMAGED:
            self.mistaken(state.peer, _damaged_body(message), now_ns)
        others = [mark + 1 for name, mark in state.marks.items() if name in self._required and name != durable.name]
        self._rewind(state, max(min([message.expected, state.next_seq, *others]), 1), message.reason)

    def _durable_beat(self, peer: Peer, message: control.DurableBeat, now_ns: int, wall_ns: int) -> None:
        durable = self._durable_of(peer)
        sent = durable.cursor.sent if durable is not None else 0
        self._send(peer, control.Alive(self.instance, message.sent_ns, wall_ns, sent))
        if durable is not None:
            durable.heard_ns = now_ns
            durable.stored_events, durable.quarantined_events = message.stored_events, message.quarantined_events

    # -- time ----------------------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """Review credit, and notice silent peers. Call it every few tens of milliseconds."""
        if now_ns - self._reviewed_ns < limits.CREDIT_REVIEW_S * limits.NS:
            return
        self._reviewed_ns = now_ns
        for name, durable in list(self.durables.items()):
            if now_ns - durable.heard_ns > limits.DURABLE_ABSENT_S * limits.NS:
                self._detach(name)
        for stream, state in list(self._streams.items()):
            if now_ns - state.heard_ns > limits.STREAM_ABSENT_S * limits.NS:
                self._forget(stream)
        self._attach_again(now_ns)
        self._ask_again(now_ns)
        self._tell_skipped(now_ns)
        self._tell_living(now_ns)
        self._review_credit(now_ns)
        self._out += self._edits.tick(now_ns)

    def _attach_again(self, now_ns: int) -> None:
        """A subscriber that holds the token of an earlier ATTACHED is alive, reports, and would never hear a batch."""
        for durable in self.durables.values():
            if not durable.subscribed and now_ns - durable.told_ns > limits.ACK_STALL_S * limits.NS:
                durable.told_ns = now_ns
                self._tell_attached(durable)

    def _ask_again(self, now_ns: int) -> None:
        due = [state for state in self._streams.values() if now_ns - state.asked_ns > limits.ACK_STALL_S * limits.NS]
        for durable in self.durables.values():
            self._ask(durable, [state for state in due if durable.name not in state.marks])
        for state in due:
            state.asked_ns, state.overdue = now_ns, not state.epoch

    def _tell_skipped(self, now_ns: int) -> None:
        for durable in self._optional():
            if now_ns - durable.looked_ns > limits.ACK_STALL_S * limits.NS:
                durable.looked_ns = now_ns
                self._notice_lost(durable)
            if durable.cursor.skipped and _long_ago(durable.told_skipped_ns, now_ns):
                durable.told_skipped_ns = now_ns
                marks = [control.StreamSeq(stream, seq) for stream, seq in durable.cursor.skipped.items()]
                self._send(durable.peer, control.Skipped(self.instance, marks))

    def _tell_living(self, now_ns: int) -> None:
        for durable in self.durables.values():
            if now_ns - durable.told_living_ns > limits.LIVING_S * limits.NS:
                durable.told_living_ns = now_ns
                living = [stream for stream, state in self._streams.items() if not state.silent(now_ns)]
                self._send(durable.peer, control.Living(self.instance, living))

    def _notice_lost(self, durable: DurableSubscriber) -> None:
        """A required subscriber's worker sends again what a connection lost; nobody does so for the others."""
        behind = {
            stream: state.marks[durable.name]
            for stream, state in self._streams.items()
            if state.marks.get(durable.name, state.acked) < state.acked
        }
        for stream, mark in behind.items():
            if durable.behind.get(stream) == mark:
                durable.cursor.skip(stream, self._streams[stream].acked)
        durable.behind = behind

    def _review_credit(self, now_ns: int) -> None:
        interval_ms = self._interval_ms()
        changed = self._credit.review()
        if abs(interval_ms - self._interval_told_ms) * 4 > self._interval_told_ms:
            self._interval_told_ms = interval_ms
            changed = {stream: self._credit.granted(stream) for stream, state in self._streams.items() if state.open}
        self._tell_grants(changed, now_ns)

    def _tell_grants(self, changed: Iterable[bytes], now_ns: int) -> None:
        for stream in changed:
            self._tell_credit(self._streams[stream], now_ns)

    def status(self, now_ns: int, runs: str = "*") -> dict[str, Any]:
        """The values that `telefabric status` shows. A key hears of the streams of its `runs` alone."""
        accounts = self.live.lane.ledger.by_stream()
        return {
            "streams": [
                status.stream_status(
                    state, self._credit.granted(stream), self._required, self.live, accounts.get(stream, ()), now_ns
                )
                for stream, state in self._streams.items()
                if covers(runs, state.info.run_id)
            ],
            "durable": [
                status.durable_status(durable, self.lane.pending(durable.name), now_ns)
                for durable in self.durables.values()
            ],
            "live": self.live.status(now_ns),
            "absent": [name for name in self._required if name not in self.durables],
            "fabric": self.fabric.hex() if self.fabric else None,
            "version": __version__,
            "lane_bytes": self.lane.bytes,
            "tail_bytes": self.lane.tail_bytes,
            "credit_lent_bytes": self._credit.total_reserved(),
            "dropped": dict(self.dropped),
            "live_dropped": dict(self.live.lane.dropped),
            "mistakes": self._mistakes.status(now_ns),
            "left_spools": status.left_spools(self._streams.values(), now_ns),
        }

    def figures(self, now_ns: int) -> Figures:
        """The figures of metrics and summary: see `FAMILIES`."""
        return {
            **metrics.of_streams(self._streams.values(), self._required, now_ns),
            **metrics.of_durables(self.durables.values(), self._required, self.lane, now_ns),
            **metrics.of_live(self.live),
            **metrics.of_lanes(self.lane, self._credit.total_reserved(), self.dropped, self.live),
        }

    # -- inside --------------------------------------------------------------------------------------------------

    def _send(self, peer: Peer, message: control.Message) -> None:
        self._out.append((peer, message))

    def _ask(self, durable: DurableSubscriber, states: Iterable[StreamState]) -> None:
        """In messages that each stay within the limit."""
        chunks: list[list[control.StreamInfo]] = []
        room = 0
        for info in (state.info for state in states):
            weight = len(info.metadata) + _INFO_BYTES_MAX
            if weight > room:
                chunks.append([])
                room = ASK_CHUNK_BYTES
            room -= weight
            chunks[-1].append(info)
        for chunk in chunks:
            self._send(durable.peer, control.Ask(self.instance, chunk))

    def _tell_attached(self, durable: DurableSubscriber) -> None:
        attached = control.Attached(self.instance, durable.token, self.endpoints, durable.required, self.fabric)
        self._send(durable.peer, attached)

    def _tell_credit(self, state: StreamState, now_ns: int) -> None:
        state.told_ns = now_ns
        stream, grant = state.info.stream, self._credit.granted(state.info.stream)
        self._credits_told += 1
        credit = control.Credit(self.instance, stream, state.epoch, grant, self._interval_ms(), self._credits_told)
        self._send(state.peer, credit)

    def _refuse(self, peer: Peer, counted: str, reason: str) -> None:
        self.dropped[counted] += 1
        self.blame(peer.principal, counted, Domain.CONTROL)
        self._send(peer, control.Refused(self.instance, reason))

    def _wait(self, peer: Peer, stream: bytes, reason: str) -> None:
        self._send(peer, self._welcome(stream, 0, None, 0, reason))

    def _absent(self) -> str:
        """The required subscribers that are not attached, as part of a sentence."""
        return " and no ".join(name for name in self._required if name not in self.durables)

    def _why_wait(self) -> str:
        if absent := self._absent():
            return f"no {absent} is attached to the broker"
        return "the store has not reported this stream yet"

    def _welcome(
        self, stream: bytes, epoch: int, expected: int | None, credit: int, reason: str | None = None
    ) -> control.Welcome:
        return control.Welcome(
            self.instance, stream, epoch, expected, credit, self._interval_ms(), self.endpoints,
            int(limits.HEARTBEAT_S * 1000), reason, self.fabric,
        )  # fmt: skip

    def _hold(self, state: StreamState) -> None:
        """No credit, no acknowledgement, until all required subscribers have reported the stream again."""
        state.open = False
        state.outstanding.clear()
        state.outstanding_bytes = 0
        self._credit.close(state.info.stream)

    def _open(self, state: StreamState, now_ns: int) -> None:
        state.open = True
        state.opened_ns = state.told_ns = now_ns
        state.acked = min(state.marks[name] for name in self._required)
        for durable in self._optional():
            durable.cursor.skip(state.info.stream, state.acked)
        self._new_epoch(state, state.acked + 1)
        grant = self._credit.open(state.info.stream)
        self._send(state.peer, self._welcome(state.info.stream, state.epoch, state.acked + 1, grant))

    def _rewind(self, state: StreamState, expected: int, reason: str) -> None:
        state.rewinds += 1
        state.opened_ns = max(state.opened_ns, self._reviewed_ns)
        self._new_epoch(state, expected)
        grant = self._credit.open(state.info.stream)
        message = control.Rewind(self.instance, state.info.stream, state.epoch, expected, grant, reason)
        self._send(state.peer, message)

    def _new_epoch(self, state: StreamState, expected: int) -> None:
        self._epoch += 1  # never used twice, not even by a stream that was forgotten and is back
        state.epoch = self._epoch
        state.next_seq = expected
        self.lane.withdraw(state.info.stream, expected)
        state.outstanding.clear()
        state.outstanding_bytes = 0

    def _acknowledge(self, state: StreamState) -> None:
        acked = min(state.marks[name] for name in self._required)
        while state.outstanding and state.outstanding[0][0] <= acked:
            state.outstanding_bytes -= state.outstanding.popleft()[1]
        if acked > state.acked:
            state.acked = acked
            self._send(state.peer, control.Ack(self.instance, state.info.stream, acked))

    def _forget(self, stream: bytes) -> None:
        self._credit.close(stream)
        self.live.lane.forget(stream)
        state = self._streams.pop(stream)
        for durable in self._optional():
            if state.marks.get(durable.name, 0) < state.acked:  # it may be on the way, and nobody would notice
                durable.cursor.skip(stream, state.acked)

    def _optional(self) -> list[DurableSubscriber]:
        return [durable for durable in self.durables.values() if not durable.required]

    def _detach(self, name: str) -> None:
        del self.durables[name]
        self.lane.detach(name)
        for state in self._streams.values():
            state.marks.pop(name, None)
            if name in self._required:
                self._hold(state)
                self._wait(state.peer, state.info.stream, self._why_wait())

    def _durable_of(self, peer: Peer) -> DurableSubscriber | None:
        """The attached subscriber behind a peer; an unknown one gets WHO, so that it attaches."""
        found = next((one for one in self.durables.values() if one.peer == peer), None)
        if found is None:
            self.dropped["unknown_durable"] += 1
            self._send(peer, control.Who(self.instance, bytes(16)))
        return found

    def _interval_ms(self) -> int:
        seconds = len(self._streams) * limits.BATCH_INTERVAL_PER_STREAM_S
        return int(1000 * min(max(seconds, limits.BATCH_INTERVAL_MIN_S), limits.BATCH_INTERVAL_MAX_S))


def _wrong_protocol(message: control.Hello | control.Attach | control.Watch) -> str:
    """Which side has to be upgraded, and to which version."""
    what, needed = "what connects to it", f"telefabric {__version__} or newer"
    if message.protocol > control.PROTOCOL:
        theirs = message.info.sdk_version if isinstance(message, control.Hello) else None
        what, needed = "it", f"telefabric {theirs} or newer" if theirs else f"the version of {what}"
    known = f"this broker, telefabric {__version__}, speaks protocol {control.PROTOCOL}, not {message.protocol}"
    return f"{known}: upgrade {what} to {needed}"


def _damaged_body(message: control.Nack) -> WireError:
    why = f"the body of the batch at seq {message.expected} fails its CRC-32"
    return WireError(control.DAMAGED, f"{why}: send the CRC-32 of the body as it is", about=ABOUT, field="body CRC")


def _long_ago(then_ns: int, now_ns: int) -> bool:
    """Longer than an answer may take."""
    return now_ns - then_ns > limits.HEARTBEAT_S * limits.NS
