"""The broker as a process: its sockets and its loop. All decisions are in `telefabric.broker.core.durable`."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import structlog
import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.broker.core.durable import BrokerCore
from telefabric.broker.core.metrics import FAMILIES
from telefabric.broker.harmful_peers import HarmfulPeers, subscriptions, unread_bytes
from telefabric.broker.live_sockets import LiveSockets, Waits
from telefabric.broker.pipes import Pipe
from telefabric.errors import TelefabricError, WireError
from telefabric.metrics.figures import Figures, by_reason
from telefabric.metrics.summary import Health
from telefabric.peer.listener import bind, listener
from telefabric.peer.sockets import receive, send_frames
from telefabric.wire import control

log = structlog.get_logger("telefabric.broker")

OFFSET_DATA, OFFSET_DURABLE = 1, 3
NS = 1_000_000_000
_POLL_MS = 20
_RETRY_MS = 1
_RETRY_LIVE_MS = {Waits.NOTHING: _POLL_MS, Waits.FOR_ROOM: 5, Waits.FOR_A_TURN: 0}
"""While a live subscriber's pipe is full: it cannot tell, and the others' messages wake the loop anyway."""
_CONTROL_TURN_NS = 5_000_000
"""Long messages cost milliseconds each: then the live path has its turn again."""
_BATCHES_A_TURN = 32
"""2 MB of batches, some milliseconds: then the live path has its turn again."""
_LONG_ANSWERED = (control.StatusRequest, control.Watch)
_LONG_ANSWERS = (control.StatusReply, control.Recent)
_SUBSCRIBE, _UNSUBSCRIBE = b"\x01", b"\x00"
_UNSENT = ("control_unreachable", "control_full")
"""Drops of our own messages; all others are refusals of somebody else's."""


