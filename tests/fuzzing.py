"""Strangers who flood every socket of a broker, and lie to its live subscribers: for test_fuzz.py and scripts/fuzz.

Each attack is one burst of some tenths of a second, drawn from a seed; `Fuzz.counts` says how many messages or
connections of each kind went to which socket.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import zmq
from processes import wait_for
from slowness import patience
from test_garbage import CONTROL, DURABLE, GREETING, Fabric, info, mutated, peak_rss, say, stranger

from telefabric import limits
from telefabric.address import Address
from telefabric.subscribe import LiveSubscription
from telefabric.wire import batch, control, records
from telefabric.wire.policy import DROP_OLDEST, LATEST_PER_KEY, SAMPLE, QueuePolicy
from telefabric.wire.seal import seal
from telefabric_schemas import Log, Metric, Overflow, RunHeartbeat, Step
from telefabric_schemas.events import Event

LIVE, TAP, WATCH = 2, 5, 6
SOCKETS = {CONTROL: "control", 1: "data", LIVE: "live", DURABLE: "durable", 4: "query", TAP: "tap", WATCH: "watch"}
HUGE = 2**63 - 1
_SUBSCRIBING_S = 5.0
_raw = msgspec.Raw(b"\x91\x01")


class Onlookers:
    """Live subscribers with every policy, polled in a thread; what goes wrong there is raised by `check`."""

    def __init__(self, url: str) -> None:
        address = Address.parse(url)
        policies = [
            ("all", None, QueuePolicy()), ("sample", None, QueuePolicy(mode=SAMPLE, every=3)),
            ("latest", None, QueuePolicy(mode=LATEST_PER_KEY)), ("agents", ["agent", "agent_0"], QueuePolicy()),
            ("small", None, QueuePolicy(1, 1, DROP_OLDEST)),
            ("odd", ["nobody"], QueuePolicy(HUGE, HUGE, "unknown", HUGE)),
            ("agents sampled", ["agent_0"], QueuePolicy(10, 10, SAMPLE, 2)),
        ]  # fmt: skip
        self.subscriptions = [
            LiveSubscription(address, name=name, agents=agents, policy=policy) for name, agents, policy in policies
        ]
        self.error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Onlookers:
        self._thread.start()
        wait_for(lambda: all(one.instance is not None for one in self.subscriptions), "all watch")
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(patience(20))

    def check(self) -> None:
        """All of them hear of the run, and the broker numbered nothing for them that it did not send or tell."""
        assert self.error is None, self.error
        before = [one.received for one in self.subscriptions if one.granted is not None]
        wait_for(lambda: self.subscriptions[0].received > before[0] + 100, "events come to the one that wants all")
        wait_for(lambda: not any(self.lost()), "nothing is lost", 5.0)
        """Waited for: their thread may be in the middle of an account."""

    def lost(self) -> list[int]:
        """What each of them misses of what the broker numbered for it."""
        return [one.ledger.broker_hop.lost_in_transit for one in self.subscriptions]

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for one in self.subscriptions:
                    one.poll(0.002)
        except Exception as error:  # noqa: BLE001  # the thread's boundary: told by `check`
            self.error = error
        finally:
            for one in self.subscriptions:
                one.close()


class Fuzz:
    """Attacks on the ports of one fabric."""

    def __init__(self, fabric: Fabric, seed: int, *, scale: float = 1.0) -> None:
        self.fabric = fabric
        self.dice = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self._scale = scale

    def attacks(self) -> Sequence[Callable[[], None]]:
        return (
            self.live_batches, self.tokens, self.tap_topics, self.hellos, self.hellos_of_many, self.watches,
            self.long_watches, self.statuses, self.beats, self.mistakes, self.mistakes_of_many, self.half_open,
            self.slow_loris,
        )  # fmt: skip

    def _many(self, most: int) -> int:
        return max(int(most * self._scale), 1)

    def _count(self, offset: int, kind: str, number: int = 1) -> None:
        self.counts[f"{SOCKETS[offset]}: {kind}"] += number

    # -- live batches --------------------------------------------------------------------------------------------
    def live_batches(self) -> None:
        """Like a worker's, of any kind, and false in one or more ways."""
        with stranger(zmq.XPUB, self.fabric.at(LIVE)) as peer:
            assert peer.recv() == b"\x01", "somebody watches all runs"
            for _ in range(self._many(2_000)):
                self._count(LIVE, "batches", say(peer, self._live_batch()))

    def _live_batch(self) -> list[bytes]:
        dice = self.dice
        kind, body, count = self._body()
        counter = dice.choice([0, count, count, dice.randrange(40, 10**6), HUGE, 2**63, 2**64 - 1, 2**63 - count])
        first, last = dice.choice([(0, 0)] * 3 + [(1, count), (1, 2**62), (2**62, HUGE), (5, 4)])
        message = batch.pack(batch.Header(
            session=dice.randbytes(16), stream=dice.choice([self.fabric.stream, dice.randbytes(16), bytes(16)]),
            epoch=0, first_seq=first, last_seq=last, events=dice.choice([count] * 9 + [0, 1, 4_096, 2**31]),
            counter=counter, time_ns=dice.choice([0, 1, time.time_ns(), 2**64 - 1]), flags=batch.FLAG_LIVE,
        ), body)  # fmt: skip
        run = dice.choice([b"test", b"nobody", dice.randbytes(9), b"x" * 255, b"x" * 300, "\U0001f3ae".encode() * 60])
        of_kind = dice.choice(
            [kind.encode()] * 3 + [b"kind_of_nobody", b"\xff\xfe", b"k" * 400, dice.randbytes(6), b""]
        )
        topic = dice.choice([run + b"\0" + of_kind] * 6 + [run, b"\0" * 600, b"y" * 100_000])
        return [topic, mutated(dice, message) if dice.random() < 0.2 else message]

    def _body(self) -> tuple[str, bytes, int]:
        """A kind, records of it, and how many."""
        dice = self.dice
        name = f"agent_{dice.randrange(10**9)}"
        made: list[Event] = [
            Step(1, name, 0, 1, 2, 3, 0.5, False, False, 1, 1, _raw, _raw, "agent", None, None, _raw, None, 1, _raw),
            Metric(1, name, 0.25, None, 3, "agent_0", 1, 1),
            Log(1, "info", "text", name, 1, 1, None, _raw),
            RunHeartbeat(0, "running", HUGE, HUGE, 1, 1, {f"{name}_{n}": HUGE for n in range(50)} | {"step": HUGE}),
            RunHeartbeat(0, "running", 1, 1, 1, 1, {"k" * 30_000 + name: 1}),
            Overflow(0, "worker", name, dice.choice(["step", name]), dice.choice([1, HUGE]), 1, dice.choice([1, HUGE])),
        ]
        one = dice.choice(made)
        count = dice.choice([1, 1, 2, 40])
        body = records.frame(msgspec.msgpack.encode(one)) * count
        return one.kind, mutated(dice, body) if dice.random() < 0.2 else body, count

    # -- subscriptions -------------------------------------------------------------------------------------------
    def tokens(self) -> None:
        for offset in (WATCH, DURABLE):
            self._subscribe(
                offset, lambda: self.dice.randbytes(self.dice.choice([0, 1, 15, 16, 16, 17, 40])), self._many(20_000)
            )

    def tap_topics(self) -> None:
        self._subscribe(TAP, lambda: self.dice.randbytes(self.dice.choice([16, 300, 318])), self._many(20_000))

    def _subscribe(self, offset: int, topic: Callable[[], bytes], number: int) -> None:
        """Distinct ones, and some that are taken back without ever having been made.

        For seconds at most: whoever is hung up on makes all of them again when it is back.
        """
        deadline = time.monotonic() + _SUBSCRIBING_S
        with stranger(zmq.XSUB, self.fabric.at(offset)) as peer:
            peer.set(zmq.LINGER, 0)
            for _ in range(number):
                if time.monotonic() > deadline:
                    break
                wish = b"\x00" if self.dice.random() < 0.1 else b"\x01"
                self._count(offset, "subscriptions", say(peer, [wish + topic()]))
            say(peer, [b"\x02" + bytes(limits.CONTROL_BYTES_MAX)])  # no subscription
            self._count(offset, "too long a message")

    # -- control -------------------------------------------------------------------------------------------------
    def hellos(self) -> None:
        """Streams from one peer, which says afterwards that they are over: the broker holds so many and no more."""
        streams = [self.dice.randbytes(16) for _ in range(self._many(5_000))]
        with stranger(zmq.DEALER, self.fabric.at(CONTROL)) as peer:
            peer.set(zmq.SNDTIMEO, 5_000)
            for stream in streams:
                self._count(CONTROL, "hellos of one", say(peer, [self._hello(stream)]))
            for stream in streams:
                say(peer, [control.encode(control.Bye(stream, False))])
            wait_for(lambda: self._strange_streams() == 0, "their streams are forgotten", 2 * limits.STREAM_ABSENT_S)

    def hellos_of_many(self) -> None:
        with ExitStack() as stack:
            said = []
            for _ in range(self._many(50)):
                peer = stack.enter_context(stranger(zmq.DEALER, self.fabric.at(CONTROL)))
                for _ in range(10):
                    stream = self.dice.randbytes(16)
                    said.append((peer, stream))
                    self._count(CONTROL, "hellos of many", say(peer, [self._hello(stream)]))
            for peer, stream in said:
                say(peer, [control.encode(control.Bye(stream, True))])
            wait_for(lambda: self._strange_streams() == 0, "their streams are forgotten", 2 * limits.STREAM_ABSENT_S)

    def _hello(self, stream: bytes) -> bytes:
        who = msgspec.structs.replace(info(stream), metadata=bytes(self.dice.choice([1, 1, 1, 30_000])))
        return control.encode(control.Hello(control.PROTOCOL, who, 1, self.dice.choice([0, HUGE])))

    def _strange_streams(self) -> int:
        return sum(one["run_id"] == "stranger" for one in self.fabric.status().status["streams"])

    def watches(self) -> None:
        """WATCH and UNWATCH, over and over, from peers who read no answer."""
        names = [["test"], ["test", "nobody"], None, []]
        with ExitStack() as stack:
            peers = [stack.enter_context(stranger(zmq.DEALER, self.fabric.at(CONTROL))) for _ in range(20)]
            for _ in range(self._many(2_000)):
                peer, policy = self.dice.choice(peers), QueuePolicy(self.dice.choice([0, 1, HUGE]), 1, "x", 0)
                wish = control.Watch(control.PROTOCOL, "fuzz", self.dice.choice(names), None, policy)
                message = self.dice.choice([wish, wish, wish, control.Unwatch(), control.WatchBeat(1, HUGE, HUGE)])
                self._count(CONTROL, "watches", say(peer, [control.encode(message)]))
            for peer in peers:
                say(peer, [control.encode(control.Unwatch())])

    def long_watches(self) -> None:
        with stranger(zmq.DEALER, self.fabric.at(CONTROL)) as peer:
            for number in range(self._many(40)):
                runs = [f"{number}-{run}" for run in range(self.dice.choice([4_096, 4_097, 80_000]))]
                wish = control.Watch(control.PROTOCOL, "fuzz", runs, runs[:10])
                self._count(CONTROL, "watches of many runs", say(peer, [control.encode(wish)]))
            say(peer, [control.encode(control.Unwatch())])

    def statuses(self) -> None:
        asked = control.encode(control.StatusRequest())
        with stranger(zmq.DEALER, self.fabric.at(CONTROL)) as peer:
            for _ in range(self._many(5_000)):
                self._count(CONTROL, "status requests", say(peer, [asked]))

    def beats(self) -> None:
        """Heartbeats of streams that nobody knows, some with more of them than one process can have."""
        with stranger(zmq.DEALER, self.fabric.at(CONTROL)) as peer:
            for _ in range(self._many(20)):
                number = self.dice.choice([10, 1_000, 15_000])
                beats = [control.StreamBeat(self.dice.randbytes(16), 0, HUGE, HUGE, HUGE, HUGE) for _ in range(number)]
                self._count(CONTROL, "heartbeats", say(peer, [control.encode(control.Beat(HUGE, beats, -HUGE, HUGE))]))

    def mistakes(self) -> None:
        """What cannot be used, of one peer, who gets few and short answers for it."""
        with stranger(zmq.DEALER, self.fabric.at(CONTROL)) as peer:
            began = time.monotonic()
            for _ in range(self._many(5_000)):
                self._count(CONTROL, "mistakes of one", say(peer, self._mistake()))
            sizes, status, until_s = [], False, time.monotonic() + patience(20)
            say(peer, [control.encode(control.StatusRequest())])
            while not status:
                assert time.monotonic() < until_s, "the broker answers"
                if not peer.poll(1_000):  # perhaps there was no room for the request yet
                    say(peer, [control.encode(control.StatusRequest())])
                    continue
                data = peer.recv()
                status = isinstance(control.decode(data, limits.STATUS_BYTES_MAX), control.StatusReply)
                sizes += [] if status else [len(data)]
            assert 0 < len(sizes) <= limits.ERRORS_A_SECOND * (time.monotonic() - began + 2)
            assert max(sizes) <= limits.ERROR_BYTES_MAX

    def mistakes_of_many(self) -> None:
        """Of peers who read no answer, each with a name of its own."""
        for _ in range(self._many(50)):
            with stranger(zmq.DEALER, self.fabric.at(CONTROL)) as peer:
                for _ in range(20):
                    self._count(CONTROL, "mistakes of many", say(peer, self._mistake()))
        assert len(self.fabric.status().status["mistakes"]) <= limits.MISTAKES_KEPT

    def _mistake(self) -> list[bytes]:
        dice = self.dice
        odd = dice.choice(["x" * 60_000, "\U0001f3ae" * 9_000, dice.randbytes(20), [[[]]] * 9, HUGE, None])
        name = dice.choice(["hello", "beat", "stored", "attach", "watch", "error", "x" * 30, odd])
        whole = seal(msgspec.msgpack.encode([name, odd, *[odd] * dice.randrange(4)]))
        return dice.choice([[whole], [whole], [whole, b""], [mutated(dice, whole)], [b""], [b"\x91" * 3_000]])

    # -- connections ---------------------------------------------------------------------------------------------
    def half_open(self) -> None:
        """Connections that say nothing, or greet and say nothing more, on every port at once."""
        with ExitStack() as held:
            for offset in self.fabric.open_ports():
                for opening in (b"", GREETING[:11], GREETING):
                    for _ in range(self._many(40)):
                        self._count(offset, "half open", self._open(held, offset, opening) is not None)
            self.fabric.goes_on()

    def slow_loris(self) -> None:
        """A frame of which a byte comes now and then, and one that claims to be as long as it may be."""
        claims = GREETING + b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER" + b"\x02"
        with ExitStack() as held:
            opened = [
                (offset, self._open(held, offset, claims + struct.pack(">Q", length)))
                for offset in self.fabric.open_ports()
                for length in (100, limits.MESSAGE_BYTES_MAX)
                for _ in range(self._many(10))
            ]
            for _ in range(5):
                for offset, connection in opened:
                    if connection is not None:
                        self._count(offset, "drips", _drip(connection))
                time.sleep(0.02)

    def _open(self, held: ExitStack, offset: int, opening: bytes) -> socket.socket | None:
        try:
            connection = held.enter_context(socket.create_connection(("127.0.0.1", self.fabric.port + offset), 5))
            connection.sendall(opening)
        except OSError:
            return None  # hung up on us
        return connection


def _drip(connection: socket.socket) -> bool:
    try:
        return connection.send(b"\0") == 1
    except OSError:
        return False  # hung up on us


def peaks(fabric: Fabric) -> dict[str, int]:
    """The most memory that each process had, in bytes, by what it is."""
    names = ("queryservice", "emitter", "broker", "store")
    found: dict[str, int] = {}
    for pid, command in fabric.pids().items():
        words = {word.rpartition(".")[2] if "/" not in word else Path(word).stem for word in command.split()}
        found[next((name for name in names if name in words), command)] = peak_rss(pid)
    return found
