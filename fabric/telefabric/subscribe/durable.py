"""A durable subscription: every event of every stream, in order and once, from the last one that its owner holds.

The owner of a subscription stores what `poll` gives and then says so with `stored`. What it does not say is sent again
to one that the broker requires; one that is not required is told in `skipped` what it has to read from the store.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from zlib import crc32

import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import WireError
from telefabric.log.limit import library_logger
from telefabric.peer.connection import Connection
from telefabric.peer.sockets import receive_last
from telefabric.subscribe.core.intake import Intake, Verdict
from telefabric.subscribe.core.stalls import Arrivals
from telefabric.wire import control
from telefabric.wire.batch import Header, check_body, decode_body, is_whole, parse_header
from telefabric.wire.names import require_short
from telefabric_schemas import AnyEvent

log = library_logger("telefabric.subscribe")


class DurableBatch(NamedTuple):
    """Consecutive events of one stream, or a gap in it."""

    header: Header
    message: bytes
    """As it came."""
    skip: int
    """So many of its first events are held already."""

    def events(self) -> list[AnyEvent]:
        """All but those that are held. Raises `msgspec.DecodeError` when one has no schema here.

        And `WireError` when the body came damaged again and again: its sender has no other, and nobody can tell what of
        it is right. Its seqs have come all the same.
        """
        _, start = parse_header(self.message)
        check_body(self.header, self.message[start:])
        return [record.event for record in decode_body(self.message[start:], self.header.events)[self.skip :]]


class DurableSubscription:
    """Attaches on the first `poll`, and again after every silence of the broker. One thread.

    `held` says up to which seq its owner holds a stream, 0 for none. `name` is what the broker's setting ``required``
    may name; `keeps` says where it keeps what it takes, this process unless it is given: while one of a name is alive
    the broker refuses another that keeps elsewhere. One that is not `required` steps over what it missed; one that is,
    by a broker that does not wait for it, is refused. A refusal is in `refusal`, and logged.
    """

    def __init__(
        self, address: Address, *, name: str, held: Callable[[bytes], int], keeps: str = "", required: bool = False
    ) -> None:
        self.refusal = ""
        self.skipped: dict[bytes, int] = {}
        """Of one that is not required: up to which seq of a stream the store has what this one was not sent."""
        self.infos: dict[bytes, control.StreamInfo] = {}
        """Whose streams they are."""
        self._address = address
        keeps = keeps or f"process {os.getpid()} on {socket.gethostname()}"
        require_short("a durable subscription", (name, keeps))
        self._attach = control.Attach(control.PROTOCOL, name, None, keeps)
        self._held = held
        self._required = required
        self._intake = Intake()
        self._session: BrokerSession | None = None
        self._stored_events = 0

    @property
    def attached(self) -> bool:
        return self._session is not None and self._session.instance is not None

    def poll(self, timeout_s: float) -> list[DurableBatch]:
        """What came and follows, after at most `timeout_s` of waiting. A message is judged before it is given."""
        session = self._session or self._begin()
        session.wait(int(timeout_s * 1_000))
        for message in session.receive_control(time.monotonic_ns()):
            self._dispatch(session, message)
        found: list[DurableBatch] = []
        for _ in range(limits.BATCHES_A_TURN):
            data = session.receive_data()
            if data is None:
                break
            batch = self._judge(session, data)
            if batch is not None:
                found.append(batch)
        now_ns = time.monotonic_ns()
        session.tell_stored(now_ns, self._stored_events, 0)
        if session.silent(now_ns):
            self._begin()
        return found

    def stored(self, marks: Mapping[bytes, int], events: int = 0) -> None:
        """Its owner holds these streams up to these seqs now; `events` of them are new."""
        self._stored_events += events
        session = self._session
        if marks and session is not None and session.instance is not None:
            said = [control.StreamSeq(stream, seq) for stream, seq in marks.items()]
            session.send(control.Stored(session.instance, said))

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _begin(self) -> BrokerSession:
        self.close()
        self._session = BrokerSession(self._address)
        self._session.send(self._attach)
        return self._session

    def _dispatch(self, session: BrokerSession, message: control.Message) -> None:
        match message:
            case control.Attached():
                self._listen(session, message)
            case control.Ask() if message.instance == session.instance:
                session.send(control.Marks(message.instance, [self._mark(info) for info in message.streams]))
            case control.Skipped():
                self.skipped = {mark.stream: mark.seq for mark in message.marks}
            case control.Who() | control.Ask():
                session.send(self._attach)
            case control.Refused():
                self._refuse(message.reason)

    def _listen(self, session: BrokerSession, message: control.Attached) -> None:
        if self._required and message.required is False:
            self._refuse(
                f"the broker does not wait for {self._attach.name!r}: name it with telefabric broker --required, or "
                "do not ask for it here"
            )
            return
        try:
            session.subscribe(message)
            self.refusal = ""
        except WireError as error:
            self._refuse(str(error))

    def _refuse(self, reason: str) -> None:
        if reason != self.refusal:
            log.warning("durable.refused: %s", reason)
        self.refusal = reason

    def _mark(self, info: control.StreamInfo) -> control.StreamSeq:
        self.infos[info.stream] = info
        mark = self._held(info.stream)
        self._intake.reset(info.stream, mark)
        for forgotten in self._intake.forget_oldest(limits.STREAMS_KNOWN_MAX, {info.stream}):
            self.infos.pop(forgotten, None)
        return control.StreamSeq(info.stream, mark)

    def _judge(self, session: BrokerSession, message: bytes) -> DurableBatch | None:
        try:
            header, start = parse_header(message)
        except WireError as error:
            log.warning("durable.bad_batch: %s", error)
            return None  # the next one does not follow
        if header.session != session.instance:
            return None
        body = message[start:]
        whole = is_whole(header, body)
        if not whole:
            log.warning("durable.bad_batch: the body of seqs %d to %d is damaged", header.first_seq, header.last_seq)
            if not self._required:
                return None
        judgement = self._intake.judge(header) if whole else self._intake.judge_damaged(header, crc32(body))
        if judgement.verdict in (Verdict.NACK, Verdict.AHEAD) and not self._required:
            self._intake.reset(header.stream, header.first_seq - 1)
            judgement = self._intake.judge(header)
        if judgement.verdict is Verdict.NACK:
            reason = control.MISSING if whole else control.DAMAGED
            session.send(control.Nack(header.session, header.stream, header.epoch, judgement.expected, reason))
        return DurableBatch(header, message, judgement.skip) if judgement.verdict is Verdict.ACCEPT else None


class BrokerSession(Connection):
    """A durable subscriber's sockets towards one broker: control DEALER, and the SUB that its token opens."""

    def __init__(self, broker: Address) -> None:
        super().__init__(broker, b"d")
        self.instance: bytes | None = None
        self.arrivals = Arrivals()
        self._data: zmq.Socket[bytes] | None = None

    def subscribe(self, message: control.Attached) -> None:
        """Listen under a token, on a new socket: what an old one still holds is of the past.

        Raises `WireError` when it names no place to listen at.
        """
        url = self.address.resolve(message.endpoints.durable)
        if self._data is not None:
            self._drop(self._data)
        self.arrivals = Arrivals()
        self._data = self._open(zmq.SUB)
        self._data.set(zmq.RCVHWM, limits.DURABLE_HWM)
        self._data.set(zmq.RCVBUF, limits.SOCKET_BUFFER_BYTES)
        self._data.subscribe(message.token)
        self._data.connect(url)
        self.instance = message.instance

    def silent(self, now_ns: int) -> bool:
        """The broker does not speak, or what it sends does not arrive."""
        return self.arrivals.stuck(now_ns) or super().silent(now_ns)

    def receive_control(self, now_ns: int) -> list[control.Message]:
        messages = super().receive_control(now_ns)
        for message in messages:
            if isinstance(message, control.Alive) and message.instance == self.instance:
                self.arrivals.told(message.sent, now_ns)
        return messages

    def receive_data(self) -> bytes | None:
        if self._data is None or self._data not in self._readable:
            return None
        data = receive_last(self._data)
        if data is not None:
            self.arrivals.arrived()
        return data

    def tell_stored(self, now_ns: int, stored_events: int, quarantined_events: int) -> None:
        """With a heartbeat, when one is due."""
        if self.beat_due(now_ns):
            self.beat(control.DurableBeat(now_ns, stored_events, quarantined_events), now_ns)

    def _unreadable(self, error: WireError) -> None:
        log.warning("durable.bad_control: %s", error)

    def _corrected(self, sentence: str) -> None:
        log.warning("durable.mistake: %s cannot use what it was sent: %s", self.address.url, sentence)

    def _full(self) -> None:
        log.warning("durable.control_full")
