"""Order between stores, and between loads, of two processes.

x86-64 keeps the order of stores and of loads, and a protocol word is never stored before the copy it follows. Elsewhere
a fence is needed: `atomicshm` when it is installed, else libatomic's through ctypes; with neither, taking a lock orders
the stores, and frames carry a checksum beside.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import threading
from collections.abc import Callable

_SEQ_CST = 5
STRONGLY_ORDERED = platform.machine().lower() in ("x86_64", "amd64", "i686")


def _native() -> Callable[[], None] | None:
    try:
        import atomicshm
    except ImportError:
        pass
    else:
        return lambda: atomicshm.fence(_SEQ_CST)
    for name in (ctypes.util.find_library("atomic"), None):
        try:
            call = ctypes.CDLL(name).atomic_thread_fence
        except (OSError, AttributeError):
            continue
        return lambda: call(_SEQ_CST)
    return None


def _by_lock() -> Callable[[], None]:
    lock = threading.Lock()
    lock.acquire()

    def fence() -> None:
        lock.release()
        lock.acquire()

    return fence


_found = None if STRONGLY_ORDERED else _native()
fence: Callable[[], None] = _found or _by_lock()
FENCED = not STRONGLY_ORDERED
"""This processor needs fences. A caller that looks here first saves a call where none is needed."""
CHECKSUM_NEEDED = FENCED and _found is None
"""No native fence here: frames carry a checksum."""
