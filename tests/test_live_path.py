"""The live path with real processes: each event once, live as long as it can be, and every drop counted.

Run as a program it is a client of the live path that may be frozen or slow: see `client`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import identity
import pytest
import zmq
from emitter import Progress
from processes import Service, broker, free_ports, run, store, wait_for
from skips import requires
from slowness import patience
from store_fixtures import LOOPBACK, running
from test_kills import assert_whole, emitter

from telefabric.address import Address
from telefabric.broker.service import Broker
from telefabric.feed import merged as merged_module
from telefabric.feed.broker_feed import BrokerFeed
from telefabric.feed.interface import LinkState
from telefabric.feed.merged import MergedStreams, Seen, Task
from telefabric.peer.requests import ask_status
from telefabric.peer.sockets import receive
from telefabric.store.file.database import FILE_NAME
from telefabric.store.file.verify import audit
from telefabric.subscribe import LiveEvent, LiveSubscription, live
from telefabric.subscribe.core.handover import Numbered
from telefabric.subscribe.sockets import WatchSockets
from telefabric.wire.policy import QueuePolicy
from telefabric_schemas import Step
from telefabric_workers import connect

SOAK = Path(__file__).resolve().parent.parent / "scripts" / "soak_connections"
STREAM = b"a stream of ours"
QUEUE_EVENTS = 2_000
"""Of the clients that fall behind, so that they do at once."""
SLOW_S = 0.2
"""A message in so long, of five hundred that come in a second."""


class Watcher:
    """A follower of one run that is drained all the time, and what came of it."""

    def __init__(self, url: str, run: str) -> None:
        self.follower = BrokerFeed(Address.parse(url), name="healthy", history_events=50_000)
        self.follower.watch(frozenset({run}))
        self.seqs: Counter[tuple[bytes, int]] = Counter()
        self.live = 0
        self.ages_ms: list[tuple[float, float]] = []
        """When a live step was drained (monotonic), and how old it was."""
        self.holes: dict[bytes, tuple[Any, ...]] = {}
        self.connection = self.follower.drain().connection
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watcher:
        self.follower.start()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(patience(20))
        self.follower.stop()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            update = self.follower.drain()
            now_s, wall_ns = time.monotonic(), time.time_ns()
            for event in update.events:
                self.seqs[event.stream_id, event.seq] += 1
                self.live += event.live
                if event.live and isinstance(event.event, Step):
                    self.ages_ms.append((now_s, (wall_ns - event.event.time_ns) / 1e6))
            self.holes.update(update.holes)
            self.connection = update.connection

    @property
    def connected(self) -> bool:
        return self.connection.link is LinkState.LIVE

    def assert_each_once(self, stream: bytes, emitted: int) -> None:
        """All events of a stream, once each; waits until the last of them came."""
        wait_for(lambda: len(self.seqs) >= emitted, f"all of {emitted} events, not {len(self.seqs)}", 30)
        assert self.seqs == Counter({(stream, seq): 1 for seq in range(1, emitted + 1)})
        wait_for(lambda: not any(self.holes.values()), f"no holes, but {self.holes}")


@contextmanager
def watcher(url: str, run: str) -> Iterator[Watcher]:
    """One that is connected already."""
    with Watcher(url, run) as found:
        wait_for(lambda: found.connected, "it is connected")
        yield found


def status(url: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("status", "--json", "--connect", url).stdout)
    return found


def ended(worker: Service, folder: Path) -> tuple[bytes, int]:
    """Wait for an emitter's own end; its stream and newest seq."""
    assert worker.process is not None
    assert worker.process.wait(60) == 0
    return Progress(folder / "run.progress").read()


