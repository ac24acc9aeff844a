"""Questions that take seconds: each on a thread of its own, its answer fetched by the window when it looks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any


class Errands:
    """`send` and `take` belong to the window's thread. No errand waits for another."""

    def __init__(self) -> None:
        self._out: set[str] = set()
        self._done: SimpleQueue[tuple[str, Any]] = SimpleQueue()

    def send(self, name: str, errand: Callable[[], Any]) -> bool:
        """False while one of that name is out."""
        if name in self._out:
            return False
        self._out.add(name)
        threading.Thread(target=self._run, args=(name, errand), name=f"errand-{name}", daemon=True).start()
        return True

    def take(self) -> list[tuple[str, Any]]:
        """The answers that came: what each errand returned, or the error that it raised."""
        found: list[tuple[str, Any]] = []
        while True:
            try:
                found.append(self._done.get_nowait())
            except Empty:
                break
            self._out.discard(found[-1][0])
        return found

    def _run(self, name: str, errand: Callable[[], Any]) -> None:
        answer: Any
        try:
            answer = errand()
        except Exception as error:  # noqa: BLE001  a boundary: the window says it
            answer = error
        self._done.put((name, answer))
