"""From the output of a program to its lines: each is recorded, and what is no event goes on to our standard output.

Nothing is read that has not been recorded yet, so a program that prints faster than that waits in its own print.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
from collections.abc import Callable

from telefabric.limits import LINE_BYTES_MAX
from telefabric_workers.foreign.fields import may_be_object

log = logging.getLogger("telefabric.run")

_READ_BYTES = 64 * 1024
"""What a pipe holds. What has been read and not been recorded yet is lost with this process."""
_SILENCE_S = 0.5
"""The output of a program that has ended is over after this time of silence, even if a child of it keeps it open."""


class Pump:
    """A thread that reads one descriptor until its end. `record` says whether a line is an event, and does not pass."""

    def __init__(
        self, source: int, record: Callable[[bytes], bool], before_output: Callable[[], None] = lambda: None
    ) -> None:
        self._source = source
        self._before_output = before_output
        self._record: Callable[[bytes], bool] | None = record
        self._kept: list[bytes] = []
        """What there is of the current line, up to `LINE_BYTES_MAX`."""
        self._kept_bytes = 0
        self._passes = False
        """The current line is no event, and passes as it comes: a prompt has no end of line."""
        self._out = bytearray()
        self._out_is_open = True
        self._ended, self._end = os.pipe()
        self._thread = threading.Thread(target=self._run, name="telefabric-run", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """The program has ended: wait until what it has printed is taken in."""
        os.close(self._end)
        self._thread.join()
        os.close(self._ended)

    def _run(self) -> None:
        try:
            while self._out_is_open and (data := self._read()):
                *complete, part = data.split(b"\n")
                for line in complete:
                    self._take(line + b"\n")
                    self._line()
                self._take(part)
                self._write()
            if self._kept:
                self._line()
                self._write()
        finally:
            os.close(self._source)  # a program that prints on, and whose reader is gone, gets to know it as without us

    def _read(self) -> bytes:
        """What was printed next; empty at the end."""
        waiting: list[int] = [self._source, self._ended]
        while True:
            ready, _, _ = select.select(waiting, [], [], None if self._ended in waiting else _SILENCE_S)
            if self._source in ready:
                try:
                    return os.read(self._source, _READ_BYTES)
                except OSError:  # EIO: nobody has the other end of a pseudo-terminal any more
                    return b""
            if not ready:
                return b""
            waiting.remove(self._ended)

    def _take(self, part: bytes) -> None:
        """The next part of the current line."""
        if not part:
            return
        if not self._kept_bytes and self._record is not None:
            self._passes = False
        before = self._kept_bytes
        self._kept_bytes += len(part)
        if before < LINE_BYTES_MAX:
            self._kept.append(part)
        if self._passes:
            self._out += part
        elif self._kept_bytes > LINE_BYTES_MAX or not self._may_be_event():
            self._passes = True
            self._out += b"".join(self._kept) if before < LINE_BYTES_MAX else part

    def _may_be_event(self) -> bool:
        head = next((part for part in self._kept if part.strip(b" \t")), b"{")
        return may_be_object(head)

    def _line(self) -> None:
        """The current line is complete."""
        line = b"".join(self._kept)
        passed = self._passes
        self._kept, self._kept_bytes, self._passes = [], 0, False
        is_event = False
        if self._record is not None:
            try:
                is_event = self._record(line)
            except Exception as error:  # noqa: BLE001  the boundary of a thread: the program runs on, and prints
                self._record = None
                log.error("run.not_recorded: %s: %s: no more lines are recorded", type(error).__name__, error)
        if not is_event and not passed:
            self._out += line

    def _write(self) -> None:
        """Pass on what is no event, and wait for its reader as the program would have to."""
        self._before_output()
        out, self._out = memoryview(bytes(self._out)), bytearray()
        while out and self._out_is_open:
            try:
                out = out[os.write(1, out) :]
            except BlockingIOError:
                select.select([], [1], [])
            except OSError as error:
                if error.errno == errno.EBADF:  # closed from the beginning, as with >&-
                    return
                self._out_is_open = False
                if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal has hung up
                    log.error("run.output: the output cannot be written: %s", error.strerror)