# -- each event once ---------------------------------------------------------------------------------------------
@pytest.mark.alone
def test_followers_of_before_during_and_after_a_run_get_each_event_once(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    progress = Progress(tmp_path / "run.progress")
    with broker(port), store(port, tmp_path), watcher(url, "run") as before:
        with emitter(url, tmp_path, "run", "--rate", 3_000, "--seconds", 2.5) as worker:
            wait_for(lambda: progress.read()[1] > 3_000, "half of the run")
            with watcher(url, "run") as during:
                stream, emitted = ended(worker, tmp_path)
                before.assert_each_once(stream, emitted)
                during.assert_each_once(stream, emitted)
        with watcher(url, "run") as after:
            after.assert_each_once(stream, emitted)
    assert_whole(tmp_path / FILE_NAME, stream, emitted)
    assert before.live > 0.9 * emitted
    assert 0 < during.live < emitted
    assert after.live < 0.5 * emitted, "only what the broker keeps for late comers, while somebody watches"


def test_kills_of_broker_and_store_cost_a_follower_nothing(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    services = {"broker": broker(port), "store": store(port, tmp_path)}
    progress = Progress(tmp_path / "run.progress")
    with services["broker"], services["store"], watcher(url, "run") as follower:
        with emitter(url, tmp_path, "run", "--rate", 3_000) as worker:
            for victims in (["broker"], ["broker", "store"]):
                mark = len(follower.seqs)
                wait_for(lambda mark=mark: len(follower.seqs) > mark + 1_500, "the follower gets on")
                for name in victims:
                    services[name].kill()
                mark = progress.read()[1]
                wait_for(lambda mark=mark: progress.read()[1] > mark + 1_000, "the worker goes on")
                for name in victims:
                    services[name].start()
            mark = follower.live
            wait_for(lambda: follower.live > mark + 1_000, "live events again")
            worker.signal(signal.SIGINT)
            assert worker.process is not None
            worker.process.wait(60)
        stream, emitted = progress.read()
        wait_for(lambda: audit(tmp_path / FILE_NAME, stream, emitted).missing == 0, "the rest is stored", 30)
        follower.assert_each_once(stream, emitted)
    assert_whole(tmp_path / FILE_NAME, stream, emitted)


@pytest.mark.parametrize("status_comes_first", [True, False])
def test_the_history_window_holds_whoever_tells_of_a_stream_first(status_comes_first: bool) -> None:
    merged = MergedStreams(history_events=100)
    merged.watch(frozenset({"run"}))
    if status_comes_first:
        merged.know(STREAM, "run", None)
        assert merged.tasks() == []
    merged.know(STREAM, "run", 1_000)
    assert merged.tasks() == [Task(STREAM, 0, of_others_before=900)]
    whole = MergedStreams(history_events=None)
    whole.watch(frozenset({"run"}))
    whole.know(STREAM, "run", 1_000)
    assert whole.tasks() == [Task(STREAM, 0)]


def test_room_for_events_of_unknown_streams_is_given_back() -> None:
    merged = MergedStreams()
    seen = Seen("step", None, b"")
    for change in range(5):
        merged.watch(frozenset({"run", str(change)}))
        merged.live(STREAM, [Numbered(seq, seen) for seq in range(1, 2_001)])
        merged.know(bytes(16), "another", None)
    merged.know(STREAM, "run", None)
    assert [event.seq for event in merged.drain().events] == list(range(1, 2_001))


def test_an_event_that_is_left_to_the_store_is_counted_once_however_often_it_is_drained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merged_module, "PENDING_EVENTS_MAX", 100)
    merged = MergedStreams()
    merged.watch(frozenset({"run"}))
    merged.know(STREAM, "run", None)
    told = 0
    for first in range(1, 501, 100):  # what comes beside a hundred is left out
        seen = Seen("step", None, b"")
        merged.live(STREAM, [Numbered(seq, seen) for seq in range(first, first + 100)])
        merged.live(STREAM, [Numbered(seq, seen) for seq in range(first + 100, first + 120)])
        told += merged.drain().skipped.get(STREAM, 0)
    assert told == 5 * 20


# -- live is live ------------------------------------------------------------------------------------------------
@pytest.mark.alone
def test_a_store_that_stands_still_delays_nothing_that_is_live(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    stopped_s = 5.0
    with broker(port), store(port, tmp_path) as writer, watcher(url, "run") as follower:
        with emitter(url, tmp_path, "run", "--rate", 10_000, "--seconds", stopped_s + 1) as worker:
            wait_for(lambda: follower.live > 2_000, "live events")
            begin = time.monotonic()
            writer.signal(signal.SIGSTOP)
            wait_for(lambda: time.monotonic() > begin + stopped_s, "some seconds of standstill")
            end = time.monotonic()
            writer.signal(signal.SIGCONT)
            stream, emitted = ended(worker, tmp_path)
        follower.assert_each_once(stream, emitted)
        wait_for(lambda: audit(tmp_path / FILE_NAME, stream, emitted).missing == 0, "all of it is stored", 30)
        assert follower.connection.dropped == ()
    assert_whole(tmp_path / FILE_NAME, stream, emitted)
    ages = sorted(age for at, age in follower.ages_ms if begin < at < end)
    assert len(ages) > 0.9 * 10_000 * stopped_s
    assert ages[int(len(ages) * 0.99)] < 100


# -- drops -------------------------------------------------------------------------------------------------------
class Account(LiveSubscription):
    """Looks at its own sum after every turn."""

    worst = 0
    wrong = 0

    def poll(self, timeout_s: float) -> list[LiveEvent]:
        found = super().poll(timeout_s)
        hop = self.ledger.broker_hop
        self.worst = max(self.worst, hop.lost_in_transit)
        self.wrong += hop.received + sum(hop.dropped.values()) != hop.newest
        return found


class OneAtATime(WatchSockets):
    """Reads a message, and then nothing for a while, until SIGUSR1; its heartbeats go on."""

    pause_s = SLOW_S

    def receive_data(self) -> list[list[bytes]]:
        if self._data is None or self._data not in self._readable:
            return []
        time.sleep(self.pause_s)
        frames = receive(self._data)
        self._data_heard_ns = time.monotonic_ns()
        return [] if frames is None else [frames]


def hurry(*_: object) -> None:
    OneAtATime.pause_s = 0.0


def client(url: str, name: str) -> None:
    """A process that follows the run ``run`` live, and says each tenth of a second how its account stands."""
    if name == "slow":
        live.WatchSockets = OneAtATime  # type: ignore[misc]
        signal.signal(signal.SIGUSR1, hurry)
    identity.install()
    link = Account(Address.parse(url), name=name, runs=["run"], policy=QueuePolicy(events_max=QUEUE_EVENTS))
    wait_for(lambda: link.poll(0.05) or link.instance is not None, "it is connected")
    print("ready", flush=True)
    told_s = time.monotonic()
    while True:
        link.poll(0.05)
        if time.monotonic() - told_s < 0.1:
            continue
        told_s = time.monotonic()
        hop = link.ledger.broker_hop
        account = {"newest": hop.newest, "received": hop.received, "worst": link.worst, "wrong": link.wrong}
        print(json.dumps({**account, "dropped": link.dropped}), flush=True)


class Client(Service):
    """`client` as a process, and the last that it said."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__([sys.executable, __file__, url, name])
        self.said: dict[str, Any] = {}

    def start(self) -> Client:
        super().start()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        return self

    def _read(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said = json.loads(line)

    def _end(self, number: int) -> int:
        if self.process is not None:
            self.process.kill()
            self._reading.join(patience(20))
        return super()._end(number)


@pytest.mark.alone
def test_a_frozen_and_a_slow_client_cost_a_healthy_one_nothing_and_their_drops_are_theirs(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    with broker(port), store(port, tmp_path), watcher(url, "run") as healthy:
        frozen, slow = Client(url, "frozen"), Client(url, "slow")
        with frozen, slow, emitter(url, tmp_path, "run", "--rate", 10_000, "--seconds", 4.5) as worker:
            wait_for(lambda: all(one.said.get("received") for one in (frozen, slow)), "all receive")
            frozen.signal(signal.SIGSTOP)
            charged = wait_for(lambda: charges(url), "both are charged with drops")
            assert set(charged) == {"frozen", "slow"}
            frozen.signal(signal.SIGCONT)
            stream, emitted = ended(worker, tmp_path)
            healthy.assert_each_once(stream, emitted)
            slow.signal(signal.SIGUSR1)
            for name, one in (("frozen", frozen), ("slow", slow)):
                wait_for(lambda one=one, name=name: reaches(url, name, one), f"the {name} one comes to the end")
                assert one.said["dropped"] == charges(url)[name]
                assert one.said["received"] + sum(one.said["dropped"].values()) == one.said["newest"]
                assert (one.said["wrong"], one.said["worst"]) == (0, 0)
    assert healthy.live > 0.9 * emitted, "all but what was emitted before the worker was asked"
    assert healthy.connection.dropped == ()
    assert healthy.connection.lost_in_transit == 0


def charges(url: str) -> dict[str, dict[str, int]]:
    """Drops by client, as the broker tells; nothing while fewer than two have any."""
    found = {one["name"]: one["dropped"] for one in status(url)["live"] if one["dropped"]}
    return found if len(found) > 1 else {}


def reaches(url: str, name: str, one: Client) -> bool:
    """What the client accounts for is all that the broker ever meant for it."""
    live = ask_status(Address.parse(url)).status["live"]
    return bool([one.said["newest"]] == [subscriber["numbered"] for subscriber in live if subscriber["name"] == name])


@pytest.mark.alone
def test_a_stranger_who_subscribes_to_everything_everywhere_harms_nobody(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    with broker(port), store(port, tmp_path), watcher(url, "run") as follower, deaf_strangers(port):
        with emitter(url, tmp_path, "run", "--rate", 5_000, "--seconds", 1.5) as worker:
            stream, emitted = ended(worker, tmp_path)
        follower.assert_each_once(stream, emitted)
        dropped = status(url)["dropped"]
    assert_whole(tmp_path / FILE_NAME, stream, emitted)
    assert follower.live > 0.9 * emitted
    assert follower.connection.dropped == ()
    assert dropped["unknown_token"] >= 1


@contextmanager
def deaf_strangers(port: int) -> Iterator[None]:
    """Subscribed to everything on all ports, and never reading."""
    with zmq.Context() as context, ExitStack() as stack:
        for offset in range(7):
            stranger = stack.enter_context(context.socket(zmq.SUB))
            stranger.set(zmq.LINGER, 0)
            stranger.set(zmq.RCVHWM, 1)
            stranger.subscribe(b"")
            stranger.connect(f"tcp://127.0.0.1:{port + offset}")
        yield


def test_an_unwatched_run_sends_nothing_live(tmp_path: Path) -> None:
    service = Broker(LOOPBACK)
    pushed: Counter[bytes] = Counter()
    push = service.core.live.lane.push

    def counting(topic: bytes, *rest: Any) -> None:
        pushed[topic] += 1
        push(topic, *rest)

    service.core.live.lane.push = counting  # type: ignore[method-assign]
    with running([service]):
        url = service.address.url
        options = {"spool": tmp_path / "spool", "exit_flush_s": 0.0}
        with connect(url, run="watched", **options) as one, connect(url, run="other", **options) as other:

            def emit() -> bool:
                for worker in (one, other):
                    worker.step(episode=0, step=0, frame=lambda: 1 / 0)
                return True

            wait_for(lambda: emit() and ask_status(service.address).status["streams"], "the streams are known")
            assert not pushed
            with watcher(url, "watched") as follower:
                wait_for(lambda: emit() and follower.live > 100, "live events")
            wait_for(lambda: not ask_status(service.address).status["live"], "nobody watches any more")
            assert not one.problems, "nobody rendered: who watches has to ask for pictures, too"
            wait_for(lambda: not one._outbox._linked.feed.watched, "the worker is told")  # type: ignore[attr-defined]
            before = pushed.total()
            for _ in range(100):
                emit()
            ask_status(service.address)
            assert pushed.total() == before
    assert {topic.partition(b"\0")[0] for topic in pushed} == {b"watched"}


# -- many at once ------------------------------------------------------------------------------------------------
@requires("a checkout, with its scripts", SOAK.exists())
def test_a_hundred_workers_at_once_are_stored_whole_within_the_brokers_limit() -> None:
    options = ["--workers", "100", "--rate", "20", "--seconds", "3", "--json"]
    done = subprocess.run(
        [sys.executable, str(SOAK), *options], capture_output=True, text=True, timeout=patience(90), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {row["figure"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert figures["workers"]["value"] == 100
    assert figures["emitted"]["ratio"] == figures["stored"]["ratio"] == 1
    assert figures["missing"]["value"] == figures["duplicated"]["value"] == 0
    assert figures["live events of the watched run"]["value"] > 0
    assert figures["broker memory, largest"]["ratio"] < 1


# -- cores -------------------------------------------------------------------------------------------------------
def test_where_cores_are_short_the_store_gives_way_to_the_live_path(tmp_path: Path) -> None:
    port = free_ports()
    with broker(port) as forwarder, store(port, tmp_path) as writer:
        assert niceness(writer) == min(niceness(forwarder) + 5, 19)


def niceness(service: Service) -> int:
    assert service.process is not None
    return os.getpriority(os.PRIO_PROCESS, service.process.pid)


pytestmark = pytest.mark.timeout(120)

if __name__ == "__main__":
    client(*sys.argv[1:])
