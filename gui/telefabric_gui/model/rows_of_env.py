"""The newest rows of one environment among several that take turns: those of the tail, which are in memory."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import QObject, Signal

from telefabric_gui.model.lines import Found
from telefabric_gui.model.pages import Pages


class RowsOfEnv(QObject):
    """A `Listing`, newest on top. All rows of the run are found by a search, which takes longer."""

    changed = Signal()

    def __init__(self, pages: Pages, env: int) -> None:
        super().__init__()
        self.env = env
        self._pages = pages
        pages.changed.connect(self._look)
        self._look()

    def close(self) -> None:
        self._pages.changed.disconnect(self._look)

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, line: int) -> Found | int:
        row = int(self._rows[len(self) - 1 - line])
        return self._pages.row(row) or row

    def line_of(self, row: int) -> int:
        return len(self) - 1 - min(int(np.searchsorted(self._rows, row)), len(self) - 1)

    def want(self, first: int, last: int) -> None:
        """All of them are in memory."""

    def _look(self) -> None:
        tail = self._pages.lines.tail
        self._rows = np.empty(0, np.int64)
        if tail is not None:
            self._rows = tail.first + np.flatnonzero(tail.events["env"] == self.env)
        self.changed.emit()
