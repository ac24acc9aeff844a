"""Waking a link that sleeps, from a thread that emits."""

from __future__ import annotations

import socket


class Waker:
    """`fileno` becomes readable once it has rung. `ring` is for any thread; the rest for the one that sleeps."""

    def __init__(self) -> None:
        self._ear, self._bell = socket.socketpair()
        for end in (self._ear, self._bell):
            end.setblocking(False)

    def fileno(self) -> int:
        return self._ear.fileno()

    def ring(self) -> None:
        """Takes some microseconds, and raises nothing: one that is full, or closed, has nobody to wake."""
        try:
            self._bell.send(b".")
        except OSError:
            pass

    def drain(self) -> None:
        """Take what has rung."""
        try:
            self._ear.recv(4_096)
        except BlockingIOError:
            pass

    def close(self) -> None:
        self._ear.close()
        self._bell.close()
