"""The broker's live sockets: from workers, to live subscribers, and the plain tap.

`telefabric.broker.core.live_lane` decides which subscriber gets which batch; this file moves the frames.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.broker.core.live_lane import LiveCore
from telefabric.broker.core.live_queue import LiveSubscriber
from telefabric.broker.harmful_peers import HarmfulPeers, subscriptions
from telefabric.broker.pipes import Pipe
from telefabric.errors import WireError
from telefabric.peer.listener import bind, listener
from telefabric.peer.sockets import receive, send_frames
from telefabric.wire.batch import ABOUT, parse_header
from telefabric.wire.delivery import encode_delivery

OFFSET_LIVE, OFFSET_TAP, OFFSET_WATCH = 2, 5, 6
_MESSAGES_A_TURN = 200
_DELIVERIES_A_TURN = 64
"""Deliveries to one subscriber before the others have their turn."""
_LARGE_BYTES = 64 * limits.KIB
"""Larger batches wait in the pipes of all subscribers as one copy, up to a limit in bytes."""
_A_TOPIC_NS = 50_000
"""Time between two new topics that the workers are asked for."""
_SUBSCRIBE, _UNSUBSCRIBE = b"\x01", b"\x00"


class Waits(IntEnum):
    """The moment for which the live subscribers' queues wait, if any."""

    NOTHING = 0
    FOR_ROOM = 1
    """In a pipe, which cannot tell when there is."""
    FOR_A_TURN = 2


