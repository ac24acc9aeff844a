"""A segment: one preallocated, memory-mapped file of records. The events of a segment have consecutive seqs.

The file begins with a header of 64 bytes (magic, version, stream id, first seq, CRC-32), then records follow
(`telefabric.wire.records`) up to the first bytes that are not a whole, undamaged record; a new segment is all zeros.
Appending is a copy into the page cache: it survives ``kill -9`` of the process. Space is allocated up front, so that a
full disk is an error when the segment is made and never a SIGBUS when it is written.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from telefabric.errors import SpoolError
from telefabric.files.sync import sync_file
from telefabric.wire import records
from telefabric.wire.seal import CHECK_BYTES, seal, unseal

_HEADER = struct.Struct(">8sI16sQ24x")
_MAGIC = b"TFSPOOL\n"
_VERSION = 1
HEADER_BYTES = _HEADER.size + CHECK_BYTES
SUFFIX = ".seg"
MARK_SEQS = 64
_POPULATE_WRITE = 23 if sys.platform == "linux" else None
"""MADV_POPULATE_WRITE, of Linux 5.14; `mmap` has no name for it."""
SPOOL_ELSEWHERE = "make room or set TELEFABRIC_SPOOL to a folder that has some"


@contextmanager
def spool_error(what: str, remedy: str = "") -> Iterator[None]:
    """Make a `SpoolError` of what the system refuses: what cannot be done, why, and the remedy."""
    try:
        yield
    except OSError as error:
        raise SpoolError(": ".join(filter(None, (what, error.strerror, remedy)))) from None


def segment_path(directory: Path, first_seq: int) -> Path:
    return directory / f"{first_seq:020d}{SUFFIX}"


def allocate(path: Path, size: int) -> None:
    """Make a file of `size` bytes whose space is really there. Raises `SpoolError` when it is not."""
    with spool_error(f"a spool segment cannot be made in {path.parent}"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with spool_error(f"no room for a spool segment of {size} bytes in {path.parent}", SPOOL_ELSEWHERE):
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                zeros = bytes(1 << 20)
                for offset in range(0, size, len(zeros)):
                    os.write(descriptor, zeros[: size - offset])
    except SpoolError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


class Segment:
    """One mapped segment. `first_seq` … `last_seq` are its events; `end` is the offset behind the last of them."""

    __slots__ = ("base", "end", "first_seq", "last_seq", "map", "marks", "path", "size", "unread", "warm")

    def __init__(self, path: Path, first_seq: int, base: int, *, writable: bool) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.map: mmap.mmap | None = _open_map(path, self.size, writable=writable)
        """None while nobody reads: each mapping holds a descriptor, and a long outage makes a thousand segments."""
        self.unread = False
        """Left behind and not looked through yet: `last_seq` and `end` are what they can be at most."""
        self.first_seq = first_seq
        self.last_seq = first_seq - 1
        self.end = HEADER_BYTES
        self.warm = 0
        """The pages up to this offset are in memory, or have been written."""
        self.base = base
        """Bytes of records in all segments before this one."""
        self.marks: list[int] = []
        """Where the record of each seq that `MARK_SEQS` divides ends, so that a batch is cut without a walk."""

    @classmethod
    def start(cls, spare: Path, directory: Path, stream: bytes, first_seq: int, base: int) -> Segment:
        """Turn an allocated file into the segment that begins with `first_seq`."""
        path = segment_path(directory, first_seq)
        os.replace(spare, path)
        segment = cls(path, first_seq, base, writable=True)
        segment.mapped()[:HEADER_BYTES] = seal(_HEADER.pack(_MAGIC, _VERSION, stream, first_seq))
        return segment

    @classmethod
    def left_behind(cls, path: Path, base: int, before: int | None) -> Segment | None:
        """A dead worker's segment, by its name and that of the next (which begins with `before`); see `look_through`.

        None for an empty file. Raises `OSError` when it cannot be opened: it may be sound, so it stays.
        """
        if not path.stat().st_size:
            return None
        segment = cls(path, int(path.stem), base, writable=False)
        segment.release()
        segment.unread = True
        segment.end = max(segment.size, HEADER_BYTES)
        if before is not None:
            segment.last_seq = before - 1
        return segment

    def look_through(self, stream: bytes) -> None:
        """Find out what a segment that was left behind really holds, up to its first bad record.

        Raises `OSError`, and `SpoolError` for a format that this version cannot read.
        """
        if not self.unread:
            return
        found = self.mapped()
        self.unread = False
        self.last_seq, self.end = self.first_seq - 1, HEADER_BYTES
        if self.size >= HEADER_BYTES and self._is_of(stream):
            for span in records.walk(found, HEADER_BYTES, self.size):
                self.last_seq += 1
                self.end = span.end
                if not self.last_seq % MARK_SEQS:
                    self.marks.append(self.end)
        self.release()

    def warm_up(self, ahead: int) -> None:
        """Bring the next pages into memory when less than half of `ahead` bytes is there. Any thread.

        Else the append that first touches a page waits for the system to make it: some 20 µs, for one event of 30.
        Raises `OSError` where the system cannot.
        """
        found = self.map
        if found is None or self.warm - self.end >= ahead // 2 or self.warm >= self.size:
            return
        if _POPULATE_WRITE is None:
            raise OSError(errno.ENOSYS, "this system brings no pages into memory")
        start = max(self.warm, self.end) // mmap.PAGESIZE * mmap.PAGESIZE
        until = min(-(-(self.end + ahead) // mmap.PAGESIZE) * mmap.PAGESIZE, self.size)
        found.madvise(_POPULATE_WRITE, start, until - start)
        self.warm = until

    def mapped(self) -> mmap.mmap:
        """The mapping, opened again if need be. Raises `OSError`."""
        found = self.map
        if found is None:
            found = self.map = _open_map(self.path, self.size, writable=False)
        return found

    def release(self) -> None:
        """Release the mapping; a reader keeps it until it has finished."""
        self.map = None

    def _is_of(self, stream: bytes) -> bool:
        """Whether its records are the stream's. A damaged header loses none of them: they have checks of their own.

        Raises `SpoolError` for a format that this version cannot read.
        """
        head = self.mapped()[:HEADER_BYTES]
        magic, version, owner, first_seq = _HEADER.unpack_from(head)
        if unseal(head) is None:
            return any(head[: _HEADER.size])
        if magic == _MAGIC and version != _VERSION:
            raise SpoolError(
                f"{self.path} has the spool format {version} and this version reads {_VERSION}: "
                "drain it with the version that wrote it"
            )
        return bool((magic, owner, first_seq) == (_MAGIC, stream, self.first_seq))

    def cut(self, seq: int, start: int, end: int, bytes_max: int, events_max: int) -> tuple[int, int]:
        """Where a batch from `seq` at `start` may end, at most at `end`, and its last seq. At least one event."""
        first_mark = -(-self.first_seq // MARK_SEQS)
        fits = bisect_right(self.marks, min(start + bytes_max, end)) - 1
        last_mark = min(first_mark + fits, (seq - 1 + events_max) // MARK_SEQS)
        if last_mark * MARK_SEQS > seq:
            return self.marks[last_mark - first_mark], last_mark * MARK_SEQS
        end, events = records.cut(self.mapped(), start, end, bytes_max, events_max)
        return end, seq + events - 1

    def offset_of(self, seq: int) -> int:
        """Where the record of a held seq begins."""
        first_mark = -(-self.first_seq // MARK_SEQS)
        passed = (seq - 1) // MARK_SEQS - first_mark
        offset, at = HEADER_BYTES, self.first_seq
        if passed >= 0:
            offset, at = self.marks[passed], (first_mark + passed) * MARK_SEQS + 1
        return offset if at == seq else records.cut(self.mapped(), offset, self.end, self.size, seq - at)[0]

    @property
    def records_end(self) -> int:
        """Bytes of records in all segments up to the end of this one."""
        return self.base + self.end - HEADER_BYTES

    def sync(self) -> None:
        """Bring what was appended to the disk. Raises `OSError`."""
        with suppress(FileNotFoundError):  # acknowledged meanwhile, and removed
            sync_file(self.path)

    def shorten(self) -> None:
        """Give back the space behind the last record. Nothing may be appended or read afterwards."""
        self.release()
        with suppress(OSError):  # Windows while somebody still has it mapped: delivery brings the space back
            os.truncate(self.path, self.end)

    def discard(self) -> None:
        """Remove the file. The mapping stays valid for its readers (not on Windows, which forbids the removal)."""
        try:
            self.path.unlink(missing_ok=True)
        except PermissionError:
            if self.map is not None:
                self.map.close()
            self.path.unlink(missing_ok=True)


def _open_map(path: Path, size: int, *, writable: bool) -> mmap.mmap:
    descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | getattr(os, "O_BINARY", 0))
    try:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        return mmap.mmap(descriptor, size, access=access)  # keeps a descriptor of its own
    finally:
        os.close(descriptor)
