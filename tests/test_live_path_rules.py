"""The whole live path in one process and on a fake clock: whatever is lost, refused, frozen or restarted on the way,
the client's ledger is exact at any moment, and live and stored events make each stream whole, each event once.

Feed, lane, ledger and hand-over are the real ones, and so are the bytes; pipes, spool and store are lists. One seed
decides all.
"""

from collections import deque
from random import Random
from typing import Any

import msgspec
import pytest

from telefabric import limits
from telefabric.broker.core.live_lane import LiveCore
from telefabric.limits import NS
from telefabric.peer.core.principal import LOCAL_USERS, Peer
from telefabric.subscribe.core.accounting import Ledger
from telefabric.subscribe.core.handover import InOrder, Numbered, StreamHandover
from telefabric.uplink.core.live_feed import KindBatch, LiveFeed
from telefabric.wire import batch, control, records
from telefabric.wire.delivery import Delivery, decode_delivery, encode_delivery, topic_of
from telefabric.wire.policy import QueuePolicy
from telefabric_schemas import Overflow, RunHeartbeat

TURN_NS = 50_000_000
PIPE_MAX = 8
KINDS = ("step", "step", "step", "episode", "log")
Source = tuple[bytes, str]
Told = list[tuple[Source, set[int]]]
"""The truth beside a delivery: the numbers of each source that it tells as dropped."""


class Pipe:
    """A socket's queue: full at a length, refused at random, lost as a whole when its connection breaks."""

    def __init__(self, random: Random, loses: bool) -> None:
        self.random = random
        self.loses = loses
        self.items: deque[tuple[Any, ...]] = deque()
        self.frozen = False

    def send(self, *frames: Any) -> bool:
        if len(self.items) >= PIPE_MAX or self.random.random() < 0.05:
            return False
        self.items.append(frames)
        return True

    def receive(self) -> list[tuple[Any, ...]]:
        found = [] if self.frozen else [self.items.popleft() for _ in range(len(self.items))]
        return [one for one in found if self.random.random() > 0.02 or not self.loses]

    def cut(self) -> None:
        """The connection breaks."""
        if self.loses:
            self.items.clear()


class Worker:
    """A stream: its spool of kinds, its feed, and what it told of what it did not send."""

    def __init__(self, stream: bytes, run: str, random: Random, loses: bool) -> None:
        self.stream = stream
        self.run = run
        self.random = random
        self.spool: list[str] = []
        self.feed = LiveFeed()
        self.pipe = Pipe(random, loses)
        self.skipped: dict[tuple[str, str], set[int]] = {}
        self.told: dict[tuple[str, int], set[int]] = {}
        """By reason and the number of the overflow event: the numbers that it tells of."""
        self.ticked_ns = 0

    def emit(self, events: int) -> None:
        self.spool += self.random.choices(KINDS, k=events)

    def watch(self, wanted: set[bytes]) -> None:
        run = topic_of(self.run, "")
        if not self.feed.watched:
            self.skipped.clear()  # there is nobody to be told
        self.feed.watch(any(run.startswith(topic) for topic in wanted), len(self.spool))

    def turn(self, now_ns: int) -> None:
        feed = self.feed
        if not feed.watched:
            return
        while feed.cursor <= len(self.spool):
            first = feed.cursor
            kinds = self.spool[first - 1 : first + 29]
            too_old = feed.behind(len(self.spool))
            for one in feed.sort(first, [(kind, record(kind, seq)) for seq, kind in enumerate(kinds, first)]):
                if too_old:
                    self.skip(one, "behind")
                elif not self.send(one):
                    self.skip(one, "worker_pipe_full")
        if now_ns - self.ticked_ns > NS:
            self.ticked_ns = now_ns
            beat = RunHeartbeat(0, "running", len(self.spool), 0, 1, 1, dict(feed.counters))
            one = self.single(beat)
            if not self.send(one):
                self.skip(one, "worker_pipe_full")

    def skip(self, one: KindBatch, reason: str) -> None:
        self.feed.skip(one, reason)
        self.skipped.setdefault((one.kind, reason), set()).update(numbers(one.counter, one.events))

    def send(self, one: KindBatch) -> bool:
        for skip in self.feed.untold():
            overflow = self.single(Overflow(0, "worker", skip.reason, skip.kind, skip.events, 1, skip.reached))
            if not self.publish(overflow):
                self.feed.unsent("overflow")
                return False
            self.feed.told(skip)
            self.told[skip.kind, overflow.counter] = self.skipped.pop((skip.kind, skip.reason))
        return self.publish(one)

    def single(self, event: RunHeartbeat | Overflow) -> KindBatch:
        body = records.frame(msgspec.msgpack.encode(event))
        return KindBatch(event.kind, 0, 0, 1, self.feed.next_number(event.kind), body)

    def publish(self, one: KindBatch) -> bool:
        message = batch.pack(batch.Header(
            session=bytes(16), stream=self.stream, epoch=0, first_seq=one.first_seq, last_seq=one.last_seq,
            events=one.events, counter=one.counter, time_ns=1, flags=batch.FLAG_LIVE,
        ), one.body)  # fmt: skip
        return self.pipe.send(topic_of(self.run, one.kind), message)


