"""The failures of a part that must continue: each is counted and logged, and the last one is a sentence.

Only for boundaries: the thread of a feed, a view of the client. Everywhere else errors propagate.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from telefabric.log.limit import library_logger

log = library_logger("telefabric.client")

AGAIN_S = 1.0
"""A thread that fails at once each time does not take a core."""
_CHARACTERS_MAX = 160


class Failures:
    """`number` and `last` may be read by any thread."""

    def __init__(self) -> None:
        self.number = 0
        self.last = ""
        """The newest, on one line."""

    def take(self, what: str, error: BaseException) -> str:
        """Count a failure and log it; `last` about it."""
        self.number += 1
        self.last = f"{what}: {said(error)}"
        log.warning("client.failed: %s\n%s", self.last, "".join(traceback.format_exception(error)))
        return self.last

    @contextmanager
    def outlived(self, what: str) -> Iterator[None]:
        """An error in the block ends only the block."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  a boundary: what is beside the block goes on
            self.take(what, error)

    def endure(self, what: str, turn: Callable[[], object], stop: threading.Event) -> None:
        """Take turns until `stop`. An error in a turn is reported like the end of a thread; the next turn follows."""
        while not stop.is_set():
            before = self.number
            with self.outlived(what):
                turn()
            if self.number != before:
                stop.wait(AGAIN_S)


def said(error: BaseException) -> str:
    """An error's kind and message, on one short line."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return words if len(words) <= _CHARACTERS_MAX else words[: _CHARACTERS_MAX - 1] + "…"
