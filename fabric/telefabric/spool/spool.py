"""A stream's spool directory: segments, the acknowledged position, and the owner.

::

    <root>/<stream id in hex>/
        stream          the stream's identity, MessagePack (StreamInfo)
        lock            held by the owner
        00…001.seg      records from seq 1 on
        position        acknowledged seq, synced before a segment is removed
        position.fabric the stores, by fabric id, to which the stream may be delivered: the one that first welcomed
                        it, and those that a user named; synced before a segment is removed
        closed          everything is acknowledged; the directory may go

A full spool (over its bytes, on a full disk, or on one with too little left) drops its oldest segment, or refuses the
event with `SpoolFull` when its owner said so (`when_full` is ``block`` or ``error``; its owner does the waiting).

What survives depends on `fsync`. ``off``: a kill of the process. ``interval``: also a power loss, but for the events of
the last second. ``always``: also a power loss, every event that `append` returned for, at the price of a sync each.

A directory belongs to one process for its whole life. Whoever takes the lock of a dead one may read it, send it and
remove it; nobody ever appends to another's.

Threads: `append` under `lock` from any thread; reading, acknowledging and closing from the link's thread alone; `head`,
`acked` and `dropped_events` may be looked at from anywhere.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import msgspec

from telefabric import limits
from telefabric.errors import SpoolError, SpoolFull, UsageError
from telefabric.files import private as privatefile
from telefabric.files.lock import FileLock
from telefabric.files.sync import sync_file
from telefabric.spool.segment import HEADER_BYTES, MARK_SEQS, SUFFIX, Segment, allocate, spool_error
from telefabric.wire import records
from telefabric.wire.control import StreamInfo
from telefabric.wire.seal import seal, unseal
from telefabric_schemas.decoding import Decoder

_SPARE = "spare.tmp"
_FABRICS = "position.fabric"
"""Begins like the position, so that older versions remove it with the spool."""
_ID_BYTES = 16
_MAKING_S = 60.0
"""A folder without its description that is older than this was left by a worker that died while it made it."""


class _Position(NamedTuple):
    """Where a record begins."""

    seq: int
    segment: Segment
    offset: int


class SpoolPolicy(NamedTuple):
    """How far a spool may grow, what it does then, and when it is synced: see the module."""

    bytes_max: int = limits.SPOOL_BYTES_MAX
    free_bytes_min: int = limits.SPOOL_FREE_BYTES_MIN
    """Below so much free room on the file system it does not grow."""
    when_full: str = limits.WHEN_FULL[0]
    fsync: str = limits.FSYNC[0]


_DEFAULT = SpoolPolicy()


class Dropped(NamedTuple):
    """A range that was removed before it was acknowledged."""

    first_seq: int
    last_seq: int
    reason: str


def why_lost(drops: Iterable[Dropped], first_seq: int, last_seq: int) -> Dropped:
    """The beginning of a lost range, up to where the reason of the loss changes. `drops` are in order."""
    for drop in drops:
        if drop.first_seq > first_seq:
            return Dropped(first_seq, min(drop.first_seq - 1, last_seq), "no_longer_held")
        if drop.last_seq >= first_seq:
            return Dropped(first_seq, min(drop.last_seq, last_seq), drop.reason)
    return Dropped(first_seq, last_seq, "no_longer_held")


class Chunk(NamedTuple):
    """A run of records to send: the body of one batch."""

    body: bytes
    first_seq: int
    last_seq: int

    @property
    def events(self) -> int:
        return self.last_seq - self.first_seq + 1


class Spool:
    """See the module. Made by `create` (the stream's own worker) or `adopt` (a drain of a dead one's)."""

    def __init__(self, directory: Path, info: StreamInfo, owner: FileLock, policy: SpoolPolicy) -> None:
        self.directory = directory
        self.info = info
        self.lock = threading.RLock()
        """Re-entrant, for a signal handler may emit while its own thread holds it."""
        self.head = 0
        """Newest seq that was appended, or dropped because it could not be."""
        self.acked = 0
        self.dropped: deque[Dropped] = deque(maxlen=1_000)
        """Lost ranges, with the reason ``spool_full``, ``disk_full`` or ``no_longer_held``."""
        self.dropped_events = 0
        self.sync_failures = 0
        self.room = threading.Condition(self.lock)
        """Notified when a segment was removed."""
        self.on_append: Callable[[], None] | None = None
        """Called behind each append, with `lock` held: by this the link is woken. It raises nothing."""
        self.ending = False
        """The last events of a run are taken over the limit rather than refused: nobody could emit them again."""
        self.policy = policy
        self._owner = owner
        self._synced = 0
        """The seq up to which all is on the disk."""
        self._new_entries = True
        self._sync_always = policy.fsync == "always"
        self._segments: deque[Segment] = deque()
        self._active: Segment | None = None
        self._reader: _Position | None = None
        self._written = 0
        self._delivered = self._adopted_at = 0
        self._prepared = False
        self._warms = True
        """The system can bring pages into memory ahead of time, as far as is known."""
        self.fabrics = fabrics_in(directory)
        self._fabrics_synced = False

    # -- making --------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, root: Path, info: StreamInfo, policy: SpoolPolicy = _DEFAULT, *, after: int = 0) -> Spool:
        """A new stream's spool, or that of one whose events up to `after` are stored and will not be here.

        Raises `SpoolError` when the place cannot be written or has no room.
        """
        least = 2 * limits.SEGMENT_BYTES
        if policy.bytes_max < least:
            raise UsageError(f"a spool of {policy.bytes_max} bytes is too small: give it {least} or more")
        directory = root / info.stream.hex()
        with spool_error(
            f"the spool {root} cannot be written", "make room or set TELEFABRIC_SPOOL to a folder that can"
        ):
            privatefile.make_folder(root)
            directory.mkdir(mode=0o700)
            owner = FileLock.take(directory / "lock")
            if owner is None:
                raise SpoolError(f"another process took the new spool {directory}: check what else writes there")
            try:
                privatefile.write(directory / "stream", msgspec.msgpack.encode(info))
                spool = cls(directory, info, owner, policy)
                if after:
                    _replace_sealed(directory / "position", after.to_bytes(8, "big"), sync=policy.fsync != "off")
                spool.head = spool.acked = after
                spool._active = spool._begin_segment(after + 1, limits.SEGMENT_BYTES)
                if policy.fsync != "off":
                    for path in (directory / "stream", directory, root):
                        sync_file(path)
            except (OSError, SpoolError):
                _remove(directory, owner)
                raise
        return spool

    @classmethod
    def adopt(cls, directory: Path) -> Spool | None:
        """Take over a dead worker's spool to drain it; None when its owner lives or nothing is there.

        Scans all of its records. Damaged segments end at their first bad record; what lies behind is a gap.
        """
        if _is_being_made(directory):
            return None
        with spool_error(f"the spool {directory} cannot be opened", "check its rights"):
            owner = FileLock.take(directory / "lock")
        if owner is None:
            return None
        described = (directory / "stream").exists()
        if (directory / "closed").exists() or not (described or any(directory.glob(f"*{SUFFIX}"))):
            _remove(directory, owner)  # delivered, or killed while it was made: no event can be in it
            return None
        if not described:
            owner.release()
            raise SpoolError(
                f"the spool {directory} has events and no file that says whose they are: it is left as it is"
            )
        try:
            spool = cls(directory, _infos.decode((directory / "stream").read_bytes()), owner, _DEFAULT)
            spool._find_segments()
        except (OSError, SpoolError, msgspec.DecodeError) as error:
            owner.release()
            why = error.strerror if isinstance(error, OSError) else error
            remedy = "move it away or remove it" if isinstance(error, msgspec.DecodeError) else "it is left as it is"
            raise SpoolError(f"the spool {directory} cannot be read: {why}: {remedy}") from None
        return spool

    def _find_segments(self) -> None:
        """Find the segments by their names. Only the last is examined now, each other one when its turn comes."""
        self.acked = self.head = self._adopted_at = _read_position(self.directory / "position")
        paths = sorted(path for path in self.directory.glob(f"*{SUFFIX}") if path.stem.isdecimal())
        for path, before in zip_longest(paths, (int(path.stem) for path in paths[1:])):
            segment = Segment.left_behind(path, self._written, before)
            if segment is not None:
                self._segments.append(segment)
                self._written = segment.records_end
        while self._segments:
            newest = self._segments[-1]
            newest.look_through(self.info.stream)
            if newest.last_seq >= newest.first_seq:
                self._written = newest.records_end
                self.head = max(self.head, newest.last_seq)
                return
            self._segments.pop()

    # -- appending -----------------------------------------------------------------------------------------------

    def append(self, seq: int, event: bytes) -> None:
        """Store the encoded event `seq`, which follows the last. The caller holds `lock`. Microseconds.

        When the spool or its disk is full, the oldest segment goes, or the event itself when nothing else is left;
        see `dropped`. Raises `SpoolFull`, with nothing changed, when nothing may be dropped.
        """
        segment = self._active
        size = records.PREFIX_BYTES + len(event)
        if segment is None or segment.end + size > segment.size:
            segment = self._roll(seq, size)
            if segment is None:
                self.head = seq
                return
        start = segment.end
        end = start + size
        segment.map[start:end] = records.frame(event)  # type: ignore[index]  # the active one is always mapped
        # A signal handler may raise after any call; up to the mark no call follows.
        segment.end = end
        segment.last_seq = self.head = seq
        if not seq % MARK_SEQS:
            segment.marks.append(end)
        if self._sync_always:
            self.sync()
        if self.on_append is not None:
            self.on_append()

    def sync(self) -> None:
        """Bring everything appended so far to the disk; what fails is counted, and tried again next time.

        Called by one thread only: the appending one when `fsync` is ``always``, else the link's.
        """
        with self.lock:
            if self.head == self._synced:
                return
            head, entries = self.head, self._new_entries
            pending = [segment for segment in self._segments if segment.last_seq > self._synced]
            self._new_entries = False
        try:
            for segment in pending:
                segment.sync()
            if entries:
                sync_file(self.directory)
        except OSError:
            self.sync_failures += 1
            self._new_entries |= entries
            return
        self._synced = head

    def prepare(self) -> None:
        """Allocate the next segment ahead of time, so that `append` need not. Any thread. Raises `SpoolError`."""
        if self._prepared:  # asked at every turn of the link: no look at the disk
            return
        with self.lock:
            full = self._over_bytes(limits.SEGMENT_BYTES) or self._disk_is_low(limits.SEGMENT_BYTES)
        if not full:
            self._make_spare()
            self._prepared = True

    def warm_up(self) -> None:
        """Bring the pages that come next into memory, so that `append` need not wait for them. Any thread."""
        segment = self._active
        if segment is None or not self._warms:
            return
        try:
            segment.warm_up(limits.SPOOL_AHEAD_BYTES)
        except OSError:  # an older system: each append goes on as it would without
            self._warms = False

    def _make_spare(self) -> None:
        spare = self.directory / _SPARE
        if spare.exists():
            return
        making = self._allocate(limits.SEGMENT_BYTES)
        with spool_error(f"the spool {self.directory} cannot be written"):
            os.replace(making, spare)

    def _allocate(self, size: int) -> Path:
        making = self.directory / f"{_SPARE}.{threading.get_ident()}"
        allocate(making, size)
        return making

    def _roll(self, seq: int, record_bytes: int) -> Segment | None:
        """Begin the segment that `seq` goes into; None if it has no room at all."""
        if self._active is not None:
            self._written = self._active.records_end
            if self._reader is None or self._reader.segment is not self._active:
                self._active.release()
            self._active = None
        size = max(limits.SEGMENT_BYTES, HEADER_BYTES + record_bytes)
        may_drop = self.policy.when_full == "drop_oldest"
        if may_drop:
            self._drop_for(size)
        elif self._segments and not self.ending:
            self._require_room(size)
        while True:
            try:
                self._active = self._begin_segment(seq, size)
                return self._active
            except SpoolError as error:
                if not may_drop and not self.ending:
                    raise SpoolFull(str(error)) from None
                reason = "disk_full" if self.directory.is_dir() else "no_longer_held"
                if not may_drop or not self._segments:
                    self._count_drop(seq, seq, reason)
                    return None
                self._drop_oldest(reason)

    def _drop_for(self, size: int) -> None:
        """Keep the limit; where the disk has little left, let go of as much as is taken."""
        while len(self._segments) > 1 and self._over_bytes(size):
            self._drop_oldest("spool_full")
        if len(self._segments) > 1 and self._disk_is_low(size):
            self._drop_oldest("disk_full")

    def _require_room(self, size: int) -> None:
        """Raises `SpoolFull`. An empty spool is never full: a waiting call continues once all is stored."""
        if self._over_bytes(size):
            raise SpoolFull(
                f"the spool {self.directory} has reached its limit of {self.policy.bytes_max} bytes: "
                "start a broker and a store that take its events, or give TELEFABRIC_SPOOL_BYTES_MAX more"
            )
        if self._disk_is_low(size):
            raise SpoolFull(
                f"the disk of the spool {self.directory} has less than {self.policy.free_bytes_min} bytes left: "
                "make room, or give TELEFABRIC_SPOOL_FREE_BYTES_MIN less"
            )

    def _over_bytes(self, size: int) -> bool:
        return sum(segment.size for segment in self._segments) + size > self.policy.bytes_max

    def _disk_is_low(self, size: int) -> bool:
        """A segment of `size` would leave too little; one that is allocated already takes nothing more."""
        if self._prepared or not self.policy.free_bytes_min:
            return False
        try:
            return shutil.disk_usage(self.directory).free < self.policy.free_bytes_min + size
        except OSError:
            return False  # the allocation that follows tells what is wrong

    def _begin_segment(self, first_seq: int, size: int) -> Segment:
        if size > limits.SEGMENT_BYTES:
            spare = self._allocate(size)  # not the spare, which the link may replace meanwhile
        else:
            self._make_spare()
            spare = self.directory / _SPARE
        with spool_error(f"the spool {self.directory} cannot be written"):
            segment = Segment.start(spare, self.directory, self.info.stream, first_seq, self._written)
        while self._segments and self._segments[-1].first_seq == first_seq:
            self._segments.pop()  # begun before, when a signal handler raised; its file is this one's now
        self._segments.append(segment)
        self._new_entries = True
        self._prepared = False
        return segment

    def _drop_oldest(self, reason: str) -> None:
        segment = self._segments.popleft()
        first = max(segment.first_seq, self.acked + 1)
        if first <= segment.last_seq:
            self._count_drop(first, segment.last_seq, reason)
        segment.discard()

    def _count_drop(self, first_seq: int, last_seq: int, reason: str) -> None:
        self.dropped_events += last_seq - first_seq + 1
        if self.dropped and self.dropped[-1].last_seq + 1 == first_seq and self.dropped[-1].reason == reason:
            first_seq = self.dropped.pop().first_seq  # one event after another on a full disk
        self.dropped.append(Dropped(first_seq, last_seq, reason))

    # -- reading -------------------------------------------------------------------------------------------------

    def first_held(self, seq: int) -> int:
        """The smallest seq from `seq` on that is held; head + 1 when none is."""
        with self.lock:
            for segment in self._segments:
                if segment.last_seq >= seq:
                    try:
                        segment.look_through(self.info.stream)
                    except FileNotFoundError:
                        self._forget(segment)
                        return self.first_held(seq)
                    if segment.last_seq >= max(segment.first_seq, seq):
                        return max(segment.first_seq, seq)
            return self.head + 1

    def unsent_bytes(self, seq: int) -> int:
        """Bytes of records from `seq` on."""
        with self.lock:
            position = self._locate(seq)
            if position is None:
                return 0
            self._reader = position
            written = self._active.records_end if self._active else self._written
        return written - position.segment.base - (position.offset - HEADER_BYTES)

    def read(self, first_seq: int, bytes_max: int) -> Chunk | None:
        """The records from `first_seq` on, as many as fit `bytes_max` (at least one), all of one segment.

        None when `first_seq` is not held.
        """
        with self.lock:
            position = self._locate(first_seq)
            if position is None:
                return None
            segment, start = position.segment, position.offset
            end, last = segment.end, segment.last_seq
        try:
            if end - start > bytes_max or last - first_seq >= limits.BATCH_EVENTS_MAX:
                end, last = segment.cut(first_seq, start, end, bytes_max, limits.BATCH_EVENTS_MAX)
            body = segment.mapped()[start:end]
        except FileNotFoundError:
            self._forget(segment)
            return None
        except OSError:
            return None  # no descriptor is free at the moment, say; the next turn tries again
        self._reader = _Position(last + 1, segment, end)
        if last == segment.last_seq and segment is not self._active:
            segment.release()
        return Chunk(body, first_seq, last)

    def _forget(self, segment: Segment) -> None:
        """Somebody removed its file: what follows is sent, with a gap before it."""
        with self.lock:
            if segment in self._segments and segment is not self._active:
                self._segments.remove(segment)
                self._count_drop(max(segment.first_seq, self.acked + 1), segment.last_seq, "no_longer_held")

    def _locate(self, seq: int) -> _Position | None:
        """Where the record of `seq` begins: at the reader's place, else found by walking its segment."""
        reader = self._reader
        held = self._segments[0].first_seq if self._segments else 0
        if reader and reader.seq == seq and reader.segment.last_seq >= seq and reader.segment.first_seq >= held > 0:
            return reader
        segment = next((one for one in self._segments if one.first_seq <= seq <= one.last_seq), None)
        if segment is not None:
            try:
                segment.look_through(self.info.stream)
                return _Position(seq, segment, segment.offset_of(seq)) if seq <= segment.last_seq else None
            except FileNotFoundError:
                self._forget(segment)
            except OSError:
                pass  # no descriptor is free at the moment, say; the next turn tries again
        return None

    def lost(self, first_seq: int, last_seq: int) -> Dropped:
        """Why a range is not held any more: of the range, the beginning that has one reason."""
        return why_lost(sorted(self.dropped), first_seq, last_seq)

    # -- acknowledgement and end ---------------------------------------------------------------------------------

    def belong_to(self, fabrics: tuple[bytes, ...]) -> None:
        """From now on it may be delivered to these stores, and to no other."""
        self.fabrics = fabrics
        with suppress(OSError):  # a full disk: tried again before a segment is removed
            admit(self.directory, fabrics)

    def acknowledge(self, seq: int) -> None:
        """Everything up to `seq` is stored for good: remove whole segments below it."""
        if seq <= self.acked:
            return
        self.acked = seq
        with self.lock:
            done = [segment for segment in self._segments if segment.last_seq <= seq and segment is not self._active]
        if not done:
            return
        with suppress(OSError):  # a full disk: only removing makes room, and the store knows the position as well
            if not self._fabrics_synced:
                admit(self.directory, self.fabrics, sync=True)
                self._fabrics_synced = True
            _replace_sealed(self.directory / "position", seq.to_bytes(8, "big"), sync=True)
        with self.lock:
            while self._segments and self._segments[0] in done:
                segment = self._segments.popleft()
                self._delivered += self._acknowledged(segment)
                segment.discard()
            self.room.notify_all()

    @property
    def delivered_events(self) -> int:
        """Events of an adopted spool that were in it and have been acknowledged since."""
        with self.lock:
            return self._delivered + sum(map(self._acknowledged, self._segments))

    @property
    def lost_events(self) -> int:
        """Events of an adopted spool that were missing in it, and whose gap has been acknowledged since."""
        return self.acked - self._adopted_at - self.delivered_events

    @property
    def known_events(self) -> int:
        """Events of an adopted spool that were not acknowledged when it was adopted."""
        return self.head - self._adopted_at

    def _acknowledged(self, segment: Segment) -> int:
        return max(min(segment.last_seq, self.acked) - max(segment.first_seq - 1, self._adopted_at), 0)

    @property
    def complete(self) -> bool:
        """All that was appended is acknowledged."""
        return self.acked >= self.head

    def close(self) -> None:
        """Let go of the directory; remove it when it is complete. Nothing may be appended or read afterwards."""
        if self.policy.fsync != "off" and not self.complete:
            self.sync()
        with self.lock:
            if self._active is not None and not self.complete:
                self._active.shorten()
            self._segments.clear()
            self._active = self._reader = None
        if self.complete:
            with suppress(OSError):  # a full disk, or the folder is gone: the rest goes, or is drained for nothing
                privatefile.write(self.directory / "closed", b"")
            _remove(self.directory, self._owner)
        else:
            (self.directory / _SPARE).unlink(missing_ok=True)
            self._owner.release()


