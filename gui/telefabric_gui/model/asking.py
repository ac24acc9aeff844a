"""Questions to the store, whose answers come on the window's thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol
from weakref import ref

from PySide6.QtCore import QObject, Qt, Signal
from shiboken6 import isValid

from telefabric.feed import Answer, Asked

Then = Callable[[Answer], None]
ANY_ID = 2**63 - 1
"""In a key of a page, behind all ids."""


class Asker(Protocol):
    """The part of a feed that answers."""

    def ask(self, question: Any, answered: Callable[[Answer], None], *, urgent: bool = False) -> Asked: ...


class _Arrivals(QObject):
    """Hands answers over from the threads of feeds to the window's.

    There is one, which is never deleted: Qt crashes when a thread emits a signal of an object that the window deletes
    meanwhile. And no thread holds a model or a view: the last to let go of one deletes it, which only the window's
    thread may do, as it is the one that delivers events to it.
    """

    came = Signal(object, object, object)

    def __init__(self) -> None:
        super().__init__()
        self.came.connect(self._take, Qt.ConnectionType.QueuedConnection)

    def _take(self, asking: ref[Asking], number: int, answer: Any) -> None:
        found = asking()
        if found is not None and isValid(found):
            found._take(number, answer)


@cache
def _arrivals() -> _Arrivals:
    """Made by the first who asks, on the window's thread."""
    return _Arrivals()


class Asking(QObject):
    """Asks a feed for one view or model. After `close` nothing is asked or answered any more. GUI thread.

    Without a feed there is no store to ask.
    """

    def __init__(self, feed: Asker | None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._feed = feed
        self._waiting: dict[int, tuple[Asked, Callable[[Any], None]]] = {}
        """Questions by number."""
        self._last_number = 0
        self._emit = _arrivals().came.emit
        self._itself = ref(self)

    @property
    def can_ask(self) -> bool:
        return self._feed is not None

    @property
    def waits(self) -> bool:
        """Some answer has not come yet."""
        return bool(self._waiting)

    def ask(
        self, question: Any, then: Callable[[Any], None], *, urgent: bool = False,
        read: Callable[[Answer], Any] = lambda answer: answer,
    ) -> Asked | None:  # fmt: skip
        """`then` takes on this thread what `read` made of the answer on the feed's, so that the window need not."""
        if self._feed is None:
            return None
        self._last_number += 1
        number, emit, itself = self._last_number, self._emit, self._itself
        asked = self._feed.ask(question, lambda answer: emit(itself, number, read(answer)), urgent=urgent)
        self._waiting[number] = asked, then
        return asked

    def drop(self, asked: Asked | None) -> None:
        """Nobody waits for this answer any more."""
        if asked is None:
            return
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

    def _take(self, number: int, answer: Any) -> None:
        if number in self._waiting:
            self._waiting.pop(number)[1](answer)
