"""A durable subscription: every event of every stream, in order and once, from the last one that its owner holds.

The owner of a subscription stores the batches that `poll` returns, and reports them with `stored`; `feed` does both
with a sink. Batches that it does not report are sent again if the broker requires this subscriber; otherwise `skipped`
names the events that it has to read from the store.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from random import Random
from typing import NamedTuple, Protocol
from zlib import crc32

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import WireError
from telefabric.log.limit import library_logger
from telefabric.peer.core.backoff import Backoff
from telefabric.peer.own_socket import control_url
from telefabric.subscribe.core.intake import Intake, Verdict
from telefabric.subscribe.sockets import DurableSockets
from telefabric.wire import control
from telefabric.wire.batch import Header, check_body, decode_body, is_whole, parse_header
from telefabric.wire.names import require_short
from telefabric_schemas import AnyEvent

log = library_logger("telefabric.subscribe")


class Sink(Protocol):
    """Keeps the events of a durable subscription: a store, a relay, files of one day each."""

    def commit(self, batches: Iterator[DurableBatch]) -> Mapping[bytes, int]:
        """Keep these, which may be none; up to which seq it holds those streams that it holds further than before.

        It may return before they are safe, and say so in a later turn. What it does not take waits for the next turn.
        """


class Owner:
    """Called by a subscription for everything besides events. Most sinks need none of it."""

    def attached(self, instance: bytes) -> None:
        """The broker has it as a durable subscriber."""

    def refused(self, reason: str) -> None:
        """The broker does not take it; said once for each reason."""
        log.warning("durable.refused: %s", reason)

    def silent(self, *, stuck: bool) -> None:
        """The broker does not speak, or what it sends does not arrive: a new connection is made."""

    def living(self, streams: Collection[bytes]) -> None:
        """The broker heard a worker of these streams within three heartbeats."""

    def is_of_its_run(self, info: control.StreamInfo) -> bool:
        """False for a stream that it holds for another run: nothing is reported of it, and so nothing of it comes."""
        return True

    def forgotten(self, stream: bytes) -> None:
        """The stream's `held` is asked for again when its worker is heard again."""

    def edit(self, message: control.Edit) -> None:
        """An edit to apply, for one that said so in `edits`; it may come again. `answer` tells how it ended."""

    def conflict(self, batch: DurableBatch) -> None:
        """Two owners of one stream: seqs that were given came again with other bytes."""


class DurableBatch(NamedTuple):
    """Consecutive events of one stream, or a gap in it."""

    header: Header
    message: bytes
    """The batch's bytes, unchanged."""
    body: memoryview
    """Its records: a part of `message`."""
    skip: int
    """So many of its first events are held already."""
    whole: bool
    """False when its body came damaged again and again: its sender has no other, and nobody can tell what is right."""

    def events(self) -> list[AnyEvent]:
        """All but those that are held. Raises `msgspec.DecodeError` when one has no schema here.

        And `WireError` when the body is not whole. Its seqs have come all the same.
        """
        check_body(self.header, self.body)
        return [record.event for record in decode_body(self.body, self.header.events)[self.skip :]]


