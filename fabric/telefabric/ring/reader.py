"""A reader of a ring: the newest frame, or each in turn, never a torn one. Steps are numbered as in `fabric/RING.md`.

It maps the file read-only, believes nothing that it has not checked, and goes on by itself in the file that a writer
made again: for larger frames, or after a restart under the same name.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from telefabric import limits
from telefabric.errors import WireError
from telefabric.log.limit import library_logger
from telefabric.ring import hud as huds
from telefabric.ring import layout, places
from telefabric.ring.bell import SUPPORTED, Bell
from telefabric.ring.fence import FENCED, fence
from telefabric.ring.form import ReadForm
from telefabric.ring.hud import Hud
from telefabric.ring.layout import State
from telefabric.ring.pixels import PixelFormat
from telefabric.ring.ring_file import RingFile

if TYPE_CHECKING:
    import numpy as np

log = library_logger("telefabric.ring")

_HEAD, _INTENT, _HEARTBEAT, _STATE = layout.HEAD // 8, layout.INTENT // 8, layout.HEARTBEAT // 8, layout.STATE // 8
_TRIES = 8
_POLL_S = 0.005
"""How long a reader sleeps that has no bell."""
_LOOK_NS = 250_000_000
"""How often a reader that gets no frames looks for another file, or for the writer's process."""


_frame_of = tuple.__new__
"""Makes a `RingFrame` in half the time of its class."""


class RingFrame(NamedTuple):
    """One frame, copied out of the ring."""

    number: int
    array: np.ndarray[Any, Any]
    """(height, width, channels), or (tiles, height, width, channels)."""
    pixels: PixelFormat
    tiles: int
    hud: Hud
    shown_ns: int
    """When it was published: monotonic, of this machine."""
    time_ns: int


@dataclass(slots=True)
class ReaderCounters:
    """Frames, but for the last three. received + skipped + lag = published since `start`."""

    received: int = 0
    skipped: int = 0
    """Never seen: overwritten before they were read, or passed over for a newer one."""
    retries: int = 0
    """Reads that the writer overtook, or that met a frame in the making."""
    damaged: int = 0
    """Frames that stood still and contradicted themselves; skipped."""
    starved: int = 0
    """Calls that gave up after some retries."""
    generations: int = 0
    """Files that it went on in."""
    refused: int = 0
    """Files that it did not read: not ours, damaged, of another version."""