class Client:
    """One subscription after the other, a ledger for each; and beside the ledger, which numbers really came."""

    def __init__(self, world: "World", name: bytes, policy: QueuePolicy) -> None:
        self.world = world
        self.name = name
        self.peer = Peer(name, LOCAL_USERS)
        self.policy = policy
        self.pipe = Pipe(world.random, world.loses)
        self.token = b""
        self.runs = ["run"]
        self.handovers: dict[bytes, StreamHandover[str]] = {}
        self.orders: dict[bytes, InOrder[str]] = {}
        self.applied: dict[bytes, list[Numbered[str]]] = {worker.stream: [] for worker in world.workers}
        self.begin()
        for stream in self.applied:
            self.restart(stream)

    def begin(self) -> None:
        self.ledger = Ledger()
        self.pipe.items.clear()
        self.received: dict[Source, set[int]] = {}
        self.dropped: dict[Source, set[int]] = {}
        self.vague: set[Source] = set()

    def restart(self, stream: bytes) -> None:
        """The reader of a stream goes on from its cursor; what it printed it has."""
        since = self.handovers[stream].cursor if stream in self.handovers else 0
        self.handovers[stream] = StreamHandover(since)
        self.orders[stream] = InOrder(self.handovers[stream], held_max=200)

    def say_watch(self) -> None:
        message = control.Watch(control.PROTOCOL, "viewer", self.runs, None, self.policy)
        for answer in self.world.core.receive(self.peer, message, self.world.now_ns, 0):
            match answer:
                case control.Watching(token=token) if token != self.token:
                    self.token = token
                    self.begin()
                case control.Recent(batches=batches):
                    for data in batches:
                        self.apply(data)

    def turn(self) -> None:
        core, now_ns = self.world.core, self.world.now_ns
        answers = core.receive(self.peer, control.WatchBeat(now_ns), now_ns, 0)
        if any(isinstance(answer, control.Who) for answer in answers):
            self.say_watch()
        for delivery, message, told in self.pipe.receive():
            self.deliver(delivery, message, told)
            self.check()
        self.page()

    def deliver(self, data: bytes, message: bytes, told: Told) -> None:
        delivery = decode_delivery(data)
        header = batch.parse_header(message)[0] if message else None
        assert sum(drop.events for drop in delivery.drops) == sum(len(dropped) for _, dropped in told)
        before = dict(self.ledger.sources)
        self.ledger.delivered(delivery, header.events if header else 0)
        for source, dropped in told:
            self.tell(source, dropped, known=source in before)
        if header is not None:
            kind = records.kind_of(message[batch.HEADER_BYTES + records.PREFIX_BYTES :][:32])
            self.ledger.batch(header.stream, kind, header.counter, header.events)
            self.received.setdefault((header.stream, kind), set()).update(numbers(header.counter, header.events))
            self.apply(message, count=True)

    def apply(self, message: bytes, count: bool = False) -> None:
        header, start = batch.parse_header(message)
        events = [msgspec.msgpack.decode(message[span.start + start : span.end + start])
                  for span in records.spans(message[start:], header.events)]  # fmt: skip
        if header.last_seq:
            self.take(header.stream, self.handovers[header.stream].live([Numbered(e[1], e[0]) for e in events]))
        elif count and events[0][0] == "run_heartbeat":
            self.ledger.ticked(header.stream, events[0][7].items())
        elif count:
            _, _, _, reason, kind, events_, _, reached = events[0]
            source = (header.stream, kind)
            told = self.world.worker(header.stream).told[kind, header.counter]
            self.tell(source, told, known=source in self.ledger.sources)
            self.ledger.overflowed(header.stream, kind, reason, events_, reached)

    def tell(self, source: Source, dropped: set[int], *, known: bool) -> None:
        """What is first heard of a source may be drops with a loss between them, of which nobody can know."""
        self.dropped.setdefault(source, set()).update(dropped)
        if not known:
            self.vague.add(source)

    def take(self, stream: bytes, fresh: list[Numbered[str]]) -> None:
        self.applied[stream] += self.orders[stream].take(fresh)

    def page(self) -> None:
        """One page of the store for each stream that misses something."""
        for worker in self.world.workers:
            handover = self.handovers[worker.stream]
            handover.watermark = self.world.stored[worker.stream]
            missing = handover.ask()
            if missing is not None:
                last = min(missing.first + 49, self.world.stored[worker.stream])
                seqs = range(missing.first, last + 1)
                page = [Numbered(seq, worker.spool[seq - 1]) for seq in seqs]
                self.take(worker.stream, handover.stored(missing.first - 1, page, covers=last))

    def check(self) -> None:
        """The identity, and that every term of it is what happened."""
        for account in (self.ledger.broker_hop, *self.ledger.sources.values()):
            assert account.received + sum(account.dropped.values()) + account.lost_in_transit == account.newest
            assert account.lost_in_transit >= 0
        for source, account in self.ledger.sources.items():
            assert account.received == len(self.received.get(source, ()))
            assert sum(account.dropped.values()) == len(self.dropped.get(source, ()))
            assert account.before is not None
            known = self.received.get(source, set()) | self.dropped.get(source, set())
            if source not in self.vague and known:
                assert account.before < min(known)
                assert account.before + account.newest >= max(known)


