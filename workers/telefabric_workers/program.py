"""How a worker's program ends, and with it its runs.

A program that ends by an exception leaves it in `sys.last_value`; by `sys.exit`, it leaves nothing. So `sys.exit` and
`exit` are wrapped here, to remember their status; and the frame of the main module says at the end whether the module
came to its last instruction. A `raise SystemExit(…)` of the program's own is seen by that alone: its code is unknown.
"""

from __future__ import annotations

import atexit
import functools
import opcode
import os
import sys
import threading
from collections.abc import Callable
from traceback import walk_stack
from types import FrameType
from typing import Any, NamedTuple

from telefabric_schemas.events import Outcome
from telefabric_workers.repair import described, text

_REASON_CHARS_MAX = 4_000
"""Some exceptions print whole data sets."""
_RETURNS = {code for name, code in opcode.opmap.items() if name in ("RETURN_VALUE", "RETURN_CONST")}


class Ending(NamedTuple):
    """How a run ends, and the reason that is shown."""

    outcome: Outcome
    reason: str | None = None


def ending_of(error: BaseException | None) -> Ending:
    """How a run ended whose program ended with `error`."""
    if error is None:
        return Ending("completed")
    if isinstance(error, SystemExit):
        return ending_of_status(error.code)
    if isinstance(error, KeyboardInterrupt):
        return Ending("cancelled", "interrupted")
    if isinstance(error, GeneratorExit):
        return Ending("cancelled", "its generator was closed")
    asyncio = sys.modules.get("asyncio.exceptions")  # where nobody has imported it, nothing can be its error
    if asyncio is not None and isinstance(error, asyncio.CancelledError):
        return Ending("cancelled", "its task was cancelled")
    return Ending("failed", described(error)[:_REASON_CHARS_MAX])


def ending_of_status(status: Any) -> Ending:
    """How a run ended whose program called ``sys.exit(status)``: 0 and None are success, a text is printed."""
    if status is None or (isinstance(status, int) and status == 0):
        return Ending("completed")
    if isinstance(status, int):
        return Ending("failed", f"exit code {int(status)}")
    try:
        return Ending("failed", text(status)[:_REASON_CHARS_MAX])
    except Exception as error:  # noqa: BLE001  whatever the caller's own object raises
        return Ending("failed", described(error))


class Program:
    """This process as a program that ends: watched from the first worker on."""

    def __init__(self) -> None:
        self._main = _main_frame()
        self._status: list[Any] = []
        """The argument of the last `sys.exit`; empty if it was not called."""
        sys.exit = self._remembering(sys.exit)
        quitter = type(getattr(__import__("builtins"), "exit", None))
        if quitter.__module__ == "_sitebuiltins":
            quitter.__call__ = self._remembering(quitter.__call__, own=1)  # type: ignore[method-assign]

    def _remembering(self, leave: Callable[..., Any], own: int = 0) -> Callable[..., Any]:
        """`own`: how many arguments stand before the status."""

        @functools.wraps(leave)
        def exit_(*given: Any, **named: Any) -> Any:
            self._status[:] = (*given[own:], *named.values(), None)[:1]
            return leave(*given, **named)

        return exit_

    def ending(self, error_before: int) -> Ending:
        """At the interpreter's exit, or at that of a child of multiprocessing: how the program ends.

        `error_before`: what `last_error` was when the run began.
        """
        error = sys.exception()
        if error is None and last_error() != error_before:
            error = self._uncaught()
        if error is not None:
            return ending_of(error)
        if self._reached_its_end():
            return Ending("completed")
        if self._status:
            return ending_of_status(self._status[0])
        return Ending("completed", "ended, exit code unknown")

    def _uncaught(self) -> BaseException | None:
        """The exception that ended the program. At a prompt an exception ends only a statement, except for the script
        that ran before the prompt (``python -i``)."""
        error: BaseException | None = getattr(sys, "last_value", None)
        if not (hasattr(sys, "ps1") or sys.flags.interactive):
            return error
        traceback = None if error is None else error.__traceback__
        return error if traceback is not None and traceback.tb_frame is self._main else None

    def _reached_its_end(self) -> bool:
        """False when the main module is over, and was left before its end."""
        frame = self._main
        if frame is None or _is_child() or _is_running(frame) or hasattr(sys, "ps1") or sys.flags.interactive:
            return True
        return frame.f_lasti >= 0 and frame.f_code.co_code[frame.f_lasti] in _RETURNS


def last_error() -> int:
    """Which exception was the last that nobody caught. A number, for the exception would keep its frames alive."""
    return id(getattr(sys, "last_value", None))


def _main_frame() -> FrameType | None:
    """The frame of the main module, which the main thread is in, or None."""
    main = sys.modules.get("__main__")
    found = None
    running = sys._current_frames().get(threading.main_thread().ident or 0)
    if main is not None and running is not None:
        for frame, _ in walk_stack(running):
            if frame.f_globals is main.__dict__ and frame.f_code.co_name == "<module>":
                found = frame
    return found


def _is_running(frame: FrameType) -> bool:
    return any(one is frame for running in sys._current_frames().values() for one, _ in walk_stack(running))


def _is_child() -> bool:
    """This process is a child of multiprocessing: its main module is its parent's, or was left by a fork."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None and "multiprocessing.util" in sys.modules


program: Program | None = None
_watched = 0
"""The process whose end `at_end` sees to."""


def at_end(close_all: Callable[[], None]) -> None:
    """See to it that `close_all` is called when this process ends by itself. A second time is harmless."""
    global program, _watched
    if _watched == os.getpid():
        return
    if not _watched:
        program = Program()
        atexit.register(close_all)  # a forked child inherits it
    _watched = os.getpid()
    if _is_child():
        sys.modules["multiprocessing.util"].Finalize(None, close_all, exitpriority=0)  # it ends without atexit