def parent_in(directory: Path) -> bytes | None:
    """The stream that the stream of a spool helps, as its folder says; None when it helps none, or does not say."""
    try:
        return _infos.decode((directory / "stream").read_bytes()).parent
    except (OSError, msgspec.DecodeError):
        return None


_infos: Decoder[StreamInfo] = Decoder(StreamInfo)


def fabrics_in(directory: Path) -> tuple[bytes, ...]:
    """The stores to which a spool may be delivered, by fabric id; empty while it may go to any."""
    ids = _read_sealed(directory / _FABRICS) or b""
    return tuple(ids[at : at + _ID_BYTES] for at in range(0, len(ids), _ID_BYTES))


def admit(directory: Path, fabrics: tuple[bytes, ...], *, sync: bool = False) -> None:
    """Let a spool be delivered to these stores, also that of a living worker. Raises `OSError`."""
    if fabrics:
        _replace_sealed(directory / _FABRICS, b"".join(fabrics), sync=sync)


def _remove(directory: Path, owner: FileLock) -> None:
    """Remove what is a spool's, and the folder if nothing else is in it. What marks it as done goes last."""
    for pattern in (f"*{SUFFIX}", f"{_SPARE}*", "position*", "stream", "closed", "lock"):
        with suppress(OSError):  # the next drain removes the rest
            for path in directory.glob(pattern):
                path.unlink(missing_ok=True)
    with suppress(OSError):  # somebody's own files are in it, or somebody else was quicker
        directory.rmdir()
    owner.release()


def _is_being_made(directory: Path) -> bool:
    """Whether the owner has made the folder and not yet the lock: taking the lock now would drive the owner out."""
    try:
        return not (directory / "stream").exists() and time.time() - directory.stat().st_mtime < _MAKING_S
    except FileNotFoundError:
        return True
    except OSError:
        return False  # somebody else's: taking its lock tells what is wrong


def _read_position(path: Path) -> int:
    return int.from_bytes(_read_sealed(path) or b"", "big")  # 0 only costs sending what is held again


def _read_sealed(path: Path) -> bytes | None:
    """None when it was not written yet, or is torn."""
    try:
        return unseal(path.read_bytes())
    except OSError:
        return None


def _replace_sealed(path: Path, data: bytes, *, sync: bool) -> None:
    """Raises `OSError`. Synced, it is on the disk before anything that follows, such as the removal of a segment."""
    making = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    privatefile.write(making, seal(data), sync=sync)
    os.replace(making, path)
    if sync:
        sync_file(path.parent)
