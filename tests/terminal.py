"""A shell with job control in a terminal, which a test types into."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
from pathlib import Path

from processes import wait_for


class Terminal:
    """An interactive shell, alone in a session of its own; it is killed at the end of a ``with`` block."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.shown = ""
        """All that the terminal has shown."""
        self.pid, self._end = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            os.execvpe("bash", ["bash", "--norc", "-i"], {**os.environ, "PS1": "$ ", "PATH": path, **environ})

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def wait(self, text: str) -> str:
        """Until the terminal shows this after what was waited for last; what it has shown before."""

        def seen() -> bool:
            while select.select([self._end], [], [], 0)[0]:
                self.shown += os.read(self._end, 65_536).decode(errors="replace")
            return text in self.shown

        wait_for(seen, f"{text!r} in {self.shown[-1_000:]!r}")
        before, _, self.shown = self.shown.partition(text)
        return before

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def __enter__(self) -> Terminal:
        self.wait("$ ")
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._end)  # hangs up
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