class LiveSockets:
    """Binds on construction. The broker's thread."""

    def __init__(self, context: zmq.Context[Any], listen: Address) -> None:
        self._live = listener(context, zmq.SUB)
        self._watch = listener(context, zmq.XPUB)
        self._tap = listener(context, zmq.XPUB)
        self._live.set(zmq.RCVHWM, limits.LIVE_WORKERS_HWM)
        self._watch.set(zmq.XPUB_MANUAL, 1)
        self._watch.set(zmq.XPUB_NODROP, 1)
        for socket in (self._watch, self._tap):
            socket.set(zmq.SNDHWM, limits.LIVE_HWM)
            socket.set(zmq.SNDBUF, limits.LIVE_SOCKET_BYTES)
            socket.set(zmq.RCVHWM, limits.SUBSCRIPTIONS_HWM)
            socket.set(zmq.MAXMSGSIZE, limits.SUBSCRIPTION_BYTES_MAX)
        self._watch.set(zmq.MAXMSGSIZE, limits.TOKEN_SUBSCRIPTION_BYTES_MAX)
        self._tap.set(zmq.SNDHWM, limits.TAP_HWM)
        self.live = bind(self._live, listen.beside(OFFSET_LIVE))
        self.tap = bind(self._tap, listen.beside(OFFSET_TAP))
        self.watch = bind(self._watch, listen.beside(OFFSET_WATCH))
        self._asked: set[bytes] = set()
        self._tapped: set[bytes] = set()
        self._tap_pipe = Pipe()
        self._pipes: dict[bytes, Pipe] = {}
        """Token → pipe, for subscribers that have subscribed to their tokens."""
        self._wishes = -1
        """Version of the lane's wishes when the workers were last asked."""
        self._ask_due_ns = 0
        self._harmful = HarmfulPeers()

    def register(self, poller: zmq.Poller) -> None:
        for socket in (self._live, self._watch, self._tap):
            poller.register(socket, zmq.POLLIN)

    def read(self, core: LiveCore, readable: set[Any], now_ns: int) -> None:
        """Subscriptions first, then what workers publish."""
        if self._watch in readable:
            self._read_tokens(core)
        if self._tap in readable:
            self._read_tap(core)
        if self._live in readable:
            self._read_batches(core, now_ns)
        self._ask_workers(core, now_ns)

    def forward(self, core: LiveCore, now_ns: int) -> Waits:
        """Give each subscriber what waits for it, until its pipe is full, or the others have their turn."""
        found = Waits.NOTHING
        due = core.tick(now_ns)
        for token in self._pipes.keys() - core.lane.subscribers.keys():
            del self._pipes[token]
        for token in self._pipes:
            subscriber = core.lane.subscribers[token]
            found = max(found, self._deliver(token, subscriber, now_ns))
            tick = subscriber.tick() if token in due else None
            if tick is not None and send_frames(self._watch, token, encode_delivery(tick), b""):
                subscriber.ticked()
        return found

    def _deliver(self, token: bytes, subscriber: LiveSubscriber, now_ns: int) -> Waits:
        for _ in range(_DELIVERIES_A_TURN):
            item = subscriber.peek(now_ns)
            if item is None:
                return Waits.NOTHING
            if not self._send(token, encode_delivery(subscriber.delivery(item)), item.message):
                return Waits.FOR_ROOM
            subscriber.sent(item)
        return Waits.FOR_A_TURN

    def _send(self, token: bytes, said: bytes, message: bytes) -> bool:
        """False when the subscriber's pipe has no room for it."""
        if len(message) < _LARGE_BYTES:
            return send_frames(self._watch, token, said, message)
        pipe = self._pipes[token]
        if not pipe.has_room(len(message), limits.LIVE_PIPES_BYTES_MAX // len(self._pipes)):
            return False
        return pipe.send(self._watch, token, said, message)

    def _read_tokens(self, core: LiveCore) -> None:
        """Enter only subscriptions to a token that was issued."""
        for frame in subscriptions(self._watch):
            wish = frame.bytes
            if wish[:1] == _UNSUBSCRIBE:
                continue  # a subscriber that is gone stops its heartbeats
            if wish[:1] == _SUBSCRIBE and wish[1:] in core.lane.subscribers:
                self._watch.set(zmq.SUBSCRIBE, wish[1:])
                self._pipes.setdefault(wish[1:], Pipe())
            else:
                core.lane.dropped["unknown_token"] += 1
                self._harmful.count(frame)

    def _read_tap(self, core: LiveCore) -> None:
        for frame in subscriptions(self._tap):
            wish, topic = frame.bytes[:1], frame.bytes[1:]
            if wish == _UNSUBSCRIBE:
                self._tapped.discard(topic)
            elif wish == _SUBSCRIBE and len(self._tapped) < limits.TAP_TOPICS_MAX:
                self._tapped.add(topic)
            else:
                core.lane.dropped["tap_full"] += 1
                self._harmful.count(frame)
            self._wishes = -1

    def _read_batches(self, core: LiveCore, now_ns: int) -> None:
        for _ in range(_MESSAGES_A_TURN):
            frames = receive(self._live)
            if frames is None:
                return
            try:
                topic, message = self._take(core, frames, now_ns)
            except WireError as error:
                core.mistaken(error.stream, error)
                continue
            if self._tapped and not self._tap_on(topic, message):
                core.lane.dropped["tap_behind"] += 1

    @staticmethod
    def _take(core: LiveCore, frames: list[bytes], now_ns: int) -> list[bytes]:
        """Topic and batch, when that is what it is."""
        if len(frames) != 2:
            raise WireError("bad_live", f"a live batch comes in two frames, not {len(frames)}", about=ABOUT)
        topic, message = frames
        header, _ = parse_header(message)
        if not header.is_live:
            why = "a batch on the live socket has no live flag: send durable ones on the data socket"
            raise WireError("not_live", why, about=ABOUT, field="flags", stream=header.stream)
        core.lane.push(topic, header, message, now_ns)
        return frames

    def _tap_on(self, topic: bytes, message: bytes) -> bool:
        """A listener whose pipe is full misses it; a large batch that does not fit beside others, all of them."""
        if len(message) < _LARGE_BYTES:
            return send_frames(self._tap, topic, message)
        fits = self._tap_pipe.has_room(len(message), limits.TAP_PIPES_BYTES_MAX)
        return fits and self._tap_pipe.send(self._tap, topic, message)

    def _ask_workers(self, core: LiveCore, now_ns: int) -> None:
        """Subscribe to what is wanted and nothing else, so that an unwatched run costs its worker nothing.

        So many topics a second: what one worker has not read of them waits here, without a limit. Whoever wants other
        runs again and again is asked for with the newest of its wishes.
        """
        if self._wishes == core.lane.wishes or now_ns < self._ask_due_ns:
            return
        self._wishes = core.lane.wishes
        wanted = core.lane.wanted(self._tapped)
        for topic in wanted - self._asked:
            self._live.subscribe(topic)
        for topic in self._asked - wanted:
            self._live.unsubscribe(topic)
        core.lane.asked(self._asked, wanted)
        self._ask_due_ns = now_ns + len(wanted ^ self._asked) * _A_TOPIC_NS
        self._asked = wanted
