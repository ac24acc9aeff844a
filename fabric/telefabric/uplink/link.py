"""The link: one thread and its sockets, from this process to one broker, for all of its streams.

It sends what the spools hold, within the credit, and removes what is acknowledged. It also drains spools that dead
workers on this machine left behind. All rules are in `telefabric.uplink.core.stream`; this file moves bytes.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import SpoolError, TelefabricError, WireError
from telefabric.keys.core.ticket import Ticket
from telefabric.log.limit import library_logger
from telefabric.log.thread import log_thread
from telefabric.peer.core.backoff import Backoff
from telefabric.peer.core.clock import Clock
from telefabric.spool import Spool, fabrics_in
from telefabric.uplink.core.pace import LivePace
from telefabric.uplink.core.stream import Phase, StreamSession, claimed
from telefabric.uplink.linked_stream import LinkedStream
from telefabric.uplink.orphans import Orphans
from telefabric.uplink.senders import LiveSender, send_durable
from telefabric.uplink.sockets import Sockets
from telefabric.wire import control
from telefabric.wire.delivery import topic_of, wishes_pictures

if TYPE_CHECKING:
    from telefabric.keys.pairs import JoinPairs

log = library_logger("telefabric.link")

_POLL_ACTIVE_MS = 20
_POLL_IDLE_MS = 50
_LOOKS_AN_INTERVAL = 4
"""How often at least the link looks whether a batch is due while one gathers."""
_LOOK_MAX_MS = 200
"""Looks have their price with many streams; a stream that begins to hurry or to hear something is served at once."""
_POLL_LIVE_MS = 2
_TELL_DROPS_S = 10.0
_JOIN_S = 3.0
"""One attempt: the link has other things to do."""
_MAKE_ROOM = "make room, or give TELEFABRIC_SPOOL_BYTES_MAX more"
_DROP_REMEDIES = {
    "spool_full": _MAKE_ROOM,
    "disk_full": _MAKE_ROOM,
    "no_longer_held": "somebody removed files of the spool: keep other programs out of it",
}


def held_back(address: Address) -> str:
    """The sentence for spools that belong to other stores, with the remedy."""
    return (
        f"events wait in the spool for another store than the one of the broker at {address.url}: connect to theirs, "
        f"or let this one have them: telefabric spool drain --to {address.url}"
    )


class Link:
    """Carries streams to the broker at `address`, and drains the spools under a root whose owners are gone.

    `add`, `stop` and the looks at a `LinkedStream` are for any thread; all else happens on the link's own.
    """

    def __init__(self, address: Address, spool_root: Path, ticket: Ticket | None = None) -> None:
        """With a ticket the link gets itself a key, which ends with its work."""
        if ticket is not None:  # not in the thread: the lock of an import that a fork interrupts is held in the child
            import telefabric.keys.join

            telefabric.keys.join.holder()
        self.address = address
        self._ticket = ticket
        self._pairs: JoinPairs | None = None
        self.instance: bytes | None = None
        self.refusal: str | None = None
        """Why the broker will not serve this process, if it said so."""
        self._told_held: bytes | None = None
        """The store about which it was said that spools here belong to others."""
        self._clock: Clock | None = None
        """The broker's, as last measured."""
        self.streams: dict[bytes, LinkedStream] = {}
        self._live_renewed_ns = 0
        self._random = Random(os.urandom(8))
        self._arriving: deque[LinkedStream] = deque()
        self._stop = threading.Event()
        self.orphans = Orphans(spool_root)
        self._sockets: Sockets | None = None
        self._rebuild = Backoff(self._random)
        self._data_well_ns = 0
        """When the data connection was made, subscribed to, or last known to carry something."""
        self._stalled = False
        """Acknowledgements of some stream have stopped."""
        self._told_absurd = False
        self._live_pace = LivePace()
        self._look_due_ns = 0
        self._tend_due_ns = 0
        self.cut_off_s: float | None = time.monotonic()
        """Since when no broker has answered; None while one does."""
        self._thread = threading.Thread(target=self._run, name="telefabric-link", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread is left to this user, or the interpreter ends
            log.warning("link.no_thread: %s: events stay in the spool", error)

    def add(self, spool: Spool) -> LinkedStream:
        """Carry a stream from now on."""
        linked = LinkedStream(spool, StreamSession(spool.info, self._random, spool.fabrics))
        if not self.streams and self.cut_off_s is not None:
            self.cut_off_s = time.monotonic()  # a broker answers streams: until now there was none
        self._arriving.append(linked)
        return linked

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread; spools that are not complete stay on the disk for a later drain."""
        self._stop.set()
        if self.alive:
            self._thread.join(timeout_s)
        log_thread.settle(timeout_s)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    # -- the loop ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._turn()
                except (OSError, zmq.ZMQError, SpoolError, WireError) as error:
                    log.warning("link.stumbled: %s: trying again", error)  # such as one more open file: it may pass
                    self._begin_again()
                except Exception:
                    log.exception("link.stumbled: events stay in the spool: trying again")
                    self._begin_again()
        finally:
            self._shut_down()

    def _begin_again(self) -> None:
        if self._sockets is not None:
            self._disconnect(time.monotonic_ns())
        else:
            self._stop.wait(1.0)

    def _turn(self) -> None:
        now_ns = time.monotonic_ns()
        self._take_arrivals()
        if now_ns >= self._tend_due_ns:
            self._tend_due_ns = now_ns + _POLL_ACTIVE_MS * 1_000_000
            for linked in list(self.streams.values()):
                self._tend(linked, now_ns)
        if self._sockets is None:
            if self._rebuild.left_s(now_ns):
                self._stop.wait(_POLL_IDLE_MS / 1000)
                return
            if self._ticket is not None and self.address.keys is None and not self._join(self._ticket, now_ns):
                return
            self._sockets = Sockets(self.address)
            self._data_well_ns = now_ns
        sockets = self._sockets
        self._sleep(sockets)
        now_ns = time.monotonic_ns()
        look, beat = now_ns >= self._look_due_ns, sockets.beat_due(now_ns)
        was_heard = sockets.subscribed
        messages = sockets.receive(now_ns)
        if sockets.subscribed != was_heard:
            look = beat = True  # perhaps another instance: its WHO tells
            self._data_well_ns = now_ns
        for message in messages:
            self._dispatch(sockets, message, now_ns)
        self._clock = sockets.clock or self._clock
        if sockets.silent(now_ns):
            self._disconnect(now_ns)
            return
        if sockets.watched_changed:
            sockets.watched_changed = False
            for linked in self.streams.values():
                self._watch(sockets, linked, linked.spool.head)
        self._mind_data(sockets, now_ns)
        self._send(sockets, {getattr(message, "stream", b"") for message in messages}, look=look, now_ns=now_ns)
        if look:
            self._look_due_ns = now_ns + self._look_ms() * 1_000_000
        if beat or ((look or messages) and self._beat_urgent(sockets, now_ns)):
            self._beat(sockets, now_ns)
        for spool in self.orphans.next(self.streams, now_ns):
            self._adopt(spool)
        self.orphans.scanned = True

    def _sleep(self, sockets: Sockets) -> None:
        """Until there is something to do. An event of a watched stream ends it at once, while they come slowly."""
        watched = [linked for linked in self.streams.values() if linked.feed.watched]
        stuck = any(linked.more or linked.feed.waiting for linked in self.streams.values())
        if not watched or stuck or not self._live_pace.wakes:
            sockets.wait(self._patience_ms(watched))
            return
        for linked in watched:
            linked.spool.on_append = sockets.waker.ring
        try:
            missed = any(linked.spool.head != linked.fed or linked.frames for linked in watched)
            sockets.wait(0 if missed else self._patience_ms([]))
        finally:
            for linked in watched:
                linked.spool.on_append = None

    def _mind_data(self, sockets: Sockets, now_ns: int) -> None:
        """A connection can be broken without a word, either way: control is well, and no data gets across."""
        amiss = self._stalled or sockets.unheard
        self._stalled = False
        if amiss and now_ns - self._data_well_ns > limits.ACK_STALL_S * limits.NS:
            log.warning("link.data_renewed: batches do not reach %s: connecting again", self.address.url)
            self._data_well_ns = now_ns
            sockets.renew_data()

    def _renew_live(self, sockets: Sockets, now_ns: int) -> None:
        """Every stream of the process gets this message, and one new connection is enough."""
        if now_ns - self._live_renewed_ns > limits.LIVE_STUCK_S * limits.NS:
            self._live_renewed_ns = now_ns
            log.warning("link.live_renewed: live batches do not reach %s: connecting again", self.address.url)
            sockets.renew_live()

    def _send(self, sockets: Sockets, heard: set[bytes], *, look: bool, now_ns: int) -> None:
        """Live events of watched streams at once; durable ones of all at a look, else of streams that heard something.

        With many streams in a process looks are what they cost, and most look at nothing new.
        """
        emitted = 0
        live = LiveSender(sockets, self.instance or bytes(16), self._clock.offset_ns if self._clock else 0)
        for stream, linked in list(self.streams.items()):
            if linked.feed.watched:
                emitted += linked.spool.head - linked.fed
                linked.fed = linked.spool.head
                live.feed(linked, now_ns)
            if look or linked.more or linked.hurry or linked.closing or stream in heard:
                self._serve(sockets, linked, now_ns)
        self._live_pace.emitted(emitted, now_ns)

    def _patience_ms(self, watched: list[LinkedStream]) -> int:
        """How long to sleep: live events wait two milliseconds at most; what did not fit the last turn, not at all."""
        if any(linked.more for linked in self.streams.values()):
            return 0
        if watched:
            return _POLL_LIVE_MS
        return min(self._look_ms(), _POLL_IDLE_MS)

    def _look_ms(self) -> int:
        """How long durable events may wait for a look: where many streams gather for longer, looks are rarer."""
        gathering = [
            linked.session.interval_ms
            for linked in self.streams.values()
            if linked.session.cursor <= linked.spool.head or linked.session.phase is not Phase.STREAMING
        ]
        if not gathering:
            return _POLL_IDLE_MS
        return min(max(min(gathering) // _LOOKS_AN_INTERVAL, _POLL_ACTIVE_MS), _LOOK_MAX_MS)

    def _take_arrivals(self) -> None:
        while self._arriving:
            linked = self._arriving.popleft()
            self.streams[linked.spool.info.stream] = linked
            if self._sockets is not None:
                self._watch(self._sockets, linked, 0)  # from its first event on

    def _adopt(self, spool: Spool) -> None:
        session = StreamSession(spool.info, self._random, spool.fabrics)
        linked = LinkedStream(spool, session, adopted=True, closing=True, hurry=True)
        self.streams[spool.info.stream] = linked
        log.info("spool.adopted: stream %s of run %s", spool.info.stream.hex(), spool.info.run_id)

    def _shut_down(self) -> None:
        for linked in self.streams.values():
            if self._sockets is not None and self.instance is not None:
                self._sockets.send(control.Bye(linked.spool.info.stream, linked.spool.complete))
            if linked.adopted:
                linked.spool.close()
            linked.done.set()
        if self._sockets is not None:
            self._sockets.close()

    # -- connection ----------------------------------------------------------------------------------------------

    def _join(self, ticket: Ticket, now_ns: int) -> bool:
        """Get a key with the ticket; False, and later again, when that does not succeed."""
        from telefabric.keys.join import join  # few workers need these
        from telefabric.keys.pairs import join_pairs_in_child

        try:
            self._pairs = self._pairs or join_pairs_in_child(ticket.secret)
            self.address = join(ticket, self._pairs, brief=True, timeout_s=_JOIN_S).dialled
        except TelefabricError as error:
            self._refused(str(error))
            self._rebuild.begin(now_ns)
            return False
        return True

    def _disconnect(self, now_ns: int) -> None:
        """The broker is silent: close all sockets, and try again after a growing wait."""
        assert self._sockets is not None
        if why := self._sockets.why_silent:
            self._refused(why)
            if self._ticket is not None:  # the key has ended: the ticket may be good for another
                self.address, self._pairs = self.address._replace(keys=None), None
        self._sockets.close(linger_ms=0)
        self._sockets = None
        self.instance = None
        if self.cut_off_s is None:
            self.cut_off_s = time.monotonic()
        self._rebuild.begin(now_ns)
        for linked in self.streams.values():
            linked.session.reconnected(now_ns)
            linked.feed.watch(False, 0)

    # -- control -------------------------------------------------------------------------------------------------

    def _dispatch(self, sockets: Sockets, message: control.Message, now_ns: int) -> None:
        if isinstance(message, control.Alive):
            for each in self.streams.values():
                each.session.alive(message, now_ns)
        if isinstance(message, control.Refused):
            self._refused(message.reason)
        linked = self.streams.get(getattr(message, "stream", b""))
        if linked is None or self._is_absurd(message, linked):
            return
        session = linked.session
        match message:
            case control.Ack():
                self._data_well_ns = now_ns
                session.acknowledged(message, now_ns)
            case control.Credit():
                session.credited(message)
            case control.Welcome():
                self._welcomed(sockets, message)
                session.welcome(message, now_ns)
                self._mind_fabric(linked, message)
            case control.Rewind():
                session.rewind(message, now_ns)
            case control.Who():
                session.who(now_ns)
            case control.Unheard() if message.instance == self.instance:
                self._renew_live(sockets, now_ns)

    def _refused(self, reason: str) -> None:
        if reason != self.refusal:
            log.warning("link.refused: %s", reason)
        self.refusal = reason

    def _is_absurd(self, message: control.Message, linked: LinkedStream) -> bool:
        """Nobody can hold what a living process has not emitted yet: believed, it would never be sent.

        An adopted spool may have lost its end to a power loss after that was stored.
        """
        absurd = not linked.adopted and claimed(message) > linked.spool.head
        if absurd and not self._told_absurd:
            self._told_absurd = True
            log.warning("link.absurd: the broker claims seq %d of stream %s, which has %d", claimed(message),
                        linked.spool.info.stream.hex(), linked.spool.head)  # fmt: skip
        return absurd

    def _welcomed(self, sockets: Sockets, message: control.Welcome) -> None:
        self.instance = message.instance
        self.cut_off_s = None
        self.refusal = None
        self._rebuild.reset()
        sockets.connect_data(self.address.resolve(message.endpoints.data))
        if message.endpoints.live is not None:
            sockets.connect_live(self.address.resolve(message.endpoints.live))

    def _mind_fabric(self, linked: LinkedStream, message: control.Welcome) -> None:
        """A spool belongs to the store that first takes its events; by any other it is held back."""
        if message.expected is None or message.fabric is None:
            return
        self.orphans.fabric = message.fabric
        if linked.session.fabrics != linked.spool.fabrics:
            linked.spool.belong_to(linked.session.fabrics)
        if linked.held and linked.adopted:
            self.orphans.held.add(linked.spool.directory)
            linked.leaving = True
        if (linked.held or self.orphans.held) and self._told_held != message.fabric:
            self._told_held = message.fabric
            log.warning("spool.held: %s", held_back(self.address))

    def _beat_urgent(self, sockets: Sockets, now_ns: int) -> bool:
        """A stream has more to send than its credit: do not let it wait a whole heartbeat for more."""
        if not sockets.beat_due(now_ns + int((limits.HEARTBEAT_S - limits.CREDIT_REVIEW_S) * limits.NS)):
            return False
        for linked in self.streams.values():
            session = linked.session
            if linked.moving and (session.next_bytes or session.in_flight_bytes + linked.unsent_bytes > session.credit):
                return True
        return False

    def _beat(self, sockets: Sockets, now_ns: int) -> None:
        beats = [linked.beat() for linked in self.streams.values() if linked.session.phase is not Phase.GREETING]
        offset_ns, round_trip_ns = self._clock or (None, None)
        left_spools = self.orphans.left(self.streams)
        sockets.beat(control.Beat(now_ns, beats, offset_ns, round_trip_ns, left_spools), now_ns)

    def _watch(self, sockets: Sockets, linked: LinkedStream, head: int) -> None:
        """Feed the stream of a watched run from now on, and no other."""
        wishes, run_id = sockets.watched, linked.spool.info.run_id
        run = topic_of(run_id, "")
        watched = not linked.adopted and any(run.startswith(topic) or topic.startswith(run) for topic in wishes)
        linked.fed = head
        linked.feed.watch(watched, head, pictures=watched and wishes_pictures(wishes, run_id))

    # -- one stream ----------------------------------------------------------------------------------------------

    def _tend(self, linked: LinkedStream, now_ns: int) -> None:
        """The work for a stream, with or without a broker."""
        if linked.leaving:
            self._finish(linked)
            return
        if not linked.closing:
            linked.spool.warm_up()
            try:
                linked.spool.prepare()
            except SpoolError as error:
                log.debug("spool.prepare: %s", error)  # append finds out by itself, and counts what it must drop
            self._sync(linked, now_ns)
        self._tell_drops(linked, now_ns)

    def _sync(self, linked: LinkedStream, now_ns: int) -> None:
        spool = linked.spool
        if spool.policy.fsync == "interval" and now_ns - linked.synced_ns >= limits.SYNC_INTERVAL_S * limits.NS:
            linked.synced_ns = now_ns
            spool.sync()
        if spool.sync_failures and not linked.told_sync_failures:
            log.warning("spool.unsynced: %s cannot be synced: a power loss may cost its events", spool.directory)
        linked.told_sync_failures = spool.sync_failures

    def _serve(self, sockets: Sockets, linked: LinkedStream, now_ns: int) -> None:
        """Acknowledge, greet, send, finish: whatever the stream's session decides."""
        session, spool = linked.session, linked.spool
        linked.more = False
        if linked.held and now_ns - linked.looked_ns > limits.HEARTBEAT_S * limits.NS:
            linked.looked_ns = now_ns
            spool.fabrics = fabrics_in(spool.directory)
            session.admitted(spool.fabrics, now_ns)
        self._stalled |= session.tick(now_ns)
        spool.acknowledge(session.acked)
        if linked.closing and spool.complete:
            self._finish(linked)
            return
        if session.hello_due(now_ns):
            sockets.send(session.hello(spool.first_held(spool.acked + 1), spool.head))
        if session.phase is Phase.STREAMING and sockets.subscribed:
            linked.more = send_durable(linked, sockets, now_ns)

    def _tell_drops(self, linked: LinkedStream, now_ns: int) -> None:
        """A full spool is loud: at once when it begins to drop, then each ten seconds while it goes on."""
        if linked.blocked and now_ns - linked.told_blocked_ns > _TELL_DROPS_S * limits.NS:
            log.warning("spool.blocked: a call of run %s waits: %s", linked.spool.info.run_id, linked.blocked)
            linked.blocked, linked.told_blocked_ns = "", now_ns
        dropped = linked.spool.dropped_events
        if dropped > linked.told_drops and now_ns - linked.told_ns > _TELL_DROPS_S * limits.NS:
            reason = linked.spool.dropped[-1].reason
            log.warning("spool.dropped: %d events of run %s so far (%s): each loss is recorded as a gap; %s",
                        dropped, linked.spool.info.run_id, reason, _DROP_REMEDIES[reason])  # fmt: skip
            linked.told_drops, linked.told_ns = dropped, now_ns

    def _finish(self, linked: LinkedStream) -> None:
        if self._sockets is not None and linked.session.phase is not Phase.GREETING:
            self._sockets.send(control.Bye(linked.spool.info.stream, linked.spool.complete))
        del self.streams[linked.spool.info.stream]
        if linked.adopted and linked.spool.complete:
            self.orphans.drained(linked.spool)
            stream = linked.spool.info.stream.hex()
            log.info("spool.drained: stream %s, %d events", stream, linked.spool.delivered_events)
        linked.spool.close()
        linked.done.set()
