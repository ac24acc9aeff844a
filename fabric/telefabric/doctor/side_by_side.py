"""Looking at many things at once, and waiting for none of them longer than was meant."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

Seen = TypeVar("Seen")


def in_time(looks: Sequence[Callable[[], Seen]], timeout_s: float) -> list[Seen | None]:
    """The results of probes that run side by side; None for one that has not ended in time. Raises a probe's error."""
    deadline_s = time.monotonic() + timeout_s
    return [seen_by(deadline_s, future) for future in list(map(begin, looks))]


def begin(look: Callable[..., Seen], *given: object) -> Future[Seen]:
    """Look on a thread of its own. It is a daemon: what hangs (a dead network disk) ends with the process."""
    future: Future[Seen] = Future()

    def run() -> None:
        try:
            future.set_result(look(*given))
        except BaseException as error:  # noqa: BLE001  (a thread's boundary: `seen_by` raises it)
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def seen_by(deadline_s: float, future: Future[Seen]) -> Seen | None:
    """The result, or None if there is none at that time (monotonic seconds). Raises the probe's error."""
    wait([future], max(deadline_s - time.monotonic(), 0))
    return future.result() if future.done() else None