class DurableSubscription:
    """Attaches on the first `poll` or `feed`, and again after every silence of the broker. One thread.

    `held` says up to which seq its owner holds a stream, 0 for none. `name` is what the broker's setting ``required``
    may name; `keeps` says where it keeps what it takes, this process unless it is given: while one of a name is alive
    the broker refuses another that keeps elsewhere. One that is not `required` steps over what it missed; one that is,
    by a broker that does not wait for it, is refused. A refusal is in `refusal`, and logged. `owner` gets the rest.
    """

    def __init__(
        self,
        address: Address,
        *,
        name: str,
        held: Callable[[bytes], int],
        keeps: str = "",
        required: bool = False,
        owner: Owner | None = None,
    ) -> None:
        self.refusal = ""
        self.skipped: dict[bytes, int] = {}
        """For a subscriber that is not required: stream → the seq up to which the store has the skipped events."""
        self.infos: dict[bytes, control.StreamInfo] = {}
        """Stream → its run, worker and agent."""
        self.query: str | None = None
        """Where its owner answers queries, for the broker to tell."""
        self.fabric: bytes | None = None
        """The name that a store's file gives the whole."""
        self.edits = False
        """Its owner applies edits."""
        self.refused: Counter[str] = Counter()
        """Batches that were not given, by verdict."""
        self.stored_events = self.quarantined_events = 0
        """The owner's counters, for the broker's figures."""
        self.more = False
        """More is at hand than the last turn took."""
        self._address = address
        self._name = name
        self._keeps = keeps or f"process {os.getpid()} on {socket.gethostname()}"
        require_short("a durable subscription", (name, self._keeps))
        self._held = held
        self._required = required
        self._owner = owner or Owner()
        self._intake = Intake()
        self._unstored: dict[bytes, int] = {}
        """The last seq that was given of each stream and is not stored, of one that is required."""
        self._session: DurableSockets | None = None
        self._backoff = Backoff(Random(os.urandom(8)), limits.HEARTBEAT_S, limits.ACK_STALL_S)
        """Of refusals."""

    @property
    def attached(self) -> bool:
        return self._session is not None and self._session.instance is not None

    @property
    def streams_known(self) -> int:
        return len(self._intake)

    def poll(self, timeout_s: float) -> list[DurableBatch]:
        """The next batches in order, after at most `timeout_s` of waiting. Each is judged before it is returned."""
        session = self._hear(timeout_s)
        found = list(self._arrivals(session))
        self._beat(session)
        return found

    def feed(self, sink: Sink, timeout_s: float) -> None:
        """One turn: wait, let the sink commit what came, and tell the broker what is stored."""
        session = self._hear(timeout_s)
        self.stored(sink.commit(self._arrivals(session)))
        self._beat(session)

    def stored(self, marks: Mapping[bytes, int], events: int = 0) -> None:
        """Its owner holds these streams up to these seqs now; `events` of them are new."""
        self.stored_events += events
        for stream, seq in marks.items():
            if self._unstored.get(stream, seq + 1) <= seq:
                del self._unstored[stream]
        session = self._session
        if marks and session is not None and session.instance is not None:
            said = [control.StreamSeq(stream, seq) for stream, seq in marks.items()]
            session.send(control.Stored(session.instance, said))

    def answer(self, edited: control.Edited) -> None:
        """How an edit ended. Whoever asked for it says it again while this is lost."""
        if self._session is not None:
            self._session.send(edited)

    def close(self) -> None:
        """End the subscription. Used again, it begins at what is held then: batches that are not held come again."""
        if self._session is not None:
            self._session.close()
            self._session = None
        self._intake = Intake()
        self._unstored.clear()

    def _begin(self) -> DurableSockets:
        if self._session is not None:
            self._session.close()
        self._session = DurableSockets(self._address)
        self._attach(self._session)
        return self._session

    def _attach(self, session: DurableSockets) -> None:
        session.send(control.Attach(control.PROTOCOL, self._name, self.query, self._keeps, self.fabric, self.edits))

    def _hear(self, timeout_s: float) -> DurableSockets:
        session = self._session or self._begin()
        session.wait(int(timeout_s * 1_000))
        self.more = True
        now_ns = time.monotonic_ns()
        for message in session.receive_control(now_ns):
            self._dispatch(session, message, now_ns)
        return session

    def _arrivals(self, session: DurableSockets) -> Iterator[DurableBatch]:
        """The batches of one turn, each judged when it is read."""
        for _ in range(limits.BATCHES_A_TURN):
            data = session.receive_data()
            if data is None:
                self.more = False
                return
            batch = self._judge(session, data)
            if batch is not None:
                yield batch

    def _beat(self, session: DurableSockets) -> None:
        now_ns = time.monotonic_ns()
        if session.beat_due(now_ns):
            session.beat(control.DurableBeat(now_ns, self.stored_events, self.quarantined_events), now_ns)
        if session.moved:
            self._begin()
        elif session.silent(now_ns):
            self._owner.silent(stuck=session.stall.too_long(now_ns))
            if why := session.why_silent:
                self._refuse(why)
            self._begin()

    def _dispatch(self, session: DurableSockets, message: control.Message, now_ns: int) -> None:
        match message:
            case control.Alive() if message.instance == session.instance:
                session.stall.was_sent(message.sent, now_ns)
            case control.Attached():
                self._listen(session, message)
            case control.Ask() if message.instance == session.instance:
                marks = [self._mark(info) for info in message.streams if self._owner.is_of_its_run(info)]
                session.send(control.Marks(message.instance, marks))
            case control.Living() if message.instance == session.instance:
                self._owner.living(message.streams)
            case control.Edit() if session.instance is not None:
                self._owner.edit(message)
            case control.Skipped():
                self.skipped = {mark.stream: mark.seq for mark in message.marks}
            case control.Who() | control.Ask():  # ATTACHED was lost, or the broker is another one now
                self._attach(session)
            case control.Refused():
                session.moved = session.control_url != control_url(self._address)
                if not session.moved:
                    self._refuse(message.reason)
                    session.rest(self._backoff.next_s(), now_ns)  # the next heartbeat is answered with WHO

    def _listen(self, session: DurableSockets, message: control.Attached) -> None:
        if self._required and message.required is False:
            self._refuse(
                f"the broker does not wait for {self._name!r}: name it with telefabric broker --required, or "
                "do not ask for it here"
            )
            return
        try:
            session.subscribe(message)
        except WireError as error:
            self._refuse(str(error))
            return
        self.refusal = ""
        self._backoff.reset()
        self._owner.attached(message.instance)

    def _refuse(self, reason: str) -> None:
        if reason != self.refusal:
            self.refusal = reason
            self._owner.refused(reason)

    def _mark(self, info: control.StreamInfo) -> control.StreamSeq:
        self.infos[info.stream] = info
        mark = self._held(info.stream)
        self._learn(info.stream, mark)
        return control.StreamSeq(info.stream, mark)

    def _learn(self, stream: bytes, mark: int) -> None:
        """Judge batches of a stream from now on, and forget the streams of long ago: their owner knows them."""
        self._intake.learn(stream, mark)
        for forgotten in self._intake.forget_oldest(limits.STREAMS_KNOWN_MAX, {stream, *self._unstored}):
            self.infos.pop(forgotten, None)
            self._owner.forgotten(forgotten)

    def _judge(self, session: DurableSockets, message: bytes) -> DurableBatch | None:
        """Nothing that comes in here can stop it; what is not given is counted."""
        try:
            header, start = parse_header(message)
        except WireError as error:
            log.warning("durable.bad_batch: %s", error)
            self.refused[error.reason] += 1
            return None  # the next one does not follow
        if header.session != session.instance:
            self.refused["stale"] += 1
            return None
        if not self._intake.knows(header.stream) and (mark := self._held(header.stream)):
            self._learn(header.stream, mark)
        body = memoryview(message)[start:]
        whole = is_whole(header, body)
        if not whole:
            log.warning("durable.bad_batch: the body of seqs %d to %d is damaged", header.first_seq, header.last_seq)
            self.refused["damaged"] += 1
            if not self._required:
                return None
        judgement = self._intake.judge(header) if whole else self._intake.judge_damaged(header, crc32(body))
        if judgement.verdict in (Verdict.NACK, Verdict.AHEAD) and not self._required:
            self._intake.reset(header.stream, header.first_seq - 1)
            judgement = self._intake.judge(header)
        batch = DurableBatch(header, message, body, judgement.skip, whole)
        if judgement.verdict is Verdict.ACCEPT:
            if self._required:
                self._unstored[header.stream] = header.last_seq
            return batch
        self.refused[judgement.verdict.value] += 1
        if judgement.verdict is Verdict.NACK:
            reason = control.MISSING if whole else control.DAMAGED
            session.send(control.Nack(header.session, header.stream, header.epoch, judgement.expected, reason))
        elif judgement.verdict is Verdict.CONFLICT:
            self._owner.conflict(batch)
        return None
