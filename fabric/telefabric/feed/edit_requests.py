"""Edits that a client asks for at its own pace: each takes as long as the store needs, and its answer is a sentence."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from telefabric.errors import TelefabricError

_Edit = tuple[str, str, object]


class EditRequests:
    """`ask` gets a command, a run and a value, waits and returns a sentence, or raises it as `TelefabricError`."""

    def __init__(self, ask: Callable[[str, str, object], str]) -> None:
        self._ask = ask
        self._answers: deque[str] = deque()
        self._lock = threading.Lock()
        self._waiting: deque[_Edit] = deque()
        """In the order of `ask`; the first is under way."""

    def ask(self, command: str, run_id: str, value: object) -> None:
        """Return at once: a thread makes the edits. A client that ends does not wait for them."""
        with self._lock:
            self._waiting.append((command, run_id, value))
            if len(self._waiting) == 1:
                threading.Thread(target=self._run, name="edits", daemon=True).start()

    @property
    def left(self) -> int:
        """Edits that have no answer yet."""
        return len(self._waiting)

    def take(self) -> tuple[str, ...]:
        """The answers since the last time."""
        return tuple(self._answers.popleft() for _ in range(len(self._answers)))

    def _run(self) -> None:
        left = len(self._waiting)
        while left:
            sentence = self._answer(self._waiting[0])
            with self._lock:
                self._waiting.popleft()
                left = len(self._waiting)
            self._answers.append(f"{sentence[:1].upper()}{sentence[1:]}.")

    def _answer(self, edit: _Edit) -> str:
        try:
            return self._ask(*edit)
        except TelefabricError as error:
            return str(error)
