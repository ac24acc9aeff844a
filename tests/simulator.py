"""The whole durable path in one process, on a fake clock, from one seed.

`StreamSession`, `BrokerCore` (with its lane and credit) and `Intake` are the real ones. Modelled are what they talk
through: connections, the spool's files, the store's database. A `Plan` decides all of a run: the same plan gives the
same run, and a run that breaks a rule raises `Violation` with the plan and the last things that happened.

Faults are as harsh as ZeroMQ's: within a connection messages are late and in order; a broken connection loses what was
under way or delivers it late, after what its successor carried, and perhaps twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from random import Random
from typing import Any

from telefabric import limits
from telefabric.broker.core.durable import BrokerCore
from telefabric.limits import NS
from telefabric.peer.core.principal import LOCAL_USERS, Peer, Principal, Role
from telefabric.spool.spool import Dropped, why_lost
from telefabric.subscribe.core.intake import Intake, Verdict
from telefabric.uplink.core.stream import Phase, SendGap, StreamSession
from telefabric.wire import batch, control

STORES_USER = Principal("the user of broker and store", Role.BROKERS_USER)
ENDPOINTS = control.Endpoints("*:1", "*:2")
STREAMS_MAX = 4
TAIL_BYTES_MAX = 10_000
TOTAL_BYTES = STREAMS_MAX * limits.CREDIT_BASE_BYTES + limits.EVENT_BYTES_MAX
SILENT_NS = int(limits.MISSED_HEARTBEATS_MAX * limits.HEARTBEAT_S * NS)
QUIET_NS = 400 * NS
"""So long after the last fault everything has to be acknowledged: several absences of a stream, one after another."""
QUIET_TURN_NS = NS // 10
PIPE_MESSAGES = 8
TRACE_LINES = 60

FAULTS = (
    "loss", "late", "reconnect", "half_open", "restart_broker", "restart_store", "fail_commit", "restore",
    "kill_worker", "power_loss", "drop_oldest", "pause", "suspend", "wall_jump", "large_events",
)  # fmt: skip
_CHANCE = {
    "reconnect": 0.02, "half_open": 0.006, "restart_broker": 0.008, "restart_store": 0.008, "fail_commit": 0.008,
    "restore": 0.004, "kill_worker": 0.005, "power_loss": 0.004, "drop_oldest": 0.02, "pause": 0.008, "suspend": 0.002,
    "wall_jump": 0.02,
}  # fmt: skip
"""Of each fault in a turn."""
_KILLS_MAX = 4


@dataclass(frozen=True)
class Plan:
    """All that decides a run. `second` is another durable subscriber: "" for none, "required" or "optional"."""

    seed: int
    turns: int = 250
    turn_ms: int = 50
    workers: int = 2
    second: str = ""
    faults: tuple[str, ...] = FAULTS

    @classmethod
    def of(cls, seed: int) -> Plan:
        """A plan drawn from its seed: some of the faults, so that each is seen without the others' noise too."""
        random = Random(seed)
        return cls(
            seed,
            turns=random.choice((60, 150, 300)),
            turn_ms=random.choice((20, 50, 200)),
            workers=random.randint(1, 3),
            second=random.choice(("", "required", "optional")),
            faults=tuple(random.sample(FAULTS, random.randint(1, len(FAULTS)))),
        )


class Violation(AssertionError):
    """A rule was broken; the text names the plan, the rule and what led to it."""


class Database:
    """A store's file: rows and watermarks change together, at a commit."""

    def __init__(self) -> None:
        self.rows: dict[bytes, list[tuple[int, int, str]]] = {}
        """Of each stream: first and last seq, and the reason when the row is a gap."""
        self.marks: dict[bytes, int] = {}
        self.transaction: list[tuple[bytes, int, int, str]] = []
        """What is being written, and forgotten if the store stops before its commit."""

    def add(self, stream: bytes, first: int, last: int, reason: str) -> None:
        self.transaction.append((stream, first, last, reason))

    def commit(self) -> dict[bytes, int]:
        """The new watermark of each stream that moved."""
        moved = {}
        for stream, first, last, reason in self.transaction:
            self.rows.setdefault(stream, []).append((first, last, reason))
            self.marks[stream] = moved[stream] = last
        self.transaction.clear()
        return moved

    def roll_back(self) -> None:
        self.transaction.clear()


