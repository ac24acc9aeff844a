"""Time in one page: its cursor, the whole run under it, and the jumps that need the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from PySide6.QtCore import QObject

from telefabric_gui.model.asking import Asker
from telefabric_gui.model.cursor import Cursor, Subject
from telefabric_gui.model.jumps import Jumps
from telefabric_gui.model.pages import Pages
from telefabric_gui.model.whole_run import Stored, WholeRun
from telefabric_gui.rows import Mark


class RunTime(QObject):
    """`refresh` once a tick while the page is in sight. GUI thread."""

    def __init__(self, feed: Asker, subject: Subject, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.cursor = Cursor(self)
        self.cursor.show(subject)
        self.whole = WholeRun(feed, subject, self)
        self.jumps = Jumps(feed, self.cursor, self)
        self._then: Callable[[], object] | None = None

    def refresh(self, rows: Pages, marks: Iterable[Mark], *, live: bool) -> None:
        """Take what the steps' rows know, and what has not come to this client; of a live run, more is expected."""
        stored = None if rows.stored is None else Stored(rows.stored, rows.stored_seq)
        self.whole.grow(rows.rows, stored, marks, rows.lines.tail, rows.problem)
        self.whole.refresh()
        self.cursor.grow(rows.rows, live=live)
        if self._then is not None and (stored is not None or rows.problem):
            then, self._then = self._then, None
            then()

    def once_known(self, then: Callable[[], object]) -> None:
        """Call this when the store has said how many rows there are: before, no row but the newest can be gone to."""
        self._then = then

    def close(self) -> None:
        self.cursor.pause()
        self.whole.close()
        self.jumps.close()