class World:
    """Two workers of one run and one of another, a broker, a store, three clients."""

    def __init__(self, seed: int, loses: bool) -> None:
        self.random = Random(seed)
        self.loses = loses
        """Connections break; otherwise pipes are full at times and sockets frozen, and nothing else."""
        self.now_ns = NS
        self.workers = [
            Worker(bytes([number]) * 16, run, self.random, loses)
            for number, run in enumerate(("run", "run", "other"), start=1)
        ]
        self.stored = dict.fromkeys((worker.stream for worker in self.workers), 0)
        self.pushed: dict[bytes, deque[tuple[int, Source, set[int]]]] = {}
        """For each token, what was numbered and has neither been sent nor told."""
        self.tokens = 0
        self.start_broker()
        self.clients = [
            Client(self, b"roomy", QueuePolicy(events_max=1_000_000, age_ms_max=3_600_000)),
            Client(self, b"fast", QueuePolicy(events_max=300, age_ms_max=1_000)),
            Client(self, b"slow", QueuePolicy(events_max=60, age_ms_max=300)),
        ]

    def worker(self, stream: bytes) -> Worker:
        return next(worker for worker in self.workers if worker.stream == stream)

    def new_token(self) -> bytes:
        self.tokens += 1
        return self.tokens.to_bytes(16, "big")

    def start_broker(self) -> None:
        self.core = LiveCore(
            instance=self.random.randbytes(16),
            endpoints=lambda: control.Endpoints("*:1", "*:2"),
            new_token=self.new_token,
        )
        for worker in self.workers:
            worker.pipe.items.clear()
            worker.watch(set())

    def turn(self) -> None:
        self.now_ns += TURN_NS
        wanted = self.core.lane.wanted()
        for worker in self.workers:
            worker.watch(wanted)
            worker.turn(self.now_ns)
            self.stored[worker.stream] += self.random.randrange(len(worker.spool) - self.stored[worker.stream] + 1)
            for topic, message in worker.pipe.receive():
                self.push(topic, message)
        self.forward()
        for client in self.clients:
            client.turn()

    def push(self, topic: bytes, message: bytes) -> None:
        header = batch.parse_header(message)[0]
        subscribers = self.core.lane.subscribers
        before = {token: subscriber.number for token, subscriber in subscribers.items()}
        self.core.lane.push(topic, header, message, self.now_ns)
        source = (header.stream, topic.partition(b"\0")[2].decode())
        for token, subscriber in subscribers.items():
            if subscriber.number != before[token]:
                one = (subscriber.number, source, numbers(header.counter, header.events))
                self.pushed.setdefault(token, deque()).append(one)

    def forward(self) -> None:
        due = self.core.tick(self.now_ns)
        for client in self.clients:
            subscriber = self.core.lane.subscribers.get(client.token)
            if subscriber is None:
                continue
            while (item := subscriber.peek(self.now_ns)) is not None:
                if not self.send(client, subscriber.delivery(item), item.message):
                    break
                subscriber.sent(item)
            tick = subscriber.tick() if client.token in due else None
            if tick is not None and self.send(client, tick, b""):
                subscriber.ticked()

    def send(self, client: Client, delivery: Delivery, message: bytes) -> bool:
        """Whatever was numbered before and not sent must be told with this."""
        pushed = self.pushed.setdefault(client.token, deque())
        passed = [one for one in pushed if one[0] <= delivery.number]
        told = [(source, dropped) for _, source, dropped in (passed[:-1] if message else passed)]
        if not client.pipe.send(encode_delivery(delivery), message, told):
            return False
        for _ in passed:
            pushed.popleft()
        return True

    def trouble(self) -> None:
        """Something of what happens to real ones."""
        random = self.random
        for worker in self.workers:
            worker.emit(random.choice((0, 3, 10, 40, 100) if random.random() < 0.95 else (0, 900)))
            if random.random() < 0.01:
                worker.pipe.cut()
            worker.pipe.frozen = random.random() < 0.05
        for client in self.clients:
            if random.random() < 0.02:
                client.pipe.cut()
            if random.random() < 0.1:
                client.pipe.frozen = not client.pipe.frozen
            if random.random() < 0.02:
                client.restart(random.choice(self.workers).stream)
            if self.loses and random.random() < 0.02:
                self.core.receive(client.peer, control.Unwatch(), self.now_ns, 0)
        if self.loses and random.random() < 0.01:
            self.start_broker()

    def settle(self) -> None:
        """Nobody is in trouble any more, for some seconds without anything that waits: each tick comes."""
        for worker in self.workers:
            worker.pipe.random = Calm()
            worker.pipe.frozen = False
        for client in self.clients:
            client.pipe.random = Calm()
            client.pipe.frozen = False
        quiet = 0
        while quiet < 60:
            self.turn()
            waiting = any(subscriber.queued_events for subscriber in self.core.lane.subscribers.values())
            quiet = 0 if waiting else quiet + 1
        for worker in self.workers:
            self.stored[worker.stream] = len(worker.spool)
        while any(c.handovers[w.stream].cursor < len(w.spool) for c in self.clients for w in self.workers):
            for client in self.clients:
                client.page()


