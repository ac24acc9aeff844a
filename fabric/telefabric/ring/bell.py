"""The doorbell: one byte to a Unix datagram socket of each reader that waits.

A reader that polls needs none. On systems without Unix sockets there are no bells, and readers poll.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from telefabric.ring.places import BELLS

SUPPORTED = hasattr(socket, "AF_UNIX")
_LOOK_NS = 250_000_000
"""How often a writer looks for bells of readers."""
_READERS_MAX = 32


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """A socket's address: its path, or a short way to it; an address has room for 108 bytes on Linux, 104 elsewhere."""
    if len(os.fsencode(path)) < 104:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class Bell:
    """A reader's end: `fileno` becomes readable when a frame was published. Raises `OSError` when it cannot be made."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / BELLS / f"{os.getpid()}-{os.urandom(4).hex()}"
        self._socket = self._bound()
        self._poller = select.poll()
        self._poller.register(self._socket, select.POLLIN)
        self._rung = False
        """It rang when it was last waited for, and that has not been taken yet."""

    def _bound(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.setblocking(False)
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            with _address(self._path) as address:
                made.bind(address)
        except OSError:
            made.close()
            raise
        return made

    def renew(self) -> None:
        """Make it again, under the same descriptor, when somebody has removed it. Raises `OSError`."""
        if not self._path.exists():
            with self._bound() as made:
                os.dup2(made.fileno(), self._socket.fileno(), inheritable=False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def wait(self, timeout_s: float) -> None:
        """Until it rings, at most so long; it may ring for older frames.

        One system call lies between the bell and the frame: what rang is taken by the next call, which returns at once,
        since a frame may have come meanwhile.
        """
        if self._rung:
            self.drain()
        else:
            self._rung = bool(self._poller.poll(timeout_s * 1_000))

    def drain(self) -> int:
        """Take what has rung; how often it did."""
        rung, self._rung = 0, False
        try:
            while self._socket.recv(16):
                rung += 1
        except BlockingIOError:
            pass
        return rung

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


class Ringer:
    """The writer's end. One thread. While no reader has a bell it makes no system call, but for a look at times."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / BELLS
        self._bells: dict[Path, socket.socket] = {}
        """Path → a socket that is connected to it."""
        self._looked_ns = 0
        self.errors = 0
        """Bells that could not be rung, and were not only full or gone."""

    def waiting(self) -> bool:
        """Some reader has a bell, as of a quarter of a second ago."""
        now_ns = time.monotonic_ns()
        if now_ns - self._looked_ns >= _LOOK_NS:
            self._look(now_ns)
        return bool(self._bells)

    def ring(self, now_ns: int) -> None:
        """All bells. One that is full has rung already; one whose reader is gone is taken away."""
        if now_ns - self._looked_ns >= _LOOK_NS:
            self._look(now_ns)
        if not self._bells:
            return
        for path, bell in tuple(self._bells.items()):  # a signal handler may look at `waiting` meanwhile
            try:
                bell.send(b".")
            except BlockingIOError:
                continue
            except (ConnectionError, FileNotFoundError):  # gone, or made again by its reader
                self._let_go(path)
                self._connect(path)
                self._looked_ns = 0
            except OSError:
                self.errors += 1

    def _look(self, now_ns: int) -> None:
        if not SUPPORTED:
            return
        self._looked_ns = now_ns
        try:
            found = {self._folder / name for name in sorted(os.listdir(self._folder))[:_READERS_MAX]}
        except OSError:
            found = set()
        for path in self._bells.keys() - found:
            self._let_go(path)
        for path in found - self._bells.keys():
            self._connect(path)

    def _connect(self, path: Path) -> None:
        """Connected once, so that ringing looks up no path."""
        try:
            with contextlib.ExitStack() as undo, _address(path) as address:
                made = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                made.setblocking(False)
                made.connect(address)
                undo.pop_all()
        except OSError as error:
            if isinstance(error, ConnectionRefusedError):  # nobody has it open any more
                with contextlib.suppress(OSError):
                    os.unlink(path)
            elif not isinstance(error, FileNotFoundError):
                self.errors += 1
        else:
            self._bells[path] = made

    def _let_go(self, path: Path) -> None:
        self._bells.pop(path).close()

    def close(self) -> None:
        for path in list(self._bells):
            self._let_go(path)
