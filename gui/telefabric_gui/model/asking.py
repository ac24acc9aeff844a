"""Questions to the store, whose answers come on the window's thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from PySide6.QtCore import QObject, Qt, Signal

from telefabric.feed import Answer, Asked

Then = Callable[[Answer], None]
ANY_ID = 2**63 - 1
"""In a key of a page, behind all ids."""


class Asker(Protocol):
    """The part of a feed that answers."""

    def ask(self, question: Any, answered: Callable[[Answer], None], *, urgent: bool = False) -> Asked: ...


class Asking(QObject):
    """Asks a feed for one view or model. After `close` nothing is asked or answered any more. GUI thread.

    Without a feed there is no store to ask.
    """

    _came = Signal(object, object)

    def __init__(self, feed: Asker | None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._feed = feed
        self._waiting: dict[int, tuple[Asked, Then]] = {}
        """Questions by number."""
        self._last_number = 0
        self._came.connect(self._take, Qt.ConnectionType.QueuedConnection)

    @property
    def can_ask(self) -> bool:
        return self._feed is not None

    def ask(self, question: Any, then: Then, *, urgent: bool = False) -> Asked | None:
        """`then` takes the answer on this thread."""
        if self._feed is None:
            return None
        self._last_number += 1
        number = self._last_number
        asked = self._feed.ask(question, lambda answer: self._came.emit(number, answer), urgent=urgent)
        self._waiting[number] = asked, then
        return asked

    def drop(self, asked: Asked) -> None:
        """Nobody waits for this answer any more."""
        asked.drop()
        self._waiting = {number: one for number, one in self._waiting.items() if one[0] is not asked}

    def forget(self) -> None:
        """Nobody waits for any answer any more."""
        for asked, _ in self._waiting.values():
            asked.drop()
        self._waiting.clear()

    def close(self) -> None:
        self.forget()
        self._feed = None

    def _take(self, number: int, answer: Answer) -> None:
        if number in self._waiting:
            self._waiting.pop(number)[1](answer)