class Calm(Random):
    """Nothing happens."""

    def random(self) -> float:
        return 0.5


def record(kind: str, seq: int) -> bytes:
    return records.frame(msgspec.msgpack.encode([kind, seq]))


def numbers(newest: int, events: int) -> set[int]:
    return set(range(newest - events + 1, newest + 1))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("loses", [True, False], ids=["lossy", "full"])
def test_the_ledger_is_exact_and_no_event_is_missing_or_twice(seed, loses, monkeypatch):
    monkeypatch.setattr(limits, "LIVE_BEHIND_EVENTS_MAX", 500)
    world = World(seed, loses)
    for _ in range(200):
        world.trouble()
        world.turn()
    world.settle()
    assert not world.workers[2].feed.counters, "nobody watches its run"
    for client in world.clients:
        client.check()
        subscriber = world.core.lane.subscribers[client.token]
        assert client.ledger.broker_hop.newest == subscriber.number
        assert client.ledger.broker_hop.dropped == subscriber.dropped or client.ledger.broker_hop.lost_in_transit
        for (stream, kind), account in client.ledger.sources.items():
            if kind != "run_heartbeat":  # its own number is newer than what it says
                assert account.before is not None
                assert account.before + account.newest == world.worker(stream).feed.counters[kind]
        if not loses and client.name == b"roomy":  # of the others the broker also drops what workers told
            assert client.ledger.dropped
            assert client.ledger.lost_in_transit == (0, 0)
        for worker in world.workers:
            expected = [Numbered(seq, kind) for seq, kind in enumerate(worker.spool, start=1)]
            assert client.applied[worker.stream] == expected
