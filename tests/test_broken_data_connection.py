"""A data connection that is broken without a word, while the control connection is well, is made anew."""

from __future__ import annotations

import gc
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import zmq
from faultproxy import BROKER_HOST, FaultProxy, Garble
from processes import PORTS, TELEFABRIC, Service, broker, free_ports, store, wait_for
from slowness import patience

from telefabric.address import Address
from telefabric.broker import sockets
from telefabric.broker.service import Broker
from telefabric.feed.broker_feed import BrokerFeed
from telefabric.feed.interface import FeedEvent, LinkState
from telefabric.subscribe import LiveSubscription
from telefabric_schemas import Metric
from telefabric_workers import Worker, connect

HOST = "127.0.0.2"
RENEWED_S = 20.0
"""Some of the 5 s that acknowledgements may be missing, and what a busy machine takes."""
pytestmark = pytest.mark.timeout(90)


@contextmanager
def linked(folder: Path, garble: Garble | None = None) -> Iterator[tuple[FaultProxy, Worker, int]]:
    """A worker behind a proxy, and the port of its data connection."""
    port = free_ports()
    with FaultProxy(HOST, range(port, port + PORTS), seed=1) as proxy, broker(port), store(port, folder):
        proxy.garble = garble
        with connect(f"tcp://{HOST}:{port}", run="run", spool=folder / "spool", exit_flush_s=1.0) as worker:
            yield proxy, worker, port + sockets.DATA.offset


def swallow(proxy: FaultProxy, swallowed_port: int) -> None:
    """What passes the connections to a port that there are now vanishes from now on, and nobody is told."""
    last = proxy.connections
    proxy.garble = lambda number, port, chunk: b"" if port == swallowed_port and number <= last else chunk


def test_a_subscription_that_was_garbled_on_the_way_is_made_anew(tmp_path: Path) -> None:
    garbled = []

    def once(number: int, port: int, chunk: bytes) -> bytes:
        if garbled or b"\x09SUBSCRIBE" not in chunk:
            return chunk
        garbled.append(number)
        return chunk.replace(b"SUBSCRIBE", b"SUBSCRIBD")

    with linked(tmp_path, once) as (_, worker, _port):
        worker.metric("loss", 0.5)
        assert worker.flush(RENEWED_S)
        assert garbled


def test_a_connection_that_delivers_nothing_any_more_is_made_anew(tmp_path: Path) -> None:
    with linked(tmp_path) as (proxy, worker, data_port):
        worker.metric("loss", 0.5)
        assert worker.flush(RENEWED_S)
        swallow(proxy, data_port)
        worker.metric("loss", 0.4)
        assert worker.flush(RENEWED_S)


def test_a_store_that_hears_nothing_while_control_is_well_attaches_anew(tmp_path: Path) -> None:
    port = free_ports()
    command = [*TELEFABRIC, "store", "--connect", f"tcp://{HOST}:{port}", "--data", str(tmp_path)]
    log = tmp_path / "store.log"
    with FaultProxy(HOST, range(port, port + PORTS), seed=1) as proxy, broker(port), Service(command, stderr=log):
        with connect(f"tcp://127.0.0.1:{port}", run="run", spool=tmp_path / "spool", exit_flush_s=1.0) as worker:
            worker.metric("loss", 0.5)
            assert worker.flush(RENEWED_S)
            swallow(proxy, port + sockets.DURABLE.offset)
            worker.metric("loss", 0.4)
            assert worker.flush(RENEWED_S)
        assert log.read_text().count("store.data_renewed") == 1


def comes_live_again(folder: Path, *, worker_at: str, client_at: str, swallowed: int) -> None:
    """Events come live, then a connection behind the proxy swallows all, and they come again. There is no store."""
    port = free_ports()
    follower = BrokerFeed(Address(client_at, port))
    seen: list[FeedEvent] = []

    def came(name: str) -> bool:
        seen.extend(follower.drain().events)
        return any(isinstance(one.event, Metric) and one.event.name == name for one in seen)

    with (
        FaultProxy(HOST, range(port, port + PORTS), seed=1) as proxy,
        broker(port),
        connect(f"tcp://{worker_at}:{port}", run="run", spool=folder / "spool", exit_flush_s=0.0) as worker,
    ):
        follower.watch(frozenset({"run"}))
        follower.start()
        try:
            wait_for(lambda: worker.metric("first", 1.0) or came("first"), "events come live")
            swallow(proxy, port + swallowed)
            wait_for(lambda: worker.metric("second", 1.0) or came("second"), "they come again", RENEWED_S)
        finally:
            follower.stop()


