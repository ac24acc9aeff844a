"""When the write-ahead log is moved into the store file, and what is said when a reader does not let it.

A log that is being read cannot begin again: it grows with every commit until the reader has ended its transaction.
SQLite sets it no limit, so `Writer` stops committing at `limits.LOG_BYTES_MAX`.
"""

from __future__ import annotations

from telefabric import limits
from telefabric.log.events import EventLog
from telefabric.store.write.writer import Writer

log = EventLog("telefabric.store")

_IDLE_S = 2.0
_TELL_S = 60.0


class Checkpoints:
    """Asked each second by the thread that writes, between its commits."""

    def __init__(self, now_ns: int) -> None:
        self._written_ns = now_ns
        self._held_since_ns: int | None = None
        self._tell_due_ns = now_ns
        self.outcomes = {"done": 0, "held": 0}
        """How many checkpoints emptied the log, and how many a reader held up."""
        self.frames = 0
        """Moved from the log into the file."""

    def held_s(self, now_ns: int) -> float:
        """How long a reader has kept the log long, in seconds; 0.0 without such a reader."""
        return 0.0 if self._held_since_ns is None else (now_ns - self._held_since_ns) / limits.NS

    def written(self, now_ns: int) -> None:
        """A commit has ended."""
        self._written_ns = now_ns

    def tend(self, writer: Writer, now_ns: int) -> None:
        """Empty the log when nothing was written for a while, or when it is long. Raises `StoreError` as that does."""
        size = writer.log_bytes
        idle = now_ns - self._written_ns > _IDLE_S * limits.NS
        if size > limits.LOG_BYTES_LONG or (idle and size):
            done = writer.checkpoint()
            self.outcomes["held" if done.busy else "done"] += 1
            self.frames += max(done.checkpointed_frames, 0)
            if not done.busy:
                log.info("store.checkpoint", log_frames=done.log_frames, moved=done.checkpointed_frames)
        self._watch(writer.log_bytes, now_ns)

    def _watch(self, size: int, now_ns: int) -> None:
        """Say that the log stays long, once and then each minute, and that it is over."""
        if size <= limits.LOG_BYTES_LONG:
            if self._held_since_ns is not None:
                log.info("store.wal_released", seconds=(now_ns - self._held_since_ns) // limits.NS)
            self._held_since_ns = None
            return
        if self._held_since_ns is None:
            self._held_since_ns = self._tell_due_ns = now_ns
        if now_ns >= self._tell_due_ns:
            self._tell_due_ns = now_ns + int(_TELL_S * limits.NS)
            log.warning(
                "store.wal_held", log_bytes=size, log_bytes_max=limits.LOG_BYTES_MAX,
                seconds=(now_ns - self._held_since_ns) // limits.NS,
                remedy="end the process that has been reading the file",
            )  # fmt: skip
