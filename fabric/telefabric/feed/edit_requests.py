"""Edits that a client asks for at its own pace: each takes as long as the store needs, and its answer is a sentence."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from telefabric.errors import TelefabricError


class EditRequests:
    """`ask` gets a command, a run and a value, waits and returns a sentence, or raises it as `TelefabricError`."""

    def __init__(self, ask: Callable[[str, str, object], str]) -> None:
        self._ask = ask
        self._answers: deque[str] = deque()

    def ask(self, command: str, run_id: str, value: object) -> None:
        """Returns at once: the edit has a thread of its own, which a client that ends does not wait for."""
        threading.Thread(target=self._run, args=(command, run_id, value), name="edit", daemon=True).start()

    def take(self) -> tuple[str, ...]:
        """The answers since the last time."""
        return tuple(self._answers.popleft() for _ in range(len(self._answers)))

    def _run(self, command: str, run_id: str, value: object) -> None:
        try:
            sentence = self._ask(command, run_id, value)
        except TelefabricError as error:
            sentence = str(error)
        self._answers.append(f"{sentence[:1].upper()}{sentence[1:]}.")
