"""Time in one page: its cursor, the whole run under it, and the jumps that need the store."""

from __future__ import annotations

import time
from collections.abc import Iterable

from PySide6.QtCore import QObject

from telefabric_gui.model.asking import Asker
from telefabric_gui.model.cursor import Cursor, Mode, Subject
from telefabric_gui.model.jumps import Jumps
from telefabric_gui.model.whole_run import WholeRun
from telefabric_gui.rows import HOLE, Mark


class RunTime(QObject):
    """`refresh` once a tick while the page is in sight. GUI thread."""

    def __init__(self, feed: Asker, subject: Subject, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.cursor = Cursor(self)
        self.cursor.show(subject)
        self.whole = WholeRun(feed, subject, self)
        self.jumps = Jumps(feed, self.cursor, self)
        self._left_rows = 0
        self._left_s = 0.0
        """What was known when the newest was followed last."""

    def refresh(self, rows: int, stored: int | None, stored_seq: int, marks: Iterable[Mark]) -> None:
        """So many rows are known, the stored ones up to a seq; holes before it are this client's alone."""
        holes = [mark for mark in marks if mark.kind == HOLE and mark.first > stored_seq]
        self.whole.grow(rows, stored, holes)
        self.whole.refresh()
        self.cursor.grow(rows)
        if self.cursor.mode is Mode.FOLLOW:
            self._left_rows, self._left_s = self.cursor.total, time.monotonic()

    @property
    def waiting(self) -> tuple[int, float]:
        """Rows that came since the newest was followed, and for how many seconds."""
        return self.cursor.total - self._left_rows, time.monotonic() - self._left_s

    def close(self) -> None:
        self.cursor.pause()
        self.whole.close()
        self.jumps.close()