class Broker:
    """Binds on construction, serves in `run` until `stop`. Raises `EnvironmentProblem` when a port is in use.

    `show` is given the broker's figures once a second, on the broker's thread; `tend` the time in each turn of it.
    """

    def __init__(
        self,
        listen: Address,
        *,
        required: Sequence[str] = ("store",),
        streams_max: int = limits.STREAMS_MAX,
        show: Callable[[Figures], None] | None = None,
        tend: Callable[[int], None] = lambda now_ns: None,
    ) -> None:
        listen.require_loopback()
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 65_536)
        try:
            self._control, self.address = self._bind(zmq.ROUTER, listen, 0)
            self._data, data = self._bind(zmq.SUB, listen, OFFSET_DATA)
            self._durable, durable = self._bind(zmq.XPUB, listen, OFFSET_DURABLE)
            self._live = LiveSockets(self._context, listen)
        except TelefabricError:
            self._context.destroy(linger=0)
            raise
        self.instance = os.urandom(16)
        self.core = BrokerCore(
            instance=self.instance,
            endpoints=control.Endpoints(
                data=f"*:{data.port}",
                durable=f"*:{durable.port}",
                live=f"*:{self._live.live.port}",
                watch=f"*:{self._live.watch.port}",
                tap=f"*:{self._live.tap.port}",
            ),
            new_token=lambda: os.urandom(16),
            required=required,
            streams_max=streams_max,
        )
        self._subscribed: set[bytes] = set()
        self._harmful = HarmfulPeers()
        self._long_answers: dict[bytes, Pipe] = {}
        """Peer → the pipe of long answers to it, while some of them may not have been sent."""
        self._forget_due_ns = 0
        self._stop = threading.Event()
        self._tend = tend
        self._full = False
        self._retry_ms = _POLL_MS
        self._health = Health("broker", FAMILIES, show, time.monotonic_ns())
        self._refused_told: Counter[str] = Counter()
        self._refused_due_ns = 0

    def stop(self) -> None:
        """End `run` soon. Any thread, and signal handlers."""
        self._stop.set()

    def run(self) -> None:
        """Serve until `stop`; closes all sockets at the end."""
        self._data.subscribe(b"")
        poller = zmq.Poller()
        for socket in (self._control, self._data, self._durable):
            poller.register(socket, zmq.POLLIN)
        self._live.register(poller)
        log.info("broker.started", address=self.address.url, instance=self.instance.hex())
        try:
            while not self._stop.is_set():
                readable = {socket for socket, _ in poller.poll(self._retry_ms)}
                self._turn(readable, time.monotonic_ns())
        finally:
            self._context.destroy(linger=0)
            log.info("broker.stopped", address=self.address.url)

    def _turn(self, readable: set[Any], now_ns: int) -> None:
        """The live path first: nobody waits there for what can wait."""
        self._live.read(self.core.live, readable, now_ns)
        live_waits = self._live.forward(self.core.live, now_ns)
        if self._durable in readable:
            self._read_subscriptions()
        if self._control in readable:
            self._read_control(now_ns)
        if self._data in readable:
            self._read_data(now_ns)
        self.core.tick(now_ns)
        self._forward()
        self._retry_ms = min(_RETRY_MS if self._full else _POLL_MS, _RETRY_LIVE_MS[live_waits])
        self._answer()
        self._forget_sent(now_ns)
        self._tell_refused(now_ns)
        self._health.tend(self.core.figures, now_ns)
        self._tend(now_ns)

    # -- in ------------------------------------------------------------------------------------------------------

    def _read_subscriptions(self) -> None:
        """Enter only subscriptions to a token that was issued; a stranger's is left out and hears nothing."""
        for frame in subscriptions(self._durable):
            wish = frame.bytes
            if wish[:1] == _UNSUBSCRIBE:
                continue  # a subscriber that went: what it misses it asks for again
            if wish[:1] != _SUBSCRIBE:
                self.core.dropped["bad_subscription"] += 1
            elif wish[1:] in self.core.tokens().values():
                self._durable.set(zmq.SUBSCRIBE, wish[1:])
                self._subscribed.add(wish[1:])
                self.core.subscribed(wish[1:])
            else:
                self.core.dropped["unknown_token"] += 1
                self._harmful.count(frame)

    def _read_control(self, now_ns: int) -> None:
        until_ns = time.monotonic_ns() + _CONTROL_TURN_NS
        for _ in range(limits.CONTROL_A_TURN):
            try:
                frames = self._control.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            self._hear(frames, now_ns)
            self._answer()
            if time.monotonic_ns() > until_ns:
                return

    def _hear(self, frames: list[zmq.Frame], now_ns: int) -> None:
        peer, unread = frames[0].bytes, 0
        try:
            if len(frames) != 2:
                raise WireError("frames", f"a control message is one frame, not {len(frames) - 1}")
            message = control.decode(frames[1].bytes)
        except WireError as error:
            self.core.mistaken(peer, error, now_ns)
            return
        if isinstance(message, _LONG_ANSWERED):
            unread = self._unsent_bytes(peer) + unread_bytes(frames[1])
        self.core.receive(peer, message, now_ns, time.time_ns(), unread_bytes=unread)

    def _read_data(self, now_ns: int) -> None:
        for _ in range(_BATCHES_A_TURN):
            frames = receive(self._data)
            if frames is None:
                return
            if len(frames) == 2:
                self.core.batch(frames[1], now_ns, topic=frames[0])
            else:
                error = WireError("frames", f"a batch comes in two frames, not {len(frames)}", about="batch")
                self.core.bad_batch(frames[0], error, now_ns)

    # -- out -----------------------------------------------------------------------------------------------------

    def _forward(self) -> None:
        """Give each durable subscriber what follows its cursor, until its pipe is full."""
        self._full = False
        tokens = self.core.tokens()
        self._subscribed.intersection_update(tokens.values())
        for name, token in tokens.items():
            if token not in self._subscribed:
                continue
            while (message := self.core.lane.peek(name)) is not None:
                if not send_frames(self._durable, token, message):
                    self._full = True
                    break
                self.core.lane.sent(name)

    def _answer(self) -> None:
        for peer, message in self.core.take():
            try:
                if not self._send(peer, message):
                    self.core.dropped["control_full"] += 1
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                self.core.dropped["control_unreachable"] += 1

    def _send(self, peer: bytes, message: control.Message) -> bool:
        if isinstance(message, _LONG_ANSWERS):
            pipe = self._long_answers.setdefault(peer, Pipe())
            return pipe.send(self._control, peer, control.encode(message))
        return send_frames(self._control, peer, control.encode(message))

    def _unsent_bytes(self, peer: bytes) -> int:
        """Bytes of long answers that the peer has not been sent."""
        pipe = self._long_answers.get(peer)
        return pipe.unsent_bytes if pipe else 0

    def _tell_refused(self, now_ns: int) -> None:
        """Say what was refused since the last time, by reason; once a second, however much it is."""
        if now_ns < self._refused_due_ns:
            return
        refused = self.core.dropped + self.core.live.lane.dropped
        for reason in _UNSENT:
            del refused[reason]
        new = refused - self._refused_told
        if new:
            log.warning("broker.refused", messages=new.total(), reasons=by_reason(new))
            self._refused_told = refused
        self._refused_due_ns = time.monotonic_ns() + int(limits.LOG_INTERVAL_S * NS)

    def _forget_sent(self, now_ns: int) -> None:
        """Once a second, for there can be many peers."""
        if now_ns >= self._forget_due_ns:
            self._forget_due_ns = now_ns + NS
            self._long_answers = {peer: pipe for peer, pipe in self._long_answers.items() if pipe.unsent_bytes}

    def _bind(self, kind: int, listen: Address, offset: int) -> tuple[zmq.Socket[Any], Address]:
        socket = listener(self._context, kind)
        if kind == zmq.ROUTER:
            socket.set(zmq.ROUTER_MANDATORY, 1)
            socket.set(zmq.ROUTER_HANDOVER, 1)
            socket.set(zmq.SNDHWM, limits.CONTROL_HWM)
            socket.set(zmq.RCVHWM, limits.CONTROL_RECEIVE_HWM)
            socket.set(zmq.MAXMSGSIZE, limits.CONTROL_BYTES_MAX)
        elif kind == zmq.SUB:
            socket.set(zmq.RCVHWM, limits.DATA_HWM)
        else:
            socket.set(zmq.SNDHWM, limits.DURABLE_HWM)
            socket.set(zmq.RCVHWM, limits.SUBSCRIPTIONS_HWM)
            socket.set(zmq.XPUB_MANUAL, 1)
            socket.set(zmq.XPUB_NODROP, 1)
            socket.set(zmq.MAXMSGSIZE, limits.TOKEN_SUBSCRIPTION_BYTES_MAX)
        return socket, bind(socket, listen.beside(offset))
