"""A relay for the live path's messages, on another loopback host, that loses some of them whole and remembers which.

A broker names its sockets ``*:port``, so peers that dial this host come here: the live and the watch port lead through
ZeroMQ sockets, all others through a proxy that changes nothing.
"""

from __future__ import annotations

import threading
from random import Random
from typing import Any

import zmq
from faultproxy import FaultProxy
from processes import PORTS
from slowness import patience

from telefabric.broker import sockets
from telefabric.wire.batch import parse_header
from telefabric.wire.delivery import decode_delivery, topic_parts

_BROKER = "127.0.0.1"


class LossyRelay:
    """A context manager. `loss` is the share of messages that vanish from now on, on either leg."""

    def __init__(self, host: str, port: int, seed: int) -> None:
        self.loss = 0.0
        self.lost_to_broker = 0
        """Events in lost batches of workers, of kinds that a worker numbers, ticks and overflows among them."""
        self.lost_to_client = 0
        """Events in lost deliveries, and those that these told as dropped."""
        self._random = Random(seed)
        live, watch = port + sockets.LIVE.offset, port + sockets.WATCH.offset
        self._proxy = FaultProxy(host, [one for one in range(port, port + PORTS) if one not in (live, watch)], seed)
        self._context = zmq.Context()
        self._legs = [self._leg(host, live, up=True), self._leg(host, watch, up=False)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lossy-relay")

    def _leg(self, host: str, port: int, *, up: bool) -> tuple[zmq.Socket[Any], zmq.Socket[Any]]:
        """Where messages come in, and where they go out; `up` is from workers to the broker."""
        source, sink = self._context.socket(zmq.SUB), self._context.socket(zmq.XPUB)
        bound, connected = (source, sink) if up else (sink, source)
        for socket in (source, sink):
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.SNDHWM, 100_000)
            socket.set(zmq.RCVHWM, 100_000)
        bound.bind(f"tcp://{host}:{port}")
        connected.connect(f"tcp://{_BROKER}:{port}")
        return source, sink

    def __enter__(self) -> LossyRelay:
        self._proxy.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(patience(10))
        self._context.destroy(linger=0)
        self._proxy.__exit__()

    def _run(self) -> None:
        poller = zmq.Poller()
        for source, sink in self._legs:
            poller.register(source, zmq.POLLIN)
            poller.register(sink, zmq.POLLIN)
        while not self._stop.is_set():
            ready = dict(poller.poll(20))
            for source, sink in self._legs:
                while sink in ready and sink.poll(0):
                    wish = sink.recv()
                    source.set(zmq.SUBSCRIBE if wish[:1] == b"\x01" else zmq.UNSUBSCRIBE, wish[1:])
                while source in ready and source.poll(0):
                    self._pass(source.recv_multipart(), sink)

    def _pass(self, frames: list[bytes], sink: zmq.Socket[Any]) -> None:
        if self._random.random() >= self.loss:
            sink.send_multipart(frames)
        elif len(frames) == 2:
            parts = topic_parts(frames[0])
            assert parts is not None
            self.lost_to_broker += parse_header(frames[1])[0].events
        else:
            told = sum(drop.events for drop in decode_delivery(frames[1]).drops)
            self.lost_to_client += told + (parse_header(frames[2])[0].events if frames[2] else 0)
