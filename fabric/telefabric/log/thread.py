"""Log lines of threads that must not wait, written on a thread of their own.

A log handler is the user's code: it may be slow, and it may wait for a lock whose holder waits for the very thread that
logs. So lines of the link, of subscriptions and of rings, which run in the user's process, are only queued where they
come up.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial

from telefabric import limits

_EXIT_S = 1.0
"""How long the end of a process waits for lines that are not written yet."""
_FORK_S = 0.2
"""How long a fork waits for the line that is being written: a handler that takes longer is stuck."""


class LogThread:
    """Writes records in the order in which they came. Any thread. The thread is started by the first line."""

    def __init__(self) -> None:
        self._begin()
        atexit.register(self.settle, _EXIT_S)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(  # in the child the thread is not there, and its lines are the parent's
                before=self._pause, after_in_parent=self._go_on, after_in_child=self._begin
            )

    def _begin(self) -> None:
        self._lines: deque[Callable[[], object]] = deque()
        self._left_out = 0
        self._wake = threading.Condition(threading.RLock())  # a signal handler may log while its thread holds it
        self._thread: threading.Thread | None = None
        self._writing = False
        self._forks = 0

    def _pause(self) -> None:
        """Before a fork: what a handler locks, such as a stream's buffer, would be locked in the child for ever."""
        with self._wake:
            self._forks += 1
            if threading.current_thread() is not self._thread:
                self._wake.wait_for(lambda: not self._writing, _FORK_S)

    def _go_on(self) -> None:
        with self._wake:
            self._forks -= 1
            self._wake.notify_all()

    def put(self, logger: logging.Logger, record: logging.LogRecord) -> None:
        with self._wake:
            if len(self._lines) >= limits.LOG_LINES_MAX:
                self._left_out += 1
                return
            self._lines.append(partial(logging.Logger.callHandlers, logger, record))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="telefabric-log", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no thread is left to this user, or the interpreter ends: see `settle`
                    return
                self._thread = thread
            self._wake.notify_all()

    def settle(self, timeout_s: float) -> bool:
        """Wait until all lines so far are written; False when that takes longer. From a log handler at once."""
        if threading.current_thread() is self._thread:
            return False
        with self._wake:
            unwritten = [self._lines.popleft() for _ in list(self._lines)] if self._thread is None else []
        for write in unwritten:  # here, since no thread could be started
            _carry_out(write)
        with self._wake:
            return self._wake.wait_for(lambda: not self._lines and not self._writing, timeout_s)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._writing = False
                self._wake.notify_all()
                self._wake.wait_for(lambda: bool(self._lines) and not self._forks)
                write, self._writing = self._lines.popleft(), True
                left_out, self._left_out = self._left_out, 0
            _carry_out(write)
            if left_out:
                _carry_out(partial(_say_left_out, left_out))


def _carry_out(write: Callable[[], object]) -> None:
    try:
        write()
    except Exception:  # noqa: BLE001  a filter of the user's: shown as logging shows what a handler raises
        if sys.stderr is not None:
            traceback.print_exc()


def _say_left_out(lines: int) -> None:
    log.warning("log.left_out: %d lines had no room: a log handler is slow", lines)


def write_later(logger: logging.Logger) -> None:
    """From now on the lines that this logger lets through are written on the log thread."""
    logger.callHandlers = partial(log_thread.put, logger)  # type: ignore[method-assign]


log = logging.getLogger("telefabric.log")
log_thread = LogThread()
