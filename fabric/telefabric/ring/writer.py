"""The one writer of a ring. Steps are numbered as in `fabric/RING.md`.

No reader can make it wait. `publish` belongs to one thread; one heartbeat thread looks after all rings of a process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import weakref
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from telefabric import limits
from telefabric.errors import EnvironmentProblem, UsageError
from telefabric.files.lock import FileLock
from telefabric.log.limit import Pace, library_logger
from telefabric.ring import hud as huds
from telefabric.ring import layout, pixels, places
from telefabric.ring.bell import Ringer
from telefabric.ring.discovery import collect_garbage
from telefabric.ring.fence import CHECKSUM_NEEDED, FENCED, fence
from telefabric.ring.form import WrittenForm
from telefabric.ring.layout import State
from telefabric.ring.owner import Owner
from telefabric.ring.pixels import Picture, PixelFormat
from telefabric.ring.places import Manifest, Name
from telefabric.ring.ring_file import RingFile
from telefabric.settings import runtime_folder

log = library_logger("telefabric.ring")

_HEAD, _INTENT, _HEARTBEAT = layout.HEAD // 8, layout.INTENT // 8, layout.HEARTBEAT // 8
_STATE, _COUNTERS = layout.STATE // 8, layout.COUNTERS // 8


class WriterCounters(NamedTuple):
    """Since the ring was made. Frames, but for `generations` and `bell_errors`."""

    published: int
    rate_limited: int
    left_out: int
    """Frames left out: there was no room, the HUD was too long, or a signal handler gave one inside `publish`."""
    generations: int
    bell_errors: int


class RingWriter:
    """A ring for the frames of one agent of one worker; at most `fps_max` of them a second.

    Raises `EnvironmentProblem` when the folder cannot be made. Readers find it there at once; the file itself is made
    with the first frame, whose size it takes as usual, and again for a larger one. In a forked child it is closed.
    """

    def __init__(
        self, name: Name, *, base: Path | None = None, slots: int = 4, fps_max: float = limits.RING_FPS_MAX,
        checksum: bool = CHECKSUM_NEEDED,
    ) -> None:  # fmt: skip
        if not 2 <= slots <= limits.RING_SLOTS_MAX:
            raise UsageError(f"a ring of {slots} slots: from 2 to {limits.RING_SLOTS_MAX} work")
        self.name = name
        self._slots, self._fps_max = slots, fps_max
        self._features = layout.FEATURE_CHECKSUM if checksum else 0
        self._pace = Pace(fps_max)
        self._owner = Owner.this_process()
        self._segment: RingFile | None = None
        self._head = 0
        self._rate_limited = self._left_out = self._generations = 0
        self._guard = threading.RLock()
        """Between a frame and the heartbeat, which may have to make a new file."""
        self._publishing = self._close_waits = False
        """Looked at under the guard: a call that finds `_publishing` comes from a signal handler, inside `publish`."""
        self._form: WrittenForm | None = None
        """Of the last frame; it belongs to the segment."""
        self.closed = False
        self._told = time.monotonic(), 0
        """When the counters were last written, and the number of frames by then."""
        with contextlib.ExitStack() as undo:  # one that cannot be made leaves the folder to the next
            self.folder, lock = _take_folder(name, base)
            undo.callback(lock.release)
            self._lock: FileLock | None = lock
            self._ringer = Ringer(self.folder)
            self._tell_where(0, 0)
            undo.pop_all()
        _keeper.add(self)

    @property
    def wanted(self) -> bool:
        """A reader waits at the bell."""
        return self._ringer.waiting()

    @property
    def counters(self) -> WriterCounters:
        return WriterCounters(self._head, self._rate_limited, self._left_out, self._generations, self._ringer.errors)

    def publish(
        self, frame: Any, hud: huds.Hud, *, pixel_format: PixelFormat | None = None, tiled: bool = False
    ) -> bool:
        """Copy a frame and its HUD into the ring; False if the frame is over the rate, or left out.

        `frame`: see `pixels.picture_of`; any strides, and any size. With `tiled` its first axis counts tiles;
        `hud.tiles` describes each. Raises `ValueError` for anything but a picture.
        """
        now_ns = time.monotonic_ns()
        with self._guard:
            if self._publishing:
                self._left_out += 1
                return False
            try:
                self._publishing = True
                form, picture = self._form, None
                if (
                    form is None or frame.__class__ is not form.type
                    or (frame.shape, frame.dtype, pixel_format, tiled) != form.key
                ):  # fmt: skip
                    picture = pixels.picture_of(frame, pixel_format, tiled=tiled)
                    frame = picture.given
                if self.closed:
                    return False
                if not self._pace.take(now_ns):
                    self._rate_limited += 1
                    return False
                if picture is not None:
                    form = self._form_of(picture, pixel_format)
                meta = huds.encode(hud)
                if form is None or len(meta) > layout.META_BYTES_MAX:
                    self._left_out += 1
                    return False
                number, words = self._head + 1, form.words
                place = number % self._slots
                begin, end, descriptor = form.places[place]
                payload = form.payloads[place]
                words[_INTENT] = number  # 1
                words[begin] = number  # 2
                if FENCED:
                    fence()  # 3
                payload[...] = frame  # 4, one call, which lets other threads run
                crc = zlib.crc32(payload.data) if self._features else 0  # of the copy: the caller's may have any order
                head = form.pack(number, now_ns, time.time_ns(), crc, meta)
                form.data[descriptor : descriptor + len(head)] = head
                if FENCED:
                    fence()  # 5
                words[end] = number  # 6
                words[_HEAD] = number  # 7
                self._head = number
                self._ringer.ring(now_ns)  # 8
                return True
            finally:
                self._publishing = False
                if self._close_waits:
                    self.close()

    def _form_of(self, picture: Picture, given: PixelFormat | None) -> WrittenForm | None:
        segment = self._segment_for(picture.array.nbytes)
        if segment is not None:
            self._form = WrittenForm(segment, picture, given)
        return self._form if segment is not None else None

    # -- files ---------------------------------------------------------------------------------------------------

    def _segment_for(self, payload_bytes: int) -> RingFile | None:
        """A file with room for the frame, made if necessary; None if it cannot be made."""
        segment = self._segment
        if segment is not None and payload_bytes <= segment.block.capacity:
            return segment
        try:
            return self._make(payload_bytes if segment is None else payload_bytes + payload_bytes // 2)
        except EnvironmentProblem as error:
            log.warning("fastlane.no_room: %s", error)
            return None

    def _make(self, capacity: int) -> RingFile:
        """A new file, in which frames go on being numbered; the one before it says so, and loses its name."""
        stride = layout.stride_of(capacity)
        block = layout.Superblock(
            self._features, self._slots, stride, capacity, layout.PAGE + self._slots * stride,
            int.from_bytes(os.urandom(8), "little"), self._head, self._owner, time.time_ns(),
        )  # fmt: skip
        segment = RingFile.create(self.folder, block)
        words = segment.words
        words[_HEAD] = words[_INTENT] = self._head
        words[_HEARTBEAT] = time.monotonic_ns()
        words[_STATE] = State.LIVE
        try:
            self._tell_where(block.generation, capacity)
        except EnvironmentProblem:
            segment.close()
            segment.path.unlink(missing_ok=True)
            raise
        self._generations += 1
        self._form = None  # its views would keep the memory of what is closed
        if self._segment is not None:  # whose readers hear where to go on
            self._segment.words[_STATE] = State.SUPERSEDED
            self._segment.close()
        self._segment = segment
        log.debug("fastlane.ring_made: %s, %.1f MB", segment.path, block.total / 1e6)
        return segment

    def _tell_where(self, generation: int, capacity: int) -> None:
        shape = generation, self._slots, capacity, self._fps_max
        manifest = Manifest(places.FORMAT, self.name, *shape, self._owner.pid, "", time.time_ns())
        try:
            places.write_manifest(self.folder, manifest)
        except OSError as error:
            raise EnvironmentProblem(f"the manifest of a frame ring cannot be written: {error}") from None
        for path in self.folder.glob("ring.*"):
            if path.name != manifest.file_name:
                path.unlink(missing_ok=True)

    # -- heartbeat -----------------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Once a second, on the keeper's thread: a sign of life, the counters, and whether the file still is there."""
        with self._guard:
            segment = self._segment
            if segment is None or self.closed:
                return
            segment.words[_HEARTBEAT] = time.monotonic_ns()
            for place, value in enumerate(self.counters):
                segment.words[_COUNTERS + place] = value
            if not segment.linked():
                log.warning(
                    "fastlane.unlinked: %s was removed; a new one is made (systemd removes it at the end of a login: "
                    "loginctl enable-linger)", segment.path,
                )  # fmt: skip
                self._make_again(segment.block.capacity)
            self._tell_stats()

    def _make_again(self, capacity: int) -> None:
        """With the lock again, whose file may have gone with the rest: without it the folder is another writer's."""
        try:
            places.make_folder(self.folder)
            held, self._lock = self._lock, None
            if held is not None:
                held.release()
            self._lock = FileLock.take(self.folder / places.LOCK)
            if self._lock is None:
                raise EnvironmentProblem(f"{self.folder} was removed, and another writer has it by now")
            self._make(capacity)
        except (OSError, EnvironmentProblem) as error:
            log.warning("fastlane.no_room: %s", error)

    def _tell_stats(self) -> None:
        """Write the counters beside the ring. A folder that is gone is noticed by the check of the ring's file."""
        if self._lock is None:  # the folder is another writer's by now
            return
        now_s, (before_s, before) = time.monotonic(), self._told
        self._told = now_s, self._head
        rate = (self._head - before) / (now_s - before_s) if now_s > before_s else 0.0
        with contextlib.suppress(OSError):
            told = {"time_ns": time.time_ns(), **self.counters._asdict(), "frames_per_s": round(rate, 2)}
            places.write_json(self.folder / places.STATS, told)

    def close(self) -> None:
        """The last frame stays for a while, and the state says closed. The janitor clears the folder later.

        From inside `publish` (a signal handler) it happens when that call ends.
        """
        with self._guard:
            if self.closed:
                return
            if self._publishing:
                self._close_waits = True
                return
            self.closed = True
            if os.getpid() != self._owner.pid:
                return
            _keeper.remove(self)
            if self._segment is not None:
                self._tell_stats()
                self._segment.words[_STATE] = State.CLOSED
                self._form = None
                self._segment.close()
            self._ringer.ring(time.monotonic_ns())
            self._ringer.close()
            if self._segment is None:
                shutil.rmtree(self.folder, ignore_errors=True)  # nothing to look at
            if self._lock is not None:
                self._lock.release()

    def disown(self) -> None:
        """In a forked child: it is the parent's. Nothing is closed, unlinked or written."""
        self.closed = True
        self._guard = threading.RLock()


