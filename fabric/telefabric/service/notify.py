"""What a service tells the manager that started it, as systemd's ``sd_notify`` does: one datagram for each message.

Without a manager nothing is sent, and no caller has to ask whether there is one. The watchdog is fed from the loop that
does the work, never from a timer: a loop that hangs is started again. A part of `telefabric up` has no systemd but its
supervisor, which reads ``alive`` on its standard output.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress

from telefabric import limits
from telefabric.errors import TelefabricError
from telefabric.log.events import EventLog

log = EventLog("telefabric.service")

_SEND_S = 0.1
"""Our loop does not wait longer for a manager that does not read."""
_TELL_NS = 5 * limits.NS


class Manager:
    """The manager of this process. `reload` rereads what can be reread; `tend` calls it after `ask_to_reload`.

    All methods are for the thread that does the work, `ask_to_reload` and `stopping` also for signal handlers.
    """

    def __init__(
        self,
        reload: Callable[[], None] = lambda: None,
        environ: MutableMapping[str, str] = os.environ,
        *,
        tied: bool = False,
    ) -> None:
        """Takes the variables out of the environment: the manager of a child process is its parent, to which it is
        `tied`.
        """
        path = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us, of = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(os.getpid()))
        self.reload = reload
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._feed_ns = int(watchdog_us) * 1_000 // 2 if watchdog_us.isdecimal() and of == str(os.getpid()) else 0
        self._tied = tied
        if tied:
            self._feed_ns = int(limits.ALIVE_S * limits.NS)
        self._due_ns = 0
        self._doing = ""
        self._reload_asked = False

    def starting(self, doing: str) -> None:
        """The start gets on, and may take longer. Called often, it tells what is new, and that it still goes on."""
        now_ns = time.monotonic_ns()
        if doing != self._doing or now_ns >= self._due_ns:
            self._doing, self._due_ns = doing, now_ns + _TELL_NS
            self._send(f"STATUS=starting: {doing}", _extended(limits.START_SILENCE_S))

    def ready(self, status: str) -> None:
        """It serves; from now on its loop calls `tend`."""
        self._due_ns = 0
        self._send("READY=1", f"STATUS={status}")

    def tend(self, now_ns: int) -> None:
        """Feed the watchdog, and reload when that was asked for. Call it in each turn of the loop."""
        if self._reload_asked:
            self._reload_asked = False
            self._carry_out_reload()
        if self._feed_ns and now_ns >= self._due_ns:
            self._due_ns = now_ns + self._feed_ns
            if self._tied:
                with suppress(BrokenPipeError):  # the parent is gone, which ends this process anyway
                    os.write(1, b"alive\n")
            else:
                self._send("WATCHDOG=1")

    def ask_to_reload(self) -> None:
        self._reload_asked = True

    def stopping(self, doing: str, needs_s: float) -> None:
        """It ends, and needs so much longer at most."""
        self._send("STOPPING=1", f"STATUS=stopping: {doing}, {needs_s:.0f} s at most", _extended(needs_s), "WATCHDOG=1")

    def stopping_with(self, stop: Callable[[], None]) -> Callable[[], None]:
        """`stop`, for signal handlers, which the manager hears of."""

        def told() -> None:
            self.stopping("ends what it does", limits.STOP_S)
            stop()

        return told

    def _carry_out_reload(self) -> None:
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1_000}")
        try:
            self.reload()
            log.info("service.reloaded")
        except TelefabricError as error:  # what was read before stays in force
            log.error("service.reload_refused", reason=str(error))
        self._send("READY=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
                to.settimeout(_SEND_S)
                to.connect(self._address)
                to.send("\n".join(lines).encode())
        except OSError as error:
            log.warning("service.manager_unreachable", socket=self._address, reason=str(error))


def _extended(by_s: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={by_s * 1_000_000:.0f}"