class Spool:
    """A stream's files: its events' sizes, in segments; the acknowledged position; what a loss of power leaves."""

    def __init__(self, segment_events: int) -> None:
        self.sums = [0]
        """Bytes of all events up to each seq."""
        self.acked = 0
        self.dropped: list[Dropped] = []
        self.outlived: list[Dropped] = []
        """Ranges that were acknowledged when they were removed."""
        self.head = 0
        self.closed: deque[tuple[int, int]] = deque()
        """First and last seq of each whole segment that is held."""
        self.active = 1
        """Where the segment that is written begins."""
        self.synced = 0
        self.removed = 0
        """Newest seq of the acknowledged segments that were removed."""
        self._segment_events = segment_events

    def append(self, size: int) -> None:
        if self.head - self.active + 1 >= self._segment_events:
            self.closed.append((self.active, self.head))
            self.active = self.head + 1
        self.head += 1
        self.sums.append(self.sums[-1] + size)

    def bytes(self, first: int, last: int) -> int:
        return self.sums[last] - self.sums[first - 1] if last >= first else 0

    def first_held(self, seq: int) -> int:
        """The smallest seq from `seq` on that is held; head + 1 when none is."""
        for first, last in (*self.closed, (self.active, self.head)):
            if last >= seq:
                return max(first, seq)
        return self.head + 1

    def cut(self, first: int, bytes_max: int) -> int:
        """The last seq of a chunk from `first` on."""
        end = next((last for start, last in self.closed if start <= first <= last), self.head)
        last = first
        while last < end and self.bytes(first, last + 1) <= bytes_max:
            last += 1
        return last

    def acknowledge(self, seq: int) -> None:
        if seq <= self.acked:
            return
        self.acked = seq
        if self.closed and self.closed[0][1] <= seq:
            self.sync_position()
            while self.closed and self.closed[0][1] <= seq:
                first, self.removed = self.closed.popleft()
                self.outlived.append(Dropped(first, self.removed, ""))

    def sync_position(self) -> None:
        self.synced = self.acked

    def drop_oldest(self) -> None:
        if self.closed:
            first, last = self.closed.popleft()
            if last > self.acked:
                self.dropped.append(Dropped(max(first, self.acked + 1), last, "spool_full"))
            self.outlived.append(Dropped(first, min(last, self.acked), ""))

    def lost(self, first: int, last: int) -> Dropped:
        return why_lost(self.dropped, first, last)

    def lose_power(self) -> None:
        """What was not synced is gone: the newest segment and an acknowledged position that was only in memory."""
        self.head = max(self.synced, self.closed[-1][1] if self.closed else 0)
        self.acked = self.synced
        self.active = self.head + 1
        del self.sums[self.head + 1 :]

    @property
    def complete(self) -> bool:
        return self.acked >= self.head


