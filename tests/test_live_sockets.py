"""What the broker's live sockets hold of large batches for those who do not read, in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import zmq
from processes import free_ports, wait_for

from telefabric import limits
from telefabric.address import Address
from telefabric.broker import sockets
from telefabric.broker.core.durable import BrokerCore
from telefabric.broker.core.live_queue import LiveSubscriber
from telefabric.broker.live_sockets import LiveSockets
from telefabric.keys.entrance import Entrance
from telefabric.peer.sockets import common_options, receive
from telefabric.wire import batch, control
from telefabric.wire.delivery import topic_of

TOKEN, LATER = b"t" * 16, b"u" * 16
TOPIC = topic_of("run", "log")
LARGE, BATCHES = 2 * limits.MIB, 60
AT_THE_PEER = 3
"""One or two in its socket, one in the system's buffers and under way."""


class Broker:
    """Live sockets and their lane, without a loop of their own, and peers that read nothing until they are asked to."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        self._held: list[zmq.Socket[bytes]] = []
        """Until the context closes them."""
        self.listen = Address("127.0.0.1", free_ports())
        self.core = BrokerCore(instance=bytes(16), endpoints=control.Endpoints("", ""), new_token=lambda: TOKEN)
        self.sockets = LiveSockets(self._context, self.listen, Entrance())
        self.poller = zmq.Poller()
        self.sockets.register(self.poller)

    def turn(self) -> bool:
        """Always false, for who waits for something else."""
        readable = {socket for socket, _ in self.poller.poll(0)}
        self.sockets.read(self.core, readable, 0)
        self.sockets.forward(self.core.live, 0)
        return False

    def subscriber(self, token: bytes) -> tuple[LiveSubscriber, zmq.Socket[bytes]]:
        one = LiveSubscriber()
        one.want(control.Watch(control.PROTOCOL, "slow", None, None))
        self.core.live.lane.add(token, one)
        socket = self.peer(sockets.WATCH.offset, token)
        self.push(bytes(10))
        wait_for(lambda: self.turn() or socket.poll(0), "the subscription has come")
        receive(socket)
        return one, socket

    def peer(self, offset: int, topic: bytes) -> zmq.Socket[bytes]:
        socket = self._socket(zmq.SUB)
        socket.set(zmq.RCVHWM, 1)
        socket.set(zmq.RCVBUF, limits.LIVE_SOCKET_BYTES)
        socket.connect(self.listen.beside(offset).url)
        socket.subscribe(topic)
        return socket

    def worker(self) -> zmq.Socket[bytes]:
        """Connected, and asked for all that it has."""
        socket = self._socket(zmq.XPUB)
        socket.connect(self.listen.beside(sockets.LIVE.offset).url)
        wait_for(lambda: self.turn() or socket.poll(0), "the broker asks for what it has")
        return socket

    def push(self, body: bytes) -> None:
        message = live_batch(body)
        self.core.live.lane.push(TOPIC, batch.parse_header(message)[0], message, 0)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        common_options(socket)
        self._held.append(socket)
        return socket


@pytest.fixture
def broker() -> Iterator[Broker]:
    context = zmq.Context()
    try:
        yield Broker(context)
    finally:
        context.destroy(linger=0)


def live_batch(body: bytes) -> bytes:
    return batch.pack(batch.Header(
        session=bytes(16), stream=b"s" * 16, epoch=0, first_seq=1, last_seq=1, events=1, counter=1, time_ns=1,
        flags=batch.FLAG_LIVE,
    ), body)  # fmt: skip


def read_until(broker: Broker, socket: zmq.Socket[bytes], enough: Callable[[int], bool]) -> int:
    """How many large batches were read."""
    found = 0

    def read() -> bool:
        nonlocal found
        broker.turn()
        while (frames := receive(socket)) is not None:
            found += len(frames[-1]) > LARGE
        return enough(found)

    wait_for(read, "they come")
    return found


def test_large_batches_wait_in_the_queue_where_they_are_counted(broker: Broker) -> None:
    one, socket = broker.subscriber(TOKEN)
    for _ in range(BATCHES):
        broker.push(bytes(LARGE))
        broker.turn()
    fits = limits.LIVE_PIPES_BYTES_MAX // LARGE
    assert fits - 1 <= one.delivered - 1 <= fits + AT_THE_PEER
    assert one.dropped["queue_full"] > 0
    found = read_until(broker, socket, lambda found: not one.queued_events and found == one.delivered - 1)
    assert found + one.dropped.total() == BATCHES


def test_each_subscriber_has_its_share_and_room_for_one(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LIVE_PIPES_BYTES_MAX", 2 * LARGE - 1)
    both = [broker.subscriber(token) for token in (TOKEN, LATER)]
    first = [one.delivered for one, _ in both]
    for _ in range(8):
        broker.push(bytes(LARGE))
        broker.turn()
    for (one, _), before in zip(both, first, strict=True):
        assert 1 <= one.delivered - before <= 1 + AT_THE_PEER
    for one, socket in both:
        read_until(broker, socket, lambda _, one=one: not one.queued_events)
        assert not one.dropped


def test_the_tap_holds_so_much_and_counts_the_rest(broker: Broker) -> None:
    listener = broker.peer(sockets.TAP.offset, b"")
    worker = broker.worker()
    message = live_batch(bytes(LARGE))
    for sent in range(1, BATCHES + 1):
        worker.send_multipart((TOPIC, message))
        wait_for(lambda sent=sent: broker.turn() or taken_in(broker) == sent, "it was taken in")
    behind = broker.core.live.lane.dropped["tap_behind"]
    fits = limits.TAP_PIPES_BYTES_MAX // LARGE
    assert BATCHES - fits - AT_THE_PEER <= behind <= BATCHES - fits + 1
    assert read_until(broker, listener, lambda found: found == BATCHES - behind)


def taken_in(broker: Broker) -> int:
    return sum(account.received for account in broker.core.live.lane.ledger.sources.values())
