"""Python's collector of cycles, on the window's thread alone.

By itself it runs on whichever thread makes the next object, and deletes what it finds there. An object of Qt in a cycle
may be deleted by the window's thread only, which delivers events to it meanwhile: else the program crashes.
"""

from __future__ import annotations

import gc
import time

from PySide6.QtCore import QObject, QTimer

LOOK_MS = 33
_WHOLE_SHARE = 0.001
"""The part of the time that looking through all objects may take: with much data held, each look takes long."""


class Collector(QObject):
    """Collects between `start` and `stop` when Python itself would; when the last has stopped, Python does so again."""

    started = 0
    """Those of all windows of this process."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._whole_from_s = 0.0
        """When all objects may be looked through again."""
        self._timer = QTimer(self, interval=LOOK_MS)
        self._timer.timeout.connect(self.look)

    def start(self) -> None:
        Collector.started += 1
        gc.disable()
        self._timer.start()

    def stop(self) -> None:
        if self._timer.isActive():
            self._timer.stop()
            Collector.started -= 1
            if not Collector.started:
                gc.enable()

    def look(self) -> None:
        """Collect the oldest generation that is due, which takes the younger ones with it."""
        due = [age for age, most in enumerate(gc.get_threshold()) if 0 < most < gc.get_count()[age]]
        began_s = time.monotonic()
        if 2 in due and began_s < self._whole_from_s:
            due.remove(2)
        if not due:
            return
        gc.collect(due[-1])
        if due[-1] == 2:
            took_s = time.monotonic() - began_s
            self._whole_from_s = began_s + took_s / _WHOLE_SHARE
