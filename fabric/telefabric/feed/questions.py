"""Questions of a client to the store, several at once: each is answered by one of some threads, with a reader each."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from telefabric.errors import TelefabricError, Unreachable, UsageError
from telefabric.feed.failures import Failures, said
from telefabric.store.read.query import Page, Question
from telefabric.store.read.reader import Reader

READERS = 3
WAITING_MAX = 1_000
"""Questions that wait; beyond it the one that would be answered last is given up: its asker asks without end."""
_DOWN_S = 1.0
"""A store that could not be reached is not looked for again within this time: each look takes seconds."""


class Answer(NamedTuple):
    """What became of a question."""

    question: Question[Any]
    page: Page[Any] | None
    """None when it could not be answered."""
    problem: str = ""
    """Why not: a sentence."""


class Asked:
    """A question that was asked. Any thread."""

    def __init__(self, question: Question[Any], answered: Callable[[Answer], None]) -> None:
        self.question = question
        self.answered = answered
        self.dropped = False

    def drop(self) -> None:
        """Nobody waits for the answer any more: it is not looked for, and if it is, that is interrupted."""
        self.dropped = True


class Questions:
    """`open_reader` opens the store; what it is given says that the question in work is to be given up."""

    def __init__(self, open_reader: Callable[[Callable[[], bool]], Reader]) -> None:
        self._open_reader = open_reader
        self._changed = threading.Condition()
        self._waiting: deque[Asked] = deque()
        """The next one is on the right."""
        self._stopped = False
        self._down_until_s, self._down = 0.0, ""
        self.failures = Failures()
        self._threads = [
            threading.Thread(target=self._run, name=f"telefabric-questions-{n}", daemon=True) for n in range(READERS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Give up all questions, and end the threads."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def ask(self, question: Question[Any], answered: Callable[[Answer], None], *, urgent: bool = False) -> Asked:
        asked, given_up = Asked(question, answered), None
        with self._changed:
            if urgent:
                self._waiting.append(asked)
            else:
                self._waiting.appendleft(asked)
            if len(self._waiting) > WAITING_MAX:
                given_up = self._waiting.popleft()
            self._changed.notify()
        if given_up is not None:
            self._tell(given_up, None, f"more than {WAITING_MAX} questions to the store wait: ask for less at once")
        return asked

    # -- the threads ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        worker = _Worker()
        while (asked := self._next()) is not None:
            worker.asked = asked
            with self.failures.outlived("Asking the store"):
                self._answer(worker, asked)
        worker.close()

    def _next(self) -> Asked | None:
        """The one that is to be answered next; None at the end."""
        with self._changed:
            while not self._stopped:
                while self._waiting:
                    if not (asked := self._waiting.pop()).dropped:
                        return asked
                self._changed.wait()
        return None

    def _answer(self, worker: _Worker, asked: Asked) -> None:
        if time.monotonic() < self._down_until_s:
            self._tell(asked, None, self._down)
            return
        try:
            if worker.reader is None:
                worker.reader = self._open_reader(lambda: self._stopped or worker.asked.dropped)
            page = worker.reader.answer(asked.question)
        except UsageError as error:
            self._tell(asked, None, str(error))
        except TelefabricError as error:
            if asked.dropped:
                return
            worker.close()
            if isinstance(error, Unreachable):
                self._down, self._down_until_s = str(error), time.monotonic() + _DOWN_S
            self._tell(asked, None, str(error))
        except Exception as error:
            worker.close()
            self._tell(asked, None, said(error))
            raise
        else:
            self._tell(asked, page)

    def _tell(self, asked: Asked, page: Page[Any] | None, problem: str = "") -> None:
        if not asked.dropped and not self._stopped:
            asked.answered(Answer(asked.question, page, problem))


class _Worker:
    """What one of the threads has in hand."""

    asked: Asked
    reader: Reader | None = None

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None
