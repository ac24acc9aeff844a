"""The broker as a process: its sockets and its loop. All decisions are in `telefabric.broker.core.durable`."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.broker.core.durable import BrokerCore
from telefabric.broker.core.metrics import FAMILIES, KEYS_REFUSED
from telefabric.broker.door import Door
from telefabric.broker.live_sockets import LiveSockets
from telefabric.broker.pipes import Pipe, unread_bytes
from telefabric.broker.sockets import CONTROL, DATA, DURABLE, OwnUserSocket, Tokens, opened
from telefabric.errors import TelefabricError, WireError
from telefabric.keys.core.roles import Role
from telefabric.keys.key_folder import KeyFolder
from telefabric.log.events import EventLog
from telefabric.metrics.figures import Figures, by_reason
from telefabric.metrics.summary import Health
from telefabric.peer import own_socket
from telefabric.peer.core.principal import Peer, Principal
from telefabric.peer.listener import Guard, Heard, hear, published
from telefabric.peer.sockets import send_frames
from telefabric.wire import control

log = EventLog("telefabric.broker")

_RETRY_MS = 1
_CONTROL_TURN_NS = 5_000_000
"""Long messages cost milliseconds each: then the live path has its turn again."""
_BATCHES_A_TURN = 32
"""2 MB of batches, some milliseconds: then the live path has its turn again."""
_LONG_ANSWERED = (control.StatusRequest, control.Watch)
_LONG_ANSWERS = (control.StatusReply, control.Recent)
_UNSENT = ("control_unreachable", "control_full")
"""Drops of our own messages; all others are refusals of somebody else's."""


