"""Where a worker's events go: into a spool that a link sends from, through validation only, or nowhere."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from telefabric.address import Address
from telefabric.errors import SpoolFull, UsageError
from telefabric.keys.core.ticket import Ticket
from telefabric.spool import Spool
from telefabric.wire.control import StreamInfo
from telefabric_schemas.decoding import decode_event
from telefabric_workers.environment import FrameSettings, WorkerEnvironment
from telefabric_workers.frames import Frames, Moment, StoredFrames
from telefabric_workers.problems import Problem

if TYPE_CHECKING:
    from telefabric.uplink import Link

log = logging.getLogger("telefabric.worker")

_UNREACHED_S = 1.0
"""How long a broker that has not answered may be silent before the end of a run does not wait for it any more."""
_LEAVING_S = 1.0
"""How long the link may take to let go of a stream."""
_LOOK_FOR_ROOM_S = 0.1
"""How often a call that waits for room looks by itself: a disk does not say when it has some."""
_HELPERS_S = 0.02
"""How often a call that waits looks for spools that child processes have left."""
_FORK_S = 2.0
"""How long a fork waits for what it must not interrupt."""
_UNSTORED_S = 3.0
"""How long it waits for a broker that has answered and does not take events yet: its store may be starting."""


class Outbox:
    """The place to which a worker appends its events. `append` is called with `lock` held.

    This one keeps no event: mode off, or fast-lane when it has frames to show.
    """

    stored: StoredFrames | None = None
    """The rule for frames that go into the spool; None without a spool, or if frames are not stored."""

    def __init__(self, frames: Frames | None = None) -> None:
        self.lock = threading.RLock()
        self.deferred: deque[Callable[[], object]] = deque()
        """Calls for a thread that emits, after its event and without `lock`. Any thread adds to it."""
        self._frames = frames

    @property
    def head(self) -> int:
        """Newest seq."""
        return 0

    @property
    def acked(self) -> int:
        return self.head

    @property
    def stored_all(self) -> bool:
        """Every event that was emitted is stored: none waits, and none was dropped. Also after `close`."""
        return True

    @property
    def dropped_events(self) -> int:
        return 0

    def append(self, seq: int, event: bytes, /) -> None:
        return

    def end(self) -> None:
        """The run ends: no call waits or is refused any more. Any thread, without `lock`."""
        return

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything up to now is stored; True when all that was ever emitted is."""
        return True

    def close(self, flush_s: float) -> bool:
        """Let go, after waiting at most `flush_s`; True when all that was ever emitted is stored."""
        if self._frames is not None:
            self._frames.close()
        return True

    def show(self, moment: Moment, frame: Any, values: Mapping[str, float]) -> list[Problem]:
        """Offer a picture to clients that watch; returns the values that could not be shown with it.

        Raises `ValueError` and `ImportError`.
        """
        return [] if self._frames is None else self._frames.offer(moment, frame, values)

    def disown(self) -> None:
        """In a forked child: what the parent holds is the parent's."""
        return