def _take_folder(name: Name, base: Path | None) -> tuple[Path, FileLock]:
    """The folder of this name, which nobody else writes; what a dead one left in it is taken over."""
    for folder_name in places.folder_names(name):
        folder = runtime_folder(base) / folder_name
        places.make_folder(folder)
        try:
            lock = FileLock.take(folder / places.LOCK)
        except OSError as error:
            raise places.no_ring(folder, error) from None
        if lock is not None:
            return folder, lock
    raise EnvironmentProblem(f"too many writers of frames for agent {name.agent_id} of run {name.run_id}")


class _Keeper:
    """The heartbeat of all rings of a process, on one thread that begins with the first and ends with the last.

    It also clears away what writers that have gone left in the usual place.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._writers: weakref.WeakSet[RingWriter] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self._guard = threading.RLock()  # a signal handler may open or close a ring while its thread does
        self._wake = threading.Event()

    def add(self, writer: RingWriter) -> None:
        with self._guard:
            self._writers.add(writer)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="telefabric-ring", daemon=True)
                thread.start()
                self._thread = thread

    def remove(self, writer: RingWriter) -> None:
        with self._guard:
            self._writers.discard(writer)
            if not self._writers:
                self._wake.set()

    def _run(self) -> None:
        swept_s = 0.0
        while True:
            self._wake.wait(limits.HEARTBEAT_S)
            with self._guard:
                self._wake.clear()
                writers = list(self._writers)
                if not writers:
                    self._thread = None
                    return
            for writer in writers:
                writer.beat()
            if time.monotonic() - swept_s > limits.RING_GRACE_S:
                swept_s = time.monotonic()
                collect_garbage()

    def after_fork(self) -> None:
        for writer in list(self._writers):
            writer.disown()
        self._begin()


_keeper = _Keeper()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keeper.after_fork)