class Wire:
    """One direction between two parts, over one connection after another."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._queue: list[tuple[int, int, Any]] = []
        self._newest_ns = 0
        self._swallow_until_ns = 0

    def __len__(self) -> int:
        return len(self._queue)

    def send(self, message: Any) -> None:
        world = self._world
        if world.now_ns < self._swallow_until_ns or world.loses():
            return
        self._newest_ns = max(self._newest_ns, world.now_ns + world.latency_ns())
        heappush(self._queue, (self._newest_ns, world.next_number(), message))

    def take(self) -> Iterator[Any]:
        while self._queue and self._queue[0][0] <= self._world.now_ns:
            yield heappop(self._queue)[2]

    def reconnect(self, *, twice: bool = False, overtakes: bool = True) -> None:
        """Of what was under way a part arrives, late and beside what the new connection carries; the rest is lost.

        A DEALER keeps one queue over all connections of an endpoint, so a store hears what it is told in order. A
        worker has to bear more than that: messages of a dead instance after those of a living one.
        """
        random = self._world.random
        start, end = sorted((random.randint(0, len(self._queue)), random.randint(0, len(self._queue))))
        delay_ns = random.randrange(random.choice((NS, 6 * NS)))
        kept = [(due + delay_ns, number, message) for due, number, message in sorted(self._queue)[start:end]]
        if twice and kept and random.random() < 0.2:
            kept += [(due + delay_ns, self._world.next_number(), message) for due, _, message in kept]
        self._queue = kept
        heapify(self._queue)
        self._newest_ns = 0 if overtakes else max((due for due, *_ in kept), default=0)

    def half_open(self, until_ns: int) -> None:
        """Takes what it is given, and nothing arrives."""
        self._swallow_until_ns = until_ns


class Worker:
    """A stream, its spool and its link; what `telefabric.uplink` does with a session."""

    def __init__(self, world: World, number: int, spool: Spool, *, adopted: bool = False) -> None:
        self.world = world
        self.number = number
        self.stream = number.to_bytes(16, "big")
        self.name = f"worker {number}"
        self.spool = spool
        self.adopted = adopted
        self.finished = False
        self.session = StreamSession(control.StreamInfo(self.stream, "run", "worker", "agent", 0), world.random)
        self.paused_until_ns = 0
        self.connect()

    def connect(self) -> None:
        """New sockets, under a name that the broker has not seen."""
        self.peer = Peer(f"{self.name} {self.world.next_number()}".encode(), LOCAL_USERS)
        self.up, self.down, self.data = Wire(self.world), Wire(self.world), Wire(self.world)
        self.heard_ns = self.world.now_ns
        self.connected_ns = self.world.now_ns + self.world.random.randrange(NS)
        self.subscribed_ns = self.connected_ns
        self.beat_due_ns = 0
        self.session.reconnected(self.world.now_ns)

    def emit(self) -> None:
        random = self.world.random
        for _ in range(random.randrange(40)):
            large = "large_events" in self.world.plan.faults and random.random() < 0.003
            self.spool.append(int(random.random() * (limits.MIB if large else 2_000)) + 20)

    def turn(self) -> None:
        world, session, now_ns = self.world, self.session, self.world.now_ns
        if self.finished or now_ns < self.paused_until_ns or now_ns < self.connected_ns:
            return
        for message in self.down.take():
            self.heard_ns = now_ns
            self.hear(message)
        if now_ns - self.heard_ns > SILENT_NS:
            self.connect()
            return
        session.tick(now_ns)
        self.spool.acknowledge(session.acked)
        if self.adopted and self.spool.complete:
            self.finished = True
            world.log(self.name, "is drained")
            self.up.send(control.Bye(self.stream, True))
            return
        if session.hello_due(now_ns):
            world.log(self.name, "HELLO")
            self.up.send(session.hello(self.spool.first_held(self.spool.acked + 1), self.spool.head))
        if now_ns >= self.subscribed_ns:
            while self.send():
                pass
        self.beat()

    def hear(self, message: control.Message) -> None:
        session, now_ns = self.session, self.world.now_ns
        self.world.log(self.name, "hears", message)
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
                session.who(now_ns)
            case control.Alive():
                session.alive(message, now_ns)

    def beat(self) -> None:
        session, now_ns = self.session, self.world.now_ns
        if now_ns < self.beat_due_ns or session.phase is Phase.GREETING:
            return
        backlog = session.in_flight_bytes + self.spool.bytes(session.cursor, self.spool.head)
        urgent = session.next_bytes or (session.phase is Phase.STREAMING and backlog > session.credit)
        self.beat_due_ns = now_ns + (NS // 20 if urgent else NS)
        oldest = self.spool.first_held(session.acked + 1)
        self.up.send(control.Beat(now_ns, [session.beat(oldest=oldest, head=self.spool.head, backlog_bytes=backlog)]))

    def send(self) -> bool:
        """Carry out one decision of the session; False when there is none."""
        world, session, spool = self.world, self.session, self.spool
        decision = session.next_send(
            oldest=spool.first_held(session.cursor), head=spool.head,
            unsent_bytes=spool.bytes(session.cursor, spool.head), now_ns=world.now_ns, hurry=self.adopted,
        )  # fmt: skip
        if decision is None or len(self.data) >= limits.DATA_HWM:
            return False
        if isinstance(decision, SendGap):
            first, last, reason = spool.lost(decision.first_seq, decision.last_seq)
            body, events, flags = reason.encode(), 1, batch.FLAG_GAP
            world.require(spool.first_held(first) > last, "a gap over what the spool holds", self.name)
        else:
            first, last = decision.first_seq, spool.cut(decision.first_seq, decision.bytes_max)
            size, events, flags = spool.bytes(first, last), last - first + 1, 0
            if size + batch.HEADER_BYTES > decision.credit_bytes:
                session.too_large(size)
                return False
            body = bytes(size)
        assert session.instance is not None
        message = batch.pack(batch.Header(
            session=session.instance, stream=self.stream, epoch=session.epoch, first_seq=first, last_seq=last,
            events=events, time_ns=0, flags=flags, counter=0,
        ), body)  # fmt: skip
        session.sent(last, len(message), world.now_ns)
        world.log(self.name, "sends", first, last, "gap" if flags else "")
        world.require(session.in_flight_bytes <= session.credit, "sent beyond the credit", self.name)
        told = world.grants.get((session.instance, self.stream, session.epoch), ())
        world.require(session.credit in told, "credit that this broker did not give in this epoch", self.name)
        self.data.send(message)
        return True


class Store:
    """A durable subscriber: an intake and a database; what `telefabric.store.service` does with them."""

    def __init__(self, world: World, name: str, *, required: bool) -> None:
        self.world = world
        self.name = name
        self.required = required
        self.database = Database()
        self.backup = Database()
        self.ever: dict[bytes, int] = {}
        """The highest watermark that was ever committed, in this database or one that a backup replaced."""
        self.paused_until_ns = 0
        self.start()

    def start(self) -> None:
        """A process begins: what was not committed is gone."""
        self.database.roll_back()
        self.intake = Intake()
        self.opens_ns = self.world.now_ns + self.world.random.randrange(2 * NS)
        self.commit_due_ns = self.ends_ns = 0
        self.fails = False
        self.connect()

    def connect(self) -> None:
        self.peer = Peer(f"{self.name} {self.world.next_number()}".encode(), STORES_USER)
        self.up, self.down, self.data = Wire(self.world), Wire(self.world), Wire(self.world)
        self.instance: bytes | None = None
        self.token: bytes | None = None
        self.subscribed_ns = 0
        self.heard_ns = max(self.world.now_ns, self.opens_ns)
        self.beat_due_ns = 0
        self.greeted = False

    def turn(self) -> None:
        now_ns = self.world.now_ns
        if now_ns < max(self.opens_ns, self.paused_until_ns):
            return
        if now_ns - self.heard_ns > SILENT_NS:
            self.connect()
        if not self.greeted:
            self.greeted = True
            self.attach()
        for message in self.down.take():
            self.heard_ns = now_ns
            self.hear(message)
        for message in self.data.take():
            self.take(message)
        self.work_on_commit()
        if now_ns >= self.beat_due_ns:
            self.beat_due_ns = now_ns + NS
            self.up.send(control.DurableBeat(now_ns))

    def attach(self) -> None:
        self.up.send(control.Attach(control.PROTOCOL, self.name, None, self.name))

    def hear(self, message: control.Message) -> None:
        self.world.log(self.name, "hears", message)
        match message:
            case control.Attached():
                self.instance, self.token = message.instance, message.token
                self.data = Wire(self.world)
                self.subscribed_ns = self.world.now_ns + self.world.latency_ns()
            case control.Ask() if message.instance == self.instance:
                marks = [self.mark(info.stream) for info in message.streams]
                self.up.send(control.Marks(message.instance, marks))
            case control.Ask() | control.Who():
                self.attach()

    def mark(self, stream: bytes) -> control.StreamSeq:
        seq = self.database.marks.get(stream, 0)
        if not self.intake.knows(stream):
            self.intake.reset(stream, seq)
        return control.StreamSeq(stream, seq)

    def take(self, message: bytes) -> None:
        header, start = batch.parse_header(message)
        if header.session != self.instance:
            return
        judgement = self.intake.judge(header)
        self.world.require(judgement.verdict is not Verdict.CONFLICT, "a conflict of one stream with itself", self.name)
        self.world.log(self.name, judgement.verdict.value, header.stream[-1], header.first_seq, header.last_seq)
        if judgement.verdict is Verdict.ACCEPT:
            reason = bytes(message[start:]).decode() if header.is_gap else ""
            self.accept(header.stream, header.first_seq + judgement.skip, header.last_seq, reason)
        elif judgement.verdict is Verdict.NACK:
            self.up.send(control.Nack(header.session, header.stream, header.epoch, judgement.expected, "missing"))

    def accept(self, stream: bytes, first: int, last: int, reason: str) -> None:
        if not self.database.transaction:
            self.commit_due_ns = self.world.now_ns + self.world.random.randrange(NS // 5)
        self.database.add(stream, first, last, reason)

    def work_on_commit(self) -> None:
        if not self.database.transaction or self.world.now_ns < self.commit_due_ns:
            return
        if self.fails:
            self.fail()
            return
        self.acknowledge(self.commit())

    def commit(self) -> dict[bytes, int]:
        moved = self.database.commit()
        self.world.log(self.name, "commits", {stream[-1]: seq for stream, seq in moved.items()})
        for stream, seq in moved.items():
            self.ever[stream] = max(self.ever.get(stream, 0), seq)
        return moved

    def acknowledge(self, moved: dict[bytes, int]) -> None:
        if self.instance is not None:
            self.up.send(control.Stored(self.instance, [control.StreamSeq(*item) for item in moved.items()]))

    def fail(self) -> None:
        """The transaction could not be written: forget it and begin again from the database, as if started anew."""
        self.world.log(self.name, "cannot commit")
        self.start()

    def restore(self) -> None:
        """The database is replaced by an old copy of it, while the store is stopped."""
        self.database = deepcopy(self.backup)
        self.start()


class BrokerFeed(Store):
    """A durable subscriber that nobody waits for: what it is not sent it reads from the store."""

    def start(self) -> None:
        self.wanted: dict[bytes, int] = {}
        """Of each stream that it is behind in, the seq up to which it has to read."""
        super().start()

    def turn(self) -> None:
        super().turn()
        if self.world.now_ns >= max(self.opens_ns, self.paused_until_ns):
            self.read_on()

    def hear(self, message: control.Message) -> None:
        super().hear(message)
        match message:
            case control.Attached():
                for stream, seq in self.world.store.database.marks.items():
                    self.want(stream, seq)
            case control.Skipped() if message.instance == self.instance:
                for mark in message.marks:
                    self.want(mark.stream, mark.seq)

    def mark(self, stream: bytes) -> control.StreamSeq:
        return control.StreamSeq(stream, self.database.marks.get(stream, 0))

    def want(self, stream: bytes, seq: int) -> None:
        self.wanted[stream] = max(seq, self.wanted.get(stream, 0))

    def have(self, stream: bytes) -> int:
        written = [last for one, _, last, _ in self.database.transaction if one == stream]
        return written[-1] if written else self.database.marks.get(stream, 0)

    def take(self, message: bytes) -> None:
        header, start = batch.parse_header(message)
        stream, have = header.stream, self.have(header.stream)
        if header.session != self.instance or header.last_seq <= have:
            return
        if stream in self.wanted or header.first_seq > have + 1:
            self.want(stream, header.last_seq)
        else:
            self.accept(stream, have + 1, header.last_seq, bytes(message[start:]).decode() if header.is_gap else "")

    def read_on(self) -> None:
        rows = self.world.store.database.rows
        for stream, seq in list(self.wanted.items()):
            for first, last, reason in rows.get(stream, []):
                have = self.have(stream)
                if last > have:
                    self.accept(stream, max(first, have + 1), last, reason)
            if self.have(stream) >= seq:
                del self.wanted[stream]


class World:
    """All parts, the connections between them, and what goes wrong."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = Random(plan.seed)
        self.now_ns = NS
        self.wall_offset_ns = 0
        self.calm = False
        self.kills = 0
        self.trace: deque[tuple[Any, ...]] = deque(maxlen=TRACE_LINES)
        self.grants: dict[tuple[bytes, bytes, int], set[int]] = {}
        """All credit that was told, by instance, stream and epoch."""
        self.epochs: dict[bytes, int] = {}
        """The newest epoch of each stream at this broker."""
        self._numbers = count(1)
        self._streams = count(1)
        self.store = Store(self, "store", required=True)
        self.stores = [self.store]
        if plan.second:
            required = plan.second == "required"
            self.stores.insert(0, (Store if required else BrokerFeed)(self, "second", required=required))
            self.stores[0].opens_ns = 0  # before the store
        self.workers = [self.new_worker() for _ in range(plan.workers)]
        self.start_broker()

    # -- what happens --------------------------------------------------------------------------------------------

    def new_worker(self) -> Worker:
        return Worker(self, next(self._streams), Spool(self.random.randrange(5, 60)))

    def start_broker(self) -> None:
        """A broker that remembers nothing; all connections to it are new, and its peers may not have noticed."""
        self.broker_paused_until_ns = 0
        self.epochs.clear()
        self.core = BrokerCore(
            instance=self.random.randbytes(16), endpoints=ENDPOINTS, new_token=lambda: self.random.randbytes(16),
            required=[store.name for store in self.stores if store.required], streams_max=STREAMS_MAX,
            durable_bytes_max=TOTAL_BYTES, tail_bytes_max=TAIL_BYTES_MAX,
        )  # fmt: skip
        for part in (*self.workers, *self.stores):
            self.reconnect(part)

    def reconnect(self, part: Worker | Store) -> None:
        part.up.reconnect()
        part.down.reconnect(overtakes=isinstance(part, Worker))
        part.data.reconnect(twice=True)
        if self.random.random() < 0.7:  # else it is back before the part looks
            part.subscribed_ns = self.now_ns + self.random.randrange(NS)
            if isinstance(part, Worker):
                part.beat_due_ns = 0

    def turn(self) -> None:
        self.now_ns += QUIET_TURN_NS if self.calm else self.plan.turn_ms * 1_000_000
        for worker in self.workers:
            worker.turn()
        if self.now_ns >= self.broker_paused_until_ns:
            self.turn_broker()
        for store in self.stores:
            store.turn()
        self.check()

    def turn_broker(self) -> None:
        core = self.core
        for part in (*self.workers, *self.stores):
            for message in part.up.take():
                core.receive(part.peer, message, self.now_ns, self.now_ns + self.wall_offset_ns)
        for worker in self.workers:
            for message in worker.data.take():
                refused = core.dropped.total()
                core.batch(message)
                if core.dropped.total() == refused:
                    self.check_accepted(message)
        core.tick(self.now_ns)
        self.forward()
        peers = {part.peer: part for part in (*self.workers, *self.stores)}
        for peer, message in core.take():
            self.check_told(message)
            if peer in peers:
                peers[peer].down.send(message)

    def forward(self) -> None:
        """To each durable subscriber under its own token, as much as its pipe takes."""
        tokens = self.core.tokens()
        for store in self.stores:
            if store.token is None or store.token != tokens.get(store.name) or self.now_ns < store.subscribed_ns:
                continue
            self.core.subscribed(store.token)
            lane = self.core.lane
            while len(store.data) < PIPE_MESSAGES and (message := lane.peek(store.name)) is not None:
                store.data.send(message)
                lane.sent(store.name)

    # -- what goes wrong -----------------------------------------------------------------------------------------

    def loses(self) -> bool:
        return not self.calm and "loss" in self.plan.faults and self.random.random() < 0.02

    def latency_ns(self) -> int:
        late = not self.calm and "late" in self.plan.faults and self.random.random() < 0.05
        return self.random.randrange(2 * NS if late else NS // 50)

    def trouble(self) -> None:
        self.emitting().emit()
        for fault in self.plan.faults:
            if fault in _CHANCE and self.random.random() < _CHANCE[fault]:
                self.log("fault", fault)
                getattr(self, f"_{fault}")()

    def emitting(self) -> Worker:
        return self.random.choice([worker for worker in self.workers if not worker.adopted])

    def _reconnect(self) -> None:
        self.reconnect(self.random.choice((*self.workers, *self.stores)))

    def _half_open(self) -> None:
        part = self.random.choice((*self.workers, *self.stores))
        part.data.half_open(self.now_ns + self.random.randrange(20 * NS))

    def _restart_broker(self) -> None:
        self.start_broker()

    def _restart_store(self) -> None:
        self.random.choice(self.stores).start()

    def _fail_commit(self) -> None:
        self.random.choice(self.stores).fails = True

    def _restore(self) -> None:
        store = self.random.choice(self.stores)
        if self.random.random() < 0.5:
            store.backup = deepcopy(store.database)
            store.backup.roll_back()
        else:
            store.restore()

    def _kill_worker(self) -> None:
        """Another adopts its spool; a new worker begins a stream of its own."""
        if self.kills < _KILLS_MAX:
            self.replace(self.emitting())

    def _power_loss(self) -> None:
        """The machine of a worker: the spool is adopted when it is back."""
        if self.kills < _KILLS_MAX:
            victim = self.emitting()
            victim.spool.lose_power()
            self.require(victim.spool.head >= victim.spool.removed, "removed, and nobody remembers", victim.name)
            self.replace(victim)

    def replace(self, victim: Worker) -> None:
        self.kills += 1
        self.workers.remove(victim)
        self.workers.append(Worker(self, victim.number, victim.spool, adopted=True))
        self.workers.append(self.new_worker())

    def _drop_oldest(self) -> None:
        self.random.choice(self.workers).spool.drop_oldest()

    def _pause(self) -> None:
        until_ns = self.now_ns + self.random.randrange(40 * NS)
        part = self.random.choice((*self.workers, *self.stores, None))
        if part is None:
            self.broker_paused_until_ns = until_ns
        else:
            part.paused_until_ns = until_ns

    def _suspend(self) -> None:
        self.now_ns += self.random.randrange(3_600 * NS)

    def _wall_jump(self) -> None:
        self.wall_offset_ns = self.random.randrange(-(10**18), 10**18)

    # -- rules ---------------------------------------------------------------------------------------------------

    def committed(self, stream: bytes) -> int:
        """As far as each required store has ever committed."""
        return min(store.ever.get(stream, 0) for store in self.stores if store.required)

    def check_told(self, message: control.Message) -> None:
        """What the broker says, at the moment that it says it."""
        match message:
            case control.Ack():
                self.require(message.seq <= self.committed(message.stream), "acknowledged before it was committed")
            case control.Welcome() if message.expected is not None:
                self.require(
                    message.expected - 1 <= self.committed(message.stream), "welcomed beyond what is committed"
                )
                self.begin_epoch(message)
            case control.Rewind():
                self.begin_epoch(message)
            case control.Credit():
                self.grants[message.instance, message.stream, message.epoch].add(message.credit_bytes)

    def begin_epoch(self, message: control.Welcome | control.Rewind) -> None:
        key = (message.instance, message.stream, message.epoch)
        self.require(key not in self.grants, "an epoch for the second time")
        self.grants[key] = {message.credit_bytes}
        self.epochs[message.stream] = message.epoch

    def check_accepted(self, message: bytes) -> None:
        """What the broker put into its lane."""
        header, _ = batch.parse_header(message)
        self.require(header.session == self.core.instance, "a batch that was sent to another instance")
        self.require(header.epoch == self.epochs[header.stream], "a batch of an ended epoch")

    def check(self) -> None:
        """What holds after each turn."""
        for worker in self.workers:
            self.require(worker.session.acked <= self.committed(worker.stream), "deletes before commit", worker.name)
        status = self.core.status(self.now_ns)
        self.require(status["credit_lent_bytes"] <= TOTAL_BYTES, "more credit lent than there is")
        open_epochs = {
            (self.core.instance, self.epochs[bytes.fromhex(stream["stream_id"])])
            for stream in status["streams"]
            if stream["credit_bytes"]
        }
        sessions = [worker.session for worker in self.workers]
        believed = [one.credit for one in sessions if (one.instance, one.epoch) in open_epochs]
        self.require(sum(believed) <= TOTAL_BYTES, "workers may send more than there is credit")
        self.require(status["lane_bytes"] <= TOTAL_BYTES, "the lane is over its limit")
        in_flight = sum(stream["in_flight_bytes"] for stream in status["streams"])
        self.require(in_flight <= status["credit_lent_bytes"], "more in flight than was lent")
        self.require(self.core.lane.tail_bytes <= TAIL_BYTES_MAX, "the lane keeps more than it may for whoever is slow")
        states = {bytes.fromhex(stream["stream_id"]): stream["state"] for stream in status["streams"]}
        idle = sum(self.core._credit.reserved(stream) for stream, state in states.items() if state == "waiting")
        self.require(idle == 0, "credit lent to streams that wait")

    def settled(self) -> bool:
        """Each event is acknowledged and in every required store, and followers have what the store has."""
        return all(
            worker.finished or (worker.session.acked >= worker.spool.head and self.stored(worker) >= worker.spool.head)
            for worker in self.workers
        ) and all(
            store.database.marks.get(stream, 0) >= seq
            for store in self.stores
            for stream, seq in (self.store.database.marks.items() if not store.required else ())
        )

    def stored(self, worker: Worker) -> int:
        return min(store.database.marks.get(worker.stream, 0) for store in self.stores if store.required)

    def check_end(self) -> None:
        """Every event is in each store once and in order, or covered by a gap that has a cause."""
        for store in self.stores:
            for worker in self.workers:
                self.check_stored(store, worker)

    def check_stored(self, store: Store, worker: Worker) -> None:
        following = 1
        for first, last, reason in store.database.rows.get(worker.stream, []):
            self.require(first == following <= last, f"row {first} to {last} where {following} follows", store.name)
            following = last + 1
            if reason:
                self.check_gap(store, worker, range(first, last + 1), reason)
        complete = following > worker.spool.head or worker.finished  # a drained spool cannot be asked again
        self.require(complete, f"{worker.name} ends at {following - 1} of {worker.spool.head}", store.name)

    def check_gap(self, store: Store, worker: Worker, seqs: range, reason: str) -> None:
        dropped = _seqs(worker.spool.dropped)
        explained = dropped | _seqs(worker.spool.outlived)  # committed once, in a database that a backup replaced
        unexplained = [seq for seq in seqs if seq not in explained]
        self.require(not unexplained, f"a gap over {unexplained[:5]}, which the spool holds", store.name)
        if not store.required:  # it may have read only a part of the gap
            return
        reasons = {"spool_full" if seq in dropped else "no_longer_held" for seq in seqs}
        self.require(reasons == {reason}, f"reason {reason} for {reasons}", store.name)

    # -- running -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises `Violation` for whatever breaks a rule, an error inside the rules included."""
        try:
            for _ in range(self.plan.turns):
                self.trouble()
                self.turn()
            self.be_calm()
            deadline_ns = self.now_ns + QUIET_NS
            while not self.settled():
                self.require(self.now_ns < deadline_ns, "not everything is acknowledged long after the last fault")
                self.turn()
            self.check_end()
        except Violation:
            raise
        except Exception as error:  # the simulator's boundary: an error of the rules is a finding, with its seed
            raise Violation(self.report(f"{type(error).__name__}: {error}")) from error

    def be_calm(self) -> None:
        self.calm = True
        self.log("no more faults")

    def next_number(self) -> int:
        return next(self._numbers)

    def log(self, *what: Any) -> None:
        self.trace.append((self.now_ns, *what))

    def require(self, holds: bool, rule: str, who: str = "broker") -> None:
        if not holds:
            raise Violation(self.report(f"{who}: {rule}"))

    def report(self, rule: str) -> str:
        lines = [f"{now_ns / NS:10.3f}  " + " ".join(_text(part) for part in what) for now_ns, *what in self.trace]
        states = [
            f"{worker.name}: {worker.session.phase.value}, cursor {worker.session.cursor}, acknowledged "
            f"{worker.session.acked} of {worker.spool.head}, stored {self.stored(worker)}"
            for worker in self.workers
        ]
        return "\n".join([rule, f"seed {self.plan.seed}: {self.plan}", *lines, *states])


def _seqs(ranges: list[Dropped]) -> set[int]:
    return {seq for first, last, _ in ranges for seq in range(first, last + 1)}


def _text(part: Any) -> str:
    """Short enough to read: a message without its ids and endpoints."""
    if not isinstance(part, control.Message):
        return str(part)
    shown = {
        name: getattr(part, name)
        for name in ("epoch", "expected", "seq", "credit_bytes", "reason", "wait_reason")
        if getattr(part, name, None) is not None
    }
    return f"{type(part).__name__} " + " ".join(f"{name}={value}" for name, value in shown.items())


def simulate(plan: Plan) -> World:
    """Run one plan to its quiet end. Raises `Violation`."""
    world = World(plan)
    world.run()
    return world
