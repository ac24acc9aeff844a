"""A broker that lies in every message, to workers, a store and subscribers of all kinds: they outlive it.

What it sends is drawn from a fixed seed: messages that are damaged, whole ones with numbers and addresses that cannot
be, batches that contradict themselves, and floods of subscriptions. It claims nothing that an honest broker could:
whoever acknowledges what is not stored is believed, since that is what a broker is for.
"""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import identity
import pytest
import zmq
from fuzzing import HUGE, Onlookers
from processes import free_ports, wait_for
from slowness import patience
from test_garbage import DATA, DURABLE, RSS_MAX, Fabric, info, mutated, peak_rss, strange_info

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import WireError
from telefabric.feed.broker_feed import BrokerFeed
from telefabric.subscribe import DurableSubscription, LiveSubscription
from telefabric.wire import batch, control
from telefabric.wire.delivery import Delivery, Drop, encode_delivery
from telefabric.wire.policy import QueuePolicy

LIVE, WATCH = 2, 6

pytestmark = [pytest.mark.alone, pytest.mark.timeout(120)]


class Liar:
    """Binds a broker's sockets and answers everybody; `told` counts what it said to whom."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.told: Counter[str] = Counter()
        self.streams: set[bytes] = set()
        self._dice = random.Random(seed)
        self._instance = self._dice.randbytes(16)
        self._peers: dict[bytes, str] = {}
        self._topics: dict[int, set[bytes]] = {DURABLE: set(), WATCH: set()}

    def lie(self, stop: threading.Event) -> None:
        with zmq.Context() as context, ExitStack() as stack:
            kinds = {0: zmq.ROUTER, DATA: zmq.SUB, LIVE: zmq.SUB, DURABLE: zmq.XPUB, WATCH: zmq.XPUB}
            sockets = {offset: stack.enter_context(context.socket(kind)) for offset, kind in kinds.items()}
            for offset, one in sockets.items():
                one.set(zmq.LINGER, 0)
                one.bind(f"tcp://127.0.0.1:{self.port + offset}")
            sockets[DATA].subscribe(b"")
            while not stop.is_set():
                self._listen(sockets)
                self._answer(sockets[0])
                self._publish(sockets)
                self._subscribe(sockets)

    def _listen(self, sockets: dict[int, zmq.Socket[bytes]]) -> None:
        for offset, one in sockets.items():
            for _ in range(200):
                if not one.poll(1 if offset == 0 else 0):
                    break
                frames = one.recv_multipart()
                if offset == 0:
                    self._meet(frames[0], frames[-1])
                elif offset in self._topics and len(frames) == 1 and frames[0][:1] == b"\x01":
                    self._topics[offset].add(frames[0][1:])

    def _meet(self, peer: bytes, message: bytes) -> None:
        try:
            heard = control.decode(message)
        except WireError:
            heard = None
        assert heard is not None, "what they say is well formed"
        self._peers[peer] = {"hello": "worker", "attach": "durable", "watch": "live"}.get(
            type(heard).__struct_config__.tag, self._peers.get(peer, "")  # type: ignore[arg-type]
        )  # fmt: skip
        if isinstance(heard, control.Hello):
            self.streams.add(heard.info.stream)

    # -- what it says --------------------------------------------------------------------------------------------
    def _answer(self, router: zmq.Socket[bytes]) -> None:
        for peer, kind in [*self._peers.items()] * 5:
            message = control.encode(self._lie())
            if self._dice.random() < 0.3:
                message = mutated(self._dice, message)
            more = self._dice.choice([[]] * 20 + [[b""], [self._dice.randbytes(30)] * 50])
            router.send_multipart([peer, message, *more])
            self.told[kind] += 1

    def _lie(self) -> control.Message:
        dice = self._dice
        stream = dice.choice([*self.streams, dice.randbytes(16), bytes(16)])
        instance = dice.choice([self._instance] * 5 + [dice.randbytes(16)])
        number = dice.choice([0, 1, HUGE])
        beyond = dice.choice([2**40, HUGE])
        """No honest broker: the worker has not emitted as many."""
        marks = [control.StreamSeq(dice.choice([stream, dice.randbytes(16)]), beyond) for _ in range(300)]
        infos = [dice.choice([info, strange_info])(dice.randbytes(16)) for _ in range(dice.choice([1, 3]))]
        return dice.choice([
            control.Welcome(instance, stream, number, dice.choice([None, beyond]), number, number, self._where(),
                            number, dice.choice([None, "\x1b[2J" * 1_000])),
            control.Alive(instance, dice.choice([-HUGE, HUGE]), dice.choice([-HUGE, 0, HUGE]), number),
            control.Ack(instance, stream, beyond), control.Credit(instance, stream, number, number, number, number),
            control.Rewind(instance, stream, number, beyond, number, "x" * 5_000), control.Who(instance, stream),
            control.Unheard(instance, stream), control.Attached(instance, dice.randbytes(dice.choice([0, 16, 999])),
                                                                self._where()),
            control.Skipped(instance, marks), control.Living(instance, [dice.randbytes(16) for _ in range(300)]),
            control.Ask(instance, infos),
            control.Watching(instance, dice.randbytes(dice.choice([0, 16, 999])), self._where(),
                             QueuePolicy(0, 0, "x" * 99, 0)),
            control.Recent(instance, [self._batch() for _ in range(20)]),
            control.StatusReply(instance, self._where(), {"streams": [{"run_id": HUGE}] * 9, "live": "x"}),
            control.StatusRequest(), control.Hello(control.PROTOCOL, info(stream), 1, HUGE),
            control.Stored(instance, marks), control.Unwatch(),
        ])  # fmt: skip

    def _where(self) -> control.Endpoints:
        """Mostly its own sockets, else nowhere."""
        if self._dice.random() < 0.7:
            right = {name: f"*:{self.port + offset}" for name, offset in
                     [("data", DATA), ("durable", DURABLE), ("live", LIVE), ("watch", WATCH)]}  # fmt: skip
            return control.Endpoints(**right)
        odd = ["", "*:0", "*:99999", "*:1", "tcp://", "tcp://127.0.0.1:1", "ipc:///", "\x00", "x" * 255, "*:*", "☃:1"]
        return control.Endpoints(*(self._dice.choice(odd) for _ in range(6)))

    def _batch(self) -> bytes:
        """Of a stream that nobody has, or of one of theirs far behind its end."""
        dice = self._dice
        stream = dice.choice([*self.streams, dice.randbytes(16)])
        first = dice.choice([1, 2**62]) if stream not in self.streams else 2**40
        body = dice.randbytes(dice.choice([0, 9, 900]))
        message = batch.pack(batch.Header(
            session=dice.choice([self._instance, bytes(16)]), stream=stream, epoch=dice.choice([0, 1, 2**31]),
            first_seq=first, last_seq=first + dice.choice([0, 9, 2**40]), events=dice.choice([0, 1, 10, 2**31]),
            counter=dice.choice([0, HUGE]), time_ns=dice.choice([0, 2**64 - 1]),
            flags=dice.choice([0, batch.FLAG_LIVE, batch.FLAG_GAP, 255]),
        ), body)  # fmt: skip
        return mutated(dice, message) if dice.random() < 0.3 else message

    def _publish(self, sockets: dict[int, zmq.Socket[bytes]]) -> None:
        """To whatever they subscribed to."""
        drops = [Drop("lie", "step", bytes(16), HUGE, HUGE)] * 3
        for offset, topics in self._topics.items():
            for topic in list(topics)[-20:]:
                said = encode_delivery(Delivery(self._dice.choice([0, 5, HUGE]), self._dice.choice([[], drops])))
                frames = [[said, self._batch()], [self._batch()], [mutated(self._dice, said), b""], [b""] * 9]
                sockets[offset].send_multipart([topic, *self._dice.choice(frames)])
                self.told[f"on {offset}"] += 1

    def _subscribe(self, sockets: dict[int, zmq.Socket[bytes]]) -> None:
        for offset in (DATA, LIVE):
            for _ in range(20):
                topic = self._dice.randbytes(self._dice.choice([0, 3, 300, limits.SUBSCRIPTION_BYTES_MAX]))
                sockets[offset].subscribe(topic)
                self.told[f"subscriptions on {offset}"] += 1


@contextmanager
def exporter(address: Address) -> Iterator[Counter[bytes]]:
    """A durable subscriber that is not required; how far it holds each stream."""
    held: Counter[bytes] = Counter()
    stop = threading.Event()
    wrong: list[Exception] = []

    def take() -> None:
        subscription = DurableSubscription(address, name="exporter", held=lambda stream: held[stream])
        try:
            while not stop.is_set():
                for one in subscription.poll(0.02):
                    held[one.header.stream] = one.header.last_seq
                subscription.stored(dict(held))
        except Exception as error:  # noqa: BLE001  # the thread's boundary: told at the end
            wrong.append(error)
        finally:
            subscription.close()

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield held
    finally:
        stop.set()
        thread.join(patience(20))
    assert not wrong, wrong


def test_whoever_spoke_with_a_lying_broker_goes_on_with_an_honest_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveSubscription, "_delivered", identity.plain)  # it checks a true account
    fabric = Fabric(free_ports(), tmp_path)
    address = Address.parse(fabric.url)
    honest, keeper = fabric.services
    liar = Liar(fabric.port, 7)
    follower = BrokerFeed(address)
    follower.watch(frozenset({"test"}))
    with ExitStack() as stack:
        stop = threading.Event()
        lying = threading.Thread(target=liar.lie, args=(stop,))
        lying.start()
        stack.callback(stop.set)
        stack.enter_context(keeper)
        stack.enter_context(fabric.worker)
        held = stack.enter_context(exporter(address))
        follower.start()
        stack.callback(follower.stop)
        onlookers = Onlookers(fabric.url)
        onlookers._thread.start()
        stack.callback(onlookers.__exit__)
        pids = set(fabric.pids())
        everybody = {"worker", "durable", "live", f"on {DURABLE}", f"on {WATCH}"}
        wait_for(lambda: min(liar.told[one] for one in everybody) > 20, "all are lied to")
        worker_log = tmp_path / "worker.log"
        wait_for(lambda: "link.absurd" in worker_log.read_text(), "one is said to have emitted what it had not", 40)
        wait_for(lambda: fabric.log.read_text().count("durable.bad_control") > 1, "the store tells it twice", 40)
        wait_for(lambda: "live.bad_control" in caplog.text, "so do those who watch", 40)
        stop.set()
        lying.join()

        stack.enter_context(honest)
        fabric.goes_on()
        onlookers.check()
        stream = fabric.stream
        wait_for(lambda: held[stream] > 0, "the exporter hears of it")
        wait_for(lambda: any(one.stream_id == stream for one in follower.drain().events), "the client hears of it")
        assert pids <= fabric.pids().keys(), "nobody died of it"
        for pid in fabric.pids():
            assert peak_rss(pid) < RSS_MAX
        _said_once_a_second(fabric.log.read_text(), caplog)
        fabric.end()


def _said_once_a_second(services: str, caplog: pytest.LogCaptureFixture) -> None:
    """All lines of one name, of broker and store and of what runs here."""
    assert "Traceback" not in services
    told: dict[str, list[float]] = {}
    for when, name in re.findall(r"^(\S+) \[\w+ *\] ([a-z]+\.[a-z_]+)", services, re.MULTILINE):
        told.setdefault(name, []).append(datetime.fromisoformat(when).timestamp())
    for record in caplog.records:
        told.setdefault(f"here: {record.getMessage().partition(':')[0]}", []).append(record.created)
    assert len(told["durable.bad_control"]) > 1
    for name, times in told.items():
        assert all(late - early > 0.99 for early, late in pairwise(times)), name