class DryRun(Outbox):
    """Mode dry-run: every event is decoded as the store would, and counted. No broker, no disk."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.bytes = 0
        self._head = 0

    @property
    def head(self) -> int:
        return self._head

    def append(self, seq: int, event: bytes, /) -> None:
        """Raises `UsageError` for an event that a store would not take."""
        try:
            decoded = decode_event(event)
        except msgspec.DecodeError as error:
            raise UsageError(f"event {seq} does not fit its schema: {error}") from None
        self._head = seq
        self.counts[decoded.kind] += 1
        self.bytes += len(event)

    def close(self, flush_s: float) -> bool:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items()))
        log.info("worker.dry_run: %d events valid, %d bytes: %s", self._head, self.bytes, kinds)
        return True


class Spooled(Outbox):
    """The normal case: a spool on the disk, and the process's link to the broker that sends from it."""

    def __init__(self, spool: Spool, link: Link, settings: FrameSettings) -> None:
        self._link = link
        self._linked = link.add(spool)
        super().__init__(Frames(settings, spool.info, self._linked))
        self.deferred = self._linked.after_emit
        self.spool = spool
        if spool.policy.when_full != "block":  # else a call that waits for room holds a lock of its own
            self.lock = spool.lock
            self.append = spool.append  # type: ignore[method-assign]  # one call less on the hot path
        self._disowned = False
        self._helpers: list[Path] = []
        self._helpers_due_s = 0.0
        stored = StoredFrames(settings, spool.info.stream)
        self.stored = stored if stored.on else None

    @property
    def head(self) -> int:
        return self.spool.head

    @property
    def acked(self) -> int:
        return self.spool.acked

    @property
    def stored_all(self) -> bool:
        complete = self._disowned or (self.spool.complete and not self._helpers)
        return complete and not self.dropped_events

    @property
    def dropped_events(self) -> int:
        return self.spool.dropped_events

    def append(self, seq: int, event: bytes, /) -> None:
        """Wait for room. Only for a spool that blocks."""
        with self.spool.lock:
            while True:
                try:
                    self.spool.append(seq, event)
                    return
                except SpoolFull as error:
                    self._linked.blocked = str(error)
                    self.spool.room.wait(_LOOK_FOR_ROOM_S)

    def end(self) -> None:
        with self.spool.room:
            self.spool.ending = True
            self.spool.room.notify_all()

    def flush(self, timeout_s: float) -> bool:
        target = self.head
        deadline = time.monotonic() + timeout_s
        self._linked.hurry = True
        try:
            while not self._is_stored(target) and time.monotonic() < deadline:
                if not self._link.alive or self._linked.done.wait(0.005):
                    break
        finally:
            self._linked.hurry = False
        return self._is_stored(target) and not self.dropped_events

    def _is_stored(self, seq: int) -> bool:
        """Up to that seq, and all that child processes have left that have ended."""
        return self._disowned or (self.acked >= seq and not self._left_by_helpers())

    def _left_by_helpers(self) -> list[Path]:
        """Their spools, which the link drains next."""
        orphans = self._link.orphans
        now = time.monotonic()
        if now < self._helpers_due_s:
            return self._helpers
        self._helpers_due_s = now + _HELPERS_S
        self._helpers = orphans.left_by_helpers(self.spool.info.stream)
        if self._helpers:
            orphans.hurry()
        return self._helpers

    def close(self, flush_s: float) -> bool:
        """Raises nothing of its own: what is not stored in time stays in the spool, and one warning says so; also when
        a ^C ends the wait."""
        try:
            super().close(flush_s)
            self._linked.closing = True
            self._wait(flush_s)
        finally:
            self._leave()
        return self.stored_all

    def _leave(self) -> None:
        """Raises nothing of its own, and does all of it, however often it is interrupted."""
        if self._disowned:  # a signal handler has forked during the wait, and this is the child
            return
        try:
            self._linked.leaving = True
            if not self._linked.done.wait(_LEAVING_S if self._link.alive else 0) and not self._link.alive:
                self.spool.close()
        finally:
            try:
                self._helpers_due_s = 0.0
                self._left_by_helpers()
                if not self.stored_all:
                    self._say_what_is_left()
            finally:
                _release(self._link)

    def _say_what_is_left(self) -> None:
        head, dropped = self.head, self.dropped_events
        left = head - self.acked
        what = [f"{left} of {head} events are not stored yet and stay in {self.spool.directory}"] if left else []
        if dropped:
            what.append(f"{dropped} of {head} events were dropped and are lost")
        if self._helpers:
            what.append(f"child processes have left {len(self._helpers)} spools in {self._helpers[0].parent}")
        remedy = "a later worker on this machine delivers them, or: telefabric spool drain"
        if self._linked.held:
            from telefabric.uplink import held_back

            remedy = held_back(self._link.address)
        log.warning("worker.not_stored: %s%s", ", and ".join(what), f"; {remedy}" if left or self._helpers else "")

    def _wait(self, flush_s: float) -> None:
        """Until done; not long for a broker or a store that is not there."""
        start = time.monotonic()
        while True:
            if self._linked.done.wait(0.005):
                if not self._left_by_helpers():
                    return
                time.sleep(0.005)
            now = time.monotonic()
            since, patience = self._link.cut_off_s, _UNREACHED_S
            if since is None:
                since, patience = start, _UNSTORED_S
            hopeless = now - since >= patience and not self._linked.moving
            if now - start >= flush_s or hopeless or not self._link.alive:
                return

    def disown(self) -> None:
        self._disowned = True
        _inherited.extend((self._link, self.spool))
        self.lock = self.spool.lock = threading.RLock()  # a call that goes on in the child asks for it
        self.spool.room = threading.Condition(self.lock)


_guard = threading.RLock()  # a signal handler may open or close a worker while its thread does
_links: dict[tuple[Address, Path], tuple[Link, int]] = {}
"""The links of this process and how many streams of its own each carries."""
_inherited: list[object] = []
"""Sockets and maps of the parent, which a forked child must not close, not even by garbage collection."""


def open_outbox(environment: WorkerEnvironment, info: StreamInfo, after: int = 0) -> Outbox:
    """The outbox that the environment's mode asks for; the store has the events up to `after`.

    Raises `telefabric.errors.SpoolError`.
    """
    if environment.mode == "off":
        return Outbox()
    if environment.mode == "dry-run":
        return DryRun()
    if environment.mode == "fast-lane":
        return Outbox(Frames(environment.frames, info, None))
    frames = environment.frames if environment.mode != "durable" else environment.frames._replace(video="off")
    spool = Spool.create(environment.spool, info, environment.spool_policy, after=after)
    with _guard:
        return Spooled(spool, _acquire(environment.address, environment.spool, environment.ticket), frames)


@contextmanager
def link_of(environment: WorkerEnvironment) -> Iterator[Link]:
    """The process's link to the environment's broker, for as long as this lasts."""
    link = _acquire(environment.address, environment.spool, environment.ticket)
    try:
        yield link
    finally:
        _release(link)


def _acquire(address: Address, root: Path, ticket: Ticket | None) -> Link:
    with _guard:
        from telefabric.uplink import Link  # imports zmq, which takes most of the time that importing a worker takes

        link, users = _links.get((address, root), (None, 0))
        if link is None or not link.alive:
            link, users = Link(address, root, ticket), 0
        _links[address, root] = (link, users + 1)
        return link


def _release(link: Link) -> None:
    """The last stream of a link that ends stops it."""
    with _guard:
        for key, (known, users) in list(_links.items()):
            if known is link:
                if users > 1:
                    _links[key] = (known, users - 1)
                    return
                del _links[key]
    link.stop()


def unforked() -> threading.RLock:
    """While a thread has this no other one forks: the lock of an import that a fork interrupts stays held in the child.

    Not for code of the caller.
    """
    return _guard


def _before_fork() -> None:
    _guard.acquire(timeout=_FORK_S)


def _after_fork_in_parent() -> None:
    with suppress(RuntimeError):  # it had waited in vain
        _guard.release()


if hasattr(os, "register_at_fork"):  # in the child: `reset_after_fork`
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)


def reset_after_fork() -> None:
    """In a forked child: the guard may be held by a thread that is not here, and the links' threads are not here."""
    global _guard
    _guard = threading.RLock()
    _inherited.extend(_links.values())
    _links.clear()