def test_a_client_that_gets_not_even_ticks_while_control_is_well_watches_anew(tmp_path: Path) -> None:
    comes_live_again(tmp_path, worker_at="127.0.0.1", client_at=HOST, swallowed=sockets.WATCH.offset)


def test_a_worker_of_whom_nothing_live_arrives_connects_anew(tmp_path: Path) -> None:
    comes_live_again(tmp_path, worker_at=HOST, client_at="127.0.0.1", swallowed=sockets.LIVE.offset)


class Overlong:
    """A broker in this process that asks its workers for a topic which none of their sockets allows."""

    def __init__(self) -> None:
        self.broker = Broker(Address("127.0.0.1", 0))
        self._lane = self.broker.core.live.lane
        self._wanted = self._lane.wanted

    def ask(self) -> None:
        self._lane.wanted = lambda tapped=(): self._wanted(tapped) | {b"x" * 2_000}  # type: ignore[method-assign]
        self._lane.wishes += 1

    def ask_no_more(self) -> None:
        self._lane.wanted = self._wanted  # type: ignore[method-assign]
        self._lane.wishes += 1


@pytest.mark.parametrize("tapped", [False, True])
def test_a_live_connection_that_a_long_subscription_cost_is_made_anew(tapped: bool, tmp_path: Path) -> None:
    """libzmq ends a connection over MAXMSGSIZE, and whoever dialled it does not dial again."""
    overlong = Overlong()
    service = overlong.broker
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        with (
            watching(service, tapped=tapped) as heard,
            connect(service.address.url, run="run", spool=tmp_path / "spool", exit_flush_s=0.0) as worker,
        ):

            def came(name: str) -> bool:
                worker.metric(name, 0.5)
                return any(name.encode() in raw for raw in heard())

            wait_for(lambda: came("first"), "events come live")
            overlong.ask()
            wait_for(lambda: not worker._outbox._linked.feed.watched, "it is gone")  # type: ignore[attr-defined]
            overlong.ask_no_more()
            wait_for(lambda: came("second"), "they come again", RENEWED_S)
    finally:
        service.stop()
        thread.join(patience(20))


@contextmanager
def watching(service: Broker, *, tapped: bool) -> Iterator[Callable[[], list[bytes]]]:
    """A live subscription, or a listener of the tap; the bytes of what has come."""
    if not tapped:
        with LiveSubscription(service.address, name="watcher", runs=["run"]) as live:
            yield lambda: [one.raw for one in live.poll(0.02)]
        return
    with zmq.Context() as context, context.socket(zmq.SUB) as listener:
        listener.subscribe(b"run\0")
        listener.connect(service.address.resolve(service.core.endpoints.tap or ""))
        yield lambda: listener.recv_multipart() if listener.poll(20) else []


def test_a_client_whose_welcome_was_lost_asks_again(tmp_path: Path) -> None:
    port = free_ports()
    follower = BrokerFeed(Address(HOST, port))
    lost = []

    def once(number: int, at: int, chunk: bytes) -> bytes:
        if lost or b"watching" not in chunk:
            return chunk
        lost.append(number)
        return chunk.replace(b"watching", b"wotching")

    with FaultProxy(HOST, range(port, port + PORTS), seed=1) as proxy, broker(port):
        proxy.garble = once
        follower.start()
        try:
            wait_for(lambda: follower.drain().connection.link is LinkState.LIVE, "it is live", RENEWED_S)
            assert lost
        finally:
            follower.stop()


def test_a_proxy_that_ends_while_connections_come_leaves_none_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whichever test runs when they are collected fails."""
    left: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: left.append(str(found.exc_value)))
    port = free_ports()
    for _ in range(10):
        with closing(socket.create_server((BROKER_HOST, port))), FaultProxy(HOST, [port], seed=1):
            peers = [socket.create_connection((HOST, port)) for _ in range(20)]
        for peer in peers:
            peer.close()
        gc.collect()
    assert left == []