class Broker:
    """Binds on construction, serves in `run` until `stop`. Raises `EnvironmentProblem` when a port is in use.

    With `keys` it asks everybody for one, and may listen beyond loopback.

    `show` is given the broker's figures once a second, on the broker's thread; `tend` the time in each turn of it.
    """

    def __init__(
        self,
        listen: Address,
        *,
        required: Sequence[str] = ("store",),
        streams_max: int = limits.STREAMS_MAX,
        show: Callable[[Figures], None] | None = None,
        keys: KeyFolder | None = None,
        tap: str = "auto",
        tend: Callable[[int], None] = lambda now_ns: None,
    ) -> None:
        if keys is None:
            listen.require_loopback()
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 65_536)
        try:
            self._door = Door(self._context, listen, keys)
            entrance = self._door.entrance
            self._control, self._control_guard, address = opened(self._context, CONTROL, listen, entrance)
            self._data, self._data_guard, data = opened(self._context, DATA, listen, entrance)
            self._durable, guard, durable = opened(self._context, DURABLE, listen, entrance)
            self._live = LiveSockets(self._context, listen, entrance, tap=tap)
            assert address is not None
            by_system = keys is None and own_socket.SUPPORTED
            self._own_user = OwnUserSocket(self._context, address) if by_system else None
        except TelefabricError:
            self._context.destroy(linger=0)
            raise
        self.address = address
        addresses = {"data": data, "durable": durable, **self._live.addresses}
        self.core = BrokerCore(
            endpoints=control.Endpoints(**{name: _endpoint(one, address) for name, one in addresses.items() if one}),
            instance=os.urandom(16), new_token=lambda: os.urandom(16), required=required, streams_max=streams_max,
            refused=entrance.refused,
        )  # fmt: skip
        self._tokens = Tokens(self._durable, guard, nonsense="bad_subscription")
        self._long_answers: defaultdict[bytes, Pipe] = defaultdict(Pipe)
        """Peer → the pipe of long answers to it, while some of them may not have been sent."""
        self.rotated = False
        """`run` has ended because the server's key has changed: make another broker."""
        self._stopped = False  # an Event takes a lock, which the code that a signal interrupts may hold
        self._tend = tend
        self._health = Health("broker", FAMILIES, show, time.monotonic_ns())
        self._refused_told: Counter[str] = Counter()
        self._tidy_due_ns = 0

    def stop(self) -> None:
        """End `run` soon, and for good. Any thread, and signal handlers."""
        self.rotated = False
        self._stopped = True

    def run(self) -> None:
        """Serve until `stop`; closes all sockets at the end."""
        self._data.subscribe(b"")
        poller = zmq.Poller()
        for socket in (self._control, self._data, self._durable):
            poller.register(socket, zmq.POLLIN)
        self._live.register(poller)
        if self._own_user is not None:
            poller.register(self._own_user.socket, zmq.POLLIN)
        self._door.register(poller)
        log.info("broker.started", address=self.address.url, instance=self.core.instance.hex())
        wait_ms = 0
        try:
            while not self._stopped:
                readable = {socket for socket, _ in poller.poll(wait_ms)}
                wait_ms = self._turn(readable, time.monotonic_ns())
        finally:
            if self._own_user is not None:
                self._own_user.remove()
            self._context.destroy(linger=0)
            log.info("broker.stopped", address=self.address.url)

    def _turn(self, readable: set[Any], now_ns: int) -> int:
        """How long the next turn may wait. The live path comes first: nobody waits there for what can wait."""
        self._let_in()
        self._live.read(self.core, readable, now_ns)
        wait_ms = self._live.forward(self.core.live, now_ns)
        if self._durable in readable:
            for token in self._tokens.enter(self.core.tokens().values(), self.core.dropped, self.core.blame):
                self.core.subscribed(token)
        if self._control in readable:
            self._read_control(self._control, self._control_guard, now_ns)
        if self._own_user is not None and self._own_user.socket in readable:
            self._read_control(self._own_user.socket, self._own_user.guard, now_ns)
        if self._data in readable:
            self._read_data(now_ns)
        self.core.tick(now_ns)
        if self._forward():
            wait_ms = min(wait_ms, _RETRY_MS)
        self._answer()
        self._tidy(now_ns)
        self._health.tend(self._figures, now_ns)
        self._tend(now_ns)
        return wait_ms

    def _let_in(self) -> None:
        """Handshakes, and new keys; whose key has ended is shown out."""
        for key in self._door.tend():
            log.info("keys.joined", name=key.name, role=key.role.value, runs=key.runs, holder=key.holder)
        if self._door.ended:
            names = {key.name for key in self._door.ended}
            log.info("keys.ended", names=sorted(names))
            self.core.expel(names)

    def _see_off(self, principal: Principal) -> None:
        """A key that was made for one worker has done its work."""
        if not self.core.carries(principal):
            self._door.end_brief(principal.name)

    # -- in ------------------------------------------------------------------------------------------------------

    def _read_control(self, router: zmq.Socket[Any], guard: Guard, now_ns: int) -> None:
        until_ns = time.monotonic_ns() + _CONTROL_TURN_NS
        for heard in islice(iter(partial(hear, router, guard), None), limits.CONTROL_A_TURN):
            self._read_message(heard, now_ns)
            self._answer()
            if time.monotonic_ns() > until_ns:
                return

    def _read_message(self, heard: Heard, now_ns: int) -> None:
        (peer, frames), unread = heard, 0
        try:
            if len(frames) != 1:
                raise WireError("frames", f"a control message is one frame, not {len(frames)}")
            message = control.decode(frames[0].bytes)
        except WireError as error:
            self.core.mistaken(peer, error, now_ns)
            return
        if isinstance(message, _LONG_ANSWERED):
            unread = self._long_answers[peer.id].unsent_bytes + unread_bytes(frames[0])
        self.core.receive(peer, message, now_ns, time.time_ns(), unread_bytes=unread)
        if self._door.gate is not None and isinstance(message, control.Bye) and message.complete:
            self._see_off(peer.principal)

    def _read_data(self, now_ns: int) -> None:
        for principal, frames in published(self._data, self._data_guard, _BATCHES_A_TURN):
            if len(frames) == 2:
                self.core.batch(frames[1], now_ns, topic=frames[0], principal=principal)
            else:
                error = WireError("frames", f"a batch comes in two frames, not {len(frames)}", about="batch")
                self.core.bad_batch(frames[0], error, now_ns, principal)

    # -- out -----------------------------------------------------------------------------------------------------

    def _forward(self) -> bool:
        """Give each durable subscriber what follows its cursor, until its pipe is full; whether one is."""
        full = False
        for name, durable in self.core.durables.items():
            while durable.subscribed and (message := self.core.lane.peek(name)) is not None:
                if not send_frames(self._durable, durable.token, message):
                    full = True
                    break
                self.core.lane.sent(name)
        return full

    def _answer(self) -> None:
        for peer, message in self.core.take():
            send = self._long_answers[peer.id].send if isinstance(message, _LONG_ANSWERS) else send_frames
            try:
                if not send(self._router_for(peer), peer.id, control.encode(message)):
                    self.core.dropped["control_full"] += 1
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                self.core.dropped["control_unreachable"] += 1

    def _router_for(self, peer: Peer) -> zmq.Socket[Any]:
        """By which it came."""
        if self._own_user is not None and peer.principal.role is Role.BROKERS_USER:
            return self._own_user.socket
        return self._control

    def _figures(self, now_ns: int) -> Figures:
        return {**self.core.figures(now_ns), KEYS_REFUSED: {tuple(one): n for one, n in self.core.refused.items()}}

    def _tidy(self, now_ns: int) -> None:
        """Once a second: say what was refused since, by reason, and forget the pipes of long answers that were sent."""
        if now_ns < self._tidy_due_ns:
            return
        refused = self.core.dropped + self.core.live.lane.dropped
        self._door.tell_refused()
        if (gate := self._door.gate) is not None:
            following = gate.next_key
            self.core.next_key = control.NextKey(*following) if following else None
            if gate.is_old:
                log.info("keys.rotated", address=self.address.url)
                self.rotated = True
                self._stopped = True
        for reason in _UNSENT:
            del refused[reason]
        new = refused - self._refused_told
        if new:
            log.warning("broker.refused", messages=new.total(), reasons=by_reason(new))
            self._refused_told = refused
        for peer in [peer for peer, pipe in self._long_answers.items() if not pipe.unsent_bytes]:
            del self._long_answers[peer]
        # From now, not from the beginning of the turn: a line that comes sooner after another is left out of the log.
        if self._own_user is not None:
            self._own_user.tend()
        self._tidy_due_ns = time.monotonic_ns() + int(limits.LOG_INTERVAL_S * limits.NS)


def _endpoint(one: Address, dialled: Address) -> str:
    return f"*:{one.port}" if one.host == dialled.host else one.url
