"""The broker's live sockets: from workers, to live subscribers, and the plain tap.

`telefabric.broker.core.live_lane` decides which subscriber gets which batch; this file moves the frames.
"""

from __future__ import annotations

from typing import Any

import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.broker import sockets
from telefabric.broker.core.durable import BrokerCore
from telefabric.broker.core.live_lane import LiveCore, LiveLane
from telefabric.broker.core.live_queue import LiveSubscriber
from telefabric.broker.pipes import Pipe
from telefabric.errors import WireError
from telefabric.keys.entrance import Entrance
from telefabric.peer.core.principal import Principal
from telefabric.peer.listener import published
from telefabric.peer.sockets import send_frames
from telefabric.wire.batch import ABOUT, parse_header
from telefabric.wire.delivery import encode_delivery

POLL_MS = 20
_ROOM_MS = 5
"""While a live subscriber's pipe is full: it cannot tell, and the others' messages wake the loop anyway."""
_MESSAGES_A_TURN = 200
_DELIVERIES_A_TURN = 64
"""Deliveries to one subscriber before the others have their turn."""
_A_TOPIC_NS = 50_000
"""Time between two new topics that the workers are asked for."""


def _tapped(setting: str, listen: Address, entrance: Entrance) -> Address | None:
    """Where the tap listens, if anywhere: it is plain, and so never leaves this machine."""
    if not (setting == "on" or (setting == "auto" and not entrance.has_keys)):
        return None
    return listen._replace(host="127.0.0.1") if entrance.has_keys else listen


class LiveSockets:
    """Binds on construction. The broker's thread."""

    def __init__(self, context: zmq.Context[Any], listen: Address, entrance: Entrance, *, tap: str = "auto") -> None:
        """`tap` as in the settings."""
        self._live, self._guard, live = sockets.opened(context, sockets.LIVE, listen, entrance)
        self._tap, _, tapped = sockets.opened(context, sockets.TAP, _tapped(tap, listen, entrance), entrance)
        self._watch, guard, watch = sockets.opened(context, sockets.WATCH, listen, entrance)
        self.addresses = {"live": live, "tap": tapped, "watch": watch}
        self._tokens = sockets.Tokens(self._watch, guard, nonsense="unknown_token")
        self._asked: set[bytes] = set()
        self._tapped: set[bytes] = set()
        self._tap_pipe = Pipe()
        self._pipes: dict[bytes, Pipe] = {}
        """Token → pipe, for subscribers that have subscribed to their tokens."""
        self._wishes = -1
        """Version of the lane's wishes when the workers were last asked."""
        self._ask_due_ns = 0
        self._harmful = sockets.HarmfulPeers()

    def register(self, poller: zmq.Poller) -> None:
        for socket in (self._live, self._watch, self._tap):
            poller.register(socket, zmq.POLLIN)

    def read(self, core: BrokerCore, readable: set[Any], now_ns: int) -> None:
        """Subscriptions first, then what workers publish."""
        if self._watch in readable:
            for token in self._tokens.enter(core.live.lane.subscribers, core.live.lane.dropped, core.blame):
                self._pipes.setdefault(token, Pipe())
        if self._tap in readable:
            self._read_tap(core.live.lane)
        if self._live in readable:
            self._read_batches(core, now_ns)
        self._ask_workers(core.live.lane, now_ns)

    def forward(self, core: LiveCore, now_ns: int) -> int:
        """Give each subscriber what waits for it, until its pipe is full, or the others have their turn.

        Returns how many milliseconds later it has to be called again.
        """
        wait_ms = POLL_MS
        due = core.tick(now_ns)
        for token in self._pipes.keys() - core.lane.subscribers.keys():
            del self._pipes[token]
        for token in self._pipes:
            subscriber = core.lane.subscribers[token]
            wait_ms = min(wait_ms, self._deliver(token, subscriber, now_ns))
            tick = subscriber.tick() if token in due else None
            if tick is not None and send_frames(self._watch, token, encode_delivery(tick), b""):
                subscriber.ticked()
        return wait_ms

    def _deliver(self, token: bytes, subscriber: LiveSubscriber, now_ns: int) -> int:
        pipe_bytes_max = limits.LIVE_PIPES_BYTES_MAX // len(self._pipes)
        for _ in range(_DELIVERIES_A_TURN):
            item = subscriber.peek(now_ns)
            if item is None:
                return POLL_MS
            head = encode_delivery(subscriber.delivery(item))
            if not self._pipes[token].send_within(pipe_bytes_max, self._watch, token, head, item.message):
                return _ROOM_MS
            subscriber.sent(item)
        return 0

    def _read_tap(self, lane: LiveLane) -> None:
        for wish, topic, frame in sockets.subscriptions(self._tap):
            if wish == sockets.UNSUBSCRIBE:
                self._tapped.discard(topic)
            elif wish == sockets.SUBSCRIBE and len(self._tapped) < limits.TAP_TOPICS_MAX:
                self._tapped.add(topic)
            else:
                lane.dropped["tap_full"] += 1
                self._harmful.count(frame)
            self._wishes = -1

    def _read_batches(self, core: BrokerCore, now_ns: int) -> None:
        for principal, frames in published(self._live, self._guard, _MESSAGES_A_TURN):
            try:
                topic, message = self._take(core, principal, frames, now_ns)
            except WireError as error:
                core.bad_live_batch(error, now_ns, principal)
                continue
            # A listener whose pipe is full misses it; a large batch that does not fit beside others, all of them.
            pipe, most = self._tap_pipe, limits.TAP_PIPES_BYTES_MAX
            if self._tapped and not pipe.send_within(most, self._tap, topic, message):
                core.live.lane.dropped["tap_behind"] += 1

    @staticmethod
    def _take(core: BrokerCore, principal: Principal, frames: list[bytes], now_ns: int) -> list[bytes]:
        """Topic and batch, when that is what it is."""
        if len(frames) != 2:
            raise WireError("bad_live", f"a live batch comes in two frames, not {len(frames)}", about=ABOUT)
        topic, message = frames
        header, _ = parse_header(message)
        if not header.is_live:
            why = "a batch on the live socket has no live flag: send durable ones on the data socket"
            raise WireError("not_live", why, about=ABOUT, field="flags", stream=header.stream)
        core.require_carrier(principal, header.stream, topic)
        core.live.lane.push(topic, header, message, now_ns)
        return frames

    def _ask_workers(self, lane: LiveLane, now_ns: int) -> None:
        """Subscribe to what is wanted and nothing else, so that an unwatched run costs its worker nothing.

        So many topics a second: what one worker has not read of them waits here, without a limit. Whoever wants other
        runs again and again is asked for with the newest of its wishes.
        """
        if self._wishes == lane.wishes or now_ns < self._ask_due_ns:
            return
        self._wishes = lane.wishes
        wanted = lane.wanted(self._tapped)
        for topic in wanted - self._asked:
            self._live.subscribe(topic)
        for topic in self._asked - wanted:
            self._live.unsubscribe(topic)
        lane.asked(self._asked, wanted)
        self._ask_due_ns = now_ns + len(wanted ^ self._asked) * _A_TOPIC_NS
        self._asked = wanted
