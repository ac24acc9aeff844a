"""The client's real window under observation: when it was painted, and how long its thread was held each time.

A moment is one of the monotonic clock, in seconds: the end of the painting in which something was first in sight.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from PySide6.QtCore import QEvent
from PySide6.QtWidgets import QApplication

from telefabric_gui import theme
from telefabric_gui.app import SWITCH_INTERVAL_S
from telefabric_gui.controller import Controller
from telefabric_gui.sources import feed_of
from telefabric_gui.window import MainWindow

DISPLAYS = ("offscreen", "xvfb")
WAIT_S = 30.0
"""What takes longer is given as this."""
_POLL_S = 0.001
_UNPAINTED_S = 0.1
"""What is true and has nothing painted for so long was in sight already."""


@contextmanager
def display(name: str) -> Iterator[dict[str, str]]:
    """The environment of a program that draws off screen, or in a real window of a virtual display."""
    if name == "offscreen":
        yield {"QT_QPA_PLATFORM": "offscreen"}
        return
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "1920x1080x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield {"QT_QPA_PLATFORM": "xcb", "DISPLAY": f":{server.stdout.readline().strip()}"}
        finally:
            server.terminate()


def forget(file: Path) -> None:
    """Let the system read the file from the disk again."""
    descriptor = _opened(file)
    os.fdatasync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


@cache
def _opened(file: Path) -> int:
    """It stays open: closing it would end the locks that SQLite has on it in this process."""
    return os.open(file, os.O_RDONLY)


class Watched(MainWindow):
    """Notes each painting of the window: what was true at its beginning is in sight at its end."""

    def watch(self) -> None:
        """Call it once, before the window is shown."""
        self.paints_s = array("d")
        self.look: Callable[[], object] = lambda: None
        self.seen_s: float | None = None
        """When that for which one looks was painted."""
        self.on_paint: Callable[[], Callable[[], None] | None] = lambda: None
        """Called before each painting; what it returns is called after it."""

    def event(self, event: QEvent) -> bool:
        if event.type() != QEvent.Type.UpdateRequest:
            return super().event(event)
        there = self.seen_s is None and bool(self.look())
        after = self.on_paint()
        done = super().event(event)
        now_s = time.perf_counter()
        self.paints_s.append(now_s)
        if there:
            self.seen_s = now_s
        if after is not None:
            after()
        return done


class Screen:
    """A window on a source, as `telefabric gui` shows it. A context manager, of which a process has one."""

    def __init__(self, source: str, size: tuple[int, int] = (1440, 900)) -> None:
        self.app = QApplication.instance() or QApplication(["telefabric"])
        assert isinstance(self.app, QApplication)
        theme.use(self.app, "dark")
        self.turns_s, self.turns_cpu_s = array("d"), array("d")
        """How long each turn of the window's thread took, and of that on the processor."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.collect()
        gc.freeze()
        self.begun_s = time.perf_counter()
        self.window = Watched(Controller(feed_of(source)))
        self.window.watch()
        self.window.resize(*size)

    def __enter__(self) -> Screen:
        self.window.show()
        self.window.activateWindow()
        return self

    def __exit__(self, *exception: object) -> None:
        self.window.close()

    def turn(self) -> None:
        """Do what the window's thread has to do now."""
        begun_s, begun_cpu_s = time.perf_counter(), time.thread_time()
        self.app.processEvents()
        self.turns_s.append(time.perf_counter() - begun_s)
        self.turns_cpu_s.append(time.thread_time() - begun_cpu_s)
        time.sleep(_POLL_S)

    def rest(self, seconds: float) -> None:
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            self.turn()

    def seen(self, look: Callable[[], object], wait_s: float = WAIT_S) -> float:
        """The moment at which it was painted; after `wait_s` it is given up, and said."""
        window, begun_s, true_s = self.window, time.perf_counter(), None
        window.look, window.seen_s = look, None
        while window.seen_s is None:
            self.turn()
            now_s = time.perf_counter()
            if now_s - begun_s > wait_s:
                print(f"not in sight after {wait_s:g} s", file=sys.stderr)
                return now_s
            if window.seen_s is None and look():
                true_s = true_s or now_s
                if now_s - true_s > _UNPAINTED_S:
                    return true_s
        return window.seen_s

    def forget_turns(self) -> None:
        del self.turns_s[:], self.turns_cpu_s[:]
