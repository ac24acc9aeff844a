"""The whole durable path in one process and on a fake clock: whatever is lost, delayed or restarted on the way, every
event is stored exactly once and in order, and all bounds hold.

Worker sessions, broker and intake are the real ones; sockets, spool and database are lists. One seed decides all.
"""

from collections import deque
from random import Random

import pytest

from telefabric import limits
from telefabric.session.broker import NS, BrokerCore
from telefabric.session.intake import Intake, Verdict
from telefabric.session.stream import Phase, SendGap, StreamSession
from telefabric.wire import batch, control

ENDPOINTS = control.Endpoints("*:1", "*:2")
TURN_NS = 20_000_000
TOTAL = 4 * limits.CREDIT_BASE_BYTES + limits.EVENT_BYTES_MAX


class Worker:
    """A session and its spool: the sizes of its events, by seq from 1."""

    def __init__(self, number, random):
        self.stream = bytes([number]) * 16
        self.peer = b"worker-%d" % number
        self.random = random
        self.session = StreamSession(control.StreamInfo(self.stream, "run", "worker", "agent", 0), random)
        self.sizes = []
        self.oldest = 1
        self.lost = set()
        self.inbox = deque()
        self.beat_due_ns = 0
        self.subscribed = True
        self.session.reconnected(0)

    def emit(self):
        for _ in range(self.random.randrange(40)):
            big = self.random.random() < 0.002
            self.sizes.append(self.random.randrange(limits.MIB) if big else self.random.randrange(20, 2_000))

    def drop_oldest(self):
        """A full spool: what is not acknowledged is lost, and becomes a gap."""
        until = min(self.oldest + self.random.randrange(200), len(self.sizes))
        self.lost.update(range(max(self.oldest, self.session.acked + 1), until + 1))
        self.oldest = until + 1

    def turn(self, world):
        now_ns, session = world.now_ns, self.session
        while self.inbox:
            message = self.inbox.popleft()
            match message:
                case control.Welcome():
                    session.welcome(message, now_ns)
                case control.Rewind():
                    session.rewind(message, now_ns)
                case control.Credit():
                    session.credited(message)
                case control.Ack():
                    session.acknowledged(message, now_ns)
                case control.Who():
                    session.who(message, now_ns)
        session.tick(now_ns)
        self.oldest = max(self.oldest, session.acked + 1)
        if session.hello_due(now_ns):
            world.to_broker(self.peer, session.hello(self.oldest, len(self.sizes)))
        while self.send(world):
            pass
        if now_ns >= self.beat_due_ns and session.phase is not Phase.GREETING:
            self.beat_due_ns = now_ns + (NS // 10 if session.next_bytes else NS)
            backlog = sum(self.sizes[session.acked :])
            beat = session.beat(oldest=self.oldest, head=len(self.sizes), backlog_bytes=backlog)
            world.to_broker(self.peer, control.Beat(now_ns, [beat]))

    def send(self, world):
        session = self.session
        oldest = max(self.oldest, min(session.cursor, len(self.sizes) + 1) if session.cursor >= self.oldest else 1)
        decision = session.next_send(
            oldest=oldest, head=len(self.sizes), unsent_bytes=sum(self.sizes[session.cursor - 1 :]),
            now_ns=world.now_ns, hurry=self.random.random() < 0.3,
        )  # fmt: skip
        if decision is None:
            return False
        if isinstance(decision, SendGap):
            (first, last), size, flags = decision, 80, batch.FLAG_GAP
        else:
            first, flags = decision.first_seq, 0
            last, size = first, self.sizes[first - 1]
            while last < len(self.sizes) and size + self.sizes[last] <= decision.bytes_max:
                size += self.sizes[last]
                last += 1
            if size + batch.HEADER_BYTES > decision.credit_bytes:
                session.too_large(size)
                return False
        message = batch.pack(
            bytes(size), session=session.instance, stream=self.stream, epoch=session.epoch, first_seq=first,
            last_seq=last, count=1 if flags else last - first + 1, time_ns=0, flags=flags,
        )  # fmt: skip
        session.sent(last, len(message), world.now_ns)
        assert session.in_flight_bytes <= session.credit, "sent beyond the credit"
        world.data.append(message)
        return True


class Store:
    """An intake and a database; what is not committed is lost when it stops."""

    def __init__(self):
        self.database = {}
        self.stored = []
        self.starts = 0
        self.start()

    def start(self):
        self.starts += 1
        self.peer = b"store-%d" % self.starts
        self.intake = Intake()
        self.pending = []
        self.inbox = deque()
        self.queue = deque()
        self.instance = None
        self.beat_due_ns = 0

    def watermark(self, stream):
        return self.database.get(stream, 0)

    def turn(self, world):
        while self.inbox:
            message = self.inbox.popleft()
            match message:
                case control.Attached():
                    self.instance = message.instance
                    self.queue.clear()
                case control.Ask() if message.instance != self.instance:
                    world.to_broker(self.peer, control.Attach(control.PROTOCOL, "store"))
                case control.Ask():
                    marks = [self.mark(info.stream) for info in message.streams]
                    world.to_broker(self.peer, control.Marks(message.instance, marks))
                case control.Who():
                    world.to_broker(self.peer, control.Attach(control.PROTOCOL, "store"))
        for _ in range(world.random.randrange(4)):
            if self.queue:
                self.take(world, self.queue.popleft())
        if world.random.random() < 0.5:
            self.commit(world)
        if world.now_ns >= self.beat_due_ns:
            self.beat_due_ns = world.now_ns + NS
            world.to_broker(self.peer, control.DurableBeat(world.now_ns))

    def mark(self, stream):
        if not self.intake.knows(stream):
            self.intake.reset(stream, self.watermark(stream))
        return control.StreamSeq(stream, self.watermark(stream))

    def take(self, world, message):
        header, _ = batch.parse_header(message)
        if header.session != self.instance:
            return
        judgement = self.intake.judge(header)
        assert judgement.verdict is not Verdict.CONFLICT
        if judgement.verdict is Verdict.ACCEPT:
            self.pending.append((header, judgement.skip))
        elif judgement.verdict is Verdict.NACK:
            nack = control.Nack(header.session, header.stream, header.epoch, judgement.expected, "missing")
            world.to_broker(self.peer, nack)

    def commit(self, world):
        marks = {}
        for header, skip in self.pending:
            assert header.first_seq + skip == self.watermark(header.stream) + 1, "in order, without a hole, once"
            kind = "gap" if header.is_gap else "events"
            self.stored.append((header.stream, kind, header.first_seq + skip, header.last_seq))
            self.database[header.stream] = marks[header.stream] = header.last_seq
        self.pending.clear()
        if marks and self.instance:
            seqs = [control.StreamSeq(stream, seq) for stream, seq in marks.items()]
            world.to_broker(self.peer, control.Stored(self.instance, seqs))


class World:
    """All parts, and the network between them."""

    def __init__(self, seed):
        self.random = Random(seed)
        self.now_ns = 0
        self.data = deque()
        self.calm = False
        self.store = Store()
        self.workers = [Worker(number, Random(seed * 10 + number)) for number in range(1, 4)]
        self.start_broker()

    def start_broker(self):
        self.core = BrokerCore(
            instance=self.random.randbytes(16), endpoints=ENDPOINTS, new_token=lambda: self.random.randbytes(16),
            streams_max=4, durable_bytes_max=TOTAL,
        )  # fmt: skip

    def to_broker(self, peer, message):
        if self.calm or self.random.random() > 0.02:
            self.core.receive(peer, control.decode(control.encode(message)), self.now_ns, self.now_ns)

    def turn(self):
        self.now_ns += TURN_NS
        if not self.calm:
            self.trouble()
        for worker in self.workers:
            worker.turn(self)
        while self.data and (self.calm or self.random.random() < 0.8):
            message = self.data.popleft()
            if self.calm or self.random.random() > 0.02:
                self.core.batch(message)
        self.core.tick(self.now_ns)
        self.forward()
        self.store.turn(self)
        for peer, message in self.core.take():
            for part in (*self.workers, self.store):
                if part.peer == peer and (self.calm or self.random.random() > 0.02):
                    part.inbox.append(message)
        for worker in self.workers:
            assert worker.session.acked <= self.store.watermark(worker.stream), "acknowledged before it was stored"
        assert self.core.lane.bytes <= TOTAL
        assert self.core.status(self.now_ns)["credit_lent_bytes"] <= TOTAL

    def forward(self):
        while (message := self.core.lane.peek("store")) is not None and len(self.store.queue) < 8:
            self.core.lane.sent("store")
            if self.calm or self.random.random() > 0.01:
                self.store.queue.append(message)

    def trouble(self):
        chance = self.random.random()
        worker = self.random.choice(self.workers)
        worker.emit()
        if chance < 0.003:
            self.start_broker()
            self.data.clear()
        elif chance < 0.006:
            self.store.start()
        elif chance < 0.010:
            worker.session.reconnected(self.now_ns)
        elif chance < 0.03:
            worker.drop_oldest()

    def settled(self):
        return all(worker.session.acked >= len(worker.sizes) for worker in self.workers)


@pytest.mark.parametrize("seed", range(24))
def test_every_event_is_stored_exactly_once_and_in_order_through_losses_and_restarts(seed):
    world = World(seed)
    for _ in range(1_500):
        world.turn()
    world.calm = True
    for _ in range(6_000):
        if world.settled():
            break
        world.turn()
    assert world.settled(), [(w.session.phase, w.session.acked, len(w.sizes)) for w in world.workers]
    for worker in world.workers:
        covered, gaps = [], set()
        for stream, kind, first, last in world.store.stored:
            if stream == worker.stream:
                covered.extend(range(first, last + 1))
                if kind == "gap":
                    gaps.update(range(first, last + 1))
        assert covered == list(range(1, len(worker.sizes) + 1))
        assert gaps <= worker.lost, "nothing is called lost that the spool held"
