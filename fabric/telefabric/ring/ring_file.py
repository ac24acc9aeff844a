"""One ring file: made whole before it has its name, opened for writing or for reading, its words and its slots."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

from telefabric import limits
from telefabric.errors import EnvironmentProblem, WireError
from telefabric.ring import layout
from telefabric.ring.layout import PAGE, Superblock


class RingFile:
    """A mapped ring file. `data` is all of it, `words` the same as 64-bit words (index: offset / 8)."""

    def __init__(self, path: Path, mapped: mmap.mmap, block: Superblock, descriptor: int) -> None:
        self.path = path
        self.block = block
        self.data = memoryview(mapped)
        self.words = self.data.cast("Q")
        self._mapped = mapped
        self._descriptor: int | None = descriptor
        self.slots, self._total = block.slots, block.total
        self.places = [self._place(self.slot(number)) for number in range(block.slots)]
        """Indexes of `begin` and `end`, offset of the descriptor. A frame's place is its number modulo the slots."""

    def _place(self, slot: int) -> tuple[int, int, int]:
        end = slot + self.block.stride - layout.END_BYTES
        return (slot + layout.BEGIN) // 8, end // 8, slot + layout.DESCRIPTOR

    @classmethod
    def create(cls, directory: Path, block: Superblock) -> RingFile:
        """Raises `EnvironmentProblem` when the file system has no room for it or may not be written."""
        path = directory / f"ring.{block.generation:016x}"
        making = path.with_suffix(f".new{os.getpid()}")
        descriptor = -1
        try:
            descriptor = os.open(making, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
            _allocate(descriptor, block.total)
            os.pwrite(descriptor, layout.pack_superblock(block), 0)
            mapped = mmap.mmap(descriptor, block.total)
            os.rename(making, path)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            making.unlink(missing_ok=True)
            why = error.strerror or str(error)
            raise EnvironmentProblem(
                f"no room for a frame ring of {block.total / 1e6:.0f} MB in {directory} ({why}): free some, render "
                "smaller frames, or name another folder with TELEFABRIC_RING"
            ) from None
        return cls(path, mapped, block, descriptor)

    @classmethod
    def open(cls, path: Path) -> RingFile:
        """Open read-only. Raises `WireError` for a file that is not a sound ring, `OSError` when it is gone.

        A file that is shorter than it says is not touched beyond its end: that would be SIGBUS.
        """
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            status = os.fstat(descriptor)
            if hasattr(os, "getuid") and status.st_uid != os.getuid():
                raise WireError("foreign", f"{path} belongs to another user")
            block = layout.parse_superblock(os.read(descriptor, layout.SUPERBLOCK_BYTES), status.st_size)
            return cls(path, mmap.mmap(descriptor, block.total, access=mmap.ACCESS_READ), block, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def slot(self, number: int) -> int:
        """Offset of the slot of a frame."""
        return PAGE + (number - 1) % self.block.slots * self.block.stride

    def linked(self) -> bool:
        """The file still has a name."""
        return self._descriptor is not None and os.fstat(self._descriptor).st_nlink > 0

    def whole(self) -> bool:
        """The file is as long as it was: to touch what somebody has cut off would be SIGBUS."""
        return self._descriptor is not None and os.lseek(self._descriptor, 0, os.SEEK_END) >= self._total

    def close(self) -> None:
        """Let go of the map, unless somebody still looks at it; then it goes when they do."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        try:
            self.words.release()
            self.data.release()
            self._mapped.close()
        except BufferError:
            return


def _allocate(descriptor: int, size: int) -> None:
    """All blocks now: on a full file system a later touch would be SIGBUS. Raises `OSError`."""
    if hasattr(os, "posix_fallocate"):
        status = os.statvfs(descriptor)
        free = status.f_bavail * status.f_frsize
        if size > limits.RING_SHARE_OF_FREE * free:
            raise OSError(errno.ENOSPC, f"{free / 1e6:.0f} MB are free, and the ring would take too much of that")
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