class RingReader:
    """Reads the ring in `folder`. One thread. Nothing has to be there yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.counters = ReaderCounters()
        self._segment: RingFile | None = None
        self._form: ReadForm | None = None
        """Of the last frame; it belongs to the segment."""
        self.read_to = 0
        """Number of the newest frame that was read or skipped: received + skipped further than `start`.

        When the writer restarts, its numbers begin again and so does this; counters continue.
        """
        self.start = 0
        """Number of the last frame before this reader's account begins."""
        self._looked_ns = 0
        self._asked_ns = 0
        self._alive: bool | None = None
        """The writer's process, when it was last asked."""
        self._seen = 0
        self._moved_ns = 0
        """When the newest number was last seen to change from `_seen`."""
        self._bell: Bell | None = None
        self._stats = folder / places.READERS / f"{os.getpid()}-{os.urandom(4).hex()}.json"
        self._told_ns = time.monotonic_ns()
        self._validate = True
        """Switched off by the tests, to prove that they would notice."""

    def latest(self) -> RingFrame | None:
        """The newest frame, if it was not returned before; those between are skipped. None without a new frame."""
        return self._take(each=False)

    def next(self) -> RingFrame | None:
        """The frame after the last one; when that is gone, the oldest that is safe from the writer. None: no more."""
        return self._take(each=True)

    def wait(self, timeout_s: float) -> RingFrame | None:
        """The newest frame, as soon as there is one that was not returned before. None when none came in time."""
        deadline_s = time.monotonic() + timeout_s
        while (frame := self._take(each=False)) is None and (left_s := deadline_s - time.monotonic()) > 0:
            bell = self.bell() if self.folder.is_dir() else None
            if bell is None:
                time.sleep(min(left_s, _POLL_S))
            else:
                bell.wait(min(left_s, _LOOK_NS / limits.NS))
        return frame

    def _take(self, *, each: bool) -> RingFrame | None:
        segment = self._segment
        if segment is None or not (segment.whole() and self.read_to < segment.words[_HEAD] <= segment.words[_INTENT]):
            segment = self._attached()
            if segment is None:
                return None
        for _ in range(_TRIES):
            number = newest = segment.words[_HEAD]
            if newest <= self.read_to:
                return None
            if each:
                oldest = max(segment.block.base + 1, newest - segment.block.slots + 2)
                number = max(self.read_to + 1, min(oldest, newest))
            frame = self._read(segment, number)
            if frame is not None:
                return frame
            self.counters.retries += 1
        self.counters.starved += 1
        return None

    @property
    def newest(self) -> int:
        """Number of the newest frame; 0 for none. Of a damaged file, of the last one that was read."""
        segment = self._segment
        if segment is None or not segment.whole():
            return self.read_to
        head: int = segment.words[_HEAD]
        return head if head <= segment.words[_INTENT] else self.read_to

    @property
    def lag(self) -> int:
        """Frames that were published and neither read nor skipped."""
        return max(self.newest - self.read_to, 0)

    @property
    def state(self) -> str:
        """live; stalled (no frame for a while, or no sign of life); closed; died; absent."""
        segment = self._segment if self.lag else self._attached()
        if segment is None:
            return "absent"
        if segment.words[_STATE] == State.CLOSED:
            return "closed"
        now_ns = time.monotonic_ns()
        if now_ns - self._told_ns > limits.NS:
            self._tell()
        silent_ns = now_ns - segment.words[_HEARTBEAT]
        if now_ns - self._asked_ns >= _LOOK_NS:
            self._asked_ns, self._alive = now_ns, segment.block.owner.alive()
        if self._alive is False or (self._alive is None and silent_ns > limits.RING_DEAD_S * limits.NS):
            return "died"
        if segment.words[_HEAD] != self._seen:
            self._seen, self._moved_ns = segment.words[_HEAD], now_ns
        stalled = now_ns - self._moved_ns > limits.RING_STALLED_S * limits.NS
        return "stalled" if stalled or silent_ns > limits.RING_SUSPECT_S * limits.NS else "live"

    def bell(self) -> Bell | None:
        """The bell that the writer rings at each frame, made at the first call. None if that fails: then poll."""
        if self._bell is None and SUPPORTED:
            try:
                self._bell = Bell(self.folder)
            except OSError as error:
                log.warning("fastlane.no_bell: %s", error)
        return self._bell

    def close(self) -> None:
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        self._form = None
        if self._segment is not None:
            self._segment.close()
            self._segment = None
        with contextlib.suppress(OSError):
            self._stats.unlink(missing_ok=True)

    # -- one frame -----------------------------------------------------------------------------------------------

    def _read(self, segment: RingFile, number: int) -> RingFrame | None:
        """Frame `number`, or None when its slot has another, or gets one meanwhile."""
        words, place = segment.words, number % segment.slots
        begin, end, descriptor = segment.places[place]
        if words[end] != number and self._validate:  # 1
            return None
        if FENCED:
            fence()  # 2
        head = layout.head_at(segment.data, descriptor)  # 3
        form = self._form
        if head is None or form is None or form.packed != head[4]:
            form = None if head is None else self._form_of(segment, head[4])
        array = None if form is None else form.payloads[place].copy()
        if FENCED:
            fence()  # 4
        if words[begin] != number and self._validate:  # 5
            return None
        if head is not None and form is not None and array is not None:
            written, shown_ns, time_ns, payload_crc, _, meta = head
            if not self._validate or (
                written == number and (not form.checked or zlib.crc32(array.data) == payload_crc)
            ):
                try:
                    hud = huds.decode(meta)
                except msgspec.DecodeError:
                    pass  # damaged
                else:
                    self._pass(written, received=True)
                    if shown_ns - self._told_ns > limits.NS:
                        self._tell()
                    return _frame_of(RingFrame, (written, array, form.pixels, form.tiles, hud, shown_ns, time_ns))
        self.counters.damaged += 1
        self._pass(number, received=False)  # it does not change any more
        log.warning("fastlane.damaged: frame %d in %s contradicts itself", number, self.folder)
        return None

    def _form_of(self, segment: RingFile, packed: bytes) -> ReadForm | None:
        """Checked once for all frames that have it; None for one that contradicts itself or the file."""
        try:
            self._form = ReadForm(segment, packed)
        except ValueError:
            return None
        return self._form

    def _pass(self, number: int, *, received: bool) -> None:
        """Count a frame, and those before it that are skipped with it."""
        self.counters.received += received
        ahead = number - self.read_to
        if ahead > 0:
            self.counters.skipped += ahead - received
            self.read_to = number

    # -- files ---------------------------------------------------------------------------------------------------

    def _attached(self) -> RingFile | None:
        """The file to read from, when the last is read out: another one if its writer has gone on, or is gone."""
        segment, now_ns = self._segment, time.monotonic_ns()
        if now_ns - self._told_ns > limits.NS:
            self._tell()
        whole = segment is not None and segment.whole()
        waits = segment is not None and (not whole or segment.words[_STATE] != State.SUPERSEDED)
        if waits and now_ns - self._looked_ns < _LOOK_NS:
            return segment if whole else None
        self._looked_ns = now_ns
        manifest = places.read_manifest(self.folder)
        known = 0 if segment is None else segment.block.generation
        if manifest is not None and manifest.generation not in (0, known):
            self._attach(manifest)
        self._keep_bell()
        return self._segment if self._segment is not None and self._segment.whole() else None

    def _tell(self) -> None:
        """The counters once a second, for people and metrics, while the ring is there."""
        self._told_ns = time.monotonic_ns()
        told = {"time_ns": time.time_ns(), "read_to": self.read_to, "lag": self.lag, **asdict(self.counters)}
        with contextlib.suppress(OSError):
            self._stats.parent.mkdir(mode=0o700, exist_ok=True)
            places.write_json(self._stats, told)

    def _keep_bell(self) -> None:
        """Whoever cleared the folder has taken it, too, and without a bell the writer takes nobody to be there."""
        if self._bell is not None:
            with contextlib.suppress(OSError):  # the folder is not there again: at the next look
                self._bell.renew()

    def _attach(self, manifest: places.Manifest) -> None:
        try:
            segment = RingFile.open(self.folder / manifest.file_name)
        except FileNotFoundError:
            return  # replaced once more meanwhile
        except (WireError, OSError, ValueError) as error:
            self.counters.refused += 1
            log.warning("fastlane.refused: %s", error)
            return
        before, base = self._segment, segment.block.base
        head = segment.words[_HEAD]
        if before is None:
            self.read_to = self.start = max(head - 1, base)  # a late reader sees the newest at once
        else:
            numbered_on = before.block.owner == segment.block.owner and base >= self.read_to
            self.counters.skipped += (base if numbered_on else self.newest) - self.read_to
            self.read_to = base
        self._form = None
        if before is not None:
            before.close()
        self._segment = segment
        self._asked_ns = 0
        self._moved_ns, self._seen = time.monotonic_ns(), head
        self.counters.generations += 1
        log.debug("fastlane.attached: %s", segment.path)
